"""Figures of Case 1: spectra, rank profiles, certificate, variability."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from saerepgeo_lib.interactive import Frame
from saerepgeo_lib.noise_sweep import RESIDUAL, Sweep
from saerepgeo_lib.plots import looks_of


def _level_axis(ax: Axes, levels: Sequence[float], *, label: bool = True) -> np.ndarray:
    """Equidistant positions for levels; 0 and a logarithmic rest do not share a scale."""
    at = np.arange(len(levels))
    ax.set_xticks(at, [f"{level:g}" for level in levels], rotation=60, fontsize=10)
    if label:
        ax.set_xlabel("noise level")
    return at


def plot_spectra(
    result: Sweep, labels: Sequence[str], *, mode: int = 3, tau: float | None = None
) -> Figure:
    """Spectra s_i / s_1 of one unfolding, mean over seeds, one panel a representation.

    One line a noise level, dark (none) to light (most); the dashed line is the relative
    rank's threshold tau.
    """
    columns = min(2, len(labels))
    rows = -(-len(labels) // columns)
    figure = Figure(figsize=(6.6, 2.5 * rows + 0.9), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns, sharex=True, sharey=True)).ravel()
    shades = mpl.colormaps["cividis"](np.linspace(0, 0.95, len(result.levels)))
    for ax, label in zip(axes, labels, strict=False):
        spectra = result.spectra[label, mode].mean(axis=1)
        for s, colour in zip(spectra, shades, strict=True):
            relative = s / s[0]
            kept = relative > 1e-6
            ax.plot(np.arange(1, len(s) + 1)[kept], relative[kept], color=colour, lw=1.4)
        if tau is not None:
            ax.axhline(tau, color="black", lw=1, ls="--")
        ax.set_title(label, fontsize=10)
        ax.set_xscale("log")
        ax.set_yscale("log")
    for ax in axes[len(labels) :]:
        ax.set_visible(False)
    for ax in axes[len(labels) - columns : len(labels)]:
        ax.set_xlabel("index i")
        ax.xaxis.set_tick_params(labelbottom=True)
    figure.supylabel("singular value $s_i / s_1$", fontsize=10)
    handles = [
        Line2D([], [], color=c, lw=2, label=f"{x:g}")
        for c, x in zip(shades, result.levels, strict=True)
    ]
    figure.legend(handles=handles, title="noise level", loc="outside lower center", ncols=5)
    return figure


def plot_profiles(
    ranks: Mapping[str, pd.DataFrame],
    certified: Mapping[str, pd.DataFrame],
    *,
    rule: str,
    mode: int,
) -> Figure:
    """Rank profiles of one mode, a panel a concept: mean and range over seeds by noise level.

    A segment is solid where Weyl's inequality certifies the rank at both ends for every seed
    (relative rank only), and dashed elsewhere.
    """
    figure = Figure(figsize=(6.6, 2.9 * len(ranks) + 0.9), layout="constrained")
    axes = np.atleast_1d(figure.subplots(len(ranks), 1))
    for ax, (concept, table) in zip(axes, ranks.items(), strict=True):
        chosen = table[(table["rule"] == rule) & (table["mode"] == mode)]
        looks = looks_of(tuple(dict.fromkeys(chosen["label"])), null=RESIDUAL)
        levels = sorted(set(chosen["level"]))
        at = _level_axis(ax, levels, label=ax is axes[-1])
        for label, look in looks.items():
            by_level = chosen[chosen["label"] == label].groupby("level")["rank"]
            mean = by_level.mean().to_numpy()
            ax.fill_between(at, by_level.min(), by_level.max(), color=look["color"], alpha=0.18)
            sure = _certified_levels(certified[concept], label, mode, levels, rule)
            for i in at[:-1]:
                solid = sure[i] and sure[i + 1]
                line: dict[str, Any] = (
                    {"ls": "-", "lw": 2.4} if solid else {"ls": (0, (3, 1.5)), "lw": 1.3}
                )
                ax.plot(at[i : i + 2], mean[i : i + 2], color=look["color"], **line)
            ax.plot(at, mean, ls="none", ms=5, **look)
        ax.set_title(concept, fontsize=11, loc="left")
        ax.set_ylabel(f"{rule} rank")
        ax.set_ylim(bottom=0)
    handles = [Line2D([], [], ls="-", lw=1.3, label=label, **looks[label]) for label in looks]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=10)
    return figure


def _certified_levels(
    certified: pd.DataFrame, label: str, mode: int, levels: Sequence[float], rule: str
) -> list[bool]:
    if rule != "relative":
        return [False] * len(levels)
    part = certified[(certified["label"] == label) & (certified["mode"] == mode)]
    by_level = part.groupby("level")["certified"].all()
    return [bool(by_level[level]) for level in levels]


def plot_certificate(
    certified: pd.DataFrame, ranks: pd.DataFrame, labels: Sequence[str], *, mode: int = 3
) -> Figure:
    """Measured relative rank inside the interval that Weyl's inequality allows, by noise level."""
    looks = looks_of(tuple(dict.fromkeys(ranks["label"])), null=RESIDUAL)
    rows = -(-len(labels) // 2)
    figure = Figure(figsize=(6.6, 2.7 * rows + 0.3), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, 2, sharey=True)).ravel()
    for ax in axes[len(labels) :]:
        ax.set_visible(False)
    for ax, label in zip(axes, labels, strict=False):
        part = certified[(certified["label"] == label) & (certified["mode"] == mode)]
        bounds = part.groupby("level").agg({"low": "min", "high": "max"})
        measured = ranks[
            (ranks["label"] == label) & (ranks["mode"] == mode) & (ranks["rule"] == "relative")
        ].groupby("level")["rank"]
        at = _level_axis(ax, list(bounds.index))
        colour = looks[label]["color"]
        ax.fill_between(at, bounds["low"], bounds["high"], color=colour, alpha=0.2, lw=0)
        ax.plot(at, measured.mean(), color=colour, marker="o", ms=4)
        ax.set_title(label, fontsize=10)
    figure.supylabel("relative rank", fontsize=11)
    return figure


def plot_variability(spread: Mapping[str, pd.DataFrame], *, mode: int = 3) -> Figure:
    """Relative range of the rank profile, one dot a seed, by representation; a row a concept."""
    figure = Figure(figsize=(6.6, 1.0 + 2.1 * len(spread)), layout="constrained")
    axes = np.atleast_1d(figure.subplots(len(spread), 1, sharex=True))
    for ax, (concept, table) in zip(axes, spread.items(), strict=True):
        part = table[table["mode"] == mode]
        labels = list(dict.fromkeys(part["label"]))
        looks = looks_of(labels, null=RESIDUAL)
        for y, label in enumerate(labels):
            values = part.loc[part["label"] == label, "variability"]
            ax.plot(values, [y] * len(values), ls="none", ms=6, alpha=0.7, **looks[label])
        ax.set_yticks(range(len(labels)), labels, fontsize=10)
        ax.invert_yaxis()
        ax.set_title(concept, fontsize=10, loc="left")
        ax.grid(axis="x", alpha=0.3)
    axes[-1].set_xlabel("(largest rank - smallest rank) / clean rank")
    axes[-1].set_xlim(left=0)
    return figure


def noise_frame(
    result: Sweep, ranks: pd.DataFrame, *, at: int, rule: str, mode: int, tau: float
) -> Frame:
    """Spectra at one noise level (number `at`), and the rank profile with that level marked.

    Means over seeds, a colour a representation; the clean spectra stay as thin lines, and the
    dashed line is the relative rank's threshold tau.
    """
    figure = Figure(figsize=(6.6, 6.6), layout="constrained")
    above, below = figure.subplots(2, 1)
    looks = looks_of(result.labels, null=RESIDUAL)
    chosen = ranks[(ranks["rule"] == rule) & (ranks["mode"] == mode)]
    mean = chosen.groupby(["label", "level"])["rank"].mean()
    places = _level_axis(below, result.levels)
    for label, look in looks.items():
        spectra = result.spectra[label, mode].mean(axis=1)
        for i, width in ((0, 0.7), (at, 2.0)):
            relative = spectra[i] / max(spectra[i][0], 1e-300)
            kept = relative > 1e-6
            index = np.arange(1, len(relative) + 1)[kept]
            above.plot(index, relative[kept], color=look["color"], lw=width)
        profile = mean[label].to_numpy()
        below.plot(places, profile, color=look["color"], lw=1.2)
        below.plot(places[at], profile[at], ms=8, **look)
    above.axhline(tau, color="black", lw=1, ls="--")
    above.set(xscale="log", yscale="log", ylim=(tau / 30, 1.3), xlabel="index i")
    above.set_ylabel("singular value $s_i / s_1$")
    below.axvline(places[at], color="0.6", lw=1)
    below.set_ylim(0, 1.08 * mean.max())
    below.set_ylabel(f"{rule} rank")
    handles = [Line2D([], [], ls="-", lw=1.6, label=label, **looks[label]) for label in looks]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=10)
    level = result.levels[at]
    found = ", ".join(f"{label} {mean[label, level]:.0f}" for label in looks)
    return Frame(figure, f"{level:g}", f"mean {rule} rank: {found}")
