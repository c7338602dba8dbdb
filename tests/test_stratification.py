"""The study of planted families: what a point gives, and the results that come with the book."""

from dataclasses import asdict

from saerepgeo_lib.studies import stratification
from saerepgeo_lib.studies.stratification import Point, measure, points


def test_a_point_says_what_is_so_and_what_is_found_and_gives_it_again():
    point = Point("flats 1, 2, 4, 8", n=800)
    found = measure(point)
    assert found == measure(point) != measure(Point("flats 1, 2, 4, 8", n=800, draw=1))
    assert found["stratified"] and not found["singular"] and found["family"] == "ours"
    assert found["verdict"] == "several dimensions" and found["excess"][1] > 0.2
    assert set(found["rejected"]) == {"manifold", "fibre bundle"} and "FVU" not in found
    smooth = measure(Point("sphere 10", n=800))
    assert not smooth["stratified"] and smooth["family"] == "external"
    assert measure(Point("cone", n=800))["singular"]
    assert measure(Point("sphere", n=150)) | {"excess": None} == {
        "family": "ours", "stratified": False, "singular": False, "verdict": "not estimable",
        "excess": None,
    }  # fmt: skip


def test_noise_as_wide_as_the_data_hides_strata():
    assert measure(Point("flats 1, 2", n=800, noise=1.0))["verdict"] != "several dimensions"


def test_behind_an_autoencoder_the_fit_stands_beside_it(monkeypatch):
    monkeypatch.setattr(stratification, "_TRAIN", 2000)
    found = measure(Point("flats 2, 4", "TopK SAE", n=800))
    assert found["FVU"] < 0.5 and found["excess"][0] > 0.1


def test_every_setting_is_a_point_once():
    all_points = [tuple(asdict(point).items()) for point in points()]
    assert len(set(all_points)) == len(all_points) == 41 * (5 * 3 + 2)
