"""How often each test rejects where there is nothing to find."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from saerepgeo_lib.arrangements import procrustes_test
from saerepgeo_lib.statistics import auc, correlation, mean_estimate


def _null_p_values(random_state: int) -> dict[str, Callable[[], float]]:
    """Tests, each on a fresh draw of data in which there is nothing to find."""
    rng = np.random.default_rng(random_state)

    def skewed(size: int) -> np.ndarray:
        return rng.exponential(size=size) - 1

    def pairing(k: int, d: int) -> float:
        a, b = rng.normal(size=(k, d)), rng.normal(size=(k, d))
        seed = int(rng.integers(2**31))
        return procrustes_test(a, b, n_permutations=99, random_state=seed)[1]

    def correlated(method: Any, size: int) -> float:
        x, y = rng.normal(size=size), rng.normal(size=size)
        seed = int(rng.integers(2**31))
        return correlation(x, y, method=method, n_resamples=199, random_state=seed).p

    return {
        "sign flip, n = 10": lambda: mean_estimate(rng.normal(size=10)).p,
        "sign flip, n = 7": lambda: mean_estimate(rng.normal(size=7)).p,
        "sign flip, n = 10, skewed": lambda: mean_estimate(skewed(10)).p,
        "Pearson, n = 12": lambda: correlated("pearson", 12),
        "Spearman, n = 12": lambda: correlated("spearman", 12),
        "Procrustes, k = 7, d = 10": lambda: pairing(7, 10),
        "Procrustes, k = 12, d = 384": lambda: pairing(12, 384),
        "AUC (Mann-Whitney), 24 + 24": lambda: (
            auc(rng.normal(size=24), rng.normal(size=24), n_resamples=2).p
        ),
    }


def false_positives(
    *, draws: int = 1_000, level: float = 0.05, random_state: int = 0
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Rate of p <= level of every test on null data, with its Clopper-Pearson 95 % interval.

    Columns test, rate, low, high, n; and the p-values themselves by test.
    """
    tests = _null_p_values(random_state)
    values = {name: np.array([test() for _ in range(draws)]) for name, test in tests.items()}
    rows = []
    for name, p in values.items():
        found = stats.binomtest(int((p <= level).sum()), draws)
        interval = found.proportion_ci(method="exact")
        rows.append((name, found.statistic, interval.low, interval.high, draws))
    return pd.DataFrame(rows, columns=["test", "rate", "low", "high", "n"]), values
