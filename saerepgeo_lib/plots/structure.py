"""Figures of Case 2: maps of a concept."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from saerepgeo_lib.geometry.arrangements import Circle
from saerepgeo_lib.geometry.clusters import Labels
from saerepgeo_lib.plots import panels
from saerepgeo_lib.plots.frames import Frame
from saerepgeo_lib.plots.style import in_figure, looks_of


def plot_entities(
    circles: Mapping[str, Circle], entity: np.ndarray, names: Sequence[str]
) -> Figure:
    """Tokens of the entities; their means joined by a line in order; a panel per space."""
    titles = [f"{label}: order {circle.order:.2f}" for label, circle in circles.items()]
    figure, axes = panels.axes_grid(titles, height=3.2, extra=0)
    shades = mpl.colormaps["twilight"](np.linspace(0.1, 0.9, len(names)))
    for ax, circle in zip(axes, circles.values(), strict=True):
        x, y = circle.tokens.T
        ax.scatter(x, y, c=shades[entity], s=14, alpha=0.6, lw=0)
        ax.plot(*np.vstack([circle.means, circle.means[:1]]).T, color="0.35", lw=1)
        for name, at in zip(names, circle.means, strict=True):
            ax.annotate(
                in_figure(name[:3]), at, ha="center", va="center", fontsize=10, weight="bold"
            )
        ax.set(xticks=[], yticks=[])
        ax.set_aspect("equal", adjustable="datalim")
    return figure


def cluster_frame(
    points: Mapping[str, np.ndarray], labels: Mapping[str, Labels], *, label: str, shown: int = 6
) -> Frame:
    """All tokens on two principal directions, the largest clusters in colour, a panel per space."""
    figure, axes = panels.axes_grid(len(points), height=3.0, extra=0.4)
    looks = looks_of([f"largest {k}" for k in range(1, shown + 1)])
    counts = []
    for ax, (name, x) in zip(axes, points.items(), strict=True):
        clusters, sizes = np.unique(labels[name][labels[name] >= 0], return_counts=True)
        largest = clusters[np.argsort(-sizes, kind="stable")][:shown]
        groups = {look: labels[name] == k for look, k in zip(looks, largest, strict=False)}
        panels.map_of(ax, x[:, :2], groups, looks)
        ax.set_title(in_figure(f"{name}: {len(clusters)} clusters", panels.LINE // 2), fontsize=10)
        counts.append(f"{name} {len(clusters)} clusters with {sizes.sum() / len(x):.0%} of them")
    looks = {"other and none": {"marker": ".", "color": "0.75"}, **looks}
    panels.legend_below(figure, looks, columns=4, ls="none")
    return Frame(figure, label, f"{len(x)} tokens; {'; '.join(counts)}")
