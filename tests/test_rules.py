"""Unfoldings, their spectra, and the rules that count their rank."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused

from saerepgeo_lib.activations.latents import Latents
from saerepgeo_lib.activations.token_activations import TokenActivations
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.rank import rules, unfoldings


def spectrum(a):
    return np.linalg.svd(a, compute_uv=False)


def test_closed_forms_on_a_geometric_spectrum():
    s = 2.0 ** -np.arange(40)
    p = s / s.sum()
    assert rules.effective_rank(s).value == pytest.approx(2 ** -(p * np.log2(p)).sum())
    assert rules.effective_rank(s).value == pytest.approx(4, rel=1e-6)  # 1/2, 1/4, ...: 2 bits
    assert rules.stable_rank(s).value == pytest.approx(4 / 3)
    assert rules.participation_ratio(s).value == pytest.approx((4 / 3) ** 2 / (16 / 15))
    found = rules.relative_rank(s, tau=0.1)
    assert (found.value, found.tolerance) == (4, pytest.approx(0.1))  # 1, .5, .25, .125
    exact = rules.exact_rank(s, (40, 50), eps=2.0**-20)
    assert exact.tolerance == pytest.approx(50 * 2.0**-20)
    assert exact.value == np.count_nonzero(s > 50 * 2.0**-20) == 15
    rng = np.random.default_rng(0)  # a product in float32 has the rank of its inner dimension
    a = (rng.normal(size=(40, 7)) @ rng.normal(size=(7, 60))).astype(np.float32)
    assert rules.exact_rank(spectrum(a.astype(float)), a.shape).value == 7


def test_gavish_donoho_constants():
    s = np.ones(10)
    known = rules.gavish_donoho_rank(s, (10, 10), noise_std=1.0)
    assert known.tolerance == pytest.approx(4 / np.sqrt(3) * np.sqrt(10))
    unknown = rules.gavish_donoho_rank(s, (10, 10))
    assert unknown.tolerance == pytest.approx(2.858, abs=1e-3)  # omega(1), their table
    cubic = 0.56 * 0.5**3 - 0.95 * 0.5**2 + 1.82 * 0.5 + 1.43  # their approximation
    assert rules.gavish_donoho_rank(s, (5, 10)).tolerance == pytest.approx(cubic, abs=0.02)


@pytest.mark.parametrize("rank", [0, 3])
def test_noise_aware_rules_find_a_planted_rank_in_white_noise(rank):
    rng = np.random.default_rng(1)
    m, n, sigma = 60, 120, 0.3
    u, v = rng.normal(size=(m, rank)), rng.normal(size=(rank, n))
    a = u @ v + sigma * rng.normal(size=(m, n))
    s = spectrum(a)
    assert rules.gavish_donoho_rank(s, (m, n), noise_std=sigma).value == rank
    assert rules.gavish_donoho_rank(s, (m, n)).value == rank
    assert rules.marchenko_pastur_rank(s, (m, n), noise_std=sigma * 1.02).value == rank
    assert rules.exact_rank(s, (m, n)).value == m  # METHOD 5.4: noise with a density has full rank


def test_permutation_rank_counts_leading_values_above_the_null_at_its_level_in_any_unit():
    s = np.array([9.0, 5.0, 2.0, 1.5])
    null = np.array([[4.0, 3.0, 2.5, 1.0]] * 10)
    found = rules.permutation_rank(s, null)
    assert (found.value, found.tolerance) == (2, 2.5)  # the 4th exceeds its null, too late
    assert rules.permutation_rank(s, null * 0.1).value == 4
    refused("shape", rules.permutation_rank, s, null[:, :2])
    rng = np.random.default_rng(0)
    above = []
    for _ in range(300):
        x = rng.normal(size=(15, 6))
        draws = np.stack([x, *(rng.permuted(x, axis=0) for _ in range(19))])
        s, *null = np.linalg.svd(draws, compute_uv=False)
        above.append(rules.permutation_rank(s, np.array(null)).value)
        assert rules.permutation_rank(7 * s, 7 * np.array(null)).value == above[-1]
    assert 0.02 <= np.mean(np.array(above) > 0) <= 0.08


def test_a_mean_hides_a_planted_rank_from_the_permutation_rule_and_centring_shows_it():
    rng = np.random.default_rng(1)
    left, right = (np.linalg.qr(rng.normal(size=(n, 5)))[0] for n in (60, 30))
    x = 20 * left @ right.T + 0.3 * rng.normal(size=(60, 30)) + 5
    found = {}
    for name, data in (("as it is", x), ("centred", x - x.mean(0))):
        draws = np.stack([data, *(rng.permuted(data, axis=0) for _ in range(19))])
        s, *null = np.linalg.svd(draws, compute_uv=False)
        found[name] = rules.permutation_rank(s, np.array(null)).value
    assert found["centred"] == 5 > found["as it is"]


def test_rules_do_not_depend_on_scale_or_rotation_and_refuse_impossible_noise():
    rng = np.random.default_rng(2)
    a = rng.normal(size=(12, 20)) * np.logspace(0, -4, 20)
    q, _ = np.linalg.qr(rng.normal(size=(12, 12)))
    for name, rule in rules.RULES.items():
        value = rule(spectrum(a), a.shape).value
        assert rule(spectrum(q @ a) * 17, a.shape).value == pytest.approx(value, rel=1e-9), name
    s = np.array([30.0, 12.0, 9.0, 1.0])
    for rule in (rules.gavish_donoho_rank, rules.marchenko_pastur_rank):
        one, other = rule(s, (4, 9), noise_std=1.0), rule(5 * s, (4, 9), noise_std=5.0)
        assert (other.value, other.tolerance) == (one.value, pytest.approx(5 * one.tolerance))
        for bad in (0.0, -1.0, np.nan, np.inf):
            refused("noise_std", rule, s, (4, 9), noise_std=bad)


def test_equal_values_have_their_number_as_rank_zeros_0_and_bad_spectra_are_refused():
    equal = np.array([2.0] * 5 + [0.0] * 3)
    for rule in rules.RULES.values():
        assert rule(equal, (8, 100)).value == pytest.approx(5)
        assert rule(np.zeros(4), (4, 5)).value == 0
        assert rule(np.zeros(0), (4, 0)).value == 0  # latents of which no feature is active
        for bad in ([1.0, np.nan], [1.0, 2.0], [1.0, -1.0]):
            refused("singular values", rule, np.array(bad, dtype=float), (4, 5))
    refused("tau", rules.relative_rank, np.ones(2), tau=0)


def test_weyl_certifies_exactly_where_the_gap_allows_it():
    s = np.array([10.0, 6.0, 1.0])
    assert rules.weyl_bounds(s, 2.0, threshold=(3.5, 3.5)) == (2, 2)  # 6 > 5.5 and 1 < 1.5
    assert rules.weyl_bounds(s, 2.6, threshold=(3.5, 3.5)) == (1, 3)  # 6 < 6.1, and 1 > 0.9
    with pytest.raises(UserError):
        rules.weyl_bounds(s, -1.0, threshold=(1, 1))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.floats(0, 3), tau=st.floats(0.01, 0.9))
def test_no_perturbation_leaves_weyls_bounds(seed, size, tau):
    rng = np.random.default_rng(seed)
    a, e = rng.normal(size=(6, 9)) * np.logspace(0, -2, 9), rng.normal(size=(6, 9)) * size
    s, moved = spectrum(a), spectrum(e)[0]
    threshold = (tau * max(0.0, s[0] - moved), tau * (s[0] + moved))
    low, high = rules.weyl_bounds(s, float(moved), threshold=threshold)
    assert low <= rules.relative_rank(spectrum(a + e), tau=tau).value <= high


SHAPE = (4, 3, 5)


def tensor():
    return torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("mode", [1, 2, 3])
def test_unfoldings_agree_with_their_definition_and_round_trip(mode):
    z = tensor()
    unfolded = unfoldings.unfold(z, mode)
    others = [n for i, n in enumerate(SHAPE) if i != mode - 1]
    for index in np.ndindex(SHAPE):
        rest = [n for i, n in enumerate(index) if i != mode - 1]
        assert unfolded[index[mode - 1], rest[0] * others[1] + rest[1]] == z[index]
    assert torch.equal(unfoldings.fold(unfolded, mode, SHAPE), z)
    refused("modes 1, 2 and 3", unfoldings.unfold, z, 4 * (mode % 2))  # neither 0 nor 4 is one
    m, g = unfolded, unfoldings.sspd(unfolded)  # symmetric, with squared singular values
    torch.testing.assert_close(g, g.T)
    squared = torch.linalg.eigvalsh(g).flip(0)
    torch.testing.assert_close(squared, unfoldings.singular_values(m) ** 2, atol=1e-10, rtol=1e-10)


def test_singular_values_equal_numpys_and_resolve_what_a_gram_matrix_loses():
    for shape in ((3, 40), (40, 3), (10, 11), (7, 7)):
        m = torch.randn(shape, dtype=torch.float64)
        expected = np.linalg.svd(m.numpy(), compute_uv=False)
        np.testing.assert_allclose(unfoldings.singular_values(m).numpy(), expected, rtol=1e-12)
    rng = np.random.default_rng(0)
    u, _ = np.linalg.qr(rng.normal(size=(30, 4)))
    v, _ = np.linalg.qr(rng.normal(size=(60, 4)))
    s = np.array([1, 1e-3, 1e-10, 1e-12])
    found = unfoldings.singular_values(torch.from_numpy(u * s @ v.T)).numpy()[:4]
    np.testing.assert_allclose(found, s, rtol=1e-3)


@pytest.mark.parametrize("share", [1, 0.5, 0.1, 0.02])  # of nonzeros: from dense to lone features
@pytest.mark.parametrize("n_features", [5, 12, 90])
def test_modal_spectra_and_norms_equal_those_of_the_unfoldings(n_features, share):
    generator = torch.Generator().manual_seed(n_features)
    values = torch.randn(12, n_features, dtype=torch.float64, generator=generator)
    values *= torch.rand(values.shape, generator=generator) <= share
    z = values.reshape(4, 3, n_features)
    for mode, spectrum in unfoldings.modal_spectra(values, 3).items():
        expected = np.linalg.svd(unfoldings.unfold(z, mode).numpy(), compute_uv=False)
        padded = np.pad(spectrum, (0, len(expected) - len(spectrum)))
        np.testing.assert_allclose(padded, expected, rtol=1e-10, atol=1e-13)
        assert unfoldings.modal_norms(values, 3)[mode] == pytest.approx(expected[0], rel=1e-12)


@pytest.mark.parametrize(("m", "n"), [(1, 5), (4, 3), (300, 40), (250, 260), (400, 1500)])
@pytest.mark.parametrize("kind", ["random", "one direction", "zero", "twice the same"])
def test_the_spectral_norm_is_the_largest_singular_value(m, n, kind):
    a = torch.randn(m, n, dtype=torch.float64, generator=torch.Generator().manual_seed(m))
    a = {"random": a, "one direction": a[:, :1] @ a[:1], "zero": 0 * a,
         "twice the same": torch.block_diag(a, a)}[kind]  # fmt: skip
    expected = torch.linalg.matrix_norm(a, 2).item()
    found = unfoldings.spectral_norm(a).item()
    assert found == pytest.approx(expected, rel=1e-9)


def test_norms_of_many_tokens_are_the_same_without_a_gram_matrix(monkeypatch):
    values = torch.randn(60, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = unfoldings.modal_norms(values, 3)
    monkeypatch.setattr(unfoldings, "GRAM_TOKENS", 59)
    for mode, norm in unfoldings.modal_norms(values, 3).items():
        assert norm.item() == pytest.approx(expected[mode].item(), rel=1e-12)


def test_lone_features_of_a_token_become_one_column_and_differences_are_of_dense_latents():
    values = torch.tensor([[3.0, 4.0, 1.0, 0.0], [0.0, 0.0, 2.0, 0.0]])
    assert unfoldings.merged(values).tolist() == [[1.0, 5.0], [2.0, 0.0]]
    values = torch.zeros(400, 6, dtype=torch.bfloat16)  # merge as exactly as others
    values[301, 0], values[301, 1], values[303, 2], values[5, 3] = 3, 4, 2, 1
    values[:, 4] = 1
    exact = torch.zeros(400, 4, dtype=torch.float64)
    exact[:, 0], exact[5, 1], exact[301, 2], exact[303, 3] = 1, 1, 5, 2
    torch.testing.assert_close(unfoldings.merged(values), exact)
    a = Latents(torch.tensor([[1.0, 2.0], [3.0, 5.0]]), torch.tensor([0, 3]))
    b = Latents(torch.tensor([[5.0, 7.0], [0.0, 2.0]]), torch.tensor([3, 4]))
    assert unfoldings.difference(a, b).tolist() == [[1.0, -3.0, -7.0], [3.0, 5.0, -2.0]]


def activations(prompt, in_entity):
    x, position = torch.zeros(len(prompt), 2), torch.arange(len(prompt))
    return TokenActivations(x, torch.tensor(prompt), position, torch.tensor(in_entity))


def test_slots_begin_with_the_entity_s_last_token_and_end_with_the_shortest_prompt():
    acts = activations([0, 0, 0, 1, 1, 1, 1], [False, True, True, False, False, True, False])
    assert unfoldings.aligned_rows(acts).tolist() == [[2, 0, 1], [5, 3, 4]]
    assert unfoldings.aligned_rows(acts, max_slots=1).tolist() == [[2], [5]]
    plain = activations([0, 0, 1, 1, 1], [False] * 5)
    assert unfoldings.aligned_rows(plain).tolist() == [[0, 1], [2, 3]]
    refused("at least 1", unfoldings.aligned_rows, plain, max_slots=0)
