"""Figures of the unfolding page: tensor, unfoldings, Gram matrices, ranks, precision, masks."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, NullLocator

from saerepgeo_lib.plots import BLUE, COLOURS, GREEN, MARKERS, NULL_COLOUR, ORANGE, PINK


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
