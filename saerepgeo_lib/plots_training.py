"""Figures of separability as a training objective."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from saerepgeo_lib.plots import looks_of
from saerepgeo_lib.separability_effects import KINDS, OUTCOMES


def plot_pareto(changes: pd.DataFrame, found: pd.DataFrame, *, x: str) -> Figure:
    """FVU against separability, both as changes at equal L0; a panel a kind.

    Small: seeds (`matched`). Large: means with intervals over seeds (`effects`), joined in order of
    strength. The cross at the origin is the baseline.
    """
    figure = Figure(figsize=(6.8, 3.7), layout="constrained")
    axes = figure.subplots(1, len(KINDS), squeeze=False)[0]
    strengths = sorted(found["strength"].unique())
    looks = looks_of([f"strength {s:g}" for s in strengths])
    for ax, (kind, label) in zip(axes, KINDS.items(), strict=True):
        means = found[found["kind"] == kind].pivot(
            index="strength", columns="outcome", values=["value", "low", "high"]
        )
        for strength, (name, look) in zip(strengths, looks.items(), strict=True):
            part = changes[(changes["kind"] == kind) & (changes["strength"] == strength)]
            seeds = part.pivot(index="seed", columns="outcome", values="change")
            ax.plot(seeds[x], seeds["FVU"], ls="none", ms=3.5, alpha=0.6, **look)
            row = means.loc[strength]
            bars = {
                f"{axis}err": [
                    [row["value", y] - row["low", y]],
                    [row["high", y] - row["value", y]],
                ]
                for axis, y in (("x", x), ("y", "FVU"))
            }
            ax.errorbar(
                row["value", x], row["value", "FVU"], **bars, ms=8, lw=1.2, label=name, **look
            )
        path = np.vstack([[0, 0], means["value"][[x, "FVU"]].loc[[s for s in strengths if s > 0]]])
        ax.plot(*path.T, color="0.6", lw=1, zorder=0)
        ax.axhline(0, color="k", lw=0.8, zorder=0)
        ax.axvline(0, color="k", lw=0.8, zorder=0)
        ax.plot(0, 0, "k+", ms=10)
        ax.set_title(label, fontsize=10)
        ax.set_xlabel(OUTCOMES[x][0].replace(", %", ": change, %"))
    axes[0].set_ylabel("FVU at equal L0: change, %")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def plot_effects(changes: pd.DataFrame, found: pd.DataFrame) -> Figure:
    """Every outcome's change by strength with intervals over seeds, a panel an outcome."""
    rows = -(-len(OUTCOMES) // 2)
    figure = Figure(figsize=(6.8, 1.75 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, 2, sharex=True).ravel()
    strengths = sorted(found["strength"].unique())
    looks = looks_of(list(KINDS.values()))
    for ax in axes[len(OUTCOMES) :]:
        ax.set_visible(False)
    for ax, (outcome, (title, _)) in zip(axes, OUTCOMES.items(), strict=False):
        for shift, (kind, label) in zip((-0.12, 0.12), KINDS.items(), strict=True):
            rows_of = found[(found["outcome"] == outcome) & (found["kind"] == kind)]
            place = np.array([strengths.index(s) for s in rows_of["strength"]]) + shift
            ax.vlines(place, rows_of["low"], rows_of["high"], color=looks[label]["color"], lw=1.5)
            ax.plot(place, rows_of["value"], ls="none", ms=6, label=label, **looks[label])
            part = changes[(changes["outcome"] == outcome) & (changes["kind"] == kind)]
            dots = [strengths.index(s) + shift + 0.07 for s in part["strength"]]
            ax.plot(dots, part["change"], ls="none", marker=".", ms=3, color=looks[label]["color"])
        ax.axhline(0, color="k", lw=0.8)
        ax.set_title(title, fontsize=10, loc="left")
        ax.set_xticks(range(len(strengths)), [f"{s:g}" for s in strengths])
    for ax in axes[len(OUTCOMES) - 2 : len(OUTCOMES)]:
        ax.set_xlabel("strength")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure
