"""Intervals and permutation p-values for small samples."""

import itertools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats

from saerepgeo_lib.errors import UserError

_EXACT_UP_TO = 14  # 2^14 sign patterns are enumerated; beyond that they are drawn


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval, the p-value of "the mean is 0" and the sample size."""

    value: float
    low: float
    high: float
    p: float
    n: int


def mean_estimate(sample: Float[np.ndarray, " n"], *, random_state: int = 0) -> Estimate:
    """Mean, Student's 95 % interval and two-sided sign-flip p-value of a sample.

    The p-value is exact (all sign patterns) for n <= 14, else from 10,000 drawn patterns, the
    observed one included, so it is never 0. Raises UserError for n < 2 or NaN.
    """
    x = np.asarray(sample, dtype=float)
    if x.ndim != 1 or len(x) < 2 or not np.isfinite(x).all():
        raise UserError(f"need at least 2 finite values, got {x!r}")
    half = stats.t.ppf(0.975, len(x) - 1) * stats.sem(x)
    if len(x) <= _EXACT_UP_TO:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(x))))
    else:
        rng = np.random.default_rng(random_state)
        signs = np.vstack([np.ones(len(x)), rng.choice((1.0, -1.0), (9_999, len(x)))])
    flipped = np.abs(signs @ x)
    p = float(np.mean(flipped >= abs(x.sum()) * (1 - 1e-12)))
    mean = float(x.mean())
    return Estimate(mean, mean - float(half), mean + float(half), p, len(x))
