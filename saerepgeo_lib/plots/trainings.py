"""Figures of many trainings: how far each autoencoder shrinks, and what only training brings."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator, PercentFormatter

from saerepgeo_lib.plots import panels
from saerepgeo_lib.plots.style import BLUE, NULL_COLOUR, ORANGE, looks_of

_GROUPS = {
    "sparse autoencoders": {"color": BLUE, "marker": "o"},
    "nulls": {"color": NULL_COLOUR, "marker": "D"},
}


def plot_by_label(table: pd.DataFrame, xlabel: str, *, repeat: float = 0) -> Figure:
    """A share and its interval by label, a look per group; further rows stand `repeat` below."""
    height = 0.7 + 0.3 * table["label"].nunique()
    figure, (ax,) = panels.axes_grid(1, height=height)
    panels.forest_of(ax, table, row="label", by="group", looks=_GROUPS, gap=0, repeat=repeat,
                     line=0)  # fmt: skip
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set_xlabel(xlabel)
    panels.legend_below(figure, _GROUPS, ls="none")
    return figure


def plot_by_sparsity(trainings: pd.DataFrame) -> Figure:
    """rho* - 1 on held-out text against L0: a colour per kind, a line per block."""
    figure, (ax,) = panels.axes_grid(1, height=3.4)
    looks = {"L1-ReLU SAE": ("standard", ORANGE), "TopK SAE": ("topk", BLUE)}
    for label, (kind, colour) in looks.items():
        for block, ls in zip(sorted(trainings["block"].unique()), (":", "--", "-"), strict=False):
            same = (trainings["kind"] == kind) & (trainings["block"] == block)
            rows = trainings[same].sort_values("L0")
            look = {"color": colour, "marker": "o"}
            name = f"{label}, block {block}"
            panels.profile(ax, rows["L0"].to_numpy(), rows["value"], look=look, ls=ls, label=name)
    ax.set(xscale="log", xlabel="active latents per token (L0)", ylabel="rho* minus 1")
    ticks = [10, 20, 40, 80]
    ax.set_xticks(ticks, map(str, ticks))
    ax.set_xticks([], minor=True)
    ax.yaxis.set_major_locator(MultipleLocator(0.05))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.axhline(0, color="0.6", lw=1, zorder=0)
    figure.legend(fontsize=9, loc="outside lower center", ncols=2)
    return figure


def plot_curve(trainings: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """FVU on the concepts' tokens against training samples, a line per size of the text."""
    ax = panels.own_axes(ax, height=2.6)
    groups = {f"{n:,} passages": rows for n, rows in trainings.groupby("passages")}
    for (label, rows), look in zip(groups.items(), looks_of(groups).values(), strict=True):
        rows = rows.sort_values("samples")
        panels.profile(ax, rows["samples"].to_numpy(), rows["content"], look=look, label=label)
    ax.set(
        xscale="log",
        xlabel="training samples (tokens, with repetition)",
        ylabel="FVU, concepts' tokens",
    )
    ax.legend(fontsize=9)
    return ax
