"""Figures of the calibration and of the rank rule's ablation."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from saerepgeo_lib.plots import COLOURS, looks_of


def plot_bias(
    table: pd.DataFrame, good: "pd.Series[bool]", *, row: str, column: str, panels: Sequence[str]
) -> Figure:
    """Bias in percent of the truth, a panel a value of `panels`; a frame where it is trusted.

    Purple: too high, orange: too low; the colour saturates at 100 %.
    """
    marked = table.assign(good=good)
    groups = list(marked.groupby(list(panels), sort=False))
    rows = -(-len(groups) // 2)
    depth = marked[row].nunique()
    figure = Figure(figsize=(6.6, rows * (1.0 + 0.36 * depth) + 0.3), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, 2, squeeze=False)).ravel()
    for ax in axes[len(groups) :]:
        ax.set_visible(False)
    for ax, (key, part) in zip(axes, groups, strict=False):
        bias = part.pivot(index=row, columns=column, values="bias").sort_index(axis=0)
        fine = part.pivot(index=row, columns=column, values="good").reindex_like(bias)
        _annotated(ax, 100 * bias, fine)
        ax.set_xlabel(column, fontsize=10)
        ax.set_ylabel(row, fontsize=10)
        ax.set_title(", ".join(_named(n, k) for n, k in zip(panels, key, strict=True)), fontsize=10)
    return figure


def _named(name: str, value: Any) -> str:
    return str(value) if isinstance(value, str) else f"{name} {value:g}"


def _annotated(ax: Axes, values: pd.DataFrame, framed: pd.DataFrame, *, limit: float = 100) -> None:
    """Signed percentages as coloured cells with their numbers; framed cells are outlined."""
    colours = mpl.colormaps["PuOr"]
    ax.set_xlim(-0.5, values.shape[1] - 0.5)
    ax.set_ylim(values.shape[0] - 0.5, -0.5)
    for (i, j), value in np.ndenumerate(values.to_numpy(dtype=float)):
        missing = not np.isfinite(value)
        share = 0.5 + 0.45 * float(np.clip((0 if missing else value) / limit, -1, 1))
        face = "white" if missing else colours(share)
        ax.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=face, edgecolor="none"))
        dark = abs(share - 0.5) > 0.28
        text = "–" if missing else f"{value:+.0f}" if abs(value) >= 0.5 else "0"
        ax.text(j, i, text, ha="center", va="center", fontsize=10, color="w" if dark else "k")
        if bool(framed.to_numpy()[i, j]):
            box = Rectangle((j - 0.45, i - 0.45), 0.9, 0.9, fill=False, edgecolor="k", lw=1.8)
            ax.add_patch(box)
    ax.set_xticks(range(values.shape[1]), [f"{c}" for c in values.columns], fontsize=10)
    ax.set_yticks(range(values.shape[0]), [f"{r}" for r in values.index], fontsize=10)
    ax.tick_params(length=0)
    for side in ax.spines.values():
        side.set_visible(False)


def plot_false_positives(table: pd.DataFrame, *, level: float, low: float, high: float) -> Figure:
    """Rate of p <= level on null data by test, with 95 % intervals; the accepted band shaded."""
    figure = Figure(figsize=(6.6, 0.42 * len(table) + 1.1), layout="constrained")
    ax = figure.subplots()
    y = np.arange(len(table))
    ax.axvspan(low, high, color="#56B4E9", alpha=0.25, lw=0)
    ax.axvline(level, color="k", lw=1, ls="--")
    widths = [table["rate"] - table["low"], table["high"] - table["rate"]]
    ax.errorbar(table["rate"], y, xerr=widths, fmt="o", color=COLOURS[0], capsize=3)
    ax.set_yticks(y, table["test"], fontsize=10)
    ax.invert_yaxis()
    ax.set_xlim(left=0)
    ax.set_xlabel(f"share of null data with p at most {level:g}")
    return figure


def plot_planted(sets: dict[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Planted sets on their two leading principal directions, coloured by local dimension."""
    figure = Figure(figsize=(6.6, 6.4), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey=True).ravel()
    dimensions = sorted({int(d) for _, known in sets.values() for d in known})
    looks = looks_of([f"{d}" for d in dimensions])
    for ax, (title, (points, known)) in zip(axes, sets.items(), strict=True):
        centred = points - points.mean(axis=0)
        plane = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
        for d in dimensions:
            part = plane[known == d]
            ax.plot(part[:, 0], part[:, 1], ls="none", ms=4, alpha=0.8, **looks[f"{d}"])
        ax.set_title(title, fontsize=11)
        ax.set_aspect("equal")
    handles = [Line2D([], [], ls="none", label=f"dimension {d}", **looks[d]) for d in looks]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=10)
    return figure


def plot_scores(table: pd.DataFrame, score: str, representations: Sequence[str]) -> Figure:
    """One score of every planted set, a dot a set: strata (top) and their smooth twins."""
    figure = Figure(figsize=(6.6, 1.75 * len(representations) + 0.9), layout="constrained")
    axes = np.atleast_1d(figure.subplots(len(representations), 1))
    kinds = list(dict.fromkeys(table["contrast"]))
    names = [kind or "STRATA" for kind in kinds]
    looks = looks_of(list(dict.fromkeys(table["shape"])))
    chosen = table[table["score"] == score]
    for ax, label in zip(axes, representations, strict=True):
        part = chosen[chosen["representation"] == label]
        for k, (shape, look) in enumerate(looks.items()):
            of_shape = part[part["shape"] == shape]
            y = of_shape["contrast"].map(kinds.index) + 0.22 * (k - 0.5)
            ax.plot(of_shape["value"], y, ls="none", ms=6, alpha=0.7, **look)
        ax.set_yticks(range(len(kinds)), names, fontsize=10)
        ax.set_ylim(len(kinds) - 0.5, -0.5)
        ax.set_title(label, fontsize=10, loc="left")
        ax.grid(axis="x", alpha=0.3)
    axes[-1].set_xlabel(score)
    handles = [Line2D([], [], ls="none", label=shape, **look) for shape, look in looks.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=10)
    return figure


def plot_aucs(aucs: pd.DataFrame, representations: Sequence[str]) -> Figure:
    """AUC with 95 % interval of every score, a panel a contrast, a colour a representation."""
    contrasts = list(dict.fromkeys(aucs["contrast"]))
    scores = list(dict.fromkeys(aucs["score"]))
    height = 0.34 * len(scores) + 0.5
    figure = Figure(figsize=(6.6, height * len(contrasts) + 0.7), layout="constrained")
    axes = np.atleast_1d(figure.subplots(len(contrasts), 1, sharex=True))
    looks = looks_of(representations)
    for ax, contrast in zip(axes, contrasts, strict=True):
        for k, (label, look) in enumerate(looks.items()):
            part = aucs[(aucs["contrast"] == contrast) & (aucs["representation"] == label)]
            part = part.set_index("score").reindex(scores)  # not every score has every one
            y = np.arange(len(scores)) + 0.18 * (k - (len(looks) - 1) / 2)
            ax.hlines(y, part["low"], part["high"], color=look["color"], lw=1.6)
            ax.plot(part["auc"], y, ls="none", ms=5, **look)
        ax.axvline(0.5, color="k", lw=1, ls="--")
        ax.set_yticks(range(len(scores)), scores, fontsize=10)
        ax.set_ylim(len(scores) - 0.5, -0.5)
        ax.set_xlim(-0.03, 1.03)
        ax.grid(axis="y", alpha=0.25)
        ax.set_title(f"strata against: {contrast}", fontsize=11, loc="left")
    axes[-1].set_xlabel("AUC")
    handles = [Line2D([], [], label=label, **look) for label, look in looks.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=10)
    return figure


def plot_rocs(rocs: pd.DataFrame) -> Figure:
    """ROC curves: a row a contrast, a column a shape, a line a score."""
    contrasts = list(dict.fromkeys(rocs["contrast"]))
    shapes = list(dict.fromkeys(rocs["shape"]))
    scores = list(dict.fromkeys(rocs["score"]))
    size = (6.6, 2.5 * len(contrasts) + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(contrasts), len(shapes), sharex=True, sharey=True, squeeze=False)
    looks: dict[str, dict[str, Any]] = {
        score: {"color": COLOURS[k % len(COLOURS)], "ls": ("-", "--", "-.", ":")[k % 4]}
        for k, score in enumerate(scores)
    }
    for (contrast, shape, score), curve in rocs.groupby(["contrast", "shape", "score"], sort=False):
        ax = axes[contrasts.index(contrast), shapes.index(shape)]
        ax.plot(curve["false"], curve["true"], lw=2, **looks[str(score)])
        ax.plot([0, 1], [0, 1], color="0.7", lw=1)
        ax.set_aspect("equal")
        ax.set_title(f"{shape}, {contrast}", fontsize=10)
    for ax in axes[-1]:
        ax.set_xlabel("smooth data mistaken", fontsize=10)
    for ax in axes[:, 0]:
        ax.set_ylabel("strata found", fontsize=10)
    handles = [Line2D([], [], lw=2, label=score, **look) for score, look in looks.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=10)
    return figure
