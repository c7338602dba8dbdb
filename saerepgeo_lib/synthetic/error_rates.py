"""Every test and interval on data in which there is nothing to find, or whose truth is known."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial.distance import pdist
from scipy.special import ndtr
from scipy.stats import binomtest

from saerepgeo_lib.geometry import arrangements
from saerepgeo_lib.stats import estimates
from saerepgeo_lib.stats.effect_sizes import mean_difference, paired_effect
from saerepgeo_lib.stats.estimates import Estimate
from saerepgeo_lib.synthetic.calibration import Rng, permuted_rank

# In the names of rows: what breaks an assumption, and the stricter criterion of Case 1
SKEWED, SHARED, VERDICT = "skewed", "a shared effect of training", "verdict"


def _seed(rng: Rng) -> int:
    return int(rng.integers(2**31))


def _mean(rng: Rng, n: int, *, skewed: bool = False) -> Estimate:
    return estimates.mean_estimate(rng.exponential(size=n) - 1 if skewed else rng.normal(size=n))


def _correlation(rng: Rng, method: Any, *, rho: float = 0.0) -> Any:
    x, e = rng.normal(size=(2, 12))
    pairs, seed = [(x, rho * x + np.sqrt(1 - rho**2) * e)], _seed(rng)
    return estimates.correlation_within(pairs, method=method, n_resamples=199, random_state=seed)


def _classes(rng: Rng, n: int, *, shift: float = 0.0, at: float = 0.0) -> Any:
    return rng.normal(at + shift, 1, n), rng.normal(at, 1, n)


def _groups(rng: Rng, *, shift: float = 0.0) -> Any:
    return [_classes(rng, 8, shift=shift, at=at) for at in (0, 5)]


def _procrustes_p(rng: Rng, k: int, d: int) -> float:
    pair = rng.normal(size=(2, k, d))
    return arrangements.procrustes_test(*pair, n_permutations=99, random_state=_seed(rng))[1]


def _jackknife(rng: Rng, *, skewed: bool = False) -> float:
    x = rng.exponential(size=12) - 1 if skewed else rng.normal(size=12)
    return estimates.jackknife(x.mean(), (x.sum() - x) / (len(x) - 1)).p


def _crossed(rng: Rng) -> float:
    concepts, trainings = rng.normal(size=(9, 1)), rng.normal(size=3)
    return estimates.crossed_mean(concepts + trainings + rng.normal(size=(9, 3))).p


def _paired(rng: Rng, *, shared: float = 0.0) -> float:
    """Nine concepts by three trainings, whose own effect all concepts share."""
    x, y = rng.normal(size=(2, 9, 1, 3)) + shared * rng.normal(size=(2, 1, 1, 3))
    return paired_effect(x, y, effect=mean_difference, n_resamples=2).p


def _circle(rng: Rng, k: int) -> float:
    return arrangements.entity_circle(rng.normal(size=(k, 10)), np.arange(k)).p


# The p-value (or, as 0 and 1, the verdict) of each test on data in which there is nothing to find
NULLS: dict[str, Callable[[Rng], float]] = {
    "sign flip, n = 10": lambda rng: _mean(rng, 10).p,
    "sign flip, n = 7": lambda rng: _mean(rng, 7).p,
    f"sign flip, n = 10, {SKEWED}": lambda rng: _mean(rng, 10, skewed=True).p,
    f"Case 1's {VERDICT}, n = 10": lambda rng: not _mean(rng, 10).is_positive,
    "Pearson, n = 12": lambda rng: _correlation(rng, "pearson").p,
    "Spearman, n = 12": lambda rng: _correlation(rng, "spearman").p,
    "Procrustes, k = 7, d = 10": lambda rng: _procrustes_p(rng, 7, 10),
    "Procrustes, k = 12, d = 384": lambda rng: _procrustes_p(rng, 12, 384),
    "permutation rank above 0": lambda rng: permuted_rank(
        rng, rng.normal(size=(30, 20))).value == 0,
    "AUC (Mann-Whitney), 24 + 24": lambda rng: estimates.auc(*_classes(rng, 24)).p,
    "stratified AUC, 2 x (8 + 8)": lambda rng: estimates.stratified_auc(
        _groups(rng), n_permutations=99, random_state=_seed(rng)).p,
    "jackknife, 12 groups": _jackknife,
    f"jackknife, 12 groups, {SKEWED}": lambda rng: _jackknife(rng, skewed=True),
    "mean over 9 concepts and 3 trainings": _crossed,
    "paired effect, 9 concepts": _paired,
    f"paired effect, {SHARED}": lambda rng: _paired(rng, shared=1.0),
    "circle, 7 entities": lambda rng: _circle(rng, 7),
}  # fmt: skip
# Estimates on data whose truth stands beside them; normal classes a distance x apart have an AUC of
# Phi(x / sqrt 2)
INTERVALS: dict[str, tuple[Callable[[Rng], Estimate], float]] = {
    "mean, n = 10": (lambda rng: _mean(rng, 10), 0),
    "mean, n = 7": (lambda rng: _mean(rng, 7), 0),
    f"mean, n = 10, {SKEWED}": (lambda rng: _mean(rng, 10, skewed=True), 0),
    "Pearson, r = 0.5, n = 12": (lambda rng: _correlation(rng, "pearson", rho=0.5), 0.5),
    "AUC 0.76, 8 + 8": (lambda rng: estimates.auc(*_classes(rng, 8, shift=1)), ndtr(1 / 2**0.5)),
    "AUC 0.98, 8 + 8": (lambda rng: estimates.auc(*_classes(rng, 8, shift=3)), ndtr(3 / 2**0.5)),
    "stratified AUC 0.98, 2 x (8 + 8)": (
        lambda rng: estimates.stratified_auc(_groups(rng, shift=3), n_permutations=1),
        ndtr(3 / 2**0.5)),
}  # fmt: skip


def false_positives(
    *, draws: int = 1_000, level: float = 0.05, random_state: int = 0
) -> pd.DataFrame:
    """Rate of p <= level of every test on null data; columns test, rate, low, high (95 %), n."""
    rng = np.random.default_rng([random_state, 0])
    hits = {name: [p_of(rng) <= level for _ in range(draws)] for name, p_of in NULLS.items()}
    return _rates(hits, "test")


def interval_coverage(*, draws: int = 1_000, random_state: int = 0) -> pd.DataFrame:
    """Rate at which every 95 % interval holds the truth; columns interval, rate, low, high, n."""
    rng = np.random.default_rng([random_state, 1])
    hits = {}
    for name, (estimate, truth) in INTERVALS.items():
        drawn = [estimate(rng) for _ in range(draws)]
        hits[name] = [e.low <= truth <= e.high for e in drawn]
    return _rates(hits, "interval")


def _rates(hits: Mapping[str, list[bool]], kind: str) -> pd.DataFrame:
    tests = {name: binomtest(sum(hit), len(hit)) for name, hit in hits.items()}
    return pd.DataFrame(
        {kind: name, "rate": test.statistic, **test.proportion_ci()._asdict(), "n": test.n}
        for name, test in tests.items()
    )


def null_walks(
    *, draws: int = 200, steps: int = 100, k: int = 7, d: int = 50, random_state: int = 0
) -> pd.DataFrame:
    """Pearson's r of AEDP with an error that has nothing to do with it, a row per random walk.

    k centroids walk at random, so that AEDP grows. Columns every step (the error, which is
    independent noise), best so far (the least error up to each step).
    """
    rng = np.random.default_rng([random_state, 2])
    rows = []
    for _ in range(draws):
        walk = rng.normal(size=(k, d)) + 0.3 * rng.normal(size=(steps, k, d)).cumsum(axis=0)
        separability = np.array([pdist(centres).mean() for centres in walk])
        error = rng.normal(size=steps)
        errors = pd.DataFrame({"every step": error, "best so far": np.minimum.accumulate(error)})
        rows.append(errors.corrwith(pd.Series(separability)))
    return pd.DataFrame(rows)
