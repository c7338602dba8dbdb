"""Figures of separability as a training objective."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from saerepgeo_lib.plots import looks_of
from saerepgeo_lib.separability_effects import KINDS, OUTCOMES


def plot_pareto(changes: pd.DataFrame, found: pd.DataFrame) -> Figure:
    """FVU against separability, as changes at equal L0; a column a kind of SAE.

    Above the groups of held-out text, below the entities. Small: seeds (`matched`). Large: means
    with intervals over seeds (`effects`), joined in order of strength from the baseline, the cross.
    Controls of negative strength are left out.
    """
    figure = Figure(figsize=(6.8, 6.0), layout="constrained")
    axes = figure.subplots(2, len(KINDS), sharey="col")
    strengths = sorted(s for s in found["strength"].unique() if s > 0)
    looks = looks_of([f"strength {s:g}" for s in strengths])
    for column, (kind, label) in zip(axes.T, KINDS.items(), strict=True):
        for ax, x in zip(column, ("separability", "AEDP"), strict=True):
            means = found[found["kind"] == kind].pivot(
                index="strength", columns="outcome", values=["value", "low", "high"]
            )
            for strength, (name, look) in zip(strengths, looks.items(), strict=True):
                part = changes[(changes["kind"] == kind) & (changes["strength"] == strength)]
                seeds = part.pivot(index="seed", columns="outcome", values="change")
                ax.plot(seeds[x], seeds["FVU"], ls="none", ms=3.5, alpha=0.6, **look)
                row = means.loc[strength]
                bars = {
                    f"{axis}err": np.abs(
                        row[[("low", y), ("high", y)]].to_numpy() - row["value", y]
                    )
                    for axis, y in (("x", x), ("y", "FVU"))
                }
                bars = {name: ends[:, None] for name, ends in bars.items()}
                ax.errorbar(row["value", x], row["value", "FVU"], **bars, ms=8, lw=1.2, label=name,
                            **look)  # fmt: skip
            path = np.vstack([[0, 0], means["value"][[x, "FVU"]].loc[lambda m: m.index > 0]])
            ax.plot(*path.T, color="0.6", lw=1, zorder=0)
            ax.axhline(0, color="k", lw=0.8, zorder=0)
            ax.axvline(0, color="k", lw=0.8, zorder=0)
            ax.plot(0, 0, "k+", ms=10)
            ax.set_xlabel(OUTCOMES[x][0].replace(", %", ": change, %"))
        column[0].set_title(label, fontsize=10)
    for ax in axes[:, 0]:
        ax.set_ylabel("FVU: change, %")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
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
