"""The spread of local dimension and the growth of volume: exact laws, invariances, refusals."""

import numpy as np
import pytest
from refusals import refused
from scipy import stats

from saerepgeo_lib.geometry import local_dimension
from saerepgeo_lib.geometry.local_dimension import (
    dimension_spread,
    equal_pieces,
    volume_growth,
)
from saerepgeo_lib.geometry.points import rms_radius
from saerepgeo_lib.stats.estimates import NotEstimable
from saerepgeo_lib.synthetic.families import (
    EXTERNAL,
    FAMILIES,
    OURS,
    SINGULAR,
    planted,
    truth_of,
)


def gaussian(n, d, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def words(*dimensions, n_each=80, seed=0):
    """Pieces far apart, with their labels: Gaussian points of radius 1 in each dimension."""
    rng = np.random.default_rng(seed)
    parts = []
    for i, d in enumerate(dimensions):
        x = np.zeros((n_each, 12))
        x[:, :d] = rng.normal(size=(n_each, d)) / np.sqrt(d)
        parts.append(x @ np.linalg.qr(rng.normal(size=(12, 12)))[0] + 50 * np.eye(12)[i % 12] * i)
    return np.concatenate(parts), np.repeat(range(len(dimensions)), n_each)


@pytest.mark.parametrize("d", [1, 3])
def test_spacings_of_an_even_flat_are_exponential_with_mean_one_over_its_dimension(d):
    x = np.random.default_rng(0).random((4000, d))
    middle = np.flatnonzero((abs(x - 0.5) < 0.3).all(axis=1))
    spacings = local_dimension._spacings(local_dimension._neighbourhoods(x, 9, middle)[0])
    assert spacings.mean(axis=0) == pytest.approx(np.full(8, 1 / d), rel=0.12)
    assert spacings.std(axis=0) == pytest.approx(np.full(8, 1 / d), rel=0.2)
    assert abs(np.corrcoef(spacings.T)[np.triu_indices(8, 1)]).max() < 0.12


def test_neighbourhoods_share_no_point_and_each_estimate_is_unbiased(monkeypatch):
    taken, found = [], local_dimension._neighbourhoods

    def noted(*given):
        taken.append(found(*given))
        return taken[0]

    monkeypatch.setattr(local_dimension, "_neighbourhoods", noted)
    x = np.random.default_rng(1).random((3000, 2))
    dimensions = local_dimension._dimensions(x, 20, 4000, np.random.default_rng(0))
    assert 60 < len(dimensions) < 3000 / 21
    assert dimensions.mean() == pytest.approx(2, rel=0.1)
    ((_, balls),) = taken
    used: set[int] = set()
    for ball in balls.tolist():
        if not used & set(ball):
            used |= set(ball)
    assert len(used) == 21 * len(dimensions)


def test_one_dimension_has_no_excess_and_its_interval_holds_0_as_often_as_it_says():
    inside = []
    for seed in range(40):
        excess = dimension_spread(gaussian(1000, 3, seed), random_state=seed).excess
        inside.append(excess.low <= 0 <= excess.high)
    assert sum(inside) >= 35  # of 40; 38 are expected, and fewer than 35 come 1 time in 90


def test_mixed_dimensions_are_found_with_their_size():
    """Dimensions 1 and 4 in equal parts of the neighbourhoods: log 4 / 2 about their mean."""
    parts = [gaussian(1600, d, d) / np.sqrt(d) for d in (1, 4)]
    x = np.zeros((3200, 8))
    x[:1600, :1], x[1600:, 4:] = parts[0], parts[1] + 20
    found = dimension_spread(x, np.repeat([0, 1], 1600))
    assert found.verdict == "several dimensions"
    assert found.excess.low < np.log(4) / 2 < found.excess.high


def test_distances_alone_count():
    x = planted("flats 2, 4", 800, random_state=0).points
    turn = np.linalg.qr(gaussian(40, 40))[0]
    one, other = dimension_spread(x), dimension_spread(3 * x @ turn + 7)
    assert other.dimension == pytest.approx(one.dimension, rel=1e-6)
    for a, b in zip(volume_growth(x), volume_growth(3 * x @ turn + 7), strict=True):
        assert a == pytest.approx(b, abs=1e-6)
    assert dimension_spread(x).excess.value == one.excess.value
    assert dimension_spread(x, random_state=1).excess.value != one.excess.value


@pytest.mark.parametrize("d", [4, 60])
def test_equal_words_of_the_sizes_of_text_are_not_one_piece_but_no_more_than_equal_pieces(d):
    rng = np.random.default_rng(0)
    sizes = np.maximum(1, 400 // np.arange(1, 300))
    labels = np.repeat(range(len(sizes)), sizes)
    x = 3 * rng.normal(size=(len(sizes), 100))[labels]
    x[:, :d] += rng.normal(size=(len(labels), d))
    found = dimension_spread(x, labels)
    assert found.excess.low < 0 and found.verdict != "several dimensions"
    assert np.median(found.null) == pytest.approx(np.median(found.dimension), rel=0.2)
    assert dimension_spread(x).verdict == "several dimensions"
    manifold, _ = volume_growth(x)
    assert (manifold <= 0.05).mean() > 0.2


def test_equal_pieces_keep_means_sizes_radii_and_share_one_spectrum():
    x, labels = words(2, 8, n_each=4000)
    x[labels == 1] *= 5
    y = equal_pieces(x, labels, np.random.default_rng(0))
    shares = []
    for group in (0, 1):
        a, b = x[labels == group], y[labels == group]
        assert b.mean(axis=0) == pytest.approx(a.mean(axis=0), abs=0.3)
        assert b.var(axis=0).sum() == pytest.approx(a.var(axis=0).sum(), rel=0.1)
        values = np.linalg.eigvalsh(np.cov(b.T))[::-1]
        shares.append(values / values.sum())
    expected = np.array([1 / 2, 1 / 2, *[0] * 10]) / 2 + np.array([1 / 8] * 8 + [0] * 4) / 2
    assert shares[0] == pytest.approx(expected, abs=0.03)
    assert shares[1] == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("d", [2, 5])
def test_an_even_flat_rejects_no_hypothesis_more_often_than_the_level(d):
    for p in volume_growth(np.random.default_rng(d).random((3000, d))):
        assert 0.01 <= (p <= 0.05).mean() <= 0.08


@pytest.mark.parametrize(("inner", "outer"), [(1, 6), (6, 1), (2, 2)])
def test_growth_that_changes_after_16_neighbours_has_the_p_of_the_f_law(inner, outer):
    """From the point 0, the spacings before the cut are 1 / inner, those after it 1 / outer."""
    steps = np.r_[np.full(16, 1 / inner), np.full(23, 1 / outer)] / np.arange(1, 40)
    x = np.r_[0.0, np.exp(np.r_[0.0, np.cumsum(steps)])][:, None]
    place = int(np.flatnonzero(np.random.default_rng(0).permutation(41) == 0)[0])
    manifold, bundle = (p[place] for p in volume_growth(x))
    rise = stats.f.sf(outer / inner, 32, 46)
    if inner < outer:
        assert bundle == pytest.approx(4 * rise) and manifold == pytest.approx(8 * rise)
        assert bundle < 0.01
    else:
        assert bundle > 0.5 and (manifold < 0.01) == (inner > outer)


def test_copies_count_once_and_too_few_neighbourhoods_are_said():
    x = gaussian(500, 3)
    both = dimension_spread(np.concatenate([x, x])), dimension_spread(x)
    assert np.array_equal(*(found.dimension for found in both))
    few = dimension_spread(x[:100])
    assert isinstance(few, NotEstimable) and "take more points, or fewer neighbours" in str(few)
    assert "0 neighbourhoods" in str(dimension_spread(x[:15]))


def test_copies_up_to_rounding_are_no_centres_and_give_no_nan():
    x = gaussian(1000, 3)
    near = np.concatenate([x, x[:300] * (1 + 1e-9)])
    found = dimension_spread(near)
    assert np.isfinite(found.dimension).all() and np.isfinite(found.null).all()
    assert found.verdict != "several dimensions"
    for p in volume_growth(near):
        assert len(p) == 700 and np.isfinite(p).all() and (p <= 0.05).mean() < 0.2


def test_bad_input_is_refused(unchecked):
    x = gaussian(100, 3)
    refused("a group for each of the 100 points", dimension_spread, x, np.zeros(3, dtype=int))
    refused("at least 3, got 2", dimension_spread, x, n_neighbours=2)
    refused("NaN or infinite", dimension_spread, np.where(x > 2, np.nan, x))
    refused("more than 40 distinct points, got 30", volume_growth, x[:30])


@pytest.mark.parametrize("family", FAMILIES)
def test_families_are_of_their_size_seeded_and_lie_in_40_dimensions(family):
    cloud = planted(family, 600, random_state=3)
    assert cloud.points.shape == (len(cloud.dimension), 40) and len(cloud.points) > 590
    assert (planted(family, 600, random_state=3).points == cloud.points).all()
    assert (planted(family, 600, random_state=4).points != cloud.points).any()
    several = " and " in family or "," in family or family == "lollipop"
    assert (truth_of(family, cloud) == "several dimensions") == several
    assert (truth_of(family, cloud) == "singular") == (family in SINGULAR)
    noisy = planted(family, 600, noise=0.5, random_state=3).points - cloud.points
    assert rms_radius(noisy) == pytest.approx(0.5 * rms_radius(cloud.points), rel=0.1)


def test_a_family_has_the_dimension_that_it_names():
    for family, d in [("line", 1), ("torus", 2), ("Gaussian 4", 4), ("paraboloid 3", 3)]:
        cloud = planted(family, 3000, random_state=0)
        found = local_dimension._dimensions(cloud.points, 20, 4000, np.random.default_rng(0))
        assert np.median(found) == pytest.approx(d, rel=0.2)
    refused("spehre", planted, "spehre", 100, random_state=0)
    assert not set(OURS) & set(EXTERNAL) and set(SINGULAR) <= set(OURS)
