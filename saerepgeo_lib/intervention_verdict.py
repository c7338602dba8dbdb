"""Case 3's verdict: does separability cause reconstruction, for which autoencoders, and why."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from saerepgeo_lib.claims import Claim, Verdict
from saerepgeo_lib.dose_response import LEAST, PUSH
from saerepgeo_lib.statistics import Estimate, correlation, mean_estimate

_OFF_DOSE = 0.05


def judge_paths(responses: pd.DataFrame) -> list[Claim]:
    """Does the error fall as separability rises: pushed, and at the least error within reach?

    `responses`: rows of `dose_response` with columns concept and SAE. A claim holds for a case if
    the error is below that at dose 1, beyond chance (95 % interval over prompts), at every dose
    above 1; in part if at some. It cannot be tested where an edit missed its dose by more than
    5 %. Its numbers are those of the first dose above 1.
    """
    subjects = {"case3-separability-helps": PUSH["valid"], "case3-own-effect": LEAST["valid"]}
    claims = []
    for claim, path in subjects.items():
        part = responses[(responses["path"] == path) & (responses["dose"] > 1)]
        for (concept, sae), case in part.groupby(["concept", "SAE"], sort=False):
            lower = case["change high"] < 0
            verdict: Verdict = "does not hold"
            if lower.any():
                verdict = "holds" if lower.all() else "holds in part"
            if ((case["AEDP"] / case["dose"] - 1).abs() > _OFF_DOSE).any():
                verdict = "cannot be tested here"
            first = case.iloc[0]
            statistic = f"change of MSE at AEDP x {first['dose']:g}, {path}"
            claims.append(Claim.of(claim, f"{concept}: {sae}", statistic, _change(first), verdict))
    return claims


def judge_correlations(correlations: pd.DataFrame) -> list[Claim]:
    """Is the correlation of AEDP and error negative beyond chance, along valid pushes?

    `correlations`: `dose_response.correlations`. Pearson, pooled within cases by SAE and over all.
    """
    pushed = correlations[
        correlations["over"].isin(["SAE", "all"])
        & (correlations["path"] == PUSH["valid"])
        & (correlations["method"] == "pearson")
    ]
    claims = []
    for row in pushed.to_dict("records"):
        found = Estimate(row["r"], row["low"], row["high"], row["p"], int(row["n"]))
        subject = "all" if row["over"] == "all" else row["SAE"]
        statistic = f"Pearson r of AEDP and MSE, {row['path']}"
        claims.append(Claim.of("case3-correlation", subject, statistic, found, _negative(found)))
    return claims


def _negative(found: Estimate) -> Verdict:
    return "holds" if found.high < 0 and found.p <= 0.05 else "does not hold"


def judge_shrinkage(shrinkage: pd.DataFrame, unshrunk: pd.DataFrame) -> list[Claim]:
    """Does each autoencoder shrink; and does that explain the effect of a push?

    `shrinkage`: rows of `separability.shrinkage`, `unshrunk`: rows of `dose_response` with the
    shrinkage taken away (`scaling.unshrunk`), both with columns concept and SAE. That it explains
    the effect holds over all cases if elasticities along the gradient and by the theorem correlate
    beyond chance, and agree in sign wherever rho* differs from 1 beyond chance; and in a case, if
    without shrinkage a valid push to the first dose above 1 raises the error beyond chance.
    """
    claims = []
    for row in shrinkage.to_dict("records"):
        found = Estimate(row["rho*"] - 1, row["low"] - 1, row["high"] - 1, row["p"], int(row["n"]))
        verdict: Verdict = "holds" if found.is_positive else "does not hold"
        subject = f"{row['concept']}: {row['SAE']}"
        claims.append(Claim.of("case3-shrinks", subject, "rho* - 1", found, verdict))
    if len(shrinkage) >= 4:
        found = correlation(
            shrinkage["elasticity outward"].to_numpy(), shrinkage["steepest"].to_numpy()
        )
        decided = shrinkage[shrinkage["p outward"] <= 0.05]
        signs = np.sign(decided["steepest"]) == np.sign(1 - decided["rho* outward"])
        explained: Verdict = "holds" if found.low > 0 and signs.all() else "does not hold"
        claims.append(
            Claim.of(
                "case3-explained", "all cases", "elasticity: gradient against theorem (Pearson r)",
                found, explained,
            )
        )  # fmt: skip
    part = unshrunk[(unshrunk["path"] == PUSH["valid"]) & (unshrunk["dose"] > 1)]
    for (concept, sae), case in part.groupby(["concept", "SAE"], sort=False):
        first = case.iloc[0]
        rises: Verdict = "holds" if first["change low"] > 0 else "does not hold"
        statistic = f"change of MSE at AEDP x {first['dose']:g}, shrinkage taken away"
        claims.append(
            Claim.of("case3-explained", f"{concept}: {sae}", statistic, _change(first), rises)
        )
    return claims


def _change(row: pd.Series) -> Estimate:
    n = int(row["prompts"])
    return Estimate(row["change"], row["change low"], row["change high"], row["p"], n)


def judge_walks(walks: pd.DataFrame) -> list[Claim]:
    """Does a random walk alone make separability and error correlate negatively?

    `walks`: rows of `random_walk.within_walks`. The mean over walks, by SAE and measure.
    """
    claims = []
    for (label, measure), part in walks.groupby(["label", "measure"], sort=False):
        values = part["r"].dropna().to_numpy()
        if len(values) < 2:
            continue
        found = mean_estimate(values)
        low, high = np.clip([found.low, found.high], -1, 1)  # Student's interval may leave [-1, 1]
        found = replace(found, low=float(low), high=float(high))
        claims.append(
            Claim.of("case3-artefact", f"{label}: error {measure}", "mean Spearman within walks",
                     found, _negative(found))
        )  # fmt: skip
    return claims


def by_autoencoder(shrinkage: pd.DataFrame, responses: pd.DataFrame) -> pd.DataFrame:
    """The answer in one table: an SAE a row, ranges over concepts.

    Columns SAE, concepts, rho*, shrinks (cases beyond chance), and for each dose other than 1 the
    MSE ratio of the valid push, with how many cases lie below 1 beyond chance.
    """
    rows = []
    for sae, part in shrinkage.groupby("SAE", sort=False):
        row: dict[str, Any] = {
            "SAE": sae,
            "concepts": len(part),
            "rho*": _range(part["rho*"]),
            "shrinks": f"{int(((part['low'] > 1) & (part['p'] <= 0.05)).sum())} of {len(part)}",
        }
        pushed = responses[(responses["SAE"] == sae) & (responses["path"] == PUSH["valid"])]
        for dose, case in pushed.groupby("dose", sort=True):
            if dose == 1:
                continue
            lower = int((case["change high"] < 0).sum())
            row[f"MSE at x {dose:g}"] = f"{_range(case['MSE'])} (lower: {lower})"
        rows.append(row)
    return pd.DataFrame(rows).fillna("–")


def _range(values: pd.Series) -> str:
    low, high = values.min(), values.max()
    return f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f}"


def answer_text(
    shrinkage: pd.DataFrame, responses: pd.DataFrame, unshrunk: pd.DataFrame,
    walks: pd.DataFrame, *, random_label: str,
) -> str:  # fmt: skip
    """The answer in words (Markdown), every number from the run."""
    pushed = responses[(responses["path"] == PUSH["valid"]) & (responses["dose"] > 1)]
    claims = judge_paths(responses)
    tested = [c.verdict for c in claims if c.id == "case3-separability-helps"]
    lines = [
        f"**Over {len(tested)} cases (SAE and concept) the claim holds in {tested.count('holds')}, "
        f"holds in part in {tested.count('holds in part')}, does not hold in "
        f"{tested.count('does not hold')}, cannot be tested in "
        f"{tested.count('cannot be tested here')}.**",
        "",
    ]
    for sae, part in pushed.groupby("SAE", sort=False):
        own = shrinkage[shrinkage["SAE"] == sae]
        cases = [c["change high"] < 0 for _, c in part.groupby("concept", sort=False)]
        fell = [("yes" if c.all() else "part" if c.any() else "no") for c in cases]
        counts = {k: fell.count(k) for k in ("yes", "part", "no")}
        shrinks = int(((own["low"] > 1) & (own["p"] <= 0.05)).sum())
        first, last = part["dose"].min(), part["dose"].max()
        at = {d: part[part["dose"] == d]["MSE"] for d in (first, last)}
        lines.append(
            f"- **{sae}: {_verdict(counts)}.** rho* = {_range(own['rho*'])} (above 1 beyond chance "
            f"in {shrinks} of {len(own)} concepts). Pushing separability up by {first - 1:.0%} "
            f"takes the error to {_range(at[first])} of what it was, by {last - 1:.0%} to "
            f"{_range(at[last])}. More separable was better at every dose above 1 in "
            f"{counts['yes']} of {len(fell)} concepts, at some in {counts['part']}, at none in "
            f"{counts['no']}."
        )
    trained = shrinkage[shrinkage["SAE"].isin(responses["SAE"])]
    lines.append(
        "- **Separability as such decides nothing.** Among free edits the same least error, "
        f"{_range(trained['least MSE'])} of the unedited one, is within reach at every "
        f"separability from AEDP x {_range(trained['free from'])} on (by concept and SAE)."
    )
    helped = [c for c in judge_shrinkage(shrinkage, unshrunk) if c.subject != "all cases"]
    helped = [c for c in helped if c.id == "case3-explained"]
    lines.append(
        "- **Shrinkage explains what effect there is.** Take it away (decoder times rho*) and "
        f"the same push to more separability raises the error in "
        f"{sum(c.verdict == 'holds' for c in helped)} of {len(helped)} cases."
    )
    r = walks[walks["label"] == random_label].groupby("measure")["r"].median()
    lines.append(
        f"- **The reported correlation appears where nothing was learned.** Random walk, random "
        f"model, random SAE: median Spearman {r['z-scored']:+.2f} with the authors' z-scored "
        f"error, {r['own']:+.2f} with the SAE's own."
    )
    return "\n".join(lines)


def _verdict(counts: Mapping[str, int]) -> str:
    if counts["yes"] == sum(counts.values()):
        return "holds"
    return "does not hold" if counts["no"] == sum(counts.values()) else "holds in part"
