"""The ledger of claims, and the table that ends a run."""

import math
from dataclasses import replace

from saerepgeo_lib.stats.claims import Claim
from saerepgeo_lib.stats.estimates import Estimate
from saerepgeo_lib.studies.paper_claims import paper_claims, reported_against_found


def finding(id, statistic, value, verdict):
    found = Estimate(value, -1.0, 1.0, 0.5, 3)
    return Claim.of(id, found, verdict, statistic=statistic, concept="months")


def test_each_claim_says_whose_it_is_and_what_is_reported():
    tags = {"abstract", "authors' notes", "authors' code", "second-hand", "ours"}
    for id, known in paper_claims().items():
        fields = {"case", "title", "tag", "statement", "reported", "page", "section",
                  "interval"}  # fmt: skip
        assert fields <= set(known) <= fields | {"direction", "note", "counted by"}, id
        assert known.get("counted by", "condition") == "condition"
        assert known.get("direction", "above") in ("above", "below")
        assert known["tag"] in tags
        assert (known["reported"] == "nothing: asked here") == (known["tag"] == "ours"), id


def test_findings_stand_beside_what_is_reported():
    table = reported_against_found([
        finding("case3-correlation", "r, pushed", -0.5, "holds"),
        finding("case3-correlation", "r, pushed", 0.25, "does not hold"),
        finding("case3-correlation", "r, least", math.nan, "cannot be tested here"),
        finding("case1-rank-varies", "range", 2.0, "holds"),
    ])  # fmt: skip
    assert list(table["found here"]) == ["range: 2", "r, pushed: -0.5 to 0.25", "r, least: none"]
    assert list(table["verdict"]) == [
        "holds in 1 of 1", "holds in 1 of 2; does not hold in 1 of 2",
        "cannot be tested here in 1 of 1",
    ]  # fmt: skip
    assert table["reported"][1] == "r from -0.89 to -0.97 (n and grouping unknown)"
    assert table["claim"][0].endswith("[abstract]")


def test_the_case_is_put_in_words():
    claim = finding("case1-rank-varies", "range", 2.0, "holds")
    entity = {"concept": "months", "tokens": "entity", "autoencoder": "TopK SAE"}
    against = {"autoencoder": "A", "against": "random A", "condition": "planted", "dose": 1.2}
    for case, words in (
        ({}, "all together"), ({"autoencoder": "TopK SAE", "tokens": "entity"}, "TopK SAE"),
        ({"concept": "months", "tokens": "content"}, "months: all together"),
        (entity, "months, entity tokens: TopK SAE"),
        (against, "A minus random A (planted) at x 1.2"),
        ({"autoencoder": "A", "dose": math.nan}, "A"),  # a dose that is absent, in a table
    ):  # fmt: skip
        assert replace(claim, **{"concept": "", **case}).case == words
