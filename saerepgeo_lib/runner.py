"""Run a notebook through papermill: strict parameters, one record, a cache keyed on everything."""

import importlib.metadata
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import papermill
from jupyter_client.manager import AsyncKernelManager
from papermill.exceptions import PapermillExecutionError

import saerepgeo_lib
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.files import data_dir, read_json, sha256_file, sha256_json
from saerepgeo_lib.notebooks import find_notebook, parse_parameters, read_parameters

logger = logging.getLogger(__name__)

_KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
RECORD_VARIABLE = "SAEREPGEO_RECORD"  # tells the running notebook where its record goes


class _QuietKernelManager(AsyncKernelManager):
    """Kernels whose own stderr (start-up notices, tracebacks on Ctrl-C) is dropped.

    What a cell prints or raises reaches the notebook by another way.
    """

    async def _async_start_kernel(self, **kwargs: Any) -> None:
        await super()._async_start_kernel(stderr=subprocess.DEVNULL, **kwargs)

    start_kernel = _async_start_kernel


class NotebookError(RuntimeError):
    """A notebook stopped at an error that is not the user's; the text ends with its traceback."""


@dataclass(frozen=True)
class Run:
    """An executed notebook and its record, beside each other; `cached` if it was there before."""

    notebook: Path
    record: Path
    cached: bool


def run(
    name: str,
    given: list[tuple[str, str]],
    *,
    out: Path,
    fresh: bool = False,
    progress: bool = True,
) -> Run:
    """Execute a notebook with parameters into `out/NAME-KEY/`, or find it executed there.

    KEY is a hash of the notebook, its parameters, the library, the data and the versions of
    the packages; so a change in any of these runs it again. The folder appears only when
    the run is complete. A failed run leaves NAME.failed.ipynb in `out`, and raises UserError
    (the user's mistake) or NotebookError.
    """
    source = find_notebook(name)
    parameters = parse_parameters(source, given)
    values = {n: p.default for n, p in read_parameters(source).items()} | parameters
    folder = out / f"{source.stem}-{_key(source, values)[:16]}"
    result = Run(folder / f"{source.stem}.ipynb", folder / f"{source.stem}.record.json", True)
    if folder.is_dir() and not fresh:
        if _is_whole(result):
            return result
        logger.warning("%s is broken; running the notebook again", folder)
    out.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=out, prefix=f".{source.stem}."))
    try:
        record = temporary / result.record.name
        executed = temporary / result.notebook.name
        _execute(source, executed, record, parameters, out=out, progress=progress)
        if not record.is_file():
            raise NotebookError(f"{source.stem} ended without writing its record")
        shutil.rmtree(folder, ignore_errors=True)
        temporary.chmod(0o755)
        try:
            temporary.rename(folder)
        except OSError:
            if not _is_whole(result):  # else an equal run was faster
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Run(result.notebook, result.record, cached=False)


def _execute(
    source: Path,
    executed: Path,
    record: Path,
    parameters: dict[str, Any],
    *,
    out: Path,
    progress: bool,
) -> None:
    pair = executed.with_suffix(".source.ipynb")
    notebook = jupytext.read(source)
    notebook.metadata["kernelspec"] = _KERNEL
    jupytext.write(notebook, pair, fmt="ipynb")
    os.environ[RECORD_VARIABLE] = str(record.resolve())
    try:
        papermill.execute_notebook(
            str(pair), str(executed), parameters, kernel_name="python3", cwd=str(Path.cwd()),
            progress_bar=progress, log_output=False, kernel_manager_class=_QuietKernelManager,
        )  # fmt: skip
    except PapermillExecutionError as error:
        if error.ename == UserError.__name__:
            raise UserError(error.evalue) from None
        failed = out / f"{source.stem}.failed.ipynb"
        shutil.copyfile(executed, failed)
        raise NotebookError(
            f"{source.stem} failed in cell {error.exec_count} ({error.ename}: {error.evalue}); "
            f"what was executed is in {failed}\n" + "\n".join(error.traceback)
        ) from None
    finally:
        del os.environ[RECORD_VARIABLE]
        pair.unlink(missing_ok=True)
    _strip_run_metadata(executed)


def _strip_run_metadata(path: Path) -> None:
    """Remove times, durations and paths, so that two runs of the same thing are the same file."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("papermill", None)
    for i, cell in enumerate(notebook.cells):
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        cell["id"] = f"cell-{i}"
    nbformat.write(notebook, path)


def _is_whole(result: Run) -> bool:
    """Whether both files of a cached run can be read."""
    try:
        nbformat.read(result.notebook, as_version=4)
        return isinstance(read_json(result.record).get("claims"), list)
    except (UserError, OSError, ValueError, AttributeError, nbformat.ValidationError):
        return False


def _key(source: Path, values: dict[str, Any]) -> str:
    """Hash of everything that determines the executed notebook."""
    library = sorted(Path(saerepgeo_lib.__file__).parent.glob("*.py"))
    data = sorted(p for p in data_dir().rglob("*") if p.is_file() and p.suffix != ".md")
    used = [
        Path(v).resolve() for v in values.values() if isinstance(v, str) and v and Path(v).is_file()
    ]
    packages = sorted(
        f"{d.metadata['Name']}=={d.version}" for d in importlib.metadata.distributions()
    )
    return sha256_json(
        {
            "notebook": sha256_file(source),
            "parameters": values,
            "files": [["/".join(p.parts[-2:]), sha256_file(p)] for p in [*library, *data, *used]],
            "packages": packages,
            "python": platform.python_version(),
            "machine": platform.machine(),
        }
    )
