"""Case 1's verdict: does the rank vary, and more than in every null?"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from saerepgeo_lib.rank.noise_sweep import Sweep, permuted, randomized
from saerepgeo_lib.rank.profiles import ceilings, nulls_of, variability
from saerepgeo_lib.stats.claims import UNTESTED, Claim, Verdict
from saerepgeo_lib.stats.estimates import mean_estimate
from saerepgeo_lib.stats.words import span
from saerepgeo_lib.studies.rank_profile import RankProfile
from saerepgeo_lib.text import plain

VARIES = 0.05  # relative range below which a profile counts as constant
FULL = 0.99  # share of its ceiling from which a rank has no room to vary
MIN_SEEDS = 7  # with 6 the sign-flip test cannot reject above 2/64, with fewer not at 0.05


def rank_claims(profiles: Iterable[RankProfile], *, sparse: Sequence[str]) -> list[Claim]:
    """Findings on Case 1's claims for several concepts, in the mode and rule of their profiles."""
    claims = []
    for p in profiles:
        bounds, case = ceilings(p.sweep, mode=p.mode), {"concept": p.concept, "tokens": p.tokens}
        claims += judge(p.ranks, bounds, rule=p.rule, mode=p.mode, sparse=sparse, **case)
    return claims


def judge(
    ranks: pd.DataFrame, ceilings: Mapping[str, int], *, concept: str, rule: str, mode: int,
    sparse: Sequence[str], tokens: str = "content",
) -> list[Claim]:  # fmt: skip
    """Findings on Case 1's claims for one concept.

    *Varies*: the mean relative range exceeds `VARIES`. *Beyond the nulls*: its paired difference to
    a null exceeds 0. Each holds if the 95 % interval over seeds lies above that bound and the
    sign-flip p is at most 0.05. A comparison cannot be tested with fewer than `MIN_SEEDS` seeds, or
    if the null's clean rank stands at its ceiling (`ceilings`, by label). *Stratified* holds if
    every SAE's rank varies and every comparison holds; in part if so do those that can be tested,
    at least one for each SAE; it cannot be tested if none can. It carries the numbers of the
    weakest difference.
    """
    spread = variability(ranks, rule=rule).query("mode == @mode")
    spread = spread.set_index(["label", "seed"])["variability"].unstack()
    start = ranks.query("rule == @rule and mode == @mode and level == 0")
    clean = start.groupby("label")["rank"].mean()

    def claim(id: str, sample: np.ndarray, bound: float, reason: str = "", **case: Any) -> Claim:
        above, estimate = mean_estimate(sample - bound), mean_estimate(sample)
        verdict: Verdict = "holds" if above.is_positive else "does not hold"
        if estimate.n < MIN_SEEDS:
            reason = f"a verdict needs at least {MIN_SEEDS} seeds"
        return Claim.of(
            id, replace(estimate, p=above.p), UNTESTED if reason else verdict, reason=reason,
            statistic=f"relative range of the {rule} rank, mode {mode}",
            concept=concept, tokens=tokens, **case,
        )  # fmt: skip

    varies, beyond = [], []
    for label in sparse:
        sample = spread.loc[label].to_numpy()
        varies.append(claim("case1-rank-varies", sample, VARIES, autoencoder=label))
        for null in nulls_of(label, list(spread.index), sparse):
            gap = sample - spread.loc[null].to_numpy()
            full = "" if clean[null] < FULL * ceilings[null] else f"{null} starts at its ceiling"
            case = {"autoencoder": label, "against": null}
            beyond.append(claim("case1-beyond-nulls", gap, 0, full, **case))
    tested = [c for c in beyond if c.verdict != UNTESTED]
    overall: Verdict = "does not hold" if tested else UNTESTED
    all_hold = all(c.verdict == "holds" for c in [*varies, *tested])
    if all_hold and {c.autoencoder for c in tested} == set(sparse):
        overall = "holds" if len(tested) == len(beyond) else "holds in part"
    weakest = min(tested or beyond, key=lambda claim: claim.value)
    reason = weakest.reason if overall == UNTESTED else ""
    return [
        *varies, *beyond, replace(weakest, id="case1-stratified", verdict=overall, reason=reason)
    ]  # fmt: skip


def claims_table(claims: Sequence[Claim]) -> pd.DataFrame:
    """Findings to read: claim, case, statistic, value, 95 % interval, p, n, verdict."""
    return pd.DataFrame(
        {"claim": c.id.removeprefix("case1-"), "case": c.case, "statistic": c.statistic,
         "value": f"{c.value:.2f}", "95 % interval": f"{c.low:.2f} to {c.high:.2f}",
         "p": f"{c.p:.3f}", "n": c.n, "verdict": c.verdict}
        for c in claims
    )  # fmt: skip


def ceiling_text(
    sweeps: Mapping[str, Sweep], ranks: Mapping[str, pd.DataFrame], *, rule: str, mode: int
) -> str:
    """Which profiles end, at the strongest noise, within 1 % of the largest rank there can be."""
    full = []
    for concept, table in ranks.items():
        chosen = table[(table["rule"] == rule) & (table["mode"] == mode)]
        last = chosen[chosen["level"] == chosen["level"].max()].groupby("label")["rank"].mean()
        bounds = ceilings(sweeps[concept], mode=mode)
        full += [
            plain(f"{label} ({concept})") for label, n in bounds.items() if last[label] >= FULL * n
        ]
    if not full:
        return "No profile ends at its ceiling, the largest rank that its unfolding can have."
    everyone = sum(len(result.labels) for result in sweeps.values())
    who = f"all {everyone} profiles stand" if len(full) == everyone else f"{', '.join(full)} stand"
    return (
        "**Mind the ceiling.** No rank exceeds the shorter side of the unfolding, nor the number "
        f"of distinct points in it. At the strongest noise {who} there. Where a profile ends at "
        "its ceiling, its relative range is decided by the clean rank alone."
    )


def rank_verdict_text(claims: Sequence[Claim]) -> str:
    """The findings in words (Markdown): how many hold, the sizes, and the verdict by concept."""
    by_null: dict[str, list[Claim]] = {}
    for claim in (c for c in claims if c.id == "case1-beyond-nulls"):
        names = {
            permuted(claim.autoencoder): "its permuted latents",
            randomized(claim.autoencoder): "its random encoder",
        }
        by_null.setdefault(names.get(claim.against, plain(f"the {claim.against}")), []).append(
            claim
        )

    def count(claims: list[Claim], verdict: Verdict) -> int:
        return sum(c.verdict == verdict for c in claims)

    varies = [c for c in claims if c.id == "case1-rank-varies"]
    lines = [
        f"- **The rank varies** in {count(varies, 'holds')} of {len(varies)} cases: relative range "
        f"{span((c.value for c in varies), '.2f')}."
    ]
    for null, group in by_null.items():
        untested = count(group, UNTESTED)
        lines.append(
            f"- **Against {null}** the SAE varies more in {count(group, 'holds')} of the "
            f"{len(group) - untested} cases that can be tested; {untested} cannot (difference "
            f"{span((c.value for c in group), '+.2f')})."
        )
    for c in (c for c in claims if c.id == "case1-stratified"):
        case = f"{plain(c.concept)}{' (entity)' * (c.tokens == 'entity')}"
        why = plain(c.reason) if np.isnan(c.value) else (
            f"Weakest difference, {plain(f'{c.autoencoder} minus {c.against}')}: {c.value:+.2f} "
            f"(95 % interval {c.low:+.2f} to {c.high:+.2f}, p = {c.p:.3f}, n = {c.n} seeds)."
        )  # fmt: skip
        lines.append(f"- **{case}: {c.verdict}.** {why}")
    return "\n".join(lines)
