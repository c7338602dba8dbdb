"""The ledger of claims, and the table that ends a run."""

import math

import pytest

from saerepgeo_lib.claims import Claim, paper_claims, reported_against_found
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.statistics import Estimate


def finding(id, statistic, value, verdict):
    return Claim.of(id, "months", statistic, Estimate(value, -1.0, 1.0, 0.5, 3), verdict)


def test_each_claim_says_whose_it_is_and_what_is_reported():
    tags = {"abstract", "authors' notes", "authors' code", "second-hand", "ours"}
    for id, known in paper_claims().items():
        fields = {"case", "title", "tag", "statement", "reported", "page", "section",
                  "interval"}  # fmt: skip
        assert fields <= set(known) <= fields | {"direction", "note"}, id
        assert known.get("direction", "above") in ("above", "below")
        assert known["tag"] in tags
        assert (known["reported"] == "nothing: asked here") == (known["tag"] == "ours"), id


def test_findings_stand_beside_what_is_reported():
    table = reported_against_found(
        [
            finding("case3-correlation", "r, pushed", -0.5, "holds"),
            finding("case3-correlation", "r, pushed", 0.25, "does not hold"),
            finding("case3-correlation", "r, least", math.nan, "cannot be tested here"),
            finding("case1-rank-varies", "range", 2.0, "holds"),
        ]
    )
    assert list(table["found here"]) == ["range: 2", "r, pushed: -0.5 to 0.25", "r, least: –"]
    assert list(table["verdict"]) == [
        "holds in 1 of 1",
        "holds in 1 of 2; does not hold in 1 of 2",
        "cannot be tested here in 1 of 1",
    ]
    assert table["reported"][1] == "r from -0.89 to -0.97 (n and grouping unknown)"
    assert table["claim"][0].endswith("[abstract]")


def test_a_finding_on_no_known_claim_is_refused():
    with pytest.raises(UserError, match="did you mean 'case1-rank-varies'"):
        finding("case1-rank-vary", "range", 2.0, "holds")
