"""Figures of what the library costs."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from saerepgeo_lib.costs import CAREFUL, COMPUTED, LEAN, LIBRARY, PLAIN
from saerepgeo_lib.plots import BLUE, COLOURS, ORANGE, looks_of

_HATCHES = ("", "//", "..", "xx")


def plot_stages(table: pd.DataFrame) -> Figure:
    """Seconds of each stage (bars) and its floor (marks), a panel a shape; `costs.stage_table`."""
    shapes, names = list(table["shape"].unique()), list(table["stage"].unique())[::-1]
    figure = Figure(figsize=(3 + 2.6 * len(shapes), 0.9 + 0.34 * len(names)), layout="constrained")
    axes = figure.subplots(1, len(shapes), sharey=True, squeeze=False)[0]
    for ax, shape in zip(axes, shapes, strict=True):
        part = table[table["shape"] == shape]
        place = [names.index(name) for name in part["stage"]]
        ax.barh(place, part["seconds"], color=BLUE, height=0.6, label="time")
        ax.plot(part["floor"], place, "D", color=ORANGE, ms=5, label="floor")
        ax.set_xscale("log")
        ax.set_yticks(range(len(names)), names)
        ax.set_title(shape, fontsize=10)
        ax.set_xlabel("seconds")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def plot_peers(table: pd.DataFrame) -> Figure:
    """CPU seconds of each side of Case 1 by part, a panel a task; `costs.peers_table`.

    Of the sides that all concepts of the task are known of; sums over fewer would look cheap.
    """
    known = {"case", "shape", "task", "side", "concepts", "CPU s", "ratio", "peak MiB", "how"}
    table = table[table["case"] == 1].dropna(axis=1, how="all")
    most = table.groupby("task", sort=False)["concepts"].transform("max")
    table = table[table["concepts"] == most]
    parts = [name for name in table if name not in known]
    known_of = set(table["side"])
    sides = [side for side in (LIBRARY, CAREFUL, LEAN, PLAIN) if side in known_of]
    tasks = list(table["task"].unique())
    figure = Figure(figsize=(1.5 + 3.4 * len(tasks), 2.9), layout="constrained")
    axes = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    for ax, task in zip(axes, tasks, strict=True):
        rows = table[table["task"] == task].set_index("side").reindex(sides)
        left = np.zeros(len(sides))
        for i, part in enumerate(parts):
            width = rows[part].fillna(0).to_numpy()
            ax.barh(sides, width, left=left, color=COLOURS[i], hatch=_HATCHES[i % 4],
                    edgecolor="white", linewidth=0.5, label=part)  # fmt: skip
            left += width
        for place, (total, how) in enumerate(zip(left, rows["how"].fillna(""), strict=True)):
            mark = "*" if how.startswith(COMPUTED) else ""
            ax.text(total, place, f" {total:,.0f} s{mark}", va="center", fontsize=9)
        ax.set_xlim(0, 1.3 * left.max())
        ax.set_title(task, fontsize=10)
        ax.set_xlabel("CPU seconds")
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def plot_growth(points: pd.DataFrame) -> Figure:
    """Cost over that of the smallest size, a panel an axis, beside a line of exponent 1."""
    axes_names, stages = list(points["axis"].unique()), list(points["stage"].unique())
    looks = looks_of(stages)
    figure = Figure(figsize=(8.4, 5.2), layout="constrained")
    panels = figure.subplots(2, 3).flatten()
    for ax, name in zip(panels, axes_names, strict=False):
        part = points[points["axis"] == name]
        for stage, found in part.groupby("stage", sort=False):
            size = found["size"] / found["size"].iloc[0]
            ax.plot(size, found["seconds"] / found["seconds"].iloc[0], lw=1.2, ms=4,
                    **looks[str(stage)])  # fmt: skip
        ends = np.array([1, part["size"].max() / part["size"].min()])
        ax.plot(ends, ends, color="0.5", lw=1, ls="--")
        ax.set_xscale("log", base=2)
        ax.set_yscale("log", base=2)
        ax.set_title(f"{name}: times more", fontsize=10)
        ax.set_ylabel("times the cost", fontsize=9)
    for ax in panels[len(axes_names) :]:
        ax.axis("off")
    handles = [panels[0].plot([], [], label=stage, **looks[stage])[0] for stage in stages]
    handles += panels[0].plot([], [], color="0.5", ls="--", label="exponent 1")
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=9)
    return figure
