import numpy as np
import pytest

from saerepgeo_lib import synthetic
from saerepgeo_lib.clusters import h0_components, h0_deaths, hdbscan_labels, n_clusters
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.points import NotEstimable


def pieces(k=3, n=30, apart=6.0):
    return synthetic.pieces(k, n, 2, ambient=8, separation=apart, random_state=0)


def test_deaths_on_a_line_are_its_gaps():
    x = np.array([0.0, 1.0, 4.0, 4.5])[:, None]
    np.testing.assert_allclose(h0_deaths(x), [3.0, 1.0, 0.5])


def test_deaths_are_the_thresholds_at_which_a_graph_by_brute_force_connects():
    x = np.random.default_rng(0).normal(size=(25, 3))
    distances = np.linalg.norm(x[:, None] - x[None], axis=2)

    def components(threshold):
        joined = np.linalg.matrix_power((distances <= threshold).astype(float), 25) > 0
        return len(np.unique(joined, axis=0))

    for i, death in enumerate(h0_deaths(x)):
        assert components(death * (1 - 1e-9)) == i + 2
        assert components(death * (1 + 1e-9)) == i + 1


def test_both_count_planted_pieces_and_label_them_rightly():
    planted = pieces()
    labels = hdbscan_labels(planted.points)
    assert n_clusters(labels) == 3
    assert h0_components(planted.points).betti0 == 3
    for piece in range(3):
        assert len(set(labels[planted.piece == piece]) - {-1}) == 1


def test_neither_depends_on_scale_rotation_or_order():
    x = pieces().points
    q = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0]
    order = np.random.default_rng(2).permutation(len(x))
    moved = (3 * x @ q - 1)[order]
    assert n_clusters(hdbscan_labels(moved)) == 3
    np.testing.assert_allclose(h0_deaths(moved), 3 * h0_deaths(x))
    assert h0_components(moved).betti0 == 3


def test_the_band_swallows_a_gap_that_the_sample_does_not_resolve():
    x = np.linspace(0, 1, 60)[:, None]
    with_gap = np.concatenate([x, x + 1.02])
    assert h0_components(with_gap).betti0 == 1
    assert h0_components(np.concatenate([x, x + 3])).betti0 == 2
    assert h0_components(x, n_bootstrap=5).band > 0


def test_duplicates_count_once_and_are_reported():
    x = pieces().points
    plain, fourfold = h0_components(x), h0_components(np.repeat(x, 4, axis=0))
    assert (fourfold.betti0, fourfold.band, fourfold.n) == (3, pytest.approx(plain.band), 90)
    assert (plain.duplicates, fourfold.duplicates) == (0, 270)
    labels = hdbscan_labels(np.repeat(x, 4, axis=0))
    assert (labels.reshape(90, 4) == labels[::4, None]).all() and n_clusters(labels) == 3
    heaps = np.repeat(np.random.default_rng(0).normal(size=(12, 3)), 12, axis=0)
    assert n_clusters(hdbscan_labels(heaps, min_cluster_size=8)) <= 1  # copies are no cluster


def test_two_tight_groups_far_apart_are_two_clusters_with_their_members():
    grid = np.stack(np.meshgrid(np.arange(4.0), np.arange(4.0)), axis=-1).reshape(-1, 2)
    labels = hdbscan_labels(np.concatenate([grid, grid + 1000]))
    assert n_clusters(labels) == 2
    assert len(set(labels[:16])) == len(set(labels[16:])) == 1


def test_the_band_covers_the_distance_from_the_support_to_the_sample():
    """What it is for: twice the Hausdorff distance, here known on a fine grid of a circle."""
    angle = np.linspace(0, 2 * np.pi, 4000)
    support = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    held = []
    for seed in range(40):
        x = synthetic.circle(60, random_state=seed).points
        far = np.linalg.norm(support[:, None] - x[None], axis=2).min(axis=1).max()
        held.append(h0_components(x, random_state=seed).band >= 2 * far)
    assert np.mean(held) >= 0.9


def test_bad_input(unchecked):
    assert isinstance(h0_components(np.zeros((2, 3))), NotEstimable)
    assert (hdbscan_labels(np.zeros((4, 2))) == -1).all()  # fewer than a cluster's size
    with pytest.raises(UserError, match="NaN"):
        hdbscan_labels(np.full((20, 2), np.nan))
    with pytest.raises(UserError, match="at least 2"):
        hdbscan_labels(np.zeros((20, 2)), min_cluster_size=1)
    with pytest.raises(UserError, match="shape"):
        h0_deaths(np.zeros(5))
