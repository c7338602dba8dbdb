"""Case 2's verdict: each SAE against the residual stream, and against what was not learned."""

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from saerepgeo_lib.activations.token_activations import TokenActivations
from saerepgeo_lib.geometry.structure import estimate
from saerepgeo_lib.rank.noise_sweep import RESIDUAL, randomized
from saerepgeo_lib.stats.claims import UNTESTED, Claim, Verdict
from saerepgeo_lib.stats.estimates import Estimate, NotEstimable
from saerepgeo_lib.stats.words import span

FLOOR = 0.05  # homogeneity below which nothing is left to merge
# What the paper says of the latents against the residual stream: claim, measure, sign.
DIRECTIONS = (
    ("case2-dimension-up", "avg. ID, TwoNN", 1),
    ("case2-dimension-up", "avg. ID, MLE", 1),
    ("case2-substructure-up", "Betti-0, HDBSCAN", 1),
    ("case2-global-compressed", "MSTW of entities", -1),
    ("case2-merging", "homogeneity", -1),
    ("case2-distinction-up", "AEDP of entities", 1),
)
_CASE = ["concept", "tokens", "SAE"]
_VERDICTS: dict[str, Verdict] = {"claimed": "holds", "cannot be tested": UNTESTED}


def compare_spaces(samples: pd.DataFrame, acts: TokenActivations) -> pd.DataFrame:
    """Each SAE against the residual stream and its controls, on every directional measure.

    `samples`: of `structure.measure_spaces` on these tokens. Columns concept, tokens, SAE, other,
    kind (residual, random or dense), claim, measure, sign, value, low, high, p, n, outcome:
    "claimed" or "opposite" if the difference has that sign with its 95 % interval and p <= 0.05,
    else "undecided"; "cannot be tested" with a note if there is no interval, or nothing to merge.
    """
    tokens = "entity" if acts.in_entity.all() else "content"
    concept = acts.concept.name if acts.concept else "tokens"
    labels, sparse = list(samples["space"].unique()), acts.source.sparse
    known = [RESIDUAL, *sparse, *map(randomized, sparse)]
    dense = {label: "dense" for label in labels if label not in known}
    rows = []
    for (claim, measure, sign), sae in itertools.product(DIRECTIONS, sparse):
        kinds = {RESIDUAL: "residual", randomized(sae): "random"} | dense
        for other in (label for label in kinds if label in labels):
            case = {"concept": concept, "tokens": tokens, "SAE": sae, "other": other}
            case |= {"kind": kinds[other], "claim": claim, "measure": measure, "sign": sign}
            rows.append(case | _difference(samples, measure, sae, other, sign))
    return pd.DataFrame(rows)


def _difference(
    samples: pd.DataFrame, measure: str, sae: str, other: str, sign: int
) -> dict[str, Any]:
    """The SAE minus the other space in one measure, and whether it has the claimed sign."""
    difference, note, outcome = estimate(samples, measure, sae, minus=other), "", "undecided"
    whole = samples.query("measure == @measure and space == @other and left_out == -1")["value"]
    if isinstance(difference, NotEstimable):
        note, outcome = difference.reason, "cannot be tested"
        n_groups = samples["left_out"].nunique() - 1
        difference = Estimate(np.nan, np.nan, np.nan, np.nan, n_groups)
    elif measure == "homogeneity" and whole.item() < FLOOR:
        note, outcome = f"{other} has nothing left to merge", "cannot be tested"
    elif difference.p <= 0.05:
        outcome = "claimed" if difference.value * sign > 0 else "opposite"
    return {**vars(difference), "outcome": outcome, "note": note}


def geometry_claims(compared: pd.DataFrame) -> list[Claim]:
    """Findings: each directional claim against the residual stream, and whether it is learned.

    "case2-learned" takes a claim, its random encoder and the dense autoencoder together: it holds
    if all three differences have the claimed sign beyond chance; its numbers are those of the
    weakest control.
    """
    claims = []
    for _, rows in compared.groupby([*_CASE, "measure"], sort=False):
        base, *controls = rows.to_dict("records")
        judged = [(base["claim"], base, base["outcome"])]
        if controls:
            tested = [row for row in controls if np.isfinite(row["value"])] or controls
            weakest = min(tested, key=lambda row: row["value"] * row["sign"])
            failing = ("cannot be tested", "opposite", "undecided")
            together = next((name for name in failing if name in set(rows["outcome"])), "claimed")
            judged.append(("case2-learned", weakest, together))
        claims += [
            Claim.of(
                id, Estimate(*(row[key] for key in ("value", "low", "high", "p", "n"))),
                _VERDICTS.get(outcome, "does not hold"), statistic=row["measure"],
                concept=row["concept"], tokens=row["tokens"], autoencoder=row["SAE"],
                against=row["other"],
                reason=row["note"] if outcome == "cannot be tested" else "",
            )
            for id, row, outcome in judged
        ]  # fmt: skip
    return claims


def geometry_agreement(compared: pd.DataFrame) -> pd.DataFrame:
    """Over SAEs and concepts: how often each direction was found, and beyond both controls.

    Columns claim, measure, cases, tested, claimed, opposite (against the residual stream, beyond
    chance), smallest, largest (difference), learned (of those: same direction beyond every
    control).
    """
    rows = []
    for (claim, measure), of_measure in compared.groupby(["claim", "measure"], sort=False):
        base = of_measure[of_measure["kind"] == "residual"]
        counts = Counter(base["outcome"])
        outcomes = [set(case["outcome"]) for _, case in of_measure.groupby(_CASE, sort=False)]
        rows.append({
            "claim": claim, "measure": measure, "cases": len(base),
            "tested": len(base) - counts["cannot be tested"],
            "claimed": counts["claimed"], "opposite": counts["opposite"],
            "smallest": base["value"].min(), "largest": base["value"].max(),
            "learned": sum(each in ({"claimed"}, {"opposite"}) for each in outcomes),
        })  # fmt: skip
    return pd.DataFrame(rows)


def geometry_verdict_text(agreed: pd.DataFrame) -> str:
    """The agreement table in words (Markdown), a line per measure."""
    words = {
        "case2-dimension-up": "Local dimensionality rises",
        "case2-substructure-up": "Substructure rises",
        "case2-global-compressed": "The global structure is compressed",
        "case2-merging": "Similar features merge",
        "case2-distinction-up": "Distinctions are amplified",
    }
    lines = []
    for row in agreed.to_dict("records"):
        decided = row["claimed"] + row["opposite"]
        lines.append(
            f"- **{words[row['claim']]}** ({row['measure']}): in {row['tested']} of {row['cases']} "
            f"cases testable; as claimed in {row['claimed']}, the opposite in {row['opposite']}, "
            f"undecided in {row['tested'] - decided} (differences "
            f"{span((row['smallest'], row['largest']), '+.2f')})."
        )
        if decided:
            lines[-1] += (
                f" Beyond every control in the same direction: {row['learned']} of {decided}."
            )
    return "\n".join(lines)
