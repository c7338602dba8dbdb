"""The study of trainings: shares, shrinkage of text, and intervals over two samples at once."""

from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from refusals import refused
from scipy.stats import t as student

from saerepgeo_lib.activations.models import load_model
from saerepgeo_lib.activations.sae_files import shipped_saes
from saerepgeo_lib.files import read_json
from saerepgeo_lib.plots import trainings as figures
from saerepgeo_lib.stats.estimates import NotEstimable, crossed_mean, mean_estimate
from saerepgeo_lib.studies import smollm2, trainings
from saerepgeo_lib.studies.study import read_study


@pytest.fixture(scope="module")
def shipped():
    return trainings.trainings_table(read_study("smollm2")["points"])


def test_the_mean_of_a_crossed_table_is_students_where_one_side_alone_varies():
    effect = np.random.default_rng(0).normal(1, 1, 9)
    alone, found = mean_estimate(effect), crossed_mean(effect[:, None] + np.zeros((9, 3)))
    assert (found.value, found.low, found.high) == pytest.approx(
        (alone.value, alone.low, alone.high)
    )
    turned = crossed_mean(effect[None] + np.zeros((3, 9)))
    assert (turned.low, turned.p) == pytest.approx((found.low, found.p))
    assert found.n == turned.n == 3


@pytest.mark.parametrize("spread", [(1, 1, 1), (1, 0.3, 0.3), (0.3, 1, 0.3), (1, 1, 0), (0, 0, 1)])
def test_it_rejects_a_true_null_of_such_crossings_in_about_5_percent(spread):
    """Nine concepts by three trainings, as the page has; where nothing is crossed, in less."""
    rng = np.random.default_rng(1)
    rows, columns, cells = (
        s * rng.normal(size=(1000, *shape)) for s, shape in zip(spread, [(9, 1), (1, 3), (9, 3)],
                                                              strict=True)
    )  # fmt: skip
    rejected = np.mean([crossed_mean(x).p <= 0.05 for x in rows + columns + cells])
    assert (0.03 if any(spread[:2]) else 0) < rejected < 0.08
    naive = np.mean([mean_estimate(x.ravel()[:14]).p <= 0.05 for x in (rows + columns)[:200]])
    assert naive > 0.15 or not any(spread[:2])  # cells taken for independent units


def test_it_refuses_what_does_not_vary_and_what_is_no_table():
    assert isinstance(crossed_mean(np.full((3, 3), 0.1)), NotEstimable)
    for wrong in (np.ones((1, 4)), np.full((2, 2), np.nan)):
        refused("at least 2 x 2 finite values", crossed_mean, wrong)


def test_an_sae_whose_codes_are_too_short_by_a_factor_shrinks_by_it():
    x = torch.randn(600, 8, generator=torch.Generator().manual_seed(0))
    for factor in (0.8, 1.0, 1.25):
        noise = 0.1 * torch.randn(600, 8, generator=torch.Generator().manual_seed(1))
        sae = SimpleNamespace(encode=lambda x: x, decode=lambda z, f=factor, e=noise: f * (z - e))
        residual = x + noise  # what is decoded is the factor of x, which the error does not see
        found = smollm2.rho_of_text(sae, residual)
        assert found.low <= 1 / factor - 1 + 0.01 and found.high >= 1 / factor - 1 - 0.01
        assert found.value == pytest.approx(1 / factor - 1, abs=0.01)


def test_the_shipped_results_are_those_of_todays_study(shipped):
    points = [point["point"] for point in read_study("smollm2")["points"]]
    assert points == [asdict(point) for point in smollm2.STUDY.points]
    assert len(shipped) == len(points)
    known = shipped[shipped["group"] != ""]
    assert known.groupby("label").size().eq(smollm2.N_SEEDS).all()


def test_trainings_on_a_gpu_agree_with_the_cards_of_what_was_trained_on_a_cpu(shipped):
    for kind in ("topk", "l1", "gated", "batchtopk", "matryoshka", "jumprelu"):
        card = read_json(shipped_saes()[f"smollm2-b10-{kind}"] / "card.json")
        (row,) = shipped.query("name == @kind and seed == 0").to_dict("records")
        assert row["FVU"] == pytest.approx(card["fit"]["fvu_held_out"], rel=0.02)
        assert row["recovered"] == pytest.approx(card["fit"]["next_token"]["recovered"], abs=0.01)


def test_what_is_no_result_of_this_study_is_refused():
    refused("of another study", trainings.trainings_table, read_study("vision")["points"])


def test_figures_have_a_mark_for_every_training_and_a_line_for_every_block(shipped):
    concepts = trainings.by_concept(shipped)
    compared = shipped[shipped["group"] != ""]
    (ax,) = figures.plot_by_label(compared, "x", repeat=0.1).axes
    assert sum(len(line.get_xdata()) for line in ax.get_lines() if line.get_marker() != "None") == (
        len(compared)
    )
    table = trainings.pooled(concepts, "distinction")
    assert list(table["label"]) == list(compared["label"].unique())
    chosen = shipped[shipped["name"].isin(["grid", "topk", "l1"]) & (shipped["seed"] == 0)]
    (ax,) = figures.plot_by_sparsity(chosen).axes
    assert [len(line.get_xdata()) for line in ax.get_lines()[:6]] == [2, 3, 2, 2, 3, 2]


def test_pooling_and_the_answer_follow_the_numbers(shipped):
    """A planted table: one kind draws entities apart, a null draws them together."""
    rng = np.random.default_rng(0)
    rows = [
        {"label": label, "group": group, "seed": seed, "concept": str(concept),
         "shrinkage": 0.1, "gain": gain + 0.001 * rng.normal(),
         "distinction": apart + 0.01 * rng.normal()}
        for label, group, gain, apart in [
            *((name, trainings.SAE, 0.03 if name == "L1-ReLU SAE" else 0, 0.1 * (i == 0))
              for i, name in enumerate(trainings.KINDS.values())),
            ("dense AE", trainings.NULL, 0.0, -0.2)]
        for seed in range(3) for concept in range(9)
    ]  # fmt: skip
    planted = pd.DataFrame(rows)
    found = trainings.pooled(planted, "distinction").set_index("label")
    assert found.loc["dense AE", ["concepts", "trainings"]].tolist() == [9, 3]
    assert found.loc["L1-ReLU SAE", "low"] < 0.1 < found.loc["L1-ReLU SAE", "high"]
    least = trainings.pooled(planted, "distinction", minus="dense AE").set_index("label")
    assert least.loc["L1-ReLU SAE", "value"] == pytest.approx(0.3, abs=0.01)
    planted = pd.concat([planted, planted.query("label == 'dense AE'").assign(
        label=trainings.MATCHED)])  # fmt: skip
    text = trainings.trainings_answer(shipped, planted)
    assert "beyond chance, in 1 of 6 kinds of SAE, and closer together in 0; of the 2 nulls" in text
    assert "further apart in 0 and closer in 2. Against a dense bottleneck" in text
    assert "they are further apart in 6 of the 6 kinds, and closer in 0" in text
    assert "saves at best 3.0 %" in text or "saves at best 2.9 %" in text


def test_a_saving_has_no_bound_below_0_and_no_p():
    rows = [{"label": "A", "group": "g", "seed": s, "concept": str(c), "gain": 0.1 * (c == 0)}
            for s in range(3) for c in range(9)]  # fmt: skip
    (row,) = trainings.pooled_gain(pd.DataFrame(rows)).to_dict("records")
    assert row["low"] == 0 < row["value"] < row["high"] and "p" not in row


def test_the_mean_of_a_crossed_table_by_hand():
    """Mean squares of three rows, two columns and what is left: 7.125, 1.5 and 0.125."""
    x = np.array([[0.0, 1.0], [2.0, 3.5], [4.0, 4.5]])
    found, (r, c, e) = crossed_mean(x), (7.125, 1.5, 0.125)
    error, df = ((r + c - e) / 6) ** 0.5, (r + c - e) ** 2 / (r**2 / 2 + c**2 / 1 + e**2 / 2)
    assert found.high - found.value == pytest.approx(student.ppf(0.975, df) * error, rel=1e-3)


@pytest.mark.gpu
def test_a_model_with_drawn_weights_is_on_the_gpu_with_the_weights_of_the_cpu():
    here, there = (load_model("minilm", device=d, random_state=0) for d in ("cpu", "cuda"))
    for one, other in zip(here.parameters(), there.parameters(), strict=True):
        assert other.is_cuda and torch.equal(one, other.cpu())
