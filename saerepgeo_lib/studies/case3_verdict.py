"""Case 3's verdict: does separability cause reconstruction, for which autoencoders, and why."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from saerepgeo_lib.stats.claims import UNTESTED, VERDICTS, Claim, Verdict
from saerepgeo_lib.stats.estimates import Estimate
from saerepgeo_lib.stats.words import said, span
from saerepgeo_lib.steering.dose_response import LEAST, PUSH
from saerepgeo_lib.steering.random_walk import within_walks
from saerepgeo_lib.studies.steering_experiment import NOTHING, PLANTED, TAKEN, SteeringExperiment
from saerepgeo_lib.text import plain

_OFF_DOSE = 0.05
_ALL_EQUAL = "all replicates over prompts are equal: the prompts are copies of each other"
_HELPS, _OWN, _EXPLAINED = "case3-separability-helps", "case3-own-effect", "case3-explained"
_OVER_PROMPTS = (_HELPS, _OWN, _EXPLAINED, "case3-shrinks")
_CASE = ["concept", "SAE"]
# columns of estimates
_CHANGE = ("change", "change low", "change high", "p", "groups")
_SLOPE = ("slope", "slope low", "slope high", "slope p", "slope n")


def judge_steering(
    case3: SteeringExperiment, *, tokens: Literal["content", "entity"] = "content"
) -> list[Claim]:
    """All findings of Case 3, on which `tokens`; the judges take the tables of these names."""
    claims = [
        *judge_push(case3.shrinkage, case3.responses),
        *judge_least(case3.responses),
        *judge_correlations(case3.correlations),
        *judge_shrinkage(case3.shrinkage),
        *judge_manipulations(case3.shrinkage_changed),
        *judge_walks(within_walks(case3.walks)),
    ]
    return [replace(claim, tokens=tokens) for claim in claims]


def judge_push(shrinkage: pd.DataFrame, responses: pd.DataFrame) -> Iterator[Claim]:
    """Does the error fall as separability is pushed up?

    It holds for a case if along valid pushes the error is lower beyond chance at every dose above
    1; in part if a small push lowers it beyond chance: an elasticity along the gradient below 0, of
    which the numbers are. It cannot be tested where a push missed its dose by more than 5 %, nor,
    unless it holds, where the elasticity has no interval.
    """
    laws = shrinkage.set_index(_CASE).to_dict("index")
    statistic = "elasticity of MSE along the gradient of AEDP"
    for case, rows in _above(responses, PUSH["valid"]).groupby(_CASE, sort=False):
        slope, holds = _estimate(laws[case], *_SLOPE), bool(_lower(rows).all())
        testable = not _off_dose(rows) and (holds or not np.isnan(slope.p))
        verdict = _verdict(holds, slope.high < 0 and slope.p <= 0.05, testable=testable)
        yield _claim(_HELPS, rows.iloc[0], slope, verdict, statistic=statistic)


def judge_least(responses: pd.DataFrame) -> Iterator[Claim]:
    """Does the least error found among valid latents (an upper bound) fall as separability rises?

    It holds for a case if beyond chance it does at every dose above 1, in part if at some. The
    numbers are those of the first of them.
    """
    for _, rows in _above(responses, LEAST["valid"]).groupby(_CASE, sort=False):
        lower, first = _lower(rows), rows.iloc[0]
        verdict = _verdict(lower.all(), lower.any(), testable=not _off_dose(rows))
        change, dose = _estimate(first, *_CHANGE), float(first["dose"])
        yield _claim(_OWN, first, change, verdict, statistic="change of the least MSE", dose=dose)


def judge_correlations(correlations: pd.DataFrame) -> Iterator[Claim]:
    """Do AEDP and error correlate negatively over the doses: pushed, and at the least error?

    Pearson, pooled within cases by SAE and over all; by its sign and p alone, as doses are set.
    """
    pooled = correlations[correlations["over"].isin(["SAE", "all"])].replace({"SAE": {"all": ""}})
    paths = [LEAST["free"], LEAST["valid"], PUSH["valid"]]
    pearson = pooled[pooled["path"].isin(paths) & (pooled["method"] == "pearson")]
    for row in pearson.assign(concept="").to_dict("records"):
        r = _estimate(row, "r", "low", "high", "p", "n")
        verdict = _verdict(r.value < 0 and r.p <= 0.05, testable=not np.isnan(r.value))
        statistic = f"Pearson r of AEDP and MSE, {row['path']}"
        yield _claim("case3-correlation", row, r, verdict, statistic=statistic)


def judge_shrinkage(shrinkage: pd.DataFrame) -> Iterator[Claim]:
    """Does each autoencoder shrink: is rho* above 1 beyond chance, all latents scaled?"""
    for row in shrinkage.to_dict("records"):
        excess = Estimate(row["rho*"] - 1, row["low"] - 1, row["high"] - 1, row["p"], int(row["n"]))
        verdict = _verdict(excess.is_positive, testable=not np.isnan(excess.p))
        yield _claim("case3-shrinks", row, excess, verdict, statistic="rho* - 1")


def judge_manipulations(manipulated: pd.DataFrame) -> Iterator[Claim]:
    """Does the effect of separability come and go with shrinkage?

    It holds for a case and path if at the first dose above 1 the error is higher, beyond chance,
    where shrinkage was taken away (`scaling.with_optimum`), and lower where it was planted.
    """
    above = manipulated[manipulated["dose"] > 1].groupby([*_CASE, "shrinkage", "path"], sort=False)
    for row in above.head(1).to_dict("records"):
        change = _estimate(row, *_CHANGE)
        right = change.low > 0 if row["shrinkage"] == TAKEN else change.high < 0
        yield _claim(
            _EXPLAINED, row, change, _verdict(right), statistic=f"change of MSE, {row['path']}",
            condition=f"shrinkage {row['shrinkage']}", dose=float(row["dose"]),
        )  # fmt: skip


def judge_walks(walks: pd.DataFrame) -> Iterator[Claim]:
    """Do random walks alone make separability and error correlate negatively?

    It holds if r is negative in every walk, in part if in most. The median over walks, with the
    least and the largest: no interval and no p, since the walks of one model and SAE differ in
    their noise only.
    """
    for (label, measure), part in walks.groupby(["label", "measure"], sort=False):
        r = part["r"].dropna()
        median = Estimate(float(r.median()), float(r.min()), float(r.max()), np.nan, len(r))
        yield _claim(
            "case3-artefact", {"concept": "", "SAE": label}, median,
            _verdict((r < 0).all(), (r < 0).mean() > 0.5), condition=f"error {measure}",
            statistic="median Spearman within walks [least, largest]",
        )  # fmt: skip


def _verdict(holds: Any, in_part: Any = False, *, testable: bool = True) -> Verdict:
    if not testable:
        return UNTESTED
    return "holds" if holds else "holds in part" if in_part else "does not hold"


def _claim(id: str, row: Any, estimate: Estimate, verdict: Verdict, **fields: Any) -> Claim:
    case = {"concept": row["concept"], "autoencoder": row["SAE"]}
    if id in _OVER_PROMPTS and estimate.low == estimate.high != 0:  # 0: the edit changed nothing
        verdict, fields = UNTESTED, {**fields, "reason": _ALL_EQUAL}
    return Claim.of(id, estimate, verdict, **case, **fields)


def _estimate(row: Any, value: str, low: str, high: str, p: str, n: str) -> Estimate:
    return Estimate(row[value], row[low], row[high], row[p], int(row[n]))


def _above(responses: pd.DataFrame, path: str) -> pd.DataFrame:
    return responses[(responses["path"] == path) & (responses["dose"] > 1)]


def _lower(rows: pd.DataFrame) -> pd.Series:
    return (rows["change high"] < 0) & (rows["p"] <= 0.05)


def _off_dose(rows: pd.DataFrame) -> bool:
    return bool(((rows["AEDP"] / rows["dose"] - 1).abs() > _OFF_DOSE).any())


def steering_answer(shrinkage: pd.DataFrame, responses: pd.DataFrame) -> pd.DataFrame:
    """The answer in one table, a row per SAE, ranges over concepts.

    Columns SAE; rho* (all latents scaled), rho* outward (clusters moved outward); helps up to,
    saves at best (by the theorem, outward); and for each dose other than 1 the MSE ratio of the
    valid push, where it was run.
    """
    rows = []
    pushed = responses[(responses["path"] == PUSH["valid"]) & (responses["dose"] != 1)]
    for sae, law in shrinkage.groupby("SAE", sort=False):
        ranges = {name: span(law[name]) for name in ("rho*", "rho* outward", "helps up to")}
        by_dose = pushed[pushed["SAE"] == sae].groupby("dose")["MSE"]
        rows.append({
            "SAE": sae, **ranges, "saves at best": span(100 * law["gain"], ".1f") + " %",
            **{f"MSE at x {dose:g}": span(errors) for dose, errors in by_dose},
        })  # fmt: skip
    return pd.DataFrame(rows).fillna("not run")


def _at_doses(rows: pd.DataFrame, column: str, scale: float, digits: int, unit: str = "") -> str:
    """Ranges over cases at each dose: "0.98 at x 1.2, 1.02 at x 1.5"."""
    parts = rows.groupby("dose")[column]
    return ", ".join(f"{span(scale * v, f'.{digits}f')}{unit} at x {dose:g}" for dose, v in parts)


def steering_answer_text(
    shrinkage: pd.DataFrame, responses: pd.DataFrame, claims: Sequence[Claim], walks: pd.DataFrame
) -> str:
    """The answer in words (Markdown), every number and verdict from the run.

    `claims` are those of this module's judges on the same tables.
    """
    tested = [c for c in claims if c.id == _HELPS]
    lines = [f"**Over {len(tested)} cases (SAE and concept) the claim {_counts(tested)}.**", ""]
    for sae in dict.fromkeys(responses["SAE"]):
        mine = [c for c in tested if c.autoencoder == sae]
        if mine and all(c.reason for c in mine):
            lines.append(f"- **{plain(sae)}: withheld.** {plain(mine[0].reason)}")
            continue
        law = shrinkage[shrinkage["SAE"] == sae]
        pushed = _above(responses[responses["SAE"] == sae], PUSH["valid"])
        lines.append(
            f"- **{plain(sae)}: {_counts(mine)}.** More "
            f"separable helps up to AEDP x {span(law['helps up to'])} and saves at best "
            f"{span(100 * law['gain'], '.1f')} % of the error (rho* outward = "
            f"{span(law['rho* outward'])}); pushed further, the error is "
            f"{_at_doses(pushed, 'MSE', 1, 2)} of what it was."
        )
    least = responses[(responses["path"] == LEAST["valid"]) & (responses["dose"] != 1)]
    came, gone = (_explained(claims, kind) for kind in (PLANTED, TAKEN))
    lines += [
        _free_text(shrinkage[shrinkage["SAE"].isin(responses["SAE"])]),
        f"- **Valid codes**: the least error found differs from that at x 1 by "
        f"{_at_doses(least, 'change', 100, 0, ' %')}. That it falls as separability rises "
        f"{_counts([c for c in claims if c.id == _OWN])}.",
        f"- **Shrinkage**: taken away, the push to more separability raises the error in {gone} "
        f"cases; planted, it lowers the error in {came}.",
        _walks_text(walks[walks["label"] == NOTHING]),
    ]
    return "\n".join(lines)


def _walks_text(walks: pd.DataFrame) -> str:
    """What random walks do where nothing was learned."""
    start = "- **Where nothing was learned**"
    if walks.empty:
        return (
            f"{start}: cannot be tested here; in the random model the tokens do not fall into "
            "clusters."
        )
    r = walks.groupby("measure")["r"].median()
    apart, together = (span(100 * (1 - walks[way]), ".1f") for way in ("apart", "together"))
    return (
        f"{start} (random walk, random model, random SAE): AEDP and the authors' z-scored error "
        f"have a median Spearman of {said(r['z-scored'], '+.2f')}; AEDP and the SAE's own error "
        f"{said(r['own'], '+.2f')}. The z-scored error falls by {apart} % when the clusters walk "
        f"apart, and by {together} % when they walk together, at constant AEDP."
    )


def _counts(claims: Sequence[Claim]) -> str:
    counts = {verdict: sum(c.verdict == verdict for c in claims) for verdict in VERDICTS}
    if len(claims) in counts.values():
        return next(verdict for verdict, n in counts.items() if n == len(claims))
    return ", ".join(f"{verdict} in {n}" for verdict, n in counts.items() if n)


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
        f"{span(reached['free from'])} on, the same least error "
        f"({span(reached['least MSE'])} of the unedited one) is within reach at every "
        "separability; below, it rises."
    )
    return text + (f" In {others} cases no direction is unseen." if others else "")


def _explained(claims: Sequence[Claim], kind: str) -> str:
    """In how many cases a valid push did as the changed shrinkage says."""
    case = (_EXPLAINED, f"shrinkage {kind}", f"change of MSE, {PUSH['valid']}")
    same = [c for c in claims if (c.id, c.condition, c.statistic) == case]
    return f"{sum(c.verdict == 'holds' for c in same)} of {len(same)}"


def objective_counts(summary: pd.DataFrame) -> Mapping[str, int]:
    """Over cases and kinds of edit: how "separate" and "gather" compare, and what converged."""
    ends = summary.pivot_table("MSE", ["concept", "SAE", "kind"], "path", sort=False)
    runs = summary["converged"].dropna()
    return {
        "pairs": len(ends),
        "separate lower": int((ends["separate"] < 1).sum()),
        "gather lower": int((ends["gather"] < 1).sum()),
        "separate below gather": int((ends["separate"] < ends["gather"]).sum()),
        "converged": int(runs.astype(bool).sum()),
        "runs": len(runs),
    }


def objectives_text(counts: Mapping[str, int]) -> str:
    """`objective_counts` in words."""
    return (
        f"Over {counts['pairs']} cases and kinds of edit, *separate* ends below the unedited error "
        f"in {counts['separate lower']}, *gather* in {counts['gather lower']}; *separate* ends "
        f"below *gather* in {counts['separate below gather']}. Converged: {counts['converged']} of "
        f"{counts['runs']} optimisations."
    )


def gradient_text(shrinkage: pd.DataFrame) -> str:
    """Whether theorem and gradient agree: elasticity outward, slope and cosine, in words."""
    outward, slope, cosine = (shrinkage[k] for k in ("elasticity outward", "slope", "cosine"))
    return (
        f"Theorem and gradient have the same sign in {(outward * slope > 0).sum()} of "
        f"{len(shrinkage)} cases (r = {said(outward.corr(slope), '.3f')}; the cases share concepts "
        f"and autoencoders); cosines from {span(cosine)}."
    )


def downstream_text(effects: pd.DataFrame, name: str) -> str:
    """What steering does to the model, beside the SAE's own reconstruction (Markdown)."""
    if effects.empty:
        return "Skipped: n_downstream is 0."
    lines = []
    for (concept, sae), part in effects.groupby(_CASE, sort=False):
        numbers = part[["effect", "low", "high"]].map(said, form=".3f")
        words = part["path"] + " " + numbers["effect"]
        words += " [" + numbers["low"] + ", " + numbers["high"] + "]"
        lines.append(f"- {plain(f'{concept}, {sae}, {name}')}: {'; '.join(words)}.")
    return "\n".join(lines)
