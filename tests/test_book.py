"""Staging of the book, and its ZIP."""

import json
import os
import zipfile

import nbformat
import pytest
from nbformat.v4 import new_notebook
from small_pages import CLAIMS, small_cells, small_record, small_sweep

from saerepgeo_lib import book, cli, ledger, page_header
from saerepgeo_lib.book_zip import zip_book
from saerepgeo_lib.errors import UserError


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A project with one notebook, and a stage that holds it executed."""
    monkeypatch.setattr(ledger, "paper_claims", lambda: CLAIMS)
    monkeypatch.setattr(page_header, "paper_claims", lambda: CLAIMS)
    monkeypatch.setattr(book, "read_claims", lambda path: small_sweep())
    root, stage = tmp_path / "root", tmp_path / "stage"
    for folder in (root / "notebooks", root / "book", stage / "executed"):
        folder.mkdir(parents=True)
    (root / "notebooks" / "small.py").write_text(
        "# %% [markdown]\n# # A small page\n\n# %% tags=['parameters']\nn: int = 2  # a\n"
    )
    (root / "_toc.yml").write_text("root: book/welcome")
    (root / "_config.yml").write_text("title: small")
    (root / "book" / "welcome.md").write_text("# Welcome")
    (root / "book" / "assets").mkdir()
    (root / "book" / "glossary.md").write_text("```{glossary}\nrank\n  A number.\n```\n")
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
    claims = (stage / "book" / "claims.md").read_text()
    assert (
        claims.startswith("# Claims ledger") and "`.venv/bin/saerepgeo run small -p n 3`" in claims
    )
    assert "#first-figure" in (stage / "book" / "figures.md").read_text()
    assert (stage / "book" / "welcome.md").is_file()
    terms = (stage / "book" / "assets" / "glossary_terms.js").read_text()
    assert terms == 'const companionTerms = {"rank": "A number."};\n'


def test_a_claim_without_a_record_stops_the_build_before_anything_is_rendered(places):
    root, stage = places
    record = small_record()
    record["claims"] = record["claims"][:1]
    (stage / "executed" / "small.record.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"'own' of data/paper_claims\.json has no finding"):
        book.stage_book(root, stage, ["notebooks/small"])


def test_a_book_that_cannot_be_rendered_leaves_the_last_one(tmp_path):
    html, stage = tmp_path / "_build" / "html", tmp_path / "stage"
    html.mkdir(parents=True)
    (html / "index.html").write_text("the last good one")
    stage.mkdir()
    (stage / "_config.yml").write_text("title: small")
    (stage / "_toc.yml").write_text("format: jb-book\nroot: absent")
    with pytest.raises(UserError, match="refused to build"):
        book._render(stage, ["absent"], tmp_path)
    (stage / "absent.md").write_text("# Here\n")
    with pytest.raises(UserError, match="missing from the built book: more"):
        book._render(stage, ["absent", "more"], tmp_path)
    assert (html / "index.html").read_text() == "the last good one"
    assert [path.name for path in html.parent.iterdir() if path.name.startswith("html")] == ["html"]
    book._render(stage, ["absent"], tmp_path)
    assert (html / "absent.html").is_file() and not (html.parent / "html.last").exists()


def test_the_zip_is_the_same_for_the_same_pages(tmp_path):
    for name in ("one", "two"):
        html = tmp_path / name
        (html / "sub").mkdir(parents=True)
        files = {"sub/a.html": "a", "index.html": "<p>", ".buildinfo": "hidden"}
        for path, text in files.items() if name == "one" else reversed(files.items()):
            (html / path).write_text(text)
    os.utime(html / "index.html", (1, 1))
    (html / "index.html").chmod(0o600)
    one = zip_book(tmp_path / "one", tmp_path / "one.zip").read_bytes()
    assert zip_book(html, tmp_path / "two.zip").read_bytes() == one
    with zipfile.ZipFile(tmp_path / "one.zip") as packed:
        assert packed.namelist() == ["saerepgeo-book/index.html", "saerepgeo-book/sub/a.html"]
        packed.extractall(tmp_path / "out")
    assert (tmp_path / "out" / "saerepgeo-book" / "index.html").read_text() == "<p>"
    (html / "index.html").write_text("<p>changed")
    assert zip_book(html, tmp_path / "two.zip").read_bytes() != one


def test_one_command_builds_the_book_and_packs_it(tmp_path, monkeypatch, capsys):
    index = tmp_path / "_build" / "html" / "index.html"
    index.parent.mkdir(parents=True)
    index.write_text("<p>")
    monkeypatch.setattr(book, "build", lambda **options: index)
    assert cli.main(["book"]) == 0
    assert capsys.readouterr().out == f"{index}\n"
    assert cli.main(["book", "--zip"]) == 0
    packed = index.parent.parent / "saerepgeo-book.zip"
    assert capsys.readouterr().out == f"{index}\n{packed}\n"
    assert zipfile.ZipFile(packed).namelist() == ["saerepgeo-book/index.html"]
