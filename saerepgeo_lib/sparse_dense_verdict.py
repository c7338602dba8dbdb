"""Sparse against dense: the study's results as tables, effect sizes and findings."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from saerepgeo_lib.claims import Claim, Verdict
from saerepgeo_lib.effect_sizes import (
    delta_in_layers,
    mean_difference,
    paired_effect,
    variance_shares,
)
from saerepgeo_lib.errors import UserError, choose
from saerepgeo_lib.noise_sweep import RESIDUAL, Sweep, randomized
from saerepgeo_lib.sparse_dense import DENSE, LABELS, RULES
from saerepgeo_lib.statistics import Estimate
from saerepgeo_lib.stratification import rank_table, variability
from saerepgeo_lib.tensors import MODES

SPARSE = tuple(label for label in LABELS.values() if label != DENSE)
REPRESENTATIONS = (
    RESIDUAL,
    *(name for label in LABELS.values() for name in (label, randomized(label))),
)
SHOWN_MODES = (1, 3)  # with two slots the rank of mode 2 is two
MIN_CONCEPTS = 6  # with 5 the exact p cannot reach 0.05
FULL = 0.99  # share of its ceiling from which a clean rank has no room to vary, as in Case 1
EFFECTS = {"Cliff's delta": delta_in_layers, "mean difference": mean_difference}
MORE_THAN_DENSE, MORE_THAN_RANDOM = "dense-sparse-more-variable", "dense-sparse-beyond-random"


def check_parameters(*, rank_rule: str, rank_mode: int) -> None:
    """Refuse what the results do not hold, before anything is loaded."""
    choose("rank rule of the study", rank_rule, RULES)
    if rank_mode not in SHOWN_MODES:
        raise UserError(
            f"rank_mode is 1 (prompt) or 3 (feature), got {rank_mode}; mode 2 has two slots, "
            "so its rank has no room to vary"
        )


def variability_table(points: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Every profile of the study: a row a layer, seed, concept, representation, mode and rule.

    Further columns L0, ceiling, clean (rank) and range (relative). The residual stream, which
    every kind's point has, stands once. Raises UserError if the points are no full grid.
    """
    rows = []
    for entry in points:
        point, result = entry["point"], entry["result"]
        own = LABELS[point["recipe"]["name"]]
        for concept, found in result["concepts"].items():
            for name, values in found.items():
                if name == RESIDUAL and own != DENSE:
                    continue
                for rule in RULES:
                    kept = values["ceiling"], values["clean"][rule], values["range"][rule]
                    for mode, ceiling, clean, spread in zip(MODES, *kept, strict=True):
                        rows.append(
                            (point["block"], point["recipe"]["seed"], concept, name, mode, rule,
                             values["l0"], ceiling, clean, spread)
                        )  # fmt: skip
    table = pd.DataFrame(rows, columns=["layer", "seed", "concept", "representation", "mode",
                                        "rule", "L0", "ceiling", "clean", "range"])  # fmt: skip
    keys = ["layer", "seed", "concept", "representation", "mode", "rule"]
    full = int(np.prod([table[key].nunique() for key in keys]))
    if len(table) != full or table.duplicated(keys).any():
        raise UserError(
            f"the results have {len(table)} profiles, a full grid {full}; let the study finish: "
            "'saerepgeo study sparse-dense'"
        )
    return table


def fit_table(points: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """How well each kind fits at each layer, means over seeds.

    Columns layer, autoencoder, FVU and L0 on held-out text, dead share, FVU content (mean over the
    concepts' content tokens), n (seeds).
    """
    rows = [
        {"layer": entry["point"]["block"], "autoencoder": LABELS[entry["point"]["recipe"]["name"]],
         **entry["result"]["fit"],
         "FVU content": float(np.mean([*entry["result"]["FVU content"].values()]))}
        for entry in points
    ]  # fmt: skip
    groups = pd.DataFrame(rows).groupby(["layer", "autoencoder"], sort=False)
    return groups.mean().assign(n=groups.size()).reset_index()


def grid_of(
    table: pd.DataFrame, representation: str, *, rule: str, mode: int, column: str = "range"
) -> Float[np.ndarray, "concepts layers seeds"]:
    """One column for one representation, concepts in the table's order."""
    part = table[
        (table["representation"] == representation)
        & (table["rule"] == rule)
        & (table["mode"] == mode)
    ]
    shape = tuple(part[key].nunique() for key in ("concept", "layer", "seed"))
    order = pd.Categorical(part["concept"], list(dict.fromkeys(part["concept"])))
    part = part.assign(concept=order).sort_values(["concept", "layer", "seed"])
    return part[column].to_numpy(dtype=float).reshape(shape)


def clean_shares(
    table: pd.DataFrame, representation: str, *, rule: str, mode: int
) -> Float[np.ndarray, " concepts"]:
    """Per concept, the mean over layers and seeds of the clean rank as a share of its ceiling."""
    clean, ceiling = (
        grid_of(table, representation, rule=rule, mode=mode, column=column)
        for column in ("clean", "ceiling")
    )
    return np.asarray((clean / ceiling).mean(axis=(1, 2)))


def effect_table(table: pd.DataFrame, *, mode: int, random_state: int = 0) -> pd.DataFrame:
    """Effect sizes of the relative range, over concepts that leave the other side room to vary.

    A row for each sparse autoencoder against the dense one, each autoencoder against its random
    encoder, and each effect of `EFFECTS` and rule: columns of, against, rule, effect, value, low,
    high, p, n (concepts), least and greatest (the effect by seed), verdict.
    """
    pairs = [(label, DENSE) for label in SPARSE]
    pairs += [(label, randomized(label)) for label in LABELS.values()]
    rows = []
    for rule in RULES:
        for own, other in pairs:
            x, y = (grid_of(table, name, rule=rule, mode=mode) for name in (own, other))
            kept = clean_shares(table, other, rule=rule, mode=mode) < FULL
            x, y = x[kept], y[kept]
            for name, effect in EFFECTS.items():
                row: dict[str, Any] = {"of": own, "against": other, "rule": rule, "effect": name}
                if len(x) < MIN_CONCEPTS:
                    row |= dict.fromkeys(("value", "low", "high", "p", "least", "greatest"), np.nan)
                    rows.append(row | {"n": len(x), "verdict": "cannot be tested here"})
                    continue
                found = paired_effect(x, y, effect=effect, random_state=random_state)
                by_seed = [float(effect(x[..., [s]], y[..., [s]])) for s in range(x.shape[2])]
                holds: Verdict = "holds" if found.is_positive else "does not hold"
                rows.append(
                    row | asdict(found)
                    | {"least": min(by_seed), "greatest": max(by_seed), "verdict": holds}
                )  # fmt: skip
    return pd.DataFrame(rows)


def claims_of(effects: pd.DataFrame, *, mode: int) -> list[Claim]:
    """The findings on the sparse autoencoders: more variable than dense, and than random."""
    return [
        Claim.of(
            MORE_THAN_DENSE if r["against"] == DENSE else MORE_THAN_RANDOM,
            f"{r['of']} minus {r['against']}",
            f"{r['effect']} of the relative range, {r['rule']} rank, mode {mode}",
            Estimate(r["value"], r["low"], r["high"], r["p"], r["n"]),
            r["verdict"],
        )
        for r in effects.to_dict("records")
        if r["of"] in SPARSE
    ]


def shares_table(table: pd.DataFrame, *, rule: str, mode: int) -> pd.DataFrame:
    """Shares of the variance of the relative range, a row a representation.

    Columns representation, mean, then `variance_shares`; those of one that does not vary are left
    out.
    """
    rows = []
    for name in REPRESENTATIONS:
        grid = grid_of(table, name, rule=rule, mode=mode)
        if np.ptp(grid) > 0:
            rows.append({"representation": name, "mean": grid.mean(), **variance_shares(grid)})
    return pd.DataFrame(rows)


def start_decides(table: pd.DataFrame, *, rule: str, mode: int) -> pd.DataFrame:
    """How far the clean rank alone decides the relative range, a row a representation.

    Columns representation, clean (mean share of the ceiling), range (mean), from the start (mean
    of ceiling / clean - 1, the range of a profile that climbs from its start to its ceiling),
    Spearman (of range and clean share over all cells; NaN if one is constant).
    """
    rows = []
    part = table[(table["rule"] == rule) & (table["mode"] == mode)]
    for name in REPRESENTATIONS:
        own = part[part["representation"] == name]
        share = own["clean"] / own["ceiling"]
        varies = np.ptp(share) > 0 and np.ptp(own["range"]) > 0
        rho = float(stats.spearmanr(share, own["range"]).statistic) if varies else np.nan
        rows.append((name, share.mean(), own["range"].mean(), (1 / share - 1).mean(), rho))
    columns = ["representation", "clean", "range", "from the start", "Spearman"]
    return pd.DataFrame(rows, columns=columns)


def live_table(sweeps: Mapping[str, Sweep], *, rule: str, mode: int) -> pd.DataFrame:
    """Relative range, also without the first direction, of every representation of Case 1's sweeps.

    Columns concept, representation, range, without first (means over seeds; all spectra without
    their largest singular value), and first (share of the clean energy in that direction).
    """
    rows = []
    for concept, found in sweeps.items():
        rest = replace(found, spectra={key: s[..., 1:] for key, s in found.spectra.items()})
        spreads = []
        for given in (found, rest):
            table = variability(rank_table(given), rule=rule)
            spreads.append(table[table["mode"] == mode].groupby("label")["variability"].mean())
        for name in found.labels:
            energy = found.spectra[name, mode][0, 0] ** 2
            rows.append((concept, name, *(s[name] for s in spreads), energy[0] / energy.sum()))
    columns = ["concept", "representation", "range", "without first", "first"]
    return pd.DataFrame(rows, columns=columns)


def live_text(live: pd.DataFrame, *, sparse: Sequence[str], dense: Sequence[str]) -> str:
    """How much the autoencoders of `live_table` vary, and in how many cases which more (Markdown).

    A case is a sparse autoencoder and a concept.
    """
    by_name = live.set_index(["representation", "concept"])
    lines = []
    for column, what in (("range", "as it is"), ("without first", "without the first direction")):
        values = by_name[column].unstack()
        own, means = values.loc[[*sparse]], values.mean(axis=1)
        above = int((own.to_numpy() > values.loc[[*map(randomized, sparse)]].to_numpy()).sum())
        below = int((own < values.loc[[*dense]].min()).sum().sum()) if dense else None
        listed = ", ".join(f"{means[name]:.2f} ({name})" for name in (*sparse, *dense))
        lines.append(
            f"- **{what}**: {listed}; a sparse one varies "
            + (f"less than the dense one in {below} of {own.size} cases, " if dense else "")
            + f"more than its random encoder in {above} of {own.size}."
        )
    share = by_name["first"].groupby(level=0, sort=False).mean()
    listed = ", ".join(f"{share[name]:.0%} ({name})" for name in (*sparse, *dense))
    return (
        "Mean relative range\n\n" + "\n".join(lines) + "\n\n"
        f"Share of the energy in the first direction: {listed}."
    )


def verdict_text(effects: pd.DataFrame, *, rule: str) -> str:
    """The effect sizes of one rule in words (Markdown)."""
    lines = []
    for (own, other), part in effects[effects["rule"] == rule].groupby(
        ["of", "against"], sort=False
    ):
        found = part.set_index("effect")
        delta, mean = found.loc["Cliff's delta"], found.loc["mean difference"]
        if delta["verdict"] == "cannot be tested here":
            lines.append(
                f"- **{own} against {other}**: cannot be tested; only {delta['n']} concepts leave "
                "the other side room to vary."
            )
            continue
        side = "neither more nor less"
        if mean["low"] > 0 or mean["high"] < 0:
            side = "more" if mean["low"] > 0 else "less"
        lines.append(
            f"- **{own} against {other}**: varies **{side}**. Relative range {mean['value']:+.2f} "
            f"(95 % interval {mean['low']:+.2f} to {mean['high']:+.2f}; by seed "
            f"{mean['least']:+.2f} to {mean['greatest']:+.2f}), Cliff's delta "
            f"{delta['value']:+.2f} ({delta['low']:+.2f} to {delta['high']:+.2f}), "
            f"p = {mean['p']:.3f}, n = {mean['n']} concepts."
        )
    return "\n".join(lines)
