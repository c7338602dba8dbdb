"""Names that are text: concepts, entities and labels with the signs of every language they meet."""

import html
import io
import json
import warnings

import nbformat
import numpy as np
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from markdown_it import MarkdownIt
from refusals import refused
from run_page import SMALL, run_page
from test_runs import run

from saerepgeo_lib.activations.prompts import load_concept, load_concepts
from saerepgeo_lib.plots import frames, panels, structure
from saerepgeo_lib.plots.style import house_style, in_figure, table_html
from saerepgeo_lib.text import code, plain

SCRIPT = "</div><script>alert(1)</script>"
LONG = "x" * 150 + " " + "y" * 149
NAMES = ["$_$", SCRIPT, LONG, "a: b", "*", "a|b", "`x` ``", "_x_", "😀 月", "{}", "{0}", "a\\$b$",
         "%s", "[a](b)", "&lt;b&gt;", "\"'", "\\", "#1", "~~x~~", "http://a.b", "![a](b)", "<!--",
         "1. x", "é́", "\u202eabc", "$$", "\\frac{"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_markdown_says_a_name_as_it_is(name):
    words = " ".join(name.split())
    parser = MarkdownIt("js-default").enable(["table", "strikethrough"])
    escaped = html.escape(words, quote=False).replace('"', "&quot;")
    assert parser.renderInline(f"a **{plain(name)}**") == f"a <strong>{escaped}</strong>"
    (inline,) = [t for t in parser.parse(f"in {code(name)} code") if t.children]
    assert [t.content for t in inline.children] == ["in ", words, " code"]
    table = parser.render(f"| a | b |\n| --- | --- |\n| {plain(name)} | c |")
    assert table.count("<td>") == 2


def test_tables_escape_texts_everywhere_and_change_nothing_else():
    frame = pd.DataFrame({SCRIPT: [SCRIPT, None], "v": [1.25, np.nan]}, index=[SCRIPT, "b"])
    frame = frame.rename_axis(index=SCRIPT)
    tables = [
        frame.style.format({"v": "{:.1f}"}, na_rep="–").set_caption(SCRIPT),
        frame.set_index(SCRIPT, append=True).style.format(precision=1), frame.T.style,
        frame.style.format(na_rep="–").hide(axis="index"),
        frame.reset_index(drop=True).pivot_table("v", columns=SCRIPT).style.format_index("n {}"),
    ]  # fmt: skip
    for table in tables:
        assert "<script" not in table_html(table) and "&lt;script" in table_html(table)
    assert "<td" in table_html(tables[0]) and ">1.2<" in table_html(tables[0])
    harmless = pd.DataFrame({"a": ["x", "y"], "b": [1, 2.5]}).style.format(precision=1)
    harmless = harmless.set_uuid("t").hide(axis="index").set_caption("of")
    assert table_html(harmless) == harmless.to_html()


def test_in_a_notebook_every_table_is_shown_escaped():
    shell = InteractiveShell.instance()
    try:
        house_style()
        for value in (table := pd.DataFrame({"a": [SCRIPT]})).style, table:
            shown, _ = shell.display_formatter.format(value)
            assert "<script>alert" not in shown["text/html"]
            assert "tex2jax_ignore" in shown["text/html"]
    finally:
        InteractiveShell.clear_instance()


def drawn(figure):
    """A figure rendered without a warning: its texts, and the smallest panel's share of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(io.BytesIO(), format="png", dpi=40)
    boxes = [ax.get_position() for ax in figure.axes if ax.get_visible()]
    return min(min(box.width, box.height) for box in boxes)


@pytest.mark.parametrize("name", [*NAMES, "two\nlines", "tab\t"])
def test_figures_show_a_name_whatever_it_is(name):
    names = [name, "other"]
    figure, axes = panels.axes_grid(names, height=3)
    looks = {n: {"color": "k"} for n in names}
    table = pd.DataFrame({"row": names, "by": names, "value": 1.0, "low": 0.0, "high": 2.0})
    panels.forest_of(axes[0], table, row="row", by="by", gap=0.1, looks=looks)
    panels.legend_below(figure, looks)
    assert drawn(figure) > 0.15
    ax = panels.profile(panels.own_axes(None), np.arange(2), np.arange(2), look={}, label=name)
    legend = ax.set_title(in_figure(name)).axes.legend(fontsize=8)
    assert drawn(ax.figure) > 0.6
    assert len(legend.get_texts()) == 1 and len(figure.legends[0].get_texts()) == 2
    if len(name) < 20 and name.isascii() and name.isprintable():
        assert figure.legends[0].get_texts()[0].get_text().strip().replace(r"\$", "$") == name
    shown = frames.frames(
        (frames.Frame(panels.axes_grid([n])[0], n, n) for n in names), control=name, shows=name
    )
    assert "<script>alert" not in shown.data


def test_long_names_keep_both_ends_and_short_ones_are_as_they_are():
    assert in_figure("months: order 0.93", 39) == "months: order 0.93"
    assert len(in_figure(LONG, 39)) == 39
    assert in_figure(LONG + ": order 0.93", 39).endswith("y: order 0.93")
    assert len(in_figure("😀" * 90, 20)) == 20 and in_figure("月") == "U+6708"


def test_entities_are_drawn_whatever_they_are():
    names = ["$_$", "_x", "月", "\n", SCRIPT]
    circle = structure.Circle(np.eye(5)[:, :2], np.eye(5)[:, :2], 0.9, 0.1)
    assert drawn(structure.plot_entities({"$_$": circle}, np.arange(5), names)) > 0.3


@pytest.mark.parametrize(
    "name", ["com,ma", "two\nlines", " edge", "edge ", "", "a  b", "a\tb", "all"]
)
def test_names_that_no_list_can_carry_are_refused(name, tmp_path):
    path = tmp_path / "concepts.json"
    path.write_text(json.dumps({"good": ["x"], name: ["A sentence."]}))
    refused(r"concepts.json: .* is no name of a concept: one line", load_concepts, path)


FRAMES = ("Yesterday the old {} fell from the shelf.", "Nobody lent the heavy {} to him.",
          "A rusty {} was buried below the shed.")  # fmt: skip


@pytest.fixture
def prompts(tmp_path):
    """A concept file whose concepts have such names, and such entities."""
    words = ["hammer", "saw", "$_$", "<b>drill</b>", "*chisel*", "|", "`wrench`", "clamp {x}"]
    entities = [
        {"text": f.replace("{}", word), "entity": word, "frame": f}
        for word in words
        for f in FRAMES
    ]
    content = {"$_$": entities, SCRIPT: entities, LONG: entities, "a: b": entities}
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(content))
    for name in content:
        assert load_concept(name, path).name == name
    return str(path)


def raw(text):
    return "<script>alert" in text or "<b>drill" in text


@pytest.mark.slow
def test_a_run_shows_such_names_as_text(prompts, tmp_path, unchecked):
    """In a kernel: no output has raw HTML or an error, and the numbers bear the concepts' names."""
    given = {"preset": "minilm", "prompts_file": prompts, "concept": f"$_$,{SCRIPT}, a: b",
             "n_seeds": 2, "noise_levels": [0, 1], "max_slots": 1}  # fmt: skip
    assert run("stratified_manifold", tmp_path / "o", **given) == 0
    (path,) = (tmp_path / "o").glob("*/*.ipynb")
    outputs = [o for c in nbformat.read(path, 4).cells for o in c.get("outputs", [])]
    data = [(kind, text) for o in outputs for kind, text in o.get("data", {}).items()]
    assert not [o for o in outputs if o["output_type"] in ("stream", "error")]
    assert not [text for kind, text in data if kind == "text/html" and raw(text)]
    said = "\n".join(text for kind, text in data if kind == "text/markdown")
    assert r"\$\_\$" in said and not raw(MarkdownIt("commonmark").render(said))
    (record,) = (tmp_path / "o").glob("*/*.record.json")
    claims = json.loads(record.read_text())["claims"]
    assert {c["concept"] for c in claims} == {"$_$", SCRIPT, "a: b"}


@pytest.mark.slow
@pytest.mark.parametrize("page", ["representation_structure", "intervention"])
def test_the_other_cases_draw_and_say_such_names(page, prompts, tmp_path, unchecked):
    given = SMALL[page] | {
        "min_cluster_size": 3,
        "prompts_file": prompts,
        "concept": f"{SCRIPT},{LONG},$_$",
    }
    shown, record = run_page(page, tmp_path, **given)
    assert {c["concept"] for c in record["claims"]} >= {"$_$", SCRIPT, LONG}
    for value in shown:
        if hasattr(value, "savefig"):
            assert drawn(value) > 0.05
        elif hasattr(value, "_repr_markdown_"):
            assert not raw(MarkdownIt("commonmark").render(value.data))
