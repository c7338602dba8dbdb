from itertools import permutations

import numpy as np
import ot
import pytest
import torch
from scipy.sparse.csgraph import connected_components
from scipy.spatial import procrustes
from sklearn.neighbors import kneighbors_graph

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.geometry import arrangements
from saerepgeo_lib.geometry.arrangements import aedp, entity_circle, mst_weight, procrustes_test
from saerepgeo_lib.geometry.arrangements import mean_geodesic_distance as geodesics
from saerepgeo_lib.synthetic import data as synthetic

RNG = np.random.default_rng(0)
A = RNG.normal(size=(6, 4))
B = RNG.normal(size=(6, 3))
TURN = np.linalg.qr(RNG.normal(size=(4, 4)))[0]


def tensor(x):
    return torch.from_numpy(np.ascontiguousarray(x))


def disparity_of(a, b):
    return procrustes_test(a, b, n_permutations=0)[0]


def test_centroids_leave_noise_out_and_bad_ones_are_refused_as_are_bad_pairs(unchecked):
    x = np.array([[0.0, 0], [2, 0], [10, 10], [99, 99]])
    labels = np.array([4, 4, 7, -1])
    np.testing.assert_allclose(arrangements.centroids(x, labels), [[1, 0], [10, 10]])
    np.testing.assert_allclose(arrangements.centroids(x, labels, [7, 4]), [[10, 10], [1, 0]])
    none, few, zero = np.full(4, -1), np.zeros(3, dtype=int), np.zeros(4, dtype=int)
    for points, given, words in (
        (x, none, "no point has a cluster"), (x, few, "one per point"), (x * np.nan, zero, "NaN")
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            arrangements.centroids(points, given)
    for a, b, words in ((A, B[:4], "match them first"), (A, np.ones((6, 2)), "coincide"),
                        (A[:2], B[:2], "at least 3")):  # fmt: skip
        with pytest.raises(UserError, match=words):
            disparity_of(a, b)


def test_aedp_and_mstw_in_closed_form_by_brute_force_and_under_motion():
    for kind in ("simplex", "line", "circle"):
        planted = synthetic.arrangement(kind, 7, spacing=2.0)
        assert aedp(tensor(planted.centroids)).item() == pytest.approx(planted.aedp)
        assert mst_weight(planted.centroids) == pytest.approx(planted.mst_weight)
    pairs = [np.linalg.norm(A[i] - A[j]) for i in range(6) for j in range(i)]
    assert aedp(tensor(A)).item() == pytest.approx(np.mean(pairs))
    # Prim's algorithm, written out
    inside, weight = {0}, 0.0
    while len(inside) < 6:
        step = [(np.linalg.norm(A[i] - A[j]), j) for i in inside for j in set(range(6)) - inside]
        weight, inside = weight + min(step)[0], inside | {min(step)[1]}
    assert mst_weight(A) == pytest.approx(weight)
    moved = (3 * A @ TURN + 1)[::-1].copy()
    assert aedp(tensor(moved)).item() == pytest.approx(3 * np.mean(pairs))
    assert mst_weight(moved) == pytest.approx(3 * weight)
    for bad in (A[:1], np.full((3, 2), np.nan)):
        with pytest.raises(UserError):
            mst_weight(bad)
    for bad, words in ((A[:1], "at least 2"), (A * np.nan, "NaN")):
        with pytest.raises(UserError, match=words):
            aedp(tensor(bad))
        with pytest.raises(UserError, match=words):
            arrangements.gromov_wasserstein(tensor(A), tensor(bad))
    # its gradient by finite differences, and where centroids coincide
    x = tensor(A).clone().requires_grad_()
    assert torch.autograd.gradcheck(aedp, (x,))
    x = torch.tensor(np.concatenate([A, A[:2]]), requires_grad=True)
    (expected,) = torch.autograd.grad(torch.pdist(x).mean(), x)
    torch.testing.assert_close(torch.autograd.grad(aedp(x), x), (expected,))


def test_geodesics_on_a_line_and_on_a_circle():
    line = np.linspace(0, 10, 101)[:, None]
    labels = np.full(101, -1)
    labels[[0, 1, 2]], labels[[99, 98, 100]] = 0, 1  # medoids at 0.1 and 9.9
    assert geodesics(line, labels, n_neighbours=2) == pytest.approx(9.8)
    angle = 2 * np.pi * np.arange(400) / 400
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    arcs = (np.arange(400) // 100) % 4
    exact = np.mean([np.pi / 2, np.pi, np.pi / 2] * 4)
    assert geodesics(circle, arcs) == pytest.approx(exact, rel=0.02)
    scaled = 3 * circle @ np.array([[0.6, -0.8], [0.8, 0.6]]) + 7
    doubled = np.concatenate([scaled, scaled[:50]]), np.concatenate([arcs, arcs[:50]])
    assert geodesics(*doubled) == pytest.approx(3 * exact, rel=0.02)
    lying_on_another = np.array([[0.0, 0], [1, 0], [2, 1], [0, 0], [1, 0]])
    with pytest.raises(UserError, match="cluster 1 coincides"):
        geodesics(lying_on_another, np.array([0, 0, 0, 1, 1]))
    # the graph is the first that connects, as found by trying
    bridged = np.array([[0.0], [1], [10], [11]])
    length = geodesics(bridged, np.array([0, 0, 1, 1]), n_neighbours=1)
    assert length == pytest.approx(10)
    x = np.concatenate([RNG.normal(size=(20, 3)), RNG.normal(size=(8, 3)) + 5, [[30.0, 0, 0]]])
    labels = np.repeat([0, 1, 2], [20, 8, 1])
    for least in (1, 3, 15):
        k = next(
            k for k in range(least, 29)
            if connected_components(kneighbors_graph(x, k, mode="distance"))[0] == 1
        )  # fmt: skip
        value = geodesics(x, labels, n_neighbours=least)
        assert value == geodesics(x, labels, n_neighbours=k)
        assert k == least or value != geodesics(x, labels, n_neighbours=k + 1)


def test_procrustes_in_its_limits_and_the_pairings_that_fit_as_well_are_counted():
    assert disparity_of(A, 5 * A @ TURN + 2) == pytest.approx(0, abs=1e-12)
    padded = np.pad(B, ((0, 0), (0, 1)))
    assert disparity_of(A, B) == pytest.approx(procrustes(A, padded)[2])
    assert disparity_of(2 * B, A @ TURN) == pytest.approx(disparity_of(A, B))
    square = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    bow_tie = square[[0, 2, 1, 3]]  # A^T B = diag(1, 0) and |A|^2 = |B|^2 = 2
    assert disparity_of(square, bow_tie) == pytest.approx(1 - (1 / 2) ** 2)
    disparity, p = procrustes_test(A, B, n_permutations=3000)
    assert disparity == pytest.approx(disparity_of(A, B))
    all_of_them = [disparity_of(A, B[list(order)]) for order in permutations(range(6))]
    assert p == pytest.approx(np.mean(np.array(all_of_them) <= disparity + 1e-12), abs=0.03)
    assert procrustes_test(A, A @ TURN, n_permutations=999)[1] < 0.01


def distances(*points):
    return (np.linalg.norm(x[:, None] - x[None], axis=2) for x in points)


def test_gromov_wasserstein_by_brute_force_limits_scale_and_pots_own_value():
    def gw(a, b):
        return arrangements.gromov_wasserstein(tensor(a), tensor(b)).item()

    c1, c2 = distances(A, B)
    least = min(np.square(c1 - c2[np.ix_(order, order)]).mean() for order in permutations(range(6)))
    assert gw(A, B) == pytest.approx(least)
    assert gw(A, RNG.permutation(A @ TURN + 4)) == pytest.approx(0, abs=1e-9)
    segments = [np.array([[0.0], [length]]) for length in (1.0, 3.0)]
    assert gw(*segments) == pytest.approx((3 - 1) ** 2 / 2)
    few = B[:4]  # no pairing: POT's solver
    masses = np.full(6, 1 / 6), np.full(4, 1 / 4)
    assert gw(A, few) == pytest.approx(ot.gromov.gromov_wasserstein2(*distances(A, few), *masses))
    assert gw(2 * A, 2 * few) == pytest.approx(4 * gw(A, few))


def test_a_circle_in_order_is_recognised_in_both_senses_and_a_shuffled_one_is_not():
    angle = 2 * np.pi * np.arange(12) / 12
    ring = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    entity = np.arange(12).repeat(5)
    noise = 0.1 * np.random.default_rng(0).normal(size=(60, 3))
    for means in (ring, ring[::-1], ring @ np.diag([1, -1, 1]) + 7):
        circle = entity_circle(means[entity] + noise, entity)
        assert circle.order > 0.98 and circle.p <= 0.01
    shuffled = ring[[0, 6, 3, 9, 1, 7, 4, 10, 2, 8, 5, 11]][entity] + noise
    circle = entity_circle(shuffled, entity)
    assert circle.order < 0.6 and circle.p > 0.05
    with_others = entity_circle(np.concatenate([shuffled, noise]), np.r_[entity, np.full(60, -1)])
    np.testing.assert_array_equal(with_others.tokens, circle.tokens)
    with pytest.raises(UserError, match="at least 6"):
        entity_circle(ring[:5], np.arange(5))
    assert entity_circle(ring[::2], np.arange(6)).p < 0.05
