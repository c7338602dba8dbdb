"""Dose and response, correlations over doses, and the verdict drawn from them."""

import numpy as np
import pandas as pd
import pytest
from planted_codes import random_setting, simplex_setting

from saerepgeo_lib import dose_response, intervention_verdict, scaling, statistics
from saerepgeo_lib.dose_response import ARRANGEMENT, LEAST, PATHS, PUSH, UNIFORM
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.points import NotEstimable

QUICK = {"n_steps": 40, "n_bootstrap": 200}


@pytest.fixture(scope="module")
def table():
    setting = random_setting()
    return setting, dose_response.dose_response(setting, np.arange(27) % 9, **QUICK)


def test_every_path_has_every_dose_and_starts_at_the_unedited_code(table):
    found = table[1]
    assert list(dict.fromkeys(found["path"])) == list(PATHS)
    assert (found.groupby("path")["dose"].apply(list).map(tuple) == (0.5, 0.8, 1, 1.2, 1.5)).all()
    for path in (UNIFORM, ARRANGEMENT, *PUSH.values()):
        row = found[(found["path"] == path) & (found["dose"] == 1)].iloc[0]
        assert row["AEDP"] == pytest.approx(1) and row["MSE"] == pytest.approx(1)
        assert row["low"] == pytest.approx(1) and row["high"] == pytest.approx(1)
        assert row["change"] == 0 and row["p"] == 1
        assert row["z-scored"] == pytest.approx(1)
    assert (found["AEDP"] / found["dose"] - 1).abs().max() < 0.1
    one = found[found["dose"] == 1].set_index("path")["MSE"]
    np.testing.assert_allclose(found["change"], found["MSE"] / found["path"].map(one) - 1)


def test_the_least_error_is_least_and_bounded(table):
    setting, found = table
    values = found.pivot(index="dose", columns="path", values="MSE")
    least, bound = scaling.least_mse(setting) / setting.mse, scaling.free_from(setting)
    free = values[LEAST["free"]]
    assert bound < 1.5
    np.testing.assert_allclose(free[free.index >= bound], least)
    assert (free >= least * (1 - 1e-9)).all()
    assert (free <= values[PUSH["free"]] + 1e-6).all()
    assert (free <= values[ARRANGEMENT] + 1e-6).all()


def test_bands_are_those_of_resampled_prompts():
    """The ratio of two sums over prompts, resampled by hand."""
    setting = random_setting(k=4, per=15, loose=0)
    prompt = np.repeat(np.arange(20), 3)
    found = dose_response.dose_response(
        setting, prompt, paths=[UNIFORM], n_bootstrap=4_000, seed=1
    ).set_index("dose")
    centre = setting.decoded.mean(0)
    moved = setting.x - setting.decoder.bias - centre - 1.5 * (setting.decoded - centre)
    after = moved.square().sum(1).numpy().reshape(20, 3).sum(1)
    before = setting.error.square().sum(1).numpy().reshape(20, 3).sum(1)
    rng = np.random.default_rng(9)
    rows = rng.integers(20, size=(4_000, 20))
    ratios = after[rows].sum(1) / before[rows].sum(1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    width = high - low
    assert found.loc[1.5, "low"] == pytest.approx(low, abs=0.1 * width)
    assert found.loc[1.5, "high"] == pytest.approx(high, abs=0.1 * width)
    assert found.loc[1.5, "prompts"] == 20


def test_doses_are_checked():
    for doses, message in (
        ([1, 0.5, 1.2, 2], "ascend"), ([0, 1, 2, 3], "positive"), ([0.5, 1, 2], "at least 4"),
        ([0.5, 0.8, 1.2, 1.5], "must hold 1"), ([0.5, 1, 2, np.inf], "ascend"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            dose_response.check_doses(doses)
    with pytest.raises(UserError, match="unknown path 'pushed'"):
        dose_response.dose_response(random_setting(), np.arange(27), paths=["pushed"])


def test_correlations_within_cases_ignore_their_levels():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3, 6)), rng.normal(size=(3, 6))
    levels = np.array([[0.0], [100], [-50]])
    centred = np.corrcoef((x - x.mean(1, keepdims=True)).ravel(),
                          (y - y.mean(1, keepdims=True)).ravel())[0, 1]  # fmt: skip
    for a, b in ((x, y), (x + levels, y - 7 * levels)):
        found = statistics.correlation_within(list(zip(a, b, strict=True)), n_resamples=500)
        assert found.value == pytest.approx(centred) and found.n == 18
    one = statistics.correlation_within([(x[0], y[0])], method="spearman")
    assert one == statistics.correlation(x[0], y[0], method="spearman")
    monotone = [(v, np.exp(v) * 5 + k) for k, v in enumerate(x)]
    up = statistics.correlation_within(monotone, method="spearman", n_resamples=999)
    assert up.value == pytest.approx(1) and up.p == pytest.approx(0.001, abs=1e-4)
    flat = statistics.correlation_within([(x[0], np.full(6, 3.0)), (x[1], np.full(6, 5.0))])
    assert isinstance(flat, NotEstimable) and "y does not vary" in str(flat)
    with pytest.raises(UserError, match="length >= 4"):
        statistics.correlation_within([(x[0], y[0]), (x[1][:3], y[1][:3])])


def test_the_permutation_within_groups_holds_its_level():
    rng = np.random.default_rng(1)
    p = []
    for trial in range(300):
        groups = [(rng.normal(size=5) + 9 * k, rng.normal(size=5) - 9 * k) for k in range(3)]
        p.append(
            statistics.correlation_within(groups, n_resamples=199, random_state=trial + 1000).p
        )
    assert 0.02 < np.mean(np.array(p) <= 0.05) < 0.09


def responses_of(path, change, low, high, *, concept="months", sae="SAE", aedp=None):
    doses = [0.5, 0.8, 1.0, 1.2, 1.5]
    return pd.DataFrame({
        "concept": concept, "SAE": sae, "path": path, "dose": doses, "AEDP": aedp or doses,
        "MSE": 1 + np.array(change), "change": change, "change low": low, "change high": high,
        "p": 0.01, "prompts": 10,
    })  # fmt: skip


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ([0.5, 0.2, 0, -0.2, -0.4], "holds"),
        ([0.5, 0.2, 0, -0.2, 0.4], "holds in part"),
        ([0.5, 0.2, 0, 0.1, 0.4], "does not hold"),
        ([0.5, 0.2, 0, -0.05, 0.0], "does not hold"),  # within its interval
    ],
)
def test_the_claim_is_judged_at_the_doses_above_one(change, verdict):
    change = np.array(change)
    for path, claim in (
        (PUSH["valid"], "case3-separability-helps"), (LEAST["valid"], "case3-own-effect")
    ):  # fmt: skip
        rows = responses_of(path, change, change - 0.1, change + 0.1)
        (found,) = intervention_verdict.judge_paths(rows)
        assert (found.id, found.verdict) == (claim, verdict)
        assert found.value == change[3] and found.n == 10
        missed = responses_of(path, change, change, change, aedp=[0.5, 0.8, 1, 1.2, 1.2])
        (found,) = intervention_verdict.judge_paths(missed)
        assert found.verdict == "cannot be tested here"


def shrinkage_rows(**columns):
    rows = pd.DataFrame({
        "concept": list("abcd"), "SAE": "SAE", "rho*": [1.1, 1.2, 1.0, 0.8],
        "low": [1.05, 1.1, 0.9, 0.7], "high": [1.15, 1.3, 1.1, 0.9],
        "p": [0.01, 0.01, 0.9, 0.01], "n": 12, "rho* outward": [1.1, 1.2, 1.0, 0.8],
        "p outward": [0.01, 0.01, 0.9, 0.01], "elasticity outward": [-0.2, -0.4, 0.01, 0.4],
        "steepest": [-0.25, -0.38, -0.01, 0.42], "least MSE": 0.3, "free from": 0.9,
    })  # fmt: skip
    return rows.assign(**columns)


def test_shrinkage_explains_only_if_signs_and_sizes_agree():
    rises, falls = np.array([0.3, 0.1, 0, 0.1, 0.4]), np.array([0.3, 0.1, 0, -0.1, 0.4])
    calm = responses_of(PUSH["valid"], rises, rises - 0.01, rises + 0.01)
    claims = intervention_verdict.judge_shrinkage(shrinkage_rows(), calm)
    assert [c.verdict for c in claims if c.id == "case3-shrinks"] == [
        "holds", "holds", "does not hold", "does not hold"]  # fmt: skip
    assert [c.verdict for c in claims if c.id == "case3-explained"] == ["holds", "holds"]
    wrong = shrinkage_rows(steepest=[0.25, -0.38, -0.01, 0.42])
    explained = [
        c for c in intervention_verdict.judge_shrinkage(wrong, calm) if c.id == "case3-explained"
    ]
    assert explained[0].verdict == "does not hold"
    still = responses_of(PUSH["valid"], falls, falls - 0.01, falls + 0.01)
    claims = intervention_verdict.judge_shrinkage(shrinkage_rows(), still)
    assert [c.verdict for c in claims if c.id == "case3-explained"] == ["holds", "does not hold"]


def test_a_planted_shrinkage_is_found_and_explains_the_effect():
    prompt = np.arange(40) % 8
    for shrinkage, helps in ((0.5, "holds"), (1.0, "does not hold")):
        setting = simplex_setting(shrinkage=shrinkage)
        options = {"paths": [PUSH["valid"]], "n_bootstrap": 200}
        rows = dose_response.dose_response(setting, prompt, **options)
        rows.insert(0, "SAE", "planted")
        rows.insert(0, "concept", "simplex")
        (claim,) = intervention_verdict.judge_paths(rows)
        assert claim.verdict == helps
        corrected = dose_response.dose_response(scaling.unshrunk(setting), prompt, **options)
        above = corrected[corrected["dose"] > 1]
        assert (above["change low"] > 0).all()


def test_the_answer_counts_cases_and_holds_the_runs_numbers():
    rises, falls = np.array([0.3, 0.1, 0, 0.1, 0.4]), np.array([0.5, 0.2, 0, -0.2, -0.4])
    rows = pd.concat([
        responses_of(PUSH["valid"], rises, rises - 0.01, rises + 0.01, concept="a", sae="one"),
        responses_of(PUSH["valid"], falls, falls - 0.01, falls + 0.01, concept="b", sae="one"),
    ])  # fmt: skip
    law = shrinkage_rows(SAE=["one", "one", "two", "two"])
    walks = pd.DataFrame({"label": "nothing", "measure": ["own", "z-scored"] * 2,
                          "r": [0.9, -0.8, 0.7, -0.6]})  # fmt: skip
    text = intervention_verdict.answer_text(law, rows, rows, walks, random_label="nothing")
    assert "Over 2 cases (SAE and concept) the claim holds in 1, holds in part in 0" in text
    assert "**one: holds in part.** rho* = 1.10 to 1.20 (above 1 beyond chance in 2 of 2" in text
    assert "raises the error in 1 of 2 cases" in text
    assert "median Spearman -0.70" in text and "+0.80" in text
    answer = intervention_verdict.by_autoencoder(law, rows).set_index("SAE")
    assert answer.loc["one", "MSE at x 1.2"] == "0.80 to 1.10 (lower: 1)"
    assert answer.loc["two", "MSE at x 1.2"] == "–"
