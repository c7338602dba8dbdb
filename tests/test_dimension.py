import numpy as np
import pytest
import skdim
from scipy import stats

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.geometry import dimension
from saerepgeo_lib.geometry.dimension import MIN_POINTS, mle, two_nn, two_nn_misfit
from saerepgeo_lib.geometry.points import distinct
from saerepgeo_lib.stats.estimates import NotEstimable
from saerepgeo_lib.synthetic import data as synthetic

both = pytest.mark.parametrize("estimator", [two_nn, mle])


def cloud(n=200, d=3, seed=0):
    return synthetic.ball(n, d, random_state=seed).points


@pytest.mark.parametrize("n", [12, 200])
def test_both_equal_scikit_dimension(n):
    x = cloud(n)
    expected = skdim.id.TwoNN(method="mle").fit(x).dimension_
    assert two_nn(x).value == pytest.approx(expected, rel=1e-12)
    expected = skdim.id.MLE().fit(x, n_neighbors=10).dimension_
    assert mle(x, n_neighbours=10).value == pytest.approx(expected, rel=1e-12)


def test_closed_form_of_two_nn_with_censored_ratios():
    """Five pairs on a line, far apart: ratios by hand, the k smallest of N kept."""
    starts = np.array([0.0, 10.0, 30.0, 70.0, 150.0])
    x = np.concatenate([starts, starts + 1])[:, None]  # r1 = 1 everywhere
    r2 = np.array([abs(np.delete(x, [i, (i + 5) % 10]) - x[i]).min() for i in range(10)])
    log_mu = np.sort(np.log(r2))
    expected = 8 / (log_mu[:9].sum() + log_mu[8])  # N = 10, k = 9
    assert two_nn(x).value == pytest.approx(expected)


@both
def test_limits_intervals_and_invariance(estimator):
    for d in (1, 2, 4):
        assert estimator(cloud(1500, d)).value == pytest.approx(d, rel=0.1)
    small, large = estimator(cloud(40)), estimator(cloud(1000))
    assert all(each.low < each.value < each.high for each in (small, large))
    assert large.high - large.low < (small.high - small.low) / 2
    # scale, rotation, order and copies do not matter
    x = cloud(60)
    q = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    moved = np.random.default_rng(2).permutation(7 * np.concatenate([x, x[:20]]) @ q + 5)
    plain, doubled = estimator(x), estimator(moved)
    assert doubled.value == pytest.approx(plain.value)
    assert plain.n == doubled.n == 60
    # intervals hold the dimension about as often as they say
    intervals = [estimator(cloud(100, 1, seed)) for seed in range(80)]
    assert 0.8 <= np.mean([i.low <= 1 <= i.high for i in intervals]) <= 1


@both
def test_what_has_no_dimension_is_refused_as_a_value_and_nan_as_an_error(estimator):
    few = estimator(np.repeat(cloud(MIN_POINTS - 1), 3, axis=0))
    assert str(few).startswith(f"not estimable: {MIN_POINTS - 1} distinct points")
    assert "one distance" in str(estimator(np.eye(7)))  # every pair at distance sqrt 2
    with pytest.raises(UserError, match="1 of 3 points have NaN"):
        estimator(np.array([[0.0, 1], [np.nan, 1], [2, 2]]))
    angle = np.arange(8) * np.pi / 4
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    assert isinstance(two_nn(ring), NotEstimable)  # two neighbours each, at one distance
    for local in (two_nn_misfit, dimension.local_inverse_dimensions):
        with pytest.raises(UserError, match="at least 3 points, got 2"):
            local(np.array([[0.0, 1], [2, 3], [2, 3], [0, 1]]))


FEW = [0, 10, 20, 200]


@pytest.mark.parametrize(("near", "shares", "times", "place"), [
    (1e-7, FEW, 1, lambda x: x), (1e-5, FEW, 1, lambda x: x), (1e-7, [200], 2, lambda x: x),
    (1e-7, [200], 19, lambda x: x), (1e-7, FEW, 1, lambda x: x + 1e4),
    (1e-7, FEW, 1, lambda x: x * 1e-6), (1e-7, FEW, 1, lambda x: x * 1e9 - 1e12),
    (1e-7, FEW, 1, np.float32), (4e-4, [200], 1, lambda x: np.float32(x + 1e4)),
])  # fmt: skip
def test_near_copies_count_once(near, shares, times, place):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 5))
    for n in shares:
        copies = [x[:n] + near * rng.normal(size=(n, 5)) for _ in range(times)]
        cloud = place(np.concatenate([x, *copies])).astype(float)
        for estimator in (two_nn, mle):
            estimate = estimator(cloud)
            assert estimate.value == pytest.approx(estimator(x).value, rel=0.02)
            assert estimate.n == 200


def test_copies_that_are_not_so_near_are_refused_and_neighbours_on_a_line_are_not_copies():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 5))
    halfway = np.concatenate([x, x + 5e-4 * rng.normal(size=x.shape)])
    assert "near-copies" in str(two_nn(halfway)) and "near-copies" in str(mle(halfway))
    line = rng.random((2000, 1))
    assert len(distinct(line)[0]) > 1980 and two_nn(line).value == pytest.approx(1, rel=0.05)
    pieces = np.repeat(rng.normal(size=(5, 8)), 40, axis=0) + 1e-3 * rng.normal(size=(200, 8))
    assert len(distinct(pieces)[0]) == 200  # tight clusters are clusters
    kept, which = distinct(np.array([[5.0, 1], [0, 0], [5 + 1e-9, 1], [9, 9], [0, 0]]))
    assert kept.tolist() == [0, 1, 3] and which.tolist() == [0, 1, 0, 2, 1]


@pytest.mark.parametrize(("share", "near", "dimensions"), [
    *((share, near, (5, 10, 20)) for share in (0.1, 0.25, 0.5, 1) for near in (1e-2, 3e-2, 0.1)),
    (0.25, 1e-2, [2]), (0.5, 1e-2, [2]), (0.5, 2e-2, [2]), (1, 3e-2, [2]),
])  # fmt: skip
def test_copies_within_hundredths_of_the_scale_are_refused(share, near, dimensions):
    rng = np.random.default_rng(0)
    for d in dimensions:
        x = rng.normal(size=(200, d))
        copied = np.concatenate([x, (x + near * rng.normal(size=x.shape))[: int(200 * share)]])
        assert "near-copies" in str(two_nn(copied)) and "near-copies" in str(mle(copied))


@pytest.mark.parametrize("n_copies", [3, 5])
@pytest.mark.parametrize("d", [5, 10])
def test_groups_of_near_copies_are_refused_by_the_neighbours_among_which_they_lie(n_copies, d):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(66, d))
    copied = np.concatenate([x + 0.01 * rng.normal(size=x.shape) for _ in range(n_copies)])
    assert "near-copies" in str(mle(copied))
    if n_copies == 3:  # of more, the two nearest are copies alike
        assert "near-copies" in str(two_nn(copied))


def test_a_twentieth_of_near_copies_is_refused_where_neighbours_are_farther():
    rng = np.random.default_rng(0)
    for near in (1e-3, 1e-2, 3e-2):
        x = rng.normal(size=(200, 5))
        copied = np.concatenate([x, x[:10] + near * rng.normal(size=(10, 5))])
        assert isinstance(two_nn(copied), NotEstimable) and isinstance(mle(copied), NotEstimable)


def test_clean_clouds_are_not_refused():
    rng = np.random.default_rng(0)
    rings = [np.stack([np.cos(a), np.sin(a)], 1) for a in 7 * rng.random((15, 100))]
    balls = [rng.normal(size=(n, d)) for d in (1, 2, 5, 10, 20) for n in (10, 30, 100, 300)]
    spheres = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(size=(15, 100, 3))]
    cubes = [rng.random((100, d)) for d in (1, 2, 5, 10) for _ in range(5)]
    for estimate in (two_nn, mle):
        refused = [isinstance(estimate(x), NotEstimable) for x in rings + balls + spheres + cubes]
        assert np.mean(refused) < 0.02


def test_misfit_by_brute_force_is_small_for_one_dimension_and_large_for_a_mixture():
    x = cloud(60, 2)
    r = np.sort(np.linalg.norm(x[:, None] - x[None], axis=2), axis=1)[:, 1:3]
    log_mu = np.sort(np.log(r[:, 1] / r[:, 0]))
    law = 1 - np.exp(-two_nn(x).value * log_mu)
    gaps = [abs(law[i] - share) for i in range(60) for share in (i / 60, (i + 1) / 60)]
    assert two_nn_misfit(x) == pytest.approx(max(gaps))
    assert two_nn_misfit(x * 9 + 1) == pytest.approx(max(gaps))
    mixed = synthetic.strata((1, 8), 150, 20, curved=False, random_state=0).points
    assert two_nn_misfit(cloud(300, 2)) < 0.08 < 0.15 < two_nn_misfit(mixed)


def test_mle_in_closed_form_and_its_jackknife_by_hand():
    x = np.array([0.0, 1, 3, 7, 15])[:, None]  # distances 1, 2, 4, 8 and their sums
    inverse = [np.log(3), np.log(2), np.log(3 / 2), np.log(6 / 4), np.log(12 / 8)]
    np.testing.assert_allclose(dimension.local_inverse_dimensions(x, n_neighbours=2), inverse)
    estimate = mle(x, n_neighbours=2)
    assert estimate.value == pytest.approx(1 / np.mean(inverse))
    without = (np.delete(x, i, axis=0) for i in range(5))
    logs = np.log(
        [1 / dimension.local_inverse_dimensions(y, n_neighbours=2).mean() for y in without]
    )
    error = np.sqrt(4 / 5 * np.square(logs - logs.mean()).sum())
    factor = np.exp(stats.t.ppf(0.975, 4) * error)
    assert estimate.low == pytest.approx(estimate.value / factor)
    assert estimate.high == pytest.approx(estimate.value * factor)
