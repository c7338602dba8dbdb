"""Figures of Case 1: spectra, rank profiles, certificate, variability."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saerepgeo_lib.plots import panels
from saerepgeo_lib.plots.frames import Frame
from saerepgeo_lib.plots.style import looks_of
from saerepgeo_lib.rank.noise_sweep import RESIDUAL, Sweep


def plot_spectra(result: Sweep, labels: Sequence[str], *, mode: int, tau: float) -> Figure:
    """Spectra s_i / s_1 of one unfolding, mean over seeds, a panel per representation.

    One line per noise level, dark (none) to light (most); the dashed line is the relative rank's
    threshold tau.
    """
    figure, axes = panels.axes_grid(labels, height=2.5, extra=0.9, sharey=True)
    shades = mpl.colormaps["cividis"](np.linspace(0, 0.95, len(result.levels)))
    for ax, label in zip(axes, labels, strict=True):
        for s, shade in zip(result.spectra[label, mode].mean(axis=1), shades, strict=True):
            panels.spectrum(ax, s, color=shade, lw=1.4)
        ax.axhline(tau, color="black", lw=1, ls="--")
    figure.supylabel("singular value $s_i / s_1$", fontsize=10)
    levels = {f"{level:g}": {"color": c} for level, c in zip(result.levels, shades, strict=True)}
    panels.legend_below(figure, levels, columns=5)
    figure.legends[0].set_title("noise level")
    return figure


def profile_panel(
    ax: Axes, ranks: pd.DataFrame, certified: pd.DataFrame, *, rule: str, mode: int
) -> Axes:
    """Rank profiles of one mode: mean and range over seeds by noise level, a line per label.

    A segment is solid where Weyl's inequality certifies the rank at both ends for every seed
    (relative rank only), and dashed elsewhere.
    """
    ranks = ranks[(ranks["rule"] == rule) & (ranks["mode"] == mode)]
    by_level = ranks.groupby(["label", "level"])["rank"].agg(["mean", "min", "max"])
    certified = certified[certified["mode"] == mode]
    sure = certified.groupby(["label", "level"])["certified"].all().unstack()
    at = panels.levels_axis(ax, sorted(set(ranks["level"])))
    for label, look in _looks(ranks).items():
        mean, low, high = by_level.loc[label].to_numpy().T
        panels.profile(ax, at, mean, low, high, look=look, ls="none", label=label)
        for ends in (slice(i, i + 2) for i in at[:-1]):
            solid = rule == "relative" and sure.loc[label].iloc[ends].all()
            dashes, width = ("-", 2.4) if solid else ((0, (3, 1.5)), 1.3)
            ax.plot(at[ends], mean[ends], color=look["color"], ls=dashes, lw=width)
    ax.set_ylabel(f"{rule} rank")
    ax.set_ylim(bottom=0)
    return ax


def plot_profiles(
    ranks: Mapping[str, pd.DataFrame], certified: Mapping[str, pd.DataFrame], *,
    rule: str, mode: int,
) -> Figure:  # fmt: skip
    """`profile_panel` of each concept, one below the other."""
    figure, axes = panels.axes_grid(ranks, columns=1, height=2.9, extra=0.9, size=11)
    for ax, (concept, table) in zip(axes, ranks.items(), strict=True):
        profile_panel(ax, table, certified[concept], rule=rule, mode=mode)
        ax.set_xlabel("noise level" if ax is axes[-1] else "")
    panels.legend_below(figure, _looks(*ranks.values()))
    return figure


def plot_certificate(
    certified: pd.DataFrame, ranks: pd.DataFrame, labels: Sequence[str], *, mode: int
) -> Figure:
    """Measured relative rank inside the interval that Weyl's inequality allows, by noise level."""
    figure, axes = panels.axes_grid(labels, height=2.7, extra=0.3, sharey=True)
    looks, keys = _looks(ranks), ["label", "level"]
    ranks, certified = (table[table["mode"] == mode] for table in (ranks, certified))
    measured = ranks[ranks["rule"] == "relative"].groupby(keys)["rank"].mean().unstack()
    bounds = certified.groupby(keys).agg({"low": "min", "high": "max"})
    for ax, label in zip(axes, labels, strict=True):
        low, high = bounds.loc[label].to_numpy().T
        look = {"color": looks[label]["color"], "marker": "o", "ms": 4}
        at = panels.levels_axis(ax, sorted(set(ranks["level"])))
        panels.profile(ax, at, measured.loc[label], low, high, look=look)
    figure.supylabel("relative rank", fontsize=11)
    return figure


def plot_variability(
    spread: Mapping[str, pd.DataFrame], *, mode: int, medians: bool = False,
    looks: Mapping[str, panels.Look] | None = None,
) -> Figure:  # fmt: skip
    """Relative range of the rank profile, a dot per row of the tables, a panel per table.

    A representation has a line of the panel, on which the seeds stand a little above each other;
    `looks` are those of the representations, in their order. `medians` are drawn as bars.
    """
    figure, axes = panels.axes_grid(spread, columns=1, height=2.2, extra=1.0, sharex=True)
    for ax, table in zip(axes, spread.values(), strict=True):
        table, rows = table[table["mode"] == mode], looks or _looks(table)
        for y, (label, look) in enumerate(rows.items()):
            dots = table[table["label"] == label]
            above = dots["seed"] - dots["seed"].mean()
            places = y + 0.18 * above / max(1, above.max())
            ax.plot(dots["variability"], places, ls="none", ms=5, alpha=0.7, **look)
            if medians:
                middle = dots["variability"].median()
                ax.vlines(middle, y - 0.38, y + 0.38, color="black", lw=1.6)
        panels.named_rows(ax, list(rows))
        ax.grid(axis="x", alpha=0.3)
    axes[-1].set_xlabel("(largest rank - smallest rank) / clean rank")
    axes[-1].set_xlim(left=-0.02 * axes[-1].get_xlim()[1])
    return figure


def noise_frame(
    result: Sweep, ranks: pd.DataFrame, *, at: int, rule: str, mode: int, tau: float
) -> Frame:
    """Spectra at one noise level (number `at`), and the rank profile with that level marked.

    Means over seeds, a colour per representation; the clean spectra stay as thin lines, and the
    dashed line is the relative rank's threshold tau.
    """
    figure, (above, below) = panels.axes_grid(2, columns=1, height=3.3, extra=0)
    looks, level = _looks(ranks), result.levels[at]
    chosen = ranks[(ranks["rule"] == rule) & (ranks["mode"] == mode)]
    mean = chosen.groupby(["label", "level"])["rank"].mean()
    places = panels.levels_axis(below, result.levels)
    for label, look in looks.items():
        spectra = result.spectra[label, mode].mean(axis=1)
        for i, width in ((0, 0.7), (at, 2.0)):
            panels.spectrum(above, spectra[i], color=look["color"], lw=width)
        below.plot(places, mean[label], color=look["color"], lw=1.2)
        below.plot(places[at], mean[label, level], ms=8, **look)
    above.axhline(tau, color="black", lw=1, ls="--")
    above.set(ylim=(tau / 30, 1.3), ylabel="singular value $s_i / s_1$")
    below.axvline(places[at], color="0.6", lw=1)
    below.set(ylim=(0, 1.08 * mean.max()), ylabel=f"{rule} rank")
    panels.legend_below(figure, looks)
    listed = ", ".join(f"{label} {mean[label, level]:.0f}" for label in looks)
    return Frame(figure, f"{level:g}", f"mean {rule} rank: {listed}")


def _looks(*tables: pd.DataFrame) -> dict[str, panels.Look]:
    """The look of each representation in the tables' column "label"."""
    return dict(looks_of(pd.concat(tables)["label"].unique(), null=RESIDUAL))
