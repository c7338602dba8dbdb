"""Matching at equal L0, intervals over few seeds, and verdicts, on runs with known differences."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from saerepgeo_lib.separability_effects import (
    OUTCOMES,
    answer_text,
    effects,
    effects_shown,
    judge,
    matched,
    own_loss,
    runs_table,
    seeds_estimate,
)

CONCEPT = {
    "FVU": 0.3, "AEDP": 1.0, "AEDP clusters": 1.1, "probing": 0.5, "rank range": 0.2,
    "clusters": 4, "dimension": 8.0, "rho*": 1.1, "slope": -0.2,
}  # fmt: skip


def run(kind, strength, seed, l0, fvu, coefficient=1.0, **changed):
    concept = CONCEPT | changed
    text = {"FVU": fvu, "L0": l0, "dead": 0.01, "separability": 0.9, "loss": 100.0}
    return {
        "point": {"kind": kind, "coefficient": coefficient, "strength": strength, "seed": seed},
        "result": text | {"concepts": {"a": concept, "b": {**concept, "probing": 0.7}}},
        "seconds": 1.0,
    }


def line(l0, seed):
    """FVU of a baseline: a line in log L0, another one for each seed."""
    return 0.5 + 0.01 * seed - 0.08 * np.log(l0)


def grid(factor=0.9, l0=50.0, accuracy=(0.1, 0.12, 0.11)):
    """L1 runs whose FVU is `factor` of the baselines' line at their own L0; TopK that is equal."""
    points = []
    for seed in range(3):
        points += [run("standard", 0.0, seed, x, line(x, seed), x) for x in (80.0, 30.0, 45.0)]
        points.append(run("standard", 5.0, seed, l0, factor * line(l0, seed), AEDP=1.2))
        points.append(run("topk", 0.0, seed, 32.0, 0.2 + seed))
        points.append(run("topk", 5.0, seed, 32.0, 0.2 + seed, probing=0.5 + 2 * accuracy[seed]))
    return runs_table(points)


def effect_of(found, kind, strength, outcome):
    """The row of one kind, strength and outcome."""
    keys = ["kind", "strength", "outcome"]
    return found.set_index(keys, verify_integrity=True).loc[kind, strength, outcome]


def test_concepts_are_averaged_and_both_kinds_of_fvu_kept_apart():
    (row,) = runs_table([run("topk", 0.0, 3, 32.0, 0.2)]).to_dict("records")
    assert row["probing"] == pytest.approx(0.6) and row["FVU"] == 0.2
    assert row["FVU content"] == pytest.approx(0.3)
    assert (row["kind"], row["seed"], row["L0"]) == ("topk", 3, 32.0)


def test_an_l1_run_is_compared_with_its_seeds_baselines_at_its_own_l0():
    found = effects(matched(grid()))
    fvu = effect_of(found, "standard", 5.0, "FVU")
    assert fvu["value"] == pytest.approx(-10) and fvu["n"] == 3 and fvu["outside"] == 0
    assert effect_of(found, "standard", 5.0, "AEDP")["value"] == pytest.approx(20)
    assert effect_of(found, "topk", 5.0, "probing")["value"] == pytest.approx(0.11)
    assert effect_of(found, "topk", 5.0, "FVU")["value"] == 0
    assert set(found["outcome"]) == set(OUTCOMES)


def test_without_matching_a_change_of_l0_alone_would_look_like_an_effect():
    runs = grid(factor=1.0, l0=70.0)
    middle = runs.query("kind == 'standard' and coefficient == 45 and strength == 0")["FVU"]
    regularised = runs.query("kind == 'standard' and strength == 5")["FVU"]
    assert regularised.mean() < 0.9 * middle.mean()
    fvu = effect_of(effects(matched(runs)), "standard", 5.0, "FVU")
    assert fvu["value"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("l0", "outside"), [(29.0, True), (81.0, True), (79.0, False)])
def test_an_l0_beyond_the_baselines_is_said_and_not_judged(l0, outside):
    changes = matched(grid(l0=l0))
    mine = changes[changes["kind"] == "standard"]
    assert mine["outside"].all() == outside == mine["outside"].any()
    assert mine[mine["outcome"] == "FVU"]["change"].to_numpy() == pytest.approx(-10)
    verdicts = {c.verdict for c in judge(effects(changes)) if "L1" in c.subject}
    assert ("cannot be tested here" in verdicts) == outside


def test_a_topk_run_of_another_l0_is_outside():
    runs = grid()
    runs.loc[(runs["kind"] == "topk") & (runs["strength"] > 0), "L0"] = 31.0
    assert matched(runs).query("kind == 'topk'")["outside"].all()


def test_the_interval_over_seeds_is_students():
    sample = np.array([0.4, 1.0, 0.7])
    found = seeds_estimate(sample)
    known = stats.ttest_1samp(sample, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((known.low, known.high))
    assert found.p == pytest.approx(stats.ttest_1samp(sample, 0).pvalue) and found.n == 3
    assert seeds_estimate(np.zeros(3)).p == 1 and seeds_estimate(np.ones(3)).p == 0


def verdicts(**options):
    claims = judge(effects(matched(grid(**options))))
    return {
        (c.id.removeprefix("training-separability-"), c.subject[-8:]): c.verdict for c in claims
    }


def test_verdicts_go_by_the_interval_and_the_side():
    found = verdicts(factor=0.9)
    assert found["fvu", "ReLU SAE"] == "holds" and found["separates", "ReLU SAE"] == "holds"
    assert found["probing", "TopK SAE"] == "holds" and found["fvu", "TopK SAE"] == "does not hold"
    assert verdicts(factor=1.1)["fvu", "ReLU SAE"] == "does not hold"
    scattered = verdicts(accuracy=(0.3, -0.1, 0.1))
    assert scattered["probing", "TopK SAE"] == "does not hold"


def test_a_strength_below_zero_is_a_control_and_no_case_of_a_claim():
    runs = grid()
    below = runs[runs["strength"] > 0].assign(strength=-5.0)
    found = effects(matched(pd.concat([runs, below])))
    assert {c.subject for c in judge(found)} == {c.subject for c in judge(effects(matched(runs)))}
    assert effect_of(found, "standard", -5.0, "FVU")["value"] == pytest.approx(-10)


def test_words_and_table_say_the_same_numbers():
    found = effects(matched(grid(factor=1.1)))
    text = answer_text(found, judge(found))
    line = next(x for x in text.splitlines() if "L1-ReLU SAE: it lowers the FVU" in x)
    assert "does not hold in 1 of 1" in line and "opposite: 1)" in line and "+10 [" in line
    table = effects_shown(found).set_index(["SAE", "outcome"])
    assert table.loc[("L1-ReLU SAE", OUTCOMES["FVU"][0]), "strength 5"].startswith("+10 [")


def test_a_run_is_held_against_its_baseline_on_the_loss_that_it_was_trained_on():
    points = [run("topk", s, seed, 32.0, 0.2) for seed in range(3) for s in (0.0, 10.0, 20.0)]
    runs = runs_table(points)
    gains = runs["strength"] == 10
    runs.loc[gains, "loss"] = [103.0, 103.1, 102.9]
    runs.loc[gains, "separability"] = 0.9 * np.e  # gains 10 at strength 10, and pays 3
    runs.loc[runs["strength"] == 20, "loss"] = [103.0, 103.1, 102.9]  # pays 3 for nothing
    ten, twenty = own_loss(runs).to_dict("records")
    assert ten["change"] == pytest.approx(-7) and ten["better"] == "regularised"
    assert twenty["change"] == pytest.approx(3) and twenty["better"] == "baseline"
    runs.loc[gains, "loss"] = [90.0, 130.0, 110.0]
    assert own_loss(runs)["better"].tolist() == ["undecided", "baseline"]
