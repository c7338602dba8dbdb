"""The one machine-readable record that an executed notebook leaves."""

import importlib.metadata
import platform
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from saerepgeo_lib.claims import Claim
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.files import write_json
from saerepgeo_lib.record_files import RECORD_VERSION

_PACKAGES = (
    "torch", "numpy", "scipy", "scikit-learn", "pandas", "transformers", "transformer-lens",
    "sae-lens", "papermill", "jupytext",
)  # fmt: skip


@dataclass
class Record:
    """Everything a run leaves for machines; `write` makes it one JSON file."""

    notebook: str
    parameters: dict[str, Any]
    seeds: list[int]
    device: str
    claims: list[Claim] = field(default_factory=list)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    numbers: dict[str, Any] = field(default_factory=dict)
    stages: dict[str, dict[str, float]] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage, and note the process' peak memory at its end."""
        if name in self.stages:
            raise UserError(f"the record has a stage {name!r} already")
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        scale = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB on Linux
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale
        self.stages[name] = {"seconds": round(seconds, 3), "process_peak_mib": round(peak)}

    def results(self) -> dict[str, Any]:
        """The part that the same parameters and seeds reproduce number for number."""
        return {
            "version": RECORD_VERSION,
            "notebook": self.notebook,
            "parameters": self.parameters,
            "seeds": self.seeds,
            "claims": [_finite(asdict(claim)) for claim in self.claims],
            "numbers": self.numbers,
            "tables": {name: _columns(table) for name, table in self.tables.items()},
        }

    def write(self, path: Path) -> None:
        """Write the results and, under "run", what differs from run to run."""
        versions = {"python": platform.python_version()}
        for package in ("saerepgeo-lib", *_PACKAGES):
            try:
                versions[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                versions[package] = "not installed"
        run = {"device": self.device, "versions": versions, "stages": self.stages}
        write_json(path, {**self.results(), "run": run})


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """A row as strict JSON: undefined numbers as null."""
    return {
        name: None if isinstance(v, float) and not np.isfinite(v) else v for name, v in row.items()
    }


def _columns(table: pd.DataFrame) -> dict[str, list[Any]]:
    """A table as strict JSON: lists by column, missing numbers as null."""
    out: dict[str, list[Any]] = {}
    for name in table.columns:
        values = table[name].tolist()
        out[str(name)] = [
            None if isinstance(v, float) and not np.isfinite(v) else v for v in values
        ]
    return out
