"""Figures of many runs: verdicts claim by claim, and one claim case by case."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from saerepgeo_lib.compare import VERDICTS
from saerepgeo_lib.plots import looks_of

_LOOKS = dict(zip(VERDICTS, ("#009E73", "#56B4E9", "#D55E00", "#cccccc"), strict=True))
_HATCHES = dict(zip(VERDICTS, ("", "//", "xx", ".."), strict=True))


def plot_verdicts(counts: pd.DataFrame, by: str) -> Figure:
    """Share of each verdict by claim, a panel a value of `by`; see `compare.verdict_counts`."""
    panels = list(counts[by].unique())
    claims = list(counts["claim"].unique())[::-1]
    size = (3.4 + 3.2 * len(panels), 1.3 + 0.34 * len(claims))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, panel in zip(axes, panels, strict=True):
        part = counts[counts[by] == panel].set_index("claim").reindex(claims)
        left = np.zeros(len(claims))
        for verdict in VERDICTS:
            share = (part[verdict] / part["n"]).fillna(0).to_numpy()
            ax.barh(
                claims, share, left=left, color=_LOOKS[verdict], hatch=_HATCHES[verdict],
                edgecolor="white", linewidth=0.5, label=verdict,
            )  # fmt: skip
            left += share
        for place, n in enumerate(part["n"].fillna(0)):
            ax.text(1.02, place, f"{n:.0f}", va="center", fontsize=9)
        ax.set_xlim(0, 1.12)
        ax.set_xticks([0, 0.5, 1], ["0", "half", "all"])
        ax.set_title(str(panel), fontsize=10)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=10)
    return figure


def plot_findings(found: pd.DataFrame, by: str) -> Figure:
    """A claim's statistic and interval by concept, a colour a case, a panel a value of `by`."""
    panels, cases = list(found[by].unique()), list(found["case"].unique())
    concepts = list(found["concept"].unique())[::-1]
    looks = looks_of(cases)
    size = (2.2 + 3.6 * len(panels), 1.4 + 0.45 * len(concepts))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for ax, panel in zip(axes, panels, strict=True):
        ax.axvline(0, color="0.6", lw=1)
        for i, case in enumerate(cases):
            part = found[(found[by] == panel) & (found["case"] == case)]
            repeat = part.groupby("concept").cumcount()  # runs that differ in something else
            place = part["concept"].map(concepts.index) + 0.03 * repeat
            place = place + 0.6 * (i + 0.5) / len(cases) - 0.3
            ax.hlines(place, part["low"], part["high"], color=looks[case]["color"], lw=1)
            ax.plot(part["value"], place, ls="", ms=5, label=case, **looks[case])
        ax.set_yticks(range(len(concepts)), concepts)
        ax.set_title(str(panel), fontsize=10)
    axes[len(panels) // 2].set_xlabel(found["statistic"].iloc[0])
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=10)
    return figure
