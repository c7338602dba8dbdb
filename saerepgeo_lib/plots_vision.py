"""Figures of the vision chapter: digits with their patches, and claims beside language."""

import numpy as np
import pandas as pd
from jaxtyping import Int
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from saerepgeo_lib.plots import looks_of

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


def _square(row: int, column: int, size: int) -> Rectangle:
    return Rectangle((column * size - 0.5, row * size - 0.5), size, size, fc=_CONTENT, ec="none")


def plot_trainings(found: pd.DataFrame) -> Figure:
    """Values of `vision_study.findings_of`, a row a claim and subject, a dot a training."""
    cases = list(dict.fromkeys(zip(found["id"], found["subject"], strict=True)))
    figure = Figure(figsize=(6.6, 0.28 * len(cases) + 1.2), layout="constrained")
    ax = figure.subplots()
    looks = looks_of([f"seed {seed}" for seed in dict.fromkeys(found["seed"])])
    places = [cases.index(key) for key in zip(found["id"], found["subject"], strict=True)]
    rows = pd.Series(places, index=found.index)
    for label, look in looks.items():
        own = found["seed"] == int(label.removeprefix("seed "))
        ax.plot(found.loc[own, "value"], rows[own], ls="none", ms=6, alpha=0.8, label=label, **look)
    ax.axvline(0, color="0.5", lw=0.8)
    ax.set_xscale("symlog", linthresh=0.01)
    labels = [
        f"{id.partition('-')[2]}: {subject.removeprefix('digits: ')}" for id, subject in cases
    ]
    ax.set_yticks(range(len(cases)), labels, fontsize=8)
    ax.invert_yaxis()
    ax.set_xlabel("statistic of the claim")
    figure.legend(loc="outside lower center", ncols=5, fontsize=10)
    return figure
