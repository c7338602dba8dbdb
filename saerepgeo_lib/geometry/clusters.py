"""Local representations: clusters of a concept's token vectors, and how many there are (Betti-0).

Clusters come by two pipelines: "pca" is ours; "authors" is that of the paper's public code, with
UMAP. Both cluster the tokens that they are given and no others.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from joblib import Parallel, delayed
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.cluster import HDBSCAN, AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score, pairwise_distances
from sklearn.preprocessing import StandardScaler, normalize

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.geometry.points import Points, PrincipalCoordinates, check_points, distinct
from saerepgeo_lib.stats.estimates import NotEstimable

MIN_CLUSTER_SIZE = 10
_ROWS = 1_000  # of a matrix of distances that are made at once
Labels = Int[np.ndarray, " n"]  # of each point; -1 is none


def hdbscan_labels(points: Points, *, min_cluster_size: int = MIN_CLUSTER_SIZE) -> Labels:
    """The cluster of each point by HDBSCAN (Campello et al. 2013); -1 for points in none.

    A single cluster is never reported: a cloud in one piece comes back as none or as several.
    Coinciding points count once and share a label, so that copies of a point are no cluster.
    """
    x = check_points(points)
    if min_cluster_size < 2:
        raise UserError(f"min_cluster_size must be at least 2, got {min_cluster_size}")
    kept, which = distinct(x)
    if len(kept) < min_cluster_size:
        return np.full(len(x), -1)
    labels: np.ndarray = HDBSCAN(min_cluster_size=min_cluster_size, copy=True).fit_predict(x[kept])
    return labels[which]


def cluster_pca(space: PrincipalCoordinates, *, min_cluster_size: int = MIN_CLUSTER_SIZE) -> Labels:
    """Our pipeline, without chance: HDBSCAN on the leading principal coordinates."""
    return hdbscan_labels(space.reduced, min_cluster_size=min_cluster_size)


def cluster_authors(
    vectors: Points, seeds: Sequence[int], *, min_cluster_size: int = MIN_CLUSTER_SIZE
) -> list[tuple[Float[np.ndarray, "n 50"], Labels]]:
    """The authors' pipeline, once per seed: StandardScaler, row L2, UMAP to 50 dimensions, HDBSCAN.

    Gives UMAP's coordinates and the clusters in them, the same every time. Raises UserError for
    fewer than 60 tokens, with which UMAP cannot fill 50 dimensions.
    """
    x = check_points(vectors)
    if len(x) < 60:
        raise UserError(f"the authors' pipeline needs at least 60 tokens, got {len(x)}")
    prepared = normalize(StandardScaler().fit_transform(x)).astype(np.float32)
    parallel = Parallel(n_jobs=-1, max_nbytes=None)  # no file in memory that a worker may miss
    (nearest,) = parallel([delayed(_nearest)(prepared)])
    embedded = parallel(delayed(_umap)(prepared, nearest, seed) for seed in seeds)
    return [(z, hdbscan_labels(z, min_cluster_size=min_cluster_size)) for z in embedded]


def _nearest(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which 15 points are nearest to each, and their distances, as UMAP finds them for each seed.

    UMAP's own distance, since the last digit decides what comes out after hundreds of epochs.
    """
    from umap.distances import euclidean  # slow to import, and needed in the workers only

    distances = pairwise_distances(x, metric=euclidean)
    nearest = distances.argsort(axis=1, kind="stable")[:, :15].astype(np.int32)
    return nearest, np.take_along_axis(distances, nearest, axis=1)


def _umap(
    x: np.ndarray, nearest: tuple[np.ndarray, np.ndarray], seed: int
) -> Float[np.ndarray, "n 50"]:
    from umap import UMAP

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a seed means one core
        model = UMAP(n_components=50, n_neighbors=15, min_dist=0.1, random_state=seed, n_jobs=1,
                     precomputed_knn=nearest)  # fmt: skip
        return model.fit_transform(x).astype(float)


def n_clusters(labels: Labels) -> int:
    """Number of clusters in these labels; -1 is none."""
    return len(np.unique(labels[labels >= 0]))


def stability(runs: Sequence[Labels]) -> float:
    """Mean adjusted Rand index over the pairs of clusterings of the same tokens; 1: identical."""
    if len(runs) < 2:
        raise UserError("stability compares at least two clusterings")
    return float(np.mean([adjusted_rand_score(a, b) for a, b in combinations(runs, 2)]))


def match_clusters(a: Labels, b: Labels) -> list[tuple[int, int]]:
    """Pairs of clusters of two clusterings of one set of tokens that share most (Hungarian)."""
    both = (a >= 0) & (b >= 0)
    overlap = pd.crosstab(a[both], b[both])
    pairs = zip(*linear_sum_assignment(overlap, maximize=True), strict=True)
    return [(int(overlap.index[i]), int(overlap.columns[j])) for i, j in pairs if overlap.iat[i, j]]


@dataclass(frozen=True)
class Components:
    """H0 persistence of distinct points: where components merge, and which outlive the noise."""

    deaths: Float[np.ndarray, " merges"]  # distances, descending; all are born at 0
    band: float  # a merge beyond this distance separates components of the support

    @property
    def betti0(self) -> int:
        """Components whose merging distance lies beyond the band, and the one that never dies."""
        return 1 + int(np.count_nonzero(self.deaths > self.band))


def h0_deaths(points: Points) -> Float[np.ndarray, " merges"]:
    """Distances at which the H0 classes (Vietoris-Rips) of distinct points die, descending."""
    x = check_points(points)
    x = check_points(x[distinct(x)[0]], least=2)
    tree = AgglomerativeClustering(linkage="single", n_clusters=None, distance_threshold=0)
    return np.sort(tree.fit(x).distances_)[::-1]  # without a matrix of all distances


def h0_components(
    points: Points, *, alpha: float = 0.05, n_bootstrap: int = 100, random_state: int = 0
) -> Components | NotEstimable:
    """Betti-0 by H0 persistence with a bootstrap confidence band (after Fasy et al. 2014).

    If each point of the support lies within c of the sample, pieces more than 2c apart are told
    apart. c is the 1 - alpha quantile of the Hausdorff distance from the sample to its resamples.
    """
    x = check_points(points)
    x = x[distinct(x)[0]]
    if len(x) < 3:
        return NotEstimable(f"{len(x)} distinct points, at least 3 are needed")
    rng = np.random.default_rng(random_state)
    resamples = [np.unique(rng.integers(len(x), size=len(x))) for _ in range(n_bootstrap)]
    hausdorff = np.zeros(n_bootstrap)
    for some in np.array_split(x, 1 + len(x) // _ROWS):
        distances = cdist(some, x)
        nearest = [distances[:, rows].min(axis=1).max() for rows in resamples]
        hausdorff = np.maximum(hausdorff, nearest)
    band = 2 * float(np.quantile(hausdorff, 1 - alpha))
    return Components(h0_deaths(x), band)
