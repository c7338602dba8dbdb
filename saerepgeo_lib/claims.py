"""Claims under test, and findings on them."""

from dataclasses import asdict, dataclass
from typing import Literal

from saerepgeo_lib.errors import choose
from saerepgeo_lib.files import data_dir, read_json
from saerepgeo_lib.statistics import Estimate

Verdict = Literal["holds", "holds in part", "does not hold", "cannot be tested here"]


def paper_claims() -> dict[str, dict[str, str]]:
    """The claims under test by id: case, statement, and the tag of METHOD that says whose it is."""
    claims: dict[str, dict[str, str]] = read_json(data_dir() / "claims.json")
    return claims


@dataclass(frozen=True)
class Claim:
    """One finding on a claim of `data/claims.json`: statistic, 95 % interval, p, n, verdict."""

    id: str
    subject: str
    statistic: str
    value: float
    low: float
    high: float
    p: float
    n: int
    verdict: Verdict

    @classmethod
    def of(
        cls, id: str, subject: str, statistic: str, estimate: Estimate, verdict: Verdict
    ) -> "Claim":
        """A finding from an estimate; the id must stand in `data/claims.json`."""
        choose("claim", id, paper_claims())
        return cls(id, subject, statistic, **asdict(estimate), verdict=verdict)
