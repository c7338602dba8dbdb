"""What a sweep adds to papermill: a sweep of stub runs beside a bare loop over the same.

    python benchmarks/sweep_overhead.py [--runs 100]

One worker; the sweep's time does not count the start of its worker. Prints one JSON object, in
seconds a run.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import nbformat
import papermill
from traitlets.config import Config

from saerepgeo_lib.companion.grid import read_grid
from saerepgeo_lib.companion.runner import KernelManager
from saerepgeo_lib.companion.sweep import drive, local_client

STUB = """# %% tags=["parameters"]
n: int = 0  # which run

# %%
import json
import os

part = {"version": 3, "notebook": "stub", "parameters": {"n": n}, "seeds": [], "claims": []}
rest = {"numbers": {}, "tables": {}, "run": {"device": "cpu", "stages": {}}}
with open(os.environ["SAEREPGEO_RECORD"], "w") as file:
    json.dump(part | rest, file)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    n_runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, grid_file = folder / "stub.py", folder / "grid.toml"
        source.write_text(STUB)
        grid_file.write_text(f"notebook = '{source}'\ngrid.n = {list(range(n_runs + 1))}")
        notebook = jupytext.read(source)
        notebook.metadata["kernelspec"] = {
            "name": "python3", "display_name": "Python 3", "language": "python",
        }  # fmt: skip
        nbformat.write(notebook, folder / "stub.ipynb")
        os.environ["SAEREPGEO_RECORD"] = str(folder / "record.json")

        quiet = Config({"KernelManager": {"process": {"cwd": name}}})

        def bare(n: int) -> None:
            papermill.execute_notebook(
                folder / "stub.ipynb", folder / "out.ipynb", {"n": n}, kernel_name="python3",
                progress_bar=False, kernel_manager_class=KernelManager, config=quiet,
            )  # fmt: skip

        bare(0)
        begin = time.perf_counter()
        for n in range(n_runs):
            bare(n)
        alone = (time.perf_counter() - begin) / n_runs

        out = folder / "runs"
        out.mkdir()
        points = list(read_grid(grid_file))
        with local_client(1) as client:
            drive(client, points[:1], total=1, out=out, progress=False)  # the worker imports
            begin = time.perf_counter()
            outcome = drive(client, points[1:], total=n_runs, out=out, progress=False)
            swept = (time.perf_counter() - begin) / n_runs
    if outcome.executed != n_runs:
        raise RuntimeError(f"{outcome.failed} runs failed: {outcome.failures[:1]}")
    report = {"runs": n_runs, "bare": alone, "sweep": swept, "added": swept - alone}
    json.dump({k: round(v, 4) for k, v in report.items()}, sys.stdout)


if __name__ == "__main__":
    main()
