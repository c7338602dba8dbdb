"""The key of a run: a hash of everything that determines the executed notebook.

What is read from files is kept until they change, so that a key costs a few look-ups.
"""

import os
import platform
import re
import sys
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import jupytext

from saerepgeo_lib.companion.imports import LIBRARY, all_imports_of
from saerepgeo_lib.files import data_dir, sha256_file, sha256_json, until_changed

_SHOWS = re.compile("hide-|remove-")  # tags that only hide a part of a cell on the page
_CONFIGURATIONS = ("cfg.json", "config.json")  # of SAELens' folders and of transformers'
_hash = until_changed(sha256_file)


def run_key(source: Path, values: dict[str, Any], *, cwd: Path) -> str:
    """Key of a notebook's run with `values` for all its parameters (defaults too).

    It covers the notebook's code, the values, the files and folders that they name (relative to
    `cwd`), the library's modules that the code needs, the data, the versions of all installed
    packages, Python's and the architecture; not prose, nor what a name on the hub stands for, nor
    what device "auto" finds. Collected tables (data/sweeps) and the benchmarks' results count for
    the notebook that reads them only, else a table would change the keys of its own runs.
    """
    code = _code(source)
    data = sorted(p for p in data_dir().rglob("*") if p.is_file() and p.suffix != ".md")
    if not any("shipped_claims" in cell for cell in code):
        data = [p for p in data if p.parent.name != "sweeps"]
    if any("read_costs" in cell for cell in code):
        data += sorted((LIBRARY.parent / "benchmarks" / "results").glob("*.json"))
    used = [Path(p).resolve() for value in values.values() for p in _files_named(value, cwd)]
    places = [Path(entry) for entry in sys.path if Path(entry).exists()]
    return sha256_json(
        {
            "notebook": code,
            "parameters": values,
            "files": [["/".join(p.parts[-2:]), _hash(p)] for p in [*modules(source), *data, *used]],
            "packages": sorted(set().union(*map(_packages, places))),
            "python": platform.python_version(),
            "machine": platform.machine(),
        }
    )


def modules(source: Path) -> list[Path]:
    """The library's files that a file imports, directly or through them, and the runner."""
    return sorted(all_imports_of(source, library=LIBRARY) | {LIBRARY / "companion" / "runner.py"})


def _files_named(value: Any, cwd: Path) -> Iterator[str]:
    """Paths of the files that a parameter's value names; all files of a model's or SAE's folder."""
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, list):
            yield from _files_named(text, cwd)
        elif isinstance(text, str) and text:
            path = os.path.join(cwd, text)  # noqa: PTH118 (any text may come, also no path)
            if os.path.isfile(path):  # noqa: PTH113
                yield path
            elif any(os.path.isfile(f"{path}/{name}") for name in _CONFIGURATIONS):  # noqa: PTH113
                yield from sorted(str(p) for p in Path(path).rglob("*") if p.is_file())


@until_changed
def _code(source: Path) -> list[str]:
    """Source and tags of each code cell."""
    cells = [cell for cell in jupytext.read(source).cells if cell.cell_type == "code"]
    tags = [[t for t in c.metadata.get("tags", []) if not _SHOWS.match(t)] for c in cells]
    return [f"{given}\n{cell.source}" for given, cell in zip(tags, cells, strict=True)]


@until_changed
def _packages(place: Path) -> set[str]:
    """The distributions in one place of the path: installing one there changes its time."""
    return {f"{d.metadata['Name']}=={d.version}" for d in distributions(path=[str(place)])}
