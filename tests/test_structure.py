"""Points, and measures of local and global structure, on data with known answers."""

import numpy as np
import pytest
from refusals import refused
from scipy import stats
from scipy.spatial.distance import pdist

from saerepgeo_lib.geometry.points import check_points, principal_coordinates, rms_radius, twins
from saerepgeo_lib.geometry.structure import (
    estimate,
    local_measures,
    measure_spaces,
    measures,
    structure_table,
)
from saerepgeo_lib.stats.estimates import NotEstimable, jackknife
from saerepgeo_lib.synthetic import calibration
from saerepgeo_lib.synthetic import data as synthetic


def planted(k=4, n=80, d=3, seed=0):
    return synthetic.pieces(k, n, d, ambient=40, separation=6.0, random_state=seed)


@pytest.mark.parametrize(("k", "d"), [(3, 2), (5, 3)])
def test_the_whole_pipeline_returns_planted_components_and_dimensions(k, d):
    cloud = planted(k, 100, d)
    fold = np.arange(len(cloud.piece)) % 3
    table = measure_spaces({"planted": cloud.points}, cloud.piece, fold)
    whole = table[table["left_out"] == -1].set_index("measure")["value"]
    assert whole["Betti-0, HDBSCAN"] == whole["Betti-0, H0"] == k
    grid = {"d": (d,), "n": (100,), "noise": (0,), "ambient": (40,)}
    known = calibration.calibrate("dimensions", grid, replicates=20).set_index("estimator")
    for name in ("TwoNN", "MLE"):  # the mean of k clusters, as calibrated
        error = 3 * d * known.loc[name, "spread"] * (1 / np.sqrt(k) + 1 / np.sqrt(20))
        assert whole[f"avg. ID, {name}"] == pytest.approx(known.loc[name, "mean"], abs=error)
    assert whole["homogeneity"] == whole["completeness"] == whole["AMI"] == 1
    assert whole["not estimable"] == 0
    radius = np.sqrt(np.square(cloud.points - cloud.points.mean(0)).sum(1).mean())
    assert whole["radius"] == pytest.approx(radius)
    assert whole["MSTW of entities"] == pytest.approx((k - 1) * 6 / radius, rel=0.05)
    assert whole["AEDP of entities"] == pytest.approx(6 / radius, rel=0.05)


def test_local_measures_by_hand_and_under_scale_and_rotation():
    x = np.concatenate([np.arange(10.0), np.arange(100.0, 110)])[:, None] * [1.0, 0.0]
    labels = np.repeat([0, 1], 10)
    entity = np.array([0] * 5 + [1] * 5 + [2] * 5 + [-1] * 5)
    values = local_measures(x, labels, entity)
    radius = np.sqrt(np.square(x[:, 0] - x[:, 0].mean()).mean())
    assert values["MSTW"] == pytest.approx(100 / radius)
    # clusters {0, 1} and {2}: H(entity) = log 3, H(entity | cluster) = 2/3 log 2
    assert values["homogeneity"] == pytest.approx(1 - (2 / 3 * np.log(2)) / np.log(3))
    assert values["completeness"] == pytest.approx(1)
    assert (values["Betti-0, HDBSCAN"], values["unclustered"], values["median size"]) == (2, 0, 10)
    none = local_measures(x, np.full(20, -1), entity)
    assert (none.pop("Betti-0, HDBSCAN"), none.pop("unclustered")) == (0, 1)
    assert np.isnan(list(none.values())).all()
    few = local_measures(x, np.where(np.arange(20) < 3, 0, labels + 1), entity)
    assert few["not estimable"] == 1  # a cluster of three points is refused and counted
    # Scale and rotation change no measure.
    cloud = planted(3, 30)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(40, 40)))[0]
    one, other = (measures(principal_coordinates(x), cloud.piece, slow=True)
                  for x in (cloud.points, 9 * cloud.points @ turn + 1))  # fmt: skip
    assert other.pop("radius") == pytest.approx(9 * one.pop("radius"))
    assert other == pytest.approx(one, rel=1e-6)


def test_draws_of_a_random_encoder_are_averaged_and_tables_name_why_an_interval_is_missing():
    a, b = planted(3, 30).points, planted(3, 30, seed=1).points
    entity, fold = np.repeat([0, 1, 2], 30), np.arange(90) % 4
    one, two = (measures(principal_coordinates(x), entity) for x in (a, b))
    table = measure_spaces({"random x #1": a, "random x #2": b}, entity, fold)
    whole = table[table["left_out"] == -1].set_index(["space", "measure"])["value"]
    for name in ("MSTW", "avg. ID, TwoNN", "AEDP of entities"):
        assert whole["random x", name] == pytest.approx((one[name] + two[name]) / 2)
    written = structure_table(table).set_index("measure")
    assert "all tokens only" in written.loc["Betti-0, H0", "note"]
    assert "equal" in written.loc["homogeneity", "note"]
    row = written.loc["MSTW"]
    assert row["low"] < row["value"] < row["high"] and row["n"] == 4 and row["note"] == ""
    table.loc[(table["measure"] == "MSTW") & (table["left_out"] == 3), "value"] = np.nan
    refused = estimate(table, "MSTW", "random x")
    assert isinstance(refused, NotEstimable) and "undefined on 1 of the samples" in str(refused)


def test_jackknife_of_a_mean_is_students_interval_of_a_sum_nearly_and_covers_a_count():
    x = np.random.default_rng(0).normal(size=12)
    without = np.array([np.delete(x, i).mean() for i in range(12)])
    mean = jackknife(x.mean(), without)
    half = stats.t.ppf(0.975, 11) * stats.sem(x)
    assert (mean.low, mean.high) == pytest.approx((x.mean() - half, x.mean() + half))
    assert mean.p == pytest.approx(stats.ttest_1samp(x, 0).pvalue)
    total = jackknife(x.sum(), x.sum() - x)  # as the docstring says
    assert (total.high - total.value) / (12 * half) == pytest.approx(11 / 12)
    assert jackknife(-3 * x.mean(), -3 * without).p == pytest.approx(mean.p)
    # It covers a count that is no sum: distinct values in 12 groups; the truth is the expectation.
    samples = np.random.default_rng(0).integers(0, 60, (400, 12, 4))
    counts = np.array([len(np.unique(s)) for s in samples], dtype=float)
    hits = 0
    for s, count in zip(samples[:200], counts, strict=False):
        left = [float(len(np.unique(np.delete(s, i, axis=0)))) for i in range(12)]
        interval = jackknife(count, np.array(left))
        hits += interval.low <= counts.mean() <= interval.high
    assert hits >= 0.9 * 200
    # Replicates that do not vary give no interval, and bad ones are refused.
    assert "all 5 replicates are equal" in str(jackknife(2.0, np.ones(5)))
    for bad in (np.ones(2), np.array([1.0, np.nan, 2.0])):
        refused("finite", jackknife, 1.0, bad)


RNG = np.random.default_rng(0)


def test_distinct_rows_are_first_occurrences_in_order_and_each_point_knows_its_twin():
    x = np.array([[3.0, 1], [0, 2], [3, 1], [-0.0, 2], [1, 1], [0, 2]])
    kept, which = twins(x)
    assert kept.tolist() == [0, 1, 4]  # -0 is 0
    np.testing.assert_array_equal(x[kept][which], x)
    assert twins(x[:, ::-1])[0].tolist() == [0, 1, 4]  # any memory order
    many = RNG.integers(0, 3, (500, 4)).astype(float)
    assert len(twins(many)[0]) == len(np.unique(many, axis=0))


@pytest.mark.parametrize(
    ("bad", "message"),
    [(np.zeros(3), "shape"), (np.zeros((2, 0)), "shape"),
     (np.array([[1.0, np.inf]]), "1 of 1 points"), (np.zeros((1, 2)), "at least 2")],
)  # fmt: skip
def test_bad_points_are_refused(unchecked, bad, message):
    refused(message, check_points, bad, least=2)


def test_rms_radius_of_a_sphere_is_its_radius_and_moves_with_scale_only():
    assert rms_radius(np.concatenate([np.eye(3), -np.eye(3)]) * 5) == pytest.approx(5)
    x = RNG.normal(size=(6, 4))
    turn = np.linalg.qr(RNG.normal(size=(4, 4)))[0]
    assert rms_radius(x @ turn * 2 + 3) == pytest.approx(2 * rms_radius(x))
    brute = np.sqrt(np.mean([np.sum((row - x.mean(0)) ** 2) for row in x]))
    assert rms_radius(x) == pytest.approx(brute)


@pytest.mark.parametrize("shape", [(30, 8), (8, 30)])
def test_principal_coordinates_keep_all_distances_and_the_share_of_variance(shape):
    x = RNG.normal(size=shape) * np.logspace(0, -1, shape[1]) + 4
    space = principal_coordinates(x, variance=0.8)
    np.testing.assert_allclose(pdist(space.full), pdist(x), rtol=1e-6)
    energy = np.square(space.full).sum(0)
    share = np.cumsum(energy) / energy.sum()
    c = space.reduced.shape[1]
    assert share[c - 1] >= 0.8 and (c == 1 or share[c - 2] < 0.8)
    turned = principal_coordinates(
        x @ np.linalg.qr(RNG.normal(size=(shape[1],) * 2))[0], variance=0.8
    )
    np.testing.assert_allclose(pdist(turned.reduced), pdist(space.reduced), rtol=1e-6)


def test_copies_of_a_vector_stay_copies_in_principal_coordinates_and_only_copies_are_refused():
    for bad, message in ((np.ones((5, 3)), "all the same"), (np.full((5, 3), np.nan), "NaN")):
        refused(message, principal_coordinates, bad)
    latents = RNG.random((60, 200)) * (RNG.random((60, 200)) < 0.1)
    space = principal_coordinates(np.concatenate([latents, latents[:12]]))
    assert len(twins(space.full)[0]) == 60
    np.testing.assert_array_equal(space.full[60:], space.full[:12])
