"""Run a notebook through papermill: strict parameters, one record, a cache keyed on everything."""

import contextlib
import logging
import os
import re
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import papermill
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError
from traitlets import Dict
from traitlets.config import Config

from saerepgeo_lib.companion.inputs import check_inputs
from saerepgeo_lib.companion.notebooks import (
    as_ipynb,
    find_notebook,
    number_cells,
    parse_parameters,
    read_parameters,
)
from saerepgeo_lib.companion.parameters import check_value
from saerepgeo_lib.companion.records import RECORD_END, RECORD_VARIABLE, read_record
from saerepgeo_lib.companion.run_key import run_key
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.files import atomic_folder, clear_up, held_lock, read_json, write_text

logger = logging.getLogger(__name__)

START_VARIABLE = "SAEREPGEO_START_TIMEOUT"
START_TIMEOUT = 600  # seconds that a kernel may take to start, or to hand over what it printed
_WIDGET = "application/vnd.jupyter.widget-view+json"  # without a kernel, a dead one
_STARTS = 3  # times that a kernel is started which dies at once, or does not answer
_UNANSWERED = ("Kernel didn't respond in", "before replying to kernel_info")  # jupyter_client's
_SLOW = (
    "the machine is slow or busy: {what} did not come within {limit} s. Try it again with less "
    f"beside it, or give more time with {START_VARIABLE}=SECONDS in the environment"
)
_INJECTED = "injected-parameters"  # papermill's tag of the cell that sets parameters
_HIDDEN = re.compile(r"\.(.+-[0-9a-f]{16})\.")  # locks and folders of runs that are not finished


class KernelManager(AsyncKernelManager):
    """A kernel with its own folder and environment; what it writes to stderr is dropped.

    What a cell prints or raises reaches the notebook by another way. The process' own folder
    and environment stay as they are, so runs may share a process.
    """

    process = Dict(help="options of the kernel's process").tag(config=True)

    async def _async_start_kernel(self, **options: Any) -> None:
        await super()._async_start_kernel(**(options | self.process), stderr=subprocess.DEVNULL)

    start_kernel = _async_start_kernel


class NotebookError(RuntimeError):
    """A notebook stopped at an error that is not the user's; the text ends with its traceback."""


class SlowMachineError(NotebookError):
    """A kernel did not answer in time: no fault of the run, which may be tried again."""


@dataclass(frozen=True)
class Run:
    """A folder NAME-KEY, a notebook executed and its record in it; `cached` if found there."""

    folder: Path
    notebook: Path
    record: Path
    cached: bool = False

    @property
    def lock(self) -> Path:
        """The file that is locked by the process that makes the folder."""
        return self.folder.with_name(f".{self.folder.name}.lock")

    def failed(self, end: str) -> Path:
        """Where what was executed of a failed run lies (".ipynb"), or why it failed (".json")."""
        return self.folder.with_name(f"{self.folder.name}.failed{end}")

    def is_finished(self, *, report: bool = False) -> bool:
        """Whether the folder holds a whole notebook and a whole record; a broken one is logged."""
        if not self.folder.is_dir():
            return False
        try:
            read_record(self.record)
            return isinstance(read_json(self.notebook)["cells"], list)
        except (UserError, KeyError, TypeError) as error:
            if report:
                logger.warning("%s is broken (%s); it is run again", self.folder, error)
            return False


def find_run(source: Path, parameters: dict[str, Any], *, out: Path, cwd: Path) -> Run:
    """Where the result of a run is or will be; nothing is read or written there."""
    declared = read_parameters(source).items()
    values = {name: check_value(p, p.default) for name, p in declared} | parameters
    folder = out / f"{source.stem}-{run_key(source, values, cwd=cwd)[:16]}"
    return Run(folder, folder / f"{source.stem}.ipynb", folder / f"{source.stem}{RECORD_END}")


def run(name: str, given: list[tuple[str, str]], **options: Any) -> Run:
    """`run_notebook` with a notebook's name and with parameters as texts.

    What the parameters name in files is checked before a kernel starts. A run that is found gets
    the source's present prose, captions and alt texts.
    """
    source = find_notebook(name)
    parameters = parse_parameters(source, given)
    defaults = {name: p.default for name, p in read_parameters(source).items()}
    check_inputs(source.stem, defaults | parameters)
    result = run_notebook(source, parameters, **options)
    if result.cached:
        with held_lock(result.lock):
            renew_prose(result.notebook, source)
    return result


def run_notebook(
    source: Path, parameters: dict[str, Any], *, out: Path, cwd: Path | None = None,
    fresh: bool = False, progress: bool = True,
) -> Run:  # fmt: skip
    """Execute a notebook in `cwd` with parameters into `out/NAME-KEY/`, or find it executed there.

    KEY is `run_key`'s; so a change in anything that determines the result runs it again. The
    folder appears only when the run is complete. Of several processes that want the same run,
    one executes it and the others wait and find it. A failed run leaves NAME-KEY.failed.ipynb
    in `out`, and raises UserError (the user's mistake) or NotebookError.
    """
    cwd = Path.cwd() if cwd is None else cwd
    result = find_run(source, parameters, out=out, cwd=cwd)
    if not fresh and result.is_finished():
        return replace(result, cached=True)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; name a folder for the results")
    out.mkdir(parents=True, exist_ok=True)
    with held_lock(result.lock):
        clear_up(result.folder)
        if not fresh and result.is_finished(report=True):
            return replace(result, cached=True)
        # Each attempt has its folder: the kernel of a killed one may write for a moment yet.
        with atomic_folder(result.folder) as folder:
            _execute(source, folder, result, parameters, cwd=cwd, progress=progress)
        for end in (".ipynb", ".json"):
            result.failed(end).unlink(missing_ok=True)
    return result


def clean(out: Path) -> None:
    """Remove what killed runs left in `out`; what belongs to a living run is left alone."""
    for name in {left[1] for path in out.glob(".*") if (left := _HIDDEN.match(path.name))}:
        with held_lock(out / f".{name}.lock", wait=False) as held:
            if held:
                clear_up(out / name)


def renew_prose(executed: Path, source: Path) -> None:
    """Give an executed notebook its source's text cells and metadata; the code must be the same."""
    before = executed.read_text(encoding="utf-8")
    notebook = nbformat.reads(before, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    injected = [cell for cell in code if _INJECTED in cell.metadata.get("tags", [])]
    code = [cell for cell in code if cell not in injected]
    cells = jupytext.read(source).cells
    if [c.source for c in cells if c.cell_type == "code"] != [c.source for c in code]:
        raise UserError(f"{executed} was not executed from {source}")
    notebook.cells = []
    for cell in cells:
        kept = code.pop(0) | {"metadata": cell.metadata} if cell.cell_type == "code" else cell
        notebook.cells.append(nbformat.from_dict(kept))
        if "parameters" in cell.metadata.get("tags", []):
            notebook.cells += injected
    number_cells(notebook)
    if (text := nbformat.writes(notebook) + "\n") != before:
        write_text(executed, text)


def _execute(
    source: Path, folder: Path, result: Run, parameters: dict[str, Any], *, cwd: Path,
    progress: bool,
) -> None:  # fmt: skip
    """Execute into `folder`, which holds notebook and record afterwards, and nothing else."""
    executed, record = folder / result.notebook.name, folder / result.record.name
    pair = executed.with_suffix(".source.ipynb")
    pair.write_text(as_ipynb(source), encoding="utf-8")
    environment = {**os.environ, RECORD_VARIABLE: str(record.resolve())}
    process = {"cwd": str(cwd), "env": environment}
    try:
        _papermill(
            str(pair), str(executed), parameters, kernel_name="python3", log_output=False,
            kernel_manager_class=KernelManager, progress_bar=progress,
            config=Config({"KernelManager": {"process": process}}),
        )  # fmt: skip
        if not record.is_file():
            raise NotebookError("it ended without writing its record")
        read_record(record)
        pair.unlink()
        _strip_run_metadata(executed)
    except PapermillExecutionError as error:
        if error.ename == UserError.__name__:
            raise UserError(f"{error.evalue}{_keep(executed, result, if_shown=True)}") from None
        reason = f"failed in cell {error.exec_count} ({error.ename}: {error.evalue})"
        lines = [f"{source.stem}: {reason}{_keep(executed, result)}", *error.traceback]
        raise NotebookError("\n".join(lines)) from None
    except DeadKernelError:
        reason = "its process died, perhaps for lack of memory"
        raise NotebookError(f"{source.stem}: {reason}{_keep(executed, result)}") from None
    except SlowMachineError as error:
        raise SlowMachineError(f"{source.stem}: {error}") from None
    except (NotebookError, UserError) as error:  # no record, or one that cannot be read
        raise NotebookError(f"{source.stem}: {error}{_keep(executed, result)}") from None
    except KeyboardInterrupt:
        kept = _keep(executed, result, if_shown=True) or "; nothing of this run is kept"
        raise KeyboardInterrupt(f"interrupted{kept}") from None


def _keep(executed: Path, result: Run, *, if_shown: bool = False) -> str:
    """Keep what was executed of a run that failed; a message's end that says where it is.

    With `if_shown` only if some cell has shown something: before that nothing was computed.
    """
    if if_shown:
        with contextlib.suppress(UserError):
            cells = read_json(executed)["cells"]
            outputs = [out["output_type"] for cell in cells for out in cell.get("outputs", [])]
            if_shown = not {"display_data", "execute_result"} & set(outputs)
    if if_shown or not executed.is_file():
        return ""
    executed.replace(result.failed(".ipynb"))
    return f"; what was executed is in {result.failed('.ipynb')}"


def _papermill(*arguments: Any, **options: Any) -> None:
    """papermill, begun again if the kernel dies before its first answer, or gives none in time.

    Kernels that start at once may be given the same port, and a busy machine may take long to load
    one; no cell was executed then.
    """
    limit = start_timeout()
    for left in reversed(range(_STARTS)):
        try:
            papermill.execute_notebook(
                *arguments, start_timeout=limit, iopub_timeout=limit, **options
            )
            return
        except CellTimeoutError as error:  # what a cell printed came too late
            raise SlowMachineError(_SLOW.format(what="a cell's output", limit=limit)) from error
        except RuntimeError as error:
            slow, died = (words in str(error) for words in _UNANSWERED)
            if slow and not left:
                what = f"a kernel, started {_STARTS} times,"
                raise SlowMachineError(_SLOW.format(what=what, limit=limit)) from error
            if not left or not (slow or died):
                raise
            reason = f"gave no answer in {limit} s" if slow else "died while starting"
            logger.warning("the kernel %s; it is started again", reason)


def start_timeout() -> int:
    """Seconds that a kernel may take to start: $SAEREPGEO_START_TIMEOUT, else `START_TIMEOUT`."""
    text = os.environ.get(START_VARIABLE) or str(START_TIMEOUT)
    if not text.isdecimal() or not int(text):
        raise UserError(f"{START_VARIABLE} is a whole number of seconds above 0, got {text!r}")
    return int(text)


def _strip_run_metadata(path: Path) -> None:
    """Remove times, durations, paths and progress bars: two runs of a thing are the same file."""
    notebook = nbformat.read(path, as_version=4)
    for holder in (notebook, *notebook.cells):
        for name in ("papermill", "widgets", "execution"):
            holder.metadata.pop(name, None)
        if holder.metadata.get("tags") == []:
            del holder.metadata["tags"]  # papermill's
        if "outputs" in holder:
            holder.outputs = [out for out in holder.outputs if _WIDGET not in out.get("data", {})]
    number_cells(notebook)
    nbformat.write(notebook, path)
