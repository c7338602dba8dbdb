"""What carries over from language: claims asked again of vision, finding beside finding."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd

from saerepgeo_lib.stats.claims import UNTESTED, Claim, case_in_words
from saerepgeo_lib.studies.case1_verdict import VARIES

_DICTATED = "case3-explained"  # the sign follows from the theorem, once the shrinkage is set
DRAWN = (  # over trainings
    "case1-rank-varies", "case2-global-compressed", "case2-distinction-up",
    "case3-separability-helps", "case3-own-effect", "case3-shrinks", "case3-explained",
)  # fmt: skip
# The claims on language that are asked again (all that the page computes), as named on vision.
_ASKED = (*DRAWN, "case1-beyond-nulls", "case2-dimension-up", "case2-substructure-up",
          "case2-merging", "case2-learned")  # fmt: skip
REPEATED = {name: f"vision-{name.partition('-')[2]}" for name in _ASKED}
ABOVE, BELOW, UNDECIDED = "above", "below", "undecided"


@dataclass(frozen=True)
class CarryOver:
    """Findings on `vision`, beside those on `language`: a table of `compare.read_claims`, of one
    preset, so that no concept counts twice.
    """

    vision: Sequence[Claim]
    language: pd.DataFrame

    @property
    def claims(self) -> list[Claim]:
        """The findings on claims that are asked again of vision, under their own names there."""
        return [replace(c, id=REPEATED[c.id]) for c in self.vision if c.id in REPEATED]

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row per finding in vision, beside the same case's findings on language.

        Columns claim, tokens, case (SAE and control), statistic; median and concepts (of language,
        and of how many); language and vision (the side of 0 of the 95 % interval: above, below or
        undecided; of language: in more than half the concepts); value, low, high (vision); outcome
        (same, opposite, undecided). A rank that varies is held against Case 1's bound, not 0.
        """
        cases = [_case(row) for row in self.language.to_dict("records")]
        language, keys = self.language.assign(case=cases), ["id", "tokens", "case", "statistic"]
        by_case = dict(iter(language[language["value"].notna()].groupby(keys)))
        rows = []
        for claim in (c for c in self.vision if c.id in REPEATED):
            bound = VARIES if claim.id == "case1-rank-varies" else 0.0
            case = (claim.id, claim.tokens, _case(asdict(claim)), claim.statistic)
            same = by_case.get(case, language.iloc[:0])
            sides = [_side(row, bound) for row in same.to_dict("records")]
            there = next((s for s in (ABOVE, BELOW) if 2 * sides.count(s) > len(sides)), UNDECIDED)
            side = _side(vars(claim), bound)
            outcome = "same" if side == there else "opposite"
            rows.append(
                {**dict(zip(["claim", *keys[1:]], case, strict=True)),
                 "median": same["value"].median(), "concepts": len(same), "language": there,
                 "value": claim.value, "low": claim.low, "high": claim.high, "vision": side,
                 "outcome": UNDECIDED if UNDECIDED in (side, there) else outcome}
            )  # fmt: skip
        return pd.DataFrame(rows)

    @property
    def counts(self) -> pd.DataFrame:
        """How many findings on each claim come out how."""
        counts = pd.crosstab(self.table["claim"], self.table["outcome"])
        counts = counts.reindex(columns=["same", "opposite", UNDECIDED], fill_value=0)
        return counts.loc[self.table["claim"].unique()].rename_axis(columns=None).reset_index()

    @property
    def text(self) -> str:
        """The table in words (Markdown), with each finding that is opposite."""
        free = self.table[self.table["claim"] != _DICTATED]
        same, opposite = (int((free["outcome"] == name).sum()) for name in ("same", "opposite"))
        lines = [
            f"Of {len(free)} findings (those with the shrinkage set by hand left out: their sign "
            f"follows from a theorem) {same + opposite} are decided both in language and in "
            f"vision: **{same} the same way, {opposite} the opposite way**. The others say nothing "
            "of what carries over; nothing is corrected for their number.\n"
        ]
        lines += [
            "- Opposite: `{claim}`, {case}, {tokens} tokens ({statistic}): {value:+.2f} "
            "[{low:+.2f}, {high:+.2f}], language {median:+.2f} (median of {concepts} concepts)."
            "".format_map(row)
            for row in free[free["outcome"] == "opposite"].to_dict("records")
        ]
        return "\n".join(lines)


def _side(finding: Mapping[Any, Any], bound: float) -> str:
    """The side of the bound on which the whole interval lies."""
    if finding["verdict"] == UNTESTED:
        return UNDECIDED
    return ABOVE if finding["low"] > bound else BELOW if finding["high"] < bound else UNDECIDED


def _case(claim: Mapping[Any, Any]) -> str:
    """The autoencoder and control of a finding; "is it learned?" names its weakest control only."""
    over_controls = {"against": ""} if claim["id"] == "case2-learned" else {}
    return case_in_words({**claim, "concept": "", **over_controls})
