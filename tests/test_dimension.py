import numpy as np
import pytest
import skdim
from scipy import stats

from saerepgeo_lib import synthetic
from saerepgeo_lib.dimension import (
    MIN_POINTS,
    local_inverse_dimensions,
    mle,
    two_nn,
    two_nn_misfit,
)
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.points import NotEstimable

ESTIMATORS = [two_nn, mle]


def cloud(n=200, d=3, seed=0):
    return synthetic.ball(n, d, random_state=seed).points


def test_both_equal_scikit_dimension():
    x = cloud()
    assert two_nn(x).value == pytest.approx(skdim.id.TwoNN(method="mle").fit(x).dimension_)
    expected = skdim.id.MLE().fit(x, n_neighbors=10).dimension_
    assert mle(x, n_neighbours=10).value == pytest.approx(expected)


def test_closed_form_on_equidistant_points_of_a_line():
    """Inner points have both neighbours at one distance (log mu = 0), the ends one at twice it."""
    inverse = local_inverse_dimensions(np.arange(6.0)[:, None], n_neighbours=2)
    np.testing.assert_allclose(inverse, [np.log(2), 0, 0, 0, 0, np.log(2)])


def test_closed_form_of_two_nn_with_censored_ratios():
    """Five pairs on a line, far apart: ratios by hand, the k smallest of N kept."""
    starts = np.array([0.0, 100.0, 300.0, 700.0, 1500.0])
    x = np.concatenate([starts, starts + 1])[:, None]  # r1 = 1 everywhere
    r2 = np.array([abs(np.delete(x, [i, (i + 5) % 10]) - x[i]).min() for i in range(10)])
    log_mu = np.sort(np.log(r2))
    expected = 8 / (log_mu[:9].sum() + log_mu[8])  # N = 10, k = 9
    assert two_nn(x).value == pytest.approx(expected)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("d", [1, 2, 4])
def test_limit_of_many_points(estimator, d):
    assert estimator(cloud(4000, d)).value == pytest.approx(d, rel=0.1)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_scale_rotation_and_order_do_not_matter(estimator):
    x = cloud(100)
    q = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    moved = np.random.default_rng(2).permutation(7 * x @ q + 5)
    assert estimator(moved).value == pytest.approx(estimator(x).value)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_duplicates_are_removed_and_counted(estimator):
    x = cloud(60)
    doubled = estimator(np.concatenate([x, x[:20]]))
    assert (doubled.value, doubled.n, doubled.duplicates) == (
        pytest.approx(estimator(x).value), 60, 20)  # fmt: skip


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_too_few_points_are_refused_as_a_value_and_nan_as_an_error(estimator):
    few = estimator(np.repeat(cloud(MIN_POINTS - 1), 3, axis=0))
    assert isinstance(few, NotEstimable)
    assert str(few).startswith(f"not estimable: {MIN_POINTS - 1} distinct points")
    with pytest.raises(UserError, match="1 of 3 points have NaN"):
        estimator(np.array([[0.0, 1], [np.nan, 1], [2, 2]]))


def test_points_whose_neighbours_are_all_at_one_distance_have_no_dimension():
    corners = np.eye(7)  # every pair at distance sqrt 2
    assert "one distance" in str(two_nn(corners)) and "one distance" in str(mle(corners))
    angle = np.arange(8) * np.pi / 4
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    assert isinstance(two_nn(ring), NotEstimable)  # two neighbours each, at one distance


def test_too_few_distinct_points_for_local_values_are_refused():
    for estimator in (two_nn_misfit, local_inverse_dimensions):
        with pytest.raises(UserError, match="at least 3 points, got 2"):
            estimator(np.array([[0.0, 1], [2, 3], [2, 3], [0, 1]]))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_interval_holds_the_estimate_and_shrinks_with_n(estimator):
    small, large = estimator(cloud(40)), estimator(cloud(2000))
    for found in (small, large):
        assert found.low < found.value < found.high
    assert large.high - large.low < (small.high - small.low) / 2
    assert estimator(cloud(40)) == small


def test_misfit_is_small_for_one_dimension_and_large_for_a_mixture():
    one = two_nn_misfit(cloud(300, 2))
    mixed = synthetic.linear_strata((1, 8), 150, 20, random_state=0).points
    assert one < 0.08 < 0.15 < two_nn_misfit(mixed)
    assert two_nn_misfit(cloud(300, 2) * 9 + 1) == pytest.approx(one)


def test_misfit_by_brute_force():
    x = cloud(60, 2)
    r = np.sort(np.linalg.norm(x[:, None] - x[None], axis=2), axis=1)[:, 1:3]
    log_mu = np.sort(np.log(r[:, 1] / r[:, 0]))
    law = 1 - np.exp(-two_nn(x).value * log_mu)
    gaps = [abs(law[i] - share) for i in range(60) for share in (i / 60, (i + 1) / 60)]
    assert two_nn_misfit(x) == pytest.approx(max(gaps))


def test_mle_in_closed_form_and_its_jackknife_by_hand():
    x = np.array([0.0, 1, 3, 7, 15])[:, None]  # distances 1, 2, 4, 8 and their sums
    inverse = [np.log(3), np.log(2), np.log(3 / 2), np.log(6 / 4), np.log(12 / 8)]
    found = mle(x, n_neighbours=2)
    assert found.value == pytest.approx(1 / np.mean(inverse))
    left_out = [1 / mle_of(np.delete(x, i, axis=0)) for i in range(5)]
    logs = np.log(left_out)
    error = np.sqrt(4 / 5 * np.square(logs - logs.mean()).sum())
    factor = np.exp(stats.t.ppf(0.975, 4) * error)
    assert (found.low, found.high) == (
        pytest.approx(found.value / factor), pytest.approx(found.value * factor))  # fmt: skip


def mle_of(x):
    return 1 / local_inverse_dimensions(x, n_neighbours=2).mean()


def test_intervals_hold_the_dimension_about_as_often_as_they_say():
    for estimator in ESTIMATORS:
        found = [estimator(cloud(150, 1, seed)) for seed in range(120)]
        hits = [f.low <= 1 <= f.high for f in found]
        assert 0.8 <= np.mean(hits) <= 1, estimator
