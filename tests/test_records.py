"""Records take what there is, and refuse what they cannot hold when it is assigned."""

import json
from datetime import date
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from refusals import refused

from saerepgeo_lib.companion.records import Record, read_record
from saerepgeo_lib.stats.claims import Claim
from saerepgeo_lib.stats.words import said, span

NAN, INF = float("nan"), float("inf")


@pytest.fixture
def record():
    return Record("page", {"n": 1}, [0], "cpu")


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (NAN, None), (-INF, None), (np.float32("nan"), None), (np.float64(2), 2.0),
        (np.int64(3), 3), (np.bool_(True), True), (pd.NA, None), (pd.NaT, None), (None, None),
        ({"a": {"b": [NAN, (1, INF)]}}, {"a": {"b": [None, [1, None]]}}),
        ({1: 2, np.int64(3): 4, 0.5: 6}, {"1": 2, "3": 4, "0.5": 6}),
        (np.array([[1, NAN]]), [[1.0, None]]), (torch.tensor([NAN, 2]), [None, 2.0]),
        (pd.Series([1, pd.NA], dtype="Int64"), [1, None]), (np.str_("a"), "a"),
        (pd.Timestamp("2024-01-02"), "2024-01-02 00:00:00"), (date(2024, 1, 2), "2024-01-02"),
        (np.datetime64("nat"), None), ("a\ud800", "a?"), (True, True), (10**30, 10**30),
    ],
)  # fmt: skip
def test_numbers_are_stored_as_json_with_null_for_what_is_undefined(
    value, stored, record, tmp_path
):
    path = tmp_path / "r.json"
    record.numbers["x"] = value
    record.numbers |= {"y": {"z": value}}
    record.numbers["y"]["later"] = NAN  # what is changed after it was assigned, too
    record.write(path)
    assert read_record(path)["numbers"] == {"x": stored, "y": {"z": stored, "later": None}}


@pytest.mark.parametrize(
    "value", [{1, 2}, b"a", 1j, Decimal(1), Path(), object(), {"a": [object()]}, {(1, 2): 3},
              {1: 2, "1": 3}, np.array([1j])],
)  # fmt: skip
def test_what_no_record_can_hold_is_refused_when_it_is_assigned(value, record):
    with pytest.raises(ValueError, match=r"record.*'x'"):
        record.numbers["x"] = value
    with pytest.raises(ValueError, match=r"record"):
        record.tables |= {"x": value}
    assert not record.numbers and not record.tables


def test_tables_and_claims_with_missing_values(record, tmp_path, unchecked):
    path, days = tmp_path / "r.json", pd.to_datetime(["2024-01-02", None])
    table = pd.DataFrame({"a": [1.0, INF], 2: [pd.NA, "x"], "day": days, "nested": [[NAN], {}]})
    record.tables["t"] = table
    undefined = Claim("a", "s", NAN, -INF, np.float32(1), NAN, np.int64(3), "cannot be tested here")
    record.claims += [undefined, Claim("b", "r", 0.5, 0.0, 1.0, 0.1, 4, "holds")]
    record.write(path)
    read = read_record(path)
    assert read["tables"]["t"] == {"a": [1.0, None], "2": [None, "x"], "nested": [[None], {}],
                                   "day": ["2024-01-02 00:00:00", None]}  # fmt: skip
    claim = read["claims"][0]
    assert [claim[k] for k in ("value", "low", "high", "p", "n")] == [None, None, 1.0, None, 3]
    assert "NaN" not in path.read_text() and json.loads(path.read_text())["claims"]
    twice = pd.DataFrame([[1, 2]], columns=["a", "a"])
    refused("columns have different names", record.tables.__setitem__, "u", twice)
    with pytest.raises(TypeError):  # a count that is none, where it arises
        Claim("a", "s", 0.0, 0.0, 0.0, 0.0, NAN, "holds")


@pytest.mark.parametrize(
    ("numbers", "form", "words"),
    [([], ".2f", "none"), ([NAN], ".0%", "none"), ([NAN, 0.5], ".0%", "50%"),
     ([1, 3, 2], "g", "1 to 3"), ([-INF, 1], "g", "-inf to 1"), ([0.501, 0.499], ".2f", "0.50"),
     (pd.Series([np.nan, -1]), "+.1f", "-1.0")],
)  # fmt: skip
def test_numbers_in_sentences(numbers, form, words):
    assert span(numbers, form) == words
    assert said(None) == said(NAN, ".0%") == "none" and said(0.25, ".0%") == "25%"
