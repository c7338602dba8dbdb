"""House style of the figures. Figures receive results and compute nothing but positions."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl

# Okabe and Ito's colours, which the colour-blind can tell apart; line widths and markers
# carry the same distinction for print without colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8a6d00")
BLUE, ORANGE, GREEN, PINK = COLOURS[:4]
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
NULL_COLOUR = "#444444"


def style() -> None:
    """House style: opaque white background, readable at phone width. Call once a notebook."""
    mpl.rcParams.update(
        {
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "figure.dpi": 110,
            "font.size": 11,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.frameon": False,
            "figure.constrained_layout.use": True,
        }
    )


def looks_of(labels: Sequence[str], *, null: str | None = None) -> dict[str, dict[str, Any]]:
    """Colour and marker of each label, in order; the `null` label is dark grey."""
    looks = {}
    for i, label in enumerate(labels):
        colour = NULL_COLOUR if label == null else COLOURS[i % len(COLOURS)]
        looks[label] = {"color": colour, "marker": MARKERS[i % len(MARKERS)]}
    return looks
