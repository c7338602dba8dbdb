"""The book: notebooks executed side by side, staging, rendering, and the ZIP."""

import json
import logging
import os
import shutil
import zipfile
from types import SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_notebook
from small_pages import CLAIMS, small_cells, small_record, small_sweep
from stub_runs import SOURCE, starts

from saerepgeo_lib.companion import book, cli, ledger
from saerepgeo_lib.errors import UserError


@pytest.fixture
def machine(monkeypatch):
    """`machine(gigabytes, cores)`: as on a machine of that free memory."""

    def of(gigabytes, cores):
        memory = SimpleNamespace(available=gigabytes * 1e9)
        monkeypatch.setattr(book.psutil, "virtual_memory", lambda: memory)
        monkeypatch.setattr(book, "cpu_count", lambda: cores)

    return of


def test_notebooks_run_side_by_side_and_what_is_finished_is_kept(tmp_path, caplog, machine):
    caplog.set_level(logging.INFO)
    machine(gigabytes=24, cores=2)
    sources = [tmp_path / f"{name}.py" for name in ("page0", "page1", "page2", "faulty3")]
    for source in sources:
        text = SOURCE.replace('folder: str = ""', f'folder: str = "{tmp_path}"')
        text = text.replace("n: int = 0", f"n: int = {source.stem[-1]}")
        faulty = source.stem == "faulty3"
        source.write_text(text.replace('fault: str = ""', f'fault: str = "{"user" * faulty}"'))
    out = tmp_path / "out"
    with pytest.raises(UserError, match="notebooks/faulty3: unknown preset 'x'"):
        book.execute(sources, out, progress=False)
    finished = {path.stem for path in out.glob("*-*/*.ipynb")}
    assert len(finished) >= 2 and "faulty3" not in finished
    assert set(list(starts(tmp_path))[:2]) == {0, 1}

    (tmp_path / "mended").touch()
    caplog.clear()
    done = book.execute(sources, out, progress=False)
    assert [run.notebook.stem for run in done] == [source.stem for source in sources]
    assert all(run.record.is_file() for run in done)
    assert [starts(tmp_path)[n] for n in range(4)] == [1, 1, 1, 2]
    said = [record.message for record in caplog.records]
    assert "notebooks/page0: unchanged" in said and "notebooks/faulty3: executed" in said


def test_notebooks_run_one_at_a_time_without_the_cores_or_the_memory(machine):
    for gigabytes, cores, n in ((24, 2, 2), (24, 16, 2), (24, 1, 1), (11, 2, 1), (3, 2, 1)):
        machine(gigabytes, cores)
        assert book.n_at_once() == n


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A project with one notebook, and a stage that holds it executed."""
    monkeypatch.setattr(ledger, "paper_claims", lambda: CLAIMS)
    monkeypatch.setattr(book, "read_claims", lambda path: small_sweep())
    root, stage = tmp_path / "root", tmp_path / "stage"
    for folder in (root / "notebooks", root / "book" / "assets", stage / "executed"):
        folder.mkdir(parents=True)
    for path, text in {
        "notebooks/small.py":
            "# %% [markdown]\n# # A small page\n\n# %% tags=['parameters']\nn: int = 2  # a\n",
        "_toc.yml": "root: book/welcome", "_config.yml": "title: small",
        "book/welcome.md": "# Welcome",
        "book/glossary.md": "```{glossary}\nrank\n  A number.\n```\n",
    }.items():  # fmt: skip
        (root / path).write_text(text)
    nbformat.write(new_notebook(cells=small_cells()), stage / "executed" / "small.ipynb")
    (stage / "executed" / "small.record.json").write_text(json.dumps(small_record()))
    return root, stage


def test_the_stage_has_headers_and_generated_pages_and_leaves_the_executed_alone(places):
    root, stage = places
    before = (stage / "executed" / "small.ipynb").read_bytes()
    book.stage_book(root, stage, ["book/welcome", *book.GENERATED, "notebooks/small"])
    assert (stage / "executed" / "small.ipynb").read_bytes() == before
    cells = nbformat.read(stage / "notebooks" / "small.ipynb", as_version=4).cells
    assert cells[0].source.startswith("# A small page\n\n:::{div} page-header\n- **Preset**")
    assert cells[1:] == nbformat.read(stage / "executed" / "small.ipynb", as_version=4).cells[1:]
    made = stage / "book"
    claims = (made / "claims.md").read_text()
    assert claims.startswith("# Claims ledger")
    assert "`.venv/bin/saerepgeo run small -p n 3`" in claims
    assert "#first-figure" in (made / "figures.md").read_text() and (made / "welcome.md").is_file()
    terms = (made / "assets" / "glossary_terms.js").read_text()
    assert terms == 'const companionTerms = {"rank": "A number."};\n'

    record = small_record()  # a claim without a finding stops the build before it is rendered
    record["claims"] = record["claims"][:1]
    other = shutil.copytree(stage / "executed", stage.with_name("other") / "executed").parent
    (other / "executed" / "small.record.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"'own' of data/paper_claims\.json has no finding"):
        book.stage_book(root, other, ["notebooks/small"])


def test_a_book_that_cannot_be_rendered_leaves_the_last_one(tmp_path):
    html, stage = tmp_path / "_build" / "html", tmp_path / "stage"
    html.mkdir(parents=True)
    (html / "index.html").write_text("the last good one")
    stage.mkdir()
    (stage / "_config.yml").write_text("title: small")
    (stage / "_toc.yml").write_text("format: jb-book\nroot: absent")
    with pytest.raises(UserError, match="refused to build"):
        book.render_book(stage, ["absent"], tmp_path)
    assert (html / "index.html").read_text() == "the last good one"
    assert [path.name for path in html.parent.iterdir()] == ["html"]
    (stage / "absent.md").write_text("# Here\n")
    (html / "left.html").touch()
    assert book.render_book(stage, ["absent"], tmp_path) == html / "index.html"
    assert (html / "index.html").read_text() != "the last good one"
    assert not (html / "left.html").exists()
    with pytest.raises(UserError, match="missing from the built book: more"):
        book._check_html(html, ["absent", "more"])
    (html / "absent.html").write_text('<script async src="https://cdn.example/x.js"></script>')
    with pytest.raises(UserError, match=r"foreign addresses: https://cdn\.example/x\.js"):
        book._check_html(html, ["absent"])


def test_the_zip_is_the_same_for_the_same_pages_and_one_command_makes_it(
    tmp_path, monkeypatch, capsys
):
    for name in ("one", "two"):
        html = tmp_path / name
        (html / "sub").mkdir(parents=True)
        files = {"sub/a.html": "a", "index.html": "<p>", ".buildinfo": "hidden"}
        for path, text in files.items() if name == "one" else reversed(files.items()):
            (html / path).write_text(text)
    os.utime(html / "index.html", (1, 1))
    (html / "index.html").chmod(0o600)
    one = book.zip_book(tmp_path / "one", tmp_path / "one.zip").read_bytes()
    assert book.zip_book(html, tmp_path / "two.zip").read_bytes() == one
    with zipfile.ZipFile(tmp_path / "one.zip") as packed:
        assert packed.namelist() == ["saerepgeo-book/index.html", "saerepgeo-book/sub/a.html"]
        packed.extractall(tmp_path / "out")
    assert (tmp_path / "out" / "saerepgeo-book" / "index.html").read_text() == "<p>"
    (html / "index.html").write_text("<p>changed")
    assert book.zip_book(html, tmp_path / "two.zip").read_bytes() != one
    # one command builds the book and packs it
    index = html / "index.html"
    monkeypatch.setattr(book, "build", lambda **options: index)
    assert cli.main(["book"]) == 0
    assert capsys.readouterr().out == f"{index}\n"
    assert cli.main(["book", "--zip"]) == 0
    packed = tmp_path / "saerepgeo-book.zip"
    assert capsys.readouterr().out == f"{index}\n{packed}\n"
    assert packed.read_bytes() == (tmp_path / "two.zip").read_bytes()
