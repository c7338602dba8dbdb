"""Every estimator against data whose answer is known: bias, spread, coverage.

Each function returns a tidy table, one row a setting and estimator. `bias` and `spread` are the
mean error and the standard deviation as shares of the truth, `exact` the share of values that
equal it, `coverage` that of 95 % intervals that hold it, `refused` that of refusals.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from saerepgeo_lib import clusters, dimension, synthetic
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.noise_sweep import child_seed
from saerepgeo_lib.points import NotEstimable, Points
from saerepgeo_lib.ranks import (
    RULES,
    gavish_donoho_rank,
    marchenko_pastur_rank,
    permutation_rank,
)

Row = dict[str, Any]


def check_parameters(
    *, replicates: int, null_draws: int, max_bias: float, max_spread: float
) -> None:
    """Refuse what the page could not use, before anything is computed."""
    if replicates < 2:
        raise UserError(f"replicates must be at least 2, got {replicates}: a spread needs them")
    if null_draws < 1:
        raise UserError(f"null_draws must be at least 1, got {null_draws}")
    if max_bias <= 0 or max_spread <= 0:
        raise UserError("max_bias and max_spread are shares of the truth above 0")


def summarise(rows: Iterable[Row]) -> pd.DataFrame:
    """Rows of one value each (`truth`, `value`, maybe `low` and `high`) over their settings."""
    table = pd.DataFrame(rows)
    settings = [c for c in table.columns if c not in ("truth", "value", "low", "high")]
    table = table.assign(
        error=table["value"] - table["truth"],
        exact=(table["value"] == table["truth"]).where(table["value"].notna()),
        refused=table["value"].isna(),
    )
    if "low" in table:
        inside = (table["low"] <= table["truth"]) & (table["truth"] <= table["high"])
        table["covered"] = inside.where(table["low"].notna())
    groups = table.groupby(settings, sort=False)
    out = groups.agg(
        truth=("truth", "mean"), mean=("value", "mean"), bias=("error", "mean"),
        spread=("value", "std"), exact=("exact", "mean"), refused=("refused", "mean"),
        replicates=("value", "size"),
    )  # fmt: skip
    if "low" in table:
        out["coverage"] = groups["covered"].mean()
    out[["bias", "spread"]] = out[["bias", "spread"]].div(out["truth"], axis=0)
    return out.reset_index()


def trusted(
    table: pd.DataFrame, *, max_bias: float = 0.1, max_spread: float = 0.25
) -> "pd.Series[bool]":
    """Where an estimator may be trusted: small bias, small spread, nothing refused.

    The bias must stay within its limit with two of its standard errors added, so that few
    replicates earn no trust by luck.
    """
    error = table["spread"] / np.sqrt(table["replicates"])
    good = (table["bias"].abs() + 2 * error <= max_bias) & (table["spread"] <= max_spread)
    return good & (table["refused"] == 0)


def smallest_trusted(
    table: pd.DataFrame, good: "pd.Series[bool]", *, size: str, rows: str, columns: str
) -> pd.DataFrame:
    """The smallest `size` from which on an estimator may be trusted; "none" if no size tried."""

    def smallest(part: pd.DataFrame) -> str:
        ordered = part.sort_values(size)
        failed = np.flatnonzero(~ordered["good"].to_numpy())
        first = failed[-1] + 1 if len(failed) else 0
        return f"{ordered[size].iloc[first]}" if first < len(ordered) else "none"

    marked = table.assign(good=good)
    found = {key: smallest(part) for key, part in marked.groupby([rows, columns], sort=False)}
    return pd.Series(found).unstack().rename_axis(index=rows, columns=columns)


def draws(replicates: int, random_state: int, *axes: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    """Every setting as often as asked for, each time with a seed of its own at its end."""
    settings = [setting for setting in product(*axes) for _ in range(replicates)]
    states = np.random.SeedSequence(random_state).generate_state(len(settings))
    return ((*setting, int(seed)) for setting, seed in zip(settings, states, strict=True))


def calibrate_ranks(
    *,
    data: Iterable[str] = ("dense", "sparse codes"),
    ranks: Iterable[int] = (2, 8, 32),
    noises: Iterable[float] = (0, 0.02, 0.1, 0.5, 1),
    shape: tuple[int, int] = (96, 384),
    replicates: int = 5,
    random_state: int = 0,
) -> pd.DataFrame:
    """Rank rules on matrices of planted rank in white noise.

    "dense" is a product of Gaussian factors, "sparse codes" are `synthetic.planted_codes` on as
    many features as the rank. `noise` is the noise's root mean square over the signal's, entry by
    entry. Settings: rule, data, rank, noise.
    """
    grid = draws(replicates, random_state, data, ranks, noises)
    return summarise(
        {"rule": rule, "data": kind, "rank": rank, "noise": noise, "truth": rank, "value": value}
        for kind, rank, noise, seed in grid
        for rule, value in _ranks_of(kind, rank, noise, shape, seed).items()
    )


def _ranks_of(
    kind: str, rank: int, noise: float, shape: tuple[int, int], seed: int
) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    if kind == "dense":
        signal = rng.normal(size=(shape[0], rank)) @ rng.normal(size=(rank, shape[1]))
    else:
        planted = synthetic.planted_codes([rank], *shape, random_state=child_seed(seed, 0))
        signal = planted.codes.double().numpy()
    signal /= np.sqrt(np.square(signal).mean())
    matrix = signal + noise * rng.normal(size=shape)
    s = np.linalg.svd(matrix, compute_uv=False)
    found = {name: rule(s, shape).value for name, rule in RULES.items()}
    found["Gavish-Donoho, median"] = gavish_donoho_rank(s, shape).value
    if noise > 0:
        found["Gavish-Donoho"] = gavish_donoho_rank(s, shape, noise_std=noise).value
        found["Marchenko-Pastur"] = marchenko_pastur_rank(s, shape, noise_std=noise).value
    null = [np.linalg.svd(rng.permuted(matrix, axis=0), compute_uv=False) for _ in range(19)]
    found["permutation"] = permutation_rank(s, np.array(null)).value
    return found


DIMENSION_ESTIMATORS: dict[str, Callable[[Points], Any]] = {
    "TwoNN": dimension.two_nn,
    "MLE": dimension.mle,
}


def calibrate_dimensions(
    *,
    dimensions: Iterable[int] = (1, 2, 3, 5, 8),
    sizes: Iterable[int] = (10, 20, 50, 100, 300),
    noises: Iterable[float] = (0, 0.05, 0.2),
    ambients: Iterable[int] = (50,),
    replicates: int = 10,
    random_state: int = 0,
) -> pd.DataFrame:
    """Dimension estimators on balls; settings estimator, d, n, noise, ambient."""

    def rows() -> Iterator[Row]:
        grid = draws(replicates, random_state, dimensions, sizes, noises, ambients)
        for d, n, noise, ambient, seed in grid:
            cloud = synthetic.ball(n, d, random_state=seed)
            x = synthetic.embed(cloud, ambient, noise=noise, random_state=child_seed(seed, 0))
            settings = {"d": d, "n": n, "noise": noise, "ambient": ambient, "truth": d}
            yield from _dimensions_of(x, settings)

    return summarise(rows())


def calibrate_manifolds(
    *,
    n: int = 300,
    noises: Iterable[float] = (0, 0.05),
    ambient: int = 50,
    replicates: int = 10,
    random_state: int = 0,
) -> pd.DataFrame:
    """Dimension estimators on curved manifolds; settings estimator, manifold, noise.

    The truth for a union of dimensions is their mean over the points.
    """

    def rows() -> Iterator[Row]:
        for name, noise, seed in draws(replicates, random_state, synthetic.MANIFOLDS, noises):
            cloud = synthetic.MANIFOLDS[name](n, random_state=seed)
            x = synthetic.embed(cloud, ambient, noise=noise, random_state=child_seed(seed, 0))
            settings = {"manifold": name, "noise": noise, "truth": cloud.dimension.mean()}
            yield from _dimensions_of(x, settings)

    return summarise(rows())


def _dimensions_of(x: Points, settings: Row) -> Iterator[Row]:
    for name, estimator in DIMENSION_ESTIMATORS.items():
        found = estimator(x)
        value = dict.fromkeys(("value", "low", "high"), np.nan)
        if not isinstance(found, NotEstimable):
            value = {"value": found.value, "low": found.low, "high": found.high}
        yield {"estimator": name, **settings, **value}


# Balls of dimension d, `separation` radii from centre to centre; noise in radii; outliers are
# uniform in the ball that holds everything, as a share of the points.
PIECES: dict[str, dict[str, float]] = {
    "wide gaps": {"d": 3, "separation": 4},
    "narrow gaps": {"d": 3, "separation": 2.5},
    "narrow gaps, 20 dimensions": {"d": 20, "separation": 2.5},
    "narrow gaps, noise": {"d": 3, "separation": 2.5, "noise": 0.5},
    "wide gaps, outliers": {"d": 3, "separation": 4, "outliers": 0.1},
}


def calibrate_components(
    *,
    settings: Iterable[str] = tuple(PIECES),
    counts: Iterable[int] = (1, 2, 4, 8),
    sizes: Iterable[int] = (10, 20, 50),
    ambient: int = 50,
    replicates: int = 10,
    random_state: int = 0,
) -> pd.DataFrame:
    """Betti-0 estimators on the disjoint balls of `PIECES`; settings estimator, setting, pieces, n.

    `n` is the number of points a ball.
    """

    def rows() -> Iterator[Row]:
        for name, k, n, seed in draws(replicates, random_state, settings, counts, sizes):
            given = PIECES[name]
            cloud = synthetic.pieces(
                k, n, int(given["d"]), ambient=ambient, separation=given["separation"],
                random_state=seed,
            )  # fmt: skip
            rng = np.random.default_rng(child_seed(seed, 0))
            x = cloud.points
            x = x + given.get("noise", 0) * rng.normal(size=x.shape) / np.sqrt(ambient)
            if share := given.get("outliers", 0):
                radius = np.linalg.norm(x - x.mean(axis=0), axis=1).max()
                n_out = round(share * len(x))
                stray = synthetic.ball(n_out, ambient, random_state=child_seed(seed, 1)).points
                x = np.concatenate([x, x.mean(axis=0) + radius * stray])
            where = {"setting": name, "pieces": k, "n": n, "truth": k}
            by_cluster = clusters.n_clusters(clusters.hdbscan_labels(x))
            by_homology = clusters.h0_components(x, random_state=child_seed(seed, 2))
            value = np.nan if isinstance(by_homology, NotEstimable) else by_homology.betti0
            yield {"estimator": "HDBSCAN", **where, "value": by_cluster}
            yield {"estimator": "H0 persistence", **where, "value": value}

    return summarise(rows())
