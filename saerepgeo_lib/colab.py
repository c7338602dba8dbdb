"""Colab: the notebooks' set-up cell, and the installation that it starts there.

The standard library is enough for this module: it runs before anything is installed.
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

from saerepgeo_lib.errors import UserError

ROOT = Path(__file__).resolve().parent.parent

# Replacing what Colab's own kernel runs on makes the runtime crash in a loop, and its torch is
# the build for its GPU: these stay as they are.
_KEPT = ("torch", "ipykernel", "ipython", "ipywidgets", "jupyter-client", "prompt-toolkit",
         "pyzmq", "tornado", "traitlets")  # fmt: skip
# Dependencies that run notebooks from outside; on Colab, Colab does that.
_UNNEEDED = {
    "dask", "distributed", "ipykernel", "ipywidgets", "jupyter-client", "jupytext", "nbformat",
    "papermill",
}  # fmt: skip

# Modules that break when a process mixes two versions of them, and their distributions.
_FRAGILE = {
    "numpy": "numpy", "scipy": "scipy", "pandas": "pandas", "matplotlib": "matplotlib",
    "PIL": "pillow", "IPython": "ipython", "sklearn": "scikit-learn", "numba": "numba",
    "llvmlite": "llvmlite", "pyarrow": "pyarrow", "tokenizers": "tokenizers",
    "transformers": "transformers", "huggingface_hub": "huggingface_hub",
}  # fmt: skip

_CELL = """\
# On Colab this cell installs the project; anywhere else it does nothing.
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = {url}  # both are written by `saerepgeo notebooks`
BRANCH = {branch}
if "COLAB_RELEASE_TAG" in os.environ:
    if not REPOSITORY:
        raise RuntimeError("set REPOSITORY and BRANCH above: the git repository of this notebook")
    if not Path("companion").is_dir():
        clone = ["git", "clone", "--quiet", "--depth", "1", "--branch", BRANCH]
        subprocess.run([*clone, REPOSITORY, "companion"], check=True)
    sys.path.insert(0, str(Path("companion").resolve()))
    from saerepgeo_lib import colab

    colab.set_up()"""


def set_up_cell(url: str, branch: str) -> str:
    """The first code cell of every notebook: the only place where its text is written."""
    return _CELL.format(url=json.dumps(url), branch=json.dumps(branch))


def read_set_up_cell(cell: str) -> tuple[str, str] | None:
    """Address and branch in a set-up cell; None if the cell is another one."""
    if '"COLAB_RELEASE_TAG" in os.environ' not in cell:
        return None
    found = dict(re.findall(r'^(REPOSITORY|BRANCH) = "([^"\n]*)"', cell, re.MULTILINE))
    return found.get("REPOSITORY", ""), found.get("BRANCH", "main")


def set_up(root: Path = ROOT) -> None:
    """Make Colab's Python fit the lock of the clone at `root`, and say what happens.

    Installs what differs from `constraints.txt`, except torch and what Colab's kernel runs on.
    If this process has loaded another version of a fragile package than is then installed, it
    ends itself, and Colab starts a new one; there, nothing is left to do and the call returns
    at once. Raises UserError with pip's last lines if pip fails.
    """
    requirements, pins = requirements_and_pins(root)
    if not _installed(requirements, pins):
        _say("Installing the project's packages; this takes minutes, once in each runtime.")
        _install(requirements, pins)
    marker = Path(tempfile.gettempdir()) / "saerepgeo-restarted.txt"
    if changed := clashes():
        if marker.is_file() and marker.read_text() == "; ".join(changed):
            raise UserError(
                f"Python was restarted and still holds other versions: {'; '.join(changed)}; "
                "choose 'Disconnect and delete runtime', then run all"
            )
        marker.write_text("; ".join(changed))
        _say(
            f"The running Python still holds other versions: {'; '.join(changed)}. It restarts "
            "now (Colab calls that a crash). Then run this cell again, or choose 'Run all'."
        )
        time.sleep(1)  # the kernel sends its output from another thread
        os.kill(os.getpid(), signal.SIGKILL)


def clashes() -> list[str]:
    """Each fragile package of which this process has loaded another version than is installed."""
    out = []
    for module, distribution in _FRAGILE.items():
        loaded = getattr(sys.modules.get(module), "__version__", None)
        installed = _version(distribution)
        if loaded is not None and installed is not None and str(loaded) != installed:
            out.append(f"{distribution} {loaded}, installed is {installed}")
    return out


def requirements_and_pins(root: Path) -> tuple[list[str], dict[str, str]]:
    """What a notebook needs, and the version to pin each package to: the lock's, or Colab's."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = [line for line in project["dependencies"] if _name(line) not in _UNNEEDED]
    lock = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    lines = [line for line in [*lock, *requirements] if re.match(r"[\w.-]+==", line)]
    pins = {_name(line): line.partition("==")[2].strip() for line in lines}
    kept = {name: version for name in _KEPT if (version := _version(name)) is not None}
    return requirements, pins | kept


def _installed(requirements: list[str], pins: dict[str, str]) -> bool:
    """Whether all requirements are there at their pins. pip installs what they need before them."""
    for name in map(_name, requirements):
        version = _version(name)
        if version is None or version != pins.get(name, version):
            return False
    return True


def _install(requirements: list[str], pins: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("".join(f"{name}=={pins[name]}\n" for name in sorted(pins)))
        command = [sys.executable, "-m", "pip", "install", "--quiet",
                   "--disable-pip-version-check", "-c", str(constraints)]  # fmt: skip
        done = subprocess.run(
            [*command, *requirements], capture_output=True, text=True, check=False
        )
    if done.returncode != 0:
        tail = "\n".join(done.stderr.strip().splitlines()[-15:])
        raise UserError(
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
