"""The calibration itself: its summaries by hand, and that it sees a bad estimator."""

import numpy as np
import pandas as pd
import pytest

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.rank.noise_sweep import child_seed
from saerepgeo_lib.synthetic import calibration, error_rates
from saerepgeo_lib.synthetic.calibration import calibrate


def rows(values, **settings):
    return [{"estimator": "e", "truth": 10.0, "value": v, **settings} for v in values]


def test_summary_by_hand():
    table = calibration.summarise(
        {"n": n, "truth": 10.0, "value": value, "low": value - 1, "high": value + 1}
        for n, value in ((5, 9.0), (5, 13.0), (5, np.nan), (7, 10.0))
    ).set_index("n")
    first = table.loc[5]
    assert (first["mean"], first["bias"], first["spread"]) == (
        11, pytest.approx(0.1), pytest.approx(np.sqrt(8) / 10))  # fmt: skip
    assert (first["coverage"], first["exact"]) == (0.5, 0.0)
    assert (first["refused"], first["replicates"]) == (pytest.approx(1 / 3), 3)
    assert table.loc[7, "exact"] == 1
    other = calibration.summarise(
        {"k": 3, "found": f, "excess": e} for f, e in ((True, 0), (False, 1))
    )
    assert other.to_dict("records") == [{"k": 3, "found": 0.5, "excess": 0.5, "replicates": 2}]


def test_trust_needs_small_bias_small_spread_and_no_refusal_at_every_larger_size():
    table = calibration.summarise(
        [*rows([9.8, 10.2], n=1), *rows([12, 12], n=2), *rows([5, 15], n=3),
         *rows([10, np.nan], n=4), *rows([8, 12], n=5), *rows([8, 12] * 50, n=6)]
    )  # fmt: skip
    limits = {"max_spread": 0.3}
    assert calibration.trusted(table, **limits).tolist() == [True, False, False, False, False, True]
    assert calibration.trusted(table, max_bias=0.2, **limits).tolist()[1]
    # the smallest trusted size counts only if all larger ones are trusted
    sizes = [(d, n, 0.0) for d in (1, 2, 3) for n in (10, 20, 50)]
    table = pd.DataFrame(sizes, columns=["d", "n", "noise"])
    good = pd.Series([True, False, True, False, False, False, True, True, True])
    smallest = calibration.smallest_trusted(table, good, size="n", rows="d", columns="noise")
    assert smallest[0.0].tolist() == ["50", "none", "10"]


def test_every_data_set_has_its_own_seed_and_unknown_settings_are_refused(monkeypatch):
    seen = []

    def measure(seed, a, b):
        seen.append(seed)
        yield {"estimator": a + b, "truth": 1.0, "value": 1.0}

    monkeypatch.setitem(calibration.ESTIMATORS, "fake", (measure, {"a": "vwxy", "b": "z"}))
    table = calibrate("fake", {"b": "ab"}, replicates=5)
    assert table["estimator"].tolist() == ["va", "vb", "wa", "wb", "xa", "xb", "ya", "yb"]
    assert (table["replicates"] == 5).all()
    assert (table["a"] + table["b"] == table["estimator"]).all()
    uses = {child_seed(seed, use) for seed in seen for use in range(2)}
    assert len(set(seen)) == 40 and len(uses) == 80 and not uses & set(seen)
    first = list(seen)
    calibrate("fake", {"b": "ab"}, replicates=5)
    assert seen[40:] == first
    with pytest.raises(UserError, match="did you mean 'ranks'"):
        calibrate("rank")
    with pytest.raises(UserError, match="setting of the ranks 'noises'; did you mean 'noise'"):
        calibrate("ranks", {"noises": (0, 1)})


def test_rank_rules_and_dimensions_behave_as_the_mathematics_says():
    table = calibrate("ranks", {"rank": (4,), "noise": (0, 0.5)}, replicates=1)
    value = table.set_index(["rule", "data", "noise"])["mean"]
    for data in ("dense", "sparse codes"):
        assert value["relative", data, 0] == value["exact", data, 0] == 4
        assert value["exact", data, 0.5] == 96  # full rank under noise with a density
    assert value["Marchenko-Pastur", "dense", 0.5] == 4
    # noise raises dimensions, and more points make it worse
    settings = {"d": (2,), "n": (30, 300), "noise": (0, 0.2)}
    table = calibrate("dimensions", settings, replicates=4).set_index(["estimator", "n", "noise"])
    for name in ("TwoNN", "MLE"):
        assert abs(table.loc[(name, 300, 0.0), "bias"]) < 0.15
        assert table.loc[(name, 300, 0.2), "bias"] > table.loc[(name, 30, 0.2), "bias"]
        assert table.loc[(name, 300, 0.2), "bias"] > 1


def test_centroid_noise_and_the_smallest_connecting_graph_add_what_they_should():
    settings = {"kind": ["simplex"], "n each": [20], "radius": [2], "ambient": [20, 384]}
    table = calibrate("separability", settings, replicates=20).set_index(["estimator", "ambient"])
    for ambient in (20, 384):
        predicted = np.sqrt(1 + 2 * 4 / 20)
        assert table.loc[("AEDP", ambient), "mean"] == pytest.approx(predicted, rel=0.04)
    table = calibrate("geodesics", {"n": [160], "noise": [0]}, replicates=4)
    bias = table.set_index("estimator")["bias"]
    assert abs(bias["AGD, k from 10"]) < 0.03 < 0.1 < bias["AGD, k from 1"]


def test_unrelated_arrangements_are_not_called_alike_and_random_starts_find_the_match():
    settings = {"k": [7], "d": [384], "noise": [0.2, np.inf]}
    table = calibrate("procrustes", settings, replicates=40).set_index("noise")
    assert table.loc[np.inf, "disparity"] < 0.02
    assert table.loc[np.inf, "rejected"] <= 0.15
    assert table.loc[0.2, "rejected"] > 0.9
    table = calibrate("gromov-wasserstein", {"k": [6], "noise": [0.5]}, replicates=6)
    found = table.set_index("starts")["found"]
    assert found[30] == 1 > found[0]


def test_components_are_counted_and_each_estimator_has_data_that_it_cannot_count():
    settings = {"setting": ("wide gaps", "wide gaps, outliers"), "pieces": (1, 3), "n": (20,)}
    table = calibrate("components", settings, replicates=3)
    exact = table.set_index(["setting", "estimator", "pieces"])["exact"]
    assert exact["wide gaps", "HDBSCAN", 3] == 1
    assert exact["wide gaps", "H0 persistence", 3] == exact["wide gaps", "H0 persistence", 1] == 1
    assert exact["wide gaps", "HDBSCAN", 1] == 0
    assert exact["wide gaps, outliers", "H0 persistence", 3] == 0


@pytest.mark.slow
def test_false_positive_rates_are_nominal_but_where_an_assumption_fails():
    table = error_rates.false_positives(draws=800, random_state=1).set_index("test")
    skewed = table.index.str.contains(f"{error_rates.SKEWED}|{error_rates.SHARED}")
    strict = table.index.str.contains(error_rates.VERDICT)
    assert table.loc[~skewed & ~strict, "rate"].between(0.025, 0.075).all()
    assert (table.loc[skewed, "low"] > 0.05).all()
    assert table.loc[strict, "rate"].between(0.01, 0.045).all()  # interval and p, one-sided


@pytest.mark.slow
def test_intervals_hold_the_truth_but_where_an_assumption_fails():
    table = error_rates.interval_coverage(draws=300, random_state=1).set_index("interval")
    sound = table[~table.index.str.contains(f"{error_rates.SKEWED}|Pearson")]
    assert sound["rate"].between(0.91, 0.99).all()
    assert table.loc[table.index.str.contains(error_rates.SKEWED), "high"].lt(0.95).all()


def test_a_rate_that_is_not_nominal_is_seen(monkeypatch):
    """The same bounds as above, for a test that rejects twice as often as it should, or never."""
    tests = {"liberal": lambda rng: rng.random() / 2, "never": lambda rng: 1.0}
    monkeypatch.setattr(error_rates, "NULLS", tests)
    rates = error_rates.false_positives(draws=500)["rate"]
    assert not rates.between(0.025, 0.075).any()


def test_a_walk_correlates_with_nothing_until_the_best_is_kept():
    walks = error_rates.null_walks(draws=60)
    assert abs(walks["every step"].mean()) < 0.05
    assert walks["best so far"].median() < -0.6
