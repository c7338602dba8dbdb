"""Intrinsic dimension of a cloud of points, whose duplicates count once.

Values are those of scikit-dimension, whose import takes seconds. Intervals are ours: for the
sampling error, which knows no bias. There is no effect to test, and p is NaN.
"""

import numpy as np
from jaxtyping import Float
from scipy import stats
from scipy.spatial.distance import pdist, squareform

from saerepgeo_lib.geometry.points import Points, check_points, distinct
from saerepgeo_lib.stats.estimates import Estimate, NotEstimable

MIN_POINTS = 5  # distinct points below which no dimension is given
DISCARD = 0.1  # share of largest ratios that TwoNN treats as censored (Facco et al. 2017)
NEIGHBOURS = 10  # of the second opinion
N_GROUPS = 10  # of the jackknife
_GAP, _MOST = 100, 0.1  # ratios of successive distances that one dimension gives 1 point in 100
# See `_local`: standard errors at the first step and at later ones (5,520 clean clouds of 12 to 200
# points reached 4.4 and 9.2), and how much larger a later one is (groups of a concept differ, too).
_BREAK, _TIMES = (6.0, 12.0), 3.0
_ROUNDING = 1e-9  # logarithms of ratios below this are the rounding of equal distances
Distances = Float[np.ndarray, "kept kept"]


def two_nn(points: Points) -> Estimate | NotEstimable:
    """TwoNN dimension (Facco et al. 2017) by maximum likelihood (Denti et al. 2022).

    The ratios mu of the distances to the second and the first neighbour have a Pareto law of
    exponent d. The largest tenth is treated as censored: with the k smallest of N kept and
    S = sum_{i <= k} log mu_(i) + (N - k) log mu_(k), d = (k - 1) / S. For independent ratios 2 d S
    has a chi-squared law of 2 k degrees, which gives the interval; neighbours are shared, so it is
    somewhat too narrow.
    """
    distances = _distances(points)
    log_mu = _local(distances, 2)
    if isinstance(log_mu, NotEstimable):
        return log_mu
    value, kept = _censored_pareto(log_mu)
    low, high = value * stats.chi2.ppf((0.025, 0.975), 2 * kept) / (2 * (kept - 1))
    return Estimate(value, float(low), float(high), np.nan, len(log_mu))


def mle(points: Points, *, n_neighbours: int = NEIGHBOURS) -> Estimate | NotEstimable:
    """Levina and Bickel's (2005) dimension, joined by MacKay and Ghahramani's harmonic mean.

    At each point, 1/d is the mean of log(T_k / T_j) over the k - 1 nearest neighbours' distances
    T_j; k is `n_neighbours` or as many as there are. The interval is that of a jackknife which
    leaves out a tenth of the points at a time, so it knows that neighbourhoods overlap.
    """
    distances = _distances(points)
    inverse = _local(distances, n_neighbours)
    if isinstance(inverse, NotEstimable):
        return inverse
    n, n_groups = len(inverse), min(N_GROUPS, len(inverse))
    kept = [np.flatnonzero(np.arange(n) % n_groups != group) for group in range(n_groups)]
    logs = [np.log(_inverse(distances[np.ix_(rows, rows)], n_neighbours).mean()) for rows in kept]
    error = np.sqrt((n_groups - 1) * np.var(logs))
    factor = float(np.exp(stats.t.ppf(0.975, n_groups - 1) * error))
    value = float(1 / inverse.mean())
    return Estimate(value, value / factor, value * factor, np.nan, n)


def local_inverse_dimensions(
    points: Points, *, n_neighbours: int = NEIGHBOURS
) -> Float[np.ndarray, " kept"]:
    """Levina and Bickel's 1/d at each distinct point (their mean is 1/d of `mle`)."""
    return _inverse(_distances(points, least=3), n_neighbours)


def two_nn_misfit(points: Points) -> float:
    """Kolmogorov-Smirnov distance of the TwoNN ratios from the Pareto law fitted to them.

    Near 0 for one manifold of constant dimension; a union of dimensions mixes Pareto laws.
    """
    log_mu = _inverse(_distances(points, least=3), 2)
    d, _ = _censored_pareto(np.maximum(log_mu, _ROUNDING))
    return float(stats.kstest(log_mu, stats.expon(scale=1 / d).cdf).statistic)


def _distances(points: Points, *, least: int = 1) -> Distances:
    """Distances between the distinct points."""
    x = check_points(points)
    return squareform(pdist(check_points(x[distinct(x)[0]], least=least)))


def _local(distances: Distances, k: int) -> Float[np.ndarray, " kept"] | NotEstimable:
    """`_inverse`, or why these points have no dimension.

    The k-th neighbour's distance T_k has k log(T_{k+1} / T_k) of mean 1/d for every k. Near-copies
    in groups of m + 1 break that at k = m: there the mean is larger by far than over the other k.
    """
    if len(distances) < MIN_POINTS:
        return NotEstimable(f"{len(distances)} distinct points, at least {MIN_POINTS} are needed")
    inverse = _inverse(distances, k)
    if inverse.max() < _ROUNDING:
        return NotEstimable("every point has all its neighbours at one distance")
    nearest = _nearest(distances, k)
    gaps = (nearest[:, 1:] > _GAP * nearest[:, :-1]).any(axis=1).mean()
    if gaps > _MOST:
        return NotEstimable(
            f"{gaps:.0%} of the points have neighbours {_GAP} times as near as the next ones: "
            "the cloud has two scales, as near-copies give it"
        )
    nearest = _nearest(distances, NEIGHBOURS)
    steps = np.log(nearest[:, 1:] / nearest[:, :-1]) * np.arange(1, nearest.shape[1])
    means = np.maximum(steps.mean(axis=0), _ROUNDING)
    others = (means.sum() - means) / (len(means) - 1)
    excess = np.sqrt(len(steps)) * np.log(means / others)
    broken = excess[:k] > _BREAK[1]
    broken &= means[:k] > _TIMES * others[:k]
    broken[0] = excess[0] > _BREAK[0]
    if broken.any():
        m = int(broken.argmax())
        why = "some points are near-copies of others; leave these out"
        if m:
            why = (
                f"the points lie in groups of about {m + 1}, and neighbourhoods of that size have "
                "no one dimension; leave near-copies out, or take fewer neighbours"
            )
        return NotEstimable(
            f"between neighbours {m + 1} and {m + 2} the dimension is {1 / means[m]:.2g}, between "
            f"the others {1 / others[m]:.2g}: {why}"
        )
    return inverse


def _inverse(distances: Distances, k: int) -> Float[np.ndarray, " kept"]:
    """1/d of each point from its k nearest neighbours, or as many as there are; 2: log mu."""
    nearest = _nearest(distances, k)
    return np.log(nearest[:, -1:] / nearest[:, :-1]).mean(axis=1)


def _nearest(distances: Distances, k: int) -> Float[np.ndarray, "kept k"]:
    """Distances of each point to its k nearest neighbours, ascending, or as many as there are."""
    k = min(k, len(distances) - 1)
    return np.sort(np.partition(distances, k, axis=1)[:, : k + 1], axis=1)[:, 1:]


def _censored_pareto(log_mu: Float[np.ndarray, " n"]) -> tuple[float, int]:
    """The exponent, and how many of the ratios are not censored."""
    n = len(log_mu)
    kept = max(2, int(n * (1 - DISCARD)))
    ordered = np.sort(log_mu)[:kept]
    return float((kept - 1) / (ordered.sum() + (n - kept) * ordered[-1])), kept
