"""Sweeps end to end on a stub notebook: resumed, mended, shared, killed; and what they cost."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import dask.config
import psutil
import pytest
from distributed import Client, LocalCluster
from stub_runs import (
    finished,
    kernels,
    start_sweep,
    starts,
    wait_for,
    workers,
    write_grid,
)

import saerepgeo_lib
from saerepgeo_lib import runner
from saerepgeo_lib.cli import main
from saerepgeo_lib.files import read_json, write_json
from saerepgeo_lib.grid import read_grid
from saerepgeo_lib.sweep import _result, drive, execute, local_client, local_settings

slow = pytest.mark.slow


def run(grid, out, *options):
    return main(["sweep", str(grid), "-o", str(out), *options])


def ended(process, *, seconds=120):
    """Exit status, standard output and error of a sweep's process."""
    out, error = process.communicate(timeout=seconds)
    return process.returncode, out, error


def hidden(out):
    return [path.name for path in out.glob(".*")]


@slow
def test_the_same_command_runs_only_what_is_missing_or_broken(folder, capfd):
    out, grid = folder / "o", write_grid(folder, n=[0, 1, 2], name=["a"])
    assert run(grid, out, "--dry") == 0
    assert "3 runs, 0 finished" in capfd.readouterr().out
    assert not out.exists()

    assert run(grid, out) == 0
    shown = capfd.readouterr()
    assert "3 runs in" in shown.out and "3 executed, 0 found, 0 failed" in shown.out
    assert shown.err == ""  # quiet where CI is set
    assert starts(folder) == {0: 1, 1: 1, 2: 1} and set(finished(out)) == {0, 1, 2}
    assert not hidden(out)

    assert run(grid, out) == 0
    assert "0 executed, 3 found" in capfd.readouterr().out
    assert starts(folder) == {0: 1, 1: 1, 2: 1}

    before = finished(out)
    paths = {read_json(p)["parameters"]["n"]: p for p in out.glob("*/*.record.json")}
    whole = paths[0].read_text()
    paths[0].write_text(whole[: len(whole) // 2])  # cut short
    paths[1].write_text(whole.replace('"version": 1', '"version": 0'))  # an older form
    grid = write_grid(folder, n=[0, 1, 2, 3], name=["a"])
    assert run(grid, out, "--dry") == 0
    assert "4 runs, 1 finished" in capfd.readouterr().out
    assert run(grid, out) == 0
    assert "3 executed, 1 found, 0 failed" in capfd.readouterr().out
    assert starts(folder) == {0: 2, 1: 2, 2: 1, 3: 1}
    assert set(finished(out)) == {0, 1, 2, 3} and finished(out)[2] == before[2]
    assert not hidden(out)

    (folder / "stub.py").write_text((folder / "stub.py").read_text() + "\n# changed\n")
    assert run(grid, out, "--dry") == 0
    assert "4 runs, 0 finished" in capfd.readouterr().out


@slow
def test_failures_are_told_kept_and_tried_again_and_the_others_finish(folder, capfd):
    out = folder / "o"
    faults = ["raise", "user", "die", "kill worker", "no record"]
    grid = write_grid(
        folder, runs=[{"n": i, "fault": f} for i, f in enumerate(faults)] + [{"n": 10}, {"n": 11}]
    )
    assert run(grid, out, "--workers", "2") == 1
    shown = capfd.readouterr()
    assert "7 runs in" in shown.out and "2 executed, 0 found, 5 failed" in shown.out
    assert set(finished(out)) == {10, 11}
    assert starts(folder) == {0: 1, 1: 1, 2: 1, 3: 4, 4: 1, 10: 1, 11: 1}
    words = ["KeyError: 'broken on purpose'", "did you mean 'y'?", "lack of memory",
             "its worker died each time", "without writing its record"]  # fmt: skip
    for fault, reason in zip(faults, words, strict=True):
        (line,) = [line for line in shown.out.splitlines() if f"fault={fault} " in line]
        assert reason in line and line.strip() in shown.err  # the table, and live
    notes = [read_json(path) for path in out.glob("*.failed.json")]
    assert {note["parameters"]["fault"] for note in notes} == set(faults)
    assert all(note["notebook"] == "stub" and note["reason"] for note in notes)
    assert len(list(out.glob("*.failed.ipynb"))) == 2  # raise and die, which got somewhere
    assert "the same command tries these runs again" in shown.err and "Traceback" not in shown.err
    assert not hidden(out)

    (folder / "mended").touch()
    assert run(grid, out, "--workers", "2") == 0
    assert "5 executed, 2 found, 0 failed" in capfd.readouterr().out
    assert starts(folder) == {0: 2, 1: 2, 2: 2, 3: 5, 4: 2, 10: 1, 11: 1}
    assert not list(out.glob("*.failed.*"))


@slow
def test_24_runs_finish_though_each_worker_is_killed(folder):
    out = folder / "o"
    sweep = start_sweep(write_grid(folder, n=list(range(24)), seconds=[0.3]), out, "--workers", "2")
    first = wait_for(lambda: len(w := workers(sweep)) == 2 and w)
    wait_for(lambda: len(kernels(out)) == 2)
    killed = [worker.pid for worker in first]
    first[0].kill()
    wait_for(lambda: len(finished(out)) >= 4)
    first[1].kill()
    second = wait_for(lambda: len(w := workers(sweep)) == 2 and w)
    assert not {w.pid for w in second} & set(killed)
    wait_for(lambda: len(finished(out)) >= 10)
    second[0].kill()
    status, text, error = ended(sweep)
    assert status == 0, error
    # A run whose worker died between its end and its report is found, not executed again.
    executed, found = map(int, re.search(r"(\d+) executed, (\d+) found, 0 failed", text).groups())
    assert executed + found == 24 and found <= 3
    assert set(finished(out)) == set(range(24))
    assert set(starts(folder)) == set(range(24)) and starts(folder).total() <= 24 + 3
    assert not hidden(out) and not kernels(out)


@slow
def test_50_sigkills_lose_no_finished_run_and_repeat_none(folder):
    """Drivers (alone, without their workers), workers and kernels die at random moments."""
    out, draw = folder / "o", random.Random(0)
    size, kills, known = 40, 0, {}

    def check():
        """What was finished still is, the very same folder, and was not started again."""
        now = finished(out)
        count = starts(folder)
        for n, (place, times) in known.items():
            assert now.get(n) == place, n
            assert count[n] == times, n
        known.update({n: (now[n], count[n]) for n in now.keys() - known.keys()})

    while kills < 50:
        grid = write_grid(folder, n=list(range(size)), seconds=[0.2])
        sweep = start_sweep(grid, out, "--workers", "2", start_new_session=True)
        wait_for(lambda sweep=sweep: kernels(out) or sweep.poll() is not None)
        for _ in range(4):
            time.sleep(draw.uniform(0, 1.2))
            victims = draw.choice((workers(sweep), workers(sweep), kernels(out)))
            if kills < 49 and victims:
                draw.choice(victims).kill()
                kills += 1
        time.sleep(draw.uniform(0, 1.2))
        if sweep.poll() is None:
            sweep.kill()
            kills += 1
        else:
            size += 20
        sweep.communicate()
        wait_for(lambda: not kernels(out), seconds=10)  # no orphan lives on
        check()

    status, text, error = ended(start_sweep(grid, out, "--workers", "2"))
    assert status == 0, error
    assert f"{len(known)} found, 0 failed" in text
    check()
    assert set(known) == set(range(size)) and len(known) == size
    assert not hidden(out) and not kernels(out)


@slow
def test_two_sweeps_in_one_folder_share_the_work(folder):
    out, grid = folder / "o", write_grid(folder, n=list(range(10)), seconds=[0.1])
    both = [start_sweep(grid, out, "--workers", "1") for _ in range(2)]
    results = [ended(sweep) for sweep in both]
    assert [status for status, _, _ in results] == [0, 0], results
    executed = [int(re.search(r"(\d+) executed", text)[1]) for _, text, _ in results]
    assert sum(executed) == 10
    assert starts(folder) == dict.fromkeys(range(10), 1)
    assert set(finished(out)) == set(range(10)) and not hidden(out)


@slow
def test_a_disk_that_takes_no_more_fails_its_runs_and_keeps_the_others(folder):
    """A limit on the size of files stands for the disk: one run prints more than fits."""
    out, grid = folder / "o", write_grid(folder, runs=[{"n": 0}, {"n": 1, "fault": "print"}])
    sweep = start_sweep(grid, out, "--workers", "1", file_size=30_000)
    status, text, error = ended(sweep)
    assert status == 1, error
    assert "1 executed, 0 found, 1 failed" in text and "File too large" in text
    assert set(finished(out)) == {0} and not hidden(out)
    status, text, _ = ended(start_sweep(grid, out, "--workers", "1"))
    assert status == 0 and "1 executed, 1 found, 0 failed" in text


@slow
def test_ctrl_c_keeps_what_is_finished(folder):
    out, grid = folder / "o", write_grid(folder, n=list(range(20)), seconds=[0.3])
    sweep = start_sweep(grid, out, "--workers", "2", start_new_session=True)
    wait_for(lambda: len(finished(out)) >= 2)
    os.killpg(sweep.pid, signal.SIGINT)  # as a terminal does
    status, _, error = ended(sweep)
    assert status == 130 and "the same command goes on" in error and "Traceback" not in error
    done = finished(out)
    assert 2 <= len(done) < 20 and not hidden(out)
    wait_for(lambda: not kernels(out), seconds=10)


@slow
def test_a_dask_cluster_that_runs_already(folder, monkeypatch, capfd):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    out, grid = folder / "o", write_grid(folder, n=[0, 1, 2])
    with local_client(2) as client:
        assert run(grid, out, "--scheduler", client.scheduler.address) == 0
        assert "3 executed" in capfd.readouterr().out
        loaded = client.run(lambda: "torch" in sys.modules)
        assert list(loaded.values()) == [False, False]
        threads = client.run(lambda: os.environ["OMP_NUM_THREADS"])
        share = max(1, len(os.sched_getaffinity(0)) // 2)
        assert set(threads.values()) == {str(share)}
    assert set(finished(out)) == {0, 1, 2}


@slow
@pytest.mark.parametrize("deaths", [2, 3])
def test_a_kernel_that_dies_while_it_starts_is_started_again(deaths, folder, monkeypatch):
    class Dying(runner.KernelManager):
        left = deaths

        async def _async_start_kernel(self, **kwargs):
            await super()._async_start_kernel(**kwargs)
            if Dying.left:
                Dying.left -= 1
                await self._async_signal_kernel(signal.SIGKILL)

        start_kernel = _async_start_kernel

    monkeypatch.setattr(runner, "KernelManager", Dying)
    given = {"folder": str(folder)}
    if deaths == 3:
        with pytest.raises(RuntimeError, match="before replying"):
            runner.run_notebook(folder / "stub.py", given, out=folder / "o", progress=False)
        assert not starts(folder) and not list((folder / "o").glob("[!.]*"))
    else:
        runner.run_notebook(folder / "stub.py", given, out=folder / "o", progress=False)
        assert starts(folder) == {0: 1}


def test_options_that_cannot_be(folder, capsys):
    grid = write_grid(folder, n=[0])
    assert run(grid, folder / "o", "--workers", "2", "--scheduler", "tcp://127.0.0.1:9") == 2
    assert "--workers or --scheduler" in capsys.readouterr().err
    assert run(grid, folder / "o", "--workers", "0") == 2
    assert "at least 1, got 0" in capsys.readouterr().err
    assert not starts(folder)


@slow
def test_a_scheduler_that_goes_away_is_said():
    """Its tasks are then cancelled; what is finished stays."""
    with local_client(1) as client:
        task = client.submit(time.sleep, 60)
        task.cancel()
        with pytest.raises(RuntimeError, match=r"scheduler went away.*same command"):
            _result(task)


def test_a_scheduler_that_does_not_answer(folder, capsys):
    grid = write_grid(folder, n=[0])
    assert run(grid, folder / "o", "--scheduler", "127.0.0.1:9") == 2
    assert "no Dask scheduler answers at '127.0.0.1:9'" in capsys.readouterr().err
    assert not starts(folder)


def test_what_a_kill_between_the_two_renames_leaves_is_put_back(folder):
    """A fresh run takes the place of a finished one by two renames; here it dies between them."""
    out = folder / "o"
    place = runner.find_run(folder / "stub.py", {}, out=out, cwd=folder)
    put_stub_result(place.folder.with_name(f".{place.folder.name}.old"))
    torn = out / f".{place.folder.name}.x.part"
    torn.mkdir()
    runner.clean(out)
    assert runner.is_finished(place) and not hidden(out)


def test_a_living_runs_folder_is_left_alone(folder):
    out = folder / "o"
    name = runner.find_run(folder / "stub.py", {}, out=out, cwd=folder).folder.name
    alive = out / f".{name}.x.part"
    alive.mkdir(parents=True)
    code = (
        "import sys, time; from pathlib import Path; from saerepgeo_lib.files import held_lock\n"
        "with held_lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(out / f".{name}.lock")], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    runner.clean(out)
    assert alive.is_dir()
    holder.kill()
    holder.wait()
    runner.clean(out)
    assert not hidden(out)


def put_stub_result(folder):
    """Files such as a run of the stub leaves."""
    folder.mkdir(parents=True)
    write_json(folder / "stub.ipynb", {"cells": [], "metadata": {}, "nbformat": 4})
    write_json(folder / "stub.record.json", stub_record())


def stub_record():
    return {
        "version": 1, "notebook": "stub", "parameters": {"n": 0}, "seeds": [], "claims": [],
        "numbers": {}, "tables": {}, "run": {"device": "cpu", "stages": {}},
    }  # fmt: skip


@slow
def test_a_thousand_runs_cost_less_than_50_ms_each_and_no_memory(folder, monkeypatch):
    """Everything of a sweep but the kernel: papermill's execution is replaced by its result.

    Driver, scheduler and worker share this process here, so its memory is theirs.
    """
    kept = json.dumps(stub_record())

    def instead(pair, executed, parameters, *, config, **options):
        Path(executed).write_text(Path(pair).read_text())
        Path(config["KernelManager"]["variables"][runner.RECORD_VARIABLE]).write_text(kept)

    monkeypatch.setattr(runner.papermill, "execute_notebook", instead)
    grid = read_grid(write_grid(folder, n=list(range(1000)), x=[0.0]))
    marks, process = [], psutil.Process()
    (folder / "o").mkdir()

    def marked(points):
        for i, point in enumerate(points):
            if i in (200, 999):
                marks.append((time.perf_counter(), process.memory_info().rss))
            yield point

    with (
        dask.config.set(local_settings(1)),
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,
    ):  # fmt: skip
        begin = time.perf_counter()
        outcome = drive(client, marked(grid), total=1000, out=folder / "o", progress=False)
        seconds = time.perf_counter() - begin
    assert (outcome.executed, outcome.failed) == (1000, 0), outcome.failures
    assert len(list((folder / "o").glob("stub-*"))) == 1000
    assert seconds / 1000 < 0.05
    (_, early), (_, late) = marks
    assert (late - early) / 2**20 < 16, "800 runs more"
    again = time.perf_counter()
    assert run(grid.path, folder / "o", "--dry") == 0
    assert (time.perf_counter() - again) / 1000 < 0.05


def test_a_worker_that_does_not_see_the_drivers_files_says_so(folder):
    out = folder / "o"
    ending, reason = execute(str(folder / "stub.py"), {}, str(out), str(folder))
    assert ending == "failed" and f"sees no {out}" in reason
    assert not out.exists()


def test_neither_driver_nor_table_loads_torch():
    code = (
        "import sys, saerepgeo_lib.sweep, saerepgeo_lib.collect; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_library_reads_no_pickle():
    """Neither pickles nor what hides them: joblib, torch.load, allow_pickle, unsafe YAML."""
    forbidden = re.compile(
        r"import pickle|pickle\.loads?\(|import (dill|shelve|marshal)|joblib\.load|read_pickle"
        r"|to_pickle|allow_pickle=True|torch\.load\((?!.*weights_only=True)|torch\.save\("
        r"|yaml\.(unsafe_load|full_load)|Loader=yaml\.(Unsafe|Full)?Loader"
    )
    root = Path(saerepgeo_lib.__file__).parent.parent
    sources = [*root.glob("saerepgeo_lib/*.py"), *root.glob("notebooks/*.py")]
    assert len(sources) > 50
    for path in sources:
        assert not forbidden.search(path.read_text()), path
