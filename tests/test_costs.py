"""The page of costs: its tables against planted numbers, and the page that shows them."""

import numpy as np
import pandas as pd
import pytest
from IPython.display import Markdown
from matplotlib.figure import Figure
from run_page import run_page

from benchmarks import aims, page
from benchmarks import tables as costs
from saerepgeo_lib.companion.compare import read_costs
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
def record():
    runs = [run("library", c, n, 1.0, 0.5 * n) for n in (1, 10) for c in "ab"]
    runs += [run("plain", c, 1, 2.0, 1.0) for c in "ab"] + [run("plain", "a", 10, 20.0, 10.0)]
    points = [{"size": n, "cpu_s": [2.0 * n, 3.0 * n], "peak_mib": 7.0} for n in (1, 2, 4, 8)]
    return {
        "machine": {"cpu": "c", "cores": 2, "memory_gib": 3, "torch": "t"}, "left out": [],
        "peers": [{"runs": runs}],
        "limits": [{"shape": "s", "encode": 2e9, "square": 4e9, "float64": 1e9, "bandwidth": 3e9}],
        "stages": [
            stage("residuals", [1.0, 2.0, 3.0], 0.5), stage("encode sweep", [4.0], 0.25),
            stage("Case 1, no nulls", [8.0], 0.5),
        ],
        "scaling": [{"date": "2001-02-03", "stage": "encode", "axis": "prompts",
                     "points": points, "exponent": 1.0, "low": 0.9, "high": 1.1}],
    }  # fmt: skip


@pytest.fixture
def partly(record):
    """The record of a model of which only some blocks were built."""
    record["stages"][0] |= {"blocks": "2 of 20 built", "computed_wall_s": 20.0}
    return record


def test_a_file_that_is_no_record_or_no_tables_says_what_makes_one(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"machine": {}})
    for read, words in (
        (costs.read_costs, "lacks limits, stages, scaling, peers, left out; make one with"),
        (read_costs, r"no tables of the benchmarks; 'python -m benchmarks\.page"),
    ):
        with pytest.raises(UserError, match=words):
            read(path)
    # the shipped tables are those of the shipped record
    about, tables = page.page_tables(costs.read_costs(page.SHIPPED))
    said, shown = read_costs()
    assert said == about and set(shown) == set(tables)
    for name, table in tables.items():
        pd.testing.assert_frame_equal(shown[name], table, check_dtype=False)


def test_stages_show_medians_and_mark_what_was_computed(partly):
    found = costs.stage_table(partly).set_index("stage")
    assert found.loc["residuals", ["seconds", "floor"]].tolist() == [20.0, 10.0]
    assert found.loc["residuals", "how"] == "computed: 2 of 20 built"
    assert found.loc["encode sweep", ["seconds", "floor", "how"]].tolist() == [4.0, 1.0, "measured"]


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


def test_a_record_that_lacks_a_stage_is_read(record):
    for i in range(3):
        lacks = record | {"stages": record["stages"][:i] + record["stages"][i + 1 :]}
        assert costs.near_the_limit(lacks).empty
        assert len(costs.stage_table(lacks)) == 2
        assert (aims.aims_table(lacks)["verdict"] == "not measured").sum() >= 3


def test_plain_sides_without_all_concepts_are_computed_and_dense_latents_counted(record):
    found = costs.peers_table(record)
    one, many = (found[found["task"] == task] for task in ("one noise level", "10 noise levels"))
    assert one.set_index("side")["ratio"].to_dict() == {"library": 1.0, "plain": 2.0}
    measured, computed = (many[many["side"] == "plain"].iloc[i] for i in (0, 1))
    assert (measured["concepts"], measured["CPU s"], measured["ratio"]) == (1, 30.0, 5.0)
    assert (computed["concepts"], computed["CPU s"], computed["ratio"]) == (2, 60.0, 5.0)
    assert computed["how"] == "computed: 10 times one level" and np.isnan(computed["peak MiB"])
    assert measured["peak MiB"] == 2000.0
    assert np.isnan(costs.dense_gb(record))
    record["peers"][0]["runs"][-1]["tensor"] = [10, 5, 1000]
    assert costs.dense_gb(record) == 4 * 10 * 10 * 5 * 1000 / 1e9  # decimal gigabytes


def test_the_least_that_others_take_and_how_their_costs_grow(record):
    record["limits"].append(record["limits"][0] | {"precision": "tf32", "encode": 1e12})
    record["stages"].append(stage("encode sweep", [0.1], 0.5, precision="tf32"))
    (row,) = costs.expected_table(record).to_dict("records")
    assert row["operations (GFLOP)"] == 1.0 * 4 + 1.0 * 2 and row["here, measured (s)"] == 8.0
    assert row["Colab's T4, computed bound (s)"] == pytest.approx(6e9 / 8.1e12)
    # growth is faster, or not, or not told apart, and keeps the least of the repeats
    table = pd.DataFrame({"stage": list("abc"), "axis": ["prompts"] * 3,
                          "low": [1.06, 0.9, 0.9], "high": [2, 1.05, 1.06]})  # fmt: skip
    assert costs.growth_verdicts(table) == {
        "faster": ["a with prompts"], "no faster": ["b with prompts"],
        "not told apart": ["c with prompts"],
    }  # fmt: skip
    assert costs.growth_points(record)["seconds"].tolist() == [2.0, 4.0, 8.0, 16.0]
    assert costs.growth_table(record).loc[0, ["from", "to", "MiB last"]].tolist() == [1, 8, 7.0]


@pytest.fixture
def shown_of(tmp_path, monkeypatch):
    """The page's figures and texts, and its record, of some benchmarks."""

    def of(record):
        write_json(tmp_path / "x.json", record)
        measured = str(page.write_tables(tmp_path / "x.json"))
        shown, made = run_page("what_it_costs", tmp_path, measured=measured)
        texts = [value.data for value in shown if isinstance(value, Markdown)]
        return [value for value in shown if isinstance(value, Figure)], texts, made

    return of


def test_the_page_draws_every_stage_side_and_axis(partly, shown_of):
    partly["peers"][0]["runs"].append(run("careful", "a", 10, 1.0, 1.0))  # on fewer concepts
    (stages, peers, growth), texts, made = shown_of(partly)
    assert [t.get_text() for t in stages.axes[0].get_yticklabels()] == [
        "residuals", "encode sweep", "Case 1, no nulls"
    ]  # fmt: skip
    assert [bar.get_width() for bar in stages.axes[0].patches] == [20, 4, 8]
    assert [ax.get_title() for ax in peers.axes] == ["one noise level", "10 noise levels"]
    said = [text.get_text() for ax in peers.axes for text in ax.texts]
    assert " 60 s*" in said and " 6 s" in said
    assert [t.get_text() for t in peers.axes[0].get_yticklabels()] == ["library", "plain"]
    line, one = growth.axes[0].get_lines()[:2]
    np.testing.assert_allclose(line.get_ydata(), [1, 2, 4, 8])
    assert len(one.get_xdata()) == 2 and texts == []
    assert made["tables"]["growth"]["exponent"] == [1.0]
    assert made["tables"]["stages"]["CPU s"] == [None, 1.0, 1.0]


def test_a_page_of_a_record_with_some_parts_only_says_so(record, shown_of):
    record |= {"scaling": [], "stages": [], "peers": [{"runs": [{"failed": "stopped after 3 s"}]}]}
    record["peers"][0]["runs"][0]["date"] = "2001-02-03"
    figures, texts, made = shown_of(record)
    assert not figures and texts == 3 * ["*Not in this record.*"]
    assert set(made["tables"]["aims"]["verdict"]) == {"not measured"}
    assert made["tables"]["peers"]["ratio"] == []


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
    found = aims.aims_table(record, shape="s")
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
    assert aims.aims_table(record, shape="s")["verdict"].iloc[9] == aims.OPEN
