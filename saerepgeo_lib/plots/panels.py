"""A few panels from which the book's figures are made; each draws into an `ax` and returns it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Real
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from saerepgeo_lib.plots.style import in_figure

WIDTH = 6.6  # inches; what a phone shows without shrinking the text
LINE = 78  # characters of 10 points that fit into it

Look = Mapping[str, Any]


def axes_grid(
    panels: int | Iterable[str], *, columns: int = 2, height: float = 2.6, extra: float = 0.5,
    size: int = 10, **options: Any,
) -> tuple[Figure, list[Axes]]:  # fmt: skip
    """A figure of panels (their number or titles), at most `columns` a row, `height` inches high.

    `extra` inches are added for what is around them; `size` is that of the titles; `options` go
    to `Figure.subplots`.
    """
    titles = [""] * panels if isinstance(panels, int) else list(panels)
    columns = max(1, min(columns, len(titles)))
    titles = [in_figure(title, LINE // columns) for title in titles]
    rows = max(1, -(-len(titles) // columns))
    figure = Figure(figsize=(WIDTH, height * rows + extra), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, **options).ravel())
    for ax in axes[len(titles) :]:
        ax.set_visible(False)
    for ax, title in zip(axes, titles, strict=False):
        ax.set_title(title, fontsize=size, loc="left" if columns == 1 else "center")
    return figure, axes[: len(titles)]


def own_axes(ax: Axes | None, *, height: float = 3.4) -> Axes:
    """`ax`, or the only panel of a new figure."""
    return axes_grid(1, height=height)[1][0] if ax is None else ax


def legend_below(
    figure: Figure, looks: Mapping[str, Look] | None = None, *, columns: int = 2, ls: str = "-"
) -> None:
    """One legend below all panels: an entry per look (colour, marker, line of style `ls`).

    Without looks, an entry per label of the first panel: bars, and whatever else is no line.
    """
    handles, _ = figure.axes[0].get_legend_handles_labels()
    if looks is not None:
        names = [in_figure(name, LINE // columns - 3) for name in looks]
        lines = zip(names, looks.values(), strict=True)
        handles = [Line2D([], [], **{"label": k, "ls": ls, **look}) for k, look in lines]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=10)


def forest(ax: Axes, rows: Any, *, look: Look, line: float | None = None) -> Axes:
    """Values with their intervals, one above the other: rows are (place, value, low, high).

    An interval that is not finite is left out. `line` is drawn as a vertical line.
    """
    place, value, low, high = np.array(rows, dtype=float).reshape(-1, 4).T
    ax.hlines(place, low, high, color=look["color"], lw=2)
    ax.plot(value, place, ls="none", ms=6, **look)
    if line is not None:
        ax.axvline(line, color="black", lw=1, zorder=0)
    return ax


def forest_of(
    ax: Axes, table: pd.DataFrame, *, row: str, by: str, gap: float, looks: Mapping[str, Look],
    values: Sequence[str] = ("value", "low", "high"), names: Sequence[str] | None = None,
    repeat: float = 0, line: float | None = None,
) -> Axes:  # fmt: skip
    """`forest` of a table: a row per value of one column, a look per value of another.

    Looks stand `gap` apart, further values of the same row and look `repeat`. `values` are the
    columns of value, low and high (the table may lack the bounds); `names` those of the rows.
    """
    names = list(dict.fromkeys(table[row])) if names is None else names
    looks_before = table[by].map(list(looks).index) - (len(looks) - 1) / 2
    shift = gap * looks_before + repeat * table.groupby([row, by]).cumcount()
    table = table.assign(place=table[row].map(list(names).index) + shift)
    for label, look in looks.items():
        rows = table[table[by] == label].reindex(columns=["place", *values])
        forest(ax, rows, look={"label": in_figure(label, LINE // 2), **look}, line=line)
    return named_rows(ax, names)


def named_rows(ax: Axes, names: Sequence[str], *, length: int | None = None) -> Axes:
    """Names for the rows 0, 1, ... of a panel from its top, by default half as long as it is wide.

    A longer one loses its middle.
    """
    grid = ax.get_gridspec()
    length = length or max(24, LINE // (1 + (grid.ncols if grid else 1)))
    ax.set_yticks(range(len(names)), [in_figure(name, length) for name in names], fontsize=10)
    ax.set_ylim(len(names) - 0.5, -0.5)
    return ax


def stacked_bars(
    ax: Axes, rows: Sequence[str], parts: Mapping[str, Any], looks: Mapping[str, Look]
) -> Axes:
    """Horizontal bars, one per row and the first on top, made of the parts' lengths."""
    place, left = np.arange(len(rows)), np.zeros(len(rows))
    for name, lengths in parts.items():
        widths = np.nan_to_num(np.asarray(lengths, dtype=float))
        look = {"edgecolor": "white", "lw": 0.5, "label": in_figure(name, LINE // 2), **looks[name]}
        ax.barh(place, widths, left=left, **look)
        left += widths
    return named_rows(ax, rows)


def profile(
    ax: Axes, at: Real[np.ndarray, " n"], mean: Any, low: Any = None, high: Any = None, *,
    look: Look, **line: Any,
) -> Axes:  # fmt: skip
    """A line with markers, and a band from `low` to `high` around it."""
    if low is not None:
        ax.fill_between(at, low, high, color=look["color"], alpha=0.18, lw=0)
    if "label" in line:
        line["label"] = in_figure(line["label"], LINE // 2)
    ax.plot(at, mean, **{"ms": 5, "lw": 1.5, **look, **line})
    return ax


def spectrum(ax: Axes, s: Float[np.ndarray, " k"], **line: Any) -> Axes:
    """Singular values s_i / s_1 on logarithmic axes, those above 1e-6."""
    relative = s / max(float(s[0]), 1e-300)
    kept = relative > 1e-6
    ax.plot(np.arange(1, len(s) + 1)[kept], relative[kept], **line)
    ax.set(xscale="log", yscale="log", xlabel="index i")
    return ax


def levels_axis(ax: Axes, levels: Sequence[float], *, label: str = "noise level") -> np.ndarray:
    """Equidistant places for levels; 0 and a logarithmic rest do not share a scale."""
    at = np.arange(len(levels))
    ax.set_xticks(at, [f"{level:g}" for level in levels], rotation=60, fontsize=10)
    ax.set_xlabel(label)
    return at


def map_of(
    ax: Axes, points: Float[np.ndarray, "n 2"], groups: Mapping[str, np.ndarray],
    looks: Mapping[str, Look],
) -> Axes:  # fmt: skip
    """Points in the plane, without ticks: groups (masks) in their looks, all others grey."""
    rest = ~np.any(list(groups.values()), axis=0) if groups else np.ones(len(points), dtype=bool)
    ax.plot(*points[rest].T, ls="none", marker=".", ms=3, color="0.75")
    for name, mask in groups.items():
        ax.plot(*points[mask].T, **{"ls": "none", "ms": 4, "alpha": 0.8, **looks[name]})
    ax.set(xticks=[], yticks=[])
    return ax


def cells(
    ax: Axes, texts: np.ndarray, colours: Float[np.ndarray, "rows columns channels"],
    framed: Bool[np.ndarray, "rows columns"] | None = None,
) -> Axes:  # fmt: skip
    """A matrix as coloured cells with texts, and a frame around some of them."""
    ax.imshow(colours, aspect="auto")
    for (i, j), text in np.ndenumerate(texts):
        ink = "w" if colours[i, j, :3] @ (0.3, 0.59, 0.11) < 0.45 else "k"
        ax.text(j, i, text, ha="center", va="center", fontsize=10, color=ink)
        if framed is not None and framed[i, j]:
            ax.add_patch(Rectangle((j - 0.44, i - 0.44), 0.88, 0.88, fill=False, lw=2, zorder=4))
    ax.set_xticks(np.arange(colours.shape[1] + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(colours.shape[0] + 1) - 0.5, minor=True)
    ax.grid(which="minor", color="white", lw=2)
    ax.tick_params(which="both", length=0, labelsize=10)
    ax.spines[:].set_visible(False)
    return ax
