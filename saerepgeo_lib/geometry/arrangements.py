"""Centroids and the distances between them: AEDP, spanning tree, geodesics; circles and matchings.

The global representation of a concept is how the centroids of its local ones are arranged.
All but the Procrustes disparity scale with the space: values of two spaces compare only after
division by each space's `points.rms_radius`.
"""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import ot
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment, quadratic_assignment
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree, shortest_path
from scipy.spatial.distance import pdist, squareform
from sklearn.neighbors import kneighbors_graph
from torch import Tensor

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.geometry.clusters import Labels
from saerepgeo_lib.geometry.points import Points, check_points, distinct

Centroids = Float[np.ndarray, "k d"]
Arrangement = Float[Tensor, "k d"]
Coupling = Float[Tensor, "k m"]


def centroids(points: Points, labels: Labels, names: Iterable[int] | None = None) -> Centroids:
    """Mean of each cluster, in the order of the labels or of the `names`; -1 is left out."""
    x = check_points(points)
    if labels.shape != (len(x),):
        raise UserError(f"expected {len(x)} labels, one per point, got shape {labels.shape}")
    if (labels < 0).all():
        raise UserError("no point has a cluster (every label is -1), so there are no centroids")
    names = np.unique(labels[labels >= 0]) if names is None else names
    return np.stack([x[labels == name].mean(axis=0) for name in names])


def aedp(centroids: Arrangement) -> Float[Tensor, ""]:
    """Average Euclidean distance over the k (k - 1) / 2 pairs of centroids; differentiable.

    The gradient, 0 for centroids that coincide, is a matrix product: no row per pair is stored.
    """
    c = _checked("AEDP", centroids).detach()
    distances = torch.pdist(c)
    if not centroids.requires_grad:
        return distances.mean()
    each = torch.where(distances > 0, 1 / (distances * len(distances)), 0)
    weights = _symmetric(c, each)
    gradient = weights.sum(1, keepdim=True) * c - weights @ c
    return distances.mean() + (gradient * (centroids - c)).sum()  # adds 0, with that gradient


def _symmetric(x: Arrangement, pairs: Float[Tensor, " pairs"]) -> Float[Tensor, "k k"]:
    """The matrix of these values of pairs of rows; gradients do not reach its diagonal."""
    rows, columns = torch.triu_indices(len(x), len(x), 1, device=x.device)
    upper = x.new_zeros(len(x), len(x)).index_put((rows, columns), pairs)
    return upper + upper.T


def mst_weight(centroids: Centroids) -> float:
    """MSTW: total length of the Euclidean minimum spanning tree over the centroids."""
    distances = squareform(pdist(check_points(centroids, least=2)))
    return float(minimum_spanning_tree(distances).sum())


def mean_geodesic_distance(points: Points, labels: Labels, *, n_neighbours: int = 10) -> float:
    """AGD: mean distance between cluster medoids along the k-nearest-neighbour graph.

    Edges have their Euclidean length; k is the smallest from `n_neighbours` on that connects the
    graph. (The smallest of all would cut a loop open at its widest gap.) A medoid is the point
    nearest to the centroid. Coinciding points count once, with the label of the first.
    """
    x, names = check_points(points), np.unique(labels[labels >= 0])
    kept = distinct(x)[0]
    x, labels = x[kept], labels[kept]
    if lost := set(names) - set(labels):
        raise UserError(f"every point of cluster {min(lost)} coincides with one of another cluster")
    centres = check_points(centroids(x, labels), least=2)
    medoids = [
        np.flatnonzero(labels == name)[np.square(x[labels == name] - centre).sum(axis=1).argmin()]
        for name, centre in zip(names, centres, strict=True)
    ]
    graph = _connected_graph(x, min(n_neighbours, len(x) - 1))
    lengths = shortest_path(graph, directed=False, indices=medoids)[:, medoids]
    return float(lengths[np.triu_indices(len(medoids), 1)].mean())


def _connected_graph(x: Points, least: int) -> Any:
    """The sparse graph of k nearest neighbours, k the smallest from `least` on that connects it.

    No matrix of all distances is made: a few thousand points would fill the memory.
    """

    def connected(k: int) -> bool:
        return connected_components(kneighbors_graph(x, k), directed=False)[0] == 1

    high = least
    while high < len(x) - 1 and not connected(high):
        high = min(2 * high, len(x) - 1)
    k = bisect_left(range(high), True, lo=max(least, high // 2), key=connected)
    return kneighbors_graph(x, k, mode="distance")


def procrustes_test(
    a: Centroids, b: Float[np.ndarray, "m e"], *, n_permutations: int = 999, random_state: int = 0
) -> tuple[float, float]:
    """Procrustes disparity, and the permutation p-value of "the pairing of objects is arbitrary".

    The disparity is the least squared distance of two arrangements, in [0, 1], centred, scaled to
    unit norm and rotated onto each other; the spaces may differ in dimension. p is the share of
    pairings, the observed one included, whose disparity is no larger (PROTEST: Jackson 1995).
    Raises UserError for fewer than 3 objects, unequal numbers of them, or all at one place.
    """
    if len(a) != len(b):
        raise UserError(
            f"Procrustes compares the same objects: got {len(a)} and {len(b)}; match them first"
        )
    a, b = _unit_coordinates(a), _unit_coordinates(b)
    pairings = b[_orders(len(b), n_permutations, random_state)]
    fits = np.linalg.svd(a.T @ pairings, compute_uv=False).sum(axis=1)
    disparity = max(0.0, 1 - fits[0] ** 2)
    return float(disparity), float(np.mean(fits >= fits[0] * (1 - 1e-12)))


def _unit_coordinates(x: Centroids) -> Float[np.ndarray, "k rank"]:
    """The centred arrangement of unit norm, in at most k principal coordinates."""
    x = check_points(x, least=3)
    if (x == x[0]).all():
        raise UserError("all objects of an arrangement coincide: it has no shape to compare")
    u, s, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    return u * s / np.linalg.norm(s)


def _orders(k: int, n_permutations: int, random_state: int) -> Int[np.ndarray, "orders k"]:
    """The observed order of k objects, and below it random ones."""
    observed = np.arange(k)[None]
    drawn = np.random.default_rng(random_state).permuted(observed.repeat(n_permutations, 0), axis=1)
    return np.concatenate([observed, drawn])


@dataclass(frozen=True)
class Circle:
    """Tokens on the plane of the entities' means, and how far these run round it in order."""

    tokens: Float[np.ndarray, "n 2"]
    means: Float[np.ndarray, "k 2"]
    order: float  # 1: equally spaced round a circle in the given order; near 0: no order
    p: float  # share of orders of the entities that are as round


def entity_circle(
    points: Points, entity: Labels, *, n_permutations: int = 999, seed: int = 0
) -> Circle:
    """The entities' tokens on the two leading principal directions of the entities' means.

    `order` is |mean_k exp(i (theta_k - 2 pi k / K))| for the angles theta_k of the K means, the
    larger of both senses of rotation. p permutes the entities. Raises UserError for fewer than
    6: turns and mirror images of an order count alike, so that p is at least 2 K / K!.
    """
    points, entity = points[entity >= 0], entity[entity >= 0]
    means = centroids(points, entity)
    k, centre = len(means), means.mean(axis=0)
    if k < 6:
        raise UserError(f"a circle needs at least 6 entities for its p to reach 0.05, got {k}")
    plane = np.linalg.svd(means - centre, full_matrices=False)[2][:2].T
    flat = (means - centre) @ plane
    angles = np.arctan2(flat[:, 1], flat[:, 0])
    turns = 2 * np.pi * np.arange(k) / k * np.array([[1], [-1]])  # both senses of rotation
    phases = angles[_orders(k, n_permutations, seed)][:, None] - turns
    roundness = np.abs(np.exp(1j * phases).mean(axis=2)).max(axis=1)
    p = float(np.mean(roundness >= roundness[0] - 1e-12))
    return Circle((points - centre) @ plane, flat, float(roundness[0]), p)


def gromov_wasserstein(
    a: Arrangement, b: Float[Tensor, "m e"], *, n_starts: int = 30, random_state: int = 0
) -> Float[Tensor, ""]:
    """Squared Gromov-Wasserstein distance of two arrangements with uniform weights: `gw_cost` at
    the best coupling that `gw_coupling` finds, an upper bound (Peyre et al. 2016).
    """
    return gw_cost(a, b, gw_coupling(a, b, n_starts=n_starts, random_state=random_state))


def gw_coupling(
    a: Arrangement, b: Float[Tensor, "m e"], *, n_starts: int = 30,
    start: Coupling | None = None, random_state: int = 0,
) -> Coupling:  # fmt: skip
    """A coupling of least `gw_cost`.

    The objective is concave for Euclidean distances, so that for k = m a pairing is optimal. Tried
    are POT's conditional gradient from the product coupling, and if k = m `n_starts` random
    pairings improved by exchanges (scipy's "2opt"); if given, also `start`, the conditional
    gradient from there, and its pairing improved by exchanges. With `n_starts` = 0 there are no
    exchanges: they take seconds for 50 objects and more.
    """
    checked = (_checked("Gromov-Wasserstein", x.detach()) for x in (a, b))
    c1, c2 = (_symmetric(x, torch.pdist(x)).cpu().double().numpy() for x in checked)
    known = [] if start is None else [start.cpu().double().numpy()]
    candidates = known + [ot.gromov.gromov_wasserstein(c1, c2, G0=g) for g in (None, *known)]
    if len(a) == len(b) and n_starts:
        options: dict[str, Any] = {"maximize": True, "rng": np.random.default_rng(random_state)}
        guesses = [np.stack(linear_sum_assignment(g, maximize=True), axis=1) for g in known]
        for guess in (*guesses, *[None] * n_starts):
            options["partial_guess"] = guess
            pairing = quadratic_assignment(c1, c2, method="2opt", options=options).col_ind
            candidates.append(np.eye(len(b))[pairing] / len(b))
    return torch.from_numpy(max(candidates, key=lambda t: ((c1 @ t @ c2) * t).sum())).to(a)


def gw_cost(a: Arrangement, b: Float[Tensor, "m e"], coupling: Coupling) -> Float[Tensor, ""]:
    """sum_{ijkl} (|a_i - a_k| - |b_j - b_l|)^2 T_ij T_kl of a coupling T; differentiable."""
    c1, c2 = (_symmetric(x, torch.pdist(x)) for x in (a, b))
    p, q = coupling.sum(1), coupling.sum(0)
    constant = (c1.square() @ p) @ p + (c2.square() @ q) @ q
    return constant - 2 * ((c1 @ coupling @ c2) * coupling).sum()


def _checked(name: str, x: Arrangement) -> Arrangement:
    if len(x) < 2:
        raise UserError(f"{name} needs at least 2 objects, got {len(x)}")
    if not torch.isfinite(x).all():
        raise UserError(f"{name} of NaN or infinite coordinates is undefined; leave them out")
    return x
