"""The study "stratification": the tests of local dimension on planted families, raw and encoded.

A point is one draw of a family: as it is, or behind an autoencoder that was trained on other points
of the same family, which it fits as an SAE fits its model's text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from saerepgeo_lib.activations.latents import fvu
from saerepgeo_lib.geometry.local_dimension import dimension_spread, volume_growth
from saerepgeo_lib.geometry.points import as_points, rms_radius
from saerepgeo_lib.stats.estimates import NotEstimable, auc
from saerepgeo_lib.studies import training
from saerepgeo_lib.studies.recipes import Kind, Recipe
from saerepgeo_lib.studies.study import Do, Study
from saerepgeo_lib.synthetic.families import AMBIENT, FAMILIES, OURS, planted, truth_of

Space = Literal["raw", "TopK SAE", "L1-ReLU SAE"]
VERDICTS = ("several dimensions", "one dimension", "undecided", "not estimable")
N, SIZES, NOISES = 3200, (800, 1600), (0.02, 0.1)  # points; noise in rms radii
DRAWS = 3  # of a raw family; behind an autoencoder, one
_TRAIN = 20_000  # points that an autoencoder learns from, ten times over
_RECIPES: dict[Space, tuple[Kind, float]] = {
    "TopK SAE": ("topk", 8),
    "L1-ReLU SAE": ("standard", 1),
}


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
    settings = [(n, 0.0) for n in (*SIZES, N)] + [(N, noise) for noise in NOISES]
    raw = [Point(f, "raw", *s, draw) for f in FAMILIES for s in settings for draw in range(DRAWS)]
    return raw + [Point(family, space) for family in FAMILIES for space in _RECIPES]


def measure(point: Point, *, device: str = "cpu") -> dict[str, Any]:
    """What both tests say of a point, and what is so."""
    n_train = 0 if point.space == "raw" else _TRAIN
    cloud = planted(point.family, point.n + n_train, noise=point.noise, random_state=point.draw)
    x, pieces = cloud.points[: point.n], cloud.piece[: point.n]
    result: dict[str, Any] = {
        "origin": "ours" if point.family in OURS else "external",
        "truth": truth_of(point.family, cloud),
    }
    if n_train:
        whole = cloud.points * np.sqrt(AMBIENT) / rms_radius(cloud.points)
        sae = _trained(point, whole[point.n :].astype(np.float16), device)
        test = torch.from_numpy(whole[: point.n]).float().to(device)
        result["FVU"] = _rounded(fvu(sae, test))
        x = as_points(sae, test)
    groups = pieces if point.family.startswith("clusters") else None
    spread = dimension_spread(x, groups, random_state=point.draw)
    if isinstance(spread, NotEstimable):
        return result | {"verdict": "not estimable"}
    e = spread.excess
    manifold, bundle = volume_growth(x, random_state=point.draw)
    return result | {
        "verdict": spread.verdict, "value": _rounded(e.value), "low": _rounded(e.low),
        "high": _rounded(e.high), "neighbourhoods": e.n,
        "no manifold": _rounded(float(np.mean(manifold <= 0.05))),
        "no fibre bundle": _rounded(float(np.mean(bundle <= 0.05))),
    }  # fmt: skip


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _trained(point: Point, x: Float[np.ndarray, "n d"], device: str) -> Any:
    """An autoencoder of the point's kind, 256 latents, trained on `x`."""
    kind, coefficient = _RECIPES[point.space]
    recipe = Recipe(
        "planted", kind, coefficient, 10 * _TRAIN, expansion=256 / AMBIENT, learning_rate=2e-3,
        batch_size=512, seed=point.draw,
    )  # fmt: skip
    return training.trained(recipe, [x], metadata={}, device=device)


def prepare(work: Path, device: str) -> Do:
    """The function from a point to its result."""
    return lambda point: measure(point, device=device)


STUDY = Study(points(), prepare)


def planted_table(points: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The study's points (`read_study`) as a table: setting, origin, truth, and what was found."""
    return pd.DataFrame([entry["point"] | entry["result"] for entry in points])


def planted_rates(table: pd.DataFrame) -> pd.DataFrame:
    """How often each verdict fell, by setting, origin and truth; and the AUC of the excess.

    The AUC is that of families, whose draws are averaged, with its 95 % interval; it stands beside
    the families of several dimensions. Families that share parts are not independent.
    """
    rows = []
    settings = ["space", "n", "noise", "origin"]
    for key, part in table.groupby(settings, sort=False):
        means = part.dropna(subset=["value"]).groupby(["truth", "family"])["value"].mean()
        for truth, drawn in part.groupby("truth", sort=False):
            row: dict[str, Any] = dict(zip(settings, key, strict=True)) | {"truth": truth}
            shares = drawn["verdict"].value_counts(normalize=True)
            row |= {verdict: float(shares.get(verdict, 0.0)) for verdict in VERDICTS}
            row |= {"draws": len(drawn), "AUC": np.nan, "low": np.nan, "high": np.nan}
            if truth == "several dimensions":
                area = auc(means[truth].to_numpy(), means["smooth"].to_numpy())
                row |= {"AUC": area.value, "low": area.low, "high": area.high}
            rows.append(row)
    return pd.DataFrame(rows)
