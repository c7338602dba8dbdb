"""Run a notebook through papermill: strict parameters, one record, a cache keyed on everything."""

import functools
import logging
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import papermill
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from traitlets import Dict, Unicode
from traitlets.config import Config

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.files import held_lock, read_json, write_text
from saerepgeo_lib.notebooks import find_notebook, parse_parameters, read_parameters
from saerepgeo_lib.parameters import check_value
from saerepgeo_lib.record_files import RECORD_END, read_record
from saerepgeo_lib.run_key import run_key

logger = logging.getLogger(__name__)

_KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
RECORD_VARIABLE = "SAEREPGEO_RECORD"  # tells the running notebook where its record goes
_WIDGET = "application/vnd.jupyter.widget-view+json"  # without a kernel, a dead one
_STARTS = 3  # times that a kernel is started which dies at once
_INJECTED = "injected-parameters"  # papermill's tag of the cell that sets parameters
_HIDDEN = re.compile(r"\.(.+-[0-9a-f]{16})\.")  # locks and folders of runs that are not finished


class KernelManager(AsyncKernelManager):
    """A kernel with its own folder and environment; what it writes to stderr is dropped.

    What a cell prints or raises reaches the notebook by another way. The process' own folder
    and environment stay as they are, so runs may share a process.
    """

    folder = Unicode(help="where the kernel works").tag(config=True)
    variables = Dict(help="added to the environment").tag(config=True)

    async def _async_start_kernel(self, **kwargs: Any) -> None:
        environment = {**os.environ, **self.variables}
        await super()._async_start_kernel(
            stderr=subprocess.DEVNULL, cwd=self.folder, env=environment, **kwargs
        )

    start_kernel = _async_start_kernel


class NotebookError(RuntimeError):
    """A notebook stopped at an error that is not the user's; the text ends with its traceback."""


@dataclass(frozen=True)
class Run:
    """An executed notebook and its record, beside each other; `cached` if it was there before."""

    notebook: Path
    record: Path
    cached: bool

    @property
    def folder(self) -> Path:
        """The run's folder, NAME-KEY."""
        return self.notebook.parent

    @property
    def failed_notebook(self) -> Path:
        """Where what was executed of a failed run lies, beside the folder."""
        return self.folder.parent / f"{self.folder.name}.failed.ipynb"

    @property
    def failure(self) -> Path:
        """Where a sweep notes why a run failed, beside the folder."""
        return self.folder.parent / f"{self.folder.name}.failed.json"


def run(
    name: str,
    given: list[tuple[str, str]],
    *,
    out: Path,
    fresh: bool = False,
    progress: bool = True,
) -> Run:
    """`run_notebook` with a notebook's name and with parameters as texts.

    A run that is found gets the source's present prose, captions and alt texts.
    """
    source = find_notebook(name)
    result = run_notebook(
        source, parse_parameters(source, given), out=out, fresh=fresh, progress=progress
    )
    if result.cached:
        with held_lock(out / f".{result.folder.name}.lock"):
            renew_prose(result.notebook, source)
    return result


def renew_prose(executed: Path, source: Path) -> None:
    """Give an executed notebook its source's text cells and metadata; the code must be the same."""
    notebook = nbformat.read(executed, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    cells = []
    for cell in jupytext.read(source).cells:
        if cell.cell_type == "code":
            if not code or code[0].source != cell.source:
                raise UserError(f"{executed} was not executed from {source}")
            code[0].metadata = cell.metadata
            cells.append(code.pop(0))
            if code and _INJECTED in code[0].metadata.get("tags", []):
                cells.append(code.pop(0))
        else:
            cells.append(cell)
    if code:
        raise UserError(f"{executed} was not executed from {source}")
    before = executed.read_text(encoding="utf-8")
    notebook.cells = cells
    _name_cells(notebook)
    if (text := nbformat.writes(notebook) + "\n") != before:
        write_text(executed, text)


def run_notebook(
    source: Path,
    parameters: dict[str, Any],
    *,
    out: Path,
    cwd: Path | None = None,
    fresh: bool = False,
    progress: bool = True,
) -> Run:
    """Execute a notebook in `cwd` with parameters into `out/NAME-KEY/`, or find it executed there.

    KEY is `run_key`'s; so a change in anything that determines the result runs it again. The
    folder appears only when the run is complete. Of several processes that want the same run,
    one executes it and the others wait and find it. A failed run leaves NAME-KEY.failed.ipynb
    in `out`, and raises UserError (the user's mistake) or NotebookError.
    """
    cwd = Path.cwd() if cwd is None else cwd
    result = find_run(source, parameters, out=out, cwd=cwd)
    if not fresh and is_finished(result):
        return replace(result, cached=True)
    out.mkdir(parents=True, exist_ok=True)
    name = result.folder.name
    with held_lock(out / f".{name}.lock"):
        _clean(out, name)
        if not fresh and is_finished(result, report=True):
            return replace(result, cached=True)
        # A folder of its own for each attempt: a killed one's kernel may write for a moment yet.
        part = Path(tempfile.mkdtemp(dir=out, prefix=f".{name}.", suffix=".part"))
        part.chmod(0o755)
        try:
            _execute(source, part, result, parameters, cwd=cwd, progress=progress)
            _put(part, result.folder)
            result.failed_notebook.unlink(missing_ok=True)
            result.failure.unlink(missing_ok=True)
        finally:
            _clean(out, name)
    return result


def find_run(source: Path, parameters: dict[str, Any], *, out: Path, cwd: Path) -> Run:
    """Where the result of a run is or will be; nothing is read or written there."""
    values = _load(source, source.stat().st_size, source.stat().st_mtime_ns)[0] | parameters
    folder = out / f"{source.stem}-{run_key(source, values, cwd=cwd)[:16]}"
    return Run(folder / f"{source.stem}.ipynb", folder / f"{source.stem}{RECORD_END}", False)


def is_finished(run: Run, *, report: bool = False) -> bool:
    """Whether a run's folder holds a whole notebook and a whole record; a broken one is logged."""
    if not run.folder.is_dir():
        return False
    try:
        read_record(run.record)
        if not isinstance(read_json(run.notebook)["cells"], list):
            raise UserError(f"{run.notebook} is no notebook")
    except (UserError, KeyError, TypeError) as error:
        if report:
            logger.warning("%s is broken (%s); running the notebook again", run.folder, error)
        return False
    return True


def clean(out: Path) -> None:
    """Remove what killed runs left in `out`; what belongs to a living run is left alone."""
    names = {found[1] for path in out.glob(".*") if (found := _HIDDEN.match(path.name))}
    for name in names:
        with held_lock(out / f".{name}.lock", wait=False) as held:
            if held:
                _clean(out, name)


def _clean(out: Path, name: str) -> None:
    """Remove a run's unfinished folder (its lock is held), but never its only finished one."""
    old = out / f".{name}.old"
    if old.is_dir() and not (out / name).exists():
        old.rename(out / name)  # killed between the two renames of `_put`
    shutil.rmtree(old, ignore_errors=True)
    for part in out.glob(f".{name}.*.part"):
        shutil.rmtree(part, ignore_errors=True)


def _put(part: Path, folder: Path) -> None:
    """Rename a complete folder to its place; what stood there is put back if this is cut short."""
    if folder.exists():
        folder.rename(folder.parent / f".{folder.name}.old")
    part.rename(folder)


@functools.lru_cache(maxsize=32)
def _load(source: Path, size: int, changed: int) -> tuple[dict[str, Any], str]:
    """The default values of a notebook's parameters, and its text as .ipynb."""
    defaults = {n: check_value(p, p.default) for n, p in read_parameters(source).items()}
    notebook = jupytext.read(source)
    notebook.metadata["kernelspec"] = _KERNEL
    return defaults, jupytext.writes(notebook, fmt="ipynb")


def _execute(
    source: Path,
    folder: Path,
    result: Run,
    parameters: dict[str, Any],
    *,
    cwd: Path,
    progress: bool,
) -> None:
    """Execute into `folder`, which holds notebook and record afterwards, and nothing else."""
    executed, record = folder / result.notebook.name, folder / result.record.name
    pair = executed.with_suffix(".source.ipynb")
    text = _load(source, source.stat().st_size, source.stat().st_mtime_ns)[1]
    pair.write_text(text, encoding="utf-8")
    kernel = {"folder": str(cwd), "variables": {RECORD_VARIABLE: str(record.resolve())}}
    try:
        _papermill(pair, executed, parameters, kernel=kernel, progress=progress)
    except PapermillExecutionError as error:
        if error.ename == UserError.__name__:
            raise UserError(error.evalue) from None
        executed.replace(result.failed_notebook)
        raise NotebookError(
            f"{source.stem} failed in cell {error.exec_count} ({error.ename}: {error.evalue}); "
            f"what was executed is in {result.failed_notebook}\n" + "\n".join(error.traceback)
        ) from None
    except DeadKernelError:
        executed.replace(result.failed_notebook)
        raise NotebookError(
            f"{source.stem}: its process died, perhaps for lack of memory; what was executed is "
            f"in {result.failed_notebook}"
        ) from None
    if not record.is_file():
        raise NotebookError(f"{source.stem} ended without writing its record")
    read_record(record)
    pair.unlink()
    _strip_run_metadata(executed)


def _papermill(
    source: Path, executed: Path, parameters: dict[str, Any], *, kernel: dict[str, Any],
    progress: bool,
) -> None:  # fmt: skip
    """papermill, begun again if the kernel dies before its first answer.

    Kernels that start at once may be given the same port; no cell was executed then.
    """
    for left in reversed(range(_STARTS)):
        try:
            papermill.execute_notebook(
                str(source), str(executed), parameters, kernel_name="python3", log_output=False,
                kernel_manager_class=KernelManager, config=Config({"KernelManager": kernel}),
                progress_bar=progress,
            )  # fmt: skip
            return
        except RuntimeError as error:
            if not left or "before replying to kernel_info" not in str(error):
                raise
            logger.warning("%s: the kernel died while starting; it is started again", source.name)


def _strip_run_metadata(path: Path) -> None:
    """Remove times, durations, paths and progress bars: two runs of a thing are the same file."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("papermill", None)
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]  # papermill's, empty
        if "outputs" in cell:
            cell.outputs = [out for out in cell.outputs if _WIDGET not in out.get("data", {})]
    _name_cells(notebook)
    nbformat.write(notebook, path)


def _name_cells(notebook: Any) -> None:
    for i, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{i}"
