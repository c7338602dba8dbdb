"""Intrinsic dimension of a cloud of points: TwoNN, and a second opinion."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from sklearn.neighbors import NearestNeighbors

from saerepgeo_lib.points import NotEstimable, Points, check_points, distinct

MIN_POINTS = 5  # distinct points below which no dimension is given
N_BOOTSTRAP = 200
DISCARD = 0.1  # share of largest ratios that TwoNN treats as censored (Facco et al. 2017)
NEIGHBOURS = 10  # of the second opinion
_ROUNDING = 1e-9  # logarithms of ratios below this are the rounding of equal distances

Resampled = Float[np.ndarray, "draws n"]


@dataclass(frozen=True)
class Dimension:
    """An intrinsic dimension, its 95 % bootstrap interval, and what it was made from."""

    value: float
    low: float
    high: float
    n: int  # distinct points
    duplicates: int  # points removed because they coincide with another


def two_nn(
    points: Points, *, n_bootstrap: int = N_BOOTSTRAP, random_state: int = 0
) -> Dimension | NotEstimable:
    """TwoNN dimension (Facco et al. 2017) by maximum likelihood (Denti et al. 2022).

    The ratio mu of the distances to the second and the first neighbour has a Pareto law of
    exponent d wherever the density is about constant over that range. The largest tenth of the
    ratios is treated as censored: with N ratios of which the k smallest are kept,
    d = (k - 1) / (sum_{i <= k} log mu_(i) + (N - k) log mu_(k)), as in scikit-dimension.
    Duplicates are removed and counted. The interval resamples the ratios, so it takes
    neighbouring points for independent (its coverage is measured in the book).
    """
    return _estimate(points, 2, _censored_pareto, n_bootstrap, random_state)


def mle(
    points: Points,
    *,
    n_neighbours: int = NEIGHBOURS,
    n_bootstrap: int = N_BOOTSTRAP,
    random_state: int = 0,
) -> Dimension | NotEstimable:
    """Levina and Bickel's (2005) dimension, the local values joined by their harmonic mean.

    At each point, 1/d is the mean of log(T_k / T_j) over the k - 1 nearest neighbours' distances
    T_j; k is `n_neighbours` or as many as there are. The harmonic mean over points is MacKay and
    Ghahramani's, as in scikit-dimension. Duplicates are removed and counted.
    """
    return _estimate(points, n_neighbours, _mean_inverse, n_bootstrap, random_state)


def local_inverse_dimensions(
    points: Points, *, n_neighbours: int = NEIGHBOURS
) -> Float[np.ndarray, " n"]:
    """Levina and Bickel's 1/d at each distinct point (their mean is 1/d of `mle`)."""
    x = check_points(points, least=3)
    return _inverse(_neighbour_distances(x[distinct(x)], n_neighbours))


def two_nn_misfit(points: Points) -> float:
    """Kolmogorov-Smirnov distance of the TwoNN ratios from the Pareto law fitted to them.

    Near 0 for one manifold of constant dimension; a union of dimensions mixes Pareto laws.
    """
    x = check_points(points, least=3)
    log_mu = np.sort(_log_ratios(_neighbour_distances(x[distinct(x)], 2)))
    d = float(_censored_pareto(log_mu[None])[0])
    law = 1 - np.exp(-d * log_mu)
    steps = np.arange(len(log_mu) + 1) / len(log_mu)
    return float(max(np.max(steps[1:] - law), np.max(law - steps[:-1])))


def _neighbour_distances(x: Points, k: int) -> Float[np.ndarray, "n k"]:
    k = min(k, len(x) - 1)
    found: np.ndarray = NearestNeighbors(n_neighbors=k).fit(x).kneighbors()[0]
    return found


def _log_ratios(distances: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " n"]:
    return np.log(distances[:, 1] / distances[:, 0])


def _inverse(distances: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " n"]:
    return np.log(distances[:, -1:] / distances[:, :-1]).mean(axis=1)


def _censored_pareto(log_mu: Resampled) -> Float[np.ndarray, " draws"]:
    n = log_mu.shape[1]
    kept = max(2, int(n * (1 - DISCARD)))
    ordered = np.sort(log_mu, axis=1)[:, :kept]
    total = ordered.sum(axis=1) + (n - kept) * ordered[:, -1]
    return (kept - 1) / total


def _mean_inverse(inverse: Resampled) -> Float[np.ndarray, " draws"]:
    return 1 / inverse.mean(axis=1)


def _estimate(
    points: Points,
    n_neighbours: int,
    estimator: Callable[[Resampled], Float[np.ndarray, " draws"]],
    n_bootstrap: int,
    random_state: int,
) -> Dimension | NotEstimable:
    x = check_points(points)
    kept = x[distinct(x)]
    if len(kept) < MIN_POINTS:
        return NotEstimable(f"{len(kept)} distinct points, at least {MIN_POINTS} are needed")
    distances = _neighbour_distances(kept, n_neighbours)
    local = _log_ratios(distances) if estimator is _censored_pareto else _inverse(distances)
    if local.max() < _ROUNDING:
        return NotEstimable("every point has all its neighbours at one distance")
    rows = np.random.default_rng(random_state).integers(len(local), size=(n_bootstrap, len(local)))
    with np.errstate(divide="ignore"):
        draws = estimator(local[rows])
    low, high = np.quantile(draws, (0.025, 0.975))
    value = float(estimator(local[None])[0])
    return Dimension(value, float(low), float(high), len(kept), len(x) - len(kept))
