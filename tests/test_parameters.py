"""Notebooks: their pairs and names; parameters read, parsed, and within the limits of pages."""

import ast
import json
import re
import subprocess
import sys

import jupytext
import papermill
import pytest
from refusals import refused

from saerepgeo_lib.activations.models import DTYPES
from saerepgeo_lib.companion import parameters
from saerepgeo_lib.companion.cli import main
from saerepgeo_lib.companion.notebooks import (
    NOTEBOOK_DIR,
    check_pairs,
    find_notebook,
    make_pairs,
    parse_parameters,
    read_parameters,
)
from saerepgeo_lib.companion.records import Record, read_record
from saerepgeo_lib.rank.rules import RULES
from saerepgeo_lib.rank.unfoldings import MODES
from saerepgeo_lib.studies.sparse_dense import RULES as RULES_OF_STUDY
from saerepgeo_lib.studies.sparse_dense_results import SHOWN_MODES
from saerepgeo_lib.synthetic.ablation import DIMENSIONS, SCORES

SOURCE = """# %% tags=["parameters"]
n: int = 3  # how many
x: float = 0.5  # a level
levels: list[float] = [0, 1]  # ascending
name: str = "a#b"  # what to call it
loud: bool = False
"""


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "demo.py"
    path.write_text(SOURCE)
    return path


def test_unknown_notebooks_name_the_nearest_and_parameters_can_be_listed(capsys):
    refused("did you mean 'stratified_manifold'", find_notebook, "stratified_manifolds")
    assert main(["run", "no_such_thing"]) == 2
    assert "unknown notebook" in capsys.readouterr().err
    assert main(["run", "stratified_manifold", "--list"]) == 0
    assert "noise_levels: list[float]" in capsys.readouterr().out


def test_pairs_are_made_one_way_and_drift_is_seen(source, tmp_path):
    pair = tmp_path / "demo.ipynb"
    source.write_text("# %% [markdown]\n# # A title\n\n" + SOURCE + "\n# %%\nn\n")
    assert check_pairs(tmp_path) == ["demo.ipynb is missing"]
    make_pairs(tmp_path)
    assert check_pairs(tmp_path) == []
    notebook = json.loads(pair.read_text())
    assert notebook["cells"][1]["metadata"]["tags"] == ["parameters"]
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    source.write_text(source.read_text().replace("= 3", "= 4"))
    assert check_pairs(tmp_path) == ["demo.ipynb differs from demo.py, first in cell 1"]
    make_pairs(tmp_path)
    assert check_pairs(tmp_path) == []
    notebook["cells"][1]["source"] = SOURCE.replace("= 3", "= 4").partition("\n")[2].rstrip()
    notebook["cells"][2]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "x"}]
    pair.write_text(json.dumps(notebook))
    assert check_pairs(tmp_path) == ["demo.ipynb differs from demo.py, first in cell 2"]
    source.unlink()
    assert check_pairs(tmp_path) == ["demo.ipynb has no source demo.py"]


def test_parameters_are_read_with_type_default_and_description(source):
    found = read_parameters(source)
    assert list(found) == ["n", "x", "levels", "name", "loud"]
    assert (found["n"].type, found["n"].default, found["n"].description) == ("int", 3, "how many")
    assert found["levels"].default == [0, 1] and found["name"].default == "a#b"
    case1 = read_parameters(find_notebook("stratified_manifold"))
    assert all(p.description for p in case1.values())


def test_a_parameters_cell_that_is_none_is_refused(source):
    for cell, words in [
        ("n = 3", "parameters are lines 'name: type = literal"),
        ("n: int = 1 + x", "malformed node"),
        ("n: int = (", "never closed"),
        ("n: dict = {}", "type 'dict'"),
        ("n: list[list] = []", r"type 'list\[list\]'"),
        ('n: int = 1\n\n# %% tags=["parameters"]', "2 cells tagged 'parameters'"),
    ]:
        source.write_text(f'# %% tags=["parameters"]\n{cell}\n')
        refused(words, read_parameters, source)


def test_values_are_parsed_by_declared_type(source):
    given = [("n", "5"), ("levels", "[0, .5, 1e1]"), ("name", "7"), ("loud", "true"), ("x", "1")]
    values = parse_parameters(source, given)
    assert values == {"n": 5, "levels": [0.0, 0.5, 10.0], "name": "7", "loud": True, "x": 1.0}
    assert all(isinstance(v, float) for v in (*values["levels"], values["x"]))
    assert parse_parameters(source, [("loud", "False"), ("levels", "[ ]")])["loud"] is False


def test_wrong_parameters_are_refused(source):
    for name, value, words in [
        ("lvels", "[0]", "did you mean 'levels'"),
        ("n", "many", r"'n' is a int \(how many\), for example 3; got 'many'"),
        *(("n", value, "'n' is a int") for value in ("1.5", "true", "[")),
        *(("levels", value, r"is a list\[float\]") for value in ("0.5", "[a]", "(0, 1)")),
        ("loud", "1", "is a bool"),
        ("hf_token", "x", "looks like a secret"),
        ("name", "hf_abcdefghijklmnopqrstuv", "looks like a secret"),
    ]:
        refused(words, parse_parameters, source, [(name, value)])
    refused("twice", parse_parameters, source, [("n", "1"), ("n", "2")])


def start(page, **values):
    """The record of a page with these parameters, whose defaults it may have otherwise."""
    declared = read_parameters(find_notebook(page))
    given = {name: p.default for name, p in declared.items()} | {"device": "cpu"} | values
    return Record.start(page, given | {"__annotations__": {n: p.type for n, p in declared.items()}})


PAGE = """# %% tags=["parameters"]
n_seeds: int = 3  # how many
concept: str = "days"  # which
noise_levels: list[float] = [0, 1]  # ascending

# %%
from saerepgeo_lib.companion.records import Record, read_record
record = Record.start("stratified_manifold", globals())
record.numbers["levels"] = noise_levels
record.write()
"""
CELL = PAGE.partition("\n\n")[0]
INJECTED = "# Parameters\nn_sedes = 3\n"


def running(*cells, **values):
    """The variables of a page in IPython, whose cells were executed so far."""
    kinds = {"n_seeds": int, "concept": str, "noise_levels": list[float]}
    given = {"n_seeds": 3, "concept": "days", "noise_levels": [0, 1]} | values
    return given | {"__annotations__": kinds, "In": ["", "import os", *cells]}


@pytest.mark.parametrize(
    ("given", "read"),
    [({"noise_levels": "[0, 0.1]"}, [0, 0.1]), ({"noise_levels": "[0,1e-1]"}, [0, 0.1]),
     ({"n_seeds": "4"}, 4), ({"concept": "2024"}, "2024"), ({"concept": "[1]"}, "[1]")],
)  # fmt: skip
def test_what_papermill_passes_on_as_text_is_read_as_the_declared_type(given, read):
    page = running(CELL, **given)
    record = Record.start("stratified_manifold", page)
    ((name, _),) = given.items()
    assert record.parameters[name] == page[name] == read


@pytest.mark.parametrize(
    ("given", "words"),
    [({"concept": 2024}, "'concept' is a str; got 2024.*give concept with -r"),
     ({"concept": ["days", "months"]}, "names in a list are one text, separated by commas"),
     ({"concept": float("nan")}, "'concept' is a str; got nan"), ({"concept": None}, "got None"),
     ({"n_seeds": 2.0}, "'n_seeds' is a int; got 2.0"), ({"n_seeds": True}, "got True"),
     ({"noise_levels": 0.1}, r"is a list\[float\]; got 0.1"),
     ({"noise_levels": "[0, 0.1"}, r"got '\[0, 0.1'"), ({"noise_levels": "[1]"}, "ascend from 0")],
)  # fmt: skip
def test_what_papermill_passes_on_of_another_type_is_refused(given, words):
    refused(words, Record.start, "stratified_manifold", running(CELL, **given))


def test_names_that_a_page_does_not_declare_are_refused_where_papermill_sets_them():
    for cell, words in [
        (INJECTED, "stratified_manifold has no parameter 'n_sedes'; did you mean 'n_seeds'"),
        ("# Parameters\npd = 1\n", "no parameter 'pd'"),
        ("# Parameters\nhf_token = 1\n", "looks like a secret"),
    ]:
        refused(words, Record.start, "stratified_manifold", running(CELL, cell, "later = 1"))
    good = "# Parameters\nn_seeds = 3\n"
    for cells in [
        [CELL, good, "own = 1"], [INJECTED, CELL], [CELL, INJECTED, good], [CELL, "n_sedes = 3"],
    ]:  # fmt: skip
        Record.start("stratified_manifold", running(*cells))


def test_plain_papermill_checks_names_and_types(tmp_path, monkeypatch):
    """Its own engine and kernel: a good run, and two that end with one line and no traceback."""
    monkeypatch.setenv("SAEREPGEO_RECORD", str(tmp_path / "page.record.json"))
    (tmp_path / "page.py").write_text(PAGE)
    make_pairs(tmp_path)
    pair, out = str(tmp_path / "page.ipynb"), str(tmp_path / "out.ipynb")
    options = {"progress_bar": False, "log_output": False}
    papermill.execute_notebook(pair, out, {"noise_levels": "[0, 0.1]"}, **options)
    record = read_record(tmp_path / "page.record.json")
    assert record["numbers"]["levels"] == record["parameters"]["noise_levels"] == [0, 0.1]
    for name, words in [("n_sedes", "did you mean 'n_seeds'"), ("concept", "got 3; papermill's")]:
        command = ["papermill", pair, out, "--no-progress-bar", "-p", name, "3"]
        done = subprocess.run(
            [sys.executable, "-m", *command], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1 and words in done.stderr.splitlines()[-2], done.stderr
        assert "records.py" not in done.stderr


def test_no_page_reads_a_parameter_before_it_is_checked():
    for path in NOTEBOOK_DIR.glob("*.py"):
        code = [c.source for c in jupytext.read(path).cells if c.cell_type == "code"]
        text = re.sub(r"^%.*", "", "\n".join(code), flags=re.MULTILINE)
        declared = read_parameters(path)
        for node in ast.parse(text).body:
            if "Record.start(" in (statement := ast.unparse(node)):
                break
            if not isinstance(node, ast.AnnAssign):
                assert not set(declared) & set(re.findall(r"\w+", statement)), (path, statement)
        else:
            raise AssertionError(path)


@pytest.mark.parametrize(
    ("page", "name", "wrong", "right"),
    [
        ("stratified_manifold", "positions", ["contents"], ["entity"]),
        ("stratified_manifold", "noise_scaling", ["relatve"], ["absolute"]),
        ("stratified_manifold", "noise_levels", [[1, 0], [0], [0, 0, 1], [0, float("inf")],
                                                 [0, 1e39], [0, float("nan")], []], [[0, 1]]),
        ("stratified_manifold", "n_seeds", [1], [2]),
        ("stratified_manifold", "max_slots", [0], [1]),
        ("stratified_manifold", "seed", [-1], [0]),
        ("stratified_manifold", "dtype", ["float64", "half"], DTYPES),
        ("beyond_language", "n_per_class", [2], [3]),
        ("intervention", "n_downstream", [-1], [0]),
        ("stratified_manifold", "rank_rule", ["permutation"], RULES),
        ("stratified_manifold", "rank_mode", [0, 4], MODES),
        ("stratified_manifold", "tau", [0.0, 1.0, float("nan")], [0.5]),
        ("stratified_manifold", "concept", ["", " , ", "a,a", "a, b ,a"], ["days", "days, months"]),
        ("representation_structure", "n_umap_concepts", [-1], [0]),
        ("representation_structure", "min_cluster_size", [1], [2]),
        ("representation_structure", "n_groups", [2], [3]),
        ("representation_structure", "n_random", [0], [1]),
        ("intervention", "grouping", ["words"], ["clusters", "entities"]),
        ("intervention", "mse_weight", [-1.0, float("nan")], [0.0]),
        ("intervention", "step", [0.0, float("nan"), float("inf")], [0.1]),
        ("intervention", "n_steps", [1], [2]),
        ("intervention", "n_bootstrap", [39], [40]),
        ("intervention", "n_walks", [0], [1]),
        ("differences", "concept", ["months,days", ""], ["days", "days,"]),
        ("differences", "dose", [1.0, float("nan"), float("inf")], [1.1]),
        ("differences", "n_seeds", [1], [2]),
        ("calibration", "replicates", [1], [2]),
        ("calibration", "null_draws", [1], [2]),
        ("calibration", "max_bias", [0.0], [0.1]),
        ("calibration", "max_spread", [0.0], [0.1]),
        ("rank_rule_ablation", "draws", [1], [2]),
        ("rank_rule_ablation", "n_points", [10 * len(DIMENSIONS) - 1], [10 * len(DIMENSIONS)]),
        ("rank_rule_ablation", "score", ["MLE spred", "relative range"], SCORES),
        ("sparse_against_dense", "rank_rule", sorted(RULES.keys() - RULES_OF_STUDY),
         RULES_OF_STUDY),
        ("sparse_against_dense", "rank_mode", sorted(MODES.keys() - SHOWN_MODES), SHOWN_MODES),
        ("sparse_against_dense", "n_seeds", [0], [1]),
        ("separability_training", "live_strength", [-1.0], [0.0]),
        ("separability_training", "live_samples", [9_999], [10_000]),
        ("cone_of_sspd_matrices", "n", [2], [3]),
        ("cone_of_sspd_matrices", "n_draws", [19], [20]),
        ("noise_and_rank", "planted_rank", [0, 7], [1, 6]),
        ("noise_and_rank", "width", [31], [32]),
        ("noise_and_rank", "n_draws", [49], [50]),
        ("unfolding_a_tensor", "n_draws", [49], [50]),
        ("unfolding_a_tensor", "n_masked", [3], [4]),
    ],
)  # fmt: skip
def test_a_page_refuses_parameters_that_it_cannot_use(page, name, wrong, right):
    """The names of rules, modes and scores are the library's own."""
    for value in right:
        assert start(page, **{name: value}).parameters[name] == value
    for value in wrong:
        refused(f"{name}'? (must be|is a) .*got ", start, page, **{name: value})


def test_defaults_are_within_the_limits_and_these_are_of_parameters_that_a_page_has():
    declared = {p.stem: set(read_parameters(p)) for p in NOTEBOOK_DIR.glob("*.py")}
    assert [start(page).notebook for page in declared] == list(declared)
    assert set(parameters._LIMITS) <= set().union(*declared.values())
    for page, limits in parameters._LIMITS_OF_PAGES.items():
        assert set(limits) <= declared[page]
