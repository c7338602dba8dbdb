"""Claims under test, and findings on them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Literal, get_args

import pandas as pd

from saerepgeo_lib.errors import choose
from saerepgeo_lib.files import data_dir, read_json
from saerepgeo_lib.statistics import Estimate

NOTHING = "random SAE, random model"  # label of findings where nothing was learned
Verdict = Literal["holds", "holds in part", "does not hold", "cannot be tested here"]


@cache
def paper_claims() -> dict[str, dict[str, str]]:
    """The claims under test by id, from `data/paper_claims.json`.

    Each has its case, a title, the statement in our words, the tag of METHOD that says whose it
    is, what is reported, and the notebook (page) and heading (section) that show what was found.
    """
    claims: dict[str, dict[str, str]] = read_json(data_dir() / "paper_claims.json")
    return claims


@dataclass(frozen=True)
class Claim:
    """One finding on a claim: statistic, 95 % interval, p, n, verdict."""

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
        """A finding from an estimate; the id must stand in `data/paper_claims.json`."""
        choose("claim", id, paper_claims())
        return cls(id, subject, statistic, **asdict(estimate), verdict=verdict)


def verdicts_in_words(verdicts: Sequence[str]) -> str:
    """How many findings have which verdict: "holds in 1 of 3; does not hold in 2 of 3"."""
    counts = {v: verdicts.count(v) for v in get_args(Verdict) if v in verdicts}
    return "; ".join(f"{v} in {n} of {len(verdicts)}" for v, n in counts.items())


def reported_against_found(claims: Sequence[Claim]) -> pd.DataFrame:
    """What is reported, and what a run found: a row a claim and statistic.

    Columns claim (with its tag), reported, found here (a statistic and the range of its values over
    cases), verdict (how many cases have which).
    """
    rows = []
    for id, known in paper_claims().items():
        mine = [claim for claim in claims if claim.id == id]
        for statistic in dict.fromkeys(claim.statistic for claim in mine):
            part = [claim for claim in mine if claim.statistic == statistic]
            verdicts = [claim.verdict for claim in part]
            values = pd.Series([claim.value for claim in part]).dropna()
            ends = sorted({f"{values.min():.3g}", f"{values.max():.3g}"}, key=float)
            found = f"{statistic}: {' to '.join(ends) if len(values) else '–'}"
            said = f"{known['statement']} [{known['tag']}]"
            rows.append((said, known["reported"], found, verdicts_in_words(verdicts)))
    return pd.DataFrame(rows, columns=["claim", "reported", "found here", "verdict"])
