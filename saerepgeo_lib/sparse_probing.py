"""Sparse probing: how well a few latents tell entities apart in sentences not seen before."""

import numpy as np
from jaxtyping import Float, Int
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.points import Points, check_points


def mean_differences(x: Points, y: Int[np.ndarray, " n"]) -> Float[np.ndarray, " d"]:
    """Of each feature: the largest difference between a class's mean and that of all the others."""
    means = [x[y == c].mean(0) - x[y != c].mean(0) for c in np.unique(y)]
    return np.abs(means).max(0)


def sparse_probing_accuracy(
    points: Points,
    entity: Int[np.ndarray, " n"],
    frame: Int[np.ndarray, " n"],
    *,
    k: int,
    n_folds: int = 4,
) -> float:
    """Mean accuracy of a logistic probe for the entity on `k` features, over folds of frames.

    On the training folds alone the k features with the largest `mean_differences` are chosen, and
    divided by their largest value; no frame is on both sides of a fold (after Gurnee et al. 2023).
    Chance is 1 over the number of entities. Raises UserError for fewer frames than folds, one
    entity, or more features asked for than there are.
    """
    x = check_points(points)
    n_frames, n_entities = len(np.unique(frame)), len(np.unique(entity))
    if n_frames < n_folds or n_entities < 2 or not 1 <= k <= x.shape[1]:
        raise UserError(
            f"probing needs at least {n_folds} frames, 2 entities and {k} features; "
            f"got {n_frames}, {n_entities} and {x.shape[1]}"
        )
    probe = make_pipeline(
        SelectKBest(mean_differences, k=k), MaxAbsScaler(), LogisticRegression(C=10, max_iter=1000)
    )
    folds = GroupKFold(n_folds)
    return float(cross_val_score(probe, x, entity, groups=frame, cv=folds).mean())
