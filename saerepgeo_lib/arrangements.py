"""The global representation: how centroids of local representations are arranged.

AEDP and the Gromov-Wasserstein distance are differentiable (torch); the others are numbers. All
but the Procrustes and Gromov-Wasserstein disparities scale with the space, so that values of
two spaces compare only after division by each space's `points.rms_radius`.
"""

from typing import Any

import numpy as np
import ot
import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment, quadratic_assignment
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree, shortest_path
from scipy.spatial import procrustes
from scipy.spatial.distance import pdist, squareform
from sklearn.neighbors import kneighbors_graph
from torch import Tensor

from saerepgeo_lib.clusters import Labels
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.points import Points, check_points, distinct

Centroids = Float[np.ndarray, "k d"]


def centroids(points: Points, labels: Labels) -> Centroids:
    """Mean of each cluster, in the order of the labels; points labelled -1 are left out."""
    x = check_points(points)
    if labels.shape != (len(x),):
        raise UserError(f"expected {len(x)} labels, one a point, got shape {labels.shape}")
    found = np.unique(labels[labels >= 0])
    if not len(found):
        raise UserError("no point has a cluster (every label is -1), so there are no centroids")
    return np.stack([x[labels == label].mean(axis=0) for label in found])


def aedp(centroids: Float[Tensor, "k d"]) -> Float[Tensor, ""]:
    """Average Euclidean distance over the k (k - 1) / 2 pairs of centroids."""
    _check_tensor("AEDP", centroids)
    mean: Tensor = _MeanDistance.apply(centroids)
    return mean


class _MeanDistance(torch.autograd.Function):
    """Mean of `torch.pdist`, with a matrix product for its gradient: no row a pair.

    The gradient at c_i is the sum over j of w_ij (c_i - c_j), w_ij = 1 / (distance * pairs); 0 for
    points that coincide, as in `torch.pdist`.
    """

    @staticmethod
    def forward(ctx: Any, points: Tensor) -> Tensor:
        distances = torch.pdist(points)
        ctx.save_for_backward(points, distances)
        return distances.mean()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        points, distances = ctx.saved_tensors
        weights = points.new_zeros(len(points), len(points))
        i, j = torch.triu_indices(len(points), len(points), 1, device=points.device)
        weights[i, j] = torch.where(distances > 0, 1 / (distances * len(distances)), 0)
        weights = weights + weights.T
        return grad * (weights.sum(1, keepdim=True) * points - weights @ points)


def mst_weight(centroids: Centroids) -> float:
    """MSTW: total length of the Euclidean minimum spanning tree over the centroids."""
    return float(minimum_spanning_tree(squareform(pdist(_pair(centroids)))).sum())


def mean_geodesic_distance(points: Points, labels: Labels, *, n_neighbours: int = 10) -> float:
    """AGD: mean distance between cluster medoids along the k-nearest-neighbour graph.

    The graph joins each distinct point to its k nearest with edges of their Euclidean length; k
    is the smallest from `n_neighbours` on that connects it. (The smallest of all would cut a loop
    open at its widest gap, so that paths lead the long way round.) A cluster's medoid is its
    point nearest to the centroid. Coinciding points count once, with the label of the first.
    """
    x = check_points(points)
    kept, names = distinct(x), np.unique(labels[labels >= 0])
    x, labels = x[kept], labels[kept]
    if lost := set(names) - set(labels):
        raise UserError(f"every point of cluster {min(lost)} coincides with one of another cluster")
    centres = _pair(centroids(x, labels))
    medoids = [
        np.flatnonzero(labels == label)[np.square(x[labels == label] - centre).sum(axis=1).argmin()]
        for label, centre in zip(names, centres, strict=True)
    ]
    graph = _connected_graph(x, max(1, n_neighbours))
    lengths = shortest_path(graph, directed=False, indices=medoids)[:, medoids]
    return float(lengths[np.triu_indices(len(medoids), 1)].mean())


def _connected_graph(x: Points, least: int) -> Any:
    """The k-nearest-neighbour graph of the smallest k >= `least` that connects it."""
    most = len(x) - 1
    low, high = least - 1, min(least, most)  # k = low is too small, k = high may connect
    while connected_components(_graph(x, high))[0] > 1:
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        if connected_components(_graph(x, middle))[0] > 1:
            low = middle
        else:
            high = middle
    return _graph(x, high)


def _graph(x: Points, k: int) -> Any:
    return kneighbors_graph(x, k, mode="distance")


def procrustes_disparity(a: Centroids, b: Float[np.ndarray, "k e"]) -> float:
    """Least squared distance of two arrangements of the same k objects, in [0, 1].

    Both are centred and scaled to unit norm; b is then rotated, reflected and scaled onto a
    (scipy's `procrustes`; spaces of different dimension are padded with zeros).
    """
    a, b = _corresponding(a, b)
    return float(procrustes(a, b)[2])


def procrustes_test(
    a: Centroids,
    b: Float[np.ndarray, "k e"],
    *,
    n_permutations: int = 999,
    random_state: int = 0,
) -> tuple[float, float]:
    """Procrustes disparity, and the permutation p-value of "the pairing of objects is arbitrary".

    p is the share of pairings, the observed one included, whose disparity is no larger (the
    PROTEST of Jackson 1995). It needs no table of what disparity is small, which depends on k
    and the dimensions: few objects in a large space always fit well.
    """
    a, b = (_unit_coordinates(x) for x in _corresponding(a, b))
    rng = np.random.default_rng(random_state)
    orders = rng.permuted(np.tile(np.arange(len(b)), (n_permutations, 1)), axis=1)
    pairings = np.concatenate([np.arange(len(b))[None], orders])
    fits = np.linalg.svd(a.T @ b[pairings], compute_uv=False).sum(axis=1)
    disparity = max(0.0, 1 - fits[0] ** 2)
    return float(disparity), float(np.mean(fits >= fits[0] * (1 - 1e-12)))


def _unit_coordinates(x: Centroids) -> Float[np.ndarray, "k rank"]:
    """The centred arrangement of unit norm, in at most k principal coordinates."""
    u, s, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    coordinates: np.ndarray = u * s / np.linalg.norm(s)
    return coordinates


def gromov_wasserstein(
    a: Float[Tensor, "k d"],
    b: Float[Tensor, "m e"],
    *,
    n_starts: int = 30,
    random_state: int = 0,
) -> Float[Tensor, ""]:
    """Squared Gromov-Wasserstein distance of two arrangements with uniform weights.

    min over couplings T of sum_{ijkl} (|a_i - a_k| - |b_j - b_l|)^2 T_ij T_kl (Peyre et al. 2016),
    at the best coupling that `gw_coupling` finds: an upper bound. Differentiable in a and b there.
    """
    best = gw_coupling(a, b, n_starts=n_starts, random_state=random_state)
    return gw_cost(a, b, best)


def gw_coupling(
    a: Float[Tensor, "k d"],
    b: Float[Tensor, "m e"],
    *,
    n_starts: int = 30,
    start: Float[Tensor, "k m"] | None = None,
    random_state: int = 0,
) -> Float[Tensor, "k m"]:
    """A coupling of least cost (see `gromov_wasserstein`).

    For Euclidean distances the objective is concave, so that a corner of the couplings is optimal:
    for k = m a pairing. Tried are POT's conditional gradient from the product coupling, and if
    k = m `n_starts` random pairings improved by exchanges (scipy's "2opt"); if given, also `start`,
    the conditional gradient from there, and its pairing improved by exchanges. With `n_starts` = 0
    there are no exchanges: they take seconds for 50 objects and more.
    """
    for x in (a, b):
        _check_tensor("Gromov-Wasserstein", x)
    c1, c2 = (_distances(x.detach()).cpu().double().numpy() for x in (a, b))
    p, q = ot.unif(len(a)), ot.unif(len(b))
    known = [] if start is None else [start.cpu().double().numpy()]
    candidates = known + [
        ot.gromov.gromov_wasserstein(c1, c2, p, q, loss_fun="square_loss", G0=g)
        for g in (None, *known)
    ]
    if len(a) == len(b) and n_starts:
        rng = np.random.default_rng(random_state)
        guesses = [np.stack(linear_sum_assignment(g, maximize=True), axis=1) for g in known]
        for guess in (*guesses, *[None] * n_starts):
            options = {"maximize": True, "rng": rng, "partial_guess": guess}
            found = quadratic_assignment(c1, c2, method="2opt", options=options)
            candidates.append(np.eye(len(b))[found.col_ind] / len(b))
    return torch.from_numpy(max(candidates, key=lambda t: ((c1 @ t @ c2) * t).sum())).to(a)


def gw_cost(
    a: Float[Tensor, "k d"], b: Float[Tensor, "m e"], coupling: Float[Tensor, "k m"]
) -> Float[Tensor, ""]:
    """Squared Gromov-Wasserstein cost of one coupling; differentiable in a and b."""
    c1, c2 = _distances(a), _distances(b)
    p, q = coupling.sum(1), coupling.sum(0)
    constant = (c1.square() @ p) @ p + (c2.square() @ q) @ q
    return constant - 2 * ((c1 @ coupling @ c2) * coupling).sum()


def _check_tensor(name: str, x: Float[Tensor, "k d"]) -> None:
    if len(x) < 2:
        raise UserError(f"{name} needs at least 2 objects, got {len(x)}")
    if not torch.isfinite(x).all():
        raise UserError(f"{name} of NaN or infinite coordinates is undefined; leave them out")


def _distances(x: Float[Tensor, "k d"]) -> Float[Tensor, "k k"]:
    """Pairwise distances, with the diagonal kept out of the gradient."""
    i, j = torch.triu_indices(len(x), len(x), 1)
    upper = x.new_zeros(len(x), len(x)).index_put((i, j), torch.pdist(x))
    return upper + upper.T


def _pair(x: Centroids) -> Centroids:
    return check_points(x, least=2)


def _corresponding(
    a: Centroids, b: Float[np.ndarray, "m e"]
) -> tuple[Float[np.ndarray, "k width"], Float[np.ndarray, "k width"]]:
    a, b = check_points(a, least=3), check_points(b, least=3)
    if len(a) != len(b):
        raise UserError(
            f"Procrustes compares the same objects: got {len(a)} and {len(b)}; match them first"
        )
    for x in (a, b):
        if len(distinct(x)) == 1:
            raise UserError("all objects of an arrangement coincide: it has no shape to compare")
    width = max(a.shape[1], b.shape[1])
    a, b = (np.pad(x, ((0, 0), (0, width - x.shape[1]))) for x in (a, b))
    return a, b
