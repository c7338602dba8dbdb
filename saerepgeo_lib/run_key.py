"""The key of a run: a hash of everything that determines the executed notebook.

Hashes are kept for the life of the process and renewed when a file's size or time of change
differs, or packages were installed or removed; so a key costs a few file look-ups.
"""

import ast
import functools
import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jupytext

import saerepgeo_lib
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.files import data_dir, sha256_file, sha256_json

_LIBRARY = Path(saerepgeo_lib.__file__).parent
_SHOWS = re.compile("hide-|remove-")
_CONFIGURATIONS = ("cfg.json", "config.json")  # of SAELens' folders and of transformers'


def run_key(source: Path, values: dict[str, Any], *, cwd: Path) -> str:
    """Key of a notebook's run with `values` for all its parameters (defaults too).

    It covers the notebook's code, the values, the files and folders that they name (relative to
    `cwd`), the modules of the library that the code imports and those that these import, the data,
    the versions of all installed packages, Python's and the architecture. It does not know of what
    a name on the hub stands for, nor of what device "auto" finds. Prose is no part of it.
    Collected tables (data/sweeps) count for the notebook that reads them only, else a table would
    change the keys of the runs that it was made from; so do the benchmarks' results.
    """
    data = sorted(p for p in data_dir().rglob("*") if p.is_file() and p.suffix != ".md")
    code = _code(source, *_state(source))
    if not any("shipped_claims" in cell for cell in code):
        data = [p for p in data if p.parent.name != "sweeps"]
    if any("shipped_costs" in cell for cell in code):
        data += sorted((_LIBRARY.parent / "benchmarks" / "results").glob("*.json"))
    used = [Path(p).resolve() for v in values.values() for p in _files_named(v, cwd)]
    return sha256_json(
        {
            "notebook": code,
            "parameters": values,
            "files": [
                ["/".join(p.parts[-2:]), _file_hash(p)] for p in [*modules(source), *data, *used]
            ],
            "packages": _packages(_places()),
            "python": platform.python_version(),
            "machine": platform.machine(),
        }
    )


def _files_named(value: Any, cwd: Path) -> Iterator[str]:
    """Paths of the files that a parameter's value names, in lists too.

    Of a model's or SAE's folder (one with a configuration) all, those in its folders included.
    """
    if isinstance(value, list):
        for item in value:
            yield from _files_named(item, cwd)
    elif isinstance(value, str) and value:
        path = os.path.join(cwd, value)  # noqa: PTH118 (any text may come, also no path)
        if os.path.isfile(path):  # noqa: PTH113
            yield path
        elif any(os.path.isfile(os.path.join(path, name)) for name in _CONFIGURATIONS):  # noqa: PTH113, PTH118
            yield from sorted(str(p) for p in Path(path).rglob("*") if p.is_file())


def modules(source: Path) -> list[Path]:
    """The library's modules that a file imports, directly or through them, and the runner."""
    found: set[Path] = set()
    to_read = [source, _LIBRARY / "__init__.py"]
    while to_read:
        path = to_read.pop()
        new = [p for p in _imports(path, *_state(path)) if p not in found]
        found.update(new)
        to_read += new
    return sorted(found | {_LIBRARY / "__init__.py", _LIBRARY / "runner.py"})


@functools.lru_cache(maxsize=1024)
def _imports(path: Path, size: int, changed: int, touched: int) -> list[Path]:
    """The library's modules that stand in a file's import statements, wherever these stand."""
    names = set()
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{path} is not Python: {error}") from error
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    inside = sorted(name.split(".")[1] for name in names if name.startswith(f"{_LIBRARY.name}."))
    return [file for part in inside if (file := _LIBRARY / f"{part}.py").is_file()]


@functools.lru_cache(maxsize=64)
def _code(source: Path, size: int, changed: int, touched: int) -> list[str]:
    """Source and tags of each code cell; tags that only hide a part of it on the page left out."""
    cells = [cell for cell in jupytext.read(source).cells if cell.cell_type == "code"]
    tags = [[t for t in c.metadata.get("tags", []) if not _SHOWS.match(t)] for c in cells]
    return [f"{given}\n{cell.source}" for given, cell in zip(tags, cells, strict=True)]


def _file_hash(path: Path) -> str:
    return _hash_of(path, *_state(path))


def _state(path: Path) -> tuple[int, int, int]:
    state = path.stat()
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns


@functools.lru_cache(maxsize=1024)
def _hash_of(path: Path, size: int, changed: int, touched: int) -> str:
    return sha256_file(path)


def _places() -> tuple[tuple[str, int], ...]:
    """Where packages lie, each with its time of change: installing one changes that."""
    places = []
    for entry in sys.path:
        try:
            places.append((entry, Path(entry).stat().st_mtime_ns))
        except OSError:
            continue
    return tuple(places)


@functools.lru_cache(maxsize=4)
def _packages(places: tuple[tuple[str, int], ...]) -> list[str]:
    # A set: a package found in two places of the path is the same package.
    return sorted(
        {f"{d.metadata['Name']}=={d.version}" for d in importlib.metadata.distributions()}
    )
