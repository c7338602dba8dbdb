"""Clouds of points: what every estimator checks first, and their principal coordinates."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.cluster.hierarchy import linkage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree
from torch import Tensor

from saerepgeo_lib.activations.latents import encode
from saerepgeo_lib.activations.residual_stream import twins
from saerepgeo_lib.errors import UserError

Points = Float[np.ndarray, "n d"]
VARIANCE = 0.9  # share that the leading principal coordinates hold, the same in every space
_COPY, _NEAR, _SOME = 1e-3, 1e-4, 500  # see `distinct`


def check_points(points: Points, *, least: int = 1) -> Points:
    """`points` in float64. Raises UserError for NaN, infinities, or fewer than `least` rows."""
    x = np.asarray(points, dtype=float)
    if x.ndim != 2 or not x.shape[1]:
        raise UserError(f"expected points of shape (n, d) with d >= 1, got shape {x.shape}")
    if bad := int((~np.isfinite(x).all(axis=1)).sum()):
        raise UserError(
            f"{bad} of {len(x)} points have NaN or infinite coordinates; leave them out"
        )
    if len(x) < least:
        raise UserError(f"need at least {least} points, got {len(x)}")
    return x


def distinct(points: Points) -> tuple[Int[np.ndarray, " kept"], Int[np.ndarray, " n"]]:
    """As `twins`, for points that are copies up to rounding too.

    Copies are nearer than a thousandth of the typical distance between neighbours (the median edge
    of the minimum spanning tree of at most 500 points, those within a ten-thousandth of the radius
    left out, so that it is not one of copies), or than four units in the last place: of single
    precision, if that holds the values exactly. On a line, where neighbours come closest by chance,
    this joins one pair of distinct points in about a thousand.
    """
    kept, which = twins(points)
    x = points[kept]
    if len(x) < 3:
        return kept, which
    some = x[np.linspace(0, len(x) - 1, min(len(x), _SOME)).astype(int)]
    edges = linkage(some, method="single")[:, 2]
    apart = edges[edges > _NEAR * rms_radius(some)]
    with np.errstate(over="ignore"):
        single = (x.astype(np.float32) == x).all()
    rounding = 4 * np.finfo(np.float32 if single else float).eps * np.linalg.norm(x, axis=1).max()
    tolerance = max(_COPY * np.median(apart) if len(apart) else 0.0, rounding)
    i, j = KDTree(x).query_pairs(tolerance, output_type="ndarray").T
    if not len(i):
        return kept, which
    group = connected_components(coo_array((np.ones(len(i)), (i, j)), (len(x), len(x))))[1]
    _, first, number = np.unique(group, return_index=True, return_inverse=True)
    order = first.argsort()  # groups in the order in which their first points come
    return kept[first[order]], order.argsort()[number][which]


def rms_radius(points: Points) -> float:
    """Root mean square distance of the points from their mean."""
    x = check_points(points)
    return float(np.sqrt(np.square(x - x.mean(axis=0)).sum(axis=1).mean()))


def as_points(sae: Any, x: Float[Tensor, "tokens d"]) -> Float[np.ndarray, "tokens active"]:
    """The latents as points; equal rows of `x` get equal ones, to the last bit."""
    kept, which = twins(x.cpu().numpy())
    values: np.ndarray = encode(sae, x[torch.from_numpy(kept)]).values.double().cpu().numpy()
    return values[which]


@dataclass(frozen=True)
class PrincipalCoordinates:
    """Vectors of a space in its own principal coordinates; `full` keeps their distances."""

    full: Float[np.ndarray, "n r"]
    reduced: Float[np.ndarray, "n c"]  # the leading ones, as many as hold the share `VARIANCE`


def principal_coordinates(vectors: Points, *, variance: float = VARIANCE) -> PrincipalCoordinates:
    """Principal coordinates of the vectors. Raises UserError if they do not vary, or for NaN."""
    x = check_points(vectors, least=2)
    rows, which = twins(x)
    x = x - x.mean(axis=0)
    few = x.shape[0] <= x.shape[1]
    # The Gram matrix of the shorter side: distances need no more than its leading digits.
    values, frame = np.linalg.eigh(x @ x.T if few else x.T @ x)
    values, frame = values[::-1], frame[:, ::-1]
    kept = values > 1e-10 * max(values[0], 0)
    if values[0] <= 0 or not kept.any():
        raise UserError("the vectors are all the same: there is nothing to cluster")
    full = frame[:, kept] * np.sqrt(values[kept]) if few else x @ frame[:, kept]
    full = full[rows][which]  # copies of a vector stay copies, to the last bit
    share = np.cumsum(values[kept]) / values[kept].sum()
    return PrincipalCoordinates(full, full[:, : int(np.searchsorted(share, variance)) + 1])
