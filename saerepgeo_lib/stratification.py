"""Case 1 (SAEMA): spectra and ranks of the unfolded latent tensor as noise enters the residual.

`sweep` encodes and takes spectra; `rank_table`, `certified_table` and `variability` read the
result. One noise draw per seed serves all levels, so a profile changes with the level alone.
"""

import itertools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from saerepgeo_lib.claims import Claim, Verdict
from saerepgeo_lib.errors import UserError, choose
from saerepgeo_lib.latents import Codes, difference, encode
from saerepgeo_lib.ranks import (
    RULES,
    gavish_donoho_rank,
    marchenko_pastur_rank,
    permutation_rank,
    relative_rank,
    weyl_bounds,
)
from saerepgeo_lib.residuals import NoiseScaling, Residuals, add_noise, rms
from saerepgeo_lib.saes import random_sae
from saerepgeo_lib.statistics import mean_estimate
from saerepgeo_lib.tensors import (
    aligned_rows,
    modal_norms,
    modal_spectra,
)

RESIDUAL = "residual"
RANDOM = "random encoder"
TAU = 0.01
VARIES = 0.05  # relative range below which a profile counts as constant
PAPER_LEVELS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def permuted(label: str) -> str:
    """Name of the null in which each feature of `label` is permuted over the tokens."""
    return f"permuted {label}"


@dataclass
class Sweep:
    """Spectra of every representation, mode, level and seed of one concept.

    `spectra[label, mode]` has shape (levels, seeds, k), filled with 0 beyond the shorter side of
    the unfolding; `shift[label, mode]` (levels, seeds)
    holds the spectral norm of the unfolding's change from level 0; `shapes[label, mode]` is
    the unfolding's shape on the features active at any level; `active[label]` (levels, seeds)
    counts the features active at each level, and `l0[label]` (levels, seeds) is the mean L0.
    """

    levels: tuple[float, ...]
    seeds: tuple[int, ...]
    sigma: float
    tensor_shape: tuple[int, int]
    spectra: dict[tuple[str, int], Float[np.ndarray, "levels seeds k"]] = field(
        default_factory=dict
    )
    shift: dict[tuple[str, int], Float[np.ndarray, "levels seeds"]] = field(default_factory=dict)
    shapes: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)
    active: dict[str, Float[np.ndarray, "levels seeds"]] = field(default_factory=dict)
    l0: dict[str, Float[np.ndarray, "levels seeds"]] = field(default_factory=dict)

    @property
    def labels(self) -> tuple[str, ...]:
        """The representations, in the order in which they were computed."""
        return tuple(self.active)


def check_levels(levels: Sequence[float]) -> tuple[float, ...]:
    """Noise levels: ascending, distinct, finite, and beginning with 0."""
    out = tuple(float(level) for level in levels)
    if len(out) < 2 or out[0] != 0 or list(out) != sorted(set(out)) or not np.isfinite(out).all():
        raise UserError(
            f"noise levels must be at least two finite numbers that ascend from 0, got {list(out)}"
        )
    return out


def sweep(
    residuals: Residuals,
    saes: Mapping[str, Any],
    *,
    sparse: Sequence[str],
    levels: Sequence[float] = PAPER_LEVELS,
    scaling: NoiseScaling = "relative",
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    max_slots: int | None = 3,
    description: str = "noise sweep",
) -> Sweep:
    """Spectra of the three unfoldings for every SAE and null, over noise levels and seeds.

    The representations are the residual stream, each of `saes`, a random encoder with the L0
    of the first sparse SAE on the clean tokens, and each of the `sparse` SAEs with every
    feature permuted over the tokens. The model is not needed: `residuals` are given.
    """
    levels = check_levels(levels)
    seeds = tuple(dict.fromkeys(seeds))
    if len(seeds) < 2:
        raise UserError("give at least two different seeds: an interval needs them")
    for label in sparse:
        choose("sparse SAE", label, saes)
    rows = aligned_rows(residuals, max_slots=max_slots)
    x = residuals.x[rows.flatten()]
    sigma = rms(residuals.x) if scaling == "relative" else 1.0
    result = Sweep(levels, seeds, sigma, (rows.shape[0], rows.shape[1]))
    clean = {label: encode(sae, x) for label, sae in saes.items()}
    reference = sparse[0] if sparse else next(iter(saes))
    l0 = max(1, round(clean[reference].l0))

    def one_seed(seed: int) -> list[dict[str, Codes]]:
        everything = {**saes, RANDOM: random_sae(saes[reference], l0=l0, random_state=seed)}
        sequence = []
        for level in levels:
            generator = torch.Generator().manual_seed(seed)
            noisy = add_noise(x, level * sigma, scaling="absolute", generator=generator)
            codes = {RESIDUAL: Codes(noisy, torch.arange(noisy.shape[1], device=x.device))}
            codes |= {label: encode(sae, noisy) for label, sae in everything.items()}
            sequence.append(codes)
        for label in sparse:
            for codes, null in zip(
                sequence, _permute([c[label] for c in sequence], seed), strict=True
            ):
                codes[permuted(label)] = null
        return sequence

    jobs = tqdm(seeds, desc=description, unit="seed", leave=False)
    for s, seed in enumerate(jobs):
        _store(result, s, one_seed(seed))
    return result


def _permute(sequence: list[Codes], seed: int) -> list[Codes]:
    """Each feature permuted over the tokens, in the same way at every level."""
    features = torch.unique(torch.cat([codes.features for codes in sequence]))
    generator = torch.Generator().manual_seed(seed)
    keys = torch.rand(len(sequence[0].values), len(features), generator=generator)
    orders = keys.argsort(0).to(features.device)
    return [
        Codes(c.values.gather(0, orders[:, torch.searchsorted(features, c.features)]), c.features)
        for c in sequence
    ]


def _store(result: Sweep, s: int, sequence: list[dict[str, Codes]]) -> None:
    """Spectra, shifts and counts of one seed's codes at all levels, into column `s`."""
    p, t = result.tensor_shape
    n_values = {1: p, 2: t, 3: p * t}
    grid = (len(result.levels), len(result.seeds))

    def measure(item: tuple[int, str]) -> tuple[dict[int, Tensor], dict[int, float]]:
        i, label = item
        codes = sequence[i][label]
        change = difference(codes, sequence[0][label])
        return modal_spectra(codes.values, t), modal_norms(change, t)

    items = list(itertools.product(range(len(sequence)), sequence[0]))
    with ThreadPoolExecutor(max_workers=2) as pool:
        for (i, label), (spectra, norms) in zip(items, pool.map(measure, items), strict=True):
            codes = sequence[i][label]
            result.active.setdefault(label, np.zeros(grid))[i, s] = len(codes.features)
            result.l0.setdefault(label, np.zeros(grid))[i, s] = codes.l0
            for mode, k in n_values.items():
                key = label, mode
                spectrum = spectra[mode].cpu().numpy()
                result.spectra.setdefault(key, np.zeros((*grid, k)))[i, s, : len(spectrum)] = (
                    spectrum
                )
                result.shift.setdefault(key, np.zeros(grid))[i, s] = norms[mode]
    for label in sequence[0]:
        ever = len(torch.unique(torch.cat([codes[label].features for codes in sequence])))
        ever = max(ever, result.shapes.get((label, 3), (0, 0))[0])
        result.shapes |= {(label, 1): (p, t * ever), (label, 2): (t, p * ever)}
        result.shapes[label, 3] = (ever, p * t)


def rank_table(result: Sweep, *, tau: float = TAU) -> pd.DataFrame:
    """Every rank of a sweep: columns label, mode, level, seed, rule, rank, tolerance.

    The rules of `ranks.RULES` apply to every representation; Gavish-Donoho (known noise) and
    Marchenko-Pastur to the noisy residual only; the permutation rank to SAEs whose permuted
    null is in the sweep (all seeds are its draws).
    """
    rows = []
    for (label, mode), spectra in result.spectra.items():
        shape = result.shapes[label, mode]
        null = result.spectra.get((permuted(label), mode))
        for i, level in enumerate(result.levels):
            for j, seed in enumerate(result.seeds):
                s = spectra[i, j]
                found = {name: rule(s, shape) for name, rule in RULES.items()}
                found["relative"] = relative_rank(s, tau=tau)
                if label == RESIDUAL and level > 0:
                    noise = level * result.sigma
                    found["gavish-donoho"] = gavish_donoho_rank(s, shape, noise_std=noise)
                    found["marchenko-pastur"] = marchenko_pastur_rank(s, shape, noise_std=noise)
                if null is not None:
                    found["permutation"] = permutation_rank(s, null[i])
                rows += [
                    (label, mode, level, seed, rule, rank.value, rank.tolerance)
                    for rule, rank in found.items()
                ]
    columns = ["label", "mode", "level", "seed", "rule", "rank", "tolerance"]
    return pd.DataFrame(rows, columns=columns)


def certified_table(result: Sweep, *, tau: float = TAU) -> pd.DataFrame:
    """What Weyl's inequality alone says of the relative rank at each noise level.

    Columns label, mode, level, seed, low, high, certified. From the clean spectrum and the
    measured norm of the change, the rank must lie in [low, high]; it is certified, and then
    equal to the clean rank, if both agree.
    """
    rows = []
    for (label, mode), spectra in result.spectra.items():
        for i, level in enumerate(result.levels):
            for j, seed in enumerate(result.seeds):
                s, moved = spectra[0, j], float(result.shift[label, mode][i, j])
                threshold = (tau * max(0.0, s[0] - moved), tau * (s[0] + moved))
                low, high = weyl_bounds(s, moved, threshold=threshold)
                rows.append((label, mode, level, seed, low, high, low == high))
    columns = ["label", "mode", "level", "seed", "low", "high", "certified"]
    return pd.DataFrame(rows, columns=columns)


def active_table(sweeps: Mapping[str, Sweep]) -> pd.DataFrame:
    """Features in use at any level (largest over seeds), and without and with most noise.

    Columns concept, label, tokens, any level, no noise, most noise, L0 no noise, L0 most noise
    (means over seeds).
    """
    rows = []
    for concept, result in sweeps.items():
        for label in result.labels:
            active, l0 = result.active[label].mean(1), result.l0[label].mean(1)
            ever, n_tokens = result.shapes[label, 3]
            rows.append((concept, label, n_tokens, ever, active[0], active[-1], l0[0], l0[-1]))
    columns = ["concept", "label", "tokens", "any level", "no noise", "most noise"]
    return pd.DataFrame(rows, columns=[*columns, "L0 no noise", "L0 most noise"])


def variability(ranks: pd.DataFrame, *, rule: str) -> pd.DataFrame:
    """Relative range of each profile: (max - min over levels) / rank at level 0.

    One row per label, mode and seed; columns label, mode, seed, variability.
    """
    chosen = ranks[ranks["rule"] == rule]
    if chosen.empty:
        choose("rank rule", rule, sorted(set(ranks["rule"])))
    groups = chosen.sort_values("level").groupby(["label", "mode", "seed"], sort=False)["rank"]
    spread = (groups.max() - groups.min()) / groups.first()
    return spread.rename("variability").reset_index()


def judge(
    spread: pd.DataFrame, *, concept: str, rule: str, mode: int, sparse: Sequence[str]
) -> list[Claim]:
    """Findings on Case 1's claims for one concept, from `variability`'s table.

    "Varies" holds if the relative range exceeds `VARIES` with 95 % confidence over noise
    seeds; "beyond the nulls" holds against a null if the paired difference of relative
    ranges is above 0 with 95 % confidence. The paper's inference to stratification is judged
    by the weakest of these differences: it holds if every SAE's rank varies and exceeds every
    null, holds in part if every rank varies and some nulls are exceeded.
    """
    part = spread[spread["mode"] == mode].set_index(["label", "seed"])["variability"].unstack()
    statistic = f"relative range of the {rule} rank, mode {mode}"
    claims, differences = [], []
    for label in sparse:
        found = mean_estimate(part.loc[label].to_numpy())
        verdict: Verdict = "holds" if found.low > VARIES else "does not hold"
        claims.append(
            Claim.of("case1-rank-varies", f"{concept}: {label}", statistic, found, verdict)
        )
        nulls = [name for name in part.index if name not in sparse and _is_null_of(name, label)]
        for null in nulls:
            gap = mean_estimate((part.loc[label] - part.loc[null]).to_numpy())
            verdict = "holds" if gap.low > 0 else "does not hold"
            subject = f"{concept}: {label} minus {null}"
            differences.append(Claim.of("case1-beyond-nulls", subject, statistic, gap, verdict))
    varies = all(claim.verdict == "holds" for claim in claims)
    beyond = [claim.verdict == "holds" for claim in differences]
    weakest = min(differences, key=lambda claim: claim.value)
    overall: Verdict = "does not hold"
    if varies and any(beyond):
        overall = "holds" if all(beyond) else "holds in part"
    summary = replace(
        weakest,
        id="case1-stratified",
        subject=f"{concept}: weakest difference, {weakest.subject.partition(': ')[2]}",
        verdict=overall,
    )
    return [*claims, *differences, summary]


def _is_null_of(name: str, label: str) -> bool:
    """Every representation but the permuted version of another SAE is a null for `label`."""
    return name == permuted(label) or not name.startswith(permuted(""))


def verdict_text(claims: Sequence[Claim]) -> str:
    """The findings in words (Markdown): how many hold, the sizes, and the verdict by concept."""
    varies = [c for c in claims if c.id == "case1-rank-varies"]
    beyond = [c for c in claims if c.id == "case1-beyond-nulls"]
    by_null: dict[str, list[Claim]] = {}
    for claim in beyond:
        null = claim.subject.rpartition(" minus ")[2].partition(" ")[0]
        by_null.setdefault("permuted latents" if null == "permuted" else null, []).append(claim)
    held = sum(c.verdict == "holds" for c in varies)
    lines = [
        f"- **The rank varies** in {held} of {len(varies)} cases: relative range "
        f"{min(c.value for c in varies):.2f} to {max(c.value for c in varies):.2f}."
    ]
    for null, found in by_null.items():
        held = sum(c.verdict == "holds" for c in found)
        lines.append(
            f"- **Against {null}** the SAE varies more in {held} of {len(found)} cases "
            f"(difference {min(c.value for c in found):+.2f} to "
            f"{max(c.value for c in found):+.2f})."
        )
    for claim in claims:
        if claim.id == "case1-stratified":
            concept, _, weakest = claim.subject.partition(": ")
            lines.append(
                f"- **{concept}: {claim.verdict}.** {weakest[0].upper()}{weakest[1:]}: "
                f"{claim.value:+.2f} (95 % interval {claim.low:+.2f} to {claim.high:+.2f}, "
                f"p = {claim.p:.3f}, n = {claim.n} seeds)."
            )
    return "\n".join(lines)
