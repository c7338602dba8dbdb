"""Case 3's verdict: does separability cause reconstruction, for which autoencoders, and why."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from saerepgeo_lib.claims import Claim, Verdict
from saerepgeo_lib.dose_response import LEAST, PUSH
from saerepgeo_lib.statistics import Estimate

TAKEN, PLANTED = "taken away", "planted"
_OFF_DOSE = 0.05
_HELPS, _OWN = "case3-separability-helps", "case3-own-effect"


def judge_push(shrinkage: pd.DataFrame, responses: pd.DataFrame) -> list[Claim]:
    """Does the error fall as separability is pushed up?

    `shrinkage`: rows of `separability.shrinkage`, `responses`: rows of `dose_response`, both with
    columns concept and SAE. The claim holds for a case if along valid pushes the error is lower
    beyond chance (95 %, over frames) at every dose above 1; in part if a small push lowers it
    beyond chance: an elasticity along the gradient below 0. It cannot be tested where a push missed
    its dose by more than 5 %, nor, unless it holds, where the elasticity has no interval. Its
    numbers are those of the elasticity.
    """
    claims = []
    pushed = _above(responses, PUSH["valid"])
    for (concept, sae), case in pushed.groupby(["concept", "SAE"], sort=False):
        (law,) = shrinkage[(shrinkage["concept"] == concept) & (shrinkage["SAE"] == sae)].to_dict(
            "records"
        )
        slope = Estimate(law["slope"], law["slope low"], law["slope high"], law["slope p"],
                         int(law["slope n"]))  # fmt: skip
        verdict: Verdict = "does not hold"
        if _lower(case).all():
            verdict = "holds"
        elif slope.high < 0 and slope.p <= 0.05:
            verdict = "holds in part"
        if _off_dose(case) or (np.isnan(slope.p) and verdict != "holds"):
            verdict = "cannot be tested here"
        statistic = "elasticity of MSE along the gradient of AEDP"
        claims.append(Claim.of(_HELPS, f"{concept}: {sae}", statistic, slope, verdict))
    return claims


def judge_least(responses: pd.DataFrame) -> list[Claim]:
    """Does the least error found among valid codes fall as separability rises?

    It holds for a case if it is below that at dose 1, beyond chance, at every dose above 1; in part
    if at some. Its numbers are those of the first dose above 1. The least errors are upper bounds.
    """
    claims = []
    for (concept, sae), case in _above(responses, LEAST["valid"]).groupby(
        ["concept", "SAE"], sort=False
    ):
        lower = _lower(case)
        verdict: Verdict = "holds" if lower.all() else "holds in part"
        verdict = verdict if lower.any() else "does not hold"
        verdict = "cannot be tested here" if _off_dose(case) else verdict
        first = case.iloc[0]
        statistic = f"change of the least MSE at AEDP x {first['dose']:g}"
        claims.append(Claim.of(_OWN, f"{concept}: {sae}", statistic, _change(first), verdict))
    return claims


def judge_correlations(correlations: pd.DataFrame) -> list[Claim]:
    """Do AEDP and error correlate negatively over the doses: pushed, and at the least error?

    `correlations`: `dose_response.correlations`. Pearson, pooled within cases by SAE and over all;
    by its sign and p alone, since the doses are set.
    """
    paths = (LEAST["free"], LEAST["valid"], PUSH["valid"])
    chosen = correlations[
        correlations["over"].isin(["SAE", "all"])
        & correlations["path"].isin(paths)
        & (correlations["method"] == "pearson")
    ]
    claims = []
    for row in chosen.to_dict("records"):
        found = Estimate(row["r"], row["low"], row["high"], row["p"], int(row["n"]))
        verdict: Verdict = "holds" if found.value < 0 and found.p <= 0.05 else "does not hold"
        verdict = "cannot be tested here" if np.isnan(found.value) else verdict
        subject = "all" if row["over"] == "all" else row["SAE"]
        statistic = f"Pearson r of AEDP and MSE, {row['path']}"
        claims.append(Claim.of("case3-correlation", subject, statistic, found, verdict))
    return claims


def judge_shrinkage(shrinkage: pd.DataFrame) -> list[Claim]:
    """Does each autoencoder shrink: is rho* above 1 beyond chance, all codes scaled?"""
    claims = []
    for row in shrinkage.to_dict("records"):
        found = Estimate(row["rho*"] - 1, row["low"] - 1, row["high"] - 1, row["p"], int(row["n"]))
        verdict: Verdict = "holds" if found.is_positive else "does not hold"
        verdict = "cannot be tested here" if np.isnan(found.p) else verdict
        subject = f"{row['concept']}: {row['SAE']}"
        claims.append(Claim.of("case3-shrinks", subject, "rho* - 1", found, verdict))
    return claims


def judge_manipulations(manipulated: pd.DataFrame) -> list[Claim]:
    """Does the effect of separability come and go with shrinkage?

    `manipulated`: rows of `dose_response` with columns concept, SAE and shrinkage (taken away or
    planted, by `scaling.with_optimum`). It holds for a case and path if at the first dose above 1
    the error is higher, beyond chance, without shrinkage, and lower with it.
    """
    claims = []
    above = manipulated[manipulated["dose"] > 1]
    for (concept, sae, shrinkage, path), case in above.groupby(
        ["concept", "SAE", "shrinkage", "path"], sort=False
    ):
        first = case.iloc[0]
        right = first["change low"] > 0 if shrinkage == TAKEN else first["change high"] < 0
        verdict: Verdict = "holds" if right else "does not hold"
        statistic = f"change of MSE at AEDP x {first['dose']:g}, {path}"
        subject = f"{concept}: {sae}, shrinkage {shrinkage}"
        claims.append(Claim.of("case3-explained", subject, statistic, _change(first), verdict))
    return claims


def judge_walks(walks: pd.DataFrame) -> list[Claim]:
    """Do random walks alone make separability and error correlate negatively?

    `walks`: rows of `random_walk.within_walks`. It holds if r is negative in every walk, in part if
    in most. The median over walks, with the least and the largest: no interval and no p, since the
    walks of one model and SAE differ in their noise only.
    """
    claims = []
    for (label, measure), part in walks.groupby(["label", "measure"], sort=False):
        r = part["r"].dropna()
        found = Estimate(float(r.median()), float(r.min()), float(r.max()), float("nan"), len(r))
        verdict: Verdict = "holds in part" if (r < 0).mean() > 0.5 else "does not hold"
        verdict = "holds" if (r < 0).all() else verdict
        statistic = "median Spearman within walks [least, largest]"
        claims.append(
            Claim.of("case3-artefact", f"{label}: error {measure}", statistic, found, verdict)
        )
    return claims


def _above(responses: pd.DataFrame, path: str) -> pd.DataFrame:
    return responses[(responses["path"] == path) & (responses["dose"] > 1)]


def _lower(case: pd.DataFrame) -> pd.Series:
    return (case["change high"] < 0) & (case["p"] <= 0.05)


def _off_dose(case: pd.DataFrame) -> bool:
    return bool(((case["AEDP"] / case["dose"] - 1).abs() > _OFF_DOSE).any())


def _change(row: pd.Series) -> Estimate:
    n = int(row["groups"])
    return Estimate(row["change"], row["change low"], row["change high"], row["p"], n)


def by_autoencoder(shrinkage: pd.DataFrame, responses: pd.DataFrame) -> pd.DataFrame:
    """The answer in one table, an SAE a row, ranges over concepts.

    Columns SAE; rho* (all codes scaled), rho* outward (clusters moved outward); helps up to, saves
    at best (by the theorem, outward); and for each dose other than 1 the MSE ratio of the valid
    push, where it was run.
    """
    rows = []
    for sae, part in shrinkage.groupby("SAE", sort=False):
        row: dict[str, Any] = {
            "SAE": sae,
            "rho*": _range(part["rho*"]),
            "rho* outward": _range(part["rho* outward"]),
            "helps up to": _range(part["helps up to"]),
            "saves at best": _range(100 * part["gain"], 1) + " %",
        }
        pushed = responses[(responses["SAE"] == sae) & (responses["path"] == PUSH["valid"])]
        for dose, case in pushed.groupby("dose", sort=True):
            if dose != 1:
                row[f"MSE at x {dose:g}"] = _range(case["MSE"])
        rows.append(row)
    return pd.DataFrame(rows).fillna("not run")


def _range(values: pd.Series, digits: int = 2) -> str:
    low, high = (f"{v:.{digits}f}" for v in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"


def answer_text(
    shrinkage: pd.DataFrame, responses: pd.DataFrame, claims: Sequence[Claim],
    walks: pd.DataFrame, *, random_label: str,
) -> str:  # fmt: skip
    """The answer in words (Markdown), every number and verdict from the run.

    `claims` are those of this module's judges on the same tables.
    """
    tested = [c for c in claims if c.id == _HELPS]
    lines = [f"**Over {len(tested)} cases (SAE and concept) the claim {_counts(tested)}.**", ""]
    for sae in dict.fromkeys(responses["SAE"]):
        own = shrinkage[shrinkage["SAE"] == sae]
        case = _above(responses[responses["SAE"] == sae], PUSH["valid"])
        errors = ", ".join(
            f"{_range(part['MSE'])} at x {dose:g}" for dose, part in case.groupby("dose")
        )
        lines.append(
            f"- **{sae}: {_counts([c for c in tested if c.subject.endswith(f': {sae}')])}.** More "
            f"separable helps up to AEDP x {_range(own['helps up to'])} and saves at best "
            f"{_range(100 * own['gain'], 1)} % of the error (rho* outward = "
            f"{_range(own['rho* outward'])}); pushed further, the error is {errors} of what it was."
        )
    lines += [
        _free_text(shrinkage[shrinkage["SAE"].isin(responses["SAE"])]),
        _valid_text(responses, [c for c in claims if c.id == _OWN]),
        _shrinkage_text([c for c in claims if c.id == "case3-explained"]),
    ]
    nothing = walks[walks["label"] == random_label]
    if nothing.empty:
        lines.append(
            "- **Where nothing was learned**: cannot be tested here; in the random model the "
            "tokens do not fall into clusters."
        )
        return "\n".join(lines)
    r = nothing.groupby("measure")["r"].median()
    falls = {way: _range(100 * (1 - nothing[way]), 1) for way in ("apart", "together")}
    lines.append(
        f"- **Where nothing was learned** (random walk, random model, random SAE): AEDP and the "
        f"authors' z-scored error have a median Spearman of {r['z-scored']:+.2f}; AEDP and "
        f"the SAE's own error {r['own']:+.2f}. The z-scored error falls by {falls['apart']} % "
        f"when the clusters walk apart, and by {falls['together']} % when they walk together, at "
        "constant AEDP."
    )
    return "\n".join(lines)


def _counts(claims: Sequence[Claim]) -> str:
    words = ("holds", "holds in part", "does not hold", "cannot be tested here")
    found = {word: sum(c.verdict == word for c in claims) for word in words}
    if len(claims) in found.values():
        return next(word for word, count in found.items() if count == len(claims))
    return ", ".join(f"{word} in {count}" for word, count in found.items() if count)


def _free_text(shrinkage: pd.DataFrame) -> str:
    reached = shrinkage[np.isfinite(shrinkage["free from"])]
    if reached.empty:
        return (
            "- **Free edits**: no direction of the code is unseen by the decoder, so the least "
            "error goes with one separability only."
        )
    others = len(shrinkage) - len(reached)
    text = (
        f"- **Free edits: more separability need not change anything.** From AEDP x "
        f"{_range(reached['free from'])} on, the same least error "
        f"({_range(reached['least MSE'])} of the unedited one) is within reach at every "
        "separability; below, it rises."
    )
    return text + (f" In {others} cases no direction is unseen." if others else "")


def _valid_text(responses: pd.DataFrame, claims: Sequence[Claim]) -> str:
    least = responses[(responses["path"] == LEAST["valid"]) & (responses["dose"] != 1)]
    changes = ", ".join(
        f"{_range(100 * part['change'], 0)} % at x {dose:g}" for dose, part in least.groupby("dose")
    )
    return (
        f"- **Valid codes**: the least error found differs from that at x 1 by {changes}. That it "
        f"falls as separability rises {_counts(claims)}."
    )


def _shrinkage_text(claims: Sequence[Claim]) -> str:
    def found(kind: str) -> str:
        own = [c for c in claims if kind in c.subject and PUSH["valid"] in c.statistic]
        return f"{sum(c.verdict == 'holds' for c in own)} of {len(own)}"

    return (
        f"- **Shrinkage**: taken away, the push to more separability raises the error in "
        f"{found(TAKEN)} cases; planted, it lowers the error in {found(PLANTED)}."
    )


def effect_counts(summary: pd.DataFrame) -> Mapping[str, int]:
    """Over cases and kinds of edit: how "separate" and "gather" compare, and what converged."""
    ends = summary.pivot_table("MSE", ["concept", "SAE", "kind"], "path", sort=False)
    runs = summary[summary["converged"].notna()]
    return {
        "pairs": len(ends),
        "separate lower": int((ends["separate"] < 1).sum()),
        "gather lower": int((ends["gather"] < 1).sum()),
        "separate below gather": int((ends["separate"] < ends["gather"]).sum()),
        "converged": int(runs["converged"].astype(bool).sum()),
        "runs": len(runs),
    }
