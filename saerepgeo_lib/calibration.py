"""Every estimator against data whose answer is known: bias, spread, coverage.

Each function returns a tidy table, one row a setting and estimator. `bias` and `spread` are the
mean error and the standard deviation as shares of the truth, `exact` the share of values that
equal it, `coverage` that of 95 % intervals that hold it, `refused` that of refusals.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import permutations, product
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.spatial.distance import pdist, squareform

from saerepgeo_lib import arrangements, clusters, dimension, synthetic
from saerepgeo_lib.errors import UserError
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
    """Where an estimator may be trusted: small bias, small spread, nothing refused."""
    good = (table["bias"].abs() <= max_bias) & (table["spread"] <= max_spread)
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


def _draws(replicates: int, random_state: int, *axes: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    """Every setting as often as asked for, each time with a seed of its own at its end."""
    settings = [setting for setting in product(*axes) for _ in range(replicates)]
    states = np.random.SeedSequence(random_state).generate_state(len(settings))
    return ((*setting, int(seed)) for setting, seed in zip(settings, states, strict=True))


def calibrate_ranks(
    *,
    ranks: Iterable[int] = (2, 8, 32),
    noises: Iterable[float] = (0, 0.02, 0.1, 0.5, 1),
    shape: tuple[int, int] = (96, 384),
    replicates: int = 10,
    random_state: int = 0,
) -> pd.DataFrame:
    """Rank rules on Gaussian matrices of planted rank in white noise.

    `noise` is the noise's root mean square over the signal's, entry by entry. Settings: rule,
    rank, noise.
    """
    return summarise(
        {"rule": rule, "rank": rank, "noise": noise, "truth": rank, "value": value}
        for rank, noise, seed in _draws(replicates, random_state, ranks, noises)
        for rule, value in _ranks_of(rank, noise, shape, seed).items()
    )


def _ranks_of(rank: int, noise: float, shape: tuple[int, int], seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=(shape[0], rank)) @ rng.normal(size=(rank, shape[1])) / np.sqrt(rank)
    matrix = signal + noise * rng.normal(size=shape)
    s = np.linalg.svd(matrix, compute_uv=False)
    found = {name: rule(s, shape).value for name, rule in RULES.items()}
    found["Gavish-Donoho, median"] = gavish_donoho_rank(s, shape).value
    if noise > 0:
        found["Gavish-Donoho"] = gavish_donoho_rank(s, shape, noise_std=noise).value
        found["Marchenko-Pastur"] = marchenko_pastur_rank(s, shape, noise_std=noise).value
    null = [np.linalg.svd(rng.permuted(matrix, axis=0), compute_uv=False) for _ in range(5)]
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
        grid = _draws(replicates, random_state, dimensions, sizes, noises, ambients)
        for d, n, noise, ambient, seed in grid:
            cloud = synthetic.ball(n, d, random_state=seed)
            x = synthetic.embed(cloud, ambient, noise=noise, random_state=seed)
            settings = {"d": d, "n": n, "noise": noise, "ambient": ambient, "truth": d}
            yield from _dimensions_of(x, settings)

    return summarise(rows())


def calibrate_manifolds(
    *, n: int = 300, ambient: int = 50, replicates: int = 10, random_state: int = 0
) -> pd.DataFrame:
    """Dimension estimators on curved manifolds; settings estimator, manifold.

    The truth for a union of dimensions is their mean over the points.
    """

    def rows() -> Iterator[Row]:
        for name, seed in _draws(replicates, random_state, synthetic.MANIFOLDS):
            cloud = synthetic.MANIFOLDS[name](n, random_state=seed)
            x = synthetic.embed(cloud, ambient, random_state=seed)
            yield from _dimensions_of(x, {"manifold": name, "truth": cloud.dimension.mean()})

    return summarise(rows())


def _dimensions_of(x: Points, settings: Row) -> Iterator[Row]:
    for name, estimator in DIMENSION_ESTIMATORS.items():
        found = estimator(x)
        value = dict.fromkeys(("value", "low", "high"), np.nan)
        if not isinstance(found, NotEstimable):
            value = {"value": found.value, "low": found.low, "high": found.high}
        yield {"estimator": name, **settings, **value}


def calibrate_components(
    *,
    counts: Iterable[int] = (1, 2, 4, 8),
    sizes: Iterable[int] = (10, 20, 50),
    separations: Iterable[float] = (2.5, 4),
    dimensions: Iterable[int] = (3, 20),
    ambient: int = 50,
    replicates: int = 10,
    random_state: int = 0,
) -> pd.DataFrame:
    """Betti-0 estimators on disjoint balls; settings estimator, pieces, n each, separation, d.

    `separation` is the distance of the centres over the radius of the balls, which are disjoint
    beyond 2.
    """

    def rows() -> Iterator[Row]:
        grid = _draws(replicates, random_state, counts, sizes, separations, dimensions)
        for k, n_each, apart, d, seed in grid:
            x = synthetic.pieces(
                k, n_each, d, ambient=ambient, separation=apart, random_state=seed
            ).points
            settings = {"pieces": k, "n each": n_each, "separation": apart, "d": d, "truth": k}
            by_cluster = clusters.n_clusters(clusters.hdbscan_labels(x))
            by_homology = clusters.h0_components(x, random_state=seed)
            value = np.nan if isinstance(by_homology, NotEstimable) else by_homology.betti0
            yield {"estimator": "HDBSCAN", **settings, "value": by_cluster}
            yield {"estimator": "H0 persistence", **settings, "value": value}

    return summarise(rows())


def calibrate_separability(
    *,
    kinds: Iterable[str] = ("simplex", "line", "circle"),
    k: int = 7,
    sizes: Iterable[int] = (10, 30, 100),
    radii: Iterable[float] = (0.25, 1, 4),
    ambient: int = 50,
    replicates: int = 10,
    random_state: int = 0,
) -> pd.DataFrame:
    """AEDP and MSTW of centroids estimated from points; settings estimator, kind, n each, radius.

    `radius` is a cluster's root-mean-square radius over the distance of neighbouring centres.
    """

    def rows() -> Iterator[Row]:
        grid = _draws(replicates, random_state, kinds, sizes, radii)
        for kind, n_each, radius, seed in grid:
            rng = np.random.default_rng(seed)
            planted = synthetic.arrangement(kind, k)
            labels = np.repeat(np.arange(k), n_each)
            centres = np.pad(planted.centroids, ((0, 0), (0, ambient - planted.centroids.shape[1])))
            noise = rng.normal(size=(len(labels), ambient)) * radius / np.sqrt(ambient)
            found = arrangements.centroids(centres[labels] + noise, labels)
            settings = {"kind": kind, "n each": n_each, "radius": radius}
            value = float(arrangements.aedp(torch.from_numpy(found)))
            yield {"estimator": "AEDP", **settings, "truth": planted.aedp, "value": value}
            weight = arrangements.mst_weight(found)
            yield {"estimator": "MSTW", **settings, "truth": planted.mst_weight, "value": weight}

    return summarise(rows())


def calibrate_geodesics(
    *,
    k: int = 8,
    sizes: Iterable[int] = (40, 80, 160, 320),
    noises: Iterable[float] = (0, 0.05, 0.2),
    ambient: int = 50,
    replicates: int = 10,
    random_state: int = 0,
) -> pd.DataFrame:
    """AGD between k arcs of a circle, whose mean geodesic distance is known; settings n, noise.

    For k equally spaced points of the unit circle it is the mean of 2 pi min(j, k - j) / k over
    j = 1 ... k - 1. The chord distance that a straight line measures stands beside it.
    """
    j = np.arange(1, k)
    truth = float(np.mean(2 * np.pi * np.minimum(j, k - j) / k))

    def rows() -> Iterator[Row]:
        for n, noise, seed in _draws(replicates, random_state, sizes, noises):
            cloud = synthetic.circle(n, random_state=seed)
            angle = np.arctan2(cloud.points[:, 1], cloud.points[:, 0])
            labels = np.floor((angle + np.pi) / (2 * np.pi) * k).astype(int) % k
            x = synthetic.embed(cloud, ambient, noise=noise, random_state=seed)
            settings = {"n": n, "noise": noise, "truth": truth}
            for least in (10, 1):
                value = arrangements.mean_geodesic_distance(x, labels, n_neighbours=least)
                yield {"estimator": f"AGD, k from {least}", **settings, "value": value}
            straight = float(arrangements.aedp(torch.from_numpy(arrangements.centroids(x, labels))))
            yield {"estimator": "AEDP (straight)", **settings, "value": straight}

    return summarise(rows())


def calibrate_procrustes(
    *,
    counts: Iterable[int] = (4, 7, 12, 26),
    dimensions: Iterable[int] = (2, 10, 384),
    noises: Iterable[float] = (0.5, 1, np.inf),
    n_permutations: int = 99,
    replicates: int = 50,
    random_state: int = 0,
) -> pd.DataFrame:
    """Procrustes disparity and test on arrangements that share a shape up to noise.

    Columns k, d, noise, disparity (mean), rejected (share with p <= 0.05), replicates. `noise` is
    that of each copy over the shape's spread; inf: the two have nothing in common.
    """
    rows = []
    for k, d, noise, seed in _draws(replicates, random_state, counts, dimensions, noises):
        rng = np.random.default_rng(seed)
        shape = rng.normal(size=(k, d))
        part, scale = (0.0, 1.0) if noise == np.inf else (1.0, noise)
        a, b = (part * shape + scale * rng.normal(size=(k, d)) for _ in range(2))
        disparity, p = arrangements.procrustes_test(
            a, b, n_permutations=n_permutations, random_state=seed
        )
        rows.append((k, d, noise, disparity, p <= 0.05))
    table = pd.DataFrame(rows, columns=["k", "d", "noise", "disparity", "rejected"])
    groups = table.groupby(["k", "d", "noise"], sort=False)
    out = groups.agg(
        disparity=("disparity", "mean"),
        rejected=("rejected", "mean"),
        replicates=("rejected", "size"),
    )
    return out.reset_index()


def calibrate_gromov_wasserstein(
    *,
    counts: Iterable[int] = (4, 7),
    noises: Iterable[float] = (0, 0.3, 1),
    starts: Iterable[int] = (0, 10, 30),
    dimension: int = 10,
    replicates: int = 10,
    random_state: int = 0,
) -> pd.DataFrame:
    """The solver against the best of all pairings, on noisy turned copies in another order.

    For Euclidean distances and equally many objects of equal weight the objective is concave, so
    that a pairing is optimal and brute force over the k! of them is exact. Columns k, noise,
    starts, found (share within 1e-6 of the optimum), excess (mean, over the mean squared
    distance), replicates.
    """
    rows = []
    for k, noise, seed in _draws(replicates, random_state, counts, noises):
        rng = np.random.default_rng(seed)
        a = rng.normal(size=(k, dimension))
        turned = a @ np.linalg.qr(rng.normal(size=(dimension, dimension)))[0]
        b = rng.permutation(turned + noise * rng.normal(size=turned.shape))
        orders = np.array(list(permutations(range(k))))
        c1, c2 = squareform(pdist(a)), squareform(pdist(b))
        pairings = c2[orders[:, :, None], orders[:, None, :]]
        least = np.square(c1 - pairings).mean(axis=(1, 2)).min()
        for n_starts in starts:
            value = arrangements.gromov_wasserstein(
                torch.from_numpy(a), torch.from_numpy(b), n_starts=n_starts, random_state=seed
            )
            excess = (float(value) - least) / np.square(c1).mean()
            rows.append((k, noise, n_starts, excess < 1e-6, excess))
    table = pd.DataFrame(rows, columns=["k", "noise", "starts", "found", "excess"])
    groups = table.groupby(["k", "noise", "starts"], sort=False)
    return groups.agg(
        found=("found", "mean"), excess=("excess", "mean"), replicates=("found", "size")
    ).reset_index()
