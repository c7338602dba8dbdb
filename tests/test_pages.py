"""Pages: headings and commands, the box under a title, the index of figures, the glossary."""

import re
from pathlib import Path

import pytest
from refusals import refused
from small_pages import CLAIMS, drawing, small_cells, small_page, small_record

from saerepgeo_lib.companion import ledger
from saerepgeo_lib.companion.pages import figure_index, read_page, read_terms, render, rerun_command
from saerepgeo_lib.companion.repository import Repository
from saerepgeo_lib.errors import UserError

GLOSSARY = Path(__file__).resolve().parent.parent / "book" / "glossary.md"
FRAMES = '<div class="frames" role="group" aria-label="level">\n<img alt="a">\n</div>'


def header(page, repository=None, claims=()):
    return render("header", page=page, repository=repository, claims=claims)


def test_headings_are_not_looked_for_in_code_and_a_page_needs_one():
    assert small_page().headings == ["A small page", "Verdict", "Why: a verdict?"]
    with pytest.raises(UserError, match="'small' has no title: begin it"):
        _ = small_page(cells=small_cells()[2:]).headings


def test_the_command_names_only_what_is_not_default(tmp_path):
    source = tmp_path / "page.py"
    source.write_text(
        "# %% [markdown]\n# # Page\n\n# %% tags=['parameters']\nn: int = 3  # a\n"
        "x: float = 1  # b\nname: str = 'a b'  # c\nlevels: list[float] = [0]  # d\n"
    )
    values = {"n": 3, "x": 1.0, "name": "a b", "levels": [0.0]}
    assert rerun_command(source, values) == ".venv/bin/saerepgeo run page"
    changed = values | {"n": 4, "name": "two words", "levels": [0, 0.5]}
    assert rerun_command(source, changed) == (
        ".venv/bin/saerepgeo run page -p n 4 -p name 'two words' -p levels '[0, 0.5]'"
    )
    refused("no such file", read_page, tmp_path / "page.ipynb", source)


def test_the_box_states_what_the_record_holds():
    assert header(small_page()).splitlines() == [
        ":::{div} page-header",
        "- **Preset**: `tiny` (A, B\\_1 at `h.1`); months, days",
        "- **Time and memory** of this run: 1 min 5 s in its timed stages, besides imports; at "
        "most 2.0 GiB of main memory; device cpu",
        "- **On a Colab GPU**: not measured",
        "- **Download**: [executed notebook](path:../executed/small.ipynb) · "
        "[its record](path:../executed/small.record.json)",
        ":::",
    ]


def test_what_the_record_does_not_state_is_left_out():
    record = small_record()
    record["parameters"], record["run"]["stages"] = {"n": 3}, {}
    text = header(small_page(record))
    assert "Preset" not in text and "no stage was timed" in text and "Download" in text
    record["run"]["stages"] = {"one": {"seconds": 0.2, "process_peak_mib": 700}}
    record["parameters"] = {"preset": "RELEASE:ID", "model_name": "my/model", "concept": "days"}
    record["numbers"] = {}
    text = header(small_page(record))
    assert "1 s in its timed stages, besides imports; at most 700 MiB" in text
    assert "- **Preset**: `RELEASE:ID`; model `my/model`; days\n" in text


def test_the_source_is_linked_and_what_was_found_stands_below_the_box(monkeypatch):
    text = header(small_page(), Repository("https://github.com/a/b", "trunk"))
    assert "[source](https://github.com/a/b/blob/trunk/notebooks/small.py)" in text
    assert "](https://colab.research.google.com/github/a/b/blob/trunk/" in text
    monkeypatch.setattr(ledger, "paper_claims", lambda: CLAIMS)
    record = small_record()
    record["run"]["device"] = "cuda"
    page = small_page(record)
    text = header(page, claims=ledger.found_on(page))
    assert "Colab" not in text and "It is more" not in text  # a GPU needs no guess
    row = "- [It rises](#claim-up): *A*: holds in 2 of 3; cannot be tested"
    assert row in text.split(":::{admonition} Found on this page\n")[1]


def test_a_figure_leads_to_its_page_record_and_command_unless_it_was_not_drawn():
    text = figure_index([small_page(), small_page(cells=small_cells()[:2], name="bare")])
    assert "## A small page\n\n[The page](../notebooks/small.ipynb) · " in text
    record = "[record](path:../executed/small.record.json)"
    assert f"{record} · rerun: `.venv/bin/saerepgeo run small`\n" in text
    assert "- [It rises by 0.5 per cent.](#first-figure)\n" in text
    assert "skipped-figure" not in text and "bare" not in text
    # figures with a control are marked, and a caption may have no end
    cells = [
        drawing(name, "A walk; r > 1\n it moves", **{"text/html": html})
        for name, html in (("walk", FRAMES), ("table", "<table class='frames'>"))
    ]
    text = figure_index([small_page(cells=[*small_cells(), *cells])])
    assert "- [A walk; r > 1 it moves](#walk) (with a control)\n" in text and "#table" not in text
    second = small_page(cells=[*small_cells()[:1], drawing("first-figure", "x")], name="b")
    refused("'first-figure' is used in 'small' and in 'b'", figure_index, [small_page(), second])


def test_terms_and_definitions_are_read_and_a_faulty_glossary_is_refused():
    page = '# G\n\n```{glossary}\none\n  A first\n  line.\n\ntwo words\n  "B"\n```\ntext\n'
    assert read_terms(page) == {"one": "A first line.", "two words": '"B"'}
    for text, reason in (("one\n", "does not define 'one'"), ("a\n  x\n\na\n  y\n", "'a' twice")):
        refused(reason, read_terms, f"```{{glossary}}\n{text}```\n")


def test_definitions_are_plain_text_that_a_tooltip_can_hold():
    terms = read_terms(GLOSSARY.read_text(encoding="utf-8"))
    assert {"stratified", "AEDP", "rho*", "record"} <= set(terms)
    for definition in terms.values():
        assert not re.search(r"[`$\[\]{}]", definition) and len(definition) < 250
        assert definition.endswith(".")
