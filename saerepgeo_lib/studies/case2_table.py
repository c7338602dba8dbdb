"""Case 2's tables: what was compared, what the clusters hold, and measures beside the main ones."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from saerepgeo_lib.activations.token_activations import TokenActivations
from saerepgeo_lib.geometry import clusters
from saerepgeo_lib.geometry.arrangements import centroids, procrustes_test
from saerepgeo_lib.geometry.clusters import MIN_CLUSTER_SIZE, Labels
from saerepgeo_lib.geometry.points import Points
from saerepgeo_lib.geometry.structure import local_measures
from saerepgeo_lib.rank.noise_sweep import RESIDUAL
from saerepgeo_lib.studies.compare_geometry import GeometryComparison


def cluster_words(acts: TokenActivations, labels: Labels, *, shown: int = 6) -> pd.DataFrame:
    """The largest clusters with their size, share of entity tokens and commonest tokens."""
    known = pd.DataFrame({"cluster": labels, "word": acts.words, "entity": acts.in_entity.cpu()})
    of_each = known[known["cluster"] >= 0].groupby("cluster")
    table = pd.DataFrame({
        "tokens": of_each.size(),
        "of entities": of_each["entity"].mean().map("{:.0%}".format),
        "commonest": of_each["word"].agg(lambda x: ", ".join(x.value_counts().index[:4])),
    })  # fmt: skip
    return table.sort_values("tokens", ascending=False, kind="stable").head(shown)


def authors_table(
    vectors: Mapping[str, Points], entity: Labels, *, seeds: Sequence[int],
    min_cluster_size: int = MIN_CLUSTER_SIZE,
) -> pd.DataFrame:  # fmt: skip
    """The authors' pipeline over its seeds, measured in its own UMAP coordinates as they do.

    A row per space: median, smallest and largest number of clusters, stability (mean adjusted Rand
    index between seeds), mean and standard deviation over seeds of the average dimension, and the
    mean homogeneity.
    """
    rows = []
    for space, x in vectors.items():
        runs = clusters.cluster_authors(x, seeds, min_cluster_size=min_cluster_size)
        local = pd.DataFrame(local_measures(*run, entity) for run in runs)
        counts, dimension = local["Betti-0, HDBSCAN"], local["avg. ID, TwoNN"]
        rows.append({
            "space": space, "clusters": counts.median(), "fewest": counts.min(),
            "most": counts.max(), "stability": clusters.stability([labels for _, labels in runs]),
            "avg. ID, TwoNN": dimension.mean(), "sd": dimension.std(),
            "avg. ID, MLE": local["avg. ID, MLE"].mean(),
            "homogeneity": local["homogeneity"].mean(), "seeds": len(runs),
        })  # fmt: skip
    return pd.DataFrame(rows)


def procrustes_table(compared: GeometryComparison) -> pd.DataFrame:
    """Procrustes disparity of each space to the residual stream, on corresponding objects.

    Columns space, tokens (disparity over the entities' tokens), entities and p (their mean
    vectors; p permutes entities), clusters and p clusters (clusters matched one to one by the
    tokens that they share), matched (how many).
    """
    entity, labels = compared.acts.entity, compared.clusters
    (_, base), *others = compared.spaces.items()  # the residual stream comes first
    x, known, rows = base.full, entity >= 0, []
    for name, space in others:
        y = space.full
        row: dict[str, Any] = {"space": name}
        row["tokens"], _ = procrustes_test(x[known], y[known], n_permutations=0)
        row["entities"], row["p"] = procrustes_test(centroids(x, entity), centroids(y, entity))
        row["clusters"] = row["p clusters"] = np.nan
        pairs = clusters.match_clusters(labels[RESIDUAL], labels[name])
        if len(pairs) >= 4:
            first, second = zip(*pairs, strict=True)
            means = centroids(x, labels[RESIDUAL], first), centroids(y, labels[name], second)
            row["clusters"], row["p clusters"] = procrustes_test(*means, n_permutations=199)
        rows.append({**row, "matched": len(pairs)})
    return pd.DataFrame(rows)
