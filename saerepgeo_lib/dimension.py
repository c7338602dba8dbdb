"""Intrinsic dimension of a cloud of points: TwoNN, and a second opinion."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats
from scipy.spatial.distance import pdist, squareform

from saerepgeo_lib.points import NotEstimable, Points, check_points, distinct

MIN_POINTS = 5  # distinct points below which no dimension is given
DISCARD = 0.1  # share of largest ratios that TwoNN treats as censored (Facco et al. 2017)
NEIGHBOURS = 10  # of the second opinion
N_GROUPS = 10  # of the jackknife
_ROUNDING = 1e-9  # logarithms of ratios below this are the rounding of equal distances
_SAME_DISTANCES = NotEstimable("every point has all its neighbours at one distance")


@dataclass(frozen=True)
class Dimension:
    """An intrinsic dimension, an interval for its sampling error, and what it was made from.

    The interval is made for 95 % and covers chance only: an estimator that is biased at this n
    and dimension misses the truth more often. The book's calibration measures how often.
    """

    value: float
    low: float
    high: float
    n: int  # distinct points
    duplicates: int  # points removed because they coincide with another


def two_nn(points: Points) -> Dimension | NotEstimable:
    """TwoNN dimension (Facco et al. 2017) by maximum likelihood (Denti et al. 2022).

    The ratio mu of the distances to the second and the first neighbour has a Pareto law of
    exponent d wherever the density is about constant over that range. The largest tenth of the
    ratios is treated as censored: with N ratios of which the k smallest are kept and
    S = sum_{i <= k} log mu_(i) + (N - k) log mu_(k), d = (k - 1) / S, as in scikit-dimension.
    For independent ratios 2 d S has a chi-squared law of 2 k degrees, which gives the interval;
    neighbouring points share neighbours, so it is somewhat too narrow. Duplicates are removed and
    counted.
    """
    x, duplicates = _distinct(points)
    if len(x) < MIN_POINTS:
        return _too_few(x)
    log_mu = _log_ratios(x)
    if log_mu.max() < _ROUNDING:
        return _SAME_DISTANCES
    value, kept = _censored_pareto(log_mu)
    low, high = value * stats.chi2.ppf((0.025, 0.975), 2 * kept) / (2 * (kept - 1))
    return Dimension(value, float(low), float(high), len(x), duplicates)


def mle(points: Points, *, n_neighbours: int = NEIGHBOURS) -> Dimension | NotEstimable:
    """Levina and Bickel's (2005) dimension, the local values joined by their harmonic mean.

    At each point, 1/d is the mean of log(T_k / T_j) over the k - 1 nearest neighbours' distances
    T_j; k is `n_neighbours` or as many as there are. The harmonic mean over points is MacKay and
    Ghahramani's, as in scikit-dimension. The interval is that of a jackknife which leaves out a
    tenth of the points at a time (in their order), so it knows that neighbourhoods overlap.
    Duplicates are removed and counted.
    """
    x, duplicates = _distinct(points)
    if len(x) < MIN_POINTS:
        return _too_few(x)
    distances = squareform(pdist(x))
    inverse = _inverse(distances, n_neighbours)
    if inverse.max() < _ROUNDING:
        return _SAME_DISTANCES
    groups = np.arange(len(x)) % min(N_GROUPS, len(x))
    rows = [np.flatnonzero(groups != g) for g in range(groups.max() + 1)]
    logs = [np.log(_inverse(distances[np.ix_(keep, keep)], n_neighbours).mean()) for keep in rows]
    share = (len(rows) - 1) / len(rows)
    error = np.sqrt(share * np.square(np.array(logs) - np.mean(logs)).sum())
    factor = float(np.exp(stats.t.ppf(0.975, len(rows) - 1) * error))
    value = float(1 / inverse.mean())
    return Dimension(value, value / factor, value * factor, len(x), duplicates)


def local_inverse_dimensions(
    points: Points, *, n_neighbours: int = NEIGHBOURS
) -> Float[np.ndarray, " n"]:
    """Levina and Bickel's 1/d at each distinct point (their mean is 1/d of `mle`)."""
    x = check_points(_distinct(points)[0], least=3)
    return _inverse(squareform(pdist(x)), n_neighbours)


def two_nn_misfit(points: Points) -> float:
    """Kolmogorov-Smirnov distance of the TwoNN ratios from the Pareto law fitted to them.

    Near 0 for one manifold of constant dimension; a union of dimensions mixes Pareto laws.
    """
    log_mu = _log_ratios(check_points(_distinct(points)[0], least=3))
    d, _ = _censored_pareto(np.maximum(log_mu, _ROUNDING))
    return float(stats.kstest(log_mu, stats.expon(scale=1 / d).cdf).statistic)


def _distinct(points: Points) -> tuple[Float[np.ndarray, "kept d"], int]:
    x = check_points(points)
    kept = distinct(x)
    return x[kept], len(x) - len(kept)


def _too_few(x: Points) -> NotEstimable:
    return NotEstimable(f"{len(x)} distinct points, at least {MIN_POINTS} are needed")


def _log_ratios(x: Points) -> Float[np.ndarray, " n"]:
    nearest = np.partition(squareform(pdist(x)), (1, 2), axis=1)
    ratios: np.ndarray = np.log(nearest[:, 2] / nearest[:, 1])
    return ratios


def _censored_pareto(log_mu: Float[np.ndarray, " n"]) -> tuple[float, int]:
    n = len(log_mu)
    kept = max(2, int(n * (1 - DISCARD)))
    ordered = np.sort(log_mu)[:kept]
    return float((kept - 1) / (ordered.sum() + (n - kept) * ordered[-1])), kept


def _inverse(distances: Float[np.ndarray, "n n"], k: int) -> Float[np.ndarray, " n"]:
    k = min(k, len(distances) - 1)
    nearest = np.sort(np.partition(distances, k, axis=1)[:, : k + 1], axis=1)[:, 1:]
    return np.log(nearest[:, -1:] / nearest[:, :-1]).mean(axis=1)
