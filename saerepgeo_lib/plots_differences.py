"""Figure of the differences: random walks and gradients, judged by two errors."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from saerepgeo_lib.differences import ERROR_ALONE, GW, SEPARATE
from saerepgeo_lib.plots import BLUE, COLOURS, NULL_COLOUR
from saerepgeo_lib.random_walk import MEASURES

_LOOKS: dict[tuple[str, str], dict[str, Any]] = {
    (SEPARATE, "free"): {"marker": "s", "color": COLOURS[1]},
    (SEPARATE, "valid"): {"marker": "s", "color": COLOURS[1], "mfc": "white"},
    (ERROR_ALONE, "free"): {"marker": "^", "color": COLOURS[2]},
    (GW, "free"): {"marker": "D", "color": COLOURS[3]},
}


def plot_procedures(walks: pd.DataFrame, gradients: pd.DataFrame) -> Figure:
    """Error against AEDP (ratios): a row an SAE, a column an error.

    Thin lines are random walks, the filled dot on each its best iterate; the other marks are ends
    of gradient paths. The circle is the unedited code.
    """
    saes = list(dict.fromkeys(walks["SAE"]))
    figure = Figure(figsize=(6.6, 2.6 * len(saes) + 1.1), layout="constrained")
    axes = figure.subplots(len(saes), 2, squeeze=False, sharex=True, sharey=True)
    for row, sae in zip(axes, saes, strict=True):
        for ax, measure in zip(row, MEASURES, strict=True):
            for _, walk in walks[walks["SAE"] == sae].groupby("walk"):
                ax.plot([1, *walk["AEDP"]], [1, *walk[measure]], color=BLUE, lw=1, alpha=0.7)
                best = walk.loc[[walk[measure].idxmin()]]
                ax.plot(best["AEDP"], best[measure], ls="none", marker="o", ms=5, color=BLUE)
            for end in gradients[gradients["SAE"] == sae].to_dict("records"):
                look = _LOOKS[end["procedure"], end["kind"]]
                ax.plot(end["AEDP"], end[measure], ls="none", ms=8, **look)
            ax.axhline(1, color=NULL_COLOUR, lw=0.8, ls=":")
            ax.plot(1, 1, marker="o", ms=7, color="k", mfc="white", zorder=5)
            ax.set_title(f"{sae}: {'z-scored' if measure == 'z-scored' else 'its own'} error",
                         fontsize=10)  # fmt: skip
    for ax in axes[-1]:
        ax.set_xlabel("AEDP over that of the unedited code", fontsize=10)
    figure.supylabel("error over that of the unedited code", fontsize=10)
    handles = [Line2D([], [], color=BLUE, marker="o", ms=5, label="random walk, best iterate")]
    handles += [
        Line2D([], [], ls="none", ms=8, label=f"{name}, {kind}", **look)
        for (name, kind), look in _LOOKS.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=9)
    return figure
