"""Figures of the vision chapter: digits with their patches, and claims beside language."""

import numpy as np
import pandas as pd
from jaxtyping import Int
from matplotlib.figure import Figure

from saerepgeo_lib.plots import BLUE, NULL_COLOUR, ORANGE

_CONTENT = (0.0, 0.447, 0.698, 0.28)  # blue, so that the ink shows through


def plot_patches(
    images: Int[np.ndarray, "n 8 8"], names: Int[np.ndarray, " n"], *, patch: int
) -> Figure:
    """Images in two rows with the grid of their patches; patches with ink are tinted."""
    figure = Figure(figsize=(6.6, 3.0), layout="constrained")
    axes = np.atleast_1d(figure.subplots(2, -(-len(images) // 2), squeeze=False)).ravel()
    for ax in axes:
        ax.set_axis_off()
    for ax, image, name in zip(axes, images, names, strict=False):
        ax.imshow(image, cmap="gray_r", vmin=0, vmax=16)
        n = len(image) // patch
        ink = image.reshape(n, patch, n, patch).max(axis=(1, 3)) > 0
        for i, j in zip(*np.nonzero(ink), strict=True):
            ax.add_patch(_square(i, j, patch))
        for edge in np.arange(0, len(image) + 1, patch) - 0.5:
            ax.axhline(edge, color="0.6", lw=0.6)
            ax.axvline(edge, color="0.6", lw=0.6)
        ax.set_title(str(name), fontsize=10)
    return figure


def _square(row: int, column: int, size: int) -> "object":
    from matplotlib.patches import Rectangle

    return Rectangle((column * size - 0.5, row * size - 0.5), size, size, fc=_CONTENT, ec="none")


def plot_trainings(found: pd.DataFrame) -> Figure:
    """Means over trainings with their 95 % intervals, a row a claim, subject and statistic."""
    figure = Figure(figsize=(6.6, 0.34 * len(found) + 1.0), layout="constrained")
    ax = figure.subplots()
    rows = np.arange(len(found))[::-1]
    decided = ((found["low"] > 0) | (found["high"] < 0)).to_numpy()
    for y, one, sure in zip(rows, found.to_dict("records"), decided, strict=True):
        colour = (BLUE if one["value"] > 0 else ORANGE) if sure else NULL_COLOUR
        ax.plot([one["low"], one["high"]], [y, y], color=colour, lw=1.6)
        ax.plot(one["value"], y, "o", color=colour, ms=5)
    ax.axvline(0, color="0.5", lw=0.8, ls="--")
    ax.set_xscale("symlog", linthresh=0.1)
    labels = found["claim"].str.partition("-")[2] + ": " + found["subject"].str.partition(": ")[2]
    ax.set_yticks(rows, labels, fontsize=9)
    ax.set_xlabel("statistic of the claim, mean over trainings (logarithmic away from 0)")
    return figure
