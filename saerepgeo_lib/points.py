"""Clouds of points: what every estimator checks before it looks at them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from saerepgeo_lib.errors import UserError

Points = Float[np.ndarray, "n d"]


@dataclass(frozen=True)
class NotEstimable:
    """An estimator's refusal as a value: why there is no estimate."""

    reason: str

    def __str__(self) -> str:
        return f"not estimable: {self.reason}"


def check_points(points: Points, *, least: int = 1) -> Points:
    """`points` in float64. Raises UserError for NaN, infinities, or fewer than `least` rows."""
    x = np.asarray(points, dtype=float)
    if x.ndim != 2 or not x.shape[1]:
        raise UserError(f"expected points of shape (n, d) with d >= 1, got shape {x.shape}")
    if not np.isfinite(x).all():
        bad = int((~np.isfinite(x).all(axis=1)).sum())
        raise UserError(
            f"{bad} of {len(x)} points have NaN or infinite coordinates; leave them out"
        )
    if len(x) < least:
        raise UserError(f"need at least {least} points, got {len(x)}")
    return x


def distinct(points: Points) -> Int[np.ndarray, " kept"]:
    """Rows of the first occurrence of each point, in order; the others are its duplicates."""
    return twins(points)[0]


def twins(points: Points) -> tuple[Int[np.ndarray, " kept"], Int[np.ndarray, " n"]]:
    """The rows that `distinct` keeps, and for each point the position of its own among them."""
    rows = np.ascontiguousarray(points + 0.0)  # -0 becomes 0
    keys = rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).ravel()
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    position = np.empty_like(order)
    position[order] = np.arange(len(order))
    return first[order], position[inverse.ravel()]


def rms_radius(points: Points) -> float:
    """Root mean square distance of the points from their mean."""
    x = check_points(points)
    return float(np.sqrt(np.square(x - x.mean(axis=0)).sum(axis=1).mean()))
