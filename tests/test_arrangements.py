from itertools import permutations

import numpy as np
import ot
import pytest
import torch
from scipy.spatial import procrustes

from saerepgeo_lib import synthetic
from saerepgeo_lib.arrangements import (
    aedp,
    centroids,
    gromov_wasserstein,
    mean_geodesic_distance,
    mst_weight,
    procrustes_disparity,
    procrustes_test,
)
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.points import rms_radius

RNG = np.random.default_rng(0)
A = RNG.normal(size=(6, 4))
B = RNG.normal(size=(6, 3))
TURN = np.linalg.qr(RNG.normal(size=(4, 4)))[0]


def tensor(x):
    return torch.from_numpy(np.ascontiguousarray(x))


def test_centroids_are_means_and_leave_noise_out(unchecked):
    x = np.array([[0.0, 0], [2, 0], [10, 10], [99, 99]])
    np.testing.assert_allclose(centroids(x, np.array([4, 4, 7, -1])), [[1, 0], [10, 10]])
    with pytest.raises(UserError, match="no point has a cluster"):
        centroids(x, np.full(4, -1))
    with pytest.raises(UserError, match="one a point"):
        centroids(x, np.zeros(3, dtype=int))
    with pytest.raises(UserError, match="NaN"):
        centroids(x * np.nan, np.zeros(4, dtype=int))


def test_rms_radius_of_a_sphere_is_its_radius_and_moves_with_scale_only():
    x = np.concatenate([np.eye(3), -np.eye(3)]) * 5
    assert rms_radius(x) == pytest.approx(5)
    assert rms_radius(A @ TURN * 2 + 3) == pytest.approx(2 * rms_radius(A))
    brute = np.sqrt(np.mean([np.sum((a - A.mean(0)) ** 2) for a in A]))
    assert rms_radius(A) == pytest.approx(brute)


@pytest.mark.parametrize("kind", ["simplex", "line", "circle"])
def test_aedp_and_mstw_in_closed_form(kind):
    planted = synthetic.arrangement(kind, 7, spacing=2.0)
    assert aedp(tensor(planted.centroids)).item() == pytest.approx(planted.aedp)
    assert mst_weight(planted.centroids) == pytest.approx(planted.mst_weight)


def test_aedp_and_mstw_by_brute_force_and_under_motion():
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
    with pytest.raises(UserError, match="at least 2"):
        aedp(tensor(A[:1]))
    with pytest.raises(UserError, match="NaN"):
        aedp(tensor(A * np.nan))


def test_gradient_of_aedp_by_finite_differences():
    x = tensor(A).clone().requires_grad_()
    assert torch.autograd.gradcheck(aedp, (x,))


def test_gradient_of_aedp_where_centroids_coincide():
    x = torch.tensor(np.concatenate([A, A[:2]]), requires_grad=True)
    (expected,) = torch.autograd.grad(torch.pdist(x).mean(), x)
    (found,) = torch.autograd.grad(aedp(x), x)
    torch.testing.assert_close(found, expected)


def test_geodesics_on_a_line_and_on_a_circle():
    line = np.linspace(0, 10, 101)[:, None]
    labels = np.full(101, -1)
    labels[[0, 1, 2]], labels[[99, 98, 100]] = 0, 1  # medoids at 0.1 and 9.9
    assert mean_geodesic_distance(line, labels, n_neighbours=2) == pytest.approx(9.8)
    angle = 2 * np.pi * np.arange(400) / 400
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    arcs = (np.arange(400) // 100) % 4
    exact = np.mean([np.pi / 2, np.pi, np.pi / 2] * 4)
    assert mean_geodesic_distance(circle, arcs) == pytest.approx(exact, rel=0.02)
    scaled = 3 * circle @ np.array([[0.6, -0.8], [0.8, 0.6]]) + 7
    assert mean_geodesic_distance(scaled, arcs) == pytest.approx(3 * exact, rel=0.02)
    doubled = np.concatenate([circle, circle[:50]])
    assert mean_geodesic_distance(doubled, np.concatenate([arcs, arcs[:50]])) == pytest.approx(
        exact, rel=0.03
    )


def test_geodesics_join_separate_clusters_by_the_shortest_bridge():
    x = np.array([[0.0], [1], [10], [11]])
    found = mean_geodesic_distance(x, np.array([0, 0, 1, 1]), n_neighbours=1)
    assert found == pytest.approx(10)  # k = 2 is the first that connects them


def test_a_cluster_that_lies_wholly_on_another_is_refused():
    x = np.array([[0.0, 0], [1, 0], [2, 1], [0, 0], [1, 0]])
    with pytest.raises(UserError, match="cluster 1 coincides"):
        mean_geodesic_distance(x, np.array([0, 0, 0, 1, 1]))


def test_procrustes_limits_brute_force_and_invariance():
    assert procrustes_disparity(A, 5 * A @ TURN + 2) == pytest.approx(0, abs=1e-12)
    padded = np.pad(B, ((0, 0), (0, 1)))
    assert procrustes_disparity(A, B) == pytest.approx(procrustes(A, padded)[2])
    assert procrustes_disparity(A, B) == pytest.approx(procrustes_disparity(B, A))
    assert procrustes_disparity(A @ TURN, 2 * B) == pytest.approx(procrustes_disparity(A, B))
    square = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    bow_tie = square[[0, 2, 1, 3]]  # A^T B = diag(1, 0) and |A|^2 = |B|^2 = 2
    assert procrustes_disparity(square, bow_tie) == pytest.approx(1 - (1 / 2) ** 2)


def test_procrustes_test_counts_the_pairings_that_fit_as_well():
    disparity, p = procrustes_test(A, B, n_permutations=4000)
    assert disparity == pytest.approx(procrustes_disparity(A, B))
    all_of_them = [procrustes_disparity(A, B[list(order)]) for order in permutations(range(6))]
    assert p == pytest.approx(np.mean(np.array(all_of_them) <= disparity + 1e-12), abs=0.03)
    assert procrustes_test(A, A @ TURN, n_permutations=999)[1] < 0.01


def test_procrustes_refuses_what_has_no_shape(unchecked):
    with pytest.raises(UserError, match="match them first"):
        procrustes_disparity(A, B[:4])
    with pytest.raises(UserError, match="coincide"):
        procrustes_disparity(A, np.ones((6, 2)))
    with pytest.raises(UserError, match="at least 3"):
        procrustes_test(A[:2], B[:2])


def test_gromov_wasserstein_equals_brute_force_over_pairings():
    c1, c2 = (np.linalg.norm(x[:, None] - x[None], axis=2) for x in (A, B))
    least = min(np.square(c1 - c2[np.ix_(order, order)]).mean() for order in permutations(range(6)))
    assert gromov_wasserstein(tensor(A), tensor(B)).item() == pytest.approx(least)


def test_gromov_wasserstein_limits_scale_and_pots_own_value():
    moved = RNG.permutation(A @ TURN + 4)
    assert gromov_wasserstein(tensor(A), tensor(moved)).item() == pytest.approx(0, abs=1e-9)
    segment = [tensor(np.array([[0.0], [length]])) for length in (1.0, 3.0)]
    assert gromov_wasserstein(*segment).item() == pytest.approx((3 - 1) ** 2 / 2)
    value = gromov_wasserstein(tensor(A), tensor(B[:4])).item()  # no pairing: POT's solver
    c1, c2 = (np.linalg.norm(x[:, None] - x[None], axis=2) for x in (A, B[:4]))
    assert value == pytest.approx(
        ot.gromov.gromov_wasserstein2(c1, c2, np.full(6, 1 / 6), np.full(4, 1 / 4))
    )
    scaled = gromov_wasserstein(tensor(2 * A), tensor(2 * B[:4])).item()
    assert scaled == pytest.approx(4 * value)
    with pytest.raises(UserError, match="at least 2"):
        gromov_wasserstein(tensor(A[:1]), tensor(B))
    with pytest.raises(UserError, match="NaN"):
        gromov_wasserstein(tensor(A), tensor(B * np.nan))


def test_gromov_wasserstein_gradient_at_its_coupling():
    x = tensor(A).clone().requires_grad_()
    value = gromov_wasserstein(x, tensor(B))
    (gradient,) = torch.autograd.grad(value, x)
    direction = tensor(RNG.normal(size=A.shape))
    step = 1e-6
    up, down = (gromov_wasserstein(tensor(A) + s * direction, tensor(B)) for s in (step, -step))
    slope = ((up - down) / (2 * step)).item()
    assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-5)
