import itertools
from math import comb

import numpy as np
import pytest
import torch

from saerepgeo_lib import theory
from saerepgeo_lib.errors import UserError


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def saes():
    generator = torch.Generator().manual_seed(0)
    return theory.random_saes(4, 12, k=3, threshold=0.4, generator=generator)


def inputs(n, d=4):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_rank_and_spectrum_of_known_matrices(rng):
    planted = rng.standard_normal((9, 3)) @ rng.standard_normal((3, 6))
    assert theory.rank_of(planted) == theory.rank_of(torch.as_tensor(planted.T)) == 3
    assert theory.rank_of(np.diag([1.0, 1e-12])) == 2  # float64's digits, not float32's
    assert theory.rank_of(np.diag([1.0, 1e-17])) == 1
    assert theory.rank_of(np.zeros((3, 2))) == 0
    assert np.allclose(theory.spectrum(np.diag([2.0, -3.0])), [3, 2])


def test_stratum_dimensions_of_the_extremes():
    for n in range(1, 6):
        assert theory.stratum_dimension(n, 0) == 0
        assert theory.stratum_dimension(n, 1) == n
        assert theory.stratum_dimension(n, n) == comb(n + 1, 2)
        assert theory.stratum_dimension(n, n - 1) == comb(n + 1, 2) - 1
    for r in (-1, 4):
        with pytest.raises(UserError, match="between 0 and n = 3"):
            theory.stratum_dimension(3, r)


def test_the_jacobian_is_the_derivative_of_m_m_transposed(rng):
    m, h = rng.standard_normal((2, 4, 3))
    upper = np.triu_indices(4)
    jacobian = theory.factor_jacobian(m)
    step = 1e-6
    difference = ((m + step * h) @ (m + step * h).T - (m - step * h) @ (m - step * h).T)[upper]
    assert np.allclose(jacobian @ h.ravel(), difference / (2 * step), atol=1e-8)
    skew = h[:3] - h[:3].T
    assert np.allclose(jacobian @ (m @ skew).ravel(), 0)
    assert np.linalg.matrix_rank(jacobian) == theory.stratum_dimension(4, 3)


def test_cone_coordinates_keep_distances_and_show_the_eigenvalues(rng):
    a = rng.standard_normal((20, 2, 2))
    a = a + a.transpose(0, 2, 1)
    points = theory.cone_coordinates(a)
    assert np.allclose(
        np.linalg.norm(points[:, None] - points, axis=2),
        np.linalg.norm(a[:, None] - a, axis=(2, 3)),
    )
    least = (points[:, 2] - np.linalg.norm(points[:, :2], axis=1)) / np.sqrt(2)
    assert np.allclose(least, np.linalg.eigvalsh(a)[:, 0])
    with pytest.raises(UserError, match="symmetric"):
        theory.cone_coordinates(np.array([[[1.0, 2.0], [0.0, 1.0]]]))


def test_the_path_is_continuous_psd_and_visits_every_stratum():
    t = np.linspace(0, 4, 4001)
    path = theory.cone_path(t)
    assert np.linalg.eigvalsh(path).min() > -1e-12
    assert np.linalg.norm(np.diff(path, axis=0), axis=(1, 2)).max() < 5e-3
    at = [theory.rank_of(a) for a in theory.cone_path(np.array([0, 0.9, 1.0, 2.0, 3.0, 3.1, 4]))]
    assert at == [2, 2, 1, 1, 0, 2, 2]


def test_random_saes_share_weights_and_differ_in_activation_only(saes):
    x = inputs(30)
    pre = theory.pre_activations(saes["ReLU"], x)
    for sae in saes.values():
        assert torch.equal(theory.pre_activations(sae, x), pre)
        assert torch.allclose(sae.decode(pre), pre @ sae.W_enc.T)
    assert torch.equal(saes["ReLU"].encode(x), pre.relu())
    assert torch.equal(saes["JumpReLU"].encode(x), torch.where(pre > 0.4, pre, 0))
    kth = pre.topk(3).values[:, -1:]
    assert torch.equal(saes["TopK"].encode(x), torch.where(pre >= kth, pre, 0).relu())
    assert (theory.active_sets(saes["TopK"], x).sum(1) <= 3).all()


def test_a_threshold_step_by_hand():
    # p = (3, 1) with |w| = (2, 5): the second latent is nearest to 0, at distance 1 / 5.
    w = np.array([[2.0, 0.0], [0.0, 5.0]])
    assert np.allclose(theory.step_to_threshold(np.array([[3.0, 1.0]]), w), [[0, -0.2]])
    # With threshold 2.9 the first is, at distance 0.05.
    thresholds = np.array([2.9, 3.0])
    step = theory.step_to_threshold(np.array([[3.0, 1.0]]), w, threshold=thresholds)
    assert np.allclose(step, [[-0.05, 0]])


def test_a_tie_step_by_hand():
    # p_0 - p_1 = 1 and |w_0 - w_1| = sqrt 2: halfway, both move by 1 / 2.
    step = theory.step_to_tie(np.array([[3.0, 2.0]]), np.eye(2), k=1)
    assert np.allclose(step, [[-0.5, 0.5]])
    # A lonely small latent is nearer to zero than to its rival.
    step = theory.step_to_tie(np.array([[0.1, -5.0]]), np.eye(2), k=1)
    assert np.allclose(step, [[-0.1, 0]])


@pytest.mark.parametrize("kind", ["ReLU", "TopK", "JumpReLU"])
def test_margins_are_tight_and_no_direction_beats_them(saes, kind):
    x = inputs(40)
    pre, w = theory.pre_activations(saes[kind], x), saes[kind].W_enc.detach().numpy()
    if kind == "TopK":
        x, pre = (rows[(pre > 0).sum(1) >= 3] for rows in (x, pre))
        step = theory.step_to_tie(pre.numpy(), w, k=3)
    else:
        step = theory.step_to_threshold(
            pre.numpy(), w, threshold=0.4 if kind == "JumpReLU" else 0.0
        )
    assert len(x) > 10
    before = theory.active_sets(saes[kind], x)

    def changed(by):
        return (theory.active_sets(saes[kind], x + torch.as_tensor(by)) != before).any(1)

    assert not changed(0.9999 * step).any()
    assert changed(1.0001 * step).all()
    margin = np.linalg.norm(step, axis=1, keepdims=True)
    for direction in np.random.default_rng(2).standard_normal((200, 4)):
        assert not changed(0.9999 * margin * direction / np.linalg.norm(direction)).any()


def test_the_tie_margin_agrees_with_all_pairs_by_brute_force(rng):
    w, pre = rng.standard_normal((5, 7)), rng.uniform(0.5, 3, (10, 7))
    for row, step in zip(pre, theory.step_to_tie(pre, w, k=2), strict=True):
        inside = set(np.argsort(row)[-2:])
        distances = [row[i] / np.linalg.norm(w[:, i]) for i in inside]
        distances += [
            (row[i] - row[j]) / np.linalg.norm(w[:, i] - w[:, j])
            for i, j in itertools.product(inside, set(range(7)) - inside)
        ]
        assert np.isclose(np.linalg.norm(step), min(distances))


def test_margins_scale_and_rotate_with_the_input(rng):
    w, pre = rng.standard_normal((5, 7)), rng.uniform(0.5, 3, (10, 7))
    turn = np.linalg.qr(rng.standard_normal((5, 5))).Q
    for step in (
        lambda a, b: theory.step_to_tie(a, b, k=3),
        lambda a, b: theory.step_to_threshold(a, b, threshold=0.2),
    ):
        assert np.allclose(step(pre, turn @ w), step(pre, w) @ turn.T)
        assert np.allclose(step(pre, 4 * w), step(pre, w) / 4)


def test_codes_without_a_tie_margin_are_refused(rng):
    w = rng.standard_normal((3, 4))
    pre = np.array([[3.0, 2.0, -1.0, -2.0]])
    for k in (0, 4):
        with pytest.raises(UserError, match="between 1 and 3"):
            theory.step_to_tie(pre, w, k=k)
    with pytest.raises(UserError, match="fewer than k = 3"):
        theory.step_to_tie(pre, w, k=3)
    w[:, 2] = w[:, 0]
    with pytest.raises(UserError, match="share their encoder"):
        theory.step_to_tie(pre, w, k=1)
