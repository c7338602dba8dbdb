import numpy as np
import pytest
from scipy import stats

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.statistics import mean_estimate


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
