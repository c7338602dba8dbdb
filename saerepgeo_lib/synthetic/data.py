"""Data whose answer is known: manifolds, strata, pieces, arrangements and sparse latents."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from skdim import datasets
from torch import Tensor

from saerepgeo_lib.errors import UserError, choose
from saerepgeo_lib.geometry.points import Points, rms_radius


@dataclass(frozen=True)
class Cloud:
    """Points, the dimension of the stratum that each lies on, and the number of its part."""

    points: Float[np.ndarray, "n d"]
    dimension: Int[np.ndarray, " n"]
    piece: Int[np.ndarray, " n"]


def join(parts: Sequence[np.ndarray], dimensions: Sequence[int]) -> Cloud:
    """Parts of these dimensions as one cloud."""
    sizes = [len(x) for x in parts]
    piece = np.repeat(range(len(parts)), sizes)
    return Cloud(np.concatenate(parts), np.repeat(dimensions, sizes), piece)


def sphere(n: int, dimension: int = 2, *, random_state: int) -> Cloud:
    """Uniform on the unit sphere of that dimension, in one coordinate more."""
    return join([datasets.hyperSphere(n, dimension, random_state=random_state)], [dimension])


circle = partial(sphere, dimension=1)


def ball(n: int, dimension: int, *, random_state: int) -> Cloud:
    """Uniform in the unit ball of that dimension."""
    return join([datasets.hyperBall(n, dimension, random_state=random_state)], [dimension])


def cone(n: int, *, random_state: int) -> Cloud:
    """Uniform by area on the cone |(x, y)| = z, 0 <= z <= 1: smooth but for its apex."""
    rng = np.random.default_rng(random_state)
    z, angle = np.sqrt(rng.random(n)), 2 * np.pi * rng.random(n)
    return join([np.stack([z * np.cos(angle), z * np.sin(angle), z], axis=1)], [2])


def lollipop(n: int, *, random_state: int) -> Cloud:
    """A unit disc (half of the points, dimension 2) on a stick of length 2 (dimension 1)."""
    rng = np.random.default_rng(random_state)
    disc = datasets.hyperBall(n - n // 2, 2, random_state=random_state)
    stick = np.stack([1 + 2 * rng.random(n // 2), np.zeros(n // 2)], axis=1)
    return join([disc, stick], [2, 1])


# uniform by area; the torus has radii 1 and 1/4, the Swiss roll 1.5 turns
MANIFOLDS: dict[str, Callable[..., Cloud]] = {
    "circle": circle,
    "sphere": sphere,
    "torus": lambda n, **seed: join([datasets.torus(n, **seed)], [2]),
    "Swiss roll": lambda n, **seed: join([datasets.swissRoll3Sph(n, 0, **seed)[:, :3]], [2]),
    "cone": cone,
    "lollipop": lollipop,
}


def embed(
    cloud: Cloud, ambient: int, *, noise: float = 0.0, random_state: int
) -> Float[np.ndarray, "n ambient"]:
    """The cloud turned at random in `ambient` dimensions, with white noise whose vectors have the
    root mean square length `noise` over the cloud's rms radius.
    """
    rng = np.random.default_rng(random_state)
    x = turned(cloud.points, ambient, rng)
    scale = noise * rms_radius(cloud.points) / np.sqrt(ambient)
    return x + scale * rng.normal(size=x.shape)


def turned(x: Points, ambient: int, rng: np.random.Generator) -> Float[np.ndarray, "n ambient"]:
    """Points on a random subspace of `ambient` dimensions."""
    if ambient < x.shape[1]:
        raise UserError(f"the data need {x.shape[1]} dimensions, ambient is {ambient}")
    result: np.ndarray = x @ np.linalg.qr(rng.normal(size=(ambient, x.shape[1])))[0].T
    return result


def strata(
    dimensions: Sequence[int], n_each: int, ambient: int, *, curved: bool, random_state: int
) -> Cloud:
    """Strata of several dimensions in general position that all meet at the origin.

    Linear ones are Gaussian points on subspaces, with rms radius 1; curved ones are unit spheres.
    """
    rng = np.random.default_rng(random_state)
    parts = [rng.normal(size=(n_each, d + curved)) for d in dimensions]
    for i, x in enumerate(parts):
        on_sphere = x / np.linalg.norm(x, axis=1, keepdims=True)
        parts[i] = on_sphere + np.eye(x.shape[1])[0] if curved else x / np.sqrt(x.shape[1])
    return join([turned(x, ambient, rng) for x in parts], dimensions)


def pieces(
    k: int, n_each: int, dimension: int, *, ambient: int, separation: float, random_state: int
) -> Cloud:
    """k unit balls turned at random, disjoint for a `separation` of their centres above 2.

    The centres form a simplex, which takes k - 1 dimensions.
    """
    if ambient < max(dimension, k - 1):
        raise UserError(f"{k} balls of dimension {dimension} need more than {ambient} dimensions")
    rng = np.random.default_rng(random_state)
    seeds = [int(rng.integers(2**31)) for _ in range(k)]
    balls = [ball(n_each, dimension, random_state=seed).points for seed in seeds]
    cloud = join([turned(x, ambient, rng) for x in balls], [dimension] * k)
    centres = np.zeros((k, ambient))
    if k > 1:
        centres[:, : k - 1] = arrangement("simplex", k, spacing=separation).centroids
    moved = centres @ np.linalg.qr(rng.normal(size=(ambient, ambient)))[0]
    return Cloud(cloud.points + moved[cloud.piece], cloud.dimension, cloud.piece)


@dataclass(frozen=True)
class Arrangement:
    """Centroids with the AEDP and the minimum spanning tree weight that they have exactly."""

    centroids: Float[np.ndarray, "k d"]
    aedp: float
    mst_weight: float


def arrangement(kind: str, k: int, *, spacing: float = 1.0) -> Arrangement:
    """k centroids at known separability, neighbours `spacing` apart.

    A "line"; a regular k-gon, the "circle"; or a "simplex": all pairs at that distance, in k - 1
    dimensions. All have a spanning tree of weight (k - 1) spacing.
    """
    choose("arrangement", kind, ("simplex", "line", "circle"))
    if k < 2 or spacing <= 0:
        raise UserError(f"need k >= 2 and spacing > 0, got k = {k} and spacing = {spacing}")
    if kind == "line":
        corners, aedp = np.arange(k)[:, None] * spacing, spacing * (k + 1) / 3
    elif kind == "circle":
        radius, angle = spacing / (2 * np.sin(np.pi / k)), 2 * np.pi * np.arange(k) / k
        corners = radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        aedp = 2 * radius / np.tan(np.pi / (2 * k)) / (k - 1)
    else:
        u, s, _ = np.linalg.svd((np.eye(k) - 1 / k) * spacing / np.sqrt(2))
        corners, aedp = u[:, : k - 1] * s[: k - 1], spacing
    return Arrangement(corners.astype(float), float(aedp), (k - 1) * spacing)


def planted_latents(
    support: int, n: int, n_features: int, *, random_state: int
) -> Float[Tensor, "n F"]:
    """Nonnegative sparse latents on `support` features: the numbers that SAELens'
    `synthetic.ActivationGenerator` gives, half of the time active with magnitude 1 +- 0.25.
    """
    if support > n_features:
        raise UserError(f"a support of {support} exceeds the {n_features} features given")
    order = torch.randperm(n_features, generator=torch.Generator().manual_seed(random_state))
    generator = torch.Generator().manual_seed(random_state)
    latents = torch.bernoulli(torch.full((n, n_features), 0.5), generator=generator)
    fires = latents > 0
    latents[fires] += 0.25 * torch.randn(int(fires.sum()), generator=generator)
    latents[:, order[support:]] = 0
    return latents.relu()


def permuted_spectra(shuffled: Callable[[], Any], *, draws: int = 19) -> Float[np.ndarray, "_ n"]:
    """A null: spectra of a matrix whose columns `shuffled` puts in orders of their own, per draw.

    From Gram matrices, which cost digits at the small end only. Fewer draws hold no level of 5 %.
    """
    matrices = (torch.as_tensor(shuffled()) for _ in range(draws))
    grams = torch.stack([matrix @ matrix.T for matrix in matrices])
    return torch.linalg.eigvalsh(grams).flip(1).clamp(min=0).sqrt().numpy()
