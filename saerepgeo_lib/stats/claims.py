"""Findings on claims, as typed values: nothing is parsed back out of a sentence."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from operator import index
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from saerepgeo_lib.stats.estimates import Estimate
else:
    Estimate = Any  # whoever reads records has no need of scipy

Verdict = Literal["holds", "holds in part", "does not hold", "cannot be tested here"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
UNTESTED: Verdict = "cannot be tested here"


@dataclass(frozen=True)
class Claim:
    """One finding on a claim: the statistic in one case, its 95 % interval, p, n and verdict.

    The fields of the case stay empty where they do not apply: `concept`, which of its `tokens`,
    `autoencoder` (or other representation), the representation or data that it is held `against`,
    the `condition` set by hand ("shrinkage planted"), and the `dose` of the intervention. `reason`
    is why it cannot be tested, where that is known.
    """

    id: str
    statistic: str
    value: float
    low: float
    high: float
    p: float
    n: int
    verdict: Verdict
    concept: str = ""
    tokens: Literal["content", "entity", ""] = ""
    autoencoder: str = ""
    against: str = ""
    condition: str = ""
    dose: float | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", index(self.n))  # an int here, not in a run's last cell

    @classmethod
    def of(
        cls, id: str, estimate: Estimate, verdict: Verdict, *, statistic: str, **case: Any
    ) -> "Claim":
        """A finding from an estimate; `case` holds the fields that say where it was made."""
        return cls(id, statistic, **asdict(estimate), verdict=verdict, **case)

    @property
    def case(self) -> str:
        """The case in words, for tables and figures."""
        return case_in_words(asdict(self))


def case_in_words(claim: Mapping[Any, Any]) -> str:
    """The case of a finding (a `Claim` as a mapping): "months, entity tokens: TopK SAE"."""
    parts = [claim["autoencoder"] or "all together"]
    parts += [f"minus {claim['against']}"] if claim["against"] else []
    parts += [f"({claim['condition']})"] if claim["condition"] else []
    dose = claim["dose"]
    parts += [f"at x {dose:g}"] if dose is not None and dose == dose else []
    concept = claim["concept"]
    if concept and claim["tokens"] == "entity":
        concept += ", entity tokens"
    return (f"{concept}: " if concept else "") + " ".join(parts)
