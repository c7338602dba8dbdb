"""Figures of Case 3: error against separability, along every path."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from saerepgeo_lib.plots import panels
from saerepgeo_lib.plots.frames import Frame
from saerepgeo_lib.plots.style import COLOURS, NULL_COLOUR, ORANGE, looks_of
from saerepgeo_lib.steering.dose_response import AtDose
from saerepgeo_lib.steering.latents import SteeredLatents
from saerepgeo_lib.steering.optimise import Path
from saerepgeo_lib.steering.scaling import ScalingLaw

_SCALED: dict[str, Any] = {"color": "0.7", "lw": 4}
_LEAST: dict[str, Any] = {"color": NULL_COLOUR, "ls": ":", "lw": 1}
_PATHS: dict[str, tuple[str, dict[str, Any]]] = {  # what the legend calls a path, and its look
    "separate": ("separate + MSE", {"color": COLOURS[0]}),
    "gather": ("gather + MSE", {"color": COLOURS[1]}),
    "gromov_wasserstein": ("Gromov-Wasserstein + MSE", {"color": COLOURS[2]}),
    "reconstruct": ("MSE only", {"color": COLOURS[3], "ls": "--"}),
    "push": ("separability only", {"color": "k"}),
    "random direction": ("random direction", {"color": COLOURS[4], "ls": ":"}),
    "separate, shuffled labels": ("shuffled labels", {"color": COLOURS[5], "ls": "-."}),
}


def plot_paths(
    paths: Mapping[str, Sequence[Path]], laws: Mapping[str, ScalingLaw], least: Mapping[str, float]
) -> Figure:
    """MSE against AEDP along every path, over the unsteered latents'; a column per SAE.

    Upper row free steering, lower row valid. Points end the paths, at the last iterate. The
    parabola is uniform scaling; the dotted line the least MSE of any free steering (ratio).
    """
    cases = [*product(("free", "valid"), paths)]
    titles = [f"{sae}, {kind} edits" for kind, sae in cases]
    figure, axes = _grid(titles, len(paths), height=2.9, extra=1.4, sharey=True)
    ratios = np.linspace(0.4, 2.6, 80)
    for ax, (kind, sae) in zip(axes, cases, strict=True):
        ax.plot(ratios, [laws[sae].mse(r) / laws[sae].mse(1) for r in ratios], **_SCALED)
        if kind == "free":
            ax.axhline(least[sae], **_LEAST)
        for path in [path for path in paths[sae] if path.kind == kind]:
            look = _PATHS["push" if path.name.startswith("push") else path.name][1]
            ax.plot(path.history["AEDP"], path.history["MSE"], **{"lw": 1.6, **look})
            ax.plot(*path.history[["AEDP", "MSE"]].iloc[-1], "o", ms=5, color=look["color"])
        ax.plot(1, 1, marker="o", ms=7, color="k", mfc="white", zorder=5)
        ax.set(xscale="log", xlim=ratios[[0, -1]], ylim=(0, 3))
        ax.set_xticks([0.5, 1, 2], ["0.5", "1", "2"])
        ax.minorticks_off()
    looks = {"all codes scaled": _SCALED, **dict(_PATHS.values()), "least of any free edit": _LEAST}
    panels.legend_below(figure, looks)
    return figure


def _grid(titles: Sequence[str], columns: int, **options: Any) -> tuple[Figure, list[Axes]]:
    """Panels of error against separability, named on the outer axes."""
    figure, axes = panels.axes_grid(titles, columns=columns, sharex=True, **options)
    for ax in axes[-columns:]:
        ax.set_xlabel("AEDP ratio")
    figure.supylabel("MSE, over the unedited code's", fontsize=11)
    return figure, axes


def plot_doses(responses: pd.DataFrame, paths: Sequence[str]) -> Figure:
    """MSE ratio against dose: a row per path, a column per SAE, a line and band per concept."""
    saes, looks = responses["SAE"].unique(), looks_of(responses["concept"])
    cases = [*product(paths, saes)]
    titles = [f"{sae}: {path}" for path, sae in cases]
    figure, axes = _grid(titles, len(saes), height=2.3, extra=0.8, sharey="row")
    for ax, (path, sae) in zip(axes, cases, strict=True):
        rows = responses[(responses["path"] == path) & (responses["SAE"] == sae)]
        dose_panel(ax, rows, looks, by="concept")
    panels.legend_below(figure, looks, columns=3)
    return figure


def dose_panel(
    ax: Axes, responses: pd.DataFrame, looks: Mapping[str, panels.Look], *, by: str
) -> Axes:
    """MSE ratio against dose with its band, a line per value of the column `by`."""
    for name, rows in responses.groupby(by, sort=False):
        at, *curves = rows[["AEDP", "MSE", "low", "high"]].to_numpy().T
        panels.profile(ax, at, *curves, look=looks[str(name)], label=name)
    ax.axhline(1, color="0.6", lw=0.8)
    ax.axvline(1, color="0.6", lw=0.8)
    return ax


def dose_frame(at: Mapping[str, AtDose], responses: pd.DataFrame, *, dose: float) -> Frame:
    """The clusters' latents at a dose (above) and its error (below), a column per SAE.

    Above, tokens and centroids on the two leading principal directions of the unsteered centroids,
    the largest clusters in colour; rings are the unsteered centroids. Below, the error (ratio) on
    the curve of `responses`.
    """
    figure, axes = panels.axes_grid(
        [*at, *[""] * len(at)], columns=len(at), height=2.8, extra=0, height_ratios=(1.7, 1)
    )
    errors = {sae: one.steered.mse().item() / one.steered.before.mse for sae, one in at.items()}
    low, high = (f(*responses["MSE"], *errors.values()) for f in (min, max))
    for above, below, (sae, one) in zip(axes, axes[len(at) :], at.items(), strict=False):
        _draw_latents(above, one.steered)
        curve = responses[responses["SAE"] == sae]
        below.plot(curve["AEDP"], curve["MSE"], color="0.5", lw=1.4, marker=".", ms=5)
        below.plot(one.aedp, errors[sae], "o", ms=10, color=ORANGE, mec="black")
        below.axhline(1, color="0.8", lw=0.8, zorder=0)
        below.set(xlabel="AEDP ratio", ylim=(1.1 * low - 0.1 * high, 1.1 * high - 0.1 * low))
    axes[len(at)].set_ylabel("MSE ratio")
    says = (f"{sae}: AEDP x {one.aedp:.2f}, MSE x {errors[sae]:.3f}" for sae, one in at.items())
    return Frame(figure, f"{dose:g}", "; ".join(says))


def _draw_latents(ax: Axes, steered: SteeredLatents, *, shown: int = 6) -> None:
    """Steered latents and centroids on the plane of the unsteered ones, within fixed limits."""
    before = steered.before
    centre = before.centroids.mean(0)
    plane = torch.linalg.svd(before.centroids - centre, full_matrices=False)[2][:2].T
    plane = plane * plane.gather(0, plane.abs().argmax(0, keepdim=True)).sign()
    latents, after, rings, clean = (
        ((points - centre) @ plane).detach().cpu().numpy()
        for points in (steered.latents(), steered.centroids, before.centroids, before.z)
    )
    largest = before.counts.argsort(descending=True, stable=True)[:shown].tolist()
    groups = {f"{k}": (before.labels == k).cpu().numpy() for k in largest}
    panels.map_of(ax, latents, groups, looks_of(groups))
    ax.plot(*rings.T, "o", ms=5, mfc="none", mec="0.35", mew=0.7)
    ax.plot(*after.T, "o", ms=3.5, color="black")
    (left, low), (right, high) = 1.6 * clean.min(0), 1.6 * clean.max(0)
    ax.set(xlim=(left, right), ylim=(low, high))


def plot_walks(walks: pd.DataFrame) -> Figure:
    """Random walks: the SAE's own error (left) and the authors' (right) against AEDP.

    Both over their value at the first iterate, one line per walk, a colour per model and SAE.
    """
    looks = looks_of(walks["SAE"], null=walks["SAE"].iloc[-1])
    looks = {label: {"color": look["color"]} for label, look in looks.items()}
    titles = ("the SAE's own error", "the authors' z-scored error")
    figure, axes = panels.axes_grid(titles, height=3.4)
    for ax, measure in zip(axes, ("own", "z-scored"), strict=True):
        for (label, *_), walk in walks.groupby(["SAE", "concept", "walk"], sort=False):
            ax.plot(walk["AEDP"], walk[measure] / walk[measure].iloc[0], lw=1, **looks[str(label)])
        ax.axhline(1, color="0.6", lw=0.8)
        ax.set_xlabel("AEDP ratio")
    axes[0].set_ylabel("error, over that of the first iterate")
    panels.legend_below(figure, looks)
    return figure


def shown(
    rows: pd.DataFrame, columns: Sequence[str] | None = None, *, precision: int = 3,
    intervals: Mapping[str, str] | None = None,
) -> Styler:  # fmt: skip
    """A table as a page shows it: these columns, rounded; `intervals` as in `with_intervals`."""
    rows = with_intervals(rows, intervals or {})
    rows = rows if columns is None else rows[list(columns)]
    return rows.style.format(precision=precision, na_rep="–").hide(axis="index")


def with_intervals(rows: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    """The table with values as "value [low, high]" in the columns given, to read.

    Each column comes with the suffix of its bounds: "low SUFFIX" and "high SUFFIX"; without one
    they are "NAME low" and "NAME high".
    """
    out = rows.copy()
    for name, suffix in columns.items():
        ends = [f"{end}{suffix}" if suffix else f"{name} {end}" for end in ("low", "high")]
        out[name] = [
            f"{v:.2f} [{a:.2f}, {b:.2f}]" if a == a else f"{v:.2f} (no interval)"
            for v, a, b in rows[[name, *ends]].itertuples(index=False)
        ]
    return out
