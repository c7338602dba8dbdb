"""Every estimator against data whose answer is known: bias and coverage."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import permutations, product
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.spatial.distance import pdist, squareform
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from saerepgeo_lib.errors import choose
from saerepgeo_lib.geometry import arrangements, clusters, dimension
from saerepgeo_lib.rank import rules
from saerepgeo_lib.rank.noise_sweep import child_seed
from saerepgeo_lib.synthetic import data

Rows = Iterator[dict[str, Any]]
Rng = np.random.Generator
AMBIENT = 50  # dimensions around the data, where they are no setting
SHAPE = (96, 384)  # of the matrices of planted rank
# Balls: dimension, distance of centres in radii, noise in radii, and outliers (uniform in the ball
# that holds everything) as a share of the points
PIECES: dict[str, tuple[int, float, float, float]] = {
    "wide gaps": (3, 4, 0, 0),
    "narrow gaps": (3, 2.5, 0, 0),
    "narrow gaps, 20 dimensions": (20, 2.5, 0, 0),
    "narrow gaps, noise": (3, 2.5, 0.5, 0),
    "wide gaps, outliers": (3, 4, 0, 0.1),
}
_OUTCOMES = ("truth", "value", "low", "high", "disparity", "rejected", "found", "excess")


def calibrate(
    estimators: str, grid: Mapping[str, Iterable[Any]] | None = None, *, replicates: int = 10,
    random_state: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Some of the `ESTIMATORS` on fresh data at every setting of a grid, as `summarise` has it.

    `grid` replaces the values of some settings: {"n": (10, 100)}. Every data set has its own seed.
    Raises UserError for unknown estimators or settings.
    """
    measure, settings = ESTIMATORS[choose("estimators", estimators, ESTIMATORS)]
    for name in grid or {}:
        choose(f"setting of the {estimators}", name, settings)
    settings = {**settings, **(grid or {})}
    cases = [values for values in product(*settings.values()) for _ in range(replicates)]
    seeds = np.random.SeedSequence(random_state).generate_state(len(cases))
    with threadpool_limits(1):  # threads wait for each other longer than small matrices take
        return summarise(
            dict(zip(settings, values, strict=True)) | row
            for values, seed in zip(cases, seeds, strict=True)
            for row in measure(int(seed), *values)
        )


def summarise(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Means of the outcomes of single data sets: a row per setting, with its `replicates`.

    `bias` and `spread` are mean error and standard deviation over the `truth`; `exact`, `refused`
    and `coverage` the shares of values that equal it, that are NaN, and of intervals that hold it.
    """
    table = pd.DataFrame(rows)
    settings = [c for c in table.columns if c not in _OUTCOMES]
    if "value" not in table:
        groups = table.groupby(settings, sort=False)
        return groups.mean().assign(replicates=groups.size()).reset_index()
    given, truth = table["value"].notna(), table["truth"]
    equal = (table["value"] == truth).astype(float).where(given)
    table = table.assign(bias=table["value"] - truth, exact=equal, refused=~given)
    if "low" in table:
        inside = truth.between(table.pop("low"), table.pop("high")).astype(float)
        table["coverage"] = inside.where(given)
    groups = table.groupby(settings, sort=False)
    out = groups.mean().assign(replicates=groups.size(), spread=groups["value"].std())
    out[["bias", "spread"]] = out[["bias", "spread"]].div(out["truth"], axis=0)
    return out.rename(columns={"value": "mean"}).reset_index()


def trusted(
    table: pd.DataFrame, *, max_bias: float = 0.1, max_spread: float = 0.25
) -> "pd.Series[bool]":
    """Where an estimator may be trusted: small bias (two standard errors added, so that few
    replicates earn no trust by luck), small spread, nothing refused.
    """
    error = table["spread"] / np.sqrt(table["replicates"])
    good = (table["bias"].abs() + 2 * error <= max_bias) & (table["spread"] <= max_spread)
    return good & (table["refused"] == 0)


def smallest_trusted(
    table: pd.DataFrame, good: "pd.Series[bool]", *, size: str, rows: str, columns: str
) -> pd.DataFrame:
    """The smallest `size` from which on an estimator may be trusted; "none" if no size tried."""
    smallest = {}
    for key, cases in table.assign(good=good).groupby([rows, columns], sort=False):
        largest_failed = cases.loc[~cases["good"], size].max()  # NaN if none failed
        larger = cases.loc[~(cases[size] <= largest_failed), size]
        smallest[key] = f"{larger.min()}" if len(larger) else "none"
    return pd.Series(smallest).unstack().rename_axis(index=rows, columns=columns)


def permuted_rank(rng: Rng, matrix: np.ndarray) -> rules.Rank:
    """The permutation rank of a matrix without the mean of its rows."""
    matrix = matrix - matrix.mean(axis=0)
    null = data.permuted_spectra(lambda: rng.permuted(matrix, axis=0))
    s = np.linalg.svd(matrix, compute_uv=False)
    return rules.permutation_rank(s, null[:, : len(s)])


def _ranks(seed: int, kind: str, rank: int, noise: float) -> Rows:
    """Rank rules on a matrix of planted rank and root mean square 1, in white noise."""
    rng = np.random.default_rng(seed)
    if kind == "dense":
        signal = rng.normal(size=(SHAPE[0], rank)) @ rng.normal(size=(rank, SHAPE[1]))
    else:
        planted = data.planted_latents(rank, *SHAPE, random_state=child_seed(seed, 0))
        signal = planted.double().numpy()
    matrix = signal / np.sqrt(np.square(signal).mean()) + noise * rng.normal(size=SHAPE)
    s = np.linalg.svd(matrix, compute_uv=False)
    ranks = {name: rule(s, SHAPE) for name, rule in rules.RULES.items()}
    ranks["Gavish-Donoho, median"] = rules.gavish_donoho_rank(s, SHAPE)
    if noise > 0:
        ranks["Gavish-Donoho"] = rules.gavish_donoho_rank(s, SHAPE, noise_std=noise)
        ranks["Marchenko-Pastur"] = rules.marchenko_pastur_rank(s, SHAPE, noise_std=noise)
    ranks["permutation"] = permuted_rank(rng, matrix)
    yield from ({"rule": rule, "truth": rank, "value": r.value} for rule, r in ranks.items())


def _dimensions(seed: int, cloud: data.Cloud, noise: float, ambient: int = AMBIENT) -> Rows:
    """Dimension of a cloud in noise; the truth for a union is the mean over the points."""
    x = data.embed(cloud, ambient, noise=noise, random_state=child_seed(seed, 0))
    for name, estimate in {"TwoNN": dimension.two_nn(x), "MLE": dimension.mle(x)}.items():
        ends = {end: getattr(estimate, end, np.nan) for end in ("value", "low", "high")}
        yield {"estimator": name, "truth": cloud.dimension.mean(), **ends}


def _components(seed: int, setting: str, k: int, n: int) -> Rows:
    """Betti-0 of k balls of n points, as `PIECES` describes them."""
    d, separation, noise, share = PIECES[setting]
    x = data.pieces(k, n, d, ambient=AMBIENT, separation=separation, random_state=seed).points
    rng = np.random.default_rng(child_seed(seed, 0))
    x = x + noise * rng.normal(size=x.shape) / np.sqrt(AMBIENT)
    if share:
        radius = np.linalg.norm(x - x.mean(axis=0), axis=1).max()
        stray = data.ball(round(share * len(x)), AMBIENT, random_state=child_seed(seed, 1)).points
        x = np.concatenate([x, x.mean(axis=0) + radius * stray])
    by_cluster = clusters.n_clusters(clusters.hdbscan_labels(x))
    by_homology = clusters.h0_components(x, random_state=child_seed(seed, 2))
    yield {"estimator": "HDBSCAN", "truth": k, "value": by_cluster}
    value = getattr(by_homology, "betti0", np.nan)
    yield {"estimator": "H0 persistence", "truth": k, "value": value}


def _separability(seed: int, kind: str, n_each: int, radius: float, ambient: int) -> Rows:
    """AEDP and MSTW of seven centroids, estimated from points of that root-mean-square radius."""
    planted = data.arrangement(kind, 7)
    labels = np.repeat(np.arange(7), n_each)
    x = np.random.default_rng(seed).normal(size=(len(labels), ambient)) * radius / np.sqrt(ambient)
    x[:, : planted.centroids.shape[1]] += planted.centroids[labels]
    centroids = arrangements.centroids(x, labels)
    mean = float(arrangements.aedp(torch.from_numpy(centroids)))
    yield {"estimator": "AEDP", "truth": planted.aedp, "value": mean}
    weight = arrangements.mst_weight(centroids)
    yield {"estimator": "MSTW", "truth": planted.mst_weight, "value": weight}


def _geodesics(seed: int, n: int, noise: float) -> Rows:
    """AGD between eight arcs of a circle, and the chord distance that a straight line measures."""
    k, j = 8, np.arange(1, 8)
    truth = float(np.mean(2 * np.pi * np.minimum(j, k - j) / k))
    cloud = data.circle(n, random_state=seed)
    angle = np.arctan2(cloud.points[:, 1], cloud.points[:, 0])
    labels = np.floor((angle + np.pi) / (2 * np.pi) * k).astype(int) % k
    x = data.embed(cloud, AMBIENT, noise=noise, random_state=child_seed(seed, 0))
    distance = arrangements.mean_geodesic_distance
    values = {f"AGD, k from {k}": distance(x, labels, n_neighbours=k) for k in (10, 1)}
    straight = arrangements.aedp(torch.from_numpy(arrangements.centroids(x, labels)))
    values["AEDP (straight)"] = float(straight)
    yield from ({"estimator": name, "truth": truth, "value": v} for name, v in values.items())


def _procrustes(seed: int, k: int, d: int, noise: float) -> Rows:
    """Disparity, and whether the test rejects, of two noisy copies of a shape (inf: noise)."""
    rng = np.random.default_rng(seed)
    shape = rng.normal(size=(k, d))
    kept, scale = (0.0, 1.0) if noise == np.inf else (1.0, noise)
    pair = kept * shape + scale * rng.normal(size=(2, k, d))
    disparity, p = arrangements.procrustes_test(
        *pair, n_permutations=99, random_state=child_seed(seed, 0)
    )
    yield {"disparity": disparity, "rejected": p <= 0.05}


def _gromov_wasserstein(seed: int, k: int, noise: float) -> Rows:
    """The solver against the best of all pairings, on a noisy turned copy in another order.

    The objective is concave, so that brute force is exact; beyond k = 7 the planted pairing is an
    upper bound. `excess` is over the mean squared distance; `found`: it is below 1e-6.
    """
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(k, 10))
    turned = a @ np.linalg.qr(rng.normal(size=(10, 10)))[0]
    order = rng.permutation(k)
    b = (turned + noise * rng.normal(size=turned.shape))[order]
    orders = np.array([*permutations(range(k))] if k <= 7 else [np.argsort(order)])
    c1, c2 = squareform(pdist(a)), squareform(pdist(b))
    paired = c2[orders[:, :, None], orders[:, None, :]]
    least = np.square(c1 - paired).mean(axis=(1, 2)).min()
    both, solver_seed = (torch.from_numpy(a), torch.from_numpy(b)), child_seed(seed, 0)
    for n_starts in (0, 10, 30):
        value = arrangements.gromov_wasserstein(*both, n_starts=n_starts, random_state=solver_seed)
        excess = (float(value) - least) / np.square(c1).mean()
        yield {"starts": n_starts, "found": excess < 1e-6, "excess": excess}


# What is calibrated: the measure of one data set, and the settings at which it is tried. The noise
# of the ranks is its root mean square over that of the signal; a radius of the separability is over
# the distance of neighbouring centres.
ESTIMATORS: dict[str, tuple[Callable[..., Rows], dict[str, Iterable[Any]]]] = {
    "ranks": (_ranks, {
        "data": ("dense", "sparse codes"), "rank": (2, 8, 32), "noise": (0, 0.02, 0.1, 0.5, 1)}),
    "dimensions": (lambda seed, d, n, *rest: _dimensions(
        seed, data.ball(n, d, random_state=seed), *rest), {
        "d": (1, 2, 3, 5, 8), "n": (10, 20, 50, 100, 300), "noise": (0, 0.05, 0.2),
        "ambient": (AMBIENT,)}),
    "manifolds": (lambda seed, name, noise: _dimensions(
        seed, data.MANIFOLDS[name](300, random_state=seed), noise), {
        "manifold": tuple(data.MANIFOLDS), "noise": (0, 0.05)}),
    "components": (_components, {
        "setting": tuple(PIECES), "pieces": (1, 2, 4, 8), "n": (10, 20, 50)}),
    "separability": (_separability, {
        "kind": ("simplex", "line", "circle"), "n each": (10, 30, 100), "radius": (0.25, 1, 4),
        "ambient": (AMBIENT,)}),
    "geodesics": (_geodesics, {"n": (40, 80, 160, 320), "noise": (0, 0.05, 0.2)}),
    "procrustes": (_procrustes, {
        "k": (4, 7, 12, 26), "d": (2, 10, 384), "noise": (0.5, 1, np.inf)}),
    "gromov-wasserstein": (_gromov_wasserstein, {"k": (4, 7, 12), "noise": (0, 0.3)}),
}  # fmt: skip
