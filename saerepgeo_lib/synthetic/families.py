"""Families of planted data, smooth and stratified, by name: what a test of stratification meets.

`OURS` were at hand when the test was made and its threshold was set. The `EXTERNAL` ones were not:
manifolds that others made for comparing estimators of dimension (Hein and Audibert 2005,
Campadelli et al. 2015, as scikit-dimension has them), alone and joined.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from skdim.datasets import BenchmarkManifolds

from saerepgeo_lib.errors import choose
from saerepgeo_lib.geometry.points import Points, rms_radius
from saerepgeo_lib.synthetic import data
from saerepgeo_lib.synthetic.data import Cloud, join

Rng = np.random.Generator
Family = Callable[[int, Rng], Cloud]
AMBIENT = 40
_PIECES = 60  # of "clusters", of sizes that fall as one over their rank, as words' do
_MADE = {  # manifolds of others: the name here, and theirs
    "helix": "M5a_Helix1d", "spiral": "M13b_Spiral", "twisted band": "M11_Moebius",
    "S curve": "M13a_Scurve", "helix surface": "M5b_Helix2d", "paraboloid 3": "Mp1_Paraboloid",
    "affine 3": "M2_Affine_3to5", "concentrated 4": "M3_Nonlinear_4to6", "curved 4": "M4_Nonlinear",
    "curved 6": "M6_Nonlinear", "beta 10": "Mbeta", "sphere 10": "M1_Sphere",
}  # fmt: skip
_JOINED = (
    ("helix", "helix surface"), ("spiral", "paraboloid 3"), ("twisted band", "curved 4"),
    ("S curve", "curved 6"), ("helix", "affine 3"), ("paraboloid 3", "beta 10"),
    ("concentrated 4", "sphere 10"),
)  # fmt: skip


def planted(family: str, n: int, *, noise: float = 0.0, random_state: int) -> Cloud:
    """About n points of a family in 40 dimensions, in random order, each with its own dimension.

    `noise` is that of `data.embed`, in rms radii. Raises UserError for an unknown family.
    """
    make = FAMILIES[choose("family", family, FAMILIES)]
    rng = np.random.default_rng(random_state)
    cloud = make(n, rng)
    x = data.embed(cloud, AMBIENT, noise=noise, random_state=int(rng.integers(2**31)))
    order = rng.permutation(len(x))
    return Cloud(x[order], cloud.dimension[order], cloud.piece[order])


def truth_of(family: str, cloud: Cloud) -> str:
    """What is so of a cloud of a family: "several dimensions", "singular" or "smooth"."""
    if len(set(cloud.dimension.tolist())) > 1:
        return "several dimensions"
    return "singular" if family in SINGULAR else "smooth"


def _one(dimension: int, points: Callable[[int, Rng], Points]) -> Family:
    return lambda n, rng: join([points(n, rng)], [dimension])


def _of(cloud: Callable[..., Cloud]) -> Family:
    """A family from a function that takes n and a seed."""
    return lambda n, rng: cloud(n, random_state=int(rng.integers(2**31)))


def _strata(dimensions: Sequence[int], *, curved: bool) -> Family:
    return lambda n, rng: data.strata(
        dimensions, n // len(dimensions), AMBIENT, curved=curved,
        random_state=int(rng.integers(2**31)),
    )  # fmt: skip


def _clusters(dimensions: Sequence[int]) -> Family:
    """Gaussian pieces apart, of sizes like those of words; their dimensions take turns."""

    def make(n: int, rng: Rng) -> Cloud:
        weights = 1 / np.arange(1, _PIECES + 1)
        sizes = np.maximum(1, np.round(n * weights / weights.sum()).astype(int))
        order = [dimensions[i % len(dimensions)] for i in range(_PIECES)]
        parts = [
            data.turned(rng.normal(size=(size, d)) / np.sqrt(d), AMBIENT, rng)
            + 2 * rng.normal(size=AMBIENT) / np.sqrt(AMBIENT)
            for size, d in zip(sizes, order, strict=True)
        ]
        return join(parts, order)

    return make


def _uneven(n: int, rng: Rng) -> Points:
    """A plane whose density differs by orders of magnitude."""
    return rng.normal(size=(n, 2)) * np.exp(rng.normal(size=(n, 1)))


def _folded(n: int, rng: Rng) -> Points:
    return np.sin(0.7 * rng.random((n, 8)) @ rng.normal(size=(8, AMBIENT)))


def _falling(n: int, rng: Rng) -> Points:
    return rng.normal(size=(n, 12)) * np.arange(1, 13) ** -0.7


def _pinched(n: int, rng: Rng) -> Points:
    """A torus whose tube shrinks to a point at one place."""
    u, v = 2 * np.pi * rng.random((2, n))
    tube = 0.5 * np.sin(u / 2)
    ring = 1 + tube * np.cos(v)
    return np.stack([ring * np.cos(u), ring * np.sin(u), tube * np.sin(v)], axis=1)


def _crossing(n: int, rng: Rng) -> Cloud:
    """Two squares that cross in a line."""
    squares = [2 * rng.random((n // 2, 2)) - 1 for _ in range(2)]
    parts = [np.insert(square, place, 0, axis=1) for place, square in enumerate(squares, 1)]
    return join(parts, [2, 2])


def _joined(names: Sequence[str], n: int, rng: Rng) -> Cloud:
    """Manifolds of others, of radius 1, each turned at random about its first point."""
    parts, dimensions = [], []
    for name in names:
        manifolds = BenchmarkManifolds(random_state=int(rng.integers(2**31)))
        dimension, ambient = (int(v) for v in manifolds.truth.loc[_MADE[name]].iloc[:2])
        x = manifolds.generate(_MADE[name], n // len(names), ambient, dimension)
        parts.append(data.turned((x - x[0]) / rms_radius(x), AMBIENT, rng))
        dimensions.append(dimension)
    return join(parts, dimensions)


OURS: dict[str, Family] = {
    "line": _one(1, lambda n, rng: rng.random((n, 1))),
    "circle": _of(data.circle), "sphere": _of(data.sphere), "torus": _of(data.MANIFOLDS["torus"]),
    "Swiss roll": _of(data.MANIFOLDS["Swiss roll"]),
    "Gaussian 4": _one(4, lambda n, rng: rng.normal(size=(n, 4))),
    "Gaussian 8": _one(8, lambda n, rng: rng.normal(size=(n, 8))),
    "falling spectrum 12": _one(12, _falling), "uneven plane": _one(2, _uneven),
    "folded sheet 8": _one(8, _folded), "clusters 4": _clusters([4]),
    "flats 1, 2": _strata([1, 2], curved=False), "flats 2, 4": _strata([2, 4], curved=False),
    "flats 4, 8": _strata([4, 8], curved=False), "spheres 1, 2": _strata([1, 2], curved=True),
    "flats 1, 2, 4, 8": _strata([1, 2, 4, 8], curved=False),
    "spheres 1, 2, 4, 8": _strata([1, 2, 4, 8], curved=True),
    "lollipop": _of(data.lollipop), "clusters 2, 4, 8": _clusters([2, 4, 8]),
    "cone": _of(data.cone), "pinched torus": _one(2, _pinched), "crossing squares": _crossing,
}  # fmt: skip
EXTERNAL: dict[str, Family] = {
    " and ".join(names): partial(_joined, names) for names in [*zip(_MADE), *_JOINED]
}
FAMILIES = OURS | EXTERNAL
SINGULAR = ("cone", "pinched torus", "crossing squares")  # of one dimension, but no manifolds
