"""Does the local dimension differ from place to place? Two tests on distances to neighbours.

In one piece of dimension d and even density, with T_1 < T_2 < ... the distances from a point to its
neighbours, the spacings j log(T_{j+1} / T_j) are independent exponentials of mean 1/d: the number
of points in a ball is a Poisson variable of mean proportional to radius^d (Levina and Bickel 2005).
Curvature, edges and uneven density bend that, the less so the nearer the neighbours are.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import stats
from scipy.special import polygamma
from sklearn.neighbors import NearestNeighbors

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.geometry.points import Points, check_points, distinct
from saerepgeo_lib.stats.estimates import Estimate, NotEstimable

SMALLEST = 0.2  # excess of interest: local dimensions that differ by a fifth, up and down
NEIGHBOURS = 20  # of a neighbourhood whose dimension is estimated
REACH = 40  # neighbours over which the growth of volume is followed
_CUTS = (8, 16, 24, 32)  # spacings at which the growth may change
_LEAST = 10  # neighbourhoods below which no spread is given
_QUERIES = 4000  # points, drawn at random, whose neighbours are sought
_RESAMPLES = 1000

Groups = Int[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class DimensionSpread:
    """Local dimensions of neighbourhoods that share no point, and of the null's.

    `excess` is the standard deviation of log dimension beyond the null's, 0 for one dimension (a
    negative value: the null's spread is larger). Its 95 % interval resamples neighbourhoods; p is
    one-sided, of an excess of at most `SMALLEST`.
    """

    dimension: Float[np.ndarray, " m"]
    null: Float[np.ndarray, " l"]
    excess: Estimate
    n_neighbours: int

    @property
    def verdict(self) -> str:
        """Stratified, one dimension, or undecided: on which side of `SMALLEST` the interval is."""
        if self.excess.low > SMALLEST:
            return "stratified"
        return "one dimension" if self.excess.high < SMALLEST else "undecided"


def dimension_spread(
    points: Points, groups: Groups | None = None, *, within: bool = False,
    n_neighbours: int = NEIGHBOURS, null_draws: int = 4, random_state: int = 0,
) -> DimensionSpread | NotEstimable:  # fmt: skip
    """How much the local dimension varies over the points, beyond what smooth pieces give.

    The null has the points' `groups` (default: all are one) as Gaussian pieces of one spectrum
    (`equal_pieces`), drawn `null_draws` times. `within` seeks neighbours in a point's own group, so
    that gaps between groups do not count; groups of `n_neighbours` points or fewer are left out.
    Copies count once. Not estimable with fewer than 10 disjoint neighbourhoods. Raises UserError
    for groups of another length.
    """
    x, labels = _checked(points, groups)
    if n_neighbours < 3:
        raise UserError(f"n_neighbours must be at least 3, got {n_neighbours}")
    rng = np.random.default_rng(random_state)
    dimension = _dimensions(x, labels if within else None, n_neighbours, rng)
    if len(dimension) < _LEAST:
        return NotEstimable(
            f"{len(dimension)} neighbourhoods of {n_neighbours} neighbours share no point, at "
            f"least {_LEAST} are needed: take more points, or fewer neighbours"
        )
    twins = (equal_pieces(x, labels, rng) for _ in range(null_draws))
    null = np.concatenate(
        [_dimensions(y, labels if within else None, n_neighbours, rng) for y in twins]
    )
    a, b = np.log(dimension), np.log(null)
    value = _excess(a.var(ddof=1), b.var(ddof=1))
    draws = [
        _excess(rng.choice(a, len(a)).var(ddof=1), rng.choice(b, len(b)).var(ddof=1))
        for _ in range(_RESAMPLES)
    ]
    low, high = np.quantile(draws, (0.025, 0.975))
    p = (1 + np.sum(np.array(draws) <= SMALLEST)) / (1 + _RESAMPLES)
    excess = Estimate(float(value), float(low), float(high), float(p), len(a))
    return DimensionSpread(dimension, null, excess, n_neighbours)


def volume_growth(
    points: Points, *, random_state: int = 0
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """p-values of the manifold and of the fibre-bundle hypothesis at up to 4,000 of the points.

    After Robinson, Dey and Chiang (2504.01002): around a point of a manifold the number of
    neighbours grows as one power of the radius; in a fibre bundle the power may fall with the
    radius, but not rise. Theirs compares slopes of a curve on logarithmic axes; here the spacings
    before and after each of four cuts are compared, whose means have an F law, two-sided for the
    manifold, with Bonferroni's correction. Raises UserError for 40 distinct points or fewer.
    """
    x, _ = _checked(points, None)
    if len(x) <= REACH:
        raise UserError(f"need more than {REACH} distinct points, got {len(x)}")
    queries = np.random.default_rng(random_state).permutation(len(x))[:_QUERIES]
    spacings = _spacings(_neighbours(x, REACH, queries)[0])
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


def equal_pieces(points: Points, groups: Groups, rng: np.random.Generator) -> Points:
    """Gaussian pieces with the groups' means, sizes and radii, and one spectrum.

    The spectrum is the mean of the groups' own: the shares of variance along their principal axes,
    in falling order, weighted by the number of points. Each piece has axes of its own, drawn from
    one random frame of the space.
    """
    x = check_points(points)
    result = np.empty_like(x)
    rows = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    variances = [_variances(x[row]) for row in rows]
    spectrum = np.zeros(max(map(len, variances)))
    for values, row in zip(variances, rows, strict=True):
        if values.sum():
            spectrum[: len(values)] += len(row) * values / values.sum()
    spectrum /= max(spectrum.sum(), np.finfo(float).tiny)
    frame = np.linalg.qr(rng.normal(size=(x.shape[1], x.shape[1])))[0]
    for values, row in zip(variances, rows, strict=True):
        result[row] = x[row].mean(axis=0)
        if values.sum():
            axes = frame[rng.permutation(len(frame))[: len(spectrum)]]
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
    """The points and their groups without copies, which are what rounding alone tells apart: on a
    thin stratum beside thick ones distinct points lie far closer than is typical.
    """
    x = check_points(points, least=2)
    labels = np.zeros(len(x), dtype=int) if groups is None else np.asarray(groups)
    if labels.shape != (len(x),):
        raise UserError(f"expected a group for each of the {len(x)} points, got {labels.shape}")
    kept = distinct(x, near=0)[0]
    return x[kept], labels[kept]


def _dimensions(
    x: Points, within: Groups | None, k: int, rng: np.random.Generator
) -> Float[np.ndarray, " m"]:
    """Dimensions of disjoint neighbourhoods, sought in each group apart if there are any."""
    parts = [x] if within is None else [x[within == g] for g in np.unique(within)]
    return np.array([d for part in parts if len(part) > k for d in _disjoint(part, k, rng)])


def _disjoint(x: Points, k: int, rng: np.random.Generator) -> Iterator[float]:
    """The unbiased dimension (k - 2) / sum of spacings at points whose neighbours are unused."""
    queries = rng.permutation(len(x))[:_QUERIES]
    distances, nearest = _neighbours(x, k, queries)
    sums = _spacings(distances).sum(axis=1)
    used = np.zeros(len(x), dtype=bool)
    for row, point in enumerate(queries):
        ball = [point, *nearest[row]]
        if not used[ball].any():
            used[ball] = True
            yield float((k - 2) / sums[row])


def _neighbours(x: Points, k: int, queries: Int[np.ndarray, " m"]) -> tuple[np.ndarray, np.ndarray]:
    """Distances to the k nearest other points, ascending, and which these are."""
    distances, nearest = NearestNeighbors(n_neighbors=k + 1).fit(x).kneighbors(x[queries])
    return distances[:, 1:], nearest[:, 1:]


def _spacings(distances: Float[np.ndarray, "m k"]) -> Float[np.ndarray, "m k-1"]:
    return np.diff(np.log(distances), axis=1) * np.arange(1, distances.shape[1])


def _excess(variance: float, null: float) -> float:
    """The root of a difference of variances, with its sign."""
    return float(np.sign(variance - null) * np.sqrt(abs(variance - null)))


def sampling_spread(n_neighbours: int) -> float:
    """The standard deviation of an estimated log dimension where the dimension is one."""
    return float(np.sqrt(polygamma(1, n_neighbours - 1)))
