"""How many pieces a cloud of points has (Betti-0): by HDBSCAN, and by H0 persistence."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import cdist
from sklearn.cluster import HDBSCAN

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.points import NotEstimable, Points, check_points, distinct, twins

MIN_CLUSTER_SIZE = 10
Labels = Int[np.ndarray, " n"]


def hdbscan_labels(points: Points, *, min_cluster_size: int = MIN_CLUSTER_SIZE) -> Labels:
    """The cluster of each point by HDBSCAN (Campello et al. 2013); -1 for points in none.

    With scikit-learn's other defaults: a single cluster is never reported, so that a cloud in
    one piece comes back as none or as several. Coinciding points count once and share a label, so
    that copies of a point are no cluster; fewer distinct points than `min_cluster_size` are none.
    """
    x = check_points(points)
    if min_cluster_size < 2:
        raise UserError(f"min_cluster_size must be at least 2, got {min_cluster_size}")
    kept, position = twins(x)
    if len(kept) < min_cluster_size:
        return np.full(len(x), -1)
    found = HDBSCAN(min_cluster_size=min_cluster_size, copy=True).fit_predict(x[kept])
    labels: np.ndarray = found[position]
    return labels


def n_clusters(labels: Labels) -> int:
    """Number of clusters in these labels; -1 is none."""
    return len(np.unique(labels[labels >= 0]))


@dataclass(frozen=True)
class Components:
    """H0 persistence: where components merge, the noise band, and how many outlive it."""

    deaths: Float[np.ndarray, " merges"]  # distances, descending; all are born at 0
    band: float  # a merge beyond this distance separates components of the support
    n: int  # distinct points
    duplicates: int  # points removed because they coincide with another

    @property
    def betti0(self) -> int:
        """Components whose merging distance lies beyond the band, and the one that never dies."""
        return 1 + int(np.count_nonzero(self.deaths > self.band))


def h0_deaths(points: Points) -> Float[np.ndarray, " merges"]:
    """Death distances of the Vietoris-Rips H0 classes but the immortal one, descending.

    They are the heights of single linkage, which are the edges of the minimum spanning tree.
    Coinciding points count once.
    """
    x = check_points(points)
    x = check_points(x[distinct(x)], least=2)
    heights: np.ndarray = linkage(x, method="single")[:, 2]
    return np.sort(heights)[::-1]


def h0_components(
    points: Points, *, alpha: float = 0.05, n_bootstrap: int = 100, random_state: int = 0
) -> Components | NotEstimable:
    """Betti-0 by H0 persistence with a bootstrap confidence band.

    If each point of the support lies within c of the sample, the balls of radius c cover it; then
    two pieces whose distance exceeds 2c belong to different components. c is estimated as the
    1 - alpha quantile of the Hausdorff distance between the sample and its bootstrap resamples
    (after Fasy et al. 2014, who subsample). Pieces closer than the band are not told apart.
    Duplicates are removed and counted.
    """
    given = check_points(points)
    x = given[distinct(given)]
    if len(x) < 3:
        return NotEstimable(f"{len(x)} distinct points, at least 3 are needed")
    distances = cdist(x, x)
    rng = np.random.default_rng(random_state)
    hausdorff = [
        distances[:, np.unique(rng.integers(len(x), size=len(x)))].min(axis=1).max()
        for _ in range(n_bootstrap)
    ]
    band = 2 * float(np.quantile(hausdorff, 1 - alpha))
    return Components(h0_deaths(x), band, len(x), len(given) - len(x))
