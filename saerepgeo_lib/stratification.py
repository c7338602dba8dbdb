"""Case 1 (SAEMA): is the representation stratified? Ranks of a noise sweep, and the verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from saerepgeo_lib.claims import Claim, Verdict
from saerepgeo_lib.errors import choose
from saerepgeo_lib.noise_sweep import RESIDUAL, Sweep, permuted
from saerepgeo_lib.ranks import (
    RULES,
    gavish_donoho_rank,
    marchenko_pastur_rank,
    permutation_rank,
    relative_rank,
    weyl_bounds,
)
from saerepgeo_lib.statistics import mean_estimate

TAU = 0.01
VARIES = 0.05  # relative range below which a profile counts as constant


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
            if label.startswith(permuted("")):
                continue  # the counts of the SAE that was permuted
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
    groups = chosen.sort_values("level", kind="stable").groupby(
        ["label", "mode", "seed"], sort=False
    )["rank"]
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


def claims_table(claims: Sequence[Claim]) -> pd.DataFrame:
    """The findings as a table to read: question, subject, value, interval, p, n, verdict."""
    return pd.DataFrame(
        {
            "claim": c.id.removeprefix("case1-"),
            "subject": c.subject,
            "value": f"{c.value:.2f}",
            "95 % interval": f"{c.low:.2f} to {c.high:.2f}",
            "p": f"{c.p:.3f}",
            "n": c.n,
            "verdict": c.verdict,
        }
        for c in claims
    )


def ceiling_text(
    sweeps: Mapping[str, Sweep], ranks: Mapping[str, pd.DataFrame], *, rule: str, mode: int
) -> str:
    """Which profiles end, at the strongest noise, within 1 % of the largest rank there can be."""
    full = []
    for concept, table in ranks.items():
        last = table[
            (table["rule"] == rule)
            & (table["mode"] == mode)
            & (table["level"] == sweeps[concept].levels[-1])
        ]
        for label in sweeps[concept].labels:
            rank = last.loc[last["label"] == label, "rank"].mean()
            if rank >= 0.99 * min(sweeps[concept].shapes[label, mode]):
                full.append(f"{label} ({concept})")
    if not full:
        return "No profile ends at its ceiling, the shorter side of the unfolding."
    everyone = sum(len(result.labels) for result in sweeps.values())
    who = f"all {everyone} profiles stand" if len(full) == everyone else f"{', '.join(full)} stand"
    return (
        "**Mind the ceiling.** No rank exceeds the shorter side of the unfolding. At the strongest "
        f"noise {who} there. Where a profile ends at its ceiling, its relative range is decided by "
        "the clean rank alone."
    )


def verdict_text(claims: Sequence[Claim]) -> str:
    """The findings in words (Markdown): how many hold, the sizes, and the verdict by concept."""
    varies = [c for c in claims if c.id == "case1-rank-varies"]
    beyond = [c for c in claims if c.id == "case1-beyond-nulls"]
    by_null: dict[str, list[Claim]] = {}
    for claim in beyond:
        null = claim.subject.rpartition(" minus ")[2]
        null = "its permuted latents" if null.startswith(permuted("")) else f"the {null}"
        by_null.setdefault(null, []).append(claim)
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
