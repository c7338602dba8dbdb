"""Figures of the page on noise and rank: Weyl's bounds, noise edges, code ranks, margins."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saerepgeo_lib.plots.panels import WIDTH, axes_grid, legend_below, own_axes, profile
from saerepgeo_lib.plots.style import BLUE, COLOURS, GREEN, looks_of


def plot_weyl(
    levels: Float[np.ndarray, " levels"], spectra: Float[np.ndarray, "levels k"],
    threshold: float, bounds: Int[np.ndarray, "levels 2"],
) -> Figure:  # fmt: skip
    """The first four singular values inside their Weyl bounds; below, the count above a threshold.

    The levels are spectral norms of the noise. The count is drawn thick where both bounds agree.
    """
    figure = Figure(figsize=(WIDTH, 6.0), layout="constrained")
    top, below = figure.subplots(2, 1, sharex=True, height_ratios=(1.5, 1))
    for i, colour in enumerate(COLOURS[:4]):
        low, high = np.clip(spectra[0, i] - levels, 0, None), spectra[0, i] + levels
        profile(top, levels, spectra[:, i], low, high, look={"color": colour, "lw": 2.2})
        top.text(levels[-1], spectra[-1, i], f" $s_{i + 1}$", va="center", fontsize=11)
    top.axhline(threshold, color="black", ls="--", lw=1.2)
    top.text(0, threshold, r"$\epsilon$", va="bottom", fontsize=12)
    top.set_ylabel("singular values")
    count, sure = (spectra > threshold).sum(axis=1), bounds[:, 0] == bounds[:, 1]
    below.fill_between(levels, *bounds.T, step="mid", color=BLUE, alpha=0.2, lw=0)
    below.step(levels, count, where="mid", color=BLUE, ls=(0, (3, 1.5)), lw=1.4)
    below.plot(np.where(sure, levels, np.nan), count, color=BLUE, lw=4, label="certified")
    below.set(ylabel=r"values above $\epsilon$", xlabel="noise level s")
    below.legend(fontsize=10, loc="upper left")
    return figure


def plot_against_edge(
    spectra: Mapping[str, Mapping[str, Float[np.ndarray, " k"]]], *, shown: int
) -> Figure:
    """Leading singular values over the edge of white noise, a panel per representation."""
    figure, axes = axes_grid(spectra, extra=0.6, size=11, sharex=True, sharey=True)
    dots: dict[str, Any] = {"ls": "none", "ms": 4, "mfc": "none"}
    looks = {name: look | dots for name, look in looks_of(next(iter(spectra.values()))).items()}
    for ax, cases in zip(axes, spectra.values(), strict=True):
        for name, s in cases.items():
            ax.plot(np.arange(1, len(s[:shown]) + 1), s[:shown], **looks[name])
        ax.axhline(1, color="black", ls="--", lw=1.2)
        ax.set_xlabel("index i" if ax in axes[-2:] else "")
    largest = max(s[0] for cases in spectra.values() for s in cases.values())
    ax.set(yscale="log", ylim=(0.2, 1.4 * largest))  # exact zeros lie far below
    ax.set_yticks(ticks := [0.2, 0.5, 1, 2, 5, 10, 20], [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    figure.supylabel(r"$s_i$ / edge of white noise", fontsize=11)
    legend_below(figure, looks)
    return figure


def plot_code_ranks(
    counts: Int[np.ndarray, " k"], ranks: Mapping[str, np.ndarray], *, ax: Axes | None = None
) -> Axes:
    """Exact rank against the number of tokens, one line per representation."""
    ax = own_axes(ax, height=3.5)
    ax.plot(counts, counts, color="black", lw=1, ls=":", label="number of tokens")
    for name, look in looks_of(ranks).items():
        profile(ax, counts, ranks[name], look=look, label=name)
    top = max(int(values.max()) for values in ranks.values())
    ax.set(xlabel="number of tokens", ylabel="exact rank", ylim=(0, 1.4 * top))
    ax.legend(fontsize=10, ncols=2, loc="upper left")
    return ax


def plot_margins(
    factors: Float[np.ndarray, " k"], changed: Mapping[str, np.ndarray], *, ax: Axes | None = None
) -> Axes:
    """Share of random steps that change the active set, by their length in margins."""
    ax = own_axes(ax)
    ax.axvspan(factors.min() / 1.2, 1, color=GREEN, alpha=0.12, lw=0)
    ax.text(0.97, 0.5, "certified", ha="right", fontsize=11)
    for name, look in looks_of(changed).items():
        profile(ax, factors, changed[name], look=look, label=name)
    ax.set(xscale="log", xlim=(factors.min() / 1.2, None), ylabel="share that changed",
           xlabel="length of the step / margin of the token")  # fmt: skip
    ax.set_xticks(ticks := [0.25, 0.5, 1, 2, 4, 8, 16], [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.legend(fontsize=10, loc="upper left")
    return ax
