"""Figures of "Sparse against dense": distributions, effect sizes, and where profiles start."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from saerepgeo_lib.noise_sweep import RESIDUAL, randomized
from saerepgeo_lib.plots import looks_of
from saerepgeo_lib.sparse_dense import DENSE, LABELS
from saerepgeo_lib.sparse_dense_verdict import REPRESENTATIONS


def _looks() -> dict[str, dict[str, Any]]:
    """A colour for each kind, which its random encoder shares with an open marker."""
    looks = looks_of([*LABELS.values(), RESIDUAL], null=RESIDUAL)
    random = {randomized(name): looks[name] | {"mfc": "white"} for name in LABELS.values()}
    return looks | random


def plot_distributions(table: pd.DataFrame, *, rule: str, mode: int) -> Figure:
    """Relative range by representation, a panel a layer: a dot a concept and seed, bar at median.

    Seeds stand above each other within a representation's row.
    """
    part = table[(table["rule"] == rule) & (table["mode"] == mode)]
    layers, looks = sorted(part["layer"].unique()), _looks()
    figure = Figure(figsize=(6.6, 1.0 + 2.3 * len(layers)), layout="constrained")
    axes = np.atleast_1d(figure.subplots(len(layers), 1, sharex=True))
    for ax, layer in zip(axes, layers, strict=True):
        for y, name in enumerate(REPRESENTATIONS):
            own = part[(part["layer"] == layer) & (part["representation"] == name)]
            offset = 0.18 * (own["seed"] - own["seed"].mean())
            ax.plot(own["range"], y + offset, ls="none", ms=4, alpha=0.7, **looks[name])
            ax.plot([own["range"].median()] * 2, [y - 0.38, y + 0.38], color="black", lw=1.6)
        ax.set_yticks(range(len(REPRESENTATIONS)), REPRESENTATIONS, fontsize=9)
        ax.invert_yaxis()
        ax.set_title(f"block {layer}", fontsize=10, loc="left")
        ax.grid(axis="x", alpha=0.3)
    axes[-1].set_xlim(left=-0.1)
    axes[-1].set_xlabel(f"relative range of the {rule} rank, mode {mode}")
    return figure


def plot_effects(by_mode: Mapping[int, pd.DataFrame]) -> Figure:
    """Effects with intervals, a row a comparison and rule, a colour a mode; a panel an effect.

    Broad bars span the effect by seed.
    """
    first = next(iter(by_mode.values()))
    rows = first[first["effect"] == first["effect"].iloc[0]]
    names = [
        f"{r.of} − {'dense AE' if r.against == DENSE else 'its random'}, {r.rule}"
        for r in rows.itertuples()
    ]
    kinds = list(dict.fromkeys(first["effect"]))
    figure = Figure(figsize=(6.6, 1.4 + 0.4 * len(names)), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(kinds), sharey=True))
    looks = looks_of([f"mode {mode}" for mode in by_mode])
    for ax, kind in zip(axes, kinds, strict=True):
        for i, (effects, look) in enumerate(zip(by_mode.values(), looks.values(), strict=True)):
            part = effects[effects["effect"] == kind]
            y = np.arange(len(part)) + 0.3 * (i - (len(by_mode) - 1) / 2)
            ax.hlines(y, part["least"], part["greatest"], color=look["color"], lw=5, alpha=0.3)
            ax.hlines(y, part["low"], part["high"], color=look["color"], lw=1.4)
            ax.plot(part["value"], y, ls="none", ms=4, **look)
        ax.axvline(0, color="0.4", lw=1)
        ax.set_xlabel(kind)
    axes[0].set_yticks(range(len(names)), names, fontsize=8)
    axes[0].invert_yaxis()
    handles = [Line2D([], [], ls="none", label=name, **look) for name, look in looks.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9)
    return figure


def plot_starts(table: pd.DataFrame, *, rule: str, mode: int) -> Figure:
    """Relative range against the clean rank's share of its ceiling, a dot a cell.

    The line is the range of a profile that climbs from its start to its ceiling.
    """
    part = table[(table["rule"] == rule) & (table["mode"] == mode)]
    figure = Figure(figsize=(6.6, 4.6), layout="constrained")
    ax = figure.subplots()
    looks = _looks()
    for name in REPRESENTATIONS:
        own = part[part["representation"] == name]
        share = own["clean"] / own["ceiling"]
        ax.plot(share, own["range"], ls="none", ms=4, alpha=0.7, label=name, **looks[name])
    x = np.geomspace(max(0.02, (part["clean"] / part["ceiling"]).min()), 1, 200)
    ax.plot(x, 1 / x - 1, color="black", lw=1, label="from start to ceiling")
    ax.set(xlim=(0, 1.02), xlabel="clean rank / ceiling", ylabel="relative range")
    ax.set_ylim(-0.1, 1.05 * part["range"].max())
    figure.legend(loc="outside lower center", ncols=3, fontsize=9)
    return figure
