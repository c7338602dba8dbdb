"""The exponent with which a cost grows, and its interval."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares
from scipy.stats import linregress, t


@dataclass(frozen=True)
class Growth:
    """cost = fixed + b size^exponent; `low` and `high` bound the exponent with 95 %."""

    exponent: float
    low: float
    high: float
    fixed: float


def growth(sizes: Sequence[float], costs: Sequence[float]) -> Growth:
    """Fit cost = a + b size^p by least squares of log cost, with a >= 0.

    The fixed cost a is fitted and not subtracted: a sweep takes at least two levels and two seeds,
    so it cannot be measured alone, and the interval of p should contain the doubt about it. Where a
    comes out as 0, the law is a line in log-log, and `linregress` gives slope and interval. Costs
    of repeated calls count one by one.
    """
    n, cost = np.asarray(sizes, dtype=float), np.asarray(costs, dtype=float)
    if len(set(sizes)) < 4:
        raise ValueError(f"a fit of three parameters needs at least 4 sizes, got {sorted(set(n))}")
    line = linregress(np.log(n), np.log(cost))
    least, middle = cost.min(), np.exp(np.log(n).mean())

    def residuals(given: np.ndarray) -> np.ndarray:
        share, scale, p = given
        return np.log(share * least + np.exp(scale) * (n / middle) ** p) - np.log(cost)

    starts = [(share, np.log(np.median(cost)), max(line.slope, 0.1)) for share in (0.01, 0.5, 0.9)]
    bounds = ([0, -np.inf, 0], [1, np.inf, 8])
    fits = [least_squares(residuals, start, bounds=bounds, x_scale="jac") for start in starts]
    found = min(fits, key=lambda fit: fit.cost)
    share, _, p = found.x
    if share < 1e-3:
        half = t.ppf(0.975, len(n) - 2) * line.stderr
        return Growth(line.slope, line.slope - half, line.slope + half, 0.0)
    variance = 2 * found.cost / (len(n) - 3) * np.linalg.pinv(found.jac.T @ found.jac)[2, 2]
    half = t.ppf(0.975, len(n) - 3) * np.sqrt(variance)
    return Growth(p, p - half, p + half, share * least)
