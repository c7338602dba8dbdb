"""Malformed parameters, prompt files, grids and records: each is refused in words, none crashes.

Every example is wrong by construction; the commands must end with status 2, name the culprit,
show no traceback and write nothing.
"""

import contextlib
import copy
import io
import json
import logging
import string

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from stub_runs import write_stub

from saerepgeo_lib.cli import main
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.prompts import load_concepts
from saerepgeo_lib.record_files import CLAIM_FIELDS

EXAMPLES = 150  # for each of the four kinds
many = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

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
KINDS = {"null": type(None), "bool": bool, "int": int, "float": float, "str": str, "list": list,
         "dict": dict}  # fmt: skip


def values_but(*kinds):
    """JSON values of every type but these."""
    return values.filter(lambda v: type(v) not in {KINDS[kind] for kind in kinds})


def refused(*arguments, culprit, folder):
    """Status 2, words that name the culprit, no traceback, and nothing written to `folder`."""
    before = sorted(folder.rglob("*"))
    told, handler = io.StringIO(), logging.StreamHandler(logged := io.StringIO())
    library = logging.getLogger("saerepgeo_lib")
    library.addHandler(handler)
    try:
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
            status = main(list(arguments))
    except SystemExit as left:  # argparse's own refusal
        status = left.code
    finally:
        library.removeHandler(handler)
    text = told.getvalue() + logged.getvalue()
    assert status == 2, text
    assert "Traceback" not in text
    assert culprit in text, text
    assert sorted(folder.rglob("*")) == before


DECLARED = ("n", "x", "levels", "name", "seconds", "folder", "fault")
not_a_number = words.filter(lambda w: w.lower() not in ("inf", "nan"))
bad_parameters = st.one_of(
    st.tuples(words.filter(lambda w: w not in DECLARED), st.text(max_size=20)),
    st.tuples(st.just("n"), st.one_of(
        not_a_number, st.floats().map(str), st.lists(st.integers(), max_size=3).map(str),
        st.integers(min_value=2**63).map(str), st.just("9" * 5_000),
        st.sampled_from(["", "null", "true", "[", "{", "1 2", "*a", "!!int x", "!!int ''"]))),
    st.tuples(st.just("x"), st.one_of(
        not_a_number, st.sampled_from([".nan", ".inf", "-.inf", "1" + "0" * 400, "1e999", "[1]",
                                       "!!float x", "2024-01-01", "nan", "inf"]))),
    st.tuples(st.just("levels"), st.one_of(
        st.integers().map(str), words, st.lists(words, min_size=1, max_size=3).map(json.dumps),
        st.just("[" * 5_000), st.sampled_from(["[[1]]", "[.nan]", "[true]", "[null]", "{a: 1}"]))),
    st.tuples(st.just("name"), st.one_of(
        surrogates, st.text(max_size=5).map(lambda t: t + "\0"),
        words.map(lambda w: "hf_" + w * 20))),
)  # fmt: skip


@many
@given(bad=bad_parameters)
def test_parameters(bad, tmp_path):
    source = write_stub(tmp_path)
    name, text = bad
    assume(not text.startswith("-"))  # argparse takes it for an option, and says so
    out = str(tmp_path / "o")
    refused("run", str(source), "-p", name, text, "-o", out, culprit=name, folder=tmp_path)


@many
@given(name=st.text(min_size=1, max_size=300), suffix=st.sampled_from(["", ".py", ".ipynb"]))
def test_names_of_notebooks(name, suffix, tmp_path):
    assume(not name.startswith("-") and "/" not in name)
    refused("run", name + suffix, "-o", str(tmp_path / "o"), culprit="otebook", folder=tmp_path)


GOOD_PROMPTS = {
    "days": {
        "template_words": ["on"],
        "prompts": [
            {"text": "On Monday.", "entity": "Monday", "frame": "On {}."},
            {"text": "On Friday.", "entity": "Friday", "frame": "On {}."},
        ],
    },
    "plain": ["A sentence.", "Another."],
}
BAD_PROMPT = st.one_of(
    values_but("str", "dict"),
    st.sampled_from(["", " ", "\n\t"]),
    st.fixed_dictionaries({"text": values_but("str")}),
    st.fixed_dictionaries({"text": words, "entity": values_but("str")}),
    st.fixed_dictionaries({"text": words, "entity": st.just("Monday")}),
    st.fixed_dictionaries({"text": words, "entity": st.sampled_from(["", " "])}),
    st.fixed_dictionaries({"text": words, "frame": words}),
    st.fixed_dictionaries({"text": words, "txt": words}),
    st.just({"text": "On Monday.", "entity": "Monday", "frame": "On Monday."}),
    st.just({"text": "On Monday.", "entity": "Monday", "frame": "{} On {}."}),
    st.just({"entity": "Monday"}),
    surrogates,
)
bad_prompt_files = st.one_of(
    values_but("dict").map(json.dumps),
    st.dictionaries(words, values_but("dict", "list"), min_size=1, max_size=2).map(json.dumps),
    st.tuples(words, BAD_PROMPT).map(lambda b: json.dumps({b[0]: ["Fine.", b[1]]})),
    st.tuples(words, BAD_PROMPT).map(
        lambda b: json.dumps({**GOOD_PROMPTS, f"z{b[0]}": {"prompts": [b[1]]}})
    ),
    st.sampled_from([
        {}, {"a": []}, {"a": {}}, {"a": {"prompts": []}}, {"a": ["x", "x"]}, {"a": {"prompt": []}},
        {"a": {"prompts": ["x"], "template_words": "on"}},
        {"a": {"prompts": ["x"], "template_words": [""]}},
        {"a": ["x", {"text": "y", "entity": "y"}]},
    ]).map(json.dumps),
    st.integers(0, len(json.dumps(GOOD_PROMPTS)) - 1).map(lambda n: json.dumps(GOOD_PROMPTS)[:n]),
    st.sampled_from(['{"a": ["x"], "a": ["y"]}', "[" * 100_000, '{"a": [' + "9" * 5_000 + "]}",
                     '{"a": NaN}', '{"a": ["x"]} trailing', "\ufeff{}"]),
    st.binary(max_size=40),
)  # fmt: skip


@many
@given(content=bad_prompt_files)
def test_prompt_files(content, tmp_path):
    path = tmp_path / "prompts.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as told:
        load_concepts(path)
    assert str(path) in str(told.value)
    assert [p.name for p in tmp_path.iterdir()] == ["prompts.json"]


def grid(folder, **parts):
    return {"notebook": str(folder / "stub.py"), "fixed": {"x": 2}, "grid": {"n": [1, 2]}} | parts


bad_grid_parts = st.one_of(
    st.tuples(words.filter(lambda w: w not in ("notebook", "fixed", "grid", "runs")), values),
    st.tuples(st.just("notebook"), values_but("str", "list")),
    st.tuples(st.just("notebook"), st.lists(words, max_size=2)),
    st.tuples(st.just("notebook"), st.text(max_size=10)),
    st.tuples(st.just("fixed"), values_but("dict")),
    st.tuples(st.just("grid"), values_but("dict")),
    st.tuples(st.just("runs"), values_but("list")),
    st.tuples(st.just("runs"), st.lists(values_but("dict"), min_size=1, max_size=2)),
    st.tuples(st.just("runs"), st.just([])),
    st.tuples(st.just("fixed"), st.dictionaries(
        words.filter(lambda w: w not in DECLARED), values, min_size=1, max_size=2)),
    st.tuples(st.just("fixed"), st.fixed_dictionaries({"x": values_but("int", "float")})),
    st.tuples(st.just("fixed"), st.fixed_dictionaries({"levels": values_but("list")})),
    st.tuples(st.just("fixed"), st.fixed_dictionaries({"name": values_but("str") | surrogates})),
    st.tuples(st.just("fixed"), st.just({"n": 1})),
    st.tuples(st.just("grid"), st.fixed_dictionaries({"n": values_but("list")})),
    st.tuples(st.just("grid"), st.fixed_dictionaries(
        {"n": st.lists(values_but("int"), min_size=1, max_size=2)})),
    st.tuples(st.just("grid"), st.just({"n": []})),
    st.tuples(st.just("grid"), st.just({"api_key": ["a"]})),
    st.tuples(st.just("runs"), st.sampled_from([[{"x": 1}], [{}, {"n": 1}], [{"fault": 1}]])),
)  # fmt: skip
bad_grid_texts = st.one_of(
    st.text(max_size=60),
    st.binary(max_size=60),
    st.sampled_from([
        "a: &x [*x]", "notebook: *none", "notebook: a\nnotebook: b", "{", "- " * 5_000, "[" * 5_000,
        "!!python/object/apply:os.system [ls]", "notebook: !!binary x", "%YAML 9.9\n---\na", "\0",
        "notebook: !!map [a]", "!!set {a}", "---\na: 1\n---\nb: 2", "notebook: a\tb\n\t- c",
        "fixed: {? [a] : b}", "{1: 2}", "notebook: 9" + "9" * 5_000, "!<tag:yaml.org,2002:int> x",
    ]),
)  # fmt: skip


@many
@given(part=bad_grid_parts | bad_grid_texts)
def test_grids(part, tmp_path):
    write_stub(tmp_path)
    path = tmp_path / "grid.yml"
    if isinstance(part, tuple):
        part = json.dumps(grid(tmp_path, **{part[0]: part[1]}))
    path.write_bytes(part if isinstance(part, bytes) else part.encode())
    arguments = ["sweep", str(path), "--dry", "-o", str(tmp_path / "o")]
    refused(*arguments, culprit=str(path), folder=tmp_path)


GOOD_CLAIM = {"id": "c", "subject": "s", "statistic": "t", "value": 0.5, "low": None, "high": 1.0,
              "p": 0.1, "n": 3, "verdict": "holds"}  # fmt: skip
GOOD_RECORD = {
    "version": 1, "notebook": "a", "parameters": {"n": 1}, "seeds": [0], "claims": [GOOD_CLAIM],
    "numbers": {}, "tables": {},
    "run": {"device": "cpu", "versions": {}, "stages": {"a": {"seconds": 1.0,
                                                             "process_peak_mib": 5}}},
}  # fmt: skip
number = ("null", "int", "float")
PLACES = {
    ("version",): ("int",), ("notebook",): ("str",), ("parameters",): ("dict",),
    ("seeds",): ("list",), ("claims",): ("list",), ("numbers",): ("dict",), ("tables",): ("dict",),
    ("run",): ("dict",), ("run", "device"): ("str",), ("run", "stages"): ("dict",),
    ("run", "stages", "a"): ("dict",), ("run", "stages", "a", "seconds"): ("int", "float"),
    ("run", "stages", "a", "process_peak_mib"): ("int", "float"), ("claims", 0): ("dict",),
    **{("claims", 0, name): number if name in ("value", "low", "high", "p") else
       ("int",) if name == "n" else ("str",) for name in CLAIM_FIELDS},
}  # fmt: skip


def changed(place, *value):
    """A record with the value at one place replaced, or removed."""
    record = copy.deepcopy(GOOD_RECORD)
    inner = record
    for key in place[:-1]:
        inner = inner[key]
    if value:
        inner[place[-1]] = value[0]
    else:
        del inner[place[-1]]
    return record


bad_values = st.sampled_from(sorted(PLACES, key=str)).flatmap(
    lambda place: st.tuples(st.just(place), values_but(*PLACES[place]))
)
NEEDED = [p for p in PLACES if isinstance(p[-1], str) and p != ("run", "stages", "a")]
bad_records = st.one_of(
    bad_values.map(lambda change: json.dumps(changed(*change))),
    st.sampled_from(NEEDED).map(lambda place: json.dumps(changed(place))),
    st.integers().filter(lambda v: v != 1).map(lambda v: json.dumps(changed(("version",), v))),
    values_but("dict").map(json.dumps),
    st.integers(0, len(json.dumps(GOOD_RECORD)) - 1).map(lambda n: json.dumps(GOOD_RECORD)[:n]),
    st.binary(max_size=60),
    surrogates.map(lambda text: json.dumps(changed(("claims", 0, "subject"), text))),
    st.sampled_from([
        json.dumps(changed(("claims", 0, "value"), float("nan"))),
        json.dumps(changed(("claims", 0, "n"), 2**70)),
        json.dumps(changed(("run", "stages", "a", "seconds"), -1)),
        json.dumps(changed(("claims", 0, "value"), float("inf"))), "[" * 100_000,
        '{"version": 1, "version": 1}', "9" * 5_000,
    ]),
)  # fmt: skip


@many
@given(content=bad_records)
def test_records(content, tmp_path):
    path = tmp_path / "runs" / "a-1" / "a.record.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    out = str(tmp_path / "claims.parquet")
    refused("collect", str(tmp_path / "runs"), "-o", out, culprit=str(path), folder=tmp_path)


def test_the_record_that_is_broken_here_is_good_otherwise(tmp_path):
    path = tmp_path / "a-1" / "a.record.json"
    path.parent.mkdir()
    path.write_text(json.dumps(GOOD_RECORD))
    assert main(["collect", str(tmp_path), "-o", str(tmp_path / "claims.parquet")]) == 0
