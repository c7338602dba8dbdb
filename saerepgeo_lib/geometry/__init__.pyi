from .arrangements import (
    aedp,
    centroids,
    entity_circle,
    gromov_wasserstein,
    mean_geodesic_distance,
    mst_weight,
    procrustes_test,
)
from .clusters import cluster_pca, h0_components
from .dimension import mle, two_nn

__all__ = [
    "aedp",
    "centroids",
    "cluster_pca",
    "entity_circle",
    "gromov_wasserstein",
    "h0_components",
    "mean_geodesic_distance",
    "mle",
    "mst_weight",
    "procrustes_test",
    "two_nn",
]
