"""The study "stratification": the tests of local dimension on planted families, raw and encoded.

A point is one draw of a family: as it is, or behind an autoencoder that was trained on other points
of the same family, which it fits as an SAE fits its model's text.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from saerepgeo_lib.activations.latents import fvu
from saerepgeo_lib.cores import one_thread
from saerepgeo_lib.geometry.local_dimension import dimension_spread, volume_growth
from saerepgeo_lib.geometry.points import Points, as_points, rms_radius
from saerepgeo_lib.stats.estimates import NotEstimable
from saerepgeo_lib.studies import training
from saerepgeo_lib.studies.recipes import Kind, Recipe
from saerepgeo_lib.studies.study import Do, Study
from saerepgeo_lib.synthetic.data import Cloud
from saerepgeo_lib.synthetic.families import AMBIENT, OTHERS, OURS, SINGULAR, planted

Space = Literal["raw", "TopK SAE", "L1-ReLU SAE"]
N, SIZES, NOISES = 3200, (800, 1600), (0.02, 0.1)  # points; noise in rms radii
DRAWS, TRAININGS = 3, 1
_TRAIN = 20_000  # points that an autoencoder learns from, ten times over
_RECIPES: dict[str, tuple[Kind, float]] = {"TopK SAE": ("topk", 8), "L1-ReLU SAE": ("standard", 1)}


@dataclass(frozen=True)
class Point:
    """A draw of a family with noise (in rms radii), in a space."""

    family: str
    space: Space = "raw"
    n: int = N
    noise: float = 0.0
    draw: int = 0


def points() -> list[Point]:
    """Raw: sizes, and noise at the largest size; behind autoencoders: the largest, no noise."""
    families = (*OURS, *OTHERS)
    settings = [(n, 0.0) for n in (*SIZES, N)] + [(N, noise) for noise in NOISES]
    raw = [Point(f, "raw", *s, draw) for f in families for s in settings for draw in range(DRAWS)]
    spaces: tuple[Space, ...] = ("TopK SAE", "L1-ReLU SAE")
    return raw + [Point(f, s, draw=i) for f in families for s in spaces for i in range(TRAININGS)]


def measure(point: Point, *, device: str = "cpu") -> dict[str, Any]:
    """What both tests say of a point, and what is so."""
    n_train = 0 if point.space == "raw" else _TRAIN
    cloud, noise = _drawn(point, point.n + n_train)
    x, pieces = cloud.points + noise, cloud.piece
    result: dict[str, Any] = {
        "family": "ours" if point.family in OURS else "external",
        "stratified": len(set(cloud.dimension.tolist())) > 1,
        "singular": point.family in SINGULAR,
    }
    if n_train:
        x, pieces = x * np.sqrt(AMBIENT) / rms_radius(x), pieces[: point.n]
        sae = _trained(point, x[point.n :], device)
        test = torch.from_numpy(x[: point.n]).float().to(device)
        result["FVU"] = float(f"{fvu(sae, test):.4g}")
        x = as_points(sae, test)
    groups = pieces if point.family.startswith("clusters") else None
    spread = dimension_spread(x, groups, random_state=point.draw)
    if isinstance(spread, NotEstimable):
        return result | {"verdict": "not estimable", "excess": None}
    e = spread.excess
    manifold, bundle = volume_growth(x, random_state=point.draw)
    return result | {
        "verdict": spread.verdict, "excess": [float(f"{v:.4g}") for v in (e.value, e.low, e.high)],
        "neighbourhoods": e.n,
        "rejected": {"manifold": float(np.mean(manifold <= 0.05).round(4)),
                     "fibre bundle": float(np.mean(bundle <= 0.05).round(4))},
    }  # fmt: skip


def _drawn(point: Point, n: int) -> tuple[Cloud, Points]:
    """The cloud in random order, and its noise."""
    cloud = planted(point.family, n, random_state=point.draw)
    rng = np.random.default_rng([point.draw, n])
    rows = rng.permutation(len(cloud.points))
    cloud = Cloud(cloud.points[rows], cloud.dimension[rows], cloud.piece[rows])
    scale = point.noise * rms_radius(cloud.points) / np.sqrt(AMBIENT)
    return cloud, scale * rng.normal(size=cloud.points.shape)


def _trained(point: Point, x: Points, device: str) -> Any:
    """An autoencoder of the point's kind, 256 latents, trained on `x`."""
    kind, coefficient = _RECIPES[point.space]
    recipe = Recipe(
        "planted", kind, coefficient, 10 * _TRAIN, expansion=256 / AMBIENT, learning_rate=2e-3,
        batch_size=512, seed=point.draw,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, one_thread():
        trained = training.train(
            recipe, [x.astype(np.float16)], checkpoints=Path(folder), metadata={}, device=device
        )
    return training.read_back(trained, device=device)


def prepare(work: Path, device: str) -> Do:
    """The function from a point to its result."""
    return lambda point: measure(point, device=device)


STUDY = Study(points(), prepare)
