"""Estimates with intervals and p-values: means, correlations, and how well a score tells apart."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import factorial
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from scipy import stats
from scipy.optimize import brentq

from saerepgeo_lib.errors import UserError, choose
from saerepgeo_lib.points import NotEstimable

_EXACT_UP_TO = 14  # 2^14 sign patterns are enumerated; beyond that they are drawn
_TIE = 1e-6  # of a variable's range, or of a correlation: what differs by less is equal but rounded
_ROUNDING = float(np.finfo(np.float32).eps)  # of a value: most come from float32


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, the p-value of "there is no effect" and the sample size."""

    value: float
    low: float
    high: float
    p: float
    n: int

    @property
    def is_positive(self) -> bool:
        """Beyond chance above 0: the 95 % interval lies there, and p is at most 0.05."""
        return self.low > 0 and self.p <= 0.05


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
        signs = _sign_patterns(len(x))
    else:
        rng = np.random.default_rng(random_state)
        signs = np.vstack([np.ones(len(x)), rng.choice((1.0, -1.0), (9_999, len(x)))])
    flipped = np.abs(signs @ x)
    p = float(np.mean(flipped >= abs(x.sum()) * (1 - 1e-12)))
    mean = float(x.mean())
    return Estimate(mean, mean - float(half), mean + float(half), p, len(x))


def jackknife(value: float, replicates: Float[np.ndarray, " g"]) -> Estimate | NotEstimable:
    """A value with the interval that leaving out one of g groups at a time gives.

    The variance is (g - 1) / g sum_i (x_i - mean x)^2 over the g replicates (Efron 1979); interval
    and two-sided p by Student's t with g - 1 degrees of freedom. Exact for means; for sums over
    groups the standard error is too small by (g - 1) / g. Refuses replicates that do not vary,
    which say nothing of the error. Raises UserError for fewer than 3 replicates or NaN.
    """
    x = np.asarray(replicates, dtype=float)
    if x.ndim != 1 or len(x) < 3 or not np.isfinite(x).all() or not np.isfinite(value):
        raise UserError(f"need a finite value and at least 3 finite replicates, got {len(x)}")
    error = float(np.sqrt((len(x) - 1) ** 2 / len(x) * x.var(ddof=1)))
    if error <= 1e-12 * max(1.0, abs(value)):
        return NotEstimable(f"all {len(x)} replicates are equal")
    half = float(stats.t.ppf(0.975, len(x) - 1)) * error
    p = float(2 * stats.t.sf(abs(value) / error, len(x) - 1))
    return Estimate(value, value - half, value + half, p, len(x))


@lru_cache(maxsize=_EXACT_UP_TO)
def _sign_patterns(n: int) -> Float[np.ndarray, "patterns n"]:
    return np.array(list(itertools.product((1.0, -1.0), repeat=n)))


def correlation(
    x: Float[np.ndarray, " n"],
    y: Float[np.ndarray, " n"],
    *,
    method: Literal["pearson", "spearman"] = "pearson",
    n_resamples: int = 9_999,
    random_state: int = 0,
) -> Estimate:
    """Correlation with a percentile bootstrap interval and a two-sided permutation p-value.

    p permutes the pairing (all n! orders if they are no more than `n_resamples`), which is valid if
    the pairs are exchangeable: not for the steps of one trajectory. The interval resamples pairs;
    resamples in which a variable does not vary are left out. So that rounding decides nothing,
    values that differ by 1e-6 of the range, or by float32's precision, count as tied, and so do
    correlations that differ by 1e-6. Raises UserError for fewer than 4 pairs, NaN, or a constant
    variable.
    """
    choose("correlation", method, ("pearson", "spearman"))
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if x.ndim != 1 or x.shape != y.shape or len(x) < 4:
        raise UserError(f"need two vectors of one length >= 4, got shapes {x.shape} and {y.shape}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise UserError("a correlation of NaN or infinite values is undefined; leave them out")
    (x,), (y,) = _tied([x]), _tied([y])
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        raise UserError("a variable that does not vary correlates with nothing")
    if method == "spearman":
        x, y = stats.rankdata(x), stats.rankdata(y)
    x, y = ((v - v.mean()) / np.ptp(v) for v in (x, y))
    rng = np.random.default_rng(random_state)
    permuted = stats.permutation_test(
        (x,), lambda a, axis: _pearson(a, y, axis), permutation_type="pairings",
        vectorized=True, n_resamples=n_resamples, rng=rng,
    )  # fmt: skip
    rows = rng.integers(len(x), size=(n_resamples, len(x)))
    low, high = np.nanquantile(_pearson(x[rows], y[rows], -1), (0.025, 0.975))
    value, null = float(permuted.statistic), permuted.null_distribution
    if factorial(len(x)) > n_resamples:  # drawn, and not all
        null = np.append(null, value)
    tails = np.mean(null >= value - _TIE), np.mean(null <= value + _TIE)
    return Estimate(value, float(low), float(high), min(1.0, 2 * float(min(tails))), len(x))


def correlation_within(
    groups: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    method: Literal["pearson", "spearman"] = "pearson",
    n_resamples: int = 9_999,
    random_state: int = 0,
) -> Estimate | NotEstimable:
    """Correlation of (x, y) pooled within groups: both centred in each group, or ranked there.

    One group: `correlation`. Several: the p-value permutes y within the groups, and the interval
    resamples pairs within them; so differences between groups count for nothing. Ties as there, the
    range being the largest of any group. Refuses if a variable varies in no group. Raises UserError
    as `correlation`, for every group.
    """
    choose("correlation", method, ("pearson", "spearman"))
    pairs = [(np.asarray(x, dtype=float), np.asarray(y, dtype=float)) for x, y in groups]
    for x, y in pairs:
        if x.shape != y.shape or len(x) < 4 or not np.isfinite([x, y]).all():
            raise UserError("every group needs two finite vectors of one length >= 4")
    xs, ys = (_tied(values) for values in zip(*pairs, strict=True))
    for name, values in (("x", xs), ("y", ys)):
        if all(np.ptp(v) == 0 for v in values):
            return NotEstimable(f"{name} does not vary")
    if len(pairs) == 1:
        return correlation(
            *pairs[0], method=method, n_resamples=n_resamples, random_state=random_state
        )
    if method == "spearman":
        xs, ys = ([stats.rankdata(v) for v in values] for values in (xs, ys))
    x_range, y_range = (max(map(np.ptp, values)) for values in (xs, ys))
    pairs = [
        ((x - x.mean()) / x_range, (y - y.mean()) / y_range) for x, y in zip(xs, ys, strict=True)
    ]
    rng = np.random.default_rng(random_state)

    def pooled(draw: Any) -> Any:
        xs, ys = zip(*(draw(x, y) for x, y in pairs), strict=True)
        return _pearson(np.concatenate(xs, axis=-1), np.concatenate(ys, axis=-1), -1)

    def permute(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        many = np.broadcast_to(y, (n_resamples, len(y)))
        return np.broadcast_to(x, many.shape), rng.permuted(many, axis=1)

    def resample(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = rng.integers(len(x), size=(n_resamples, len(x)))
        a, b = (v[rows] - v[rows].mean(1, keepdims=True) for v in (x, y))
        return a, b

    value = float(pooled(lambda x, y: (x, y)))
    null = np.append(np.abs(pooled(permute)), abs(value))
    low, high = np.nanquantile(pooled(resample), (0.025, 0.975))
    p = float(np.mean(null >= abs(value) - _TIE))
    return Estimate(value, float(low), float(high), p, sum(len(x) for x, _ in pairs))


def _tied(groups: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Values of each group that differ by rounding only, set to the least of them."""
    width = max(_TIE * max(map(np.ptp, groups)), _ROUNDING * max(np.abs(v).max() for v in groups))
    out = []
    for v in groups:
        order = v.argsort()
        rises = np.diff(v[order], prepend=-np.inf) > width
        equal = np.empty_like(v)
        equal[order] = v[order][rises][rises.cumsum() - 1]
        out.append(equal)
    return out


def _pearson(x: np.ndarray, y: np.ndarray, axis: int) -> Any:
    """Correlations of variables with a range of 1; NaN where a resample holds one value only."""
    a, b = x - x.mean(axis, keepdims=True), y - y.mean(axis, keepdims=True)
    aa, bb = (a * a).mean(axis), (b * b).mean(axis)
    with np.errstate(invalid="ignore"):
        r = (a * b).mean(axis) / np.sqrt(aa * bb)
    return np.where(np.minimum(aa, bb) > _TIE**2, r, np.nan)


def auc(positive: Float[np.ndarray, " n"], negative: Float[np.ndarray, " m"]) -> Estimate:
    """Area under the ROC curve: P(a positive scores higher) + P(tie) / 2.

    0.5 is chance; below it, the score tells the classes apart with the sign reversed. The 95 %
    interval is Newcombe's (2006, method 5), of Wilson's kind, so it has a width at 0 and 1 too;
    p is that of Mann and Whitney's test, which has the same statistic. Both take all scores for
    independent. Raises UserError for fewer than 2 a class, or NaN.
    """
    a, b = np.asarray(positive, dtype=float), np.asarray(negative, dtype=float)
    if a.ndim != 1 or b.ndim != 1:
        raise UserError(f"scores are vectors, got shapes {a.shape} and {b.shape}")
    if min(len(a), len(b)) < 2 or not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise UserError(f"need at least 2 finite scores a class, got {len(a)} and {len(b)}")
    value = float(np.mean(np.sign(a[:, None] - b[None, :]) / 2 + 0.5))
    low, high = _newcombe(value, len(a), len(b))
    p = 1.0 if np.ptp(np.concatenate([a, b])) == 0 else float(stats.mannwhitneyu(a, b).pvalue)
    return Estimate(value, low, high, p, len(a) + len(b))


def _newcombe(value: float, n: int, m: int) -> tuple[float, float]:
    """The areas from which `value` lies z standard errors away, at the standard error of theirs."""
    z, half = stats.norm.ppf(0.975), (n + m) / 2 - 1

    def excess(area: float, side: float) -> float:
        spread = 1 + half * ((1 - area) / (2 - area) + area / (1 + area))
        return (value - area) * side - z * np.sqrt(area * (1 - area) * spread / (n * m))

    inside = 1e-12  # the ends themselves are roots, without width
    low = brentq(excess, 0, min(value, 1 - inside), args=(1.0,)) if value > 0 else 0.0
    high = brentq(excess, max(value, inside), 1, args=(-1.0,)) if value < 1 else 1.0
    return float(low), float(high)


def stratified_auc(
    groups: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    n_permutations: int = 999,
    random_state: int = 0,
) -> Estimate:
    """Mean of the AUCs of several groups of (positive, negative) scores.

    Scores are compared within their group only. The interval joins those of the groups by the
    square-and-add method (MOVER: Zou and Donner 2008); p permutes labels within the groups,
    two-sided.
    """
    parts = [auc(positive, negative) for positive, negative in groups]
    value = float(np.mean([part.value for part in parts]))
    k = len(parts)
    below = np.sqrt(sum((part.value - part.low) ** 2 for part in parts)) / k
    above = np.sqrt(sum((part.high - part.value) ** 2 for part in parts)) / k
    rng = np.random.default_rng(random_state)
    null = np.zeros(n_permutations)
    for positive, negative in groups:
        ranks = stats.rankdata(np.concatenate([positive, negative]))
        n, m = len(positive), len(negative)
        orders = rng.permuted(np.tile(ranks, (n_permutations, 1)), axis=1)
        null += (orders[:, :n].sum(axis=1) - n * (n + 1) / 2) / (n * m) / k
    extreme = np.abs(null - 0.5) >= abs(value - 0.5) - 1e-12
    p = (1 + np.count_nonzero(extreme)) / (1 + n_permutations)
    n_all = sum(part.n for part in parts)
    return Estimate(value, value - float(below), value + float(above), float(p), n_all)
