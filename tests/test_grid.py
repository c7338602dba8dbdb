"""Grid files by hand-made expectations, and their mistakes."""

import itertools
import tracemalloc

import pytest

from saerepgeo_lib.companion.grid import read_grid
from saerepgeo_lib.errors import UserError

A = """# %% tags=["parameters"]
n: int = 3  # how many
x: float = 1  # a level
levels: list[float] = [0, 1]  # ascending
name: str = "a"  # a label
"""
B = """# %% tags=["parameters"]
n: int = 5  # how many
loud: bool = False  # only here
"""


@pytest.fixture
def points(tmp_path, monkeypatch):
    """The runs of a grid text, as (notebook, parameters); two notebooks lie in the folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.py").write_text(A)
    (tmp_path / "b.py").write_text(B)

    def read(text, head='notebook = "a.py"\n'):
        (tmp_path / "grid.toml").write_text(head + text)
        grid = read_grid(tmp_path / "grid.toml")
        found = [(p.source.stem, p.parameters) for p in grid]
        assert len(found) == grid.n_runs
        return found

    return read


def test_a_notebook_alone_is_one_run_and_fixed_values_are_taken_times_every_combination(points):
    assert points("") == [("a", {})]
    found = points('fixed.name = "b"\ngrid = {n = [1, 2], x = [0.5, 1e-3]}')
    crossed = itertools.product((1, 2), (0.5, 0.001))
    assert found == [("a", {"name": "b", "n": n, "x": x}) for n, x in crossed]
    found = points("grid.levels = [[0, 1], [0, 0.5, 2]]")  # points of a list are lists
    assert [p["levels"] for _, p in found] == [[0.0, 1.0], [0.0, 0.5, 2.0]]
    assert all(type(v) is float for _, p in found for v in p["levels"])
    # sets are crossed with the grid
    found = points('grid.n = [1, 2]\n[[runs]]\nname = "b"\nx = 2\n[[runs]]\nname = "c"')
    sets = ({"name": "b", "x": 2.0}, {"name": "c"})
    assert found == [("a", given | {"n": n}) for given in sets for n in (1, 2)]


def test_each_notebook_takes_what_it_has_and_equal_runs_count_once(points):
    both = 'notebook = ["a.py", "b.py", "a.ipynb"]\n'
    assert points("grid = {n = [1, 2], x = [3, 4], loud = [true]}", both) == [
        *(("a", {"n": n, "x": x}) for n, x in itertools.product((1, 2), (3.0, 4.0))),
        ("b", {"n": 1, "loud": True}), ("b", {"n": 2, "loud": True}),
    ]  # fmt: skip
    assert points("grid.x = [1, 1.0, 2]") == [("a", {"x": 1.0}), ("a", {"x": 2.0})]
    # the default given, and left as it is, are the same run
    assert len(points("runs = [{n = 3}, {}, {x = 1, n = 3}, {n = 4}]")) == 2
    assert len(points("runs = [{x = 5, n = 1}, {x = 6, n = 1}]", both)) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("notebok = 1", "unknown key 'notebok'; did you mean 'notebook'"),
        ("grid.lvels = [[0]]", "unknown parameter 'lvels'; did you mean 'levels'"),
        ("grid.n = [1, 2.5]", r"grid\.n\[1\]: parameter 'n' is a int .* got 2.5"),
        ("grid.n = []", r"grid\.n: .* at least 1 item"),
        ("grid.n = 1", r"grid\.n: .* valid list, got 1; .* a single value goes under \[fixed\]"),
        ("grid.levels = [0, 1]", r"grid.levels\[0\]: .*write levels = \[\[...\]\]"),
        ("fixed.name = false", "fixed: parameter 'name' is a str .* got False"),
        ("fixed.x = nan", "fixed: parameter 'x' is a float .* got nan"),
        ("fixed.name = 2024-01-01", "fixed: parameter 'name' is a str .* got datetime"),
        ("fixed.n = 1\ngrid.n = [2]", "'n' stands in fixed too"),
        ("fixed.n = 1\nruns = [{}, {n = 2}]", r"runs\[1\]: .* stands in fixed too"),
        ("runs = []", r"runs: .* at least 1 item.* under \[\[runs\]\]"),
        ('runs = ["n"]', r"runs\[0\]: .* valid dictionary"),
        ('fixed = ["n"]', "fixed: .* valid dictionary"),
        ("[grid]\nn = [1]\n[fixed]\nx = 2\n[grid]", "twice .at line 6, column"),
        ("fixed.api_key = 1", "fixed: parameter 'api_key' looks like a secret"),
        ('grid.name = ["a", "hf_abcdefghijklmnopqrst"]', "grid.*: .* like a secret"),
        ("x = [", "is not TOML"),
    ],
)
def test_mistakes_name_the_file_and_the_place(points, text, words):
    with pytest.raises(UserError, match=words) as told:
        points(text)
    assert "grid.toml" in str(told.value) and "hf_abc" not in str(told.value)


def test_a_grid_needs_notebooks(points):
    for head, words in (
        ("", "notebook: .*required; expected a notebook's name or a list of names"),
        ("notebook = []", "notebook: .* a notebook's name or a list of names"),
        ("notebook = 1", "notebook: .* got 1; expected a notebook's name"),
        ('notebook = "stratified_manifolds"', "did you mean 'stratified_manifold'"),
        ('notebook = "c.py"', "notebook: no notebook source at c.py"),
        ('notebook = ["a.py", "b.py"]\nfixed.lod = true', "fixed: unknown .* did you mean 'loud'"),
    ):
        with pytest.raises(UserError, match=words):
            points("", head)


def test_runs_are_made_one_at_a_time(points, tmp_path):
    axis = list(range(100))
    points(f"grid = {{n = {axis[:1]}}}")
    text = f"grid = {{n = {axis}, x = {axis}, levels = {[[v] for v in axis]}}}"
    (tmp_path / "grid.toml").write_text(f"notebook = 'a.py'\n{text}")
    grid = read_grid(tmp_path / "grid.toml")
    assert grid.n_runs == 1_000_000
    tracemalloc.start()
    for _ in itertools.islice(grid, 5_000):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000
