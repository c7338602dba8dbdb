"""The page of costs reads the benchmarks' record: tables against planted numbers."""

import numpy as np
import pandas as pd
import pytest

from saerepgeo_lib import cost_aims, costs, plots_costs
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.files import write_json


def run(side, concept, levels, model, spectra, *, case=1, kind=None):
    return {
        "case": case, "shape": "s", "date": "2001-02-03", "side": side, "concept": concept,
        "levels": levels, "kind": kind,
        "parts": {"load": {"cpu_s": 9.0}, "model": {"cpu_s": model}, "spectra": {"cpu_s": spectra}},
        "process_peak_mib": 100.0 * model,
    }  # fmt: skip


def stage(name, seconds, share, **more):
    return {"shape": "s", "stage": name, "date": "2001-02-04", "wall_s": seconds, "cpu_s": 1.0,
            "peak_mib": 5.0, "share": share, **more}  # fmt: skip


@pytest.fixture
def record(request):
    built = getattr(request, "param", {"blocks": "2 of 20 built", "computed_wall_s": 20.0})
    runs = [run("library", c, n, 1.0, 0.5 * n) for n in (1, 10) for c in "ab"]
    runs += [run("plain", c, 1, 2.0, 1.0) for c in "ab"] + [run("plain", "a", 10, 20.0, 10.0)]
    points = [{"size": n, "cpu_s": [2.0 * n, 3.0 * n], "peak_mib": 7.0} for n in (1, 2, 4, 8)]
    return {
        "machine": {}, "left out": [], "peers": [{"runs": runs}],
        "limits": [{"shape": "s", "encode": 2e9, "square": 4e9, "float64": 1e9, "bandwidth": 3e9}],
        "stages": [
            stage("residuals", [1.0, 2.0, 3.0], 0.5, **built),
            stage("encode sweep", [4.0], 0.25), stage("Case 1, no nulls", [8.0], 0.5),
        ],
        "scaling": [{"date": "2001-02-03", "stage": "encode", "axis": "prompts",
                     "points": points, "exponent": 1.0, "low": 0.9, "high": 1.1}],
    }  # fmt: skip


def test_a_file_that_is_no_record_says_what_it_lacks(tmp_path):
    write_json(tmp_path / "x.json", {"machine": {}})
    with pytest.raises(
        UserError, match=r"lacks limits, stages, scaling, peers, left out; make one with"
    ):
        costs.read_costs(tmp_path / "x.json")


def test_stages_show_medians_and_mark_what_was_computed(record):
    found = costs.stage_table(record).set_index("stage")
    assert found.loc["residuals", ["seconds", "floor"]].tolist() == [20.0, 10.0]
    assert found.loc["residuals", "how"] == "computed: 2 of 20 built"
    assert found.loc["encode sweep", ["seconds", "floor", "how"]].tolist() == [4.0, 1.0, "measured"]


@pytest.mark.parametrize("record", [{}], indirect=True)
def test_how_near_the_limit_is_computed_from_the_stages(record):
    """Residuals 2 s; sweep 4 s, a quarter of it two products; Case 1 8 s, half of it the floor."""
    (row,) = costs.near_the_limit(record).to_dict("records")
    assert (row["encode share"], row["encode effective"]) == (0.25, 1.25)
    assert row["Case 1 / floor"] == 2
    assert row["Case 1 / own pass"] == 8 / (2 + 1)
    assert row["square share"] == 0.25 * 2 / 4
    assert np.isnan(row["paired share"]) and row["pairs"] == 0
    for one in record["stages"]:
        if one["stage"] == "encode sweep":
            one["beside_product"] = [0.5, 0.9, 0.7]
    faster = {"precision": "tf32", "encode": 16e9, "square": 8e9}
    record["limits"].append(record["limits"][0] | faster)
    (row,) = costs.near_the_limit(record).to_dict("records")
    assert row["paired share"] == 0.7 and row["pairs"] == 3
    assert row["square share"] == 0.25 * 2 / 4
    assert costs.dates(record) == ["2001-02-03", "2001-02-04"]


@pytest.mark.parametrize("lacking", ["residuals", "encode sweep", "Case 1, no nulls"])
def test_a_record_that_lacks_a_stage_is_read(record, lacking):
    record["stages"] = [one for one in record["stages"] if one["stage"] != lacking]
    assert costs.near_the_limit(record).empty
    assert len(costs.stage_table(record)) == 2
    assert (cost_aims.aims_table(record)["verdict"] == "not measured").sum() >= 3


def test_plain_sides_without_all_concepts_are_computed_from_one_level(record):
    found = costs.peers_table(record)
    one, many = (found[found["task"] == task] for task in ("one noise level", "10 noise levels"))
    assert one.set_index("side")["ratio"].to_dict() == {"library": 1.0, "plain": 2.0}
    measured, computed = (many[many["side"] == "plain"].iloc[i] for i in (0, 1))
    assert (measured["concepts"], measured["CPU s"], measured["ratio"]) == (1, 30.0, 5.0)
    assert (computed["concepts"], computed["CPU s"], computed["ratio"]) == (2, 60.0, 5.0)
    assert computed["how"] == "computed: 10 times one level" and np.isnan(computed["peak MiB"])
    assert measured["peak MiB"] == 2000.0


@pytest.mark.parametrize("record", [{}], indirect=True)
def test_the_least_that_others_take_is_operations_over_their_rates(record):
    record["limits"].append(record["limits"][0] | {"precision": "tf32", "encode": 1e12})
    record["stages"].append(stage("encode sweep", [0.1], 0.5, precision="tf32"))
    (row,) = costs.expected_table(record).to_dict("records")
    assert row["operations (GFLOP)"] == 1.0 * 4 + 1.0 * 2 and row["here, measured (s)"] == 8.0
    assert row["Colab's T4, computed bound (s)"] == pytest.approx(6e9 / 8.1e12)


def test_a_record_with_some_parts_only_still_makes_tables(record):
    record["peers"][0]["runs"] = [{"failed": "stopped after 3 s"}]
    record["scaling"] = []
    assert costs.peers_table(record).empty and costs.growth_points(record).empty


def test_growth_is_faster_or_not_or_not_told_apart():
    table = pd.DataFrame({"stage": list("abc"), "axis": ["prompts"] * 3,
                          "low": [1.06, 0.9, 0.9], "high": [2, 1.05, 1.06]})  # fmt: skip
    assert costs.growth_verdicts(table) == {
        "faster": ["a with prompts"], "no faster": ["b with prompts"],
        "not told apart": ["c with prompts"],
    }  # fmt: skip


def test_dense_latents_are_counted_in_decimal_gigabytes(record):
    assert np.isnan(costs.dense_gb(record))
    record["peers"][0]["runs"][-1]["tensor"] = [10, 5, 1000]
    assert costs.dense_gb(record) == 4 * 10 * 10 * 5 * 1000 / 1e9


def test_growth_keeps_the_least_of_the_repeats(record):
    assert costs.growth_points(record)["seconds"].tolist() == [2.0, 4.0, 8.0, 16.0]
    assert costs.growth_table(record).loc[0, ["from", "to", "MiB last"]].tolist() == [1, 8, 7.0]


def test_figures_show_every_stage_side_and_axis(record):
    stages = plots_costs.plot_stages(costs.stage_table(record))
    assert [t.get_text() for t in stages.axes[0].get_yticklabels()][::-1] == [
        "residuals", "encode sweep", "Case 1, no nulls"
    ]  # fmt: skip
    peers = plots_costs.plot_peers(costs.peers_table(record))
    assert [ax.get_title() for ax in peers.axes] == ["one noise level", "10 noise levels"]
    said = [text.get_text() for ax in peers.axes for text in ax.texts]
    assert " 60 s*" in said and " 6 s" in said
    growth = plots_costs.plot_growth(costs.growth_points(record))
    (line, one) = growth.axes[0].get_lines()[:2]
    np.testing.assert_allclose(line.get_ydata(), [1, 2, 4, 8])
    assert isinstance(costs.limits_table(record), pd.DataFrame) and len(one.get_xdata()) == 2


def test_a_side_that_was_run_on_fewer_concepts_is_not_drawn_beside_the_others(record):
    record["peers"][0]["runs"].append(run("careful", "a", 10, 1.0, 1.0))
    figure = plots_costs.plot_peers(costs.peers_table(record))
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["library", "plain"]


@pytest.mark.parametrize("record", [{}], indirect=True)
def test_each_aim_is_judged_by_what_was_measured(record):
    runs = record["peers"][0]["runs"]
    for levels in (1, 10):  # 40 times at ten levels on one concept; 2.0 at one, on two
        runs[:] = [r for r in runs if (r["side"], r["levels"]) != ("library", levels)]
        runs += [run("library", c, levels, 0.5, 0.25 if levels == 10 else 1.0) for c in "ab"]
    record["stages"][2] = stage("Case 1, no nulls", [4.0], 0.5)  # pass 2 s, products 1 s
    grows = {"stage": "sweep", "date": "", "exponent": 1.2, "high": 1.3}
    for axis, low, peaks in (
        ("levels", 1.1, (9.0, 3.0, 7.0)), ("tokens", 1.1, (1.0,)), ("seeds", 0.9, (7.0, 8.0, 9.5))
    ):  # fmt: skip
        points = [{"size": 2**i, "cpu_s": [1.0], "peak_mib": m} for i, m in enumerate(peaks)]
        record["scaling"].append(grows | {"axis": axis, "low": low, "points": points})
    found = cost_aims.aims_table(record, shape="s")
    assert found["verdict"].tolist() == [
        "reached", "not reached", "not measured", "not measured",  # the plain side's times
        "reached", "not reached",  # peaks: 50 MiB, and 2,000 MiB
        "reached", "not reached", "not reached",  # Case 1 twice; the sweep's rate
        "not reached", "reached", "not reached",  # growth with levels; memory
    ]  # fmt: skip
    said = found["found"].tolist()
    assert said[:2] == ["40.0", "2.0"] and said[6:9] == ["1.33", "2.00", "25 %"]
    assert found["on"].iloc[0] == "1 of 9 concepts"
    assert said[9] == "1 faster, 2 not told apart"
    assert said[10:] == ["9, 3, 7 MiB (exponent -0.18)", "7, 8, 10 MiB (exponent 0.22)"]
    record["scaling"] = [one for one in record["scaling"] if one["axis"] != "levels"]
    assert cost_aims.aims_table(record, shape="s")["verdict"].iloc[9] == cost_aims.OPEN


def test_aims_of_a_record_without_their_parts_are_not_measured(record):
    record |= {"scaling": [], "stages": [], "peers": []}
    assert set(cost_aims.aims_table(record)["verdict"]) == {"not measured"}
