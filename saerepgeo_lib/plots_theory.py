"""Figures of the theory pages: the cone, a small tensor, and what noise does to rank."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Rectangle
from matplotlib.ticker import FixedLocator, NullLocator

from saerepgeo_lib.plots import COLOURS, MARKERS, NULL_COLOUR

BLUE, ORANGE, GREEN, PINK = COLOURS[:4]
RANK_COLOURS = {0: NULL_COLOUR, 1: ORANGE, 2: BLUE, 3: GREEN}


# The cone of SSPD matrices


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
    cone.view_init(elev=16, azim=-150)
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


def _numbers(
    ax: Axes,
    values: Float[np.ndarray, "m n"],
    colours: Any,
    *,
    followed: Sequence[tuple[int, int]] = (),
    aspect: Literal["equal", "auto"] = "equal",
) -> None:
    """A matrix as coloured cells with its numbers; followed cells get a thick frame."""
    m, n = values.shape
    ax.imshow(colours, aspect=aspect)
    for i in range(m):
        for j in range(n):
            ax.text(j, i, f"{values[i, j]:.3g}", ha="center", va="center", fontsize=10)
    for i, j in followed:
        ax.add_patch(Rectangle((j - 0.46, i - 0.46), 0.92, 0.92, fill=False, lw=2.6, zorder=4))
    ax.set_xticks(np.arange(n + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(m + 1) - 0.5, minor=True)
    ax.grid(which="minor", color="white", lw=2)
    ax.tick_params(which="both", length=0, labelsize=10)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _tint(index: Int[np.ndarray, "m n"], values: Float[np.ndarray, "m n"]) -> Any:
    """House colour of each cell's index, pale where the entry is zero."""
    base = np.array([mpl.colors.to_rgb(c) for c in COLOURS])[index]
    strength = np.where(values == 0, 0.12, 0.42)[..., None]
    return 1 - strength * (1 - base)


def plot_tensor(tensor: Float[np.ndarray, "P T F"], followed: tuple[int, int, int]) -> Figure:
    """Each prompt's slice as a matrix of tokens and features; colour is the prompt."""
    n_prompts, n_tokens, n_features = tensor.shape
    figure = Figure(figsize=(6.6, 0.95 * n_tokens * n_prompts / 2 + 1.0), layout="constrained")
    axes = figure.subplots(n_prompts, 1, squeeze=False).ravel()
    for p, ax in enumerate(axes):
        here = [followed[1:]] if p == followed[0] else []
        tint = _tint(np.full(tensor[p].shape, p), tensor[p])
        _numbers(ax, tensor[p], tint, followed=here, aspect="auto")
        ax.set_yticks(range(n_tokens), [f"token {i}" for i in range(n_tokens)])
        ax.set_title(f"prompt {p}", fontsize=11)
        ax.set_xticks([])
    axes[-1].set_xticks(range(n_features), [f"feature {i}" for i in range(n_features)])
    return figure


def plot_unfoldings(
    unfoldings: Mapping[str, Float[np.ndarray, "m n"]],
    prompts: Mapping[str, Int[np.ndarray, "m n"]],
    followed: Mapping[str, Sequence[tuple[int, int]]],
    rows: Mapping[str, str],
) -> Figure:
    """The three unfoldings, coloured by the prompt that an entry came from."""
    heights = [u.shape[0] + 1.2 for u in unfoldings.values()]
    figure = Figure(figsize=(6.6, 0.5 * sum(heights) + 0.6), layout="constrained")
    axes = figure.subplots(len(unfoldings), 1, gridspec_kw={"height_ratios": heights})
    for ax, (title, values) in zip(axes, unfoldings.items(), strict=True):
        _numbers(ax, values, _tint(prompts[title], values), followed=followed[title])
        ax.set_title(title, fontsize=11, loc="left")
        ax.set_yticks(range(len(values)), [f"{rows[title]} {i}" for i in range(len(values))])
        ax.set_xticks([])
    handles = [
        Line2D([], [], ls="none", marker="s", ms=11, label=f"prompt {p}",
               color=_tint(np.full((1, 1), p), np.ones((1, 1)))[0, 0])
        for p in np.unique(next(iter(prompts.values())))
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=10)
    return figure


def plot_grams(grams: Mapping[str, Float[np.ndarray, "n n"]]) -> Figure:
    """SSPD matrices as heat maps with their numbers, two a row."""
    n_rows = -(-len(grams) // 2)
    figure = Figure(figsize=(6.6, 2.9 * n_rows), layout="constrained")
    axes = figure.subplots(n_rows, 2, squeeze=False).ravel()
    for ax in axes[len(grams) :]:
        ax.set_visible(False)
    for ax, (title, gram) in zip(axes, grams.items(), strict=False):
        shade = mpl.colormaps["Blues"](0.55 * gram / gram.max())
        _numbers(ax, gram, shade)
        ax.set_title(title, fontsize=11)
        ax.set_xticks(range(len(gram)))
        ax.set_yticks(range(len(gram)))
    return figure


def plot_mode_ranks(ranks: Int[np.ndarray, "draws 3"]) -> Figure:
    """Each mode's rank against the product of the two others; area counts tensors."""
    figure = Figure(figsize=(6.6, 4.4), layout="constrained")
    ax = figure.subplots()
    low, top = 0.8, 1.2 * float(ranks.max())
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.fill_between([low, top], [low, top], top, color=ORANGE, alpha=0.15, lw=0)
    ax.plot([low, top], [low, top], color=ORANGE, lw=1.5)
    ax.text(0.9, 0.75 * top, "impossible", fontsize=11)
    for mode, colour in enumerate((BLUE, GREEN, PINK)):
        others = np.delete(ranks, mode, axis=1).prod(axis=1)
        pairs, counts = np.unique(
            np.stack([others, ranks[:, mode]], axis=1), axis=0, return_counts=True
        )
        shift = 1.035**mode  # so that the modes do not hide each other
        ax.scatter(pairs[:, 0] * shift, pairs[:, 1] / shift, s=14 + 5 * counts, color=colour,
                   marker=MARKERS[mode], alpha=0.75, lw=0)  # fmt: skip
    handles = [
        Line2D([], [], ls="none", marker=MARKERS[m], ms=8, color=c, label=f"mode {m + 1}")
        for m, c in enumerate((BLUE, GREEN, PINK))
    ]
    ax.legend(handles=handles, loc=(0.01, 0.55), fontsize=10)
    ax.set_xlabel("product of the two other mode ranks")
    ax.set_ylabel("mode rank")
    ax.set_xlim(low, None)
    ax.set_ylim(low, top)
    for axis, ticks in ((ax.xaxis, (1, 2, 5, 10, 20, 40)), (ax.yaxis, range(1, int(top)))):
        axis.set_major_locator(FixedLocator(list(ticks)))
        axis.set_major_formatter("{x:.0f}")
        axis.set_minor_locator(NullLocator())
    return figure


def plot_precision(
    planted: Float[np.ndarray, " k"],
    found: Mapping[str, tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]],
) -> Figure:
    """Planted singular values, and what the matrix and its Gram matrix return, by precision."""
    figure = Figure(figsize=(6.6, 4.0), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(found), sharey=True))
    index = np.arange(1, len(planted) + 1)
    for ax, (name, (direct, gram)) in zip(axes, found.items(), strict=True):
        ax.plot(index, planted, color=NULL_COLOUR, lw=1.2, label="planted")
        ax.plot(index, direct, "o", color=BLUE, ms=6, label="of the unfolding")
        ax.plot(index, gram, "s", color=ORANGE, ms=6, mfc="none", mew=1.8,
                label="root of eigenvalues of $G$")  # fmt: skip
        ax.set_yscale("log")
        ax.set_title(name, fontsize=11)
        ax.set_xlabel("index i")
        ax.set_xticks(index[::3])
    axes[0].set_ylabel("singular value $s_i$")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2,
                  fontsize=10)  # fmt: skip
    return figure


def plot_masked(
    points: Float[np.ndarray, "n 2"],
    padded: Float[np.ndarray, "m 2"],
    labels: Mapping[str, Int[np.ndarray, " points"]],
) -> Figure:
    """Clusters and mean of the tokens that count, and of the same with zero rows added."""
    figure = Figure(figsize=(6.6, 3.7), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    for ax, (title, cloud) in zip(axes, zip(labels, (points, padded), strict=True), strict=True):
        for label in np.unique(labels[title]):
            part = cloud[labels[title] == label]
            ax.plot(*part.T, MARKERS[label], color=COLOURS[label], ms=6, alpha=0.8)
        ax.plot(*cloud.mean(0), "X", color="black", ms=11, label="mean")
        ax.set_title(f"{title}\n{len(np.unique(labels[title]))} clusters", fontsize=11)
        ax.set_xlabel("feature 0")
    axes[0].set_ylabel("feature 1")
    axes[0].legend(fontsize=10)
    return figure


# Noise and rank


def plot_weyl(
    levels: Float[np.ndarray, " levels"],
    spectra: Float[np.ndarray, "levels k"],
    threshold: float,
    bounds: Int[np.ndarray, "levels 2"],
    *,
    norm: float,
    shown: int = 4,
) -> Figure:
    """Singular values inside their Weyl bounds; below, the count above a threshold.

    `norm` is |E|_2; the count is drawn thick where both bounds agree, and dashed elsewhere.
    """
    figure = Figure(figsize=(6.6, 6.0), layout="constrained")
    top, below = figure.subplots(2, 1, sharex=True, height_ratios=(1.5, 1))
    for i in range(shown):
        reach = levels * norm
        low, high = np.clip(spectra[0, i] - reach, 0, None), spectra[0, i] + reach
        top.fill_between(levels, low, high, color=COLOURS[i], alpha=0.16, lw=0)
        top.plot(levels, spectra[:, i], color=COLOURS[i], lw=2.2)
        top.annotate(f"$s_{i + 1}$", (levels[-1], spectra[-1, i]), (4, -4),
                     textcoords="offset points", fontsize=11)  # fmt: skip
    top.axhline(threshold, color="black", ls="--", lw=1.2)
    top.text(0, threshold, r"$\epsilon$", va="bottom", fontsize=12)
    top.set_ylabel("singular values")
    count = (spectra > threshold).sum(axis=1)
    sure = bounds[:, 0] == bounds[:, 1]
    below.fill_between(levels, bounds[:, 0], bounds[:, 1], step="mid", color=BLUE, alpha=0.2, lw=0)
    below.step(levels, count, where="mid", color=BLUE, ls=(0, (3, 1.5)), lw=1.4)
    below.plot(np.where(sure, levels, np.nan), count, color=BLUE, lw=4, label="certified")
    below.set_ylabel(r"values above $\epsilon$")
    below.set_xlabel("noise level s")
    below.legend(fontsize=10, loc="upper left")
    return figure


def plot_against_edge(
    spectra: Mapping[str, Mapping[str, Float[np.ndarray, " k"]]], *, shown: int
) -> Figure:
    """Leading singular values over the edge of white noise, a panel a representation."""
    rows = -(-len(spectra) // 2)
    figure = Figure(figsize=(6.6, 2.6 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, 2, sharex=True, sharey=True, squeeze=False).ravel()
    for ax, (title, cases) in zip(axes, spectra.items(), strict=True):
        for colour, marker, (label, values) in zip(
            (BLUE, ORANGE), MARKERS, cases.items(), strict=False
        ):
            index = np.arange(1, min(shown, len(values)) + 1)
            ax.plot(index, values[:shown], marker, color=colour, ms=4, label=label, mfc="none")
        ax.axhline(1, color="black", ls="--", lw=1.2)
        ax.set_yscale("log")
        ax.set_title(title, fontsize=11)
    for ax in axes[-2:]:
        ax.set_xlabel("index i")
    largest = max(values[0] for cases in spectra.values() for values in cases.values())
    axes[0].set_ylim(0.2, 1.4 * largest)  # exact zeros lie far below
    axes[0].yaxis.set_major_locator(FixedLocator([0.2, 0.5, 1, 2, 5, 10, 20]))
    axes[0].yaxis.set_major_formatter("{x:g}")
    axes[0].yaxis.set_minor_locator(NullLocator())
    figure.supylabel(r"$s_i$ / edge of white noise", fontsize=11)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2,
                  fontsize=10)  # fmt: skip
    return figure


def plot_code_ranks(
    counts: Int[np.ndarray, " k"], ranks: Mapping[str, Int[np.ndarray, " k"]]
) -> Figure:
    """Exact rank against the number of tokens, one line a representation."""
    figure = Figure(figsize=(6.6, 4.0), layout="constrained")
    ax = figure.subplots()
    ax.plot(counts, counts, color="black", lw=1, ls=":", label="number of tokens")
    for (label, values), colour, marker in zip(ranks.items(), COLOURS, MARKERS, strict=False):
        ax.plot(counts, values, color=colour, marker=marker, ms=5, lw=1.6, label=label)
    ax.set_xlabel("number of tokens")
    ax.set_ylabel("exact rank")
    ax.set_ylim(0, 1.25 * max(int(v.max()) for v in ranks.values()))
    figure.legend(loc="outside lower center", ncols=2, fontsize=10)
    return figure


def plot_margins(
    factors: Float[np.ndarray, " k"], changed: Mapping[str, Float[np.ndarray, " k"]]
) -> Figure:
    """Share of random steps that change the active set, by their length in margins."""
    figure = Figure(figsize=(6.6, 3.8), layout="constrained")
    ax = figure.subplots()
    ax.axvspan(factors.min() / 1.2, 1, color=GREEN, alpha=0.12, lw=0)
    ax.text(0.97, 0.5, "certified", ha="right", fontsize=11)
    for (label, share), colour, marker in zip(changed.items(), COLOURS, MARKERS, strict=False):
        ax.plot(factors, share, color=colour, marker=marker, ms=6, label=label)
    ax.set_xscale("log")
    ax.set_xlim(factors.min() / 1.2, None)
    ax.xaxis.set_major_locator(FixedLocator([0.25, 0.5, 1, 2, 4, 8, 16]))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("length of the step / margin of the token")
    ax.set_ylabel("share that changed")
    ax.legend(fontsize=10, loc="upper left")
    return figure
