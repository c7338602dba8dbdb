import itertools

import numpy as np
import pytest
from scipy import stats

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.points import NotEstimable
from saerepgeo_lib.statistics import (
    auc,
    correlation,
    correlation_within,
    mean_estimate,
    stratified_auc,
)


def test_interval_and_exact_p_by_hand():
    found = mean_estimate(np.array([1.0, 2.0, 3.0]))
    half = stats.t.ppf(0.975, 2) * 1 / np.sqrt(3)
    assert (found.value, found.n) == (2, 3)
    assert (found.low, found.high) == (pytest.approx(2 - half), pytest.approx(2 + half))
    assert found.p == 2 / 8  # only +++ and --- are as extreme


def test_p_is_uniform_under_the_null_and_small_under_a_shift():
    rng = np.random.default_rng(0)
    p = [mean_estimate(rng.normal(size=10)).p for _ in range(3000)]
    assert 0.03 <= np.mean(np.array(p) <= 0.05) <= 0.07
    assert mean_estimate(rng.normal(3, 1, size=10)).p == 2 / 2**10


def test_large_samples_are_drawn_and_p_is_never_0():
    assert mean_estimate(np.ones(40)).p == pytest.approx(1e-4)


def test_sign_symmetry_and_scale_invariance():
    x = np.array([0.3, -1.0, 2.0, 0.7])
    a, b = mean_estimate(x), mean_estimate(-5 * x)
    assert (a.p, -5 * a.value, -5 * a.high) == (b.p, pytest.approx(b.value), pytest.approx(b.low))


@pytest.mark.parametrize("bad", [[1.0], [1.0, np.nan], []])
def test_too_few_or_nan_is_refused(bad):
    with pytest.raises(UserError, match="at least 2"):
        mean_estimate(np.array(bad))


X = np.array([1.0, 2.0, 3.0, 4.0, 6.0])
Y = np.array([2.0, 1.0, 4.0, 3.0, 9.0])


def test_correlations_and_exact_permutation_p_by_brute_force():
    for method, reference in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        found = correlation(X, Y, method=method)
        assert found.value == pytest.approx(reference(X, Y).statistic)
        all_r = np.array([reference(X, order).statistic for order in itertools.permutations(Y)])
        above = np.mean(all_r >= found.value - 1e-12)
        assert found.p == pytest.approx(2 * above)  # scipy doubles the smaller tail
        assert found.low <= found.value <= found.high and found.n == 5


def test_correlation_limits_and_invariance():
    line = correlation(X, 3 * X - 7)
    assert (line.value, line.low, line.high) == (pytest.approx(1),) * 3
    assert correlation(2 * X + 1, 5 * Y).value == pytest.approx(correlation(X, Y).value)
    assert correlation(np.exp(X), Y, method="spearman").value == pytest.approx(
        correlation(X, Y, method="spearman").value
    )


@pytest.mark.parametrize("method", ["pearson", "spearman"])
@pytest.mark.parametrize(("n_groups", "p"), [(1, 2 / 5), (2, 2 / 25)])
@pytest.mark.parametrize("size", [0.6, 0.01])
def test_correlations_do_not_hang_on_how_ties_are_rounded(n_groups, p, size, method):
    """Errors that are least from the second dose on, as float32 gives them.

    Of one group the 5 places of the largest error are alike; as far from 0 as the first is the last
    (scipy doubles the one); of two groups 2 of the 25 pairs of places are.
    """
    doses, errors = np.array([0.5, 0.8, 1.0, 1.2, 1.5]), 0.3 + size * (np.arange(5) == 0)
    exact = correlation_within([(doses, errors)] * n_groups, method=method)
    rng = np.random.default_rng(0)
    for _ in range(5):
        groups = [
            tuple(v * (1 + 5e-8 * rng.uniform(-1, 1, size=5)) for v in (doses, errors))
            for _ in range(n_groups)
        ]
        found = correlation_within(groups, method=method)
        assert found.p == exact.p
        assert (found.value, found.low, found.high) == pytest.approx(
            (exact.value, exact.low, exact.high), abs=1e-4
        )
    assert exact.p == pytest.approx(p, abs=0.01)


def test_what_varies_by_rounding_does_not_vary():
    flat = 0.3 + 3e-8 * np.arange(5)
    with pytest.raises(UserError, match="does not vary"):
        correlation(X, flat)
    assert isinstance(correlation_within([(X, flat), (Y, flat)]), NotEstimable)
    for method in ("pearson", "spearman"):
        exact, rounded = (
            correlation_within([(X, Y), (X, third)], method=method)
            for third in (np.full(5, 0.3), flat)
        )
        assert rounded == exact
    with pytest.raises(UserError, match="finite"):
        correlation_within([(X, Y), (X, np.array([1, 1, 1, 1, np.inf]))])


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [(X, Y[:3], "one length"), (X, np.full(5, 2.0), "does not vary"), (X, Y * np.nan, "NaN")],
)
def test_correlations_that_are_undefined_are_refused(unchecked, x, y, message):
    with pytest.raises(UserError, match=message):
        correlation(x, y)


def test_auc_by_hand_by_brute_force_and_by_scipy():
    found = auc(np.array([1.0, 3.0]), np.array([0.0, 1.0, 2.0]))
    assert found.value == pytest.approx((1.5 + 3) / 6)  # 1 beats 0 and ties 1; 3 beats all
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.7, 1, 30), rng.normal(size=25)
    found = auc(a, b)
    assert found.value == pytest.approx(np.mean(a[:, None] > b))
    assert found.p == stats.mannwhitneyu(a, b).pvalue
    assert found.low < found.value < found.high
    assert auc(np.exp(a), np.exp(b)) == found  # only the order counts
    other = auc(b, a)
    assert (other.value, other.low) == (
        pytest.approx(1 - found.value), pytest.approx(1 - found.high))  # fmt: skip


def test_the_interval_of_auc_solves_newcombes_equation_and_has_a_width_at_1():
    found = auc(np.arange(8.0) + 3, np.arange(8.0))
    for end in (found.low, found.high):
        spread = 1 + 7 * ((1 - end) / (2 - end) + end / (1 + end))
        assert abs(found.value - end) == pytest.approx(
            1.959964 * np.sqrt(end * (1 - end) * spread / 64), rel=1e-5
        )
    perfect = auc(np.arange(8.0) + 100, np.arange(8.0))
    assert perfect.value == perfect.high == 1 and 0.5 < perfect.low < 0.9


@pytest.mark.parametrize("shift", [1, 3])
def test_the_interval_of_auc_covers_the_truth(shift):
    truth = stats.norm.cdf(shift / np.sqrt(2))
    rng = np.random.default_rng(1)
    hits = []
    for _ in range(400):
        found = auc(rng.normal(shift, 1, 12), rng.normal(size=12))
        hits.append(found.low <= truth <= found.high)
    assert 0.91 <= np.mean(hits) <= 0.99


def test_stratified_auc_compares_within_groups_only():
    rng = np.random.default_rng(0)
    groups = [(rng.normal(2, 1, 10) + c, rng.normal(size=10) + c) for c in (0, 50)]
    found = stratified_auc(groups)
    parts = [auc(*group) for group in groups]
    assert found.value == pytest.approx(np.mean([part.value for part in parts]))
    below = np.hypot(*[part.value - part.low for part in parts]) / 2
    assert found.low == pytest.approx(found.value - below)
    assert found.p < 0.01 and found.n == 40
    single = stratified_auc(groups[:1])
    assert (single.value, single.low) == (parts[0].value, pytest.approx(parts[0].low))
    assert stratified_auc([(a + 9, b + 9) for a, b in groups]).value == found.value
    mirrored = stratified_auc([(b, a) for a, b in groups])
    assert mirrored.value == pytest.approx(1 - found.value)


def test_auc_of_ties_is_chance_and_bad_scores_are_refused(unchecked):
    assert (auc(np.ones(5), np.ones(5)).value, auc(np.ones(5), np.ones(5)).p) == (0.5, 1)
    with pytest.raises(UserError, match="at least 2 finite"):
        auc(np.ones(1), np.ones(5))
    with pytest.raises(UserError, match="vectors"):
        auc(np.ones((2, 2)), np.ones(5))
