"""Case 2's verdict: each SAE against the residual stream, and against what was not learned."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from saerepgeo_lib.claims import Claim, Verdict
from saerepgeo_lib.noise_sweep import RESIDUAL, randomized
from saerepgeo_lib.points import NotEstimable
from saerepgeo_lib.statistics import Estimate
from saerepgeo_lib.structure import estimate

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


def compare_spaces(table: pd.DataFrame, *, concept: str, sparse: Sequence[str]) -> pd.DataFrame:
    """Each SAE against the residual stream and its controls, on every directional measure.

    Columns concept, SAE, other, kind (residual, random or dense), claim, measure, sign, value, low,
    high, p, n, outcome: "claimed" or "opposite" if the difference has that sign with its 95 %
    interval and p <= 0.05, else "undecided"; "cannot be tested" with a note if there is no
    interval, or nothing left to merge.
    """
    labels = list(dict.fromkeys(table["space"]))
    n_left_out = table["left_out"].nunique() - 1
    rows = []
    for (claim, measure, sign), sae in itertools.product(DIRECTIONS, sparse):
        kinds = {RESIDUAL: "residual", randomized(sae): "random"}
        kinds |= {
            x: "dense" for x in labels if x not in (*sparse, *map(randomized, sparse), RESIDUAL)
        }
        for other, kind in kinds.items():
            if other not in labels:
                continue
            found = estimate(table, measure, sae, minus=other)
            note, outcome = "", "undecided"
            start = table.query("measure == @measure and space == @other and left_out == -1")[
                "value"
            ]
            if isinstance(found, NotEstimable):
                note, outcome = found.reason, "cannot be tested"
                found = Estimate(np.nan, np.nan, np.nan, np.nan, n_left_out)
            elif measure == "homogeneity" and float(start.iloc[0]) < FLOOR:
                note, outcome = f"{other} has nothing left to merge", "cannot be tested"
            elif found.p <= 0.05:
                outcome = "claimed" if found.value * sign > 0 else "opposite"
            rows.append(
                (concept, sae, other, kind, claim, measure, sign, found.value, found.low,
                 found.high, found.p, found.n, outcome, note)
            )  # fmt: skip
    columns = ["concept", "SAE", "other", "kind", "claim", "measure", "sign", "value", "low",
               "high", "p", "n", "outcome", "note"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


_VERDICTS: dict[str, Verdict] = {"claimed": "holds", "cannot be tested": "cannot be tested here"}


def judge(compared: pd.DataFrame) -> list[Claim]:
    """Findings: each directional claim against the residual stream, and whether it is learned.

    "case2-learned" takes a claim, its random encoder and the dense autoencoder together: it holds
    if all three differences have the claimed sign beyond chance; its numbers are those of the
    weakest control.
    """
    claims = []
    for (concept, sae, measure), part in compared.groupby(
        ["concept", "SAE", "measure"], sort=False
    ):
        rows = {row["kind"]: row for row in part.to_dict("records")}
        base = rows["residual"]
        subject = f"{concept}: {sae} minus {base['other']}"
        verdict = _VERDICTS.get(base["outcome"], "does not hold")
        claims.append(Claim.of(base["claim"], subject, str(measure), _estimate_of(base), verdict))
        controls = [row for kind, row in rows.items() if kind != "residual"]
        if not controls:
            continue
        together = [base, *controls]
        tested = [row for row in controls if np.isfinite(row["value"])] or controls
        weakest = min(tested, key=lambda row: row["value"] * row["sign"])
        verdict = (
            "holds" if all(row["outcome"] == "claimed" for row in together) else "does not hold"
        )
        if any(row["outcome"] == "cannot be tested" for row in together):
            verdict = "cannot be tested here"
        subject = (
            f"{concept}: {sae}, {base['claim'].removeprefix('case2-')}, minus {weakest['other']}"
        )
        claims.append(
            Claim.of("case2-learned", subject, str(measure), _estimate_of(weakest), verdict)
        )
    return claims


def _estimate_of(row: Mapping[Any, Any]) -> Estimate:
    return Estimate(row["value"], row["low"], row["high"], row["p"], row["n"])


def agreement(compared: pd.DataFrame) -> pd.DataFrame:
    """Over SAEs and concepts: how often each direction was found, and beyond both controls.

    Columns claim, measure, cases, tested, claimed, opposite (against the residual stream, beyond
    chance), smallest, largest (difference), learned (of those: same direction beyond every
    control).
    """
    rows = []
    for (claim, measure), part in compared.groupby(["claim", "measure"], sort=False):
        base = part[part["kind"] == "residual"]
        learned = 0
        for case in base[base["outcome"].isin(["claimed", "opposite"])].to_dict("records"):
            own = (part["concept"] == case["concept"]) & (part["SAE"] == case["SAE"])
            learned += bool((part[own]["outcome"] == case["outcome"]).all())
        count = base["outcome"].value_counts()
        tested = len(base) - int(count.get("cannot be tested", 0))
        rows.append(
            (claim, measure, len(base), tested, int(count.get("claimed", 0)),
             int(count.get("opposite", 0)), base["value"].min(), base["value"].max(), learned)
        )  # fmt: skip
    columns = ["claim", "measure", "cases", "tested", "claimed", "opposite", "smallest", "largest",
               "learned"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def verdict_text(agreed: pd.DataFrame) -> str:
    """The agreement table in words (Markdown), a line a measure."""
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
        line = (
            f"- **{words[row['claim']]}** ({row['measure']}): in {row['tested']} of {row['cases']} "
            f"cases testable; as claimed in {row['claimed']}, the opposite in {row['opposite']}, "
            f"undecided in {row['tested'] - decided} (differences {row['smallest']:+.2f} to "
            f"{row['largest']:+.2f})."
        )
        if decided:
            line += f" Beyond every control in the same direction: {row['learned']} of {decided}."
        lines.append(line)
    return "\n".join(lines)
