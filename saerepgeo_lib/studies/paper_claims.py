"""The claims under test: whose they are, what is reported, and where the book shows them."""

from collections.abc import Sequence
from functools import cache

import pandas as pd

from saerepgeo_lib.files import data_dir, read_json
from saerepgeo_lib.stats.claims import VERDICTS, Claim
from saerepgeo_lib.stats.words import span


@cache
def paper_claims() -> dict[str, dict[str, str]]:
    """The claims under test by id, from `data/paper_claims.json`.

    Each has its case, a title, the statement in our words, the tag of METHOD that says whose it
    is, what is reported, and the notebook (page) and heading (section) that show what was found;
    some the side of 0 that they are about (direction), or the field by which findings are counted.
    """
    claims: dict[str, dict[str, str]] = read_json(data_dir() / "paper_claims.json")
    return claims


def verdicts_in_words(verdicts: Sequence[str]) -> str:
    """How many findings have which verdict: "holds in 1 of 3; does not hold in 2 of 3"."""
    counts = {v: verdicts.count(v) for v in VERDICTS if v in verdicts}
    return "; ".join(f"{v} in {n} of {len(verdicts)}" for v, n in counts.items())


def reported_claims() -> pd.DataFrame:
    """A row per claim: its id, what it says (with its tag), and what is reported."""
    known = pd.DataFrame(paper_claims()).T.rename_axis("claim").reset_index()
    says = known["statement"] + " [" + known["tag"] + "]"
    return known.assign(says=says)[["claim", "says", "reported"]]


def reported_against_found(claims: Sequence[Claim]) -> pd.DataFrame:
    """What is reported, and what a run found: a row per claim and statistic.

    Columns claim (with its tag), reported, found here (a statistic and the range of its values over
    cases), verdict (how many cases have which).
    """
    rows = []
    for known in reported_claims().to_dict("records"):
        of_claim = [claim for claim in claims if claim.id == known["claim"]]
        for statistic in dict.fromkeys(claim.statistic for claim in of_claim):
            same = [claim for claim in of_claim if claim.statistic == statistic]
            values = span((claim.value for claim in same), ".3g")
            rows.append({
                "claim": known["says"], "reported": known["reported"],
                "found here": f"{statistic}: {values}",
                "verdict": verdicts_in_words([claim.verdict for claim in same]),
            })  # fmt: skip
    return pd.DataFrame(rows)
