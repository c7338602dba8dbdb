"""The project's own files agree with each other; what publishes the book, and what it carries."""

import hashlib
import importlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from saerepgeo_lib.companion.book import GENERATED
from saerepgeo_lib.companion.notebooks import check_pairs

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
VENDOR = ROOT / "book" / "vendor"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_environment_yml_and_pyproject_name_the_same_packages():
    pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"][-1]["pip"]
    extras = project()["optional-dependencies"]
    declared = {*project()["dependencies"], *extras["run"], *extras["book"], *extras["test"]}
    assert pip[0] == "-c constraints.txt"
    assert sorted(pip[1:]) == sorted(line for line in declared if "saerepgeo-lib[" not in line)


def test_the_versions_of_python_are_named_alike_everywhere():
    """In the classifiers, the Makefile and the weekly workflow; the README names each."""
    names = [c.rpartition(" ")[2] for c in project()["classifiers"] if "Python :: 3." in c]
    assert project()["requires-python"] == f">={names[0]}"
    (checked,) = re.findall(r"^PYTHONS \?= (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    weekly = yaml.safe_load((ROOT / ".github" / "workflows" / "weekly.yml").read_text())
    matrix = weekly["jobs"]["cold"]["strategy"]["matrix"]["python"]
    assert names == checked.split() == matrix
    assert all(name in README for name in names)


def distributions(requirements):
    names = (re.match(r"[\w.-]+", line)[0] for line in requirements)
    return {re.sub(r"[-_.]+", "-", name).lower() for name in names}


def test_every_package_that_is_imported_is_declared():
    """The library's own by the core, what runs notebooks by `run`, and the book's by `book`."""
    extras = project()["optional-dependencies"]
    core = distributions(project()["dependencies"])
    run = core | distributions(extras["run"])
    provided = importlib.metadata.packages_distributions()
    for path in (ROOT / "saerepgeo_lib").rglob("*.py"):
        declared = run if "companion" in path.parts or path.stem == "frames" else core
        if path.stem in ("book", "pages"):
            declared = declared | distributions(extras["book"])
        for name in re.findall(r"^\s*(?:import|from) (\w+)", path.read_text(), re.MULTILINE):
            if name not in sys.stdlib_module_names and name != "saerepgeo_lib":
                assert distributions(provided[name]) & declared, f"{path.name} imports {name}"


def test_constraints_pin_what_is_installed():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    installed = {d.metadata["Name"].lower(): d.version for d in importlib.metadata.distributions()}
    assert len(pins) > 30
    assert {n: installed.get(n.lower(), "none").split("+")[0] for n in pins} == pins


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The folder into which a wheel of the project was unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("saerepgeo_lib", "data"):
        shutil.copytree(ROOT / name, folder / "clone" / name,
                        ignore=shutil.ignore_patterns("__pycache__"))  # fmt: skip
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "clone")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", folder, folder / "clone"], check=True)
    (path,) = folder.glob("*.whl")
    shutil.unpack_archive(path, folder / "unpacked", format="zip")
    return folder / "unpacked"


@pytest.mark.slow
def test_a_wheel_holds_the_whole_library_and_its_data(wheel):
    def files(folder, ends=""):
        found = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
        return {path for path in found if path.suffix in ends or not ends}

    sources = (".py", ".pyi", ".jinja")
    assert files(wheel / "saerepgeo_lib", sources) == files(ROOT / "saerepgeo_lib", sources)
    assert files(wheel / "saerepgeo_lib" / "data") == files(ROOT / "data")


@pytest.mark.slow
def test_the_readmes_three_lines_run_from_a_wheel_offline_in_an_empty_folder(wheel, tmp_path):
    (lines,) = re.findall(r"```python\n(import saerepgeo_lib as srg\n.*?)```", README, re.DOTALL)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "sys.modules['ipywidgets'] = sys.modules['IPython'] = None\n"  # the core has neither
        "import saerepgeo_lib as srg\n"
        "assert srg.__file__.startswith(sys.argv[1])\n"
        "assert 'numpy' not in sys.modules and 'torch' not in sys.modules\n"
        "*others, cases = sys.argv[2].strip().splitlines()\n"
        "exec('\\n'.join(others))\n"
        "acts = acts.rows(acts.prompt < 24)\n"  # so that it takes seconds
        "for case in cases.split('; '): print(eval(case).table.shape[0] > 0)"
    )
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "SAEREPGEO_DATA")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(wheel), lines], cwd=tmp_path, capture_output=True,
        text=True, env=kept | {"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True"] * 3


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


def test_neither_commands_nor_sweeps_nor_tables_load_torch():
    code = "import sys; from saerepgeo_lib.companion import cli, collect, records, sweep; "
    subprocess.run([sys.executable, "-c", code + "assert 'torch' not in sys.modules"], check=True)


def test_the_table_of_estimators_names_functions_that_exist_and_sections_that_are_there():
    text = (ROOT / "notebooks" / "calibration.py").read_text()
    rows = [line for line in text.splitlines() if line.startswith("# | ") and "`" in line]
    named = [name for row in rows for name in re.findall(r"`(\w+(?:\.\w+)+)`", row)]
    assert len(named) >= 20
    for name in named:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(f"saerepgeo_lib.{module}"), attribute), name
    headings = {
        re.sub(r"[^\w\s-]", "", line.lstrip("# ").lower()).strip().replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("# ## ")
    }
    for anchor in re.findall(r"\]\(#([\w-]+)\)", text):
        assert anchor in headings, anchor


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_needs_no_secret_and_calls_commands_that_exist(path):
    text = path.read_text()
    workflow = yaml.safe_load(text)
    assert workflow[True], "YAML reads the key `on` as true"
    assert workflow["permissions"] and "secrets." not in text
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for job in workflow["jobs"].values():
        assert job["runs-on"] and {job.get("needs")} <= {None, *workflow["jobs"]}
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step)
            assert re.fullmatch(r"actions/[a-z-]+@v\d+", step.get("uses", "actions/checkout@v4"))
            command = step.get("run", "")
            assert all((ROOT / script).is_file() for script in re.findall(r"bash (\S+)", command))
            assert set(re.findall(r"make (\w+)", command)) <= targets


def test_the_workflows_build_weekly_deploy_and_release():
    text = "".join(path.read_text() for path in WORKFLOWS)
    for part in ("actions/deploy-pages@", "schedule:", "gh release upload", "pull_request:"):
        assert part in text


def test_vendored_files_are_those_whose_checksums_are_recorded():
    recorded = (VENDOR / "SHA256SUMS").read_text().splitlines()
    paths = [p for folder in ("mathjax", "scripts") for p in (VENDOR / folder).rglob("*")]
    assert sorted(map(str.split, recorded)) == sorted(
        [hashlib.sha256(p.read_bytes()).hexdigest(), p.relative_to(VENDOR).as_posix()]
        for p in paths if p.is_file()
    )  # fmt: skip


def test_the_three_lines_stand_in_the_readme_and_in_how_to_read_alike():
    lines = (
        "```python\nimport saerepgeo_lib as srg\n"
        'acts = srg.load("minilm").activations("months")        '
        '# or srg.ModelWithSAEs(model, {"mine": sae})\n'
        "srg.rank_profile(acts); srg.compare_geometry(acts); srg.dose_response(acts)\n```\n"
    )
    for path in (ROOT / "README.md", ROOT / "book" / "how_to_read.md"):
        assert lines in path.read_text(), path
