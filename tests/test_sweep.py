"""Sweeps end to end on a stub notebook: resumed, mended, shared, killed; and what they cost."""

import os
import random
import re
import signal
import sys
import time
from contextlib import nullcontext, suppress
from pathlib import Path

import psutil
import pytest
from dask.system import CPU_COUNT
from refusals import refused
from stub_runs import ended, finished, hidden, kernels, start, starts, wait_for, workers, write_grid

import saerepgeo_lib
from saerepgeo_lib.companion import cli, runner
from saerepgeo_lib.companion import sweep as sweeps
from saerepgeo_lib.companion.cli import main
from saerepgeo_lib.companion.grid import read_grid
from saerepgeo_lib.companion.records import RECORD_VERSION
from saerepgeo_lib.companion.sweep import drive, execute, local_client, result_of
from saerepgeo_lib.files import held_lock, read_json, write_json

slow = pytest.mark.slow


def run(grid, out, *options):
    return main(["sweep", str(grid), "-o", str(out), *options])


@slow
def test_the_same_command_runs_only_what_is_missing_or_broken(folder, capfd):
    out, grid = folder / "o", write_grid(folder, n=[0, 1, 2], name=["a"])
    assert run(grid, out, "--dry") == 0
    assert "3 runs, 0 finished" in capfd.readouterr().out
    assert not out.exists()

    assert run(grid, out, "--workers", "1") == 0
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
    paths[1].write_text(whole.replace('"version": 3', '"version": 2'))  # an older form
    assert run(grid, out, "--dry") == 0
    assert "3 runs, 1 finished" in capfd.readouterr().out
    assert run(grid, out, "--workers", "1") == 0
    assert "2 executed, 1 found, 0 failed" in capfd.readouterr().out
    assert starts(folder) == {0: 2, 1: 2, 2: 1}
    assert set(finished(out)) == {0, 1, 2} and finished(out)[2] == before[2]
    assert not hidden(out)

    (folder / "stub.py").write_text((folder / "stub.py").read_text() + "\n# changed\n")
    assert run(grid, out, "--dry") == 0
    assert "3 runs, 0 finished" in capfd.readouterr().out


@slow
def test_failures_are_told_kept_and_tried_again_and_the_others_finish(folder, capfd, monkeypatch):
    monkeypatch.setattr(sweeps, "TRIES", 2)
    out = folder / "o"
    faults = ["raise", "user", "die", "kill worker", "no record"]
    runs = [{"n": i, "fault": fault} for i, fault in enumerate(faults)]
    grid = write_grid(folder, runs=[*runs, {"n": 10}])
    assert run(grid, out, "--workers", "2") == 1
    shown = capfd.readouterr()
    assert "6 runs in" in shown.out and "1 executed, 0 found, 5 failed" in shown.out
    assert set(finished(out)) == {10}
    before = starts(folder)
    # a failure is tried again, too, if its worker dies before it could tell of it
    assert before[3] == 2 and before[10] == 1 and all(1 <= before[n] <= 2 for n in (0, 1, 2, 4))
    words = ["KeyError: 'broken on purpose'", "did you mean 'y'?", "lack of memory",
             "its worker died each time", "without writing its record"]  # fmt: skip
    for fault, reason in zip(faults, words, strict=True):
        (line,) = [line for line in shown.out.splitlines() if f"fault={fault} " in line]
        assert reason in line and line.strip() in shown.err  # the table, and live
    notes = [read_json(path) for path in out.glob("*.failed.json")]
    assert {note["parameters"]["fault"] for note in notes} == set(faults)
    assert all(note["notebook"] == "stub" and note["reason"] for note in notes)
    assert len(list(out.glob("*.failed.ipynb"))) == 3  # raise, die and no record got somewhere
    assert "the same command tries these runs again" in shown.err and "Traceback" not in shown.err
    assert not hidden(out)

    (folder / "mended").touch()
    assert run(grid, out, "--workers", "1") == 0
    assert "5 executed, 1 found, 0 failed" in capfd.readouterr().out
    assert starts(folder) - before == dict.fromkeys(range(5), 1)
    assert not list(out.glob("*.failed.*"))


@slow
def test_6_sigkills_lose_no_finished_run_and_repeat_none(folder):
    """Drivers (alone, without their workers), workers and kernels die at random moments."""
    out, draw = folder / "o", random.Random(0)
    size, kills, known = 6, 0, {}
    command = ["sweep", write_grid(folder, n=list(range(size)), seconds=[0.2]), "-o", out]

    def check():
        """What was finished still is, the very same folder, and was not started again."""
        now = {n: (place, starts(folder)[n]) for n, place in finished(out).items()}
        assert known.items() <= now.items()
        known.update(now)

    while kills < 6:
        sweep = start(*command, "--workers", "2", start_new_session=True)
        wait_for(lambda sweep=sweep: kernels(out) or sweep.poll() is not None)
        for _ in range(4):
            time.sleep(draw.uniform(0, 1.2))
            victims = draw.choice((workers(sweep), kernels(out)))
            if kills < 5 and victims:
                draw.choice(victims).kill()
                kills += 1
        time.sleep(draw.uniform(0, 1.2))
        if sweep.poll() is None:
            sweep.kill()
            kills += 1
        else:
            size += 6
            write_grid(folder, n=list(range(size)), seconds=[0.2])
        sweep.communicate()
        wait_for(lambda: not kernels(out))  # no orphan lives on
        check()

    status, text, error = ended(start(*command, "--workers", "2"))
    assert status == 0, error
    assert f"{len(known)} found, 0 failed" in text
    check()
    assert set(known) == set(range(size)) and len(known) == size
    assert not hidden(out) and not kernels(out)


@slow
def test_two_sweeps_in_one_folder_share_the_work(folder):
    out, grid = folder / "o", write_grid(folder, n=list(range(4)), seconds=[0.1])
    both = [start("sweep", grid, "-o", out, "--workers", "1") for _ in range(2)]
    results = [ended(sweep) for sweep in both]
    assert [status for status, _, _ in results] == [0, 0], results
    assert sum(int(re.search(r"(\d+) executed", text)[1]) for _, text, _ in results) == 4
    assert starts(folder) == dict.fromkeys(range(4), 1)
    assert set(finished(out)) == set(range(4)) and not hidden(out)


@slow
def test_a_disk_that_takes_no_more_fails_its_runs_and_keeps_the_others(folder, capfd):
    """A size limit on files stands for the disk: one run prints more than fits. So alone, too."""
    out, grid = folder / "o", write_grid(folder, runs=[{"n": 0}, {"n": 1, "fault": "print"}])
    alone = "run", folder / "stub.py", "-p", "fault", "print", "-o", out
    status, _, error = ended(start(*alone, file_size=40_000))
    assert status in (1, 2) and "File too large" in error and "Traceback" not in error, error
    assert not finished(out) and not hidden(out)
    sweep = start("sweep", grid, "-o", out, "--workers", "1", file_size=30_000)
    status, text, error = ended(sweep)
    assert status == 1, error
    assert "1 executed, 0 found, 1 failed" in text and "File too large" in text
    assert set(finished(out)) == {0} and not hidden(out)
    assert run(grid, out, "--workers", "1") == 0
    assert "1 executed, 1 found, 0 failed" in capfd.readouterr().out


@slow
def test_ctrl_c_keeps_what_is_finished(folder):
    out, grid = folder / "o", write_grid(folder, n=list(range(20)), seconds=[0.3])
    sweep = start("sweep", grid, "-o", out, "--workers", "2", start_new_session=True)
    wait_for(lambda: len(finished(out)) >= 2)
    os.killpg(sweep.pid, signal.SIGINT)  # as a terminal does
    status, _, error = ended(sweep)
    assert status == 130 and "finished runs are kept; the same command does the rest" in error
    assert "Traceback" not in error
    done = finished(out)
    assert 2 <= len(done) < 20 and not hidden(out)
    wait_for(lambda: not kernels(out))


def interrupted(*command, when, **options):
    """What `saerepgeo COMMAND` says when Ctrl-C comes as soon as `when` is true."""
    process = start(*command, **options)
    wait_for(lambda: when() or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    status, _, error = ended(process)
    assert status == 130 and "Traceback" not in error, error
    return error.strip().splitlines()[-1]


@slow
@pytest.mark.parametrize("seconds", [9, 600])  # the second has shown something by then
def test_ctrl_c_says_what_is_kept_of_a_run(seconds, folder):
    out = folder / "o"
    command = "run", folder / "stub.py", "-p", "seconds", seconds, "-p", "folder", folder, "-o", out
    said = interrupted(*command, when=lambda: starts(folder) and (shown(out) or seconds == 9))
    left = [path.name for path in out.iterdir()] if out.exists() else []
    if seconds == 9:
        assert said == "saerepgeo: interrupted; nothing of this run is kept" and not left
    else:
        assert left[0].endswith(".failed.ipynb") and f"was executed is in {out / left[0]}" in said
        assert "Something was computed" in (out / left[0]).read_text()
    wait_for(lambda: not kernels(out))


BOOK = """
import sys
from pathlib import Path
from saerepgeo_lib.companion import book, cli
book.n_at_once = lambda: int(sys.argv[1])
sources = [Path(name) for name in sys.argv[3:]]
book.build = lambda **options: book.execute(sources, Path(sys.argv[2]), **options)
sys.exit(cli.main(["book"]))
"""


@slow
@pytest.mark.parametrize("n_at_once", [1, 2])
def test_ctrl_c_keeps_the_notebooks_of_the_book_that_were_executed(n_at_once, folder):
    out, source = folder / "o", (folder / "stub.py").read_text()
    for name, seconds in (("quick", 0), ("long", 600)):
        given = f'folder: str = "{folder}"'
        changed = source.replace("seconds: float = 0", f"seconds: float = {seconds}")
        (folder / f"{name}.py").write_text(changed.replace('folder: str = ""', given))
    sources = folder / "quick.py", folder / "long.py"

    def when():  # the first is done, the second at work
        return list(out.glob("quick-*/*.ipynb")) and shown(out)

    said = interrupted(n_at_once, out, *sources, when=when, program=["-c", BOOK])
    assert said.endswith("executed notebooks and the last whole book are kept; "
                         "the same command goes on")  # fmt: skip
    wait_for(lambda: not kernels(out))
    left = {path.name.partition("-")[0] for path in out.glob("[!.]*") if path.is_dir()}
    assert left == {"quick"}


@slow
def test_ctrl_c_in_a_training_keeps_its_activations(tmp_path):
    corpus, work = tmp_path / "corpus.txt", tmp_path / "work"
    corpus.write_text("".join(f"Item {i}.\n" for i in range(9_000)))
    said = interrupted(
        "train", "minilm-l4-topk", "--text", corpus, "--out", tmp_path / "out", "--work", work,
        when=lambda: list(work.glob("*/activations/[!.]*.npy")),
    )  # fmt: skip
    assert said.startswith(
        "saerepgeo: interrupted; whole files of activations, the last checkpoint"
    )
    assert list(work.glob("*/activations/[!.]*.npy")) and not (tmp_path / "out").exists()


@slow
def test_ctrl_c_in_a_training_that_cannot_go_on_says_so(tmp_path):
    out, work = tmp_path / "out", tmp_path / "work"
    when = lambda: list(tmp_path.glob(".out.*.part"))  # noqa: E731 (it has begun)
    said = interrupted("vision", "--seed", "1", "--out", out, "--work", work, when=when)
    assert "nothing of this training is kept" in said and not out.exists() and not when()


def test_what_an_interrupt_leaves_half_made_says_nothing(monkeypatch):
    class HalfMade:
        def __init__(self):
            raise KeyboardInterrupt

        def __del__(self):
            raise AttributeError("pos")

    said = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    monkeypatch.setitem(cli._COMMANDS, "saes", ("", lambda _: HalfMade(), (), "nothing"))
    assert main(["saes"]) == 130 and not said


def shown(out):
    """Whether some notebook in a folder, finished or not, has an output to look at."""
    with suppress(FileNotFoundError):  # it was moved
        return any("text/markdown" in path.read_text() for path in out.rglob("*.ipynb"))


@slow
def test_a_dask_cluster_that_runs_already(folder, monkeypatch, capfd):
    """Its workers load no torch, and share the cores; when it goes away, that is said."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    out, grid = folder / "o", write_grid(folder, n=[0, 1])
    with local_client(2) as client:
        assert run(grid, out, "--scheduler", client.scheduler.address) == 0
        assert "2 executed" in capfd.readouterr().out
        seen = client.run(lambda: ("torch" in sys.modules, os.environ["OMP_NUM_THREADS"]))
        assert list(seen.values()) == [(False, str(max(1, CPU_COUNT // 2)))] * 2
        task = client.submit(time.sleep, 60)
        task.cancel()
        with pytest.raises(RuntimeError, match=r"scheduler went away.*same command"):
            result_of(task)
    assert set(finished(out)) == {0, 1}


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
    three = pytest.raises(RuntimeError, match="before replying") if deaths == 3 else nullcontext()
    with three:
        given = {"folder": str(folder)}
        runner.run_notebook(folder / "stub.py", given, out=folder / "o", progress=False)
    assert starts(folder) == ({} if deaths == 3 else {0: 1})
    assert len(list((folder / "o").glob("[!.]*"))) == (deaths < 3)


@pytest.fixture
def asleep(folder, monkeypatch):
    """Kernels that sleep before they start, as many as the file that this gives has letters."""
    spec, naps = folder / "jupyter" / "kernels" / "python3", folder / "naps"
    wait = f"n=$(wc -c < {naps}); [ $n = 0 ] || {{ truncate -s $((n - 1)) {naps}; sleep 3600; }}"
    python = f"exec {sys.executable} -m ipykernel_launcher -f $1"
    command = ["/bin/sh", "-c", f"{wait}; {python}", "kernel", "{connection_file}"]
    write_json(spec / "kernel.json", {"argv": command, "language": "python", "display_name": "a"})
    monkeypatch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
    return naps


@slow
def test_a_kernel_that_is_slow_to_start_is_started_again(asleep, folder, monkeypatch, caplog):
    asleep.write_text("z")
    monkeypatch.setenv(runner.START_VARIABLE, "20")
    given = {"folder": str(folder)}
    runner.run_notebook(folder / "stub.py", given, out=folder / "o", progress=False)
    assert "no answer in 20 s; it is started again" in caplog.text and starts(folder) == {0: 1}


@slow
def test_a_slow_machine_is_named_and_is_no_fault_of_the_runs(asleep, folder, monkeypatch, capfd):
    """A sweep tries the run again after the others, and the same command later."""
    out, grid = folder / "o", write_grid(folder, n=[0])
    asleep.write_text("z" * 9)  # more than it is tried
    monkeypatch.setenv(runner.START_VARIABLE, "1")
    words = "machine is slow or busy"
    assert run(grid, out, "--workers", "1") == 1
    shown = capfd.readouterr()
    assert "0 executed, 0 found, 0 failed, 1 not started" in shown.out and words in shown.err
    assert not list(out.iterdir()) and len(asleep.read_text()) == 3
    assert main(["run", str(folder / "stub.py"), "-o", str(out)]) == 1
    error = capfd.readouterr().err
    assert words in error and "did not come within 1 s" in error and runner.START_VARIABLE in error
    monkeypatch.delenv(runner.START_VARIABLE)
    assert run(grid, out, "--workers", "1") == 0
    assert "1 executed, 0 found, 0 failed" in capfd.readouterr().out


@pytest.mark.parametrize("text", ["0", "-5", "soon", "1.5", "nan"])
def test_the_time_for_a_start_is_a_number_of_seconds(text, monkeypatch):
    monkeypatch.setenv(runner.START_VARIABLE, text)
    refused(f"SAEREPGEO_START_TIMEOUT is .* got '{text}'", runner.start_timeout)
    monkeypatch.setenv(runner.START_VARIABLE, "")
    assert runner.start_timeout() == 600


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--workers", "2", "--scheduler", "tcp://127.0.0.1:9"), "--workers or --scheduler"),
        (("--workers", "0"), "at least 1, got 0"),
        (("--scheduler", "127.0.0.1:9"), "no Dask scheduler answers at '127.0.0.1:9'"),
    ],
)
def test_options_that_cannot_be(options, words, folder, capsys, monkeypatch):
    monkeypatch.setattr(sweeps, "ANSWER_WITHIN", 1)
    assert run(write_grid(folder, n=[0]), folder / "o", *options) == 2
    assert words in capsys.readouterr().err and not starts(folder)


STUB_RECORD = {
    "version": RECORD_VERSION, "notebook": "stub", "parameters": {"n": 0}, "seeds": [],
    "claims": [], "numbers": {}, "tables": {}, "run": {"device": "cpu", "stages": {}},
}  # fmt: skip


def test_what_dead_runs_leave_is_cleared_up_and_a_living_runs_folder_is_left_alone(folder):
    """A fresh run takes the place of a finished one by two renames; here it dies between them."""
    place = runner.find_run(folder / "stub.py", {}, out=folder / "o", cwd=folder)
    old, torn = (place.lock.with_suffix(end) for end in (".old", ".x.part"))
    old.mkdir(parents=True)
    torn.mkdir()
    write_json(old / "stub.ipynb", {"cells": [], "metadata": {}, "nbformat": 4})
    write_json(old / "stub.record.json", STUB_RECORD)
    with held_lock(place.lock):
        runner.clean(place.folder.parent)
        assert torn.is_dir() and old.is_dir()
    runner.clean(place.folder.parent)
    assert place.is_finished() and not hidden(place.folder.parent)


@slow
def test_a_run_of_a_sweep_costs_less_than_50_ms_and_no_memory(folder, monkeypatch):
    """Everything of a sweep but the kernel: papermill's execution is replaced by its result.

    Driver, scheduler and worker share this process here, so its memory is theirs.
    """

    def instead(pair, executed, parameters, *, config, **options):
        Path(executed).write_text(Path(pair).read_text())
        record = config["KernelManager"]["process"]["env"][runner.RECORD_VARIABLE]
        write_json(Path(record), STUB_RECORD)

    monkeypatch.setattr(runner.papermill, "execute_notebook", instead)
    grid = read_grid(write_grid(folder, n=list(range(200)), x=[0.0]))
    marks, process = [], psutil.Process()
    (folder / "o").mkdir()

    def marked(points):
        for i, point in enumerate(points):
            if i in (80, 199):
                marks.append((time.process_time(), process.memory_info().rss))
            yield point

    with local_client(1, processes=False) as client:
        outcome = drive(client, marked(grid), total=200, out=folder / "o", progress=False)
    assert (outcome.executed, outcome.failed) == (200, 0), outcome.failures
    assert len(list((folder / "o").glob("stub-*"))) == 200
    (begin, early), (end, late) = marks
    assert (end - begin) / 119 < 0.05
    assert (late - early) / 2**20 < 4, "119 runs more"
    again = time.process_time()
    assert run(grid.path, folder / "o", "--dry") == 0
    assert (time.process_time() - again) / 200 < 0.05


def test_a_worker_that_does_not_see_the_drivers_files_says_so(folder):
    out = folder / "o"
    ending, reason = execute(str(folder / "stub.py"), {}, str(out), str(folder))
    assert ending == "failed" and f"sees no {out}" in reason
    assert not out.exists()


def test_the_library_reads_no_pickle():
    """Neither pickles nor what hides them: joblib, torch.load, allow_pickle, unsafe YAML."""
    forbidden = re.compile(
        r"import pickle|pickle\.loads?\(|import (dill|shelve|marshal)|joblib\.load|read_pickle"
        r"|to_pickle|allow_pickle=True|torch\.load\((?!.*weights_only=True)|torch\.save\("
        r"|yaml\.(unsafe_load|full_load)|Loader=yaml\.(Unsafe|Full)?Loader"
    )
    root = Path(saerepgeo_lib.__file__).parent.parent
    sources = [*root.glob("saerepgeo_lib/**/*.py"), *root.glob("notebooks/*.py")]
    assert len(sources) > 90
    assert not [path for path in sources if forbidden.search(path.read_text())]
