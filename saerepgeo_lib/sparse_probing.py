"""Sparse probing: how well a few latents tell entities apart in sentences not seen before."""

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.points import Points, check_points


def mean_difference(x: Points, y: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " d"]:
    """Of each feature: how far its mean in the class lies from that outside."""
    return np.abs(x[y].mean(0) - x[~y].mean(0))


def sparse_probing_accuracy(
    points: Points,
    entity: Int[np.ndarray, " n"],
    frame: Int[np.ndarray, " n"],
    *,
    k: int,
    n_folds: int = 4,
) -> float:
    """Balanced accuracy of logistic probes on `k` features, one for each entity, over folds.

    A probe tells an entity from all others (Gurnee et al. 2023). On the training folds alone its k
    features with the largest `mean_difference` are chosen, and divided by their largest value; no
    frame is on both sides of a fold. The mean over folds and entities; chance is 1/2. Raises
    UserError for fewer frames than folds, one entity, or more features asked for than there are.
    """
    x = check_points(points)
    n_frames, n_entities = len(np.unique(frame)), len(np.unique(entity))
    if n_frames < n_folds or n_entities < 2 or not 1 <= k <= x.shape[1]:
        raise UserError(
            f"probing needs at least {n_folds} frames, 2 entities and {k} features; "
            f"got {n_frames}, {n_entities} and {x.shape[1]}"
        )
    probe = make_pipeline(
        SelectKBest(mean_difference, k=k), MaxAbsScaler(),
        LogisticRegression(C=10, class_weight="balanced", max_iter=1000),
    )  # fmt: skip
    found = [
        cross_val_score(
            probe, x, entity == one, groups=frame, cv=GroupKFold(n_folds),
            scoring="balanced_accuracy",
        )
        for one in np.unique(entity)
    ]  # fmt: skip
    return float(np.mean(found))
