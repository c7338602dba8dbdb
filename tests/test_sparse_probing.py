"""Probes on latents that are known to tell classes apart, or known not to."""

import numpy as np
import pytest

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.sparse_probing import mean_difference, sparse_probing_accuracy


def planted(n_entities=4, n_frames=12, noise=0.1, extra=20, seed=0):
    """One latent an entity, and `extra` that are noise."""
    rng = np.random.default_rng(seed)
    entity = np.tile(np.arange(n_entities), n_frames)
    frame = np.repeat(np.arange(n_frames), n_entities)
    x = np.hstack([np.eye(n_entities)[entity], np.zeros((len(entity), extra))])
    return x + noise * rng.random(x.shape), entity, frame


def test_differences_of_means_by_hand():
    x = np.array([[1.0, 0.0, 2.0], [3.0, 0.0, 2.0], [0.0, 6.0, 2.0]])
    assert mean_difference(x, np.array([False, False, True])) == pytest.approx([2, 6, 0])


def test_one_latent_an_entity_is_enough_where_there_is_one_and_not_where_two_share_it():
    points, entity, frame = planted()
    assert sparse_probing_accuracy(points, entity, frame, k=1) == 1
    shared = points.copy()
    shared[:, 0] += shared[:, 1]  # fires for the first two entities alike, and the second is gone
    shared[:, 1] = 0
    assert 0.7 < sparse_probing_accuracy(shared, entity, frame, k=1) < 0.95


def test_latents_that_know_nothing_are_at_chance():
    points, entity, frame = planted(n_frames=60)
    shuffled = np.random.default_rng(1).permutation(entity)
    assert abs(sparse_probing_accuracy(points, shuffled, frame, k=4) - 0.5) < 0.1


def test_a_latent_that_knows_the_frame_alone_does_not_help():
    """On seen frames it would name the entity; no frame is on both sides of a fold."""
    rng = np.random.default_rng(0)
    entity = rng.integers(4, size=48)
    frame = np.arange(48) // 2
    points = np.eye(24)[frame] * (1 + entity[:, None])  # within its frame it gives the entity away
    assert sparse_probing_accuracy(points, entity, frame, k=24) < 0.65


def test_neither_scale_nor_order_of_latents_matters():
    points, entity, frame = planted(noise=1.0)
    value = sparse_probing_accuracy(points, entity, frame, k=3)
    assert sparse_probing_accuracy(1000 * points, entity, frame, k=3) == pytest.approx(value)
    order = np.random.default_rng(2).permutation(points.shape[1])
    assert sparse_probing_accuracy(points[:, order], entity, frame, k=3) == pytest.approx(value)
    assert value < 1


def test_what_cannot_be_probed_is_refused():
    points, entity, frame = planted()
    for given in ((points, entity, frame % 3, 4), (points, 0 * entity, frame, 4),
                  (points, entity, frame, 25)):  # fmt: skip
        with pytest.raises(UserError, match="probing needs"):
            sparse_probing_accuracy(*given[:3], k=given[3])
