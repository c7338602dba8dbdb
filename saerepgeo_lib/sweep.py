"""Sweeps: the runs of a grid on Dask workers, resumable, each finished run kept and done once.

The work is handed out by Dask `distributed`, on this machine's cores or on a cluster that sees
the same files. At most as many runs as there are workers' threads wait or run at once, so the
driver's memory does not grow with the grid. Dask moves function names and plain values between
its own processes (with cloudpickle, over its sockets); no pickle is ever read from a file.
"""

import itertools
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import dask.config
from distributed import Client, Future, KilledWorker, LocalCluster, as_completed
from tqdm.auto import tqdm

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.files import write_json
from saerepgeo_lib.grid import Grid, Point
from saerepgeo_lib.runner import Run, clean, find_run, is_finished, run_notebook

Ending = Literal["executed", "found", "failed"]
TRIES = 4  # times that a run may lose its worker before it counts as failed
SHOWN = 20  # failures kept for the table; each has its file
_SPARE = 8  # runs offered to a cluster beyond its threads, so that one that adapts grows
# A terminal's Ctrl-C reaches the workers too; the driver alone answers it, and stops them.
_NO_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
_THREADS = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS",
)  # fmt: skip


@dataclass(frozen=True)
class Failure:
    """A run that failed: its name (NAME-KEY), its parameters, and why."""

    run: str
    parameters: dict[str, Any]
    reason: str


@dataclass
class Outcome:
    """What became of a sweep's runs; `failures` holds the first of the failed."""

    total: int
    executed: int = 0
    found: int = 0  # finished before, or by another sweep meanwhile
    failed: int = 0
    failures: list[Failure] = field(default_factory=list)


def count_finished(grid: Grid, *, out: Path) -> int:
    """How many of a grid's runs are finished in `out`."""
    return sum(is_finished(_place(point, out)) for point in grid)


def sweep(
    grid: Grid,
    *,
    out: Path,
    workers: int | None = None,
    scheduler: str | None = None,
    progress: bool = True,
) -> Outcome:
    """Execute the runs of a grid that are not finished in `out`.

    `workers` processes of this machine (default: one a core), or the workers of the Dask
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
    first = next((point for point in points if not is_finished(_place(point, out))), None)
    if first is None:
        return Outcome(grid.n_runs, found=grid.n_runs)
    n = min(workers or _n_cores(), grid.n_runs)
    connection = local_client(n) if scheduler is None else _remote_client(scheduler)
    with connection as client:
        try:
            rest = itertools.chain([first], points)
            return drive(client, rest, total=grid.n_runs, out=out, progress=progress)
        finally:
            clean(out)


def drive(
    client: Client, points: Iterable[Point], *, total: int, out: Path, progress: bool
) -> Outcome:
    """Hand runs to a Dask client's workers, a few at a time, and count how they end.

    Of `total` runs those that are not among `points` were found finished before. Failures are
    shown when they happen, above the progress bar.
    """
    outcome = Outcome(total)
    bar = tqdm(
        total=total, disable=not progress, unit="run", file=sys.stderr, dynamic_ncols=True,
    )  # fmt: skip
    threads = _Threads(client)
    waiting: dict[Future[Any], tuple[Point, Run]] = {}
    done = as_completed()
    with bar:
        for point in points:
            run = _place(point, out)
            if is_finished(run):
                bar.update()
                continue
            while len(waiting) >= threads.count():
                _end(next(done), waiting, outcome, bar)
            task = client.submit(
                execute, str(point.source), point.parameters, str(out.resolve()), str(Path.cwd()),
                pure=False,
            )  # fmt: skip
            waiting[task] = point, run
            done.add(task)
        while waiting:
            _end(next(done), waiting, outcome, bar)
    outcome.found = total - outcome.executed - outcome.failed
    return outcome


def execute(source: str, parameters: dict[str, Any], out: str, cwd: str) -> tuple[Ending, str]:
    """Do one run in a worker: how it ended, and why if it failed."""
    for path in (source, out, cwd):
        if not Path(path).exists():
            return "failed", f"the worker sees no {path}: driver and workers must share their files"
    try:
        run = run_notebook(
            Path(source), parameters, out=Path(out), cwd=Path(cwd), progress=False
        )  # fmt: skip
    except Exception as error:  # whatever stops a run is this run's failure, not the sweep's
        reason = str(error) if isinstance(error, UserError | RuntimeError) else repr(error)
        return "failed", reason
    return ("found" if run.cached else "executed"), ""


def _end(
    task: "Future[Any]",
    waiting: dict["Future[Any]", tuple[Point, Run]],
    outcome: Outcome,
    bar: "tqdm[Any]",
) -> None:
    """Take a finished task's result into the outcome."""
    point, run = waiting.pop(task)
    ending, reason = _result(task)
    task.release()
    bar.update()
    if ending == "executed":
        outcome.executed += 1
    elif ending == "failed":
        outcome.failed += 1
        reason = _note_failure(run, point.parameters, reason)
        failure = Failure(run.folder.name, point.parameters, reason)
        if len(outcome.failures) < SHOWN:
            outcome.failures.append(failure)
        bar.set_postfix(failed=outcome.failed)
        tqdm.write(f"failed: {describe(failure)}", file=sys.stderr)


def describe(failure: Failure) -> str:
    """A failure in one line: run, parameters and the first line of the reason."""
    parameters = " ".join(f"{name}={value}" for name, value in failure.parameters.items())
    reason = (failure.reason.splitlines() or [""])[0]
    return f"{failure.run} | {parameters} | {reason[:300]}"


def _result(task: "Future[Any]") -> tuple[Ending, str]:
    if task.status in ("cancelled", "lost"):
        raise RuntimeError(
            "the Dask scheduler went away; finished runs are kept, the same command does the rest"
        )
    error = task.exception()
    if error is None:
        ending, reason = task.result()
        return ending, reason
    if isinstance(error, KilledWorker):
        return "failed", "its worker died each time it was tried, perhaps for lack of memory"
    return "failed", f"the worker cannot run it: {error!r}"


def _note_failure(run: Run, parameters: dict[str, Any], reason: str) -> str:
    """Leave the reason beside the run's place; a full disk may refuse even that."""
    note = {"notebook": run.notebook.stem, "parameters": parameters, "reason": reason}
    try:
        write_json(run.failure, note)
    except UserError as error:
        return f"{reason}\n{error}"
    return reason


def _place(point: Point, out: Path) -> Run:
    return find_run(point.source, point.parameters, out=out, cwd=Path.cwd())


class _Threads:
    """How many runs to keep with the workers: as many as there are threads, asked now and then."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._spare = 0 if isinstance(client.cluster, LocalCluster) else _SPARE
        self._asked = -60.0
        self._count = 1

    def count(self) -> int:
        """Threads of all workers, and some more on a cluster that may grow; at least 1."""
        if time.monotonic() - self._asked > 5:
            self._asked = time.monotonic()
            self._count = max(1, sum(self._client.nthreads().values()) + self._spare)
        return self._count


def local_settings(workers: int) -> dict[str, Any]:
    """Dask's configuration for a cluster of this machine."""
    share = str(max(1, _n_cores() // workers))  # of the cores, for each kernel's linear algebra
    return {
        "distributed.scheduler.allowed-failures": TRIES - 1,
        "distributed.scheduler.worker-saturation": 1.0,
        "distributed.admin.low-level-log-length": 100,  # else the driver's memory grows at first
        "distributed.nanny.pre-spawn-environ": dict.fromkeys(_THREADS, share),
    }


@contextmanager
def local_client(workers: int) -> Iterator[Client]:
    """A client of a Dask cluster of this machine: processes of one thread, replaced if they die."""
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # deaths of workers are expected
    with (
        dask.config.set(local_settings(workers)),
        LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, host="127.0.0.1",
            dashboard_address="127.0.0.1:0", memory_limit=0, silence_logs=logging.CRITICAL,
            preload=[_NO_CTRL_C],
        ) as cluster,
        Client(cluster) as client,
    ):  # fmt: skip
        yield client


@contextmanager
def _remote_client(address: str) -> Iterator[Client]:
    try:
        client = Client(address, timeout=10)
    except (OSError, ValueError) as error:
        raise UserError(
            f"no Dask scheduler answers at {address!r} ({error}); start one with 'dask scheduler' "
            "and give the address that it prints, such as tcp://10.0.0.1:8786"
        ) from error
    with client:
        yield client


def _n_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
