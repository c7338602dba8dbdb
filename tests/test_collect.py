"""The table of claims: its columns and rows by hand, and what is left out of it."""

import dataclasses
import json
import subprocess
import sys

import pandas as pd
import pytest

from saerepgeo_lib import claims
from saerepgeo_lib.cli import main
from saerepgeo_lib.collect import collect
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.files import write_json
from saerepgeo_lib.record_files import CLAIM_FIELDS, RECORD_VERSION, read_record
from saerepgeo_lib.records import Record

STAGES = {"a": {"seconds": 1.5, "process_peak_mib": 10}, "b": {"seconds": 2, "process_peak_mib": 7}}


def claim(**values):
    return {"id": "c", "subject": "s", "statistic": "t", "value": 0.5, "low": 0.25, "high": 1,
            "p": None, "n": 3, "verdict": "holds"} | values  # fmt: skip


def record(parameters, found, **parts):
    return {"version": RECORD_VERSION, "notebook": "a", "parameters": parameters, "seeds": [0],
            "claims": found, "numbers": {}, "tables": {},
            "run": {"device": "cpu", "stages": STAGES}} | parts  # fmt: skip


@pytest.fixture
def runs(tmp_path):
    """Three finished runs of two notebooks, a hidden unfinished one, a failure's note."""
    write_json(
        tmp_path / "r/a-1/a.record.json",
        record(
            {"n": 1, "x": 1, "levels": [0, 1], "who": "é"}, [claim(), claim(id="d", value=None)]
        ),
    )
    write_json(
        tmp_path / "r/a-2/a.record.json",
        record({"n": 2, "x": 0.5, "levels": [], "who": "b"}, [claim(n=4)]),
    )
    write_json(
        tmp_path / "r/b-3/b.record.json",
        record({"n": "many", "big": 2**70}, [claim(verdict="does not hold")], notebook="b"),
    )
    write_json(tmp_path / "r/.a-4.xyz/a.record.json", record({"n": 9}, [claim()]))
    write_json(tmp_path / "r/a-5.failed.json", {"reason": "x"})
    return tmp_path / "r"  # fmt: skip


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
    common = ["cpu", 3.5, 10.0]
    place = [None, None]
    first = ["a-1", "a", *place, None, "[0, 1]", "1", "é", 1.0]
    assert rows == [
        [*first, "c", "s", "t", 0.5, 0.25, 1.0, None, 3, "holds", *common],
        [*first, "d", "s", "t", None, 0.25, 1.0, None, 3, "holds", *common],
        ["a-2", "a", *place, None, "[]", "2", "b", 0.5, "c", "s", "t", 0.5, 0.25, 1.0, None, 4,
         "holds", *common],
        ["b-3", "b", *place, str(2**70), None, '"many"', None, None, "c", "s", "t", 0.5, 0.25, 1.0,
         None, 3, "does not hold", *common],
    ]  # fmt: skip
    assert [p.name for p in (tmp_path / "t").iterdir()] == ["claims.parquet"]


def test_broken_and_older_records_are_named_and_left_out(runs, tmp_path, capsys, caplog):
    (runs / "a-1" / "a.record.json").write_text('{"version": 1, "notebo')
    old = record({}, [claim()], version=RECORD_VERSION - 1)
    write_json(runs / "a-2" / "a.record.json", old)
    out = tmp_path / "claims.parquet"
    assert main(["collect", str(runs), "-o", str(out)]) == 1
    assert "1 rows of 1 runs" in capsys.readouterr().out
    assert "a-1/a.record.json is not JSON" in caplog.text
    assert "a-2/a.record.json is a record of version 0, expected 1" in caplog.text
    assert list(pd.read_parquet(out)["run"]) == ["b-3"]


def test_runs_made_again_with_a_changed_library_are_counted(runs, tmp_path, capsys):
    again = json.loads((runs / "a-1" / "a.record.json").read_text())
    write_json(runs / "a-9" / "a.record.json", again)
    assert main(["collect", str(runs), "-o", str(tmp_path / "c.parquet")]) == 0
    assert "1 of these runs repeat another" in capsys.readouterr().out


def test_nothing_to_collect_says_what_to_do_and_leaves_the_old_table(tmp_path, runs):
    out = tmp_path / "claims.parquet"
    out.write_text("old")
    with pytest.raises(UserError, match=r"no folder .*nowhere: give the one that"):
        collect(tmp_path / "nowhere", out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no record of a run; 'saerepgeo sweep GRID"):
        collect(tmp_path / "empty", out)
    write_json(tmp_path / "none/a-1/a.record.json", record({}, []))
    with pytest.raises(UserError, match=r"none of the 1 records .* has a claim"):
        collect(tmp_path / "none", out)
    write_json(tmp_path / "bad/a-1/a.record.json", [])
    with pytest.raises(UserError, match=r"only broken records \(1"):
        collect(tmp_path / "bad", out)
    assert out.read_text() == "old"


def test_what_the_library_writes_is_what_is_read(tmp_path):
    found = claims.Claim("c", "s", "t", 0.5, float("nan"), 1.0, 0.1, 3, "holds")
    made = Record("a", {"n": 1}, [0], "cpu", [found], {"t": pd.DataFrame({"x": [1.0]})})
    with made.stage("all"):
        pass
    made.write(tmp_path / "a.record.json")
    assert read_record(tmp_path / "a.record.json")["claims"] == [claim(low=None, p=0.1)]
    assert list(CLAIM_FIELDS) == [f.name for f in dataclasses.fields(claims.Claim)]


def test_memory_does_not_grow_with_the_number_of_runs(tmp_path):
    """3,000 records of 30 claims hold 90,000 rows: more than a batch, less than they weigh."""
    code = """
import json, resource, sys
from pathlib import Path
from saerepgeo_lib.collect import collect
from saerepgeo_lib.cli import main
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
out = Path(sys.argv[2])
collect(Path(sys.argv[1]) / "few", out)
before = peak()
size = collect(Path(sys.argv[1]) / "many", out)
assert size.rows == 90_000, size
print(peak() - before)
"""
    text = json.dumps(record({"n": 1, "who": "a" * 50}, [claim(subject="s" * 50)] * 30))
    for name, n in (("few", 400), ("many", 3_000)):
        for i in range(n):
            path = tmp_path / name / f"a-{i}" / "a.record.json"
            path.parent.mkdir(parents=True)
            path.write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(tmp_path / "c.parquet")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 24
