"""Effect sizes: closed forms, scipy's U, invariances, coverage, and sums of squares."""

import numpy as np
import pytest
from scipy import stats

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.stats.effect_sizes import (
    cliffs_delta,
    delta_in_layers,
    mean_difference,
    paired_effect,
    variance_shares,
)

EFFECTS = (delta_in_layers, mean_difference)


def grids(seed=0, shape=(7, 3, 3), shift=0.0):
    rng = np.random.default_rng(seed)
    concepts = rng.normal(size=(shape[0], 1, 1))  # shared: what a pair has in common
    x = concepts + shift + 0.3 * rng.normal(size=shape)
    return x, concepts + 0.3 * rng.normal(size=shape)


def test_cliffs_delta_by_hand_antisymmetric_blind_to_monotone_maps_and_mann_whitneys_u():
    x = np.array([1.0, 2, 3])
    assert cliffs_delta(x, x) == 0
    assert cliffs_delta(x + 5, x) == 1 and cliffs_delta(x - 5, x) == -1
    # pairs: 1 > none, below 2 and 4; 3 above 2, below 4
    assert cliffs_delta(np.array([1.0, 3]), np.array([2.0, 4])) == pytest.approx(-0.5)
    rng = np.random.default_rng(1)
    x, y = rng.integers(8, size=30) / 4, rng.integers(2, 9, size=20) / 4  # with ties
    delta = cliffs_delta(x, y)
    assert delta == -cliffs_delta(y, x) and -1 < delta < 0
    assert cliffs_delta(np.exp(x), np.exp(y)) == pytest.approx(delta, abs=1e-15)
    u = stats.mannwhitneyu(x, y).statistic
    assert delta == pytest.approx(2 * u / (30 * 20) - 1)
    # layers are compared each with itself
    x = np.zeros((4, 2, 3)) + np.array([0.0, 10])[:, None]
    y = x - np.array([1.0, -1])[:, None]  # below in one layer, above in the other
    assert delta_in_layers(x, y) == 0 and mean_difference(x, y) == 0
    y = x - 1  # pooled over layers only 3 in 4 pairs would lie above
    assert delta_in_layers(x, y) == 1 and mean_difference(x, y) == 1


@pytest.mark.parametrize("effect", EFFECTS)
def test_a_planted_difference_is_found_none_is_not_and_trading_places_turns_it(effect):
    found = paired_effect(*grids(shift=2.0), effect=effect)
    assert found.is_positive and found.p == 2 / 2**7 and found.n == 7
    assert found.low <= found.value <= found.high
    none = paired_effect(*grids(shift=0.0), effect=effect)
    assert none.low < 0 < none.high and none.p > 0.05
    x, y = grids(seed=3, shift=0.1)
    found, turned = paired_effect(x, y, effect=effect), paired_effect(y, x, effect=effect)
    assert turned.value == pytest.approx(-found.value) and turned.p == found.p
    # the other tail's quantile, between the same neighbours
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))
    order = [3, 1, 0, 6, 2, 5, 4]  # of concepts, which is nothing
    again = paired_effect(x[order], y[order], effect=effect)
    assert again.value == pytest.approx(found.value) and again.p == found.p


def test_intervals_and_p_hold_their_level_where_concepts_differ():
    """Seven concepts with effects of their own about a true mean of 1, or of 0."""
    rng = np.random.default_rng(0)
    held = rejected = 0
    for _ in range(1_200):
        y = rng.normal(size=(7, 3, 3))
        own = rng.normal(1, 1, size=(7, 1, 1)) + 0.5 * rng.normal(size=(7, 3, 3))
        found = paired_effect(y + own, y, effect=mean_difference, n_resamples=400)
        held += found.low <= 1 <= found.high
        none = paired_effect(y + own - 1, y, effect=mean_difference, n_resamples=2)
        rejected += none.p <= 0.05
    assert 0.93 < held / 1_200 < 0.98  # plain percentiles hold it in about 0.88
    assert rejected / 1_200 < 0.065
    x, y = grids()
    for a, b, words in ((x[:3], y[:3], "4 to 10"), (x * np.nan, y, "finite")):
        with pytest.raises(UserError, match=words):
            paired_effect(a, b, effect=mean_difference)


def test_shares_of_planted_variance():
    concept = np.array([-3.0, 0, 3])[:, None, None]
    layer = np.array([-1.0, 1])[None, :, None]
    seed = np.array([[-1.0, 1], [1, -1]])[None]  # its own in each layer
    found = variance_shares(5 + concept + layer + seed)
    # mean squares: 6 of concepts, 1 of layers, 1 of seeds
    assert found == pytest.approx(
        {"concept": 6 / 8, "layer": 1 / 8, "concept x layer": 0, "seed": 1 / 8, "rest": 0},
        abs=1e-12,
    )
    both = variance_shares(np.broadcast_to(concept * layer, (3, 2, 2)))
    assert both["concept x layer"] == pytest.approx(1)
    noise = np.random.default_rng(0).normal(size=(7, 3, 3))
    shares = variance_shares(noise)
    assert sum(shares.values()) == pytest.approx(1) and min(shares.values()) >= 0
    # on noise, shares are those of the degrees of freedom: 6, 2, 12, 6 and 36 of 62
    many = [variance_shares(np.random.default_rng(i).normal(size=(7, 3, 3))) for i in range(300)]
    means = [np.mean([m[name] for m in many]) for name in shares]
    assert means == pytest.approx([6 / 62, 2 / 62, 12 / 62, 6 / 62, 36 / 62], abs=0.02)
    assert variance_shares(3 * noise - 4) == pytest.approx(shares)
    with pytest.raises(UserError, match="do not vary"):
        variance_shares(np.full((3, 2, 2), 0.1))
