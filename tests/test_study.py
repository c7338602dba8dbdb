"""Studies: what is done is not done again, by one process or two, and a repeat is compared."""

import json
import multiprocessing
import sys
import time
from dataclasses import asdict, dataclass
from types import SimpleNamespace

import pytest
from refusals import refused

from saerepgeo_lib.companion.cli import main
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.files import held_lock, sha256_json
from saerepgeo_lib.studies import study as module
from saerepgeo_lib.studies.catalogue import STUDIES, find_study
from saerepgeo_lib.studies.study import Study, check_point, read_study, run_study, study_file


@dataclass(frozen=True)
class Point:
    a: int
    b: float = 0.5


POINTS = tuple(Point(a) for a in range(4))


def study(done, *, fail_at=None, pause=0.0):
    """Its result is a sum; every call is noted in the folder `done`."""

    def prepare(work, device):
        def do(point):
            time.sleep(pause)
            if point.a == fail_at:
                raise KeyboardInterrupt
            done.mkdir(exist_ok=True)
            (done / f"{point.a}-{time.monotonic_ns()}").touch()
            return {"sum": point.a + point.b, "more": {"square": point.a**2, "none": None}}

        return do

    return Study(POINTS, prepare)


def run(tmp_path, given):
    return run_study("t", given, work=tmp_path / "work", out=tmp_path / "t.json", device="cpu")


def calls(tmp_path):
    return sorted(int(p.name[0]) for p in (tmp_path / "done").iterdir())


def test_an_interrupted_study_goes_on_where_it_stopped(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, study(tmp_path / "done", fail_at=2))
    assert not (tmp_path / "t.json").exists() and calls(tmp_path) == [0, 1]
    assert run(tmp_path, study(tmp_path / "done")) == tmp_path / "t.json"
    assert calls(tmp_path) == [0, 1, 2, 3]
    found = read_study(tmp_path / "t.json")
    assert [p["point"] for p in found["points"]] == [asdict(p) for p in POINTS]
    assert [p["result"]["sum"] for p in found["points"]] == [0.5, 1.5, 2.5, 3.5]
    assert found["points"][0]["made with"]["device"] == "cpu"
    run(tmp_path, study(tmp_path / "done", fail_at=0))  # everything is there: nothing is done


def test_two_processes_share_the_points_and_do_none_twice(tmp_path):
    context = multiprocessing.get_context("fork")
    given = study(tmp_path / "done", pause=0.2)
    both = [context.Process(target=run, args=(tmp_path, given)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    assert calls(tmp_path) == [0, 1, 2, 3]
    assert run(tmp_path, given) and calls(tmp_path) == [0, 1, 2, 3]


def test_a_point_that_another_process_holds_is_left_to_it(tmp_path):
    folder = tmp_path / "work" / "studies" / "t"
    folder.mkdir(parents=True)
    with held_lock(folder / f"{sha256_json(asdict(POINTS[1]))[:16]}.lock"):
        assert run(tmp_path, study(tmp_path / "done")) is None
    assert calls(tmp_path) == [0, 2, 3] and not (tmp_path / "t.json").exists()


def test_half_a_file_of_results_is_refused_by_name(tmp_path):
    run(tmp_path, study(tmp_path / "done"))
    path = tmp_path / "t.json"
    path.write_text(path.read_text()[:100])
    refused(r"t\.json is not JSON", read_study, path)
    path.write_text("{}")
    refused("saerepgeo study NAME", read_study, path)
    single = next((tmp_path / "work" / "studies" / "t").glob("*.json"))
    single.write_text(single.read_text()[:20])
    refused(f"{single.name} is not JSON", run, tmp_path, study(tmp_path / "done"))


def test_every_shipped_study_has_exactly_the_points_of_its_grid(capsys):
    assert main(["study", "separabilty"]) == 2
    assert "did you mean 'separability'" in capsys.readouterr().err
    for name in STUDIES:
        recorded = read_study(name)["points"]
        assert [p["point"] for p in recorded] == [asdict(p) for p in find_study(name).points]
        assert study_file(name).stat().st_size < 550_000


def test_a_repeated_point_is_compared_number_by_number(tmp_path, monkeypatch, capsys):
    given = study(tmp_path / "done")
    path = run(tmp_path, given)
    where = {"recorded": path, "work": tmp_path / "work", "device": "cpu"}
    assert check_point(given, 2, **where) == {"sum": 0, "more: square": 0, "more: none": 0}
    assert calls(tmp_path).count(2) == 2  # it was done again, not read
    monkeypatch.setitem(STUDIES, "t", "t_study")
    monkeypatch.setitem(sys.modules, "t_study", SimpleNamespace(STUDY=given))
    command = ["study", "t", "--out", str(path), "--work", str(tmp_path / "work"), "--check", "2"]
    assert main([*command, "--device", "cpu"]) == 0
    assert "0.00e+00  more: square" in capsys.readouterr().out
    record = json.loads(path.read_text())
    record["points"][2]["result"]["sum"] *= 1.02
    path.write_text(json.dumps(record))
    assert check_point(given, 2, **where)["sum"] == pytest.approx(0.02 / 1.02)
    assert main([*command, "--device", "cpu"]) == 1
    assert "more than 1% from the record: sum" in capsys.readouterr().err
    refused("points 0 to 3, not 4", check_point, given, 4, **where)
    with pytest.raises(UserError, match=r"point 2 of .* is not in it now"):
        check_point(Study((Point(2, 0.7),), given.prepare), 2, **where)


def test_numbers_and_words_are_compared_one_by_one():
    assert module._apart(None, None) == 0 and module._apart(None, 1.0) == float("inf")
    assert module._apart(1.0, -1.0) == 2 and module._apart(0.0, 1e-9) == pytest.approx(1e-6)
    before = {"ranks": [1.0, 2.0], "findings": [{"verdict": "holds", "value": None}]}
    after = {"ranks": [1.0, 4.0], "findings": [{"verdict": "does not hold", "value": None}]}
    found, again = module._flat(before), module._flat(after)
    assert {name: module._apart(found[name], again[name]) for name in found} == {
        "ranks: 0": 0, "ranks: 1": 0.5, "findings: 0: verdict": float("inf"),
        "findings: 0: value": 0,
    }  # fmt: skip
