"""The project's own files agree with each other."""

import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

from saerepgeo_lib.book import GENERATED
from saerepgeo_lib.notebooks import check_pairs

ROOT = Path(__file__).parent.parent


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_environment_yml_and_pyproject_name_the_same_packages():
    pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"][-1]["pip"]
    extras = project()["optional-dependencies"]
    assert pip[0] == "-c constraints.txt"
    assert sorted(pip[1:]) == sorted([*project()["dependencies"], *extras["book"], *extras["test"]])


def test_constraints_pin_what_is_installed():
    from importlib.metadata import version

    pins = [line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines()
            if "==" in line and not line.startswith("#")]  # fmt: skip
    for name, pinned in pins:
        assert version(name).split("+")[0] == pinned, name


def test_notebooks_and_their_sources_are_in_step():
    assert check_pairs() == []


def test_every_line_of_a_text_cell_is_a_comment():
    """Else it is code in the source and text in the pair."""
    for path in sorted((ROOT / "notebooks").glob("*.py")):
        text = False
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            if line.startswith("# %%"):
                text = "[markdown]" in line
            assert not text or not line or line.startswith("#"), f"{path.name}:{number}"


def test_every_page_of_the_table_of_contents_exists():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    pages = [toc["root"], *(c["file"] for part in toc["parts"] for c in part["chapters"])]
    assert {p.stem for p in (ROOT / "notebooks").glob("*.py")} == {
        Path(p).name for p in pages if p.startswith("notebooks/")
    }
    assert set(GENERATED) <= set(pages)
    for page in set(pages) - set(GENERATED):
        assert any((ROOT / f"{page}{end}").is_file() for end in (".md", ".py")), page


def test_the_library_has_no_cycle_and_reads_in_the_order_its_docstring_gives():
    """Each module can be imported on its own, and `errors` and `files` import nothing above."""
    modules = sorted(p.stem for p in (ROOT / "saerepgeo_lib").glob("*.py"))
    imports = {
        m: {line.split()[1].removeprefix("saerepgeo_lib.").split(".")[0]
            for line in (ROOT / "saerepgeo_lib" / f"{m}.py").read_text().splitlines()
            if line.strip().startswith("from saerepgeo_lib.")}
        for m in modules
    }  # fmt: skip
    done: set[str] = set()
    while len(done) < len(modules):
        free = {m for m in modules if m not in done and imports[m] <= done}
        assert free, {m: imports[m] - done for m in modules if m not in done}
        done |= free
    for pure in ("tensors", "ranks", "statistics", "points", "dimension", "clusters",
                 "arrangements", "synthetic"):  # fmt: skip
        assert not imports[pure] & {"plots", "records", "models", "prompts", "runner"}


def test_the_command_line_answers_without_loading_torch():
    code = "import sys, saerepgeo_lib.cli; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_table_of_estimators_names_functions_that_exist_and_sections_that_are_there():
    text = (ROOT / "notebooks" / "calibration.py").read_text()
    rows = [line for line in text.splitlines() if line.startswith("# | ") and "`" in line]
    named = [name for row in rows for name in re.findall(r"`(\w+\.\w+)`", row)]
    assert len(named) >= 20
    for name in named:
        module, _, attribute = name.partition(".")
        assert hasattr(importlib.import_module(f"saerepgeo_lib.{module}"), attribute), name
    headings = {
        re.sub(r"[^\w\s-]", "", line.lstrip("# ").lower()).strip().replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("# ## ")
    }
    for anchor in re.findall(r"\]\(#([\w-]+)\)", text):
        assert anchor in headings, anchor
