"""Figures of the page on noise and rank: Weyl's bounds, noise edges, code ranks, margins."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from saerepgeo_lib.plots import BLUE, COLOURS, GREEN, MARKERS, ORANGE


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
