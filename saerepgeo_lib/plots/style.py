"""House style of the figures, and one look per representation through the whole book."""

import itertools
from collections.abc import Iterable
from typing import Any

import matplotlib as mpl

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
