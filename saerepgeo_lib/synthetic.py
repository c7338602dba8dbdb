"""Data whose answer is known: tensors, strata, manifolds, codes and arrangements.

Where scikit-dimension, tensorly or `sae_lens.synthetic` make the data, they are called.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tensorly.random
import torch
from jaxtyping import Bool, Float, Int
from sae_lens.synthetic import ActivationGenerator
from skdim import datasets
from torch import Tensor

from saerepgeo_lib.errors import UserError, choose
from saerepgeo_lib.points import rms_radius


@dataclass(frozen=True)
class Cloud:
    """Points with the dimension of the stratum that each lies on, and its piece's number.

    `piece` numbers the parts that were put together; they are connected components only where
    the generator says that they do not touch.
    """

    points: Float[np.ndarray, "n d"]
    dimension: Int[np.ndarray, " n"]
    piece: Int[np.ndarray, " n"]


def low_rank_tensor(
    shape: tuple[int, int, int], ranks: tuple[int, int, int], *, random_state: int
) -> Float[np.ndarray, "P T F"]:
    """A random tensor of multilinear ranks `ranks`: Gaussian core, orthonormal factors.

    Raises UserError if a rank exceeds its side or the product of the other two.
    """
    for n, (side, rank) in enumerate(zip(shape, ranks, strict=True)):
        others = int(np.prod([r for m, r in enumerate(ranks) if m != n]))
        if not 1 <= rank <= min(side, others):
            raise UserError(
                f"mode {n + 1} cannot have rank {rank}: its side is {side} and the product of the "
                f"other two ranks is {others}"
            )
    out: np.ndarray = tensorly.random.random_tucker(
        shape, list(ranks), full=True, orthogonal=True, random_state=random_state
    )
    return out


def _curve(points: np.ndarray, dimension: int) -> Cloud:
    n = len(points)
    return Cloud(points, np.full(n, dimension), np.zeros(n, dtype=int))


def circle(n: int, *, random_state: int) -> Cloud:
    """Uniform on the unit circle."""
    return sphere(n, 1, random_state=random_state)


def sphere(n: int, dimension: int = 2, *, random_state: int) -> Cloud:
    """Uniform on the unit sphere of that dimension, in one coordinate more."""
    return _curve(datasets.hyperSphere(n, dimension, random_state=random_state), dimension)


def ball(n: int, dimension: int, *, random_state: int) -> Cloud:
    """Uniform in the unit ball of that dimension."""
    return _curve(datasets.hyperBall(n, dimension, random_state=random_state), dimension)


def torus(n: int, *, random_state: int) -> Cloud:
    """Uniform by area on the torus of radii 1 and 1/4, in 3 coordinates."""
    return _curve(datasets.torus(n, random_state=random_state), 2)


def swiss_roll(n: int, *, random_state: int) -> Cloud:
    """Uniform by area on a Swiss roll of 1.5 turns, in 3 coordinates."""
    return _curve(datasets.swissRoll3Sph(n, 0, random_state=random_state)[:, :3], 2)


def cone(n: int, *, random_state: int) -> Cloud:
    """Uniform by area on the cone |(x, y)| = z, 0 <= z <= 1: smooth but for its apex."""
    rng = np.random.default_rng(random_state)
    z, angle = np.sqrt(rng.random(n)), 2 * np.pi * rng.random(n)
    return _curve(np.stack([z * np.cos(angle), z * np.sin(angle), z], axis=1), 2)


def lollipop(n: int, *, random_state: int) -> Cloud:
    """A unit disc (half of the points, dimension 2) on a stick of length 2 (dimension 1)."""
    rng = np.random.default_rng(random_state)
    disc = datasets.hyperBall(n - n // 2, 2, random_state=random_state)
    stick = np.stack([1 + 2 * rng.random(n // 2), np.zeros(n // 2)], axis=1)
    sizes = [len(disc), len(stick)]
    return Cloud(np.concatenate([disc, stick]), np.repeat([2, 1], sizes), np.repeat([0, 1], sizes))


MANIFOLDS: dict[str, Callable[..., Cloud]] = {
    "circle": circle,
    "sphere": sphere,
    "torus": torus,
    "Swiss roll": swiss_roll,
    "cone": cone,
    "lollipop": lollipop,
}


def embed(
    cloud: Cloud, ambient: int, *, noise: float = 0.0, random_state: int
) -> Float[np.ndarray, "n ambient"]:
    """The cloud in a random orientation in `ambient` dimensions, with white noise.

    `noise` is the length of a point's noise vector (root mean square) over the cloud's
    root-mean-square radius; so it does not grow with the ambient dimension.
    """
    n, d = cloud.points.shape
    if ambient < d:
        raise UserError(f"the cloud needs {d} dimensions, ambient is {ambient}")
    rng = np.random.default_rng(random_state)
    frame = np.linalg.qr(rng.normal(size=(ambient, d)))[0]
    scale = noise * rms_radius(cloud.points) / np.sqrt(ambient)
    return cloud.points @ frame.T + scale * rng.normal(size=(n, ambient))


def linear_strata(
    dimensions: Sequence[int], n_each: int, ambient: int, *, random_state: int
) -> Cloud:
    """Gaussian points on linear subspaces in general position, which all meet at the origin.

    Each stratum has root-mean-square radius 1; the origin is their common singular point.
    """
    rng = np.random.default_rng(random_state)
    return _strata(
        [rng.normal(size=(n_each, d)) / np.sqrt(d) for d in dimensions], dimensions, ambient, rng
    )


def curved_strata(
    dimensions: Sequence[int], n_each: int, ambient: int, *, random_state: int
) -> Cloud:
    """Unit spheres of several dimensions in general position that all touch at the origin."""
    rng = np.random.default_rng(random_state)
    parts = []
    for d in dimensions:
        x = rng.normal(size=(n_each, d + 1))
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        parts.append(x + np.eye(d + 1)[0])
    return _strata(parts, dimensions, ambient, rng)


def _strata(
    parts: Sequence[np.ndarray], dimensions: Sequence[int], ambient: int, rng: np.random.Generator
) -> Cloud:
    widest = max(x.shape[1] for x in parts)
    if ambient < widest:
        raise UserError(f"a stratum needs {widest} dimensions, ambient is {ambient}")
    placed = [x @ np.linalg.qr(rng.normal(size=(ambient, x.shape[1])))[0].T for x in parts]
    sizes = [len(x) for x in parts]
    return Cloud(
        np.concatenate(placed), np.repeat(dimensions, sizes), np.repeat(range(len(parts)), sizes)
    )


def pieces(
    k: int, n_each: int, dimension: int, *, ambient: int, separation: float, random_state: int
) -> Cloud:
    """k unit balls in random orientations, whose centres form a regular simplex.

    Centres are `separation` apart, so for separation > 2 the balls are disjoint and the cloud has
    exactly k components. A simplex of k corners needs ambient >= k - 1.
    """
    if ambient < max(dimension, k - 1):
        raise UserError(f"{k} balls of dimension {dimension} need more than {ambient} dimensions")
    rng = np.random.default_rng(random_state)
    balls = [ball(n_each, dimension, random_state=int(rng.integers(2**31))) for _ in range(k)]
    cloud = _strata([b.points for b in balls], [dimension] * k, ambient, rng)
    centres = np.zeros((k, ambient))
    if k > 1:
        centres[:, : k - 1] = arrangement("simplex", k, spacing=separation).centroids
    turned = centres @ np.linalg.qr(rng.normal(size=(ambient, ambient)))[0]
    return Cloud(cloud.points + turned[cloud.piece], cloud.dimension, cloud.piece)


@dataclass(frozen=True)
class Arrangement:
    """Centroids with the AEDP and the minimum spanning tree weight that they have exactly."""

    centroids: Float[np.ndarray, "k d"]
    aedp: float
    mst_weight: float


def arrangement(kind: str, k: int, *, spacing: float = 1.0) -> Arrangement:
    """k centroids at known separability, neighbours `spacing` apart.

    "simplex": all pairs at that distance, in k - 1 dimensions. "line": AEDP = spacing (k + 1) / 3.
    "circle": a regular k-gon of radius R = spacing / (2 sin(pi / k)), with
    AEDP = 2 R cot(pi / 2k) / (k - 1). All have a spanning tree of weight (k - 1) spacing.
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
        centred = (np.eye(k) - 1 / k) * spacing / np.sqrt(2)
        u, s, _ = np.linalg.svd(centred)
        corners, aedp = u[:, : k - 1] * s[: k - 1], spacing
    return Arrangement(corners.astype(float), float(aedp), (k - 1) * spacing)


@dataclass(frozen=True)
class PlantedCodes:
    """Sparse codes in groups, each confined to its own support of features."""

    codes: Float[Tensor, "n F"]
    group: Int[Tensor, " n"]
    supports: Bool[Tensor, "groups F"]


def planted_codes(
    support_sizes: Sequence[int],
    n_each: int,
    n_features: int,
    *,
    firing: float = 0.5,
    random_state: int,
) -> PlantedCodes:
    """Nonnegative codes from `sae_lens.synthetic` whose groups have disjoint planted supports.

    Within its support a feature fires independently with probability `firing`, at magnitudes
    around 1; so group g spans support_sizes[g] dimensions once it has enough codes.
    """
    if sum(support_sizes) > n_features:
        raise UserError(f"supports of {sum(support_sizes)} features exceed the {n_features} given")
    order = torch.randperm(n_features, generator=torch.Generator().manual_seed(random_state))
    supports = torch.zeros(len(support_sizes), n_features, dtype=torch.bool)
    for row, features in zip(
        supports, order[: sum(support_sizes)].split(list(support_sizes)), strict=True
    ):
        row[features] = True
    group = torch.arange(len(support_sizes)).repeat_interleave(n_each)
    generator = ActivationGenerator(
        n_features, firing, std_firing_magnitudes=0.25,
        modify_activations=lambda codes: codes * supports[group],
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):  # it draws from torch's global stream
        torch.manual_seed(random_state)
        codes = generator.sample(len(group))
    return PlantedCodes(codes, group, supports)
