"""Case 2: how local and global structure differ between the residual stream and the latents.

One row a measure. Lengths are divided by the root-mean-square radius of their space, so that two
spaces compare; entities (January, ...) give an arrangement of the same objects in every space.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import (
    adjusted_mutual_info_score,
    completeness_score,
    homogeneity_score,
)
from sklearn.metrics.cluster import contingency_matrix

from saerepgeo_lib import arrangements, dimension
from saerepgeo_lib.clusters import MIN_CLUSTER_SIZE, Labels, h0_components, n_clusters
from saerepgeo_lib.cores import workers
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.local_representations import Embedding, Space, cluster_pca, stability
from saerepgeo_lib.noise_sweep import RESIDUAL
from saerepgeo_lib.points import NotEstimable, Points, rms_radius
from saerepgeo_lib.prompts import Concept
from saerepgeo_lib.residuals import Residuals
from saerepgeo_lib.statistics import Estimate, jackknife


@dataclass(frozen=True)
class Groups:
    """What is known of the tokens: the entity of each (-1: none) and the frame of its prompt."""

    entity: Int[np.ndarray, " n"]
    frame: Int[np.ndarray, " n"]

    def rows(self, keep: np.ndarray) -> "Groups":
        """The same for some of the tokens."""
        return Groups(self.entity[keep], self.frame[keep])


def groups_of(found: Residuals, concept: Concept) -> Groups:
    """The groups of residual rows: a prompt without a frame counts as a frame of its own."""
    prompts = [concept.prompts[int(p)] for p in found.prompt]
    frames = {f: i for i, f in enumerate(dict.fromkeys(p.frame or p.text for p in prompts))}
    entity = [
        concept.entities.index(p.entity) if own and p.entity is not None else -1
        for p, own in zip(prompts, found.entity.tolist(), strict=True)
    ]
    return Groups(np.array(entity), np.array([frames[p.frame or p.text] for p in prompts]))


def average_dimensions(points: Points, labels: Labels) -> tuple[float, float, int]:
    """Mean TwoNN and MLE dimension over the clusters, and how many clusters have none to give."""
    pairs, clusters = [], np.unique(labels[labels >= 0])
    for k in clusters:
        inside = points[labels == k]
        found = dimension.two_nn(inside)
        if not isinstance(found, NotEstimable):
            second = 1 / dimension.local_inverse_dimensions(inside).mean()  # as `dimension.mle`
            pairs.append((found.value, float(second)))
    first, second = np.mean(pairs, axis=0) if pairs else (np.nan, np.nan)
    return float(first), float(second), len(clusters) - len(pairs)


def local_measures(
    points: Points, labels: Labels, entity: Int[np.ndarray, " n"]
) -> dict[str, float]:
    """Measures of the clusters in one space; NaN where there is nothing to measure.

    MSTW (over the clusters' centroids) is over the space's radius. Homogeneity, completeness and
    adjusted mutual information compare clusters and entities on the tokens that have both.
    """
    found = dict.fromkeys(
        ("Betti-0, HDBSCAN", "median size", "unclustered", "avg. ID, TwoNN", "avg. ID, MLE",
         "not estimable", "MSTW", "homogeneity", "completeness", "AMI"), np.nan,
    )  # fmt: skip
    k = n_clusters(labels)
    found["Betti-0, HDBSCAN"] = k
    found["unclustered"] = float((labels < 0).mean())
    if k:
        found["median size"] = float(
            np.median(np.unique(labels[labels >= 0], return_counts=True)[1])
        )
        two_nn, mle, refused = average_dimensions(points, labels)
        found |= {"avg. ID, TwoNN": two_nn, "avg. ID, MLE": mle, "not estimable": refused}
    if k > 1:
        radius = rms_radius(points)
        centres = arrangements.centroids(points, labels)
        found["MSTW"] = arrangements.mst_weight(centres) / radius
    both = (labels >= 0) & (entity >= 0)
    if both.any():
        scores = {"homogeneity": homogeneity_score, "completeness": completeness_score,
                  "AMI": adjusted_mutual_info_score}  # fmt: skip
        found |= {name: float(f(entity[both], labels[both])) for name, f in scores.items()}
    return found


def global_measures(points: Points, entity: Int[np.ndarray, " n"]) -> dict[str, float]:
    """MSTW and AEDP of the entities' mean vectors, over the space's radius.

    The same objects in every space. NaN for fewer than 3 entities.
    """
    names = ("MSTW of entities", "AEDP of entities")
    if len(np.unique(entity[entity >= 0])) < 3:
        return dict.fromkeys(names, np.nan)
    radius = rms_radius(points)
    means = arrangements.centroids(points, entity)
    values = (
        arrangements.mst_weight(means),
        arrangements.aedp(torch.from_numpy(means)).item(),
    )
    return {name: value / radius for name, value in zip(names, values, strict=True)}


def geodesics(space: Space, labels: Labels, entity: Int[np.ndarray, " n"]) -> dict[str, float]:
    """AGD of the clusters and of the entities along the graph of all tokens, over the radius."""
    radius = rms_radius(space.full)
    return {
        name: arrangements.mean_geodesic_distance(space.full, groups) / radius
        if len(np.unique(groups[groups >= 0])) > 1
        else np.nan
        for name, groups in (("AGD", labels), ("AGD of entities", entity))
    }


def measures(
    space: Space, groups: Groups, *, min_cluster_size: int = MIN_CLUSTER_SIZE
) -> dict[str, float]:
    """Local and global measures of one space by our pipeline ("pca")."""
    labels = cluster_pca(space, min_cluster_size=min_cluster_size)
    local = local_measures(space.full, labels, groups.entity)
    arranged = global_measures(space.full, groups.entity)
    return local | arranged | {"radius": rms_radius(space.full)}


def measure_spaces(
    spaces: Mapping[str, Space],
    groups: Groups,
    *,
    n_groups: int = 12,
    min_cluster_size: int = MIN_CLUSTER_SIZE,
    seed: int = 0,
) -> pd.DataFrame:
    """Every measure of every space on all tokens, and without each group of frames in turn.

    Columns space, measure, left_out (-1: nothing), value. A frame is a sentence pattern; they are
    dealt to at most `n_groups` groups. The same tokens are left out in every space, so differences
    are paired, and the least size of a cluster shrinks in proportion. H0 persistence and AGD are
    taken on all tokens only. Spaces named "NAME #1", "NAME #2" are draws of one; their measures
    are averaged.
    """
    fold = groups.frame % min(n_groups, len(np.unique(groups.frame)))
    folds = np.unique(fold)
    if len(folds) < 3:
        raise UserError(f"intervals need prompts of at least 3 frames, got {len(folds)}")
    smaller = max(2, round(min_cluster_size * (1 - 1 / len(folds))))

    def one(item: tuple[str, int]) -> list[tuple[str, str, int, float]]:
        label, out = item
        keep = fold != out
        part, known = spaces[label].rows(keep), groups.rows(keep)
        size = smaller if out >= 0 else min_cluster_size
        found = measures(part, known, min_cluster_size=size)
        if out < 0:
            components = h0_components(part.full, n_bootstrap=50, random_state=seed)
            refused = isinstance(components, NotEstimable)
            found["Betti-0, H0"] = np.nan if refused else components.betti0  # type: ignore[union-attr]
            labels = cluster_pca(part, min_cluster_size=size)
            found |= geodesics(part, labels, known.entity)
        return [(label.partition(" #")[0], name, out, value) for name, value in found.items()]

    items = [(label, out) for label in spaces for out in (-1, *(int(k) for k in folds))]
    with workers() as pool:
        rows = [row for part in pool.map(one, items) for row in part]
    table = pd.DataFrame(rows, columns=["space", "measure", "left_out", "value"])
    keys = ["space", "measure", "left_out"]
    # A measure that one draw refuses is refused for the space.
    return (
        table.groupby(keys, sort=False)["value"].agg(lambda v: v.mean(skipna=False)).reset_index()
    )


def estimate(
    table: pd.DataFrame, measure: str, space: str, *, minus: str | None = None
) -> Estimate | NotEstimable:
    """A measure of one space, or its difference to another, with the jackknife over frames."""
    part = table[table["measure"] == measure].pivot(
        index="left_out", columns="space", values="value"
    )
    values = part[space] - (part[minus] if minus else 0)
    if len(values) < 4:
        return NotEstimable(f"{measure} was taken on all tokens only")
    if values.isna().any():
        return NotEstimable(f"{measure} is undefined on {int(values.isna().sum())} of the samples")
    return jackknife(float(values.loc[-1]), values.drop(-1).to_numpy())


def structure_table(table: pd.DataFrame) -> pd.DataFrame:
    """Every measure of every space: columns measure, space, value, low, high, n (groups), note.

    Shares keep their intervals within [0, 1], counts and lengths theirs above 0. Without an
    interval, `note` says why.
    """
    rows = []
    for measure in dict.fromkeys(table["measure"]):
        for space in dict.fromkeys(table["space"]):
            chosen = (table["measure"] == measure) & (table["space"] == space)
            value = float(table[chosen & (table["left_out"] == -1)]["value"].iloc[0])
            found = estimate(table, measure, space)
            if isinstance(found, NotEstimable):
                rows.append((measure, space, value, np.nan, np.nan, 0, found.reason))
                continue
            top = 1.0 if measure in ("unclustered", "homogeneity", "completeness") else np.inf
            low, high = max(0.0, found.low), min(top, found.high)
            rows.append((measure, space, value, low, high, found.n, ""))
    columns = ["measure", "space", "value", "low", "high", "n", "note"]
    return pd.DataFrame(rows, columns=columns)


def seeds_table(
    runs: Mapping[str, Sequence[Embedding]], entity: Int[np.ndarray, " n"]
) -> pd.DataFrame:
    """The authors' pipeline over its seeds, measured in its own UMAP coordinates as they do.

    One row a space: median, smallest and largest number of clusters, stability (mean adjusted Rand
    index between seeds), mean and standard deviation over seeds of the average dimension, and the
    mean homogeneity.
    """
    rows = []
    for space, found in runs.items():
        counts = [n_clusters(run.labels) for run in found]
        local = pd.DataFrame(local_measures(run.points, run.labels, entity) for run in found)
        rows.append(
            (space, float(np.median(counts)), min(counts), max(counts),
             stability([run.labels for run in found]), local["avg. ID, TwoNN"].mean(),
             local["avg. ID, TwoNN"].std(), local["avg. ID, MLE"].mean(),
             local["homogeneity"].mean(), len(found))
        )  # fmt: skip
    columns = ["space", "clusters", "fewest", "most", "stability", "avg. ID, TwoNN",
               "sd", "avg. ID, MLE", "homogeneity", "seeds"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def procrustes_table(
    spaces: Mapping[str, Space], groups: Groups, *, min_cluster_size: int = MIN_CLUSTER_SIZE
) -> pd.DataFrame:
    """Procrustes disparity of each space to the residual stream, on corresponding objects.

    Columns space, tokens (disparity over the entities' tokens), entities and p (their mean
    vectors; p permutes entities), clusters and p clusters (clusters matched one to one by the
    tokens that they share), matched (how many).
    """
    base = spaces[RESIDUAL]
    known = groups.entity >= 0
    base_labels = cluster_pca(base, min_cluster_size=min_cluster_size)
    rows = []
    for name, space in spaces.items():
        if name == RESIDUAL:
            continue
        tokens = arrangements.procrustes_disparity(base.full[known], space.full[known])
        means = [arrangements.centroids(s.full, groups.entity) for s in (base, space)]
        entities = arrangements.procrustes_test(*means)
        labels = cluster_pca(space, min_cluster_size=min_cluster_size)
        pairs = match_clusters(base_labels, labels)
        clusters = (np.nan, np.nan)
        if len(pairs) >= 4:
            a, b = (
                np.stack([s.full[given == k].mean(axis=0) for k in column])
                for s, given, column in zip(
                    (base, space), (base_labels, labels), zip(*pairs, strict=True), strict=True
                )
            )
            clusters = arrangements.procrustes_test(a, b, n_permutations=199)
        rows.append((name, tokens, *entities, *clusters, len(pairs)))
    columns = ["space", "tokens", "entities", "p", "clusters", "p clusters", "matched"]
    return pd.DataFrame(rows, columns=columns)


def match_clusters(a: Labels, b: Labels) -> list[tuple[int, int]]:
    """Pairs of clusters of two clusterings of one set of tokens that share most (Hungarian)."""
    both = (a >= 0) & (b >= 0)
    if not both.any():
        return []
    overlap = contingency_matrix(a[both], b[both])
    rows, columns = linear_sum_assignment(overlap, maximize=True)
    names = np.unique(a[both]), np.unique(b[both])
    return [
        (int(names[0][i]), int(names[1][j]))
        for i, j in zip(rows, columns, strict=True)
        if overlap[i, j]
    ]


@dataclass(frozen=True)
class Circle:
    """Tokens on the plane of the entities' means, and how far these run round it in order."""

    tokens: Float[np.ndarray, "n 2"]
    means: Float[np.ndarray, "k 2"]
    order: float  # 1: equally spaced round a circle in the given order; near 0: no order
    p: float  # share of orders of the entities that are as round


def entity_circle(
    points: Points, entity: Int[np.ndarray, " n"], *, n_permutations: int = 999, seed: int = 0
) -> Circle:
    """Projection onto the two leading principal directions of the entities' means.

    `order` is |mean_k exp(i (theta_k - 2 pi k / K))| for the angles theta_k of the K means, the
    larger of both senses of rotation. p permutes the entities. Raises UserError for fewer than 4.
    """
    means = arrangements.centroids(points, entity)
    if len(means) < 4:
        raise UserError(f"a circle needs at least 4 entities, got {len(means)}")
    centre = means.mean(axis=0)
    plane = np.linalg.svd(means - centre, full_matrices=False)[2][:2].T
    flat = (means - centre) @ plane
    angles = np.arctan2(flat[:, 1], flat[:, 0])
    rng = np.random.default_rng(seed)
    orders = rng.permuted(np.tile(np.arange(len(means)), (n_permutations, 1)), axis=1)
    orders = np.vstack([np.arange(len(means)), orders])
    turns = 2 * np.pi * np.arange(len(means)) / len(means)
    forward, back = (
        np.abs(np.exp(1j * (angles[orders] - s * turns)).mean(axis=1)) for s in (1, -1)
    )
    round_ = np.maximum(forward, back)
    p = float(np.mean(round_ >= round_[0] - 1e-12))
    return Circle((points - centre) @ plane, flat, float(round_[0]), p)
