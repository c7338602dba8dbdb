"""The key of a run: a hash of everything that determines the executed notebook.

Hashes are kept for the life of the process and renewed when a file's size or time of change
differs, or packages were installed or removed; so a key costs a few file look-ups.
"""

import functools
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import saerepgeo_lib
from saerepgeo_lib.files import data_dir, sha256_file, sha256_json

_CONFIGURATIONS = ("cfg.json", "config.json")  # of SAELens' folders and of transformers'


def run_key(source: Path, values: dict[str, Any], *, cwd: Path) -> str:
    """Key of a notebook's run with `values` for all its parameters (defaults too).

    It covers the notebook, the values, the files and folders that they name (relative to `cwd`),
    the library, the data, the versions of all installed packages, Python's and the architecture.
    It does not know of what a name on the hub stands for, nor of what device "auto" finds.
    Collected tables (data/sweeps) count for the notebook that reads them only, else a table would
    change the keys of the runs that it was made from.
    """
    library = sorted(Path(saerepgeo_lib.__file__).parent.glob("*.py"))
    data = sorted(p for p in data_dir().rglob("*") if p.is_file() and p.suffix != ".md")
    if "shipped_claims" not in source.read_text(encoding="utf-8"):
        data = [p for p in data if p.parent.name != "sweeps"]
    used = [Path(p).resolve() for v in values.values() for p in _files_named(v, cwd)]
    return sha256_json(
        {
            "notebook": _file_hash(source),
            "parameters": values,
            "files": [["/".join(p.parts[-2:]), _file_hash(p)] for p in [*library, *data, *used]],
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


def _file_hash(path: Path) -> str:
    state = path.stat()
    return _hash_of(path, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


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
