"""What a run's key follows, and how prose reaches a run that is found."""

import nbformat
import pytest
from stub_runs import starts

from saerepgeo_lib import run_key, runner
from saerepgeo_lib.errors import UserError


def test_only_modules_that_a_notebook_needs_count(folder, monkeypatch):
    library = folder / "saerepgeo_lib"
    library.mkdir()
    for name, text in {
        "__init__": "", "a": "from saerepgeo_lib import b, UNKNOWN", "c": "", "other": "",
        "runner": "", "b": "def f():\n    import saerepgeo_lib.c",
    }.items():  # fmt: skip
        (library / f"{name}.py").write_text(text)
    monkeypatch.setattr(run_key, "_LIBRARY", library)
    source = folder / "stub.py"
    assert [p.stem for p in run_key.modules(source)] == ["__init__", "runner"]
    source.write_text(source.read_text() + "\nfrom saerepgeo_lib.a import anything\n")
    assert [p.stem for p in run_key.modules(source)] == ["__init__", "a", "b", "c", "runner"]

    def key():
        return runner.find_run(source, {}, out=folder / "o", cwd=folder).folder.name

    before = key()
    (library / "other.py").write_text("changed = 1")
    assert key() == before
    (library / "c.py").write_text("changed = 1")
    assert key() != before
    source.write_text(source.read_text() + "\nno python\n")
    with pytest.raises(UserError, match="is not Python"):
        key()


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
