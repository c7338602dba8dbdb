"""Local representations: the clusters of a concept's token vectors, by two pipelines.

"authors" is the pipeline of the paper's public code (standardised, unit rows, UMAP, HDBSCAN);
"pca" leaves UMAP out. Both cluster the tokens given and no others.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from joblib import Parallel, delayed
from sklearn.metrics import adjusted_rand_score
from sklearn.preprocessing import StandardScaler, normalize

from saerepgeo_lib.clusters import MIN_CLUSTER_SIZE, Labels, hdbscan_labels
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.points import Points, check_points, twins

VARIANCE = 0.9  # share that the PCA coordinates keep, the same in every space


@dataclass(frozen=True)
class Space:
    """One representation of a concept's tokens, in its own principal coordinates.

    `full` is a rotation of the centred vectors, with the same distances; `reduced` its leading
    coordinates, as many as hold `VARIANCE` of the variance.
    """

    full: Float[np.ndarray, "n r"]
    reduced: Float[np.ndarray, "n c"]

    def rows(self, keep: np.ndarray) -> "Space":
        """The same space on some of its tokens (a mask or indices)."""
        return Space(self.full[keep], self.reduced[keep])


def space_of(vectors: Points, *, variance: float = VARIANCE) -> Space:
    """Principal coordinates of the vectors. Raises UserError if they do not vary, or NaN."""
    x = check_points(vectors, least=2)
    rows, position = twins(x)
    x = x - x.mean(axis=0)
    # The Gram matrix of the shorter side: distances need no more than its leading digits.
    values, frame = np.linalg.eigh(x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x)
    values, frame = values[::-1], frame[:, ::-1]
    kept = values > 1e-10 * max(values[0], 0)
    if values[0] <= 0 or not kept.any():
        raise UserError("the vectors are all the same: there is nothing to cluster")
    scale = np.sqrt(values[kept])
    full = frame[:, kept] * scale if x.shape[0] <= x.shape[1] else x @ frame[:, kept]
    full = full[rows][position]  # copies of a vector stay copies, to the last bit
    share = np.cumsum(values[kept]) / values[kept].sum()
    return Space(full, full[:, : int(np.searchsorted(share, variance)) + 1])


def cluster_pca(space: Space, *, min_cluster_size: int = MIN_CLUSTER_SIZE) -> Labels:
    """HDBSCAN on the PCA coordinates: our pipeline, without chance."""
    return hdbscan_labels(space.reduced, min_cluster_size=min_cluster_size)


@dataclass(frozen=True)
class Embedding:
    """One run of the authors' pipeline: UMAP coordinates and the clusters in them."""

    seed: int
    points: Float[np.ndarray, "n d"]
    labels: Labels


def cluster_authors(
    vectors: Points, seeds: Sequence[int], *, min_cluster_size: int = MIN_CLUSTER_SIZE
) -> list[Embedding]:
    """The authors' pipeline, once a seed: StandardScaler, row L2, UMAP to 50 dimensions, HDBSCAN.

    UMAP with 15 neighbours and min_dist 0.1; each seed runs on one core, so its result is the same
    every time, and the seeds are spread over the machine's cores. Raises UserError for fewer than
    60 tokens, with which UMAP cannot fill 50 dimensions.
    """
    x = check_points(vectors)
    if len(x) < 60:
        raise UserError(f"the authors' pipeline needs at least 60 tokens, got {len(x)}")
    prepared = normalize(StandardScaler().fit_transform(x))
    points = Parallel(n_jobs=-1)(delayed(_umap)(prepared, seed) for seed in seeds)
    return [
        Embedding(seed, found, hdbscan_labels(found, min_cluster_size=min_cluster_size))
        for seed, found in zip(seeds, points, strict=True)
    ]


def _umap(x: Points, seed: int) -> Points:
    from umap import UMAP  # slow to import, and needed in the workers only

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a seed means one core
        model = UMAP(n_components=50, n_neighbors=15, min_dist=0.1, random_state=seed, n_jobs=1)
        found: np.ndarray = model.fit_transform(x).astype(float)
    return found


def stability(runs: Sequence[Labels]) -> float:
    """Mean adjusted Rand index over the pairs of clusterings of the same tokens; 1: identical."""
    if len(runs) < 2:
        raise UserError("stability compares at least two clusterings")
    pairs = [(a, b) for i, a in enumerate(runs) for b in runs[:i]]
    return float(np.mean([adjusted_rand_score(a, b) for a, b in pairs]))
