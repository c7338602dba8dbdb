"""Rank profiles: the ranks of a noise sweep as tables, how much they vary, what is certified."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import pandas as pd

from saerepgeo_lib.errors import choose
from saerepgeo_lib.rank import rules
from saerepgeo_lib.rank.noise_sweep import RESIDUAL, Sweep, permuted, randomized
from saerepgeo_lib.rank.rules import RULES
from saerepgeo_lib.rank.unfoldings import MODES

TAU = 0.01


def rank_table(result: Sweep, *, tau: float = TAU) -> pd.DataFrame:
    """Every rank of a sweep: columns label, mode, level, seed, rule, rank, tolerance.

    `rules.RULES` apply to every representation, those that know the noise to the noisy residual,
    and the permutation rank (its draws: all seeds) to SAEs with a permuted null, if the sweep is
    centred.
    """
    rows = []
    for label, mode, i, j, cell in _cells(result):
        s, shape = result.spectra[label, mode][i, j], result.shapes[label, mode]
        ranks = {name: rule(s, shape) for name, rule in RULES.items()}
        ranks["relative"] = rules.relative_rank(s, tau=tau)
        if label == RESIDUAL and result.levels[i] > 0:
            noise = result.levels[i] * result.sigma
            ranks["gavish-donoho"] = rules.gavish_donoho_rank(s, shape, noise_std=noise)
            ranks["marchenko-pastur"] = rules.marchenko_pastur_rank(s, shape, noise_std=noise)
        if result.centred and permuted(label) in result.labels:
            null = result.spectra[permuted(label), mode][i]
            ranks["permutation"] = rules.permutation_rank(s, null)
        rows += [
            cell | {"rule": rule, "rank": rank.value, "tolerance": rank.tolerance}
            for rule, rank in ranks.items()
        ]
    return pd.DataFrame(rows)


def certified_table(result: Sweep, *, tau: float = TAU) -> pd.DataFrame:
    """What Weyl's inequality says of the relative rank, which lies in [low, high].

    Columns label, mode, level, seed, low, high, certified (both agree: with the clean rank).
    """
    rows = []
    most = {mode: ceilings(result, mode=mode) for mode in MODES}
    for label, mode, i, j, cell in _cells(result):
        s = result.spectra[label, mode][0, j, : most[mode][label]]
        moved = float(result.shift[label, mode][i, j])
        threshold = (tau * max(0.0, s[0] - moved), tau * (s[0] + moved))
        low, high = rules.weyl_bounds(s, moved, threshold=threshold)
        rows.append(cell | {"low": low, "high": high, "certified": low == high})
    return pd.DataFrame(rows)


def _cells(result: Sweep) -> Iterator[tuple[str, int, int, int, dict[str, Any]]]:
    """Each label and mode, number of the level and of the seed; and these four as columns."""
    for label, mode in result.spectra:
        for (i, level), (j, seed) in product(enumerate(result.levels), enumerate(result.seeds)):
            yield label, mode, i, j, {"label": label, "mode": mode, "level": level, "seed": seed}


def summarise(ranks: pd.DataFrame) -> pd.DataFrame:
    """A rank table over its seeds: mean, smallest and largest rank, mean tolerance, n."""
    groups = ranks.groupby(["label", "mode", "level", "rule"], sort=False)
    return groups.agg(
        mean=("rank", "mean"), low=("rank", "min"), high=("rank", "max"),
        tolerance=("tolerance", "mean"), n=("rank", "size"),
    ).reset_index()  # fmt: skip


def active_table(sweeps: Mapping[str, Sweep]) -> pd.DataFrame:
    """Features in use: at any level (the most of any seed), without noise, and with the most noise.

    Columns concept, label, tokens, any level, no noise, most noise, L0 no noise, L0 most noise;
    no rows for permuted latents, which have the counts of their SAE.
    """
    rows = []
    for concept, result in sweeps.items():
        nulls = set(map(permuted, result.labels))
        for label in (label for label in result.labels if label not in nulls):
            row: dict[str, Any] = {"concept": concept, "label": label}
            row["any level"], row["tokens"] = result.shapes[label, 3]
            for of, counts in (("", result.active[label]), ("L0 ", result.l0[label])):
                row |= {f"{of}no noise": counts[0].mean(), f"{of}most noise": counts[-1].mean()}
            rows.append(row)
    return pd.DataFrame(rows)


def variability(ranks: pd.DataFrame, *, rule: str | None = None) -> pd.DataFrame:
    """Relative range of each profile, (max - min over levels) / rank at level 0: columns label,
    mode, seed, variability for one of `rules.RULES`, and rule for all of them if none is named.
    """
    keys = ["label", "mode", "seed"] if rule else ["label", "mode", "seed", "rule"]
    chosen = ranks["rule"].isin([choose("rank rule", rule, RULES)] if rule else RULES)
    rank = ranks[chosen].sort_values("level", kind="stable").groupby(keys, sort=False)["rank"]
    return ((rank.max() - rank.min()) / rank.first()).rename("variability").reset_index()


def nulls_of(label: str, labels: Sequence[str], sparse: Sequence[str]) -> list[str]:
    """The nulls for an SAE: all that is no SAE, but neither null of another SAE."""
    others = {f(x) for x in sparse if x != label for f in (permuted, randomized)}
    return [name for name in labels if name not in sparse and name not in others]


def ceilings(result: Sweep, *, mode: int) -> dict[str, int]:
    """The largest rank that each representation's unfolding can have: its shorter side, or the
    number of distinct points in it (permuted latents have no copies).
    """
    sides = {label: min(result.shapes[label, mode]) for label in result.labels}
    nulls, points = set(map(permuted, result.labels)), result.distinct
    return {
        label: side if label in nulls else min(side, points.get(mode, side))
        for label, side in sides.items()
    }
