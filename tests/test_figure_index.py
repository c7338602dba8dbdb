"""The index of figures."""

import pytest
from nbformat.v4 import new_output
from small_pages import drawing, image, small_cells, small_page

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.figure_index import figure_index, first_sentence

FRAMES = '<div class="frames" role="group" aria-label="level">\n<img alt="a">\n</div>'


def test_a_figure_leads_to_its_page_record_and_command():
    text = figure_index([small_page()])
    assert "## A small page\n\n[The page](../notebooks/small.ipynb) · " in text
    assert (
        "[record](path:../executed/small.record.json) · rerun: `.venv/bin/saerepgeo run small`"
        in text
    )
    assert "- [It rises by 0.5 per cent.](#first-figure)\n" in text


def test_what_was_not_drawn_and_pages_without_figures_are_left_out():
    text = figure_index([small_page(), small_page(cells=small_cells()[:2], name="bare")])
    assert "skipped-figure" not in text and "bare" not in text


def test_figures_with_a_control_are_marked():
    cells = [
        drawing(name, "A walk. It moves.", new_output("display_data", {"text/html": text}))
        for name, text in (("walk", FRAMES), ("table", "<table class='frames'>"))
    ]
    text = figure_index([small_page(cells=[*small_cells(), *cells])])
    assert "- [A walk.](#walk) (with a control)\n" in text and "#table" not in text


def test_a_name_used_twice_is_refused():
    second = small_page(cells=[*small_cells()[:1], drawing("first-figure", "x", image())], name="b")
    with pytest.raises(UserError, match="'first-figure' is used in 'small' and in 'b'"):
        figure_index([small_page(), second])


def test_first_sentences():
    assert first_sentence("Edge at 0.5; r > 1.\nMore.") == "Edge at 0.5; r > 1."
    assert first_sentence("No end") == "No end"
