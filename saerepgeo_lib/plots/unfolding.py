"""Figures of the unfolding page: tensor, unfoldings, Gram matrices, ranks, precision, masks."""

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saerepgeo_lib.plots.panels import WIDTH, axes_grid, cells, legend_below, own_axes
from saerepgeo_lib.plots.style import BLUE, COLOURS, MARKERS, NULL_COLOUR, ORANGE, looks_of
from saerepgeo_lib.rank.unfoldings import MODES, unfold


def plot_unfoldings(
    tensor: Float[np.ndarray, "P T F"], followed: tuple[int, int, int], *, unfolded: bool = True
) -> Figure:
    """The three unfoldings (or each prompt's slice), one entry framed; colour is the prompt."""
    prompt = np.broadcast_to(np.arange(len(tensor))[:, None, None], tensor.shape) * 1.0
    mark = np.zeros(tensor.shape)
    mark[followed] = 1
    stacked = torch.tensor(np.array([tensor, prompt, mark]))
    names = {f"prompt {p}": "token" for p in range(len(tensor))}
    matrices = stacked.unbind(1)
    if unfolded:
        names = {f"$Z_{{({mode})}}$: rows are {name}s": name for mode, name in MODES.items()}
        matrices = tuple(torch.stack([unfold(x, mode) for x in stacked]) for mode in MODES)
    heights = [matrix.shape[1] + 1.2 for matrix in matrices]
    figure = Figure(figsize=(WIDTH, 0.5 * sum(heights) + 0.6), layout="constrained")
    axes = figure.subplots(len(matrices), 1, height_ratios=heights)
    for ax, (title, name), matrix in zip(axes, names.items(), matrices, strict=True):
        values, origin, framed = matrix.numpy()
        cells(ax, _numbers(values), _tint(origin.astype(int), values), framed > 0)
        ax.set_title(title, fontsize=11, loc="left")
        ax.set_yticks(range(len(values)), [f"{name} {i}" for i in range(len(values))])
        ax.set_xticks([])
    if not unfolded:
        ax.set_xticks(range(tensor.shape[2]), [f"feature {i}" for i in range(tensor.shape[2])])
    return figure


_numbers = np.vectorize("{:.3g}".format)


def _tint(index: Int[np.ndarray, "m n"], values: Float[np.ndarray, "m n"]) -> Any:
    """House colour of each cell's index, pale where the entry is zero."""
    base = np.array([mpl.colors.to_rgb(c) for c in COLOURS])[index]
    strength = np.where(values == 0, 0.12, 0.42)[..., None]
    return 1 - strength * (1 - base)


def plot_grams(grams: Mapping[str, Float[np.ndarray, "n n"]]) -> Figure:
    """SSPD matrices as heat maps with their numbers, two per row."""
    figure, axes = axes_grid(len(grams), height=2.9, extra=0)
    for ax, (title, gram) in zip(axes, grams.items(), strict=True):
        ax.set_title(title, fontsize=11)
        shade = mpl.colormaps["Blues"](0.55 * gram / gram.max())
        cells(ax, _numbers(gram), shade)
        ax.set(xticks=range(len(gram)), yticks=range(len(gram)), aspect="equal")
    return figure


def plot_mode_ranks(ranks: Int[np.ndarray, "draws 3"], *, ax: Axes | None = None) -> Axes:
    """Each mode's rank against the product of the two others; area counts tensors."""
    ax = own_axes(ax, height=3.9)
    low, top = 0.8, 1.2 * float(ranks.max())
    ax.fill_between([low, top], [low, top], top, color=ORANGE, alpha=0.15, lw=0)
    ax.plot([low, top], [low, top], color=ORANGE, lw=1.5)
    ax.text(0.9, 0.75 * top, "impossible", fontsize=11)
    for mode, (name, look) in enumerate(looks_of(["mode 1", "mode 2", "mode 3"]).items()):
        others = np.delete(ranks, mode, axis=1).prod(axis=1)
        pairs, counts = np.unique([others, ranks[:, mode]], axis=1, return_counts=True)
        shift = 1.035**mode  # so that the modes do not hide each other
        ax.scatter(pairs[0] * shift, pairs[1] / shift, s=14 + 5 * counts, alpha=0.75, lw=0,
                   label=name, **look)  # fmt: skip
    ax.legend(loc=(0.01, 0.55), fontsize=10)
    ax.set(xscale="log", yscale="log", xlim=(low, None), ylim=(low, top),
           xlabel="product of the two other mode ranks", ylabel="mode rank")  # fmt: skip
    ax.set_xticks(products := [1, 2, 5, 10, 20, 40], [f"{tick}" for tick in products])
    ax.set_yticks(single := [*range(1, int(top))], [f"{tick}" for tick in single])
    ax.minorticks_off()
    return ax


def plot_precision(
    planted: Float[np.ndarray, " k"],
    computed: Mapping[str, tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]],
) -> Figure:
    """Planted singular values, and what the matrix and its Gram matrix return, by precision."""
    figure, axes = axes_grid(computed, height=3.5, size=11, sharey=True)
    index = np.arange(1, len(planted) + 1)
    hollow = {"ls": "none", "ms": 6, "mfc": "none", "mew": 1.8}
    looks: dict[str, dict[str, Any]] = {
        "planted": {"color": NULL_COLOUR, "lw": 1.2},
        "of the unfolding": {"color": BLUE, "marker": "o", **hollow, "mfc": BLUE},
        "root of eigenvalues of G": {"color": ORANGE, "marker": "s", **hollow},
    }
    for ax, spectra in zip(axes, computed.values(), strict=True):
        for values, look in zip((planted, *spectra), looks.values(), strict=True):
            ax.plot(index, values, **look)
        ax.set(yscale="log", xlabel="index i", xticks=index[::3])
    axes[0].set_ylabel("singular value $s_i$")
    legend_below(figure, looks)
    return figure


def plot_masked(
    clouds: Mapping[str, Float[np.ndarray, "_ 2"]], labels: Mapping[str, Int[np.ndarray, " _"]]
) -> Figure:
    """Clusters and mean of several clouds of tokens, a panel per cloud."""
    figure, axes = axes_grid(len(clouds), height=3.2, sharex=True, sharey=True)
    for ax, (title, cloud) in zip(axes, clouds.items(), strict=True):
        clusters = np.unique(labels[title])
        for label in clusters:
            points = cloud[labels[title] == label]
            ax.plot(*points.T, MARKERS[label], color=COLOURS[label], ms=6, alpha=0.8)
        ax.plot(*cloud.mean(0), "X", color="black", ms=11, label="mean")
        ax.set_title(f"{title}\n{len(clusters)} clusters", fontsize=11)
        ax.set_xlabel("feature 0")
    axes[0].set_ylabel("feature 1")
    axes[0].legend(fontsize=10)
    return figure
