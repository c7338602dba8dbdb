"""Pages through the runner, papermill and in this process; mistakes; what a run's key follows."""

import json
import re

import nbformat
import pandas as pd
import papermill
import pytest
from IPython.display import Markdown
from refusals import refused
from run_page import run_page
from stub_runs import PATIENCE, hidden, start, starts
from transformer_lens.model_bridge import TransformerBridge

from saerepgeo_lib.companion import run_key, runner
from saerepgeo_lib.companion.cli import main
from saerepgeo_lib.companion.notebooks import NOTEBOOK_DIR
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.files import read_json

QUICK = {"preset": "minilm", "noise_levels": [0, 1], "n_seeds": 2, "max_slots": 1}


def run(notebook, out, **parameters):
    given = [word for name, value in parameters.items() for word in ("-p", name, str(value))]
    return main(["run", str(notebook), *given, "-o", str(out)])


@pytest.fixture
def tools(tmp_path):
    """Parameters that name a concept file of plain sentences."""
    path = tmp_path / "tools.json"
    words = ("hammer", "saw", "drill", "chisel", "wrench", "plane", "file", "clamp")
    sentences = [f"{start} {word} {end}" for word in words for start, end in (
        ("Yesterday the old", "fell from the dusty shelf."),
        ("Nobody wanted to lend the heavy", "to the new neighbour."),
        ("A rusty", "was buried below the garden shed."))]  # fmt: skip
    path.write_text(json.dumps({"tools": sentences}))
    return {"prompts_file": str(path), "concept": "tools"}


@pytest.mark.slow
def test_a_page_gives_the_same_numbers_in_a_kernel_and_in_this_process(
    tools, tmp_path, monkeypatch, unchecked
):
    """And each prompt passes through the model once, whatever the noise levels and seeds are."""
    assert run("stratified_manifold", tmp_path / "o", **QUICK, **tools) == 0
    (path,) = (tmp_path / "o").glob("*/*.record.json")
    first, passed, real = read_json(path), [], TransformerBridge.forward
    assert first["parameters"]["concept"] == "tools"
    assert first["numbers"]["tensor_shape"] == {"tools": [24, 1]}
    assert {c["id"] for c in first["claims"]} == {
        "case1-rank-varies", "case1-beyond-nulls", "case1-stratified"}  # fmt: skip
    notebook = nbformat.read(path.with_name("stratified_manifold.ipynb"), 4)
    assert all(c.execution_count for c in notebook.cells if c.cell_type == "code")

    def counted(self, ids, **options):
        passed.append(len(ids))
        return real(self, ids, **options)

    monkeypatch.setattr(TransformerBridge, "forward", counted)
    _, again = run_page("stratified_manifold", tmp_path, **QUICK, **tools)
    assert sum(passed) == 2 + 24  # two rows are compared when the model is loaded
    assert first["seeds"] == again["seeds"] and first["parameters"] == again["parameters"]
    for a, b in zip(
        *({**r["tables"], "claims": r["claims"]}.values() for r in (first, again)), strict=True
    ):
        # up to rounding: tests before this one may have left another number of threads
        pd.testing.assert_frame_equal(pd.DataFrame(a), pd.DataFrame(b), rtol=1e-5)


@pytest.mark.slow
def test_plain_papermill_works(tmp_path, monkeypatch, unchecked):
    monkeypatch.chdir(tmp_path)
    page, given = "cone_of_sspd_matrices", {"n_draws": 20}
    pair = NOTEBOOK_DIR / f"{page}.ipynb"
    papermill.execute_notebook(
        str(pair), "out.ipynb", given, progress_bar=False, start_timeout=PATIENCE
    )
    _, again = run_page(page, tmp_path, **given)
    assert read_json(tmp_path / f"{page}.record.json") | {"run": again["run"]} == again


@pytest.mark.slow
def test_a_run_is_found_again_and_made_again_if_it_is_broken_or_asked_for(folder, capsys):
    out = folder / "o"

    def again(*options):
        assert main(["run", str(folder / "stub.py"), "-p", "folder", str(folder), "-o", str(out),
                     *options]) == 0  # fmt: skip
        return capsys.readouterr().out

    assert "found, not run again" not in again()
    (notebook,) = out.glob("*/*.ipynb")
    executed, second = notebook.read_text(), again()
    assert str(notebook) in second and "found, not run again" in second
    assert starts(folder) == {0: 1}
    notebook.write_text("{half")
    for number, options in enumerate(((), ("--fresh",)), start=2):
        assert "found, not run again" not in again(*options)
        assert notebook.read_text() == executed and starts(folder) == {0: number}
    assert not hidden(out)
    assert run(folder / "stub.py", folder / "u", fault="user") == 2  # told without a traceback
    assert capsys.readouterr().err == "saerepgeo: unknown preset 'x'; did you mean 'y'?\n"
    assert not list((folder / "u").iterdir())
    assert run(folder / "stub.py", notebook) == 2
    assert "is a file; name a folder for the results" in capsys.readouterr().err
    assert run(folder / "stub.py", folder / "u", fault="late user") == 2  # hours later, perhaps
    (kept,) = (folder / "u").iterdir()
    assert f"did you mean 'y'?; what was executed is in {kept}\n" in capsys.readouterr().err
    assert "Something was computed" in kept.read_text()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"preset": "minilmm"}, "unknown preset 'minilmm'; did you mean 'minilm'"),
     ({"concept": "dayz"}, "unknown concept 'dayz'; did you mean 'days'"),
     ({"n_seeds": 1}, "n_seeds must be at least 2, got 1")],
)  # fmt: skip
def test_a_page_stops_at_what_it_does_not_know(wrong, words, tmp_path):
    refused(words, run_page, "stratified_manifold", tmp_path, **wrong)
    assert not list(tmp_path.iterdir())


def test_output_cut_off_by_its_reader_is_no_fault(tmp_path):
    lines = [f"n_{i}: int = {i}  # one of many" for i in range(5_000)]  # more than a pipe holds
    (tmp_path / "many.py").write_text("\n".join(['# %% tags=["parameters"]', *lines]))
    process = start("run", tmp_path / "many.py", "--list")
    assert process.stdout.readline() == "n_0: int = 0\n"
    process.stdout.close()
    assert "saerepgeo" not in process.stderr.read()
    assert process.wait(timeout=PATIENCE) == 141


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "parameters"),
    [
        ("representation_structure", {"n_random": 1, "min_cluster_size": 5, "n_groups": 3}),
        ("representation_structure", {"n_random": 1, "min_cluster_size": 150, "n_groups": 3,
                                      "n_umap_concepts": 2, "max_prompts": 9}),
        ("calibration", {"replicates": 2, "null_draws": 30}),
        ("rank_rule_ablation", {"draws": 2, "n_points": 40, "score": "effective range"}),
        ("local_dimension", {"preset": "minilm", "n_texts": 50, "n_neighbours": 5}),
        ("sparse_against_dense", {"concept": "days", "n_seeds": 1, "rank_rule": "effective"}),
        ("separability_training", {"live_samples": 10_000, "live_strength": 5.0}),
    ],
)  # fmt: skip
def test_the_other_pages_run_with_other_parameters(page, parameters, tools, tmp_path, unchecked):
    if page == "representation_structure":  # on prompts without entities
        parameters = {"n_umap_concepts": 0} | parameters | tools
    shown, record = run_page(page, tmp_path, **parameters)
    texts = " ".join(each.data for each in shown if isinstance(each, Markdown))
    assert not re.search(r"\bnan", texts), texts
    assert record["parameters"].items() >= parameters.items() and record["tables"]
    if page == "representation_structure":
        verdicts = {(c["id"], c["verdict"]) for c in record["claims"]}
        assert ("case2-distinction-up", "cannot be tested here") in verdicts
        assert not record["tables"]["authors"]  # too few tokens for UMAP, or not asked for
        none = "max_prompts" in parameters  # then no cluster has as many tokens
        assert (record["numbers"]["share_of_entity_clusters"] is None) == none
        assert ("There is none" in texts) == none and "(differences none)" in texts
    if page == "separability_training":  # trains both kinds with and without the objective
        live = pd.DataFrame(record["tables"]["live"])
        assert live[["kind", "strength"]].to_numpy().tolist() == [
            [kind, strength] for strength in (0, 5) for kind in ("topk", "standard")
        ]
        assert live[["FVU", "AEDP", "probing", "dead"]].notna().all().all()
    if page == "rank_rule_ablation":
        assert {c["statistic"] for c in record["claims"]} == {"AUC of the effective range"}


@pytest.fixture
def library(folder, monkeypatch):
    """A small library with a room that has a door."""
    library = folder / "saerepgeo_lib"
    for name, text in {
        "__init__.py": "", "a.py": "from saerepgeo_lib.room import b, UNKNOWN", "other.py": "",
        "room/__init__.py": "", "room/__init__.pyi": "from .b import f\nfrom .d import g",
        "room/b.py": "def f():\n    import saerepgeo_lib.room.c", "room/c.py": "", "room/d.py": "",
        "room/e.py": "", "companion/runner.py": "",
    }.items():  # fmt: skip
        (library / name).parent.mkdir(parents=True, exist_ok=True)
        (library / name).write_text(text)
    monkeypatch.setattr(run_key, "LIBRARY", library)
    return library


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("", []),
        ("import saerepgeo_lib.room.c", ["__init__", "room/__init__", "room/c"]),
        ("from saerepgeo_lib.a import anything",  # a name that the room does not list
         ["__init__", "a", "room/__init__", "room/b", "room/c", "room/d"]),
        ("from saerepgeo_lib.room import f", ["__init__", "room/__init__", "room/b", "room/c"]),
        ("from saerepgeo_lib.room import g", ["__init__", "room/__init__", "room/d"]),
    ],
)  # fmt: skip
def test_only_modules_that_a_notebook_needs_count(folder, library, line, names):
    """Also those that it gets through a room's door."""
    source = folder / "stub.py"
    source.write_text(f"{source.read_text()}\n{line}\n")
    wanted = {*names, "companion/runner"}
    assert {p.relative_to(library).as_posix()[:-3] for p in run_key.modules(source)} == wanted
    for module in sorted(p for p in library.rglob("*.py")):
        before = runner.find_run(source, {}, out=folder, cwd=folder)
        module.write_text(module.read_text() + "\nchanged = 1\n")
        changed = runner.find_run(source, {}, out=folder, cwd=folder) != before
        assert changed == (module.relative_to(library).as_posix()[:-3] in wanted), module


def test_a_notebook_that_is_no_python_has_no_key(folder):
    source = folder / "stub.py"
    source.write_text(source.read_text() + "\nno python\n")
    refused("is not Python", runner.find_run, source, {}, out=folder, cwd=folder)


def test_new_prose_reaches_a_finished_run_without_executing_it_again(folder):
    out, source = folder / "o", folder / "stub.py"
    source.write_text(source.read_text().replace(
        "# %%\nimport json", '# %% mystnb={"image": {"alt": "old"}}\nimport json')
        + "\n# %%\nimport ipywidgets\nfrom tqdm.auto import tqdm\n"
        "for _ in tqdm(range(2)):\n    pass\nipywidgets.IntSlider()\n")  # fmt: skip
    given = [("n", "3"), ("folder", str(folder))]
    first = runner.run(str(source), given, out=out)
    executed = first.notebook.read_bytes()
    again = runner.run(str(source), given, out=out)
    assert again.cached and again.notebook.read_bytes() == executed
    text = source.read_text()
    source.write_text(text.replace("# # A stub", "# # Another title").replace('"old"', '"new"')
                      + "\n# %% [markdown]\n# An ending\n")  # fmt: skip
    again = runner.run(str(source), given, out=out)
    assert again.cached and starts(folder) == {3: 1}
    notebook = nbformat.read(again.notebook, as_version=4)
    assert "widgets" not in notebook.metadata and not notebook.cells[-2].get("outputs")
    cells = notebook.cells
    assert [cells[0].source, cells[-1].source] == ["# Another title", "An ending"]
    assert "injected-parameters" in cells[2].metadata["tags"] and "n = 3" in cells[2].source
    assert cells[3].metadata["mystnb"] == {"image": {"alt": "new"}}
    with pytest.raises(UserError, match="not executed from"):
        source.write_text(text + "\n# %%\nmore = 1\n")
        runner.renew_prose(again.notebook, source)
    with pytest.raises(UserError, match="not executed from"):
        source.write_text(text[: text.rindex("# %%\nimport ipywidgets")])
        runner.renew_prose(again.notebook, source)


def test_the_key_follows_every_file_that_matters(folder, monkeypatch):
    out, source, user_file = folder / "o", folder / "stub.py", folder / "mine.json"

    def key(**parameters):
        return runner.find_run(source, parameters, out=out, cwd=folder).folder.name

    user_file.write_text("1")
    keys = [key(), key(n=1), key(name="mine.json")]
    assert key(n=0) == key() == key(x=1.0)  # defaults, given or not
    user_file.write_text("2")
    keys.append(key(name="mine.json"))
    (folder / "sae").mkdir()
    keys.append(key(name="sae"))
    (folder / "sae" / "cfg.json").write_text("{}")
    keys.append(key(name="sae"))
    (folder / "sae" / "weights").write_text("1")
    keys.append(key(name="sae"))
    for part in ("config.json", "shards/model.safetensors"):  # a model's folder
        (folder / "model" / part).parent.mkdir(parents=True, exist_ok=True)
        (folder / "model" / part).write_text("1")
        keys.append(key(name="model"))
    source.write_text(source.read_text() + "\n# changed\n")
    keys.append(key())
    data = folder / "data"
    data.mkdir()
    monkeypatch.setenv("SAEREPGEO_DATA", str(data))
    keys.append(key())
    (data / "weights.json").write_text("{}")
    keys.append(key())
    (data / "sweeps").mkdir()
    (data / "sweeps" / "table.parquet").write_text("1")
    assert key() == keys[-1]  # a table that was collected does not change the runs it came from
    source.write_text(source.read_text() + "\n# reads compare.shipped_claims()\n")
    keys.append(key())
    (data / "sweeps" / "table.parquet").write_text("2")
    keys.append(key())
    text = source.read_text()
    source.write_text(text.replace("# # A stub", "# # A stub\n#\n# With prose."))
    assert key() == keys[-1]
    source.write_text(text)
    packages = folder / "packages" / "new-1.0.dist-info"
    packages.mkdir(parents=True)
    (packages / "METADATA").write_text("Metadata-Version: 2.1\nName: new\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(packages.parent))
    keys.append(key())
    assert len(set(keys)) == len(keys)
    assert key(name="x" * 5_000) and key(name="\x01/..")  # texts that are no paths
