"""Every measure of Case 2 in one table of spaces, with intervals over groups of frames.

A measure is one number per space. Lengths are over the root mean square radius of their space.
"""

import itertools
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import adjusted_mutual_info_score, homogeneity_completeness_v_measure

from saerepgeo_lib.cores import workers
from saerepgeo_lib.geometry import arrangements, clusters, dimension
from saerepgeo_lib.geometry import points as clouds
from saerepgeo_lib.geometry.clusters import MIN_CLUSTER_SIZE, Labels
from saerepgeo_lib.geometry.points import Points, PrincipalCoordinates, rms_radius
from saerepgeo_lib.stats.estimates import Estimate, NotEstimable, jackknife

SHARES = ("unclustered", "homogeneity", "completeness")


def average_dimensions(points: Points, labels: Labels) -> tuple[float, float, int]:
    """Mean TwoNN and MLE dimension over the clusters, and how many clusters have none to give."""
    pairs, names = [], np.unique(labels[labels >= 0])
    for name in names:
        x = points[labels == name]
        first = dimension.two_nn(x)
        if not isinstance(first, NotEstimable):  # the second is the value of `dimension.mle`
            pairs.append((first.value, 1 / dimension.local_inverse_dimensions(x).mean()))
    two_nn, mle = np.mean(pairs, axis=0) if pairs else (np.nan, np.nan)
    return float(two_nn), float(mle), len(names) - len(pairs)


def local_measures(points: Points, labels: Labels, entity: Labels) -> dict[str, float]:
    """Measures of the clusters in one space; NaN where there is nothing to measure.

    Clusters and entities are compared on the tokens that have both.
    """
    names, sizes = np.unique(labels[labels >= 0], return_counts=True)
    two_nn, mle, refused = average_dimensions(points, labels)
    tree = homogeneity = completeness = mutual = np.nan
    if len(names) > 1:
        centroids = arrangements.centroids(points, labels)
        tree = arrangements.mst_weight(centroids) / rms_radius(points)
    both = (labels >= 0) & (entity >= 0)
    if both.any():
        pair = entity[both], labels[both]
        homogeneity, completeness, _ = homogeneity_completeness_v_measure(*pair)
        mutual = adjusted_mutual_info_score(*pair)
    return {
        "Betti-0, HDBSCAN": len(names),
        "median size": float(np.median(sizes)) if len(names) else np.nan,
        "unclustered": float((labels < 0).mean()),
        "avg. ID, TwoNN": two_nn, "avg. ID, MLE": mle,
        "not estimable": refused if len(names) else np.nan,
        "MSTW": tree, "homogeneity": float(homogeneity), "completeness": float(completeness),
        "AMI": float(mutual),
    }  # fmt: skip


def global_measures(points: Points, entity: Labels) -> dict[str, float]:
    """MSTW and AEDP of the entities' means over the space's radius; NaN for fewer than 3."""
    if clusters.n_clusters(entity) < 3:
        return {"MSTW of entities": np.nan, "AEDP of entities": np.nan}
    means, radius = arrangements.centroids(points, entity), rms_radius(points)
    distance = arrangements.aedp(torch.from_numpy(means)).item()
    tree = arrangements.mst_weight(means)
    return {"MSTW of entities": tree / radius, "AEDP of entities": distance / radius}


def measures(
    space: PrincipalCoordinates, entity: Labels, *, min_cluster_size: int = MIN_CLUSTER_SIZE,
    slow: bool = False, seed: int = 0,
) -> dict[str, float]:  # fmt: skip
    """Local and global measures of one space, with clusters by our pipeline ("pca").

    With `slow` also Betti-0 by H0 persistence, and the AGD of the clusters and of the entities.
    """
    x, radius = space.full, rms_radius(space.full)
    labels = clusters.cluster_pca(space, min_cluster_size=min_cluster_size)
    values = local_measures(x, labels, entity) | global_measures(x, entity) | {"radius": radius}
    if slow:
        h0 = clusters.h0_components(x, n_bootstrap=50, random_state=seed)
        values["Betti-0, H0"] = np.nan if isinstance(h0, NotEstimable) else h0.betti0
        for name, groups in (("AGD", labels), ("AGD of entities", entity)):
            several = clusters.n_clusters(groups) > 1
            length = arrangements.mean_geodesic_distance(x, groups) if several else np.nan
            values[name] = length / radius
    return values


def measure_spaces(
    vectors: Mapping[str, Points], entity: Labels, fold: Labels, *,
    min_cluster_size: int = MIN_CLUSTER_SIZE, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Every measure of every space on all tokens, and without each group of frames in turn.

    `vectors` are the tokens in each space, `entity` and `fold` as in `TokenActivations`. Columns
    space, measure, left_out (-1: nothing), value. The least size of a cluster shrinks in proportion
    to the tokens. The slow `measures` are taken on all tokens only. Spaces named "NAME #1",
    "NAME #2" are draws of one: their measures are averaged, refused if one refuses.
    """
    spaces = {label: clouds.principal_coordinates(x) for label, x in vectors.items()}
    folds = np.unique(fold).tolist()
    smaller = max(2, round(min_cluster_size * (1 - 1 / len(folds))))

    def measure(case: tuple[str, int]) -> pd.DataFrame:
        label, out = case
        keep, least = fold != out, min_cluster_size if out < 0 else smaller
        space = PrincipalCoordinates(spaces[label].full[keep], spaces[label].reduced[keep])
        values = measures(space, entity[keep], min_cluster_size=least, slow=out < 0, seed=seed)
        table = pd.DataFrame({"measure": list(values), "value": list(values.values())})
        return table.assign(space=label.partition(" #")[0], left_out=out)

    cases = [(label, out) for label in spaces for out in (-1, *folds)]
    with workers() as pool:
        table = pd.concat(pool.map(measure, cases))
    draws = table.groupby(["space", "measure", "left_out"], sort=False)["value"]
    return draws.mean(skipna=False).reset_index()


def estimate(
    samples: pd.DataFrame, measure: str, space: str, *, minus: str | None = None
) -> Estimate | NotEstimable:
    """A measure of one space, or its difference to another, with the jackknife over frames."""
    rows = samples[samples["measure"] == measure]
    by_space = rows.pivot(index="left_out", columns="space", values="value")
    values = by_space[space] - (by_space[minus] if minus else 0)
    if len(values) < 4:
        return NotEstimable(f"{measure} was taken on all tokens only")
    if values.isna().any():
        return NotEstimable(f"{measure} is undefined on {int(values.isna().sum())} of the samples")
    return jackknife(float(values.loc[-1]), values.drop(-1).to_numpy())


def structure_table(samples: pd.DataFrame) -> pd.DataFrame:
    """Every measure of every space: columns measure, space, value, low, high, n (groups), note.

    Shares keep their intervals within [0, 1], counts and lengths theirs above 0. Without an
    interval, `note` says why.
    """
    whole = samples[samples["left_out"] == -1].set_index(["measure", "space"])["value"]
    rows = []
    for measure, space in itertools.product(samples["measure"].unique(), samples["space"].unique()):
        of, top = estimate(samples, measure, space), 1.0 if measure in SHARES else np.inf
        rows.append({
            "measure": measure, "space": space, "value": float(whole[measure, space]),
            "low": np.maximum(0.0, of.low), "high": np.minimum(top, of.high), "n": of.n,
            "note": of.reason if isinstance(of, NotEstimable) else "",
        })  # fmt: skip
    return pd.DataFrame(rows)
