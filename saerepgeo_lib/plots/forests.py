"""Figures of many claims and cases: forests of values with intervals, and shares of verdicts."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saerepgeo_lib.plots import panels
from saerepgeo_lib.plots.style import BLUE, GREEN, ORANGE, SKY, in_figure, looks_of
from saerepgeo_lib.stats.claims import VERDICTS

_DRAWN = zip(VERDICTS, (GREEN, SKY, ORANGE, "#cccccc"), ("", "//", "xx", ".."), strict=True)
_SHARES = ((BLUE, ""), ("#999999", ""), ("#dddddd", ""), (ORANGE, "//"), ("#ece2c6", ""))
_LOOKS: dict[str, Any] = {v: {"color": colour, "hatch": hatch} for v, colour, hatch in _DRAWN}


def _with_tokens(rows: pd.DataFrame) -> pd.DataFrame:
    """Concepts told apart by their tokens: "months" and "months (entity)"."""
    entity = rows["tokens"].map({"entity": " (entity)"}).fillna("")
    return rows.assign(concept=rows["concept"] + entity)


def plot_findings(rows: pd.DataFrame, by: str) -> Figure:
    """A claim's statistic and interval by concept, a look per case, a panel per value of `by`."""
    rows = _with_tokens(rows)
    names, looks = list(dict.fromkeys(rows["concept"])), looks_of(rows["case"])
    groups = {str(key): part for key, part in rows.groupby(by, sort=False)}
    height = 0.9 + 0.45 * len(names)
    figure, axes = panels.axes_grid(groups, height=height, sharex=True, sharey=True)
    for ax, part in zip(axes, groups.values(), strict=True):
        panels.forest_of(ax, part, row="concept", by="case", looks=looks, names=names,
                         gap=0.6 / len(looks), repeat=0.03)  # fmt: skip
    for ax in figure.axes:
        ax.axvline(0, color="0.6", lw=1, zorder=0)
    axes[-1].set_xlabel(rows["statistic"].iloc[0])
    panels.legend_below(figure, looks, ls="none")
    return figure


def plot_aucs(aucs: pd.DataFrame) -> Figure:
    """AUC with its interval by score, a look per representation, a panel per contrast."""
    looks, height = looks_of(aucs["representation"]), 0.34 * aucs["score"].nunique() + 0.5
    titled = aucs.groupby("strata against: " + aucs["contrast"], sort=False)
    groups = {str(title): rows for title, rows in titled}
    figure, axes = panels.axes_grid(groups, columns=1, height=height, extra=0.7, size=11)
    for ax, rows in zip(axes, groups.values(), strict=True):
        panels.forest_of(ax, rows, row="score", by="representation", looks=looks, gap=0.18,
                         values=("auc", "low", "high"), line=0.5).set_xlim(-0.03, 1.03)  # fmt: skip
        ax.grid(axis="y", alpha=0.3)
    axes[-1].set_xlabel("AUC")
    panels.legend_below(figure, looks)
    return figure


def plot_scores(scores: pd.DataFrame, score: str) -> Figure:
    """A score of every planted set by contrast, a look per shape, a panel per representation."""
    rows = scores[scores["score"] == score].replace({"contrast": {"": "STRATA"}})
    groups = {str(key): part for key, part in rows.groupby("representation", sort=False)}
    looks = looks_of(rows["shape"])
    figure, axes = panels.axes_grid(groups, columns=1, height=1.75, extra=0.9)
    drawn = {shape: {**look, "alpha": 0.7} for shape, look in looks.items()}
    for ax, part in zip(axes, groups.values(), strict=True):
        panels.forest_of(ax, part, row="contrast", by="shape", looks=drawn, gap=0.22)
        ax.grid(axis="x", alpha=0.3)
    axes[-1].set_xlabel(score)
    panels.legend_below(figure, looks, ls="none")
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


def plot_shares(parts: Mapping[str, pd.DataFrame]) -> Figure:
    """Shares as stacked bars, a panel per table: a row per row, a part per column (five)."""
    first = next(iter(parts.values()))
    styles = zip(map(str, first.columns), _SHARES, strict=True)
    looks = {name: {"color": colour, "hatch": hatch} for name, (colour, hatch) in styles}
    height = 0.6 + 0.17 * len(first)
    figure, axes = panels.axes_grid(parts, height=height, extra=0.6, sharey=True, sharex=True)
    for ax, shares in zip(axes, parts.values(), strict=True):
        panels.stacked_bars(
            ax, list(map(str, shares.index)), {str(name): shares[name] for name in shares}, looks
        )
        ax.set_xlim(0, 1)
        ax.set_xticks([0, 0.5, 1], ["0", "half", "all"])
    panels.legend_below(figure)
    return figure
