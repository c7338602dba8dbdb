"""Grid files by hand-made expectations, and their mistakes."""

import itertools
import tracemalloc

import pytest

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.grid import read_grid

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

    def read(text):
        (tmp_path / "grid.yml").write_text(text)
        grid = read_grid(tmp_path / "grid.yml")
        found = [(p.source.stem, p.parameters) for p in grid]
        assert len(found) == grid.n_runs
        return found

    return read


def test_a_notebook_alone_is_one_run(points):
    assert points("notebook: a.py") == [("a", {})]


def test_fixed_values_times_every_combination(points):
    found = points("notebook: a.py\nfixed: {name: b}\ngrid: {n: [1, 2], x: [0.5, 1e-3]}")
    assert found == [
        ("a", {"name": "b", "n": 1, "x": 0.5}), ("a", {"name": "b", "n": 1, "x": 0.001}),
        ("a", {"name": "b", "n": 2, "x": 0.5}), ("a", {"name": "b", "n": 2, "x": 0.001}),
    ]  # fmt: skip


def test_points_of_a_list_are_lists(points):
    found = points("notebook: a.py\ngrid: {levels: [[0, 1], [0, 0.5, 2]]}")
    assert [p["levels"] for _, p in found] == [[0.0, 1.0], [0.0, 0.5, 2.0]]
    assert all(type(v) is float for _, p in found for v in p["levels"])


def test_sets_are_crossed_with_the_grid(points):
    found = points("notebook: a.py\ngrid: {n: [1, 2]}\nruns: [{name: b, x: 2}, {name: c}]")
    assert found == [
        ("a", {"name": "b", "x": 2.0, "n": 1}), ("a", {"name": "b", "x": 2.0, "n": 2}),
        ("a", {"name": "c", "n": 1}), ("a", {"name": "c", "n": 2}),
    ]  # fmt: skip


def test_each_notebook_takes_what_it_has_and_equal_runs_count_once(points):
    found = points("notebook: [a.py, b.py, a.ipynb]\ngrid: {n: [1, 2], x: [3, 4], loud: [true]}")
    assert found == [
        *(("a", {"n": n, "x": x}) for n, x in itertools.product((1, 2), (3.0, 4.0))),
        ("b", {"n": 1, "loud": True}), ("b", {"n": 2, "loud": True}),
    ]  # fmt: skip
    assert points("notebook: a.py\ngrid: {x: [1, 1.0, 2]}") == [
        ("a", {"x": 1.0}),
        ("a", {"x": 2.0}),
    ]
    # the default given, and left as it is, are the same run
    assert len(points("notebook: a.py\nruns: [{n: 3}, {}, {x: 1, n: 3}, {n: 4}]")) == 2
    assert len(points("notebook: [a.py, b.py]\nruns: [{x: 5, n: 1}, {x: 6, n: 1}]")) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected the keys notebook, fixed, grid, runs, got nothing"),
        ("- a", "got a list"),
        ("notebok: a.py", "unknown key 'notebok'; did you mean 'notebook'"),
        ("grid: {n: [1]}", "notebook: expected a notebook's name .* got nothing"),
        ("notebook: []", "notebook: expected .* got an empty list"),
        ("notebook: stratified_manifolds", "did you mean 'stratified_manifold'"),
        ("notebook: c.py", "no notebook source at c.py"),
        (
            "notebook: a.py\ngrid: {lvels: [[0]]}",
            "unknown parameter 'lvels'; did you mean 'levels'",
        ),
        ("notebook: [a.py, b.py]\nfixed: {lod: true}", "fixed: unknown .* did you mean 'loud'"),
        ("notebook: a.py\ngrid: {n: [1, 2.5]}", r"grid\.n\[1\]: parameter 'n' is a int .* got 2.5"),
        ("notebook: a.py\ngrid: {n: []}", "grid.n: expected a list .* got an empty list"),
        ("notebook: a.py\ngrid: {n: 1}", "got 1; a single value goes under 'fixed'"),
        ("notebook: a.py\ngrid: {levels: [0, 1]}", r"write levels: \[\[...\]\]"),
        ("notebook: a.py\nfixed: {name: no}", "fixed: parameter 'name' is a str .* got False"),
        ("notebook: a.py\nfixed: {x: .nan}", "fixed: parameter 'x' is a float .* got nan"),
        ("notebook: a.py\nfixed: {n: 1}\ngrid: {n: [2]}", "'n' stands in .*fixed too"),
        ("notebook: a.py\nfixed: {n: 1}\nruns: [{}, {n: 2}]", r"runs\[1\]: .* stands in .*fixed"),
        ("notebook: a.py\nruns: []", "runs: expected a list of sets"),
        ("notebook: a.py\nruns: [n]", r"runs\[0\]: expected parameters"),
        ("notebook: a.py\nfixed: [n]", "fixed: expected parameters, name: value, got a list"),
        ("notebook: a.py\ngrid:\n  n: [1]\n  n: [2]", "line 4, column 3: the key 'n' occurs twice"),
        ("notebook: a.py\ngrid: {1: [1]}", "the key 1 is not a text"),
        ("notebook: a.py\ngrid: {n: &v [1], x: *v}", "no aliases"),
        ("notebook: !!python/name:os.system", "could not determine a constructor"),
        ("notebook: a.py\nfixed: {api_key: 1}", "fixed: parameter 'api_key' looks like a secret"),
        ("notebook: a.py\ngrid: {name: [a, hf_abcdefghijklmnopqrst]}", "grid: .* like a secret"),
        ("notebook: [", "line 1"),
    ],
)
def test_mistakes_name_the_file_and_the_place(points, text, words):
    with pytest.raises(UserError, match=words) as told:
        points(text)
    assert "grid.yml" in str(told.value) and "hf_abc" not in str(told.value)


def test_runs_are_made_one_at_a_time(points, tmp_path):
    points("notebook: a.py")
    axis = list(range(100))
    text = f"notebook: a.py\ngrid: {{n: {axis}, x: {axis}, levels: {[[v] for v in axis]}}}"
    (tmp_path / "grid.yml").write_text(text)
    grid = read_grid(tmp_path / "grid.yml")
    assert grid.n_runs == 1_000_000
    tracemalloc.start()
    for _ in itertools.islice(grid, 20_000):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000
