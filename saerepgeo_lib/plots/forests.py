"""Figures of many claims and cases: forests of values with intervals, and shares of verdicts."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saerepgeo_lib.plots import panels
from saerepgeo_lib.plots.style import BLUE, GREEN, ORANGE, SKY, in_figure, looks_of
from saerepgeo_lib.stats.claims import VERDICTS

_DRAWN = zip(VERDICTS, (GREEN, SKY, ORANGE, "#cccccc"), ("", "//", "xx", ".."), strict=True)
_LOOKS: dict[str, Any] = {v: {"color": colour, "hatch": hatch} for v, colour, hatch in _DRAWN}


def plot_forests(
    table: pd.DataFrame, *, panel: str, row: str, by: str, xlabel: str, title: str = "{}",
    look: panels.Look | None = None, legend: str = "none", grid: str = "", size: int = 10,
    height: float = 1.75, extra: float = 0.7, columns: int = 1, same_rows: bool = False,
    xlim: tuple[float, float] | None = None, **forest: Any,
) -> Figure:  # fmt: skip
    """`panels.forest_of` a table, a panel per value of one column, with a legend below.

    `look` is added to that of every value of `by`, `legend` the style of the legend's lines. With
    `same_rows`, every panel has the rows of all, and all share their axes.
    """
    groups = {title.format(key): rows for key, rows in table.groupby(panel, sort=False)}
    names = list(dict.fromkeys(table[row])) if same_rows else None
    looks = looks_of(table[by])
    figure, axes = panels.axes_grid(
        groups, columns=columns, height=height, extra=extra, size=size,
        sharex=same_rows, sharey=same_rows,
    )  # fmt: skip
    drawn = {label: {**own, **(look or {})} for label, own in looks.items()}
    for ax, rows in zip(axes, groups.values(), strict=True):
        panels.forest_of(ax, rows, row=row, by=by, looks=drawn, names=names, **forest)
        if xlim:
            ax.set_xlim(xlim)
        if grid:
            ax.grid(axis=grid, alpha=0.3)  # type: ignore[arg-type]
    axes[-1].set_xlabel(xlabel)
    panels.legend_below(figure, looks, ls=legend)
    return figure


def _with_tokens(rows: pd.DataFrame) -> pd.DataFrame:
    """Concepts told apart by their tokens: "months" and "months (entity)"."""
    entity = rows["tokens"].map({"entity": " (entity)"}).fillna("")
    return rows.assign(concept=rows["concept"] + entity)


def plot_findings(rows: pd.DataFrame, by: str) -> Figure:
    """A claim's statistic and interval by concept, a look per case, a panel per value of `by`."""
    rows = _with_tokens(rows)
    figure = plot_forests(
        rows, panel=by, row="concept", by="case", xlabel=rows["statistic"].iloc[0], columns=2,
        height=0.9 + 0.45 * rows["concept"].nunique(), extra=0.5, same_rows=True,
        gap=0.6 / rows["case"].nunique(), repeat=0.03,
    )  # fmt: skip
    for ax in figure.axes:
        ax.axvline(0, color="0.6", lw=1, zorder=0)
    return figure


def plot_difference(ax: Axes, differences: pd.DataFrame) -> Axes:
    """SAE minus another space in one measure, a row per concept: value and 95 % interval.

    `differences` are rows of `case2_verdict.compare_spaces` for one measure and one other space.
    The claimed side is shaded, and a difference without an interval has no bar.
    """
    rows, looks = _with_tokens(differences), looks_of(differences["SAE"])
    panels.forest_of(ax, rows, row="concept", by="SAE", looks=looks, gap=0.24, line=0)
    left, right = ax.get_xlim()
    claimed = (0, right) if differences["sign"].iloc[0] > 0 else (left, 0)
    ax.axvspan(*claimed, color=SKY, alpha=0.15, lw=0)
    ax.set_xlim(left, right)
    ax.set_title(differences["measure"].iloc[0], fontsize=10, loc="left")
    ax.set_xlabel(in_figure(f"SAE minus {differences['other'].iloc[0]}"))
    return ax


def plot_differences(differences: pd.DataFrame) -> Figure:
    """`plot_difference` of every measure in these rows, a panel per measure."""
    measures = [rows for _, rows in differences.groupby("measure", sort=False)]
    figure, axes = panels.axes_grid(len(measures), columns=1, height=1.75, extra=0.7)
    for ax, rows in zip(axes, measures, strict=True):
        plot_difference(ax, rows).set_xlabel("")
    axes[-1].set_xlabel(f"SAE minus {differences['other'].iloc[0]}")
    panels.legend_below(figure, looks_of(differences["SAE"]), ls="none")
    return figure


def plot_false_positives(
    table: pd.DataFrame, *, level: float, low: float, high: float, ax: Axes | None = None
) -> Axes:
    """Rate of p <= level on null data by test, with 95 % intervals; the accepted band shaded."""
    ax = panels.own_axes(ax, height=0.42 * len(table) + 0.6)
    ax.axvspan(low, high, color=SKY, alpha=0.25, lw=0)
    ax.axvline(level, color="k", lw=1, ls="--")
    rows = table[["rate", "low", "high"]].reset_index()
    panels.forest(ax, rows, look={"color": BLUE, "marker": "o"})
    panels.named_rows(ax, list(table["test"])).set_xlim(left=0)
    ax.set_xlabel(f"share of null data with p at most {level:g}")
    return ax


def plot_optima(shrinkage: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """rho* of each case with its 95 % interval over frames, grouped by SAE."""
    ax = panels.own_axes(ax, height=0.3 * len(shrinkage) + 1.3)
    looks = looks_of(shrinkage["SAE"])
    gap = shrinkage["SAE"].map(list(looks).index)
    cases = shrinkage.assign(gap=gap).sort_values("gap", kind="stable")
    cases["at"] = np.arange(len(cases)) + cases["gap"] / 2
    for sae, look in looks.items():
        rows = cases.loc[cases["SAE"] == sae, ["at", "rho*", "low", "high"]]
        panels.forest(ax, rows, look=look, line=1.0)
    ax.set_yticks(cases["at"], [in_figure(name, panels.LINE // 2) for name in cases["concept"]])
    ax.invert_yaxis()
    ax.set_xlabel("rho*: the scaling at which the error is least")
    panels.legend_below(ax.figure, looks)  # type: ignore[arg-type]
    return ax


def plot_verdicts(counts: pd.DataFrame, by: str) -> Figure:
    """Share of each verdict by claim, a panel per value of `by`; see `compare.verdict_counts`."""
    names, groups = list(counts["claim"].unique()), counts.groupby(by, sort=False)
    titles = [str(key) for key, _ in groups]
    figure, axes = panels.axes_grid(titles, height=0.8 + 0.34 * len(names), sharey=True)
    for ax, (_, rows) in zip(axes, groups, strict=True):
        rows = rows.set_index("claim").reindex(names)
        shares: dict[str, Any] = {verdict: rows[verdict] / rows["n"] for verdict in VERDICTS}
        panels.stacked_bars(ax, names, shares, _LOOKS)
        for place, n in enumerate(rows["n"].fillna(0)):
            ax.text(1.02, place, f"{n:.0f}", va="center", fontsize=9)
        ax.set_xlim(0, 1.12)
        ax.set_xticks([0, 0.5, 1], ["0", "half", "all"])
    panels.legend_below(figure)
    return figure
