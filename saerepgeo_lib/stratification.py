"""Case 1 (SAEMA): is the representation stratified? Ranks of a noise sweep, and the verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import stats

from saerepgeo_lib.claims import Claim, Verdict
from saerepgeo_lib.errors import UserError, choose
from saerepgeo_lib.noise_sweep import RESIDUAL, Sweep, check_levels, permuted, randomized
from saerepgeo_lib.ranks import (
    RULES,
    gavish_donoho_rank,
    marchenko_pastur_rank,
    permutation_rank,
    relative_rank,
    weyl_bounds,
)
from saerepgeo_lib.statistics import Estimate, mean_estimate
from saerepgeo_lib.tensors import MODES

TAU = 0.01
VARIES = 0.05  # relative range below which a profile counts as constant
MIN_SEEDS = 7  # with 6 the sign-flip test cannot reject above 2/64, with fewer not at 0.05


def check_parameters(
    *,
    positions: str,
    noise_levels: Sequence[float],
    noise_scaling: str,
    n_seeds: int,
    rank_rule: str,
    rank_mode: int,
    tau: float,
    concepts: str,
) -> None:
    """Refuse what the page could not use, before anything is loaded."""
    choose("positions", positions, ("content", "entity"))
    choose("noise scaling", noise_scaling, ("relative", "absolute"))
    choose("rank rule", rank_rule, RULES)
    check_levels(noise_levels)
    if rank_mode not in MODES:
        raise UserError(f"rank_mode is 1 (prompt), 2 (token) or 3 (feature), got {rank_mode}")
    if n_seeds < 2:
        raise UserError(f"n_seeds must be at least 2, got {n_seeds}: an interval needs them")
    if not 0 < tau < 1:
        raise UserError(f"tau must lie strictly between 0 and 1, got {tau}")
    if not concepts.replace(",", "").strip():
        raise UserError("concept is empty; name one, or several separated by commas")


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


def summarise(ranks: pd.DataFrame) -> pd.DataFrame:
    """A rank table over its seeds: mean, smallest and largest rank, mean tolerance, n."""
    groups = ranks.groupby(["label", "mode", "level", "rule"], sort=False)
    return groups.agg(
        mean=("rank", "mean"),
        low=("rank", "min"),
        high=("rank", "max"),
        tolerance=("tolerance", "mean"),
        n=("rank", "size"),
    ).reset_index()


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
                s = spectra[0, j, : min(result.shapes[label, mode])]
                moved = float(result.shift[label, mode][i, j])
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
                continue  # it has the counts of the SAE that was permuted
            active, l0 = result.active[label].mean(1), result.l0[label].mean(1)
            ever, n_tokens = result.shapes[label, 3]
            rows.append((concept, label, n_tokens, ever, active[0], active[-1], l0[0], l0[-1]))
    columns = ["concept", "label", "tokens", "any level", "no noise", "most noise"]
    return pd.DataFrame(rows, columns=[*columns, "L0 no noise", "L0 most noise"])


def variability(ranks: pd.DataFrame, *, rule: str) -> pd.DataFrame:
    """Relative range of each profile: (max - min over levels) / rank at level 0.

    One row per label, mode and seed; columns label, mode, seed, variability.
    """
    choose("rank rule", rule, RULES)
    chosen = ranks[ranks["rule"] == rule]
    groups = chosen.sort_values("level", kind="stable").groupby(
        ["label", "mode", "seed"], sort=False
    )["rank"]
    spread = (groups.max() - groups.min()) / groups.first()
    return spread.rename("variability").reset_index()


def judge(
    ranks: pd.DataFrame,
    ceilings: Mapping[str, int],
    *,
    concept: str,
    rule: str,
    mode: int,
    sparse: Sequence[str],
) -> list[Claim]:
    """Findings on Case 1's claims for one concept.

    *Varies*: the mean relative range exceeds `VARIES`. *Beyond the nulls*: the paired difference
    of relative ranges to a null is above 0. Each holds if its 95 % interval over seeds lies
    above that bound and its sign-flip p is at most 0.05. A comparison cannot be tested with
    fewer than `MIN_SEEDS` seeds, or if the null has no room to vary: its clean rank stands at its
    ceiling (`ceilings`, by label). *Stratified* holds if every SAE's rank varies and every
    comparison holds; holds in part if that is true of the testable comparisons, at least one
    of which exists for each SAE; cannot be tested if none is testable.
    """
    part = variability(ranks, rule=rule).query("mode == @mode")
    spread = part.set_index(["label", "seed"])["variability"].unstack()
    start = ranks.query("rule == @rule and mode == @mode and level == 0")
    clean = start.groupby("label")["rank"].mean()
    statistic = f"relative range of the {rule} rank, mode {mode}"

    def verdict(sample: np.ndarray, *, testable: bool = True) -> tuple[Estimate, Verdict]:
        found = mean_estimate(sample)
        if not testable or found.n < MIN_SEEDS:
            return found, "cannot be tested here"
        return found, "holds" if found.is_positive else "does not hold"

    varies, beyond = [], []
    for label in sparse:
        sample = spread.loc[label].to_numpy()
        above, outcome = verdict(sample - VARIES)
        found = replace(mean_estimate(sample), p=above.p)
        varies.append(
            Claim.of("case1-rank-varies", f"{concept}: {label}", statistic, found, outcome)
        )
        for null in nulls_of(label, list(spread.index), sparse):
            other = spread.loc[null].to_numpy()
            room = bool(clean[null] < 0.99 * ceilings[null])
            gap, outcome = verdict(sample - other, testable=room)
            subject = f"{concept}: {label} minus {null}"
            beyond.append(Claim.of("case1-beyond-nulls", subject, statistic, gap, outcome))
    tested = [c for c in beyond if c.verdict != "cannot be tested here"]
    every = all(any(c.subject.startswith(f"{concept}: {x} minus") for c in tested) for x in sparse)
    overall: Verdict = "does not hold"
    if not tested:
        overall = "cannot be tested here"
    elif every and all(c.verdict == "holds" for c in [*varies, *tested]):
        overall = "holds" if len(tested) == len(beyond) else "holds in part"
    weakest = min(tested or beyond, key=lambda claim: claim.value)
    summary = replace(
        weakest,
        id="case1-stratified",
        subject=f"{concept}: weakest difference, {weakest.subject.partition(': ')[2]}",
        verdict=overall,
    )
    return [*varies, *beyond, summary]


def skewness(spread: Mapping[str, pd.DataFrame], *, mode: int) -> dict[str, float]:
    """Skewness over seeds of each relative range, by "concept: label"; 0 if it is constant."""
    found = {}
    for concept, table in spread.items():
        for label, part in table[table["mode"] == mode].groupby("label", sort=False):
            values = part["variability"].to_numpy()
            found[f"{concept}: {label}"] = float(stats.skew(values)) if np.ptp(values) > 0 else 0.0
    return found


def nulls_of(label: str, labels: Sequence[str], sparse: Sequence[str]) -> list[str]:
    """The nulls for an SAE: all that is no SAE, but neither null of another SAE."""
    others = {f(x) for x in sparse if x != label for f in (permuted, randomized)}
    return [name for name in labels if name not in sparse and name not in others]


def ceilings(result: Sweep, *, mode: int) -> dict[str, int]:
    """The largest rank that each representation's unfolding can have: its shorter side."""
    return {label: min(result.shapes[label, mode]) for label in result.labels}


def by_rule(ranks: Mapping[str, pd.DataFrame], *, mode: int) -> pd.DataFrame:
    """Mean relative range over concepts and seeds: a row a representation, a column a rule."""
    tables = []
    for table in ranks.values():
        for rule in RULES:
            tables.append(variability(table, rule=rule).query("mode == @mode").assign(rule=rule))
    means = pd.concat(tables).pivot_table("variability", "label", "rule", sort=False)
    return means.rename_axis(None).rename_axis(None, axis=1).reset_index(names="representation")


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
        null = {"permuted": "its permuted latents", "random": "its random encoder"}.get(
            null.partition(" ")[0], f"the {null}"
        )
        by_null.setdefault(null, []).append(claim)
    held = sum(c.verdict == "holds" for c in varies)
    lines = [
        f"- **The rank varies** in {held} of {len(varies)} cases: relative range "
        f"{min(c.value for c in varies):.2f} to {max(c.value for c in varies):.2f}."
    ]
    for null, found in by_null.items():
        held = sum(c.verdict == "holds" for c in found)
        untestable = sum(c.verdict == "cannot be tested here" for c in found)
        lines.append(
            f"- **Against {null}** the SAE varies more in {held} of the {len(found) - untestable} "
            f"cases that can be tested; {untestable} cannot (difference "
            f"{min(c.value for c in found):+.2f} to {max(c.value for c in found):+.2f})."
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
