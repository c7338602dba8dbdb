"""Does the local dimension differ from place to place? Two tests on distances to neighbours.

In one piece of dimension d and even density, with T_1 < T_2 < ... the distances from a point to its
neighbours, the spacings j log(T_{j+1} / T_j) are independent exponentials of mean 1/d: the number
of points in a ball is a Poisson variable of mean proportional to radius^d (Levina and Bickel 2004).
Curvature, edges and uneven density bend that, the less so the nearer the neighbours are.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import stats
from sklearn.neighbors import NearestNeighbors

from saerepgeo_lib.activations.residual_stream import twins
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.geometry.points import Points, check_points
from saerepgeo_lib.stats.estimates import Estimate, NotEstimable

SMALLEST = 0.2  # excess of interest: local dimensions that differ by a fifth, up and down
NEIGHBOURS = 20  # of a neighbourhood whose dimension is estimated
REACH = 40  # neighbours over which the growth of volume is followed
_CUTS = (8, 16, 24, 32)  # spacings at which the growth may change
_LEAST = 10  # neighbourhoods below which no spread is given
CENTRES = 4000  # points, drawn at random, whose neighbours are sought
_RESAMPLES = 1000

Groups = Int[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class DimensionSpread:
    """Local dimensions of neighbourhoods that share no point, in the data and in the null.

    `excess` is the standard deviation of log dimension beyond the null's: the signed root of the
    difference of the two variances, 0 for one dimension. Its 95 % interval resamples
    neighbourhoods, of the data and of the null. There is no effect of zero size to test: p is NaN.
    """

    dimension: Float[np.ndarray, " m"]
    null: Float[np.ndarray, " l"]
    excess: Estimate

    @property
    def verdict(self) -> str:
        """Several dimensions, one, or undecided: on which side of `SMALLEST` the interval is."""
        if self.excess.low > SMALLEST:
            return "several dimensions"
        return "one dimension" if self.excess.high < SMALLEST else "undecided"


def dimension_spread(
    points: Points, groups: Groups | None = None, *, n_neighbours: int = NEIGHBOURS,
    null_draws: int = 4, centres: int = CENTRES, random_state: int = 0,
) -> DimensionSpread | NotEstimable:  # fmt: skip
    """How much the local dimension varies over the points, beyond what equal pieces give.

    The null has the points' `groups` (default: all are one) as Gaussian pieces of one shape
    (`equal_pieces`), drawn `null_draws` times. Neighbourhoods of `n_neighbours` points are sought
    around `centres` points, drawn at random. Exact copies count once, and no neighbourhood lies
    around a copy up to rounding. Not estimable with fewer than 10 disjoint neighbourhoods. Raises
    UserError for groups of another length.
    """
    x, labels = _checked(points, groups)
    if n_neighbours < 3:
        raise UserError(f"n_neighbours must be at least 3, got {n_neighbours}")
    rng = np.random.default_rng(random_state)
    dimension = _dimensions(x, n_neighbours, centres, rng)
    if len(dimension) < _LEAST:
        return NotEstimable(
            f"{len(dimension)} neighbourhoods of {n_neighbours} neighbours share no point, at "
            f"least {_LEAST} are needed: take more points, or fewer neighbours"
        )
    pieces = (equal_pieces(x, labels, rng, least=n_neighbours) for _ in range(null_draws))
    null = np.concatenate([_dimensions(y, n_neighbours, centres, rng) for y in pieces])
    draws = [
        _excess(rng.choice(dimension, len(dimension)), rng.choice(null, len(null)))
        for _ in range(_RESAMPLES)
    ]
    low, high = (float(v) for v in np.quantile(draws, (0.025, 0.975)))
    excess = Estimate(_excess(dimension, null), low, high, float("nan"), len(dimension))
    return DimensionSpread(dimension, null, excess)


def volume_growth(
    points: Points, *, centres: int = CENTRES, random_state: int = 0
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """p-values of the manifold and of the fibre-bundle hypothesis around up to `centres` points.

    After Robinson, Dey and Chiang (2504.01002): around a point of a manifold the number of
    neighbours grows as one power of the radius; in a fibre bundle the power may fall with the
    radius, but not rise. Theirs compares slopes of a curve on logarithmic axes; here the spacings
    before and after each of four cuts are compared, whose means have an F law, two-sided for the
    manifold, with Bonferroni's correction. Points with a copy up to rounding are passed over.
    Raises UserError for 40 distinct points or fewer.
    """
    x, _ = _checked(points, None)
    if len(x) <= REACH:
        raise UserError(f"need more than {REACH} distinct points, got {len(x)}")
    around = np.random.default_rng(random_state).permutation(len(x))[:centres]
    spacings = _spacings(_neighbourhoods(x, REACH, around)[0])
    sums = np.cumsum(spacings, axis=1)
    rises = []
    for cut in _CUTS:
        rest = REACH - 1 - cut
        inner, outer = sums[:, cut - 1] / cut, (sums[:, -1] - sums[:, cut - 1]) / rest
        rises.append(stats.f.sf(inner / outer, 2 * cut, 2 * rest))
    rise = np.array(rises)
    both = 2 * np.minimum(rise, 1 - rise)
    manifold, bundle = (np.minimum(len(_CUTS) * p.min(axis=0), 1) for p in (both, rise))
    return manifold, bundle


def equal_pieces(
    points: Points, groups: Groups, rng: np.random.Generator, *, least: int = 0
) -> Points:
    """Gaussian pieces of one shape: with the groups' means, sizes and radii, and one spectrum.

    The spectrum is the mean of the groups' own: the shares of variance along their principal axes,
    in falling order, weighted by the number of points; of groups of more than `least` points, if
    there are any. Several pieces have axes of their own, drawn from one random frame of the space.
    """
    x = check_points(points)
    rows = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    variances = [_variances(x[row]) for row in rows]
    large = [len(row) > least for row in rows]
    spectrum = np.zeros(max(map(len, variances)))
    for values, row, counts in zip(variances, rows, large, strict=True):
        if values.sum() and (counts or not any(large)):
            spectrum[: len(values)] += len(row) * values / values.sum()
    spectrum /= max(spectrum.sum(), np.finfo(float).tiny)
    width = min(x.shape[1], 4 * len(spectrum))
    frame = np.eye(width, x.shape[1])  # of one piece the axes do not matter
    if len(rows) > 1:
        frame = np.linalg.qr(rng.normal(size=(x.shape[1], width)))[0].T
    result = np.empty_like(x)
    for values, row in zip(variances, rows, strict=True):
        result[row] = x[row].mean(axis=0)
        if values.sum():
            axes = frame[rng.permutation(width)[: len(spectrum)]]
            steps = rng.normal(size=(len(row), len(spectrum))) * np.sqrt(spectrum * values.sum())
            result[row] += steps @ axes
    return result


def _variances(x: Points) -> Float[np.ndarray, " r"]:
    """Variances along the principal axes, falling, as many as the points can have."""
    if len(x) == 1:
        return np.zeros(1)
    centred = x - x.mean(axis=0)
    few = len(x) <= x.shape[1]
    values: np.ndarray = np.linalg.eigvalsh(centred @ centred.T if few else centred.T @ centred)
    return values[::-1].clip(min=0)[: min(len(x) - 1, x.shape[1])] / (len(x) - 1)


def _checked(points: Points, groups: Groups | None) -> tuple[np.ndarray, np.ndarray]:
    """The distinct points and their groups."""
    x = check_points(points, least=2)
    labels = np.zeros(len(x), dtype=int) if groups is None else np.asarray(groups)
    if labels.shape != (len(x),):
        raise UserError(f"expected a group for each of the {len(x)} points, got {labels.shape}")
    kept = twins(x)[0]
    return x[kept], labels[kept]


def _dimensions(
    x: Points, k: int, centres: int, rng: np.random.Generator
) -> Float[np.ndarray, " m"]:
    """The unbiased dimension (k - 2) / sum of spacings, at points whose neighbours are unused."""
    if len(x) <= k:
        return np.array([])
    distances, balls = _neighbourhoods(x, k, rng.permutation(len(x))[:centres])
    used, kept = np.zeros(len(x), dtype=bool), []
    for row, ball in enumerate(balls):
        if not used[ball].any():
            used[ball] = True
            kept.append(row)
    return (k - 2) / _spacings(distances[kept]).sum(axis=1)


def _neighbourhoods(
    x: Points, k: int, centres: Int[np.ndarray, " m"]
) -> tuple[Float[np.ndarray, "kept k"], Int[np.ndarray, "kept k+1"]]:
    """Distances from centres to their k nearest points, ascending; and these points, centre first.

    Centres that have a copy up to rounding are left out: their distances have two scales.
    """
    distances, nearest = NearestNeighbors(n_neighbors=k + 1).fit(x).kneighbors(x[centres])
    rounding = 4 * np.finfo(np.float32).eps * np.linalg.norm(x, axis=1).max()
    alone = distances[:, 1] > rounding
    balls = np.column_stack([centres, nearest[:, 1:]])
    return distances[alone, 1:], balls[alone]


def _spacings(distances: Float[np.ndarray, "m k"]) -> Float[np.ndarray, "m k-1"]:
    return np.diff(np.log(distances), axis=1) * np.arange(1, distances.shape[1])


def _excess(dimension: Float[np.ndarray, " m"], null: Float[np.ndarray, " l"]) -> float:
    difference = np.log(dimension).var(ddof=1) - np.log(null).var(ddof=1)
    return float(np.sign(difference) * np.sqrt(abs(difference)))
