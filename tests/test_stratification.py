"""The study of planted families: what a point gives, and the results that come with the book."""

from dataclasses import asdict

import numpy as np
from matplotlib.axes import Axes

from saerepgeo_lib.plots.calibration import plot_planted_excess
from saerepgeo_lib.studies import stratification
from saerepgeo_lib.studies.stratification import (
    Point,
    measure,
    planted_rates,
    planted_table,
    points,
)
from saerepgeo_lib.studies.study import read_study, study_file
from saerepgeo_lib.synthetic.families import FAMILIES


def test_a_point_says_what_is_so_and_what_is_found_and_gives_it_again():
    point = Point("flats 1, 2, 4, 8", n=800)
    found = measure(point)
    assert found == measure(point) != measure(Point("flats 1, 2, 4, 8", n=800, draw=1))
    assert (found["truth"], found["origin"]) == ("several dimensions", "ours")
    assert found["verdict"] == "several dimensions" and found["low"] > 0.2
    assert 0 <= found["no fibre bundle"] <= 1 and "FVU" not in found
    smooth = measure(Point("sphere 10", n=800))
    assert (smooth["truth"], smooth["origin"]) == ("smooth", "external")
    assert measure(Point("cone", n=800))["truth"] == "singular"
    few = {"origin": "ours", "truth": "smooth", "verdict": "not estimable"}
    assert measure(Point("sphere", n=150)) == few


def test_noise_as_wide_as_the_data_hides_strata():
    assert measure(Point("flats 1, 2", n=800, noise=1.0))["verdict"] != "several dimensions"


def test_behind_an_autoencoder_the_fit_stands_beside_it(monkeypatch):
    monkeypatch.setattr(stratification, "_TRAIN", 2000)
    found = measure(Point("flats 2, 4", "TopK SAE", n=800))
    assert found["FVU"] < 0.5 and found["value"] > 0.1


def test_every_setting_is_a_point_once():
    all_points = [tuple(asdict(point).items()) for point in points()]
    assert len(set(all_points)) == len(all_points) == 41 * (5 * 3 + 2)


def entry(family, verdict, truth, value=np.nan):
    point = {"family": family, "space": "raw", "n": 100, "noise": 0.0, "draw": 0}
    found = {"origin": "ours", "truth": truth, "verdict": verdict}
    return {"point": point, "result": found | ({"value": value} if value == value else {})}


def test_rates_count_draws_and_the_auc_families():
    several = "several dimensions"
    table = planted_table([
        entry("line", "one dimension", "smooth", 0.0), entry("line", several, "smooth", 0.3),
        entry("sphere", "undecided", "smooth", 0.1), entry("sphere", "not estimable", "smooth"),
        entry("flats", several, several, 0.5), entry("lollipop", "undecided", several, 0.4),
        entry("cone", "one dimension", "singular", 0.0),
    ])  # fmt: skip
    rates = planted_rates(table).set_index("truth")
    assert rates.loc["smooth", "several dimensions"] == 0.25 and rates.loc["smooth", "draws"] == 4
    assert rates.loc["several dimensions", "several dimensions"] == 0.5
    assert rates.loc["several dimensions", "AUC"] == 1 > rates.loc["several dimensions", "low"]
    assert np.isnan(rates.loc["singular", "AUC"])
    assert isinstance(plot_planted_excess(table), Axes)


def test_the_shipped_study_has_every_family_and_what_the_page_says_of_it_is_so():
    shipped = read_study(study_file("stratification"))["points"]
    assert [e["point"] for e in shipped] == [asdict(point) for point in points()]
    judged = planted_table(shipped)
    assert set(judged["family"]) == set(FAMILIES)
    largest = judged[(judged["n"] == judged["n"].max()) & (judged["noise"] == 0)]
    raw = largest[largest["space"] == "raw"]
    is_called = raw.groupby("truth")["verdict"].agg(lambda v: (v == "several dimensions").mean())
    assert is_called["smooth"] <= 0.05 and is_called["singular"] <= 0.05
    assert is_called["several dimensions"] >= 0.8
    noisy = judged[(judged["noise"] > 0) & (judged["family"] == "uneven plane")]
    assert (noisy["verdict"] == "several dimensions").any()
