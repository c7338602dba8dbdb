import json

import pytest

from saerepgeo_lib.cli import main
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.notebooks import (
    check_pairs,
    find_notebook,
    make_pairs,
    parse_parameters,
    read_parameters,
)

CASE1 = "stratified_manifold"
SOURCE = """# %% [markdown]
# # A title

# %% tags=["parameters"]
n: int = 3  # how many
levels: list[float] = [0, 1]  # ascending
name: str = "a#b"  # what to call it
loud: bool = False

# %%
n
"""


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "demo.py"
    path.write_text(SOURCE)
    return path


def test_parameters_are_read_with_type_default_and_description(source):
    found = read_parameters(source)
    assert list(found) == ["n", "levels", "name", "loud"]
    assert (found["n"].type, found["n"].default, found["n"].description) == ("int", 3, "how many")
    assert found["levels"].default == [0, 1] and found["name"].default == "a#b"
    assert all(p.description for p in read_parameters(find_notebook(CASE1)).values())


def test_values_are_parsed_by_declared_type(source):
    given = [("n", "5"), ("levels", "[0, 2.5]"), ("name", "7"), ("loud", "true")]
    values = parse_parameters(source, given)
    assert values == {"n": 5, "levels": [0.0, 2.5], "name": "7", "loud": True}
    assert all(isinstance(v, float) for v in values["levels"])


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("lvels", "[0]", "did you mean 'levels'"),
        ("n", "many", "'n' is a int"),
        ("n", "1.5", "'n' is a int"),
        ("n", "true", "'n' is a int"),
        ("levels", "0.5", r"is a list\[float\]"),
        ("levels", "[a]", r"is a list\[float\]"),
        ("loud", "1", "is a bool"),
        ("hf_token", "x", "looks like a secret"),
        ("name", "hf_abcdefghijklmnopqrstuv", "looks like a secret"),
        ("n", "[", "'n' is a int"),
    ],
)
def test_wrong_parameters_are_refused(source, name, value, words):
    with pytest.raises(UserError, match=words):
        parse_parameters(source, [(name, value)])


def test_a_parameter_given_twice_is_refused(source):
    with pytest.raises(UserError, match="twice"):
        parse_parameters(source, [("n", "1"), ("n", "2")])


def test_unknown_notebooks_name_the_nearest(capsys):
    with pytest.raises(UserError, match="did you mean 'stratified_manifold'"):
        find_notebook("stratified_manifolds")
    assert main(["run", "no_such_thing"]) == 2
    assert "unknown notebook" in capsys.readouterr().err


def test_pairs_are_made_one_way_and_drift_is_seen(source, tmp_path):
    assert check_pairs(tmp_path) == ["demo.ipynb is missing"]
    make_pairs(tmp_path)
    assert check_pairs(tmp_path) == []
    pair = tmp_path / "demo.ipynb"
    notebook = json.loads(pair.read_text())
    assert notebook["cells"][1]["metadata"]["tags"] == ["parameters"]
    ids = [cell["id"] for cell in notebook["cells"]]
    source.write_text(SOURCE.replace("= 3", "= 4"))
    assert "differs from demo.py" in check_pairs(tmp_path)[0]
    make_pairs(tmp_path)
    assert check_pairs(tmp_path) == []
    assert [cell["id"] for cell in json.loads(pair.read_text())["cells"]] == ids
    notebook["cells"][2]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "x"}]
    pair.write_text(json.dumps(notebook))
    assert "has outputs" in " ".join(check_pairs(tmp_path))
    source.unlink()
    assert check_pairs(tmp_path) == ["demo.ipynb has no source demo.py"]


def test_parameters_can_be_listed(capsys):
    assert main(["run", CASE1, "--list"]) == 0
    assert "noise_levels: list[float]" in capsys.readouterr().out
