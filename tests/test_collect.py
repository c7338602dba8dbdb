"""The table of claims: its columns and rows by hand, and what is left out of it."""

import dataclasses
import json
import subprocess
import sys

import pandas as pd
import pytest
from small_pages import finding

from saerepgeo_lib.companion.cli import main
from saerepgeo_lib.companion.collect import collect
from saerepgeo_lib.companion.records import CLAIM_FIELDS, RECORD_VERSION, Record, read_record
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.files import read_json, write_json
from saerepgeo_lib.stats import claims

STAGES = {"a": {"seconds": 1.5, "process_peak_mib": 10}, "b": {"seconds": 2, "process_peak_mib": 7}}


def claim(**values):
    case = {"concept": "m", "tokens": "entity", "autoencoder": "s", "dose": 1}
    return finding("c", "t", 0.5, 0.25, 1, None, 3, "holds", **case) | values


def record(parameters, found, **parts):
    return {"version": RECORD_VERSION, "notebook": "a", "parameters": parameters, "seeds": [0],
            "claims": found, "numbers": {}, "tables": {},
            "run": {"device": "cpu", "stages": STAGES}} | parts  # fmt: skip


@pytest.fixture
def runs(tmp_path):
    """Three finished runs of two notebooks, a hidden unfinished one, a failure's note."""
    one, two = {"n": 1, "x": 1, "levels": [0, 1], "who": "é"}, [claim(), claim(id="d", value=None)]
    other = {"n": 2, "x": 0.5, "levels": [], "who": "b"}
    not_so = [claim(verdict="does not hold")]
    for path, content in (
        ("a-1/a.record.json", record(one, two)),
        ("a-2/a.record.json", record(other, [claim(n=4, dose=None)])),
        ("b-3/b.record.json", record({"n": "many", "big": 2**70}, not_so, notebook="b")),
        (".a-4.xyz/a.record.json", record({"n": 9}, [claim()])),
        ("a-5.failed.json", {"reason": "x"}),
    ):
        write_json(tmp_path / "r" / path, content)
    return tmp_path / "r"


def test_one_row_a_claim_one_column_a_parameter(runs, tmp_path):
    size = collect(runs, tmp_path / "t" / "claims.parquet")
    assert dataclasses.astuple(size) == (4, 3, 0, 0)
    table = pd.read_parquet(tmp_path / "t" / "claims.parquet")
    written = table.pop("written")
    assert str(written.dtype.tz) == "UTC" and written.notna().all()
    assert list(table.columns) == [
        "run", "notebook", "model", "hook", "parameter big", "parameter levels", "parameter n",
        "parameter who", "parameter x", *CLAIM_FIELDS, "device", "seconds", "peak_mib",
    ]  # fmt: skip
    rows = json.loads(table.to_json(orient="values"))
    first = ["a-1", "a", None, None, None, "[0, 1]", "1", "é", 1.0]
    estimate, case = [0.25, 1.0, None], ["m", "entity", "s", "", ""]
    end = [*case, 1.0, "", "cpu", 3.5, 10.0]
    assert rows == [
        [*first, "c", "t", 0.5, *estimate, 3, "holds", *end],
        [*first, "d", "t", None, *estimate, 3, "holds", *end],
        ["a-2", "a", None, None, None, "[]", "2", "b", 0.5, "c", "t", 0.5, *estimate, 4, "holds",
         *case, None, *end[-4:]],
        ["b-3", "b", None, None, str(2**70), None, '"many"', None, None, "c", "t", 0.5, *estimate,
         3, "does not hold", *end],
    ]  # fmt: skip
    assert [p.name for p in (tmp_path / "t").iterdir()] == ["claims.parquet"]


def test_repeated_runs_are_counted_and_broken_or_older_records_named_and_left_out(
    runs, tmp_path, capsys, caplog
):
    out = tmp_path / "claims.parquet"
    write_json(runs / "a-9/a.record.json", read_json(runs / "a-1/a.record.json"))
    assert main(["collect", str(runs), "-o", str(out)]) == 0
    assert "1 of these runs repeat another" in capsys.readouterr().out
    (runs / "a-9/a.record.json").unlink()
    (runs / "a-1" / "a.record.json").write_text('{"version": 1, "notebo')
    old = record({}, [claim()], version=RECORD_VERSION - 1)
    write_json(runs / "a-2" / "a.record.json", old)
    assert main(["collect", str(runs), "-o", str(out)]) == 1
    assert "1 rows of 1 runs" in capsys.readouterr().out
    assert "a-1/a.record.json is not JSON" in caplog.text
    older = f"version {RECORD_VERSION - 1}, expected {RECORD_VERSION}"
    assert f"a-2/a.record.json is a record of {older}" in caplog.text
    assert list(pd.read_parquet(out)["run"]) == ["b-3"]


def test_nothing_to_collect_says_what_to_do_and_leaves_the_old_table(tmp_path, runs):
    out = tmp_path / "claims.parquet"
    out.write_text("old")
    (tmp_path / "empty").mkdir()
    write_json(tmp_path / "none/a-1/a.record.json", record({}, []))
    write_json(tmp_path / "bad/a-1/a.record.json", [])
    for folder, words in (
        ("nowhere", "no folder .*nowhere: give the one that"),
        ("empty", "holds no record of a run; 'saerepgeo sweep GRID"),
        ("none", "none of the 1 records has a claim"), ("bad", r"only broken records \(1"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            collect(tmp_path / folder, out)
    assert out.read_text() == "old"


def test_what_the_library_writes_is_what_is_read(tmp_path):
    found = claims.Claim(
        "c", "t", 0.5, float("nan"), 1.0, 0.1, 3, "holds", "m", "entity", "s", dose=1.0
    )
    made = Record("a", {"n": 1}, [0], "cpu", [found], {"t": pd.DataFrame({"x": [1.0]})})
    with made.stage("all"):
        pass
    made.write(tmp_path / "a.record.json")
    assert read_record(tmp_path / "a.record.json")["claims"] == [claim(low=None, p=0.1)]
    assert list(CLAIM_FIELDS) == [f.name for f in dataclasses.fields(claims.Claim)]


def test_memory_does_not_grow_with_the_number_of_runs(tmp_path):
    """1,500 records of 40 claims hold 60,000 rows: more than a batch, less than they weigh."""
    code = """
import resource, sys
from pathlib import Path
from saerepgeo_lib.companion.collect import collect
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
out = Path(sys.argv[2])
collect(Path(sys.argv[1]) / "few", out)
before = peak()
size = collect(Path(sys.argv[1]) / "many", out)
assert size.rows == 60_000, size
print(peak() - before)
"""
    text = json.dumps(record({"n": 1, "who": "a" * 50}, [claim(autoencoder="s" * 50)] * 40))
    for i in range(1_800):
        path = tmp_path / ("few" if i < 300 else "many") / f"a-{i}" / "a.record.json"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    arguments = [str(tmp_path), str(tmp_path / "c.parquet")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 20
