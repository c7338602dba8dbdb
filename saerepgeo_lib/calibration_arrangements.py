"""Distances between arrangements of centroids, against arrangements whose distances are known.

Tables are those of `calibration`.
"""

from collections.abc import Iterable, Iterator
from itertools import permutations

import numpy as np
import pandas as pd
import torch
from scipy.spatial.distance import pdist, squareform

from saerepgeo_lib import arrangements, synthetic
from saerepgeo_lib.calibration import Row, draws, summarise
from saerepgeo_lib.noise_sweep import child_seed


def calibrate_separability(
    *,
    kinds: Iterable[str] = ("simplex", "line", "circle"),
    k: int = 7,
    sizes: Iterable[int] = (10, 30, 100),
    radii: Iterable[float] = (0.25, 1, 4),
    ambients: Iterable[int] = (50,),
    replicates: int = 10,
    random_state: int = 0,
) -> pd.DataFrame:
    """AEDP and MSTW of centroids estimated from points; settings estimator, kind, n each,
    radius, ambient.

    `radius` is a cluster's root-mean-square radius over the distance of neighbouring centres.
    """

    def rows() -> Iterator[Row]:
        grid = draws(replicates, random_state, kinds, sizes, radii, ambients)
        for kind, n_each, radius, ambient, seed in grid:
            rng = np.random.default_rng(seed)
            planted = synthetic.arrangement(kind, k)
            labels = np.repeat(np.arange(k), n_each)
            centres = np.pad(planted.centroids, ((0, 0), (0, ambient - planted.centroids.shape[1])))
            noise = rng.normal(size=(len(labels), ambient)) * radius / np.sqrt(ambient)
            found = arrangements.centroids(centres[labels] + noise, labels)
            settings = {"kind": kind, "n each": n_each, "radius": radius, "ambient": ambient}
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
        for n, noise, seed in draws(replicates, random_state, sizes, noises):
            cloud = synthetic.circle(n, random_state=seed)
            angle = np.arctan2(cloud.points[:, 1], cloud.points[:, 0])
            labels = np.floor((angle + np.pi) / (2 * np.pi) * k).astype(int) % k
            x = synthetic.embed(cloud, ambient, noise=noise, random_state=child_seed(seed, 0))
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
    for k, d, noise, seed in draws(replicates, random_state, counts, dimensions, noises):
        rng = np.random.default_rng(seed)
        shape = rng.normal(size=(k, d))
        part, scale = (0.0, 1.0) if noise == np.inf else (1.0, noise)
        a, b = (part * shape + scale * rng.normal(size=(k, d)) for _ in range(2))
        disparity, p = arrangements.procrustes_test(
            a, b, n_permutations=n_permutations, random_state=child_seed(seed, 0)
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
    counts: Iterable[int] = (4, 7, 12),
    noises: Iterable[float] = (0, 0.3),
    starts: Iterable[int] = (0, 10, 30),
    dimension: int = 10,
    replicates: int = 10,
    random_state: int = 0,
) -> pd.DataFrame:
    """The solver against the best of all pairings, on noisy turned copies in another order.

    For Euclidean distances and equally many objects of equal weight the objective is concave, so
    that a pairing is optimal and brute force over the k! of them is exact. Beyond k = 7 the planted
    pairing stands for it, an upper bound. Columns k, noise, starts, found (share within 1e-6 of
    that), excess (mean, over the mean squared distance), replicates.
    """
    rows = []
    for k, noise, seed in draws(replicates, random_state, counts, noises):
        rng = np.random.default_rng(seed)
        a = rng.normal(size=(k, dimension))
        turned = a @ np.linalg.qr(rng.normal(size=(dimension, dimension)))[0]
        order = rng.permutation(k)
        b = (turned + noise * rng.normal(size=turned.shape))[order]
        pairings = list(permutations(range(k))) if k <= 7 else [tuple(np.argsort(order))]
        orders = np.array(pairings)
        c1, c2 = squareform(pdist(a)), squareform(pdist(b))
        paired = c2[orders[:, :, None], orders[:, None, :]]
        least = np.square(c1 - paired).mean(axis=(1, 2)).min()
        for n_starts in starts:
            value = arrangements.gromov_wasserstein(
                torch.from_numpy(a),
                torch.from_numpy(b),
                n_starts=n_starts,
                random_state=child_seed(seed, 0),
            )
            excess = (float(value) - least) / np.square(c1).mean()
            rows.append((k, noise, n_starts, excess < 1e-6, excess))
    table = pd.DataFrame(rows, columns=["k", "noise", "starts", "found", "excess"])
    groups = table.groupby(["k", "noise", "starts"], sort=False)
    return groups.agg(
        found=("found", "mean"), excess=("excess", "mean"), replicates=("found", "size")
    ).reset_index()
