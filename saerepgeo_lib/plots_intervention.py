"""Figures of Case 3: error against separability, along every path."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from saerepgeo_lib.dose_response import Dosed
from saerepgeo_lib.edits import Setting
from saerepgeo_lib.interactive import Frame
from saerepgeo_lib.interventions import Path
from saerepgeo_lib.plots import COLOURS, NULL_COLOUR, looks_of
from saerepgeo_lib.scaling import ScalingLaw

_NAMES = {
    "separate": "separate + MSE",
    "gather": "gather + MSE",
    "gromov_wasserstein": "Gromov-Wasserstein + MSE",
    "reconstruct": "MSE only",
    "push": "separability only",
    "random direction": "random direction",
    "separate, shuffled labels": "shuffled labels",
}
_STYLES = {"reconstruct": "--", "random direction": ":", "separate, shuffled labels": "-."}
_AEDP, _MSE = (0.4, 2.6), (0.0, 3.0)


def plot_paths(
    paths: Mapping[str, Sequence[Path]],
    laws: Mapping[str, ScalingLaw],
    least: Mapping[str, float],
) -> Figure:
    """MSE against AEDP along every path, ratios to the unedited code; a column an SAE.

    Upper row free edits, lower row valid ones. Points end the paths, at the last iterate. The
    parabola is uniform scaling; the dotted line the least MSE of any free edit (ratio).
    """
    saes = list(paths)
    figure = Figure(figsize=(6.6, 7.2), layout="constrained")
    axes = np.atleast_2d(figure.subplots(2, len(saes), squeeze=False, sharex=True, sharey=True))
    colours = dict(zip(_NAMES, (*COLOURS[:4], "k", *COLOURS[4:]), strict=False))
    ratios = np.linspace(*_AEDP, 80)
    for column, sae in enumerate(saes):
        for ax, kind in zip(axes[:, column], ("free", "valid"), strict=True):
            law = laws[sae]
            ax.plot(ratios, [law.mse(r) / law.mse(1) for r in ratios], color="0.7", lw=4)
            if kind == "free":
                ax.axhline(least[sae], color=NULL_COLOUR, ls=":", lw=1)
            for path in paths[sae]:
                if path.kind == kind:
                    _draw_path(ax, path, colours)
            ax.plot(1, 1, marker="o", ms=7, color="k", mfc="white", zorder=5)
            ax.set_title(f"{sae}, {kind} edits", fontsize=10)
            ax.set_xscale("log")
            ax.set_xlim(*_AEDP)
            ax.set_ylim(*_MSE)
            ax.set_xticks([0.5, 1, 2], ["0.5", "1", "2"])
            ax.minorticks_off()
    for ax in axes[-1]:
        ax.set_xlabel("AEDP ratio")
    figure.supylabel("MSE, over the unedited code's", fontsize=11)
    handles = [Line2D([], [], color="0.7", lw=4, label="all codes scaled")]
    handles += [
        Line2D([], [], color=colours[k], ls=_STYLES.get(k, "-"), label=name)
        for k, name in _NAMES.items()
    ]
    handles.append(Line2D([], [], color=NULL_COLOUR, ls=":", lw=1, label="least of any free edit"))
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=10)
    return figure


def _draw_path(ax: Axes, path: Path, colours: Mapping[str, str]) -> None:
    name = "push" if path.name.startswith("push") else path.name
    history = path.history
    ax.plot(history["AEDP"], history["MSE"], color=colours[name], ls=_STYLES.get(name, "-"), lw=1.6)
    ax.plot(history["AEDP"].iloc[-1], history["MSE"].iloc[-1], marker="o", ms=5,
            color=colours[name])  # fmt: skip


def plot_doses(responses: pd.DataFrame, paths: Sequence[str]) -> Figure:
    """MSE ratio against dose: a row a path, a column an SAE, a line a concept with its band."""
    saes = list(dict.fromkeys(responses["SAE"]))
    figure = Figure(figsize=(6.6, 2.3 * len(paths) + 0.8), layout="constrained")
    axes = np.atleast_2d(
        figure.subplots(len(paths), len(saes), squeeze=False, sharex=True, sharey="row")
    )
    looks = looks_of(list(dict.fromkeys(responses["concept"])))
    for row, path in enumerate(paths):
        for ax, sae in zip(axes[row], saes, strict=True):
            part = responses[(responses["path"] == path) & (responses["SAE"] == sae)]
            for concept, case in part.groupby("concept", sort=False):
                look = looks[str(concept)]
                ax.fill_between(case["AEDP"], case["low"], case["high"], color=look["color"],
                                alpha=0.2, lw=0)  # fmt: skip
                ax.plot(case["AEDP"], case["MSE"], ms=5, lw=1.5, **look)
            ax.axhline(1, color="0.6", lw=0.8)
            ax.axvline(1, color="0.6", lw=0.8)
            ax.set_title(f"{sae}: {path}", fontsize=10)
    for ax in axes[-1]:
        ax.set_xlabel("AEDP ratio")
    figure.supylabel("MSE, over the unedited code's", fontsize=11)
    handles = [Line2D([], [], label=name, **look) for name, look in looks.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=10)
    return figure


def dose_frame(
    settings: Mapping[str, Setting],
    dosed: Mapping[str, Dosed],
    errors: Mapping[str, float],
    responses: pd.DataFrame,
    *,
    dose: float,
) -> Frame:
    """The clusters' codes after an edit (above) and its error (below), a column an SAE.

    Above, tokens and centroids on the two leading principal directions of the unedited
    centroids, the largest clusters in colour; rings are the unedited centroids. Below, `errors`
    (ratios) of this edit on the curve of `responses`.
    """
    figure = Figure(figsize=(6.6, 5.6), layout="constrained")
    axes = figure.subplots(2, len(settings), squeeze=False, height_ratios=(1.7, 1))
    for (above, below), (sae, here) in zip(axes.T, settings.items(), strict=True):
        _draw_codes(above, here, dosed[sae])
        above.set_title(sae, fontsize=10)
        own = responses[responses["SAE"] == sae]
        below.plot(own["AEDP"], own["MSE"], color="0.5", lw=1.4, marker=".", ms=5)
        below.plot(dosed[sae].aedp, errors[sae], "o", ms=10, color=COLOURS[1], mec="black")
        below.axhline(1, color="0.8", lw=0.8, zorder=0)
        low, high = (f(*responses["MSE"], *errors.values()) for f in (min, max))
        below.set_ylim(low - 0.1 * (high - low), high + 0.1 * (high - low))
        below.set_xlabel("AEDP ratio")
    axes[1, 0].set_ylabel("MSE ratio")
    found = "; ".join(
        f"{sae}: AEDP x {dosed[sae].aedp:.2f}, MSE x {errors[sae]:.3f}" for sae in settings
    )
    return Frame(figure, f"{dose:g}", found)


def _draw_codes(ax: Axes, here: Setting, found: Dosed, *, shown: int = 6) -> None:
    """Edited codes and centroids on the plane of the unedited centroids, within fixed limits."""
    before = here.centroids.cpu().numpy()
    centre = before.mean(axis=0)
    plane = np.linalg.svd(before - centre, full_matrices=False)[2][:2].T
    plane = plane * np.sign(plane[np.abs(plane).argmax(axis=0), [0, 1]])
    codes, after, clean = (
        (part.detach().cpu().numpy() - centre) @ plane
        for part in (found.edited.codes(), found.edited.centroids, here.z)
    )
    old, labels = (before - centre) @ plane, here.labels.cpu().numpy()
    ax.plot(*codes.T, ls="none", marker=".", ms=2.5, color="0.78")
    largest = np.argsort(-here.counts.cpu().numpy(), kind="stable")[:shown]
    for k, look in zip(largest, looks_of([f"{k}" for k in largest]).values(), strict=True):
        ax.plot(*codes[labels == k].T, ls="none", ms=3.5, alpha=0.8, **look)
    ax.plot(*old.T, "o", ms=5, mfc="none", mec="0.35", mew=0.7)
    ax.plot(*after.T, "o", ms=3.5, color="black")
    for set_limits, values in ((ax.set_xlim, clean[:, 0]), (ax.set_ylim, clean[:, 1])):
        set_limits(1.6 * values.min(), 1.6 * values.max())
    ax.set_xticks([])
    ax.set_yticks([])


def plot_optima(shrinkage: pd.DataFrame) -> Figure:
    """rho* of each case with its 95 % interval over frames, grouped by SAE."""
    saes = list(dict.fromkeys(shrinkage["SAE"]))
    figure = Figure(figsize=(6.6, 0.3 * len(shrinkage) + 1.8), layout="constrained")
    ax = figure.subplots()
    looks, ticks, place = looks_of(saes), [], 0.0
    for sae in saes:
        for row in shrinkage[shrinkage["SAE"] == sae].to_dict("records"):
            ax.hlines(place, row["low"], row["high"], color=looks[sae]["color"], lw=2)
            ax.plot(row["rho*"], place, ms=7, **looks[sae])
            ticks.append((place, str(row["concept"])))
            place += 1
        place += 0.5
    ax.axvline(1, color="k", lw=1)
    ax.set_yticks(*zip(*ticks, strict=True))
    ax.invert_yaxis()
    ax.set_xlabel("rho*: the scaling at which the error is least")
    handles = [Line2D([], [], label=sae, **look) for sae, look in looks.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=10)
    return figure


def plot_walks(walks: pd.DataFrame) -> Figure:
    """Random walks: the SAE's own error (left) and the authors' (right) against AEDP.

    Both over their value at the first iterate, one line a walk, a colour a model and SAE.
    """
    labels = list(dict.fromkeys(walks["SAE"]))
    figure = Figure(figsize=(6.6, 3.9), layout="constrained")
    looks = looks_of(labels, null=labels[-1])
    titles = {"own": "the SAE's own error", "z-scored": "the authors' z-scored error"}
    for ax, (measure, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        for (label, *_), walk in walks.groupby(["SAE", "concept", "walk"], sort=False):
            first = walk[measure].iloc[0]
            ax.plot(walk["AEDP"], walk[measure] / first, color=looks[str(label)]["color"], lw=1)
        ax.set_title(title, fontsize=10)
        ax.axhline(1, color="0.6", lw=0.8)
        ax.set_xlabel("AEDP ratio")
    figure.axes[0].set_ylabel("error, over that of the first iterate")
    handles = [Line2D([], [], color=looks[x]["color"], label=x) for x in labels]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=10)
    return figure
