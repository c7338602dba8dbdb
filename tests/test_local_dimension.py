"""The spread of local dimension and the growth of volume: exact laws, invariances, refusals."""

import tomllib

import numpy as np
import pytest
from refusals import refused

from saerepgeo_lib.files import data_dir
from saerepgeo_lib.geometry import local_dimension
from saerepgeo_lib.geometry.local_dimension import (
    SMALLEST,
    dimension_spread,
    equal_pieces,
    volume_growth,
)
from saerepgeo_lib.stats.estimates import NotEstimable
from saerepgeo_lib.synthetic.families import FAMILIES, OTHERS, OURS, SINGULAR, planted


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
    spacings = local_dimension._spacings(local_dimension._neighbours(x, 9, middle)[0])
    assert spacings.mean(axis=0) == pytest.approx(np.full(8, 1 / d), rel=0.12)
    assert spacings.std(axis=0) == pytest.approx(np.full(8, 1 / d), rel=0.2)
    assert abs(np.corrcoef(spacings.T)[np.triu_indices(8, 1)]).max() < 0.12


def test_neighbourhoods_share_no_point_and_each_estimate_is_unbiased(monkeypatch):
    taken = []
    found = local_dimension._neighbours

    def noted(x, k, queries):
        distances, nearest = found(x, k, queries)
        taken.append(np.column_stack([queries, nearest]))
        return distances, nearest

    monkeypatch.setattr(local_dimension, "_neighbours", noted)
    x = np.random.default_rng(1).random((3000, 2))
    dimensions = local_dimension._dimensions(x, None, 20, np.random.default_rng(0))
    monkeypatch.undo()
    assert 60 < len(dimensions) < 3000 / 21
    assert dimensions.mean() == pytest.approx(2, rel=0.1)
    (balls,) = taken
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
    assert sum(inside) >= 34


def test_mixed_dimensions_are_found_with_their_size():
    """Dimensions 1 and 4 in equal parts of the neighbourhoods: log 4 / 2 about their mean."""
    parts = [gaussian(1600, d, d) / np.sqrt(d) for d in (1, 4)]
    x = np.zeros((3200, 8))
    x[:1600, :1], x[1600:, 4:] = parts[0], parts[1] + 20
    found = dimension_spread(x, np.repeat([0, 1], 1600))
    assert found.verdict == "stratified" and found.excess.p < 0.01
    assert found.excess.low < np.log(4) / 2 < found.excess.high


def test_distances_alone_count():
    x = planted("flats 2, 4", 800, random_state=0).points
    turn = np.linalg.qr(gaussian(40, 40))[0]
    one, other = dimension_spread(x), dimension_spread(3 * x @ turn + 7)
    assert other.dimension == pytest.approx(one.dimension, rel=1e-6)
    for a, b in zip(volume_growth(x), volume_growth(3 * x @ turn + 7), strict=True):
        assert a == pytest.approx(b, abs=1e-6)
    assert dimension_spread(x).excess == one.excess != dimension_spread(x, random_state=1).excess


def test_pieces_of_one_dimension_are_no_strata_though_gaps_reject_a_manifold():
    x, labels = words(*[4] * 12)
    assert dimension_spread(x, labels, within=True).excess.low < 0.1
    x, labels = words(*[4] * 24, n_each=30)
    manifold, bundle = volume_growth(x)
    assert (manifold <= 0.05).mean() > 0.5 and (bundle <= 0.05).mean() > 0.5


def test_words_of_several_dimensions_are_found_within_them():
    x, labels = words(*[1, 3, 9] * 6)
    found = dimension_spread(x, labels, within=True)
    assert found.verdict == "stratified"
    assert found.excess.low < np.log([1, 3, 9]).std() * 1.1


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


def test_a_line_that_enters_a_plane_is_no_fibre_bundle_at_its_end():
    rng = np.random.default_rng(0)
    line = np.column_stack([np.linspace(0, 0.05, 12), *np.zeros((2, 12))])
    sheet = np.column_stack([rng.random((4000, 2)) - 0.5, np.zeros(4000)])[:, [2, 0, 1]]
    x = np.concatenate([line, sheet])
    order = np.random.default_rng(0).permutation(len(x))  # of the queries
    _, bundle = volume_growth(x)
    assert bundle[np.isin(order[: len(bundle)], range(12))].min() < 0.05


def test_copies_count_once_and_too_few_neighbourhoods_are_said():
    x = gaussian(500, 3)
    assert dimension_spread(np.concatenate([x, x])).excess == dimension_spread(x).excess
    few = dimension_spread(x[:100])
    assert isinstance(few, NotEstimable) and "take more points, or fewer neighbours" in str(few)
    lonely = dimension_spread(x, np.arange(500), within=True)
    assert isinstance(lonely, NotEstimable) and lonely.reason.startswith("0 neighbourhoods")


def test_bad_input_is_refused(unchecked):
    x = gaussian(100, 3)
    refused("a group for each of the 100 points", dimension_spread, x, np.zeros(3, dtype=int))
    refused("at least 3, got 2", dimension_spread, x, n_neighbours=2)
    refused("NaN or infinite", dimension_spread, np.where(x > 2, np.nan, x))
    refused("more than 40 distinct points, got 30", volume_growth, x[:30])


def test_the_smallest_effect_is_that_of_the_rules():
    rules = tomllib.loads((data_dir() / "verdict_rules.toml").read_text())
    assert rules["case1-dimension-differs"]["smallest_effect"] == SMALLEST


@pytest.mark.parametrize("family", FAMILIES)
def test_families_are_of_their_size_seeded_and_lie_in_40_dimensions(family):
    cloud = planted(family, 600, random_state=3)
    assert cloud.points.shape == (len(cloud.dimension), 40) and len(cloud.points) > 590
    assert (planted(family, 600, random_state=3).points == cloud.points).all()
    assert (planted(family, 600, random_state=4).points != cloud.points).any()
    several = len(set(cloud.dimension.tolist())) > 1
    assert several == (" and " in family or "," in family or family == "lollipop")


def test_a_family_has_the_dimension_that_it_names():
    for family, d in [("line", 1), ("torus", 2), ("Gaussian 4", 4), ("paraboloid 3", 3)]:
        cloud = planted(family, 3000, random_state=0)
        found = local_dimension._dimensions(cloud.points, None, 20, np.random.default_rng(0))
        assert np.median(found) == pytest.approx(d, rel=0.2)
    refused("spehre", planted, "spehre", 100, random_state=0)
    assert not set(OURS) & set(OTHERS) and set(SINGULAR) <= set(OURS)
