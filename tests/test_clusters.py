from functools import partial

import joblib
import numpy as np
import pytest

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.geometry import clusters
from saerepgeo_lib.geometry.clusters import h0_components, h0_deaths, hdbscan_labels, n_clusters
from saerepgeo_lib.stats.estimates import NotEstimable
from saerepgeo_lib.synthetic import data as synthetic


def pieces(k=3, n=30, apart=6.0):
    return synthetic.pieces(k, n, 2, ambient=8, separation=apart, random_state=0)


def test_deaths_are_the_thresholds_at_which_a_graph_by_brute_force_connects():
    line = np.array([0.0, 1.0, 4.0, 4.5])[:, None]
    np.testing.assert_allclose(h0_deaths(line), [3.0, 1.0, 0.5])
    x = np.random.default_rng(0).normal(size=(25, 3))
    distances = np.linalg.norm(x[:, None] - x[None], axis=2)

    def components(threshold):
        joined = np.linalg.matrix_power((distances <= threshold).astype(float), 25) > 0
        return len(np.unique(joined, axis=0))

    for i, death in enumerate(h0_deaths(x)):
        assert components(death * (1 - 1e-9)) == i + 2
        assert components(death * (1 + 1e-9)) == i + 1


def test_both_count_planted_pieces_and_label_them_rightly_at_any_scale_rotation_and_order():
    planted = pieces()
    x, rng = planted.points, np.random.default_rng(1)
    turn = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    order = rng.permutation(len(x))
    for points, piece in ((x, planted.piece), ((3 * x @ turn - 1)[order], planted.piece[order])):
        labels = hdbscan_labels(points)
        assert n_clusters(labels) == h0_components(points).betti0 == 3
        assert all(len(set(labels[piece == k]) - {-1}) == 1 for k in range(3))
    np.testing.assert_allclose(h0_deaths(3 * x @ turn - 1), 3 * h0_deaths(x))


def test_the_band_swallows_a_gap_that_the_sample_does_not_resolve():
    x = np.linspace(0, 1, 60)[:, None]
    with_gap = np.concatenate([x, x + 1.02])
    assert h0_components(with_gap).betti0 == 1
    assert h0_components(np.concatenate([x, x + 3])).betti0 == 2
    # what the band is for: it covers the distance from the support to the sample, twice the
    # Hausdorff distance, here known on a fine grid of a circle
    angle = np.linspace(0, 2 * np.pi, 2000)
    support = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    held = []
    for seed in range(30):
        x = synthetic.circle(60, random_state=seed).points
        far = np.linalg.norm(support[:, None] - x[None], axis=2).min(axis=1).max()
        held.append(h0_components(x, random_state=seed).band >= 2 * far)
    assert np.mean(held) >= 0.9


def test_duplicates_count_once():
    x = pieces().points
    plain, fourfold = h0_components(x), h0_components(np.repeat(x, 4, axis=0))
    assert (fourfold.betti0, fourfold.band) == (3, pytest.approx(plain.band))
    assert len(fourfold.deaths) == 89
    labels = hdbscan_labels(np.repeat(x, 4, axis=0))
    assert (labels.reshape(90, 4) == labels[::4, None]).all() and n_clusters(labels) == 3
    heaps = np.repeat(np.random.default_rng(0).normal(size=(12, 3)), 12, axis=0)
    assert n_clusters(hdbscan_labels(heaps, min_cluster_size=8)) <= 1  # copies are no cluster


def test_bad_input(unchecked):
    assert isinstance(h0_components(np.zeros((2, 3))), NotEstimable)
    assert (hdbscan_labels(np.zeros((4, 2))) == -1).all()  # fewer than a cluster's size
    for of, x, words in (
        (hdbscan_labels, np.full((20, 2), np.nan), "NaN"), (h0_deaths, np.zeros(5), "shape"),
        (partial(hdbscan_labels, min_cluster_size=1), np.zeros((20, 2)), "at least 2"),
        (partial(clusters.cluster_authors, seeds=[0]), np.zeros((50, 40)), "at least 60 tokens"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            of(x)


@pytest.mark.slow
def test_the_authors_pipeline_finds_planted_pieces_and_repeats_itself():
    x = synthetic.pieces(4, 30, 3, ambient=40, separation=6.0, random_state=0).points
    with joblib.parallel_config("sequential"):  # UMAP is compiled once, not in every process
        (first, other), (again,) = (clusters.cluster_authors(x, seeds) for seeds in ([3, 5], [3]))
    assert first[0].shape == (120, 50)
    assert n_clusters(first[1]) == n_clusters(other[1]) == 4
    np.testing.assert_array_equal(first[0], again[0])
    assert not np.array_equal(first[0], other[0])
    assert clusters.stability([first[1], other[1]]) > 0.9


def test_clusterings_are_compared_by_their_tokens_not_by_the_numbers_of_clusters():
    rng = np.random.default_rng(0)
    a, b, c = rng.integers(0, 4, (3, 400))
    assert clusters.stability([a, 3 - a]) == pytest.approx(1)
    assert abs(clusters.stability([a, b, c])) < 0.02
    with pytest.raises(UserError, match="at least two"):
        clusters.stability([a])
    a = np.array([0, 0, 0, 1, 1, 1, 2, 2, -1])
    b = np.array([5, 5, 3, 3, 3, 3, 9, -1, 9])
    assert clusters.match_clusters(a, b) == [(0, 5), (1, 3), (2, 9)]
    assert clusters.match_clusters(a, np.full(9, -1)) == []
