"""Figures of the cone page: the path, the distance to lower strata, the caveat."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from saerepgeo_lib.plots.frames import Frame
from saerepgeo_lib.plots.panels import WIDTH, Look, legend_below, own_axes
from saerepgeo_lib.plots.style import BLUE, GREEN, NULL_COLOUR, ORANGE, PINK
from saerepgeo_lib.synthetic.theory import cone_coordinates

RANK_COLOURS = {0: NULL_COLOUR, 1: ORANGE, 2: BLUE, 3: GREEN}
_UP, _AROUND = np.radians([16, -150])  # from where the cone is seen


def plot_cone_path(
    t: Float[np.ndarray, " k"], points: Float[np.ndarray, "k 3"],
    eigenvalues: Float[np.ndarray, "k 2"], ranks: Int[np.ndarray, " k"],
) -> Figure:  # fmt: skip
    """The 2 x 2 cone with a path in it; below, eigenvalues and rank along the path."""
    figure = Figure(figsize=(WIDTH, 8.2), layout="constrained")
    cone, below, steps = figure.subplots(3, 1, height_ratios=(3.4, 1.1, 0.9))
    _cone(cone)
    _pieces(cone, _seen(points), ranks)
    for value in range(5):
        at = _seen(points[np.abs(t - value).argmin()])
        cone.annotate(f"$t={value}$", at, (6, 2), textcoords="offset points", fontsize=12)
    below.plot(t, eigenvalues[:, 0], color=PINK, lw=2.2, label="larger")
    below.plot(t, eigenvalues[:, 1], color=GREEN, lw=2.2, ls="--", label="smaller")
    below.set(ylabel="eigenvalues", ylim=(-0.1, 1.4 * eigenvalues.max()), xticklabels=[])
    below.legend(fontsize=10, ncols=2, loc="upper center")
    _rank_steps(steps, t, ranks).set_xlabel("t")
    names = {2: "rank 2 (interior)", 1: "rank 1 (boundary)", 0: "rank 0 (apex)"}
    looks: dict[str, Look] = {names[r]: {"color": RANK_COLOURS[r], "lw": 3} for r in (2, 1)}
    looks[names[0]] = {"color": RANK_COLOURS[0], "ls": "none", "marker": "o"}
    legend_below(figure, looks, columns=3)
    return figure


def cone_frame(
    matrix: Float[np.ndarray, "2 2"], path: Float[np.ndarray, "k 3"], *, label: str
) -> Frame:
    """One matrix as a point of the 2 x 2 cone, beside its eigenvalues; a path for orientation."""
    rank = int(np.linalg.matrix_rank(matrix))
    eigenvalues = np.linalg.eigvalsh(matrix)[::-1].round(9) + 0.0  # no -0.00
    figure = Figure(figsize=(WIDTH, 3.2))
    figure.set_layout_engine("none")  # which takes half the time
    cone = figure.add_axes((0.0, 0.0, 0.64, 1.0))
    _cone(cone)
    cone.plot(*_seen(path).T, color="0.25", lw=1.4)
    place = _seen(cone_coordinates(matrix[None]))
    cone.plot(*place.T, "o", ms=12, color=RANK_COLOURS[rank], mec="black")
    bars = figure.add_axes((0.74, 0.12, 0.25, 0.74))
    drawn = bars.bar(["larger", "smaller"], eigenvalues, color=[PINK, GREEN], width=0.6)
    bars.bar_label(drawn, fmt="%.2f", padding=3, fontsize=11)
    bars.set(ylim=(0, max(1.5, 1.15 * eigenvalues.max())), ylabel="eigenvalues")
    bars.set_title(f"rank {rank}", fontsize=13, weight="bold")
    where = ("at its tip", "on its surface", "inside the cone")[rank]
    (a, b), (_, c) = matrix
    says = (
        f"entries a = {a:.2f}, b = {b:.2f}, c = {c:.2f}; eigenvalues {eigenvalues[0]:.2f} and "
        f"{eigenvalues[1]:.2f}; rank {rank}, {where}"
    )
    return Frame(figure, label, says)


def _cone(ax: Axes) -> None:
    """The cone as it is seen, drawn flat: three-dimensional axes take half a second a frame."""
    turn = np.linspace(0, 2 * np.pi, 73)
    rim = np.stack([np.cos(turn), np.sin(turn), np.ones_like(turn)], axis=1)
    top = _seen(1.7 * rim)
    left, right = top[top[:, 0].argmin()], top[top[:, 0].argmax()]
    ax.fill(*np.stack([left, 0 * left, right]).T, color="0.9", lw=0)
    ax.fill(*top.T, color="0.95", lw=0)
    for height in (0.425, 0.85, 1.275, 1.7):
        ax.plot(*_seen(height * rim).T, color="0.65", lw=0.6)
    for end in top[::6]:
        ax.plot(*np.stack([0 * end, end]).T, color="0.65", lw=0.5)
    ax.set_aspect("equal")
    ax.margins(0.06)
    ax.set_axis_off()


def _seen(points: Float[np.ndarray, "*k 3"]) -> Float[np.ndarray, "*k 2"]:
    """Points of space as they are seen, without perspective."""
    x, y, z = np.moveaxis(points, -1, 0)
    away = x * np.cos(_AROUND) + y * np.sin(_AROUND)
    across = y * np.cos(_AROUND) - x * np.sin(_AROUND)
    return np.stack([across, z * np.cos(_UP) - away * np.sin(_UP)], axis=-1)


def _pieces(ax: Axes, points: Float[np.ndarray, "k 2"], ranks: Int[np.ndarray, " k"]) -> None:
    """A path in the colours of its ranks; a piece of one point is a dot."""
    for run in np.split(np.arange(len(ranks)), np.flatnonzero(np.diff(ranks)) + 1):
        line = {"marker": "o", "ms": 8} if len(run) == 1 else {"lw": 3.0}
        ax.plot(*points[run].T, color=RANK_COLOURS[int(ranks[run[0]])], **line)


def _rank_steps(ax: Axes, t: Float[np.ndarray, " k"], ranks: Int[np.ndarray, " k"]) -> Axes:
    """Rank as horizontal pieces without risers; where it jumps at one point, its gap is a ring."""
    _pieces(ax, np.stack([t, ranks], axis=1), ranks)
    jumps = np.diff(ranks) != 0
    for i in np.flatnonzero(jumps[:-1] & jumps[1:]) + 1:
        for beside in map(int, ranks[[i - 1, i + 1]]):
            ax.plot(t[i], beside, "o", ms=7, mfc="white", mec=RANK_COLOURS[beside], zorder=3)
    ax.set(ylabel="rank", yticks=range(int(ranks.max()) + 1), ylim=(-0.3, ranks.max() + 0.4))
    return ax


def plot_cone_distance(
    points: Float[np.ndarray, "k 3"], distances: Float[np.ndarray, " k"], *, ax: Axes | None = None
) -> Axes:
    """A slice of the cone through its axis: each matrix with the ball that reaches rank 1."""
    ax = own_axes(ax)
    edge = 1.45
    ax.fill_between([-edge, 0, edge], [edge, 0, edge], edge, color=BLUE, alpha=0.08, lw=0)
    ax.plot([-edge, 0, edge], [edge, 0, edge], color=ORANGE, lw=2.5)
    ax.plot(0, 0, "o", color=NULL_COLOUR, ms=8)
    for (x, _, z), distance in zip(points, distances, strict=True):
        ax.add_patch(Circle((x, z), distance, fill=False, color=BLUE, lw=1.6))
        foot = np.array([x, z]) + distance / np.sqrt(2) * np.array([np.copysign(1, x), -1])
        ax.plot([x, foot[0]], [z, foot[1]], color=NULL_COLOUR, lw=1.4, ls="--")
        ax.plot(x, z, "o", color=BLUE, ms=6)
        ax.text(x, z + distance + 0.03, f"$s_2={distance:.2f}$", ha="center", fontsize=11)
    for rank, (x, z) in enumerate([(0.3, -0.03), (1.25, 0.95), (-0.5, 1.2)]):
        ax.text(x, z, f"rank {rank}", ha="center", fontsize=11)
    ax.set(xlabel=r"$(a-c)/\sqrt{2}$, with $b=0$", ylabel=r"$(a+c)/\sqrt{2}$", ylim=(-0.12, edge))
    ax.set_aspect("equal")
    return ax


def plot_caveat(
    t: Float[np.ndarray, " k"], ranks: Mapping[str, Int[np.ndarray, " k"]],
    circles: Float[np.ndarray, "levels points 3"], cross: Float[np.ndarray, "points 2"],
) -> Figure:  # fmt: skip
    """Three families, each with its rank beside it: two where it drops, one where it cannot."""
    figure = Figure(figsize=(WIDTH, 8.4), layout="constrained")
    axes = figure.subplots(3, 2, width_ratios=(1.15, 1), height_ratios=(1, 1.25, 1.15))
    entries, space, plane = axes[:, 0]
    entries.plot(t, np.ones_like(t), color=PINK, lw=2.2)
    entries.plot(t, t**2, color=GREEN, lw=2.2, ls="--")
    entries.text(t[0], 1.07, "first diagonal entry, 1", fontsize=10)
    entries.text(0, 0.28, "second, $t^2$", fontsize=10, ha="center")
    entries.set(ylim=(-0.1, 1.3), xlabel="t")
    for circle in circles:
        middle = circle.mean(axis=0)
        look = {"color": GREEN, "lw": 1.6} if abs(middle[2]) > 1e-9 else {"color": BLUE, "lw": 3}
        space.plot(*_seen(np.vstack([circle, circle[:1]])).T, **look)
        space.text(1.1, _seen(middle)[1], f"$t={middle[2]:.2g}$", va="center", fontsize=10)
    space.plot(0, 0, "+", color="black", ms=10, mew=2)
    space.set_aspect("equal")
    space.set_axis_off()
    plane.plot([-1, 1], [[-1, 1], [1, -1]], color=NULL_COLOUR, lw=1.2)
    plane.plot(*cross.T, "o", color=BLUE, ms=4, alpha=0.7)
    plane.set_aspect("equal")
    titles = ("A smooth curve of matrices", "A circle at heights $t$",
              "Two crossing lines, with noise")  # fmt: skip
    for (left, right), title, (label, values) in zip(axes, titles, ranks.items(), strict=True):
        left.set_title(title, fontsize=11, loc="left")
        _rank_steps(right, t, values).set(xlabel=label, ylim=(-0.3, 3.4), yticks=range(4))
    return figure
