"""What carries over from language: claims asked again of vision, finding beside finding."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from saerepgeo_lib import stratification
from saerepgeo_lib.claims import Claim

_WEAKEST = re.compile(r", minus .*")  # the control that a finding over several controls names
_DICTATED = "case3-explained"  # the sign follows from the theorem, once the shrinkage is set
# The claims on language that are asked again, and their names here: all that the page computes.
REPEATED = {
    name: f"vision-{name.partition('-')[2]}"
    for name in (
        "case1-rank-varies", "case1-beyond-nulls", "case2-dimension-up", "case2-substructure-up",
        "case2-global-compressed", "case2-merging", "case2-distinction-up", "case2-learned",
        "case3-separability-helps", "case3-own-effect", "case3-shrinks", "case3-explained",
    )
}  # fmt: skip
DRAWN = [name for name in REPEATED if name not in (
    "case1-beyond-nulls", "case2-dimension-up", "case2-substructure-up", "case2-merging",
    "case2-learned",
)]  # fmt: skip
ABOVE, BELOW, UNDECIDED = "above", "below", "undecided"


def repeated(claims: Sequence[Claim]) -> list[Claim]:
    """The findings on claims that are asked again of vision, under their own names there."""
    return [replace(claim, id=REPEATED[claim.id]) for claim in claims if claim.id in REPEATED]


def beside_language(language: pd.DataFrame, vision: Sequence[Claim]) -> pd.DataFrame:
    """What carries over: a row a finding in vision, beside the same case's findings on language.

    `language` is a table of `compare.read_claims`. Columns claim, tokens (content or entity), case
    (SAE and control), statistic; median and concepts (of language, and of how many); language and
    vision (which side of 0 the 95 % interval lies on: above, below or undecided; of language: of
    more than half the concepts); value, low, high (vision); outcome (same, opposite, or undecided
    where one of both is). A rank that varies is held against the bound of Case 1, not against 0.
    Case 1's verdict over all controls at once is left out.
    """
    told = language.assign(
        tokens=language["subject"].map(_tokens), case=language["subject"].map(_case)
    )
    rows = []
    for c in vision:
        if c.id not in REPEATED:
            continue
        bound = stratification.VARIES if c.id == "case1-rank-varies" else 0.0
        tokens, case = _tokens(c.subject), _case(c.subject)
        keys = {"id": c.id, "tokens": tokens, "case": case, "statistic": c.statistic}
        same = told[(told[list(keys)] == pd.Series(keys)).all(axis=1)]
        same = same[same["value"].notna()]
        sides = [_side(row, bound) for row in same.to_dict("records")]
        there = next((s for s in (ABOVE, BELOW) if 2 * sides.count(s) > len(sides)), UNDECIDED)
        here = _side(vars(c), bound)
        outcome = UNDECIDED
        if UNDECIDED not in (here, there):
            outcome = "same" if here == there else "opposite"
        rows.append((c.id, tokens, case, c.statistic, same["value"].median(), len(same), there,
                     c.value, c.low, c.high, here, outcome))  # fmt: skip
    columns = ["claim", "tokens", "case", "statistic", "median", "concepts", "language", "value",
               "low", "high", "vision", "outcome"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _side(finding: Mapping[Any, Any], bound: float) -> str:
    """The side of the bound on which the whole interval lies."""
    if finding["verdict"] == "cannot be tested here":
        return UNDECIDED
    return ABOVE if finding["low"] > bound else BELOW if finding["high"] < bound else UNDECIDED


def _tokens(subject: str) -> str:
    """Which tokens a finding is about, from its subject: "digits (entity): TopK SAE ..."."""
    return "entity" if subject.partition(": ")[0].endswith(" (entity)") else "content"


def _case(subject: str) -> str:
    """The autoencoder and control of a finding, without the concept.

    Of "is it learned?" without the control, which is the one that leaves least.
    """
    return _WEAKEST.sub("", subject.partition(": ")[2])


def carried_over(beside: pd.DataFrame) -> pd.DataFrame:
    """The table of `beside_language` by claim: findings, and how many come out how."""
    counts = pd.crosstab(beside["claim"], beside["outcome"])
    counts = counts.reindex(columns=["same", "opposite", UNDECIDED], fill_value=0)
    return counts.loc[beside["claim"].unique()].rename_axis(columns=None).reset_index()


def carry_over_text(beside: pd.DataFrame) -> str:
    """The table of `beside_language` in words (Markdown), with each finding that is opposite."""
    free = beside[beside["claim"] != _DICTATED]
    counts = free["outcome"].value_counts()
    same, opposite = (int(counts.get(name, 0)) for name in ("same", "opposite"))
    lines = [
        f"Of {len(free)} findings (those with the shrinkage set by hand left out: their sign "
        f"follows from a theorem) {same + opposite} are decided both in language and in vision: "
        f"**{same} the same way, {opposite} the opposite way**. The others say nothing of what "
        "carries over; nothing is corrected for their number.\n"
    ]
    for row in free[free["outcome"] == "opposite"].to_dict("records"):
        lines.append(
            f"- Opposite: `{row['claim']}`, {row['case']}, {row['tokens']} tokens "
            f"({row['statistic']}): {row['value']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}], "
            f"language {row['median']:+.2f} (median of {row['concepts']} concepts)."
        )
    return "\n".join(lines)
