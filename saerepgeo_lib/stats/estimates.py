"""Estimates with intervals and p-values: means, correlations, and how well a score tells apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import factorial
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from scipy import stats
from scipy.optimize import brentq

from saerepgeo_lib.errors import UserError, choose, quoted

Groups = Sequence[tuple[np.ndarray, np.ndarray]]
_EXACT_UP_TO = 14  # values whose 2^n sign patterns are enumerated; beyond, they are drawn
_TIE = 1e-6  # of a variable's range, or of a correlation: what differs by less is equal but rounded
_ROUNDING = float(np.finfo(np.float32).eps)  # of a value: most come from float32


@dataclass(frozen=True)
class NotEstimable:
    """An estimator's refusal as a value: why there is no estimate."""

    reason: str
    value = low = high = p = float("nan")  # as those of an `Estimate` are read
    n = 0

    def __str__(self) -> str:
        return f"not estimable: {self.reason}"


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


def _finite(values: Any, *, least: int) -> Float[np.ndarray, " n"]:
    x = np.asarray(values, dtype=float)
    if x.ndim != 1 or len(x) < least or not np.isfinite(x).all():
        raise UserError(f"need a vector of at least {least} finite values, got {quoted(x)}")
    return x


def mean_estimate(sample: Float[np.ndarray, " n"], *, random_state: int = 0) -> Estimate:
    """Mean, Student's 95 % interval and two-sided sign-flip p-value of a sample.

    p is exact for n <= 14, else from 10,000 drawn patterns. Raises UserError for n < 2 or NaN.
    """
    x = _finite(sample, least=2)
    half = float(stats.t.ppf(0.975, len(x) - 1) * stats.sem(x))
    if len(x) <= _EXACT_UP_TO:
        signs = 1.0 - 2 * (np.arange(2 ** len(x))[:, None] >> np.arange(len(x)) & 1)
    else:
        rng = np.random.default_rng(random_state)
        signs = np.vstack([np.ones(len(x)), rng.choice((1.0, -1.0), (9_999, len(x)))])
    p = float(np.mean(np.abs(signs @ x) >= abs(x.sum()) * (1 - 1e-12)))
    mean = float(x.mean())
    return Estimate(mean, mean - half, mean + half, p, len(x))


def crossed_mean(values: Float[np.ndarray, "rows columns"]) -> Estimate | NotEstimable:
    """The mean of a table whose rows and columns are both samples, as of concepts and trainings.

    Two-way random effects without replication: the variance of the mean is (R + C - E) / cells, of
    the mean squares of rows, columns and what is left, and at least the largest of R and C; degrees
    of freedom by Satterthwaite. `n` is the smaller number of units. Refuses a table that does not
    vary. Raises UserError for fewer than 2 rows or columns, and for NaN.
    """
    x = np.asarray(values, dtype=float)
    if x.ndim != 2 or min(x.shape) < 2 or not np.isfinite(x).all():
        raise UserError(f"need at least 2 x 2 finite values, got shape {x.shape}")
    rows, columns = x.shape
    left = x - x.mean(1, keepdims=True) - x.mean(0) + x.mean()
    free = np.array([rows - 1, columns - 1, (rows - 1) * (columns - 1)])
    of_rows, of_columns = columns * x.mean(1).var(ddof=1), rows * x.mean(0).var(ddof=1)
    squares = np.array([of_rows, of_columns, (left**2).sum() / free[2]])
    total, counted = of_rows + of_columns - squares[2], np.ones(3)
    if total < max(of_rows, of_columns):  # one side and the rest add nothing that is seen
        total, counted = max(of_rows, of_columns), np.eye(3)[int(of_columns > of_rows)]
    mean, error = float(x.mean()), float(np.sqrt(total / x.size))
    if error <= 1e-12 * max(1.0, abs(mean)):
        return NotEstimable(f"all {x.size} values are equal")
    t = stats.t(total**2 / (counted * squares**2 / free).sum())
    half, p = float(t.ppf(0.975)) * error, float(2 * t.sf(abs(mean) / error))
    return Estimate(mean, mean - half, mean + half, p, min(x.shape))


def jackknife(value: float, replicates: Float[np.ndarray, " g"]) -> Estimate | NotEstimable:
    """A value with the interval that leaving out one of g groups at a time gives (Efron 1979).

    Interval and two-sided p are Student's with g - 1 degrees of freedom. Exact for means; for sums
    over groups the standard error is too small by (g - 1) / g. Refuses replicates that do not vary.
    Raises UserError for fewer than 3 replicates or NaN.
    """
    x = _finite(replicates, least=3)
    if not np.isfinite(value):
        raise UserError(f"the value must be finite, got {value}")
    error = float(np.sqrt((len(x) - 1) ** 2 / len(x) * x.var(ddof=1)))
    if error <= 1e-12 * max(1.0, abs(value)):
        return NotEstimable(f"all {len(x)} replicates are equal")
    half = float(stats.t.ppf(0.975, len(x) - 1)) * error
    p = float(2 * stats.t.sf(abs(value) / error, len(x) - 1))
    return Estimate(value, value - half, value + half, p, len(x))


def correlation_within(
    groups: Groups, *, method: Literal["pearson", "spearman"] = "pearson",
    n_resamples: int = 9_999, random_state: int = 0,
) -> Estimate | NotEstimable:  # fmt: skip
    """Correlation of (x, y) pooled within groups: both centred in each group, or ranked there.

    The interval is a percentile bootstrap of pairs within the groups. The two-sided p permutes y
    there (a single group in all n! orders, if these are no more than `n_resamples`); it holds for
    exchangeable pairs, not for the steps of one trajectory. What differs by rounding is tied.
    Refuses if x or y varies in no group. Raises UserError for NaN, or fewer than 4 pairs.
    """
    choose("correlation", method, ("pearson", "spearman"))
    pairs = [(np.asarray(x, dtype=float), np.asarray(y, dtype=float)) for x, y in groups]
    for x, y in pairs:
        if x.ndim != 1 or x.shape != y.shape or len(x) < 4:
            raise UserError(f"need vectors of one length >= 4, got shapes {x.shape} and {y.shape}")
        if not np.isfinite([x, y]).all():
            raise UserError("a correlation of NaN or infinite values is undefined; leave them out")
    xs, ys = (_comparable(values, method == "spearman") for values in zip(*pairs, strict=True))
    if xs is None or ys is None:
        return NotEstimable(f"{'x' if xs is None else 'y'} does not vary")
    x, y = np.concatenate(xs), np.concatenate(ys)
    value = float(_pearson(x, y))
    rng = np.random.default_rng(random_state)
    if len(groups) == 1:
        p = _p_of_pairings(x, y, n_resamples, rng)
    else:
        shuffled = [rng.permuted(np.tile(v, (n_resamples, 1)), axis=1) for v in ys]
        null = np.append(np.abs(_pearson(x, np.concatenate(shuffled, axis=1))), abs(value))
        p = float(np.mean(null >= abs(value) - _TIE))
    drawn = []
    for pair in zip(xs, ys, strict=True):
        rows = rng.integers(len(pair[0]), size=(n_resamples, len(pair[0])))
        drawn.append([v[rows] - v[rows].mean(axis=1, keepdims=True) for v in pair])
    low, high = np.nanquantile(_pearson(*np.concatenate(drawn, axis=2)), (0.025, 0.975))
    return Estimate(value, float(low), float(high), p, len(x))


def _p_of_pairings(x: np.ndarray, y: np.ndarray, n_resamples: int, rng: Any) -> float:
    """Twice the smaller tail of the correlations of x, in another order, with y."""
    test = stats.permutation_test(
        (x,), lambda a, axis: _pearson(a, y), permutation_type="pairings",
        vectorized=True, n_resamples=n_resamples, rng=rng)  # fmt: skip
    null = test.null_distribution
    if factorial(len(x)) > n_resamples:  # drawn, and not all
        null = np.append(null, test.statistic)
    tails = np.mean(null >= test.statistic - _TIE), np.mean(null <= test.statistic + _TIE)
    return min(1.0, 2 * float(min(tails)))


def _comparable(groups: Sequence[np.ndarray], ranked: bool) -> list[np.ndarray] | None:
    """Groups of values, those equal up to rounding made equal, centred and over their range."""
    width = max(_TIE * max(map(np.ptp, groups)), _ROUNDING * max(np.abs(v).max() for v in groups))
    out = []
    for v in groups:
        order = v.argsort()
        rises = np.diff(v[order], prepend=-np.inf) > width
        equal = np.empty_like(v)
        equal[order] = v[order][rises][rises.cumsum() - 1]
        out.append(stats.rankdata(equal) if ranked else equal)
    widest = max(map(np.ptp, out))
    return [(v - v.mean()) / widest for v in out] if widest > 0 else None


def _pearson(x: np.ndarray, y: np.ndarray) -> Any:
    """Correlations of variables with a range of 1; NaN where a resample holds one value only."""
    a, b = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    aa, bb = (a * a).mean(-1), (b * b).mean(-1)
    with np.errstate(invalid="ignore"):
        r = (a * b).mean(-1) / np.sqrt(aa * bb)
    return np.where(np.minimum(aa, bb) > _TIE**2, r, np.nan)


def auc(positive: Float[np.ndarray, " n"], negative: Float[np.ndarray, " m"]) -> Estimate:
    """Area under the ROC curve: P(a positive scores higher) + P(tie) / 2; 0.5 is chance.

    The 95 % interval is Newcombe's (2006, method 5), which has a width at 0 and 1 too; p is that of
    Mann and Whitney's test. Both assume that all scores are independent. Raises UserError for fewer
    than 2 scores per class, or NaN.
    """
    a, b = _finite(positive, least=2), _finite(negative, least=2)
    test = stats.mannwhitneyu(a, b)
    value = float(test.statistic / (len(a) * len(b)))
    p = 1.0 if np.ptp([*a, *b]) == 0 else float(test.pvalue)
    return Estimate(value, *_newcombe(value, len(a), len(b)), p, len(a) + len(b))


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


def stratified_auc(groups: Groups, *, n_permutations: int = 999, random_state: int = 0) -> Estimate:
    """Mean AUC of several groups of (positive, negative) scores, each compared within itself.

    The interval joins those of the groups by the square-and-add method (MOVER: Zou and Donner
    2008); p permutes labels within the groups, two-sided.
    """
    areas = [auc(positive, negative) for positive, negative in groups]
    values, low, high = np.array([(area.value, area.low, area.high) for area in areas]).T
    value = float(values.mean())
    below = float(np.linalg.norm(values - low)) / len(areas)
    above = float(np.linalg.norm(high - values)) / len(areas)
    rng = np.random.default_rng(random_state)
    null = np.zeros(n_permutations)
    for positive, negative in groups:
        ranks = stats.rankdata(np.concatenate([positive, negative]))
        n, m = len(positive), len(negative)
        orders = rng.permuted(np.tile(ranks, (n_permutations, 1)), axis=1)
        null += (orders[:, :n].sum(axis=1) - n * (n + 1) / 2) / (n * m) / len(areas)
    extreme = np.abs(null - 0.5) >= abs(value - 0.5) - 1e-12
    p = float((1 + extreme.sum()) / (1 + n_permutations))
    return Estimate(value, value - below, value + above, p, sum(area.n for area in areas))
