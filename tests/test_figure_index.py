"""The index of figures."""

import pytest
from nbformat.v4 import new_code_cell, new_output
from small_pages import drawing, image, small_cells, small_page

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.figure_index import figure_index, first_sentence

FRAMES = """<p>before</p><figure class="dark-light frames" id="cone-walk"><img alt="a">
<figcaption>A walk in the <em>cone</em>.
It moves.</figcaption></figure><figure id="other"><figcaption>Not this.</figcaption></figure>"""


def test_a_figure_leads_to_its_page_record_and_command():
    text = figure_index([small_page()])
    assert "## A small page\n\n[The page](../notebooks/small.ipynb) · " in text
    assert "[record](path:../executed/small.record.json) · rerun: `saerepgeo run small`" in text
    assert "- [It rises by 0.5 per cent.](#first-figure)\n" in text


def test_what_was_not_drawn_and_pages_without_figures_are_left_out():
    text = figure_index([small_page(), small_page(cells=small_cells()[:2], name="bare")])
    assert "skipped-figure" not in text and "bare" not in text


def test_interactive_figures_are_listed_by_their_id():
    cell = new_code_cell("show()", outputs=[new_output("display_data", {"text/html": FRAMES})])
    text = figure_index([small_page(cells=[*small_cells(), cell])])
    assert (
        '- <a href="../notebooks/small.html#cone-walk">A walk in the cone.</a> (interactive)\n'
        in text
    )
    assert "Not this" not in text and "#other" not in text


def test_a_name_used_twice_is_refused():
    second = small_page(cells=[*small_cells()[:1], drawing("first-figure", "x", image())], name="b")
    with pytest.raises(UserError, match="'first-figure' is used in 'small' and in 'b'"):
        figure_index([small_page(), second])


def test_first_sentences():
    assert first_sentence("Edge at 0.5; r > 1.\nMore.") == "Edge at 0.5; r > 1."
    assert first_sentence("No end") == "No end"
