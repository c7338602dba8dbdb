"""Figures of the calibration, of the rank rule's ablation, and of local dimension."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from saerepgeo_lib.geometry.local_dimension import SMALLEST
from saerepgeo_lib.plots import panels
from saerepgeo_lib.plots.style import BLUE, COLOURS, NULL_COLOUR, ORANGE, looks_of
from saerepgeo_lib.synthetic.ablation import CONTRASTS, SHAPES, strata_and_twins

_EXCESS = "excess spread of log dimension"
_TRUTHS = {"smooth": NULL_COLOUR, "several dimensions": ORANGE, "singular": BLUE}


def plot_bias(
    table: pd.DataFrame, good: "pd.Series[bool]", *, row: str, column: str, by: Sequence[str]
) -> Figure:
    """Bias in percent of the truth, a panel per value of `by`; a frame where it is trusted.

    Purple: too high, orange: too low; the colour saturates at 100 %.
    """
    groups = list(table.assign(good=good).groupby(list(by), sort=False))
    titles = [
        ", ".join(v if isinstance(v, str) else f"{n} {v:g}" for n, v in zip(by, key, strict=True))
        for key, _ in groups
    ]
    height = 1.0 + 0.36 * table[row].nunique()
    figure, axes = panels.axes_grid(titles, height=height, extra=0.3)
    shades = mpl.colormaps["PuOr"].with_extremes(bad="white")
    for ax, (_, cases) in zip(axes, groups, strict=True):
        bias = 100 * cases.pivot(index=row, columns=column, values="bias")
        framed = cases.pivot(index=row, columns=column, values="good").fillna(False)
        texts = bias.map(lambda v: "–" if v != v else f"{v:+.0f}" if abs(v) >= 0.5 else "0")
        colours = shades(0.5 + 0.0045 * bias.clip(-100, 100).to_numpy())
        panels.cells(ax, texts.to_numpy(), colours, framed.to_numpy(dtype=bool))
        ax.set_xticks(range(bias.shape[1]), [f"{value:g}" for value in bias.columns])
        ax.set_yticks(range(bias.shape[0]), [f"{value:g}" for value in bias.index])
        ax.set(xlabel=column, ylabel=row)
    return figure


def plot_planted(sets: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Planted sets on their two leading principal directions, coloured by local dimension."""
    figure, axes = panels.axes_grid(sets, height=2.95, size=11, sharex=True, sharey=True)
    dimensions = np.unique(np.concatenate([known for _, known in sets.values()]))
    looks = looks_of(f"dimension {d}" for d in dimensions)
    for ax, (points, known) in zip(axes, sets.values(), strict=True):
        centred = points - points.mean(axis=0)
        plane = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
        panels.map_of(ax, plane, {f"dimension {d}": known == d for d in dimensions}, looks)
        ax.set_aspect("equal")
    panels.legend_below(figure, looks, columns=3, ls="none")
    return figure


def plot_rocs(table: pd.DataFrame, representation: str, scores: Sequence[str]) -> Figure:
    """ROC curves of a representation: a row per contrast, a column per shape, a line per score."""
    table = table[table["representation"] == representation]
    cases = [*product(CONTRASTS, SHAPES)]
    titles = [f"{shape}, {contrast}" for contrast, shape in cases]
    figure, axes = panels.axes_grid(titles, height=2.5, extra=0.8, sharex=True, sharey=True)
    dashes = ("-", "--", "-.", ":") * 2
    looks: dict[str, Any] = {
        score: {"color": colour, "ls": ls, "lw": 2}
        for score, colour, ls in zip(scores, COLOURS, dashes, strict=False)
    }
    for ax, (contrast, shape) in zip(axes, cases, strict=True):
        for score, look in looks.items():
            strata, smooth = strata_and_twins(table[table["score"] == score], shape, contrast)
            truth = np.repeat([1, 0], [len(strata), len(smooth)])
            false, true, _ = roc_curve(truth, [*strata, *smooth], drop_intermediate=False)
            ax.plot(false, true, **look)
        ax.plot([0, 1], [0, 1], color="0.7", lw=1)
        ax.set_aspect("equal")
        ax.set_xlabel("smooth data mistaken" if ax in axes[-2:] else "")
    figure.supylabel("strata found", fontsize=11)
    panels.legend_below(figure, looks)
    return figure


def plot_planted_excess(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """The excess of every draw by family, coloured by what is so; external families are open."""
    names = list(dict.fromkeys(table.sort_values("truth", kind="stable")["family"]))
    ax = panels.own_axes(ax, height=0.8 + 0.21 * len(names))
    for (truth, origin), part in table.groupby(["truth", "origin"]):
        colour = _TRUTHS[str(truth)]
        face, label = colour if origin == "ours" else "none", f"{truth}, {origin}"
        rows = part["family"].map(names.index)
        ax.plot(part["value"], rows, "o", ms=5, color=colour, mfc=face, label=label)
    panels.named_rows(ax, names, length=34)
    ax.axvline(SMALLEST, color="black", lw=1, zorder=0)
    ax.set_xlabel(_EXCESS)
    ax.legend(fontsize=9, loc="lower right")
    return ax


def plot_text_dimension(table: pd.DataFrame) -> Figure:
    """The excess with its interval by null, a look per representation."""
    table = table.dropna(subset=["value"])
    looks = looks_of(dict.fromkeys(table["representation"]))
    figure, (ax,) = panels.axes_grid(1, height=2.2, extra=0.6)
    panels.forest_of(ax, table, row="null", by="representation", looks=looks, gap=0.14,
                     line=0)  # fmt: skip
    ax.set_xlabel(_EXCESS)
    panels.legend_below(figure, looks, ls="none")
    return figure
