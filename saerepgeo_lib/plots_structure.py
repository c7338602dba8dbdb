"""Figures of Case 2: maps of a concept, and differences between spaces."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from saerepgeo_lib.clusters import Labels
from saerepgeo_lib.interactive import Frame
from saerepgeo_lib.plots import COLOURS, looks_of
from saerepgeo_lib.structure import Circle


def plot_entities(
    circles: Mapping[str, Circle], entity: np.ndarray, names: Sequence[str]
) -> Figure:
    """Tokens and means of the entities on the plane of the means, a panel a space.

    The names stand at the means, which a line joins in their given order.
    """
    rows = -(-len(circles) // 2)
    figure = Figure(figsize=(6.6, 3.2 * rows), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, 2, squeeze=False)).ravel()
    shades = mpl.colormaps["twilight"](np.linspace(0.1, 0.9, len(names)))
    for ax in axes[len(circles) :]:
        ax.set_visible(False)
    for ax, (label, circle) in zip(axes, circles.items(), strict=False):
        ax.scatter(*circle.tokens.T, c=shades[entity], s=14, alpha=0.6, lw=0)
        closed = np.vstack([circle.means, circle.means[:1]])
        ax.plot(*closed.T, color="0.35", lw=1)
        for name, at in zip(names, circle.means, strict=True):
            ax.annotate(name[:3], at, ha="center", va="center", fontsize=10, weight="bold")
        ax.set_title(f"{label}: order {circle.order:.2f}", fontsize=10)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_aspect("equal", adjustable="datalim")
    return figure


def plot_clusters(
    points: Mapping[str, np.ndarray], labels: Mapping[str, Labels], *, shown: int = 6
) -> Figure:
    """All tokens on two principal directions, the largest clusters in colour, a panel a space."""
    rows = -(-len(points) // 2)
    figure = Figure(figsize=(6.6, 3.0 * rows + 0.4), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, 2, squeeze=False)).ravel()
    looks = looks_of([f"{k}" for k in range(shown)])
    for ax in axes[len(points) :]:
        ax.set_visible(False)
    for ax, (name, x) in zip(axes, points.items(), strict=False):
        found, sizes = np.unique(labels[name][labels[name] >= 0], return_counts=True)
        largest = found[np.argsort(-sizes, kind="stable")][:shown]
        rest = ~np.isin(labels[name], largest)
        ax.plot(x[rest, 0], x[rest, 1], ls="none", marker=".", ms=3, color="0.75")
        for k, look in zip(largest, looks.values(), strict=False):
            part = x[labels[name] == k]
            ax.plot(part[:, 0], part[:, 1], ls="none", ms=4, alpha=0.8, **look)
        ax.set_title(f"{name}: {len(found)} clusters", fontsize=10)
        ax.set_xticks([])
        ax.set_yticks([])
    handles = [Line2D([], [], ls="none", marker=".", color="0.75", label="other and none")]
    for k, look in enumerate(looks.values(), start=1):
        handles.append(Line2D([], [], ls="none", label=f"largest {k}", **look))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=10)
    return figure


def cluster_frame(
    points: Mapping[str, np.ndarray], labels: Mapping[str, Labels], *, label: str
) -> Frame:
    """`plot_clusters` as a frame, with the number of clusters and the share of tokens in them."""
    counts = "; ".join(
        f"{name} {labels[name].max() + 1} clusters with {(labels[name] >= 0).mean():.0%} of them"
        for name in points
    )
    n_tokens = len(next(iter(points.values())))
    return Frame(plot_clusters(points, labels), label, f"{n_tokens} tokens; {counts}")


def plot_differences(differences: pd.DataFrame, *, against: str) -> Figure:
    """SAE minus another space by measure, a panel a measure: value and 95 % interval.

    Rows of `structure_verdict.compare_spaces` against that space; the claimed side is shaded, and a
    difference without an interval has no bar.
    """
    measures = list(dict.fromkeys(differences["measure"]))
    figure = Figure(figsize=(6.6, 1.75 * len(measures) + 0.7), layout="constrained")
    axes = np.atleast_1d(figure.subplots(len(measures), 1))
    saes = list(dict.fromkeys(differences["SAE"]))
    looks = looks_of(saes)
    for ax, measure in zip(axes, measures, strict=True):
        part = differences[differences["measure"] == measure]
        concepts = list(dict.fromkeys(part["concept"]))
        for k, sae in enumerate(saes):
            own = part[part["SAE"] == sae]
            y = own["concept"].map(concepts.index) + 0.24 * (k - (len(saes) - 1) / 2)
            ax.hlines(y, own["low"], own["high"], color=looks[sae]["color"], lw=2)
            ax.plot(own["value"], y, ls="none", ms=6, **looks[sae])
        ax.axvline(0, color="k", lw=1)
        left, right = ax.get_xlim()
        claimed = (0, right) if part["sign"].iloc[0] > 0 else (left, 0)
        ax.axvspan(*claimed, color=COLOURS[5], alpha=0.15, lw=0)
        ax.set_xlim(left, right)
        ax.set_yticks(range(len(concepts)), concepts, fontsize=10)
        ax.set_ylim(len(concepts) - 0.5, -0.5)
        ax.set_title(measure, fontsize=10, loc="left")
    axes[-1].set_xlabel(f"SAE minus {against}")
    handles = [Line2D([], [], label=sae, **look) for sae, look in looks.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=10)
    return figure
