"""Figures of the cone page: the path, the distance to lower strata, the caveat."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle

from saerepgeo_lib.interactive import Frame
from saerepgeo_lib.plots import BLUE, COLOURS, GREEN, NULL_COLOUR, ORANGE, PINK

RANK_COLOURS = {0: NULL_COLOUR, 1: ORANGE, 2: BLUE, 3: GREEN}
_ELEVATION, _AZIMUTH = 16, -150  # from where the cone is seen, in degrees


def plot_cone_path(
    t: Float[np.ndarray, " k"],
    points: Float[np.ndarray, "k 3"],
    eigenvalues: Float[np.ndarray, "k 2"],
    ranks: Int[np.ndarray, " k"],
) -> Figure:
    """The 2 x 2 cone with a path in it; below, eigenvalues and rank along the path."""
    figure = Figure(figsize=(6.6, 8.2), layout="constrained")
    grid = figure.add_gridspec(3, 1, height_ratios=(3.4, 1.1, 0.9))
    cone: Any = figure.add_subplot(grid[0], projection="3d")
    turn, height = np.meshgrid(np.linspace(0, 2 * np.pi, 61), np.linspace(0, 1.9, 10))
    x, y = height * np.cos(turn), height * np.sin(turn)
    cone.plot_surface(x, y, height, color="#bbbbbb", alpha=0.16, lw=0, shade=False)
    cone.plot_wireframe(x, y, height, rstride=3, cstride=6, color="#888888", lw=0.5)
    for rank in (2, 1, 0):
        here = ranks == rank
        for run in np.split(np.arange(len(t)), np.flatnonzero(np.diff(here)) + 1):
            if here[run[0]]:
                style = {"marker": "o", "ms": 9} if len(run) == 1 else {"lw": 3.0}
                cone.plot(*points[run].T, color=RANK_COLOURS[rank], **style)
    for value in range(5):
        at = points[np.abs(t - value).argmin()]
        cone.text(*at, f"  $t={value}$", fontsize=12, zorder=20)
    cone.set_axis_off()
    cone.set_box_aspect((1, 1, 0.8), zoom=1.5)
    cone.view_init(elev=_ELEVATION, azim=_AZIMUTH)
    names = {2: "rank 2 (interior)", 1: "rank 1 (boundary)", 0: "rank 0 (apex)"}
    handles = [
        Line2D([], [], color=RANK_COLOURS[r], lw=3 * (r > 0), marker="o" * (r == 0) or None,
               label=name)
        for r, name in names.items()
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside upper center", ncols=3, fontsize=10)
    below, steps = figure.add_subplot(grid[1]), figure.add_subplot(grid[2])
    below.plot(t, eigenvalues[:, 0], color=COLOURS[3], lw=2.2, label="larger")
    below.plot(t, eigenvalues[:, 1], color=COLOURS[2], lw=2.2, ls="--", label="smaller")
    below.set_ylabel("eigenvalues")
    below.legend(fontsize=10, ncols=2, loc="upper center")
    below.set_ylim(-0.1, 1.4 * eigenvalues.max())
    below.set_xticklabels([])
    _rank_steps(steps, t, ranks)
    steps.set_xlabel("t")
    return figure


def cone_frame(
    matrix: Float[np.ndarray, "2 2"],
    point: Float[np.ndarray, " 3"],
    eigenvalues: Float[np.ndarray, " 2"],
    rank: int,
    path: Float[np.ndarray, "k 3"],
    *,
    label: str,
) -> Frame:
    """One matrix as a point of the 2 x 2 cone, beside its eigenvalues; a path for orientation.

    The cone is projected here and drawn flat: three-dimensional axes take half a second a frame.
    """
    figure = Figure(figsize=(6.6, 3.2))
    figure.set_layout_engine("none")  # which takes half the time
    cone = figure.add_axes((0.0, 0.0, 0.64, 1.0))
    bars = figure.add_axes((0.74, 0.12, 0.25, 0.74))
    eigenvalues = np.round(eigenvalues, 9) + 0.0  # no -0.00
    turn = np.linspace(0, 2 * np.pi, 73)
    rim = np.stack([np.cos(turn), np.sin(turn), np.ones_like(turn)], axis=1)
    top = _seen(1.7 * rim)
    left, right = top[top[:, 0].argmin()], top[top[:, 0].argmax()]
    cone.fill(*np.stack([left, 0 * left, right]).T, color="0.9", lw=0)
    cone.fill(*top.T, color="0.95", lw=0)
    for height in (0.425, 0.85, 1.275, 1.7):
        cone.plot(*_seen(height * rim).T, color="0.65", lw=0.6)
    for end in top[::6]:
        cone.plot(*np.stack([0 * end, end]).T, color="0.65", lw=0.5)
    cone.plot(*_seen(path).T, color="0.25", lw=1.4)
    cone.plot(*_seen(point), "o", ms=12, color=RANK_COLOURS[rank], mec="black")
    cone.set_aspect("equal")
    cone.margins(0.06)
    cone.set_axis_off()
    bars.bar(["larger", "smaller"], eigenvalues, color=[COLOURS[3], COLOURS[2]], width=0.6)
    for place, value in enumerate(eigenvalues):
        bars.annotate(f"{value:.2f}", (place, value), (0, 3), textcoords="offset points",
                      ha="center", fontsize=11)  # fmt: skip
    bars.set_ylim(0, max(1.5, 1.15 * eigenvalues.max()))
    bars.set_ylabel("eigenvalues")
    bars.set_title(f"rank {rank}", fontsize=13, weight="bold")
    where = {2: "inside the cone", 1: "on its surface", 0: "at its tip"}[rank]
    (a, b), (_, c) = matrix
    says = (
        f"entries a = {a:.2f}, b = {b:.2f}, c = {c:.2f}; eigenvalues {eigenvalues[0]:.2f} and "
        f"{eigenvalues[1]:.2f}; rank {rank}, {where}"
    )
    return Frame(figure, label, says)


def _seen(points: Float[np.ndarray, "*k 3"]) -> Float[np.ndarray, "*k 2"]:
    """Points of space as seen from elevation and azimuth, without perspective."""
    up, around = np.radians([_ELEVATION, _AZIMUTH])
    x, y, z = np.moveaxis(points, -1, 0)
    away = x * np.cos(around) + y * np.sin(around)
    across = y * np.cos(around) - x * np.sin(around)
    return np.stack([across, z * np.cos(up) - away * np.sin(up)], axis=-1)


def _rank_steps(ax: Axes, t: Float[np.ndarray, " k"], ranks: Int[np.ndarray, " k"]) -> None:
    """Rank as horizontal pieces without risers; a piece of one point is a dot, its gap a ring."""
    for run in np.split(np.arange(len(t)), np.flatnonzero(np.diff(ranks)) + 1):
        colour = RANK_COLOURS[int(ranks[run[0]])]
        style: dict[str, Any] = {"marker": "o", "ms": 7} if len(run) == 1 else {"lw": 3.0}
        ax.plot(t[run], ranks[run], color=colour, **style)
        if len(run) == 1:
            beside = int(ranks[max(run[0] - 1, 0)]), int(ranks[min(run[0] + 1, len(t) - 1)])
            for rank in set(beside):
                ax.plot(t[run], [rank], "o", ms=7, mfc="white", mec=RANK_COLOURS[rank], zorder=3)
    ax.set_ylabel("rank")
    ax.set_yticks(range(int(ranks.max()) + 1))
    ax.set_ylim(-0.3, ranks.max() + 0.4)


def plot_cone_distance(
    points: Float[np.ndarray, "k 3"], distances: Float[np.ndarray, " k"]
) -> Figure:
    """A slice of the cone through its axis: each matrix with the ball that reaches rank 1."""
    figure = Figure(figsize=(6.6, 3.9), layout="constrained")
    ax = figure.subplots()
    edge = 1.45
    ax.fill_between([-edge, 0, edge], [edge, 0, edge], edge, color=BLUE, alpha=0.08, lw=0)
    ax.plot([-edge, 0, edge], [edge, 0, edge], color=ORANGE, lw=2.5)
    ax.plot(0, 0, "o", color=NULL_COLOUR, ms=8)
    for (x, _, z), distance in zip(points, distances, strict=True):
        ax.add_patch(Circle((x, z), distance, fill=False, color=BLUE, lw=1.6))
        foot = np.array([x, z]) + distance / np.sqrt(2) * np.array([np.copysign(1, x), -1])
        ax.plot([x, foot[0]], [z, foot[1]], color=NULL_COLOUR, lw=1.4, ls="--")
        ax.plot(x, z, "o", color=BLUE, ms=6)
        ax.annotate(f"$s_2={distance:.2f}$", (x, z + distance), (0, 4),
                    textcoords="offset points", ha="center", fontsize=11)  # fmt: skip
    ax.annotate("rank 0", (0, 0), (10, -4), textcoords="offset points", fontsize=11)
    ax.annotate("rank 1", (1.0, 1.0), (8, -14), textcoords="offset points", fontsize=11)
    ax.annotate("rank 2", (-0.5, 1.2), ha="center", fontsize=11)
    ax.set_xlabel(r"$(a-c)/\sqrt{2}$, with $b=0$")
    ax.set_ylabel(r"$(a+c)/\sqrt{2}$")
    ax.set_aspect("equal")
    ax.set_ylim(-0.12, edge)
    return figure


def plot_caveat(
    t: Float[np.ndarray, " k"],
    ranks: Mapping[str, Int[np.ndarray, " k"]],
    circles: Float[np.ndarray, "levels points 3"],
    heights: Float[np.ndarray, " levels"],
    cross: Float[np.ndarray, "points 2"],
) -> Figure:
    """Three families, each with its rank beside it: two where it drops, one where it cannot."""
    figure = Figure(figsize=(6.6, 8.4), layout="constrained")
    grid = figure.add_gridspec(3, 2, width_ratios=(1.15, 1), height_ratios=(1, 1.25, 1.15))
    entries = figure.add_subplot(grid[0, 0])
    entries.plot(t, np.ones_like(t), color=PINK, lw=2.2)
    entries.plot(t, t**2, color=GREEN, lw=2.2, ls="--")
    entries.text(t[0], 1.07, "first diagonal entry, 1", fontsize=10, color="black")
    entries.text(0, 0.28, "second, $t^2$", fontsize=10, color="black", ha="center")
    entries.set_ylim(-0.1, 1.3)
    entries.set_xlabel("t")
    entries.set_title("A smooth curve of matrices", fontsize=11, loc="left")
    space: Any = figure.add_subplot(grid[1, 0], projection="3d")
    for circle, height in zip(circles, heights, strict=True):
        colour = RANK_COLOURS[2 if height == 0 else 3]
        space.plot(*np.vstack([circle, circle[:1]]).T, color=colour, lw=3 if height == 0 else 1.6)
    space.plot([0], [0], [0], "+", color="black", ms=10, mew=2)
    for axis in (space.xaxis, space.yaxis):
        axis.set_ticks([])
    space.set_zticks([heights.min(), 0, heights.max()])
    space.tick_params(labelsize=10)
    space.view_init(elev=20, azim=-60)
    space.set_box_aspect((1, 1, 0.9), zoom=1.05)
    space.set_title("A circle at heights $t$", fontsize=11, loc="left")
    plane = figure.add_subplot(grid[2, 0])
    for slope in (1, -1):
        plane.plot([-1, 1], [-slope, slope], color=NULL_COLOUR, lw=1.2)
    plane.plot(*cross.T, "o", color=BLUE, ms=4, alpha=0.7)
    plane.set_aspect("equal")
    plane.set_title("Two crossing lines, with noise", fontsize=11, loc="left")
    for row, (label, values) in enumerate(ranks.items()):
        ax = figure.add_subplot(grid[row, 1])
        _rank_steps(ax, t, values)
        ax.set_ylim(-0.3, 3.4)
        ax.set_yticks(range(4))
        ax.set_xlabel(label)
    return figure


# A small tensor and its unfoldings
