"""The calibration itself: its summaries by hand, and that it sees a bad estimator."""

import numpy as np
import pandas as pd
import pytest

from saerepgeo_lib import calibration, calibration_arrangements, error_rates
from saerepgeo_lib.errors import UserError


def rows(values, **settings):
    return [{"estimator": "e", "truth": 10.0, "value": v, **settings} for v in values]


def test_summary_by_hand():
    table = calibration.summarise(
        [
            {"n": 5, "truth": 10.0, "value": 9.0, "low": 8.0, "high": 11.0},
            {"n": 5, "truth": 10.0, "value": 13.0, "low": 12.0, "high": 14.0},
            {"n": 5, "truth": 10.0, "value": np.nan, "low": np.nan, "high": np.nan},
            {"n": 7, "truth": 10.0, "value": 10.0, "low": 9.0, "high": 11.0},
        ]
    ).set_index("n")
    first = table.loc[5]
    assert (first["mean"], first["bias"], first["spread"]) == (
        11, pytest.approx(0.1), pytest.approx(np.sqrt(8) / 10))  # fmt: skip
    assert (first["coverage"], first["exact"]) == (0.5, 0.0)
    assert (first["refused"], first["replicates"]) == (pytest.approx(1 / 3), 3)
    assert table.loc[7, "exact"] == 1


def test_trust_needs_small_bias_small_spread_and_no_refusal():
    table = calibration.summarise(
        [*rows([9.8, 10.2], n=1), *rows([12, 12], n=2), *rows([5, 15], n=3),
         *rows([10, np.nan], n=4), *rows([8, 12], n=5), *rows([8, 12] * 50, n=6)]
    )  # fmt: skip
    limits = {"max_spread": 0.3}
    assert calibration.trusted(table, **limits).tolist() == [True, False, False, False, False, True]
    assert calibration.trusted(table, max_bias=0.2, **limits).tolist()[1]


def test_the_smallest_trusted_size_counts_only_if_all_larger_ones_are_trusted():
    table = pd.DataFrame(
        [(d, n, 0.0) for d in (1, 2) for n in (10, 20, 50)], columns=["d", "n", "noise"]
    )
    good = pd.Series([True, False, True, False, False, False])
    found = calibration.smallest_trusted(table, good, size="n", rows="d", columns="noise")
    assert found[0.0].tolist() == ["50", "none"]


def test_rank_rules_behave_as_the_mathematics_says():
    table = calibration.calibrate_ranks(ranks=(4,), noises=(0, 0.5), replicates=3)
    value = table.set_index(["rule", "data", "noise"])["mean"]
    for data in ("dense", "sparse codes"):
        assert value["relative", data, 0] == value["exact", data, 0] == 4
        assert value["exact", data, 0.5] == 96  # full rank under noise with a density
    assert value["Marchenko-Pastur", "dense", 0.5] == 4


def test_noise_raises_dimensions_and_more_points_make_it_worse():
    table = calibration.calibrate_dimensions(
        dimensions=(2,), sizes=(30, 300), noises=(0, 0.2), replicates=4
    ).set_index(["estimator", "n", "noise"])
    for name in calibration.DIMENSION_ESTIMATORS:
        assert abs(table.loc[(name, 300, 0.0), "bias"]) < 0.15
        assert table.loc[(name, 300, 0.2), "bias"] > table.loc[(name, 30, 0.2), "bias"]
        assert table.loc[(name, 300, 0.2), "bias"] > 1


def test_centroid_noise_adds_what_it_should_to_aedp():
    table = calibration_arrangements.calibrate_separability(
        kinds=("simplex",), sizes=(20,), radii=(2,), ambients=(20, 384), replicates=30
    ).set_index(["estimator", "ambient"])
    for ambient in (20, 384):
        predicted = np.sqrt(1 + 2 * 4 / 20)
        assert table.loc[("AEDP", ambient), "mean"] == pytest.approx(predicted, rel=0.04)


def test_the_smallest_connecting_graph_overestimates_a_circle():
    table = calibration_arrangements.calibrate_geodesics(sizes=(160,), noises=(0,), replicates=6)
    bias = table.set_index("estimator")["bias"]
    assert abs(bias["AGD, k from 10"]) < 0.03 < 0.1 < bias["AGD, k from 1"]


def test_unrelated_arrangements_look_alike_in_large_spaces_and_are_not_called_alike():
    table = calibration_arrangements.calibrate_procrustes(
        counts=(7,), dimensions=(2, 384), noises=(0.2, np.inf), replicates=40
    ).set_index(["d", "noise"])
    assert table.loc[(384, np.inf), "disparity"] < 0.02
    assert table.loc[(384, np.inf), "rejected"] <= 0.15
    assert table.loc[(384, 0.2), "rejected"] > 0.9


def test_random_starts_find_what_one_start_misses():
    table = calibration_arrangements.calibrate_gromov_wasserstein(
        counts=(6,), noises=(0.5,), replicates=6
    )
    found = table.set_index("starts")["found"]
    assert found[30] == 1 > found[0]


def test_components_are_counted_and_each_estimator_has_data_that_it_cannot_count():
    table = calibration.calibrate_components(
        settings=("wide gaps", "wide gaps, outliers"), counts=(1, 3), sizes=(20,), replicates=3
    ).set_index(["setting", "estimator", "pieces"])["exact"]
    assert table["wide gaps", "HDBSCAN", 3] == 1
    assert table["wide gaps", "H0 persistence", 3] == table["wide gaps", "H0 persistence", 1] == 1
    assert table["wide gaps", "HDBSCAN", 1] == 0
    assert table["wide gaps, outliers", "H0 persistence", 3] == 0


@pytest.mark.slow
def test_false_positive_rates_are_nominal_but_where_an_assumption_fails():
    table = error_rates.false_positives(draws=1500, random_state=1).set_index("test")
    skewed = table.index.str.contains(error_rates.SKEWED)
    strict = table.index.str.contains(error_rates.VERDICT)
    assert table.loc[~skewed & ~strict, "rate"].between(0.03, 0.07).all()
    assert (table.loc[skewed, "low"] > 0.05).all()
    assert table.loc[strict, "rate"].between(0.01, 0.04).all()  # interval and p, one-sided


@pytest.mark.slow
def test_intervals_hold_the_truth_but_where_an_assumption_fails():
    table = error_rates.interval_coverage(draws=600, random_state=1).set_index("interval")
    sound = table[~table.index.str.contains(f"{error_rates.SKEWED}|Pearson")]
    assert sound["rate"].between(0.91, 0.99).all()
    assert table.loc[table.index.str.contains(error_rates.SKEWED), "high"].lt(0.95).all()


def test_a_walk_correlates_with_nothing_until_the_best_is_kept():
    walks = error_rates.null_walks(draws=100)
    assert abs(walks["every step"].mean()) < 0.05
    assert walks["best so far"].median() < -0.6


def test_settings_have_independent_seeds():
    seeds = [row[-1] for row in calibration.draws(5, 0, range(4), "ab")]
    uses = {calibration.child_seed(seed, use) for seed in seeds for use in range(2)}
    assert len(set(seeds)) == 40 and len(uses) == 80 and not uses & set(seeds)


def test_parameters_that_cannot_be_used_are_refused():
    ok = {"replicates": 2, "null_draws": 1, "max_bias": 0.1, "max_spread": 0.1}
    calibration.check_parameters(**ok)
    for name, bad in (("replicates", 1), ("null_draws", 0), ("max_bias", 0.0)):
        with pytest.raises(UserError, match=name):
            calibration.check_parameters(**{**ok, name: bad})
