"""Sweeps: the runs of a grid on Dask workers, resumable, each finished run kept and done once.

The work is handed out by Dask `distributed`, on this machine's cores or on a cluster that sees
the same files, batch by batch, so the driver's memory does not grow with the grid. Dask moves
function names and plain values between its own processes (with cloudpickle, over its sockets); no
pickle is ever read from a file.
"""

import itertools
import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import dask.config
from dask.system import CPU_COUNT
from distributed import Client, Future, KilledWorker, LocalCluster, as_completed
from tqdm.auto import tqdm

from saerepgeo_lib.companion.grid import Grid, Point
from saerepgeo_lib.companion.runner import Run, SlowMachineError, clean, find_run, run_notebook
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.files import write_json

Ending = Literal["executed", "found", "failed", "slow"]
TRIES = 4  # times that a run may lose its worker before it counts as failed
ANSWER_WITHIN = 30  # seconds that a scheduler has to answer
SHOWN = 20  # failures kept for the table; each has its file
# A terminal's Ctrl-C reaches the workers too; the driver alone answers it, and stops them.
_NO_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
_THREADS = [f"{name}_NUM_THREADS" for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")]


@dataclass
class Outcome:
    """What became of a sweep's runs; `failures` describes the first of the failed, one per line.

    `slow` are those whose kernel did not answer in time, twice: no fault of theirs.
    """

    total: int
    executed: int = 0
    failed: int = 0
    slow: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def found(self) -> int:
        """Runs that were finished before, or by another sweep meanwhile."""
        return self.total - self.executed - self.failed - self.slow


def count_finished(grid: Grid, *, out: Path) -> int:
    """How many of a grid's runs are finished in `out`."""
    return sum(_place(point, out).is_finished() for point in grid)


def sweep(
    grid: Grid, *, out: Path, workers: int | None = None, scheduler: str | None = None,
    progress: bool = True,
) -> Outcome:  # fmt: skip
    """Execute the runs of a grid that are not finished in `out`.

    `workers` processes of this machine (default: one per core), or the workers of the Dask
    `scheduler` at that address, which must have this library and see the same files. A worker
    that dies is replaced and its run tried again, `TRIES` times in all. A run that fails leaves
    its reason in NAME-KEY.failed.json in `out`, and the sweep goes on. Raises UserError if the
    options contradict each other or the scheduler cannot be reached.
    """
    if workers is not None and scheduler is not None:
        raise UserError("the scheduler has its own workers: give --workers or --scheduler")
    if workers is not None and workers < 1:
        raise UserError(f"--workers must be at least 1, got {workers}")
    out.mkdir(parents=True, exist_ok=True)
    clean(out)
    points = iter(grid)
    first = next((point for point in points if not _place(point, out).is_finished()), None)
    if first is None:
        return Outcome(grid.n_runs)
    n = min(workers or CPU_COUNT, grid.n_runs)
    try:
        with local_client(n) if scheduler is None else _remote_client(scheduler) as client:
            rest = itertools.chain([first], points)
            return drive(client, rest, total=grid.n_runs, out=out, progress=progress)
    finally:
        clean(out)


def _place(point: Point, out: Path) -> Run:
    return find_run(point.source, point.parameters, out=out, cwd=Path.cwd())


def drive(
    client: Client, points: Iterable[Point], *, total: int, out: Path, progress: bool
) -> Outcome:
    """Hand runs to a Dask client's workers, a batch at a time, and count how they end.

    Of `total` runs those that are not among `points` were found finished before. Failures are
    shown when they happen, above the progress bar.
    """
    outcome = Outcome(total)
    places = str(out.resolve()), str(Path.cwd())
    with tqdm(total=total, disable=not progress, unit="run", dynamic_ncols=True) as bar:

        def missing() -> Iterator[tuple[Point, Run]]:
            for point in points:
                if (run := _place(point, out)).is_finished():
                    bar.update()
                else:
                    yield point, run

        def next_batch() -> list[tuple[Point, Run]]:
            return list(itertools.islice(rest, 100 + 10 * sum(client.nthreads().values())))

        rest, again = missing(), False
        slow: list[tuple[Point, Run]] = []  # tried again when the others are done
        while batch := next_batch() or slow:
            if batch is slow:
                slow, again = [], True
            tasks = {
                client.submit(execute, str(p.source), p.parameters, *places, pure=False): (p, run)
                for p, run in batch
            }
            for task in as_completed(list(tasks)):
                point, run = tasks.pop(task)
                ending, reason = result_of(task)
                if ending == "slow" and not again:
                    slow.append((point, run))
                    continue
                outcome.executed += ending == "executed"
                outcome.slow += ending == "slow"
                if ending == "failed":
                    _note_failure(outcome, point, run, reason)
                bar.update()
                bar.set_postfix(failed=outcome.failed)
    return outcome


def execute(source: str, parameters: dict[str, Any], out: str, cwd: str) -> tuple[Ending, str]:
    """Do one run in a worker: how it ended, and why if it failed."""
    for path in (source, out, cwd):
        if not Path(path).exists():
            return "failed", f"the worker sees no {path}: driver and workers must share their files"
    try:
        run = run_notebook(Path(source), parameters, out=Path(out), cwd=Path(cwd), progress=False)
    except SlowMachineError as error:
        return "slow", str(error)
    except Exception as error:  # whatever stops a run is this run's failure, not the sweep's
        return "failed", str(error) if isinstance(error, UserError | RuntimeError) else repr(error)
    return ("found" if run.cached else "executed"), ""


def result_of(task: "Future[Any]") -> tuple[Ending, str]:
    """How a task ended, and why if it failed. Raises RuntimeError if the scheduler is gone."""
    if task.status in ("cancelled", "lost"):
        raise RuntimeError(
            "the Dask scheduler went away; finished runs are kept, the same command does the rest"
        )
    error = task.exception()
    if isinstance(error, KilledWorker):
        return "failed", "its worker died each time it was tried, perhaps for lack of memory"
    if error is not None:
        return "failed", f"the worker cannot run it: {error!r}"
    ending, reason = task.result()
    return ending, reason


def _note_failure(outcome: Outcome, point: Point, run: Run, reason: str) -> None:
    """Count a failed run, tell of it, and leave a note beside the run's place."""
    note = {"notebook": run.notebook.stem, "parameters": point.parameters, "reason": reason}
    try:
        write_json(run.failed(".json"), note)
    except UserError as error:  # a full disk may refuse even that
        reason = f"{reason} ({error})"
    parameters = " ".join(f"{name}={value}" for name, value in point.parameters.items())
    line = f"{run.folder.name} | {parameters} | {reason.partition(chr(10))[0][:300]}"
    outcome.failed += 1
    outcome.failures += [line][: SHOWN - len(outcome.failures)]
    tqdm.write(f"failed: {line}", file=sys.stderr)


@contextmanager
def local_client(workers: int, *, processes: bool = True) -> Iterator[Client]:
    """A client of a Dask cluster of this machine: processes of one thread, replaced if they die.

    Without `processes` its workers are threads of this process.
    """
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # deaths of workers are expected
    share = str(max(1, CPU_COUNT // workers))  # of the cores, for each kernel's linear algebra
    settings = {
        "distributed.scheduler.allowed-failures": TRIES - 1,
        "distributed.scheduler.worker-saturation": 1.0,
        "distributed.comm.timeouts.connect": "300s",  # on a busy machine, too
        "distributed.admin.low-level-log-length": 100,  # else the driver's memory grows at first
        "distributed.nanny.pre-spawn-environ": dict.fromkeys(_THREADS, share),
    }
    options = {"host": "127.0.0.1", "preload": [_NO_CTRL_C]} if processes else {}
    with dask.config.set(settings), LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=processes, memory_limit=0,
        dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL, **options,
    ) as cluster, Client(cluster) as client:  # fmt: skip
        yield client


def _remote_client(address: str) -> Client:
    try:
        return Client(address, timeout=ANSWER_WITHIN)
    except (OSError, ValueError) as error:
        raise UserError(
            f"no Dask scheduler answers at {address!r} ({error}); start one with 'dask scheduler' "
            "and give the address that it prints, such as tcp://10.0.0.1:8786"
        ) from error
