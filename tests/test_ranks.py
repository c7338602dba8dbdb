import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.ranks import (
    RULES,
    effective_rank,
    exact_rank,
    gavish_donoho_rank,
    marchenko_pastur_rank,
    participation_ratio,
    permutation_rank,
    relative_rank,
    stable_rank,
    weyl_bounds,
)


def spectrum(a):
    return np.linalg.svd(a, compute_uv=False)


def test_k_equal_singular_values_have_rank_k_under_every_rule():
    s = np.array([2.0] * 5 + [0.0] * 3)
    for name, rule in RULES.items():
        assert rule(s, (8, 100)).value == pytest.approx(5), name


def test_closed_forms_on_a_geometric_spectrum():
    s = 2.0 ** -np.arange(40)
    p = s / s.sum()
    assert effective_rank(s).value == pytest.approx(2 ** -(p * np.log2(p)).sum())
    assert effective_rank(s).value == pytest.approx(4, rel=1e-6)  # entropy of 1/2, 1/4, ...: 2 bits
    assert stable_rank(s).value == pytest.approx(4 / 3)
    assert participation_ratio(s).value == pytest.approx((4 / 3) ** 2 / (16 / 15))
    found = relative_rank(s, tau=0.1)
    assert (found.value, found.tolerance) == (4, pytest.approx(0.1))  # 1, .5, .25, .125
    exact = exact_rank(s, (40, 50), eps=2.0**-20)
    assert exact.tolerance == pytest.approx(50 * 2.0**-20)
    assert exact.value == np.count_nonzero(s > 50 * 2.0**-20) == 15


def test_exact_rank_of_a_float32_product_is_its_inner_dimension():
    rng = np.random.default_rng(0)
    a = (rng.normal(size=(60, 7)) @ rng.normal(size=(7, 90))).astype(np.float32)
    assert exact_rank(spectrum(a.astype(float)), a.shape).value == 7


def test_gavish_donoho_constants():
    s = np.ones(10)
    known = gavish_donoho_rank(s, (10, 10), noise_std=1.0)
    assert known.tolerance == pytest.approx(4 / np.sqrt(3) * np.sqrt(10))
    unknown = gavish_donoho_rank(s, (10, 10))
    assert unknown.tolerance == pytest.approx(2.858, abs=1e-3)  # omega(1), their table
    half = gavish_donoho_rank(s, (500, 1000))
    cubic = 0.56 * 0.5**3 - 0.95 * 0.5**2 + 1.82 * 0.5 + 1.43  # their approximation
    assert half.tolerance == pytest.approx(cubic, abs=0.02)


@pytest.mark.parametrize("rank", [0, 3])
def test_noise_aware_rules_find_a_planted_rank_in_white_noise(rank):
    rng = np.random.default_rng(1)
    m, n, sigma = 150, 300, 0.3
    u, v = rng.normal(size=(m, rank)), rng.normal(size=(rank, n))
    a = u @ v + sigma * rng.normal(size=(m, n))
    s = spectrum(a)
    assert gavish_donoho_rank(s, (m, n), noise_std=sigma).value == rank
    assert gavish_donoho_rank(s, (m, n)).value == rank
    assert marchenko_pastur_rank(s, (m, n), noise_std=sigma * 1.02).value == rank
    assert exact_rank(s, (m, n)).value == m  # METHOD 5.4: noise with a density has full rank


def test_permutation_rank_counts_leading_values_above_the_null():
    s = np.array([9.0, 5.0, 2.0, 1.5])
    null = np.array([[4.0, 3.0, 2.5, 1.0]] * 10)
    found = permutation_rank(s, null)
    assert (found.value, found.tolerance) == (2, 2.5)  # the 4th exceeds its null, too late
    assert permutation_rank(s, null * 0.1).value == 4
    with pytest.raises(UserError, match="shape"):
        permutation_rank(s, null[:, :2])


@pytest.mark.parametrize("name", RULES)
def test_rules_do_not_depend_on_scale_or_rotation(name):
    rng = np.random.default_rng(2)
    a = rng.normal(size=(12, 20)) * np.logspace(0, -4, 20)
    q, _ = np.linalg.qr(rng.normal(size=(12, 12)))
    value = RULES[name](spectrum(a), a.shape).value
    assert RULES[name](spectrum(q @ a) * 17, a.shape).value == pytest.approx(value, rel=1e-9)


def test_noise_aware_rules_do_not_depend_on_the_unit_and_refuse_impossible_noise():
    s = np.array([30.0, 12.0, 9.0, 1.0])
    for rule in (gavish_donoho_rank, marchenko_pastur_rank):
        one, other = rule(s, (4, 9), noise_std=1.0), rule(5 * s, (4, 9), noise_std=5.0)
        assert (other.value, other.tolerance) == (one.value, pytest.approx(5 * one.tolerance))
        for bad in (0.0, -1.0, np.nan, np.inf):
            with pytest.raises(UserError, match="noise_std"):
                rule(s, (4, 9), noise_std=bad)


def test_permutation_rank_of_unrelated_columns_is_0_at_its_level_and_keeps_its_unit():
    rng = np.random.default_rng(0)
    above = []
    for _ in range(300):
        x = rng.normal(size=(30, 12))
        null = np.stack([spectrum(rng.permuted(x, axis=0)) for _ in range(19)])
        above.append(permutation_rank(spectrum(x), null).value > 0)
        assert permutation_rank(7 * spectrum(x), 7 * null).value == (
            permutation_rank(spectrum(x), null).value
        )
    assert 0.02 <= np.mean(above) <= 0.08


def test_zero_matrices_have_rank_0_and_bad_spectra_are_refused():
    for rule in RULES.values():
        assert rule(np.zeros(4), (4, 5)).value == 0
        assert rule(np.zeros(0), (4, 0)).value == 0  # codes in which no feature is active
        for bad in ([1.0, np.nan], [1.0, 2.0], [1.0, -1.0]):
            with pytest.raises(UserError, match="singular values"):
                rule(np.array(bad, dtype=float), (4, 5))
    with pytest.raises(UserError, match="tau"):
        relative_rank(np.ones(2), tau=0)


def test_weyl_certifies_exactly_where_the_gap_allows_it():
    s = np.array([10.0, 6.0, 1.0])
    assert weyl_bounds(s, 2.0, threshold=(3.5, 3.5)) == (2, 2)  # 6 > 5.5 and 1 < 1.5
    assert weyl_bounds(s, 2.6, threshold=(3.5, 3.5)) == (1, 3)  # 6 < 6.1, and 1 > 0.9
    with pytest.raises(UserError):
        weyl_bounds(s, -1.0, threshold=(1, 1))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.floats(0, 3), tau=st.floats(0.01, 0.9))
def test_no_perturbation_leaves_weyls_bounds(seed, size, tau):
    rng = np.random.default_rng(seed)
    a, e = rng.normal(size=(6, 9)) * np.logspace(0, -2, 9), rng.normal(size=(6, 9)) * size
    s, moved = spectrum(a), spectrum(e)[0]
    threshold = (tau * max(0.0, s[0] - moved), tau * (s[0] + moved))
    low, high = weyl_bounds(s, float(moved), threshold=threshold)
    assert low <= relative_rank(spectrum(a + e), tau=tau).value <= high
