import itertools

import numpy as np
import pytest
from refusals import refused
from scipy import stats

from saerepgeo_lib.stats.estimates import (
    NotEstimable,
    auc,
    correlation_within,
    mean_estimate,
    stratified_auc,
)


def test_interval_and_exact_p_by_hand_and_under_changes_of_sign_and_scale():
    """Levels and coverage on null data are tested in `test_calibration`."""
    found = mean_estimate(np.array([1.0, 2.0, 3.0]))
    half = stats.t.ppf(0.975, 2) * 1 / np.sqrt(3)
    assert (found.value, found.n) == (2, 3)
    assert (found.low, found.high) == (pytest.approx(2 - half), pytest.approx(2 + half))
    assert found.p == 2 / 8  # only +++ and --- are as extreme
    assert mean_estimate(np.random.default_rng(0).normal(3, 1, size=10)).p == 2 / 2**10
    assert mean_estimate(np.ones(40)).p == pytest.approx(1e-4)  # drawn, and never 0
    x = np.array([0.3, -1.0, 2.0, 0.7])
    a, b = mean_estimate(x), mean_estimate(-5 * x)
    assert (a.p, -5 * a.value, -5 * a.high) == (b.p, pytest.approx(b.value), pytest.approx(b.low))
    for bad in ([1.0], [1.0, np.nan], []):
        refused("at least 2", mean_estimate, np.array(bad))


X = np.array([1.0, 2.0, 3.0, 4.0, 6.0])
Y = np.array([2.0, 1.0, 4.0, 3.0, 9.0])


def test_correlations_and_exact_permutation_p_by_brute_force():
    for method, reference in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        found = correlation_within([(X, Y)], method=method)
        assert found.value == pytest.approx(reference(X, Y).statistic)
        all_r = np.array([reference(X, order).statistic for order in itertools.permutations(Y)])
        above = np.mean(all_r >= found.value - 1e-12)
        assert found.p == pytest.approx(2 * above)  # scipy doubles the smaller tail
        assert found.low <= found.value <= found.high and found.n == 5
    line = correlation_within([(X, 3 * X - 7)])
    assert (line.value, line.low, line.high) == (pytest.approx(1),) * 3
    for method, changed in (("pearson", 2 * X + 1), ("spearman", np.exp(X))):
        found, plain = (correlation_within([(x, 5 * Y)], method=method, n_resamples=200)
                        for x in (changed, X))  # fmt: skip
        assert found.value == pytest.approx(plain.value)


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
        for name in ("value", "low", "high"):
            assert getattr(found, name) == pytest.approx(getattr(exact, name), abs=1e-4)
    assert exact.p == pytest.approx(p, abs=0.01)


def test_what_varies_by_rounding_does_not_vary():
    flat = 0.3 + 3e-8 * np.arange(5)
    for groups in ([(X, flat)], [(X, flat), (Y, flat)], [(np.full(5, 2.0), X)]):
        refused = correlation_within(groups)
        assert isinstance(refused, NotEstimable) and "does not vary" in refused.reason
    for method in ("pearson", "spearman"):
        exact, rounded = (correlation_within([(X, Y), (X, third)], method=method)
                          for third in (np.full(5, 0.3), flat))  # fmt: skip
        assert rounded == exact


def test_correlations_and_scores_that_are_undefined_are_refused(unchecked):
    infinite = np.array([1, 1, 1, 1, np.inf])
    for y, message in ((Y[:3], "one length"), (Y * np.nan, "NaN"), (infinite, "infinite")):
        for groups in ([(X, y)], [(X, Y), (X, y)]):
            refused(message, correlation_within, groups)
    refused("did you mean 'spearman'", correlation_within, [(X, Y)], method="spearmann")
    refused("at least 2 finite", auc, np.ones(1), np.ones(5))
    refused("a vector", auc, np.ones((2, 2)), np.ones(5))


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
    assert (other.value, other.low) == pytest.approx((1 - found.value, 1 - found.high))
    assert (auc(np.ones(5), np.ones(5)).value, auc(np.ones(5), np.ones(5)).p) == (0.5, 1)
    # The interval solves Newcombe's equation, and has a width at 1.
    found = auc(np.arange(8.0) + 3, np.arange(8.0))
    for end in (found.low, found.high):
        spread = 1 + 7 * ((1 - end) / (2 - end) + end / (1 + end))
        half = 1.959964 * np.sqrt(end * (1 - end) * spread / 64)
        assert abs(found.value - end) == pytest.approx(half, rel=1e-5)
    perfect = auc(np.arange(8.0) + 100, np.arange(8.0))
    assert perfect.value == perfect.high == 1 and 0.5 < perfect.low < 0.9


def test_stratified_auc_compares_within_groups_only():
    rng = np.random.default_rng(0)
    groups = [(rng.normal(2, 1, 10) + c, rng.normal(size=10) + c) for c in (0, 50)]
    both, first, second = stratified_auc(groups), auc(*groups[0]), auc(*groups[1])
    assert both.value == pytest.approx((first.value + second.value) / 2)
    below = np.hypot(first.value - first.low, second.value - second.low) / 2
    assert both.low == pytest.approx(both.value - below)
    assert both.p < 0.01 and both.n == 40
    single = stratified_auc(groups[:1])
    assert (single.value, single.low) == (first.value, pytest.approx(first.low))
    assert stratified_auc([(a + 9, b + 9) for a, b in groups]).value == both.value
    assert stratified_auc([(b, a) for a, b in groups]).value == pytest.approx(1 - both.value)
