"""House style of the figures, and one look per representation through the whole book."""

import copy
import functools
import itertools
import sys
from collections.abc import Iterable
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.font_manager import FontProperties, findfont, get_font
from pandas.io.formats.style import Styler

from saerepgeo_lib.text import in_html, shortened

# Okabe and Ito's colours, which the colour-blind can tell apart; line widths and markers
# carry the same distinction for print without colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8a6d00")
BLUE, ORANGE, GREEN, PINK, YELLOW, SKY, OLIVE = COLOURS
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
NULL_COLOUR = "#444444"
_REPRESENTATIONS = {
    "residual": (NULL_COLOUR, "o"),
    "TopK SAE": (BLUE, "s"),
    "L1-ReLU SAE": (ORANGE, "^"),
    "dense AE": (GREEN, "D"),
    "random TopK SAE": (SKY, "v"),
    "random L1-ReLU SAE": (YELLOW, "P"),
    "permuted TopK SAE": (PINK, "X"),
    "permuted L1-ReLU SAE": (OLIVE, "*"),
    "random dense AE": ("#999999", "p"),
}


def house_style() -> None:
    """House style: opaque white background, readable at phone width. Call once per notebook."""
    mpl.rc("figure", facecolor="white", dpi=110)
    mpl.rc("savefig", facecolor="white")
    mpl.rc("font", size=11)
    mpl.rc("axes.spines", top=False, right=False)
    mpl.rc("legend", frameon=False)
    mpl.rc("figure.constrained_layout", use=True)
    pd.set_option("display.html.use_mathjax", False, "styler.html.mathjax", False)
    if (ipython := sys.modules.get("IPython")) and (shell := ipython.get_ipython()):
        shell.display_formatter.formatters["text/html"].for_type(Styler, table_html)


def table_html(table: Styler) -> str:
    """A table's HTML, its texts and names escaped (pandas' own does so only where it is asked)."""
    safe = copy.deepcopy(table)
    data = table.data.map(in_html)  # type: ignore[attr-defined]
    data = data.rename(index=in_html, columns=in_html)
    data = data.rename_axis(index=in_html, columns=in_html)
    safe.data, safe.caption = data, in_html(table.caption)  # type: ignore[attr-defined]
    return safe.to_html()


def in_figure(name: str, length: int = 78) -> str:
    """A name as a figure shows it: no formula, no entry that a legend skips, not too long.

    Characters that the font cannot draw become their code point, "U+1F600"; set
    `matplotlib.rcParams["font.family"]` to a list of fonts to have them drawn.
    """
    known = _characters(tuple(mpl.rcParams["font.family"]))
    name = "".join(c if c.isspace() or ord(c) in known else f"U+{ord(c):04X}" for c in str(name))
    name = shortened(name, length)
    return (" " * name.startswith("_") + name).replace("$", r"\$")


@functools.cache
def _characters(families: tuple[str, ...]) -> set[int]:
    """What these fonts, or those that stand in for them, can draw."""
    return set().union(
        *(get_font(findfont(FontProperties(family=[f]))).get_charmap() for f in families)
    )


def looks_of(labels: Iterable[str], *, null: str | None = None) -> dict[str, dict[str, Any]]:
    """Colour and marker of each label.

    Representations that the book knows have the same look in every figure; any other label
    (concepts, seeds, an SAE of one's own) has the next one in order, the `null` label dark grey.
    """
    order = itertools.cycle(zip(COLOURS, MARKERS, strict=True))
    looks = {}
    for label in dict.fromkeys(labels):
        known = _REPRESENTATIONS.get(label)
        colour, marker = known or next(order)
        colour = NULL_COLOUR if label == null and not known else colour
        looks[label] = {"color": colour, "marker": marker}
    return looks
