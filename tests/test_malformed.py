"""Malformed parameters, prompt files, grids and records: each is refused in words, none crashes.

Every example is wrong by construction; the commands must end with status 2, name the culprit,
show no traceback and write nothing.
"""

import copy
import json
import string
from functools import reduce
from operator import getitem

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from small_pages import finding
from stub_runs import toml_file, write_stub

from saerepgeo_lib.activations.prompts import load_concepts
from saerepgeo_lib.companion.cli import main
from saerepgeo_lib.companion.records import CLAIM_FIELDS, RECORD_VERSION
from saerepgeo_lib.errors import UserError

unhealthy = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
many = settings(max_examples=100, deadline=None, suppress_health_check=unhealthy)

words = st.text(string.ascii_letters, min_size=1, max_size=8)
surrogates = st.sampled_from(["\ud800", "a\udfffb"])
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**30), 10**30), st.text(max_size=20),
    st.floats(allow_nan=False, allow_infinity=False),
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)


def values_but(*types):
    """JSON values of every type but these."""
    return values.filter(lambda value: type(value) not in types)


def write(path, content):
    """Text or bytes to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def cut_short(content):
    text = json.dumps(content)
    return st.integers(0, len(text) - 1).map(lambda n: text[:n])


@pytest.fixture
def refused(tmp_path, capsys, caplog):
    """Asks for status 2, words that name the culprit, no traceback, and nothing written."""

    def ask(*arguments, culprit):
        before = sorted(tmp_path.rglob("*"))
        try:
            status = main(list(arguments))
        except SystemExit as left:  # argparse's own refusal
            status = left.code
        text = capsys.readouterr().err + caplog.text
        caplog.clear()
        assert status == 2 and culprit in text and "Traceback" not in text, text
        assert sorted(tmp_path.rglob("*")) == before

    return ask


DECLARED = ("n", "x", "levels", "name", "seconds", "folder", "fault")
unknown = words.filter(lambda w: w not in DECLARED)
not_a_number = words.filter(lambda w: w.lower() not in ("inf", "nan"))


def named(key, *kinds):
    """A name with one of these values."""
    return st.tuples(st.just(key), st.one_of(*kinds))


bad_parameters = st.one_of(
    st.tuples(unknown, st.text(max_size=20)),
    named("n", not_a_number, st.floats().map(str), st.lists(st.integers(), max_size=3).map(str),
          st.integers(min_value=2**63).map(str),
          st.sampled_from(["", "null", "true", "[", "{", "1 2", "*a", "1_000.0", "0x", "1j", "(1,)",
                           "9" * 5_000, "(" * 500, "-" * 9_000 + "1"])),
    named("x", not_a_number,
          st.sampled_from(["NaN", "Infinity", "-Infinity", "1" + "0" * 400, "1e999", "[1]", "'1'",
                           "2024-01-01", "nan", "inf"])),
    named("levels", st.integers().map(str), words,
          st.lists(words, min_size=1, max_size=3).map(json.dumps),
          st.sampled_from(["[" * 5_000, "[[1]]", "[NaN]", "[true]", "[null]", "{1, 2}"])),
    named("name", surrogates, st.text(max_size=5).map(lambda t: t + "\0"),
          words.map(lambda w: "hf_" + w * 20)),
)  # fmt: skip


@many
@given(bad=bad_parameters)
def test_parameters(bad, tmp_path, refused):
    source = write_stub(tmp_path)
    name, text = bad
    assume(not text.startswith("-"))  # argparse takes it for an option, and says so
    arguments = ["run", str(source), "-p", name, text, "-o", str(tmp_path / "o")]
    refused(*arguments, culprit=name)


@many
@given(name=st.text(min_size=1, max_size=300), suffix=st.sampled_from(["", ".py", ".ipynb"]))
def test_names_of_notebooks(name, suffix, tmp_path, refused):
    assume(not name.startswith("-") and "/" not in name)
    refused("run", name + suffix, "-o", str(tmp_path / "o"), culprit="otebook")


GOOD_PROMPTS = {
    "days": {"template_words": ["on"], "prompts": [
        {"text": f"On {day}.", "entity": day, "frame": "On {}."} for day in ("Monday", "Friday")
    ]},
    "plain": ["A sentence.", "Another."],
}  # fmt: skip
BAD_PROMPT = st.one_of(
    values_but(str, dict),
    st.fixed_dictionaries({"text": values_but(str)}),
    st.fixed_dictionaries({"text": words, "entity": values_but(str)}),
    st.fixed_dictionaries({"text": words, "entity": st.sampled_from(["Monday", "", " "])}),
    st.fixed_dictionaries({"text": words, "frame": words}),
    st.fixed_dictionaries({"text": words, "txt": words}),
    st.sampled_from([
        {"text": "On Monday.", "entity": "Monday", "frame": "On Monday."},
        {"text": "On Monday.", "entity": "Monday", "frame": "{} On {}."},
        {"entity": "Monday"}, "", " ", "\n\t",
    ]),
    surrogates,
)  # fmt: skip
bad_prompt_files = st.one_of(
    values_but(dict).map(json.dumps),
    st.dictionaries(words, values_but(dict, list), min_size=1, max_size=2).map(json.dumps),
    st.tuples(words, BAD_PROMPT).map(lambda b: json.dumps({b[0]: ["Fine.", b[1]]})),
    st.tuples(words, BAD_PROMPT).map(
        lambda b: json.dumps(GOOD_PROMPTS | {f"z{b[0]}": {"prompts": [b[1]]}})
    ),
    st.sampled_from([
        {}, {"a": []}, {"a": {}}, {"a": {"prompts": []}}, {"a": ["x", "x"]}, {"a": {"prompt": []}},
        {"a": {"prompts": ["x"], "template_words": "on"}},
        {"a": {"prompts": ["x"], "template_words": [""]}},
        {"a": ["x", {"text": "y", "entity": "y"}]}, {"a": [{"text": "y", "entity": None}]},
    ]).map(json.dumps),
    cut_short(GOOD_PROMPTS),
    st.sampled_from(['{"a": ["x"], "a": ["y"]}', "[" * 100_000, '{"a": [' + "9" * 5_000 + "]}",
                     '{"a": NaN}', '{"a": ["x"]} trailing', "\ufeff{}"]),
    st.binary(max_size=40),
)  # fmt: skip


@many
@given(content=bad_prompt_files)
def test_prompt_files(content, tmp_path):
    path = write(tmp_path / "prompts.json", content)
    with pytest.raises(UserError) as told:
        load_concepts(path)
    assert str(path) in str(told.value)
    assert [p.name for p in tmp_path.iterdir()] == ["prompts.json"]


def has_null(value):
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return value is None or any(map(has_null, inner))


items = st.fixed_dictionaries
bad_grid_parts = st.one_of(
    st.tuples(words.filter(lambda w: w not in ("notebook", "fixed", "grid", "runs")), values),
    named("notebook", values_but(str, list), st.lists(words, max_size=2), st.text(max_size=10)),
    named("fixed", values_but(dict), st.dictionaries(unknown, values, min_size=1, max_size=2),
          st.sampled_from([{"n": 1}, {"x": float("nan")}, {"x": float("-inf")}])),
    named("fixed", items({"x": values_but(int, float)}), items({"levels": values_but(list)}),
          items({"name": values_but(str)})),
    named("grid", values_but(dict), st.sampled_from([{"n": []}, {"api_key": ["a"]}])),
    named("grid", items({"n": values_but(list)}),
          items({"n": st.lists(values_but(int), min_size=1, max_size=2)})),
    named("runs", values_but(list), st.lists(values_but(dict), min_size=1, max_size=2),
          st.sampled_from([[], [{"x": 1}], [{}, {"n": 1}], [{"fault": 1}]])),
).filter(lambda part: not has_null(part[1]))  # fmt: skip
bad_grid_texts = st.one_of(
    st.text(max_size=60),
    st.binary(max_size=60),
    st.sampled_from([
        "notebook = 'a'\nnotebook = 'b'", "{", "x = " + "[" * 5_000, "[[" * 500, "\0", "[a]\n[a]",
        "notebook = 2024-01-01", "notebook = 9" + "9" * 5_000, 'notebook = "\\ud800"', "a.b = 1",
        "grid.n = 1979-05-27T07:32:00Z", "notebook: a", "notebook = inf", "= 1", "x = '" * 3,
    ]),
)  # fmt: skip


@many
@given(part=bad_grid_parts | bad_grid_texts)
def test_grids(part, tmp_path, refused):
    write_stub(tmp_path)
    if isinstance(part, tuple):
        content = {"notebook": str(tmp_path / "stub.py"), "fixed": {"x": 2}, "grid": {"n": [1, 2]}}
        part = toml_file(content | dict([part]))
    path = write(tmp_path / "grid.toml", part)
    arguments = ["sweep", str(path), "--dry", "-o", str(tmp_path / "o")]
    refused(*arguments, culprit=str(path))


GOOD_CLAIM = finding("c", "t", 0.5, None, 1.0, 0.1, 3, "holds", concept="s")
GOOD_RECORD = {
    "version": RECORD_VERSION, "notebook": "a", "parameters": {"n": 1}, "seeds": [0],
    "claims": [GOOD_CLAIM], "numbers": {}, "tables": {},
    "run": {"device": "cpu", "versions": {}, "stages": {"a": {"seconds": 1.0,
                                                             "process_peak_mib": 5}}},
}  # fmt: skip
STAGE = ("run", "stages", "a")
PLACES = {  # and the types that a value may have there
    **{(key,): (type(value),) for key, value in GOOD_RECORD.items()},
    ("run", "device"): (str,), ("run", "stages"): (dict,), STAGE: (dict,), ("claims", 0): (dict,),
    (*STAGE, "seconds"): (int, float), (*STAGE, "process_peak_mib"): (int, float),
    **{("claims", 0, name): (str,) for name in CLAIM_FIELDS}, ("claims", 0, "n"): (int,),
    **{("claims", 0, name): (type(None), int, float)
       for name in ("value", "low", "high", "p", "dose")},
}  # fmt: skip


def changed(place, *value):
    """A record with the value at one place replaced, or removed."""
    record = copy.deepcopy(GOOD_RECORD)
    inner = reduce(getitem, place[:-1], record)
    if value:
        inner[place[-1]] = value[0]
    else:
        del inner[place[-1]]
    return record


bad_values = st.sampled_from(sorted(PLACES, key=str)).flatmap(
    lambda place: st.tuples(st.just(place), values_but(*PLACES[place]))
)
NEEDED = [p for p in PLACES if isinstance(p[-1], str) and p != STAGE]
bad_records = st.one_of(
    bad_values.map(lambda change: json.dumps(changed(*change))),
    st.sampled_from(NEEDED).map(lambda place: json.dumps(changed(place))),
    st.integers().map(lambda v: json.dumps(changed(("version",), v + (v == RECORD_VERSION)))),
    values_but(dict).map(json.dumps),
    cut_short(GOOD_RECORD),
    st.binary(max_size=60),
    surrogates.map(lambda text: json.dumps(changed(("claims", 0, "concept"), text))),
    st.sampled_from([
        (("more",), 1), (("claims", 0, "more"), 1), (("claims", 0, "verdict"), "perhaps"),
        (("claims", 0, "value"), float("nan")), (("claims", 0, "value"), float("inf")),
        (("claims", 0, "n"), 2**70), ((*STAGE, "seconds"), -1),
    ]).map(lambda change: json.dumps(changed(*change))),
    st.sampled_from(["[" * 100_000, '{"version": 2, "version": 2}', "9" * 5_000]),
)  # fmt: skip


@many
@given(content=bad_records)
def test_records(content, tmp_path, refused):
    path = write(tmp_path / "runs" / "a-1" / "a.record.json", content)
    arguments = ["collect", str(tmp_path / "runs"), "-o", str(tmp_path / "claims.parquet")]
    refused(*arguments, culprit=str(path))


def test_the_record_that_is_broken_here_is_good_otherwise(tmp_path):
    write(tmp_path / "a-1" / "a.record.json", json.dumps(GOOD_RECORD))
    assert main(["collect", str(tmp_path), "-o", str(tmp_path / "claims.parquet")]) == 0
