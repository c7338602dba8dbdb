"""How often each test rejects where there is nothing to find, and each interval holds the truth."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from scipy.spatial.distance import pdist

from saerepgeo_lib.arrangements import procrustes_test
from saerepgeo_lib.ranks import permutation_rank
from saerepgeo_lib.statistics import Estimate, auc, correlation, mean_estimate, stratified_auc

SKEWED = "skewed"  # in the names of the rows whose data break the sign flip's assumption
VERDICT = "verdict"  # in those of the stricter criterion of Case 1: interval and p together


def _null_tests(rng: np.random.Generator) -> dict[str, Callable[[], float]]:
    """Tests, each on a fresh draw of data in which there is nothing to find; they return p."""

    def seed() -> int:
        return int(rng.integers(2**31))

    def skewed(n: int) -> np.ndarray:
        return rng.exponential(size=n) - 1

    def pairing(k: int, d: int) -> float:
        a, b = rng.normal(size=(k, d)), rng.normal(size=(k, d))
        return procrustes_test(a, b, n_permutations=99, random_state=seed())[1]

    def correlated(method: Any, n: int) -> float:
        x, y = rng.normal(size=n), rng.normal(size=n)
        return correlation(x, y, method=method, n_resamples=199, random_state=seed()).p

    def verdict(sample: np.ndarray) -> float:
        return 0.0 if mean_estimate(sample).is_positive else 1.0

    def first_rank() -> float:
        matrix = rng.normal(size=(30, 20))
        spectra = [np.linalg.svd(x, compute_uv=False) for x in
                   (matrix, *(rng.permuted(matrix, axis=0) for _ in range(19)))]  # fmt: skip
        return 0.0 if permutation_rank(spectra[0], np.array(spectra[1:])).value > 0 else 1.0

    def stratified() -> float:
        groups = [(rng.normal(size=8) + shift, rng.normal(size=8) + shift) for shift in (0, 5)]
        return stratified_auc(groups, n_permutations=99, random_state=seed()).p

    return {
        "sign flip, n = 10": lambda: mean_estimate(rng.normal(size=10)).p,
        "sign flip, n = 7": lambda: mean_estimate(rng.normal(size=7)).p,
        f"sign flip, n = 10, {SKEWED}": lambda: mean_estimate(skewed(10)).p,
        f"Case 1's {VERDICT}, n = 10": lambda: verdict(rng.normal(size=10)),
        "Pearson, n = 12": lambda: correlated("pearson", 12),
        "Spearman, n = 12": lambda: correlated("spearman", 12),
        "Procrustes, k = 7, d = 10": lambda: pairing(7, 10),
        "Procrustes, k = 12, d = 384": lambda: pairing(12, 384),
        "permutation rank above 0": first_rank,
        "AUC (Mann-Whitney), 24 + 24": lambda: auc(rng.normal(size=24), rng.normal(size=24)).p,
        "stratified AUC, 2 x (8 + 8)": stratified,
    }


def _intervals(rng: np.random.Generator) -> dict[str, Callable[[], tuple[Estimate, float]]]:
    """Estimates on fresh data, each with the truth that its interval should hold."""

    def correlated(rho: float, n: int) -> Estimate:
        x, e = rng.normal(size=n), rng.normal(size=n)
        y = rho * x + np.sqrt(1 - rho**2) * e
        return correlation(x, y, n_resamples=199, random_state=int(rng.integers(2**31)))

    def area(shift: float, n: int) -> tuple[Estimate, float]:
        truth = float(stats.norm.cdf(shift / np.sqrt(2)))
        return auc(rng.normal(shift, 1, n), rng.normal(size=n)), truth

    def areas(shift: float, n: int) -> tuple[Estimate, float]:
        truth = float(stats.norm.cdf(shift / np.sqrt(2)))
        groups = [(rng.normal(shift + c, 1, n), rng.normal(c, 1, n)) for c in (0, 5)]
        return stratified_auc(groups, n_permutations=1), truth

    return {
        "mean, n = 10": lambda: (mean_estimate(rng.normal(size=10)), 0.0),
        "mean, n = 7": lambda: (mean_estimate(rng.normal(size=7)), 0.0),
        f"mean, n = 10, {SKEWED}": lambda: (mean_estimate(rng.exponential(size=10)), 1.0),
        "Pearson, r = 0.5, n = 12": lambda: (correlated(0.5, 12), 0.5),
        "AUC 0.76, 8 + 8": lambda: area(1, 8),
        "AUC 0.98, 8 + 8": lambda: area(3, 8),
        "stratified AUC 0.98, 2 x (8 + 8)": lambda: areas(3, 8),
    }


def false_positives(
    *, draws: int = 1_000, level: float = 0.05, random_state: int = 0
) -> pd.DataFrame:
    """Rate of p <= level of every test on null data, with its Clopper-Pearson 95 % interval.

    Columns test, rate, low, high, n.
    """
    tests = _null_tests(np.random.default_rng([random_state, 0]))
    return _rates(
        {name: [test() <= level for _ in range(draws)] for name, test in tests.items()}, "test"
    )


def interval_coverage(*, draws: int = 1_000, random_state: int = 0) -> pd.DataFrame:
    """Rate at which every 95 % interval holds the truth; columns interval, rate, low, high, n."""
    makers = _intervals(np.random.default_rng([random_state, 1]))

    def holds(make: Callable[[], tuple[Estimate, float]]) -> bool:
        found, truth = make()
        return bool(found.low <= truth <= found.high)

    hits = {name: [holds(make) for _ in range(draws)] for name, make in makers.items()}
    return _rates(hits, "interval")


def _rates(hits: Mapping[str, list[bool]], kind: str) -> pd.DataFrame:
    rows = []
    for name, hit in hits.items():
        found = stats.binomtest(sum(hit), len(hit))
        bounds = found.proportion_ci(method="exact")
        rows.append((name, found.statistic, bounds.low, bounds.high, len(hit)))
    return pd.DataFrame(rows, columns=[kind, "rate", "low", "high", "n"])


def null_walks(
    *, draws: int = 200, steps: int = 100, k: int = 7, d: int = 50, random_state: int = 0
) -> pd.DataFrame:
    """Correlation of AEDP with an error that has nothing to do with it, along random walks.

    k centroids walk at random, so that AEDP grows; the error of each step is independent noise.
    Columns every step, best so far: Pearson's r of AEDP with the error itself, and with the
    least error up to each step, one row a walk.
    """
    rng = np.random.default_rng([random_state, 2])
    rows = []
    for _ in range(draws):
        walk = rng.normal(size=(k, d)) + 0.3 * rng.normal(size=(steps, k, d)).cumsum(axis=0)
        separability = np.array([pdist(centres).mean() for centres in walk])
        error = rng.normal(size=steps)
        best = np.minimum.accumulate(error)
        found = [np.corrcoef(separability, e)[0, 1] for e in (error, best) if np.ptp(e) > 0]
        rows.append(found if len(found) == 2 else [found[0], np.nan])
    return pd.DataFrame(rows, columns=["every step", "best so far"])
