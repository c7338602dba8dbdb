"""Dose and response, correlations over doses, and the verdict drawn from them."""

import numpy as np
import pandas as pd
import pytest
from planted_codes import random_setting, simplex_setting
from scipy import stats

from saerepgeo_lib import dose_response, intervention_verdict, scaling, statistics
from saerepgeo_lib.dose_response import ARRANGEMENT, LEAST, PATHS, PUSH, UNIFORM
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.points import NotEstimable

QUICK = {"n_steps": 40, "n_bootstrap": 200}


@pytest.fixture(scope="module")
def table():
    setting = random_setting()
    return setting, dose_response.dose_response(
        setting, np.arange(27) % 9, np.arange(27) % 3, **QUICK
    )


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
    assert (found["AEDP"] / found["dose"] - 1).abs().max() < 0.02
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
        setting, prompt, prompt % 4, paths=[UNIFORM], n_bootstrap=4_000, seed=1
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
    # and the change, with its interval over the four groups
    groups = np.arange(20) % 4
    ratio = after.sum() / before.sum()
    replicates = [after[groups != g].sum() / before[groups != g].sum() for g in range(4)]
    error = np.sqrt(3 / 4 * np.square(np.array(replicates) - np.mean(replicates)).sum())
    half = stats.t.ppf(0.975, 3) * error
    row = found.loc[1.5]
    assert row["change"] == pytest.approx(ratio - 1) and row["groups"] == 4
    assert row["change high"] - row["change"] == pytest.approx(half)
    assert row["p"] == pytest.approx(2 * stats.t.sf(abs(ratio - 1) / error, 3))


def test_doses_are_checked():
    for doses, message in (
        ([1, 0.5, 1.2, 2], "ascend"), ([0, 1, 2, 3], "positive"), ([1], "at least 2"),
        ([0.5, 0.8, 1.2, 1.5], "must hold 1"), ([0.5, 1, 2, np.inf], "ascend"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            dose_response.check_doses(doses)
    with pytest.raises(UserError, match="unknown path 'pushed'"):
        dose_response.dose_response(
            random_setting(), np.arange(27), np.arange(27) % 3, paths=["pushed"]
        )


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


def responses_of(path, change, spread=0.01, *, concept="months", sae="SAE", aedp=None, p=0.01):
    doses = [0.5, 0.8, 1.0, 1.2, 1.5]
    change = np.array(change)
    return pd.DataFrame({
        "concept": concept, "SAE": sae, "path": path, "dose": doses, "AEDP": aedp or doses,
        "MSE": 1 + change, "change": change, "change low": change - spread,
        "change high": change + spread, "p": p, "groups": 12,
    })  # fmt: skip


def law_of(slope, spread=0.01, *, concept="months", sae="SAE", **columns):
    row = {
        "concept": concept, "SAE": sae, "rho*": 1.1, "low": 1.05, "high": 1.15, "p": 0.01, "n": 12,
        "rho* outward": 1.1, "slope": slope, "slope low": slope - spread,
        "slope high": slope + spread, "slope p": 0.01, "slope n": 12, "helps up to": 1.2,
        "gain": 0.05, "least MSE": 0.3, "free from": 0.9,
    }  # fmt: skip
    return pd.DataFrame([row | columns])


FALLS, PART, RISES = [0.5, 0.2, 0, -0.2, -0.4], [0.5, 0.2, 0, -0.1, 0.4], [0.5, 0.2, 0, 0.1, 0.4]


@pytest.mark.parametrize(
    ("change", "slope", "verdict"),
    [
        (FALLS, -1.0, "holds"),
        (PART, -1.0, "holds in part"),
        (RISES, -0.5, "holds in part"),  # only a small push helps
        (RISES, -0.005, "does not hold"),  # within its interval
        (RISES, 0.5, "does not hold"),
    ],
)
def test_the_claim_is_judged_by_the_slope_and_the_doses_above_one(change, slope, verdict):
    rows = responses_of(PUSH["valid"], change)
    (found,) = intervention_verdict.judge_push(law_of(slope), rows)
    assert found.verdict == verdict and found.value == slope and found.n == 12
    missed = responses_of(PUSH["valid"], change, aedp=[0.5, 0.8, 1, 1.2, 1.2])
    (found,) = intervention_verdict.judge_push(law_of(slope), missed)
    assert found.verdict == "cannot be tested here"
    no_interval = law_of(slope, np.nan, **{"slope p": np.nan, "slope n": 0})
    (found,) = intervention_verdict.judge_push(no_interval, rows)
    assert found.verdict == ("holds" if verdict == "holds" else "cannot be tested here")


def test_the_least_error_is_judged_by_its_change_beyond_chance():
    for change, options, verdict in (
        (FALLS, {}, "holds"), (PART, {}, "holds in part"), (RISES, {}, "does not hold"),
        (FALLS, {"spread": 0.5}, "does not hold"), (FALLS, {"p": 0.2}, "does not hold"),
    ):  # fmt: skip
        rows = responses_of(LEAST["valid"], change, **options)
        (found,) = intervention_verdict.judge_least(rows)
        assert found.verdict == verdict and found.value == change[3]


def test_correlations_are_judged_on_all_three_paths():
    rows = pd.concat([
        responses_of(path, change, concept=concept)
        for path, change in ((PUSH["valid"], [0.5, 0.2, 0, 0.2, 0.5]), (LEAST["valid"], FALLS),
                             (LEAST["free"], [0, 0, 0, 0, 0]))
        for concept in "abc"
    ])  # fmt: skip
    related = dose_response.correlations(rows)
    claims = intervention_verdict.judge_correlations(related)
    by_path = {(c.subject, c.statistic.partition(", ")[2]): c.verdict for c in claims}
    for subject in ("SAE", "all"):
        assert by_path[subject, PUSH["valid"]] == "does not hold"
        assert by_path[subject, LEAST["valid"]] == "holds"
        assert by_path[subject, LEAST["free"]] == "cannot be tested here"


def test_shrinkage_explains_only_if_the_effect_comes_and_goes_with_it():
    def rows(change, kind):
        return responses_of(PUSH["valid"], change).assign(shrinkage=kind)

    taken, planted = intervention_verdict.TAKEN, intervention_verdict.PLANTED
    for change, kind, verdict in (
        (RISES, taken, "holds"), (PART, taken, "does not hold"),
        (PART, planted, "holds"), (RISES, planted, "does not hold"),
    ):  # fmt: skip
        (claim,) = intervention_verdict.judge_manipulations(rows(change, kind))
        assert claim.verdict == verdict and kind in claim.subject
    law = pd.concat([law_of(0), law_of(0, low=0.95), law_of(0, p=0.2), law_of(0, p=np.nan)])
    verdicts = [c.verdict for c in intervention_verdict.judge_shrinkage(law)]
    assert verdicts == ["holds", "does not hold", "does not hold", "cannot be tested here"]


def test_a_planted_shrinkage_is_found_and_its_effect_taken_away():
    prompt = np.arange(40) % 8
    for shrinkage, helps in ((0.5, True), (1.0, False)):
        setting = simplex_setting(shrinkage=shrinkage)
        options = {"paths": [PUSH["valid"]], "n_bootstrap": 50}
        rows = dose_response.dose_response(setting, prompt, prompt % 4, **options)
        above = rows[rows["dose"] > 1]
        assert ((above["change high"] < 0) == helps).all()
        for optimum, sign in ((1.0, 1), (1.5, -1)):
            changed = scaling.with_optimum(setting, optimum)
            rows = dose_response.dose_response(
                changed, prompt, prompt % 4, doses=[1.0, 1.2], **options
            )
            assert np.sign(rows["change"].iloc[-1]) == sign


def answer(change, slope, manipulated, **law):
    rows = pd.concat([
        responses_of(path, change, concept=c) for path in (PUSH["valid"], LEAST["valid"])
        for c in "ab"
    ])  # fmt: skip
    laws = pd.concat([law_of(slope, concept=c, **law) for c in "ab"])
    walks = pd.DataFrame({"label": "nothing", "measure": ["own", "z-scored"] * 2,
                          "r": [0.9, -0.8, 0.7, -0.6], "apart": 0.9,
                          "together": 0.88})  # fmt: skip
    claims = [
        *intervention_verdict.judge_push(laws, rows), *intervention_verdict.judge_least(rows),
        *intervention_verdict.judge_manipulations(manipulated),
    ]  # fmt: skip
    return intervention_verdict.answer_text(laws, rows, claims, walks, random_label="nothing")


def test_the_answer_says_what_was_found_and_nothing_else():
    gone = responses_of(PUSH["valid"], RISES).assign(shrinkage=intervention_verdict.TAKEN)
    still = responses_of(PUSH["valid"], FALLS).assign(shrinkage=intervention_verdict.TAKEN)
    no = answer(RISES, 0.5, gone)
    assert "Over 2 cases (SAE and concept) the claim does not hold.**" in no
    assert "- **SAE: does not hold.** More separable helps up to AEDP x 1.20 and saves" in no
    assert "the error is 1.10 at x 1.2, 1.40 at x 1.5 of what it was" in no
    assert "raises the error in 1 of 1 cases" in no
    assert "median Spearman of -0.70" in no and "+0.80" in no
    assert "falls by 10.0 % when the clusters walk apart, and by 12.0 % when" in no
    yes = answer(FALLS, -1.0, still)
    assert "the claim holds.**" in yes and "- **SAE: holds.**" in yes
    assert "falls as separability rises holds." in yes
    assert "raises the error in 0 of 1 cases" in yes
    assert "From AEDP x 0.90 on" in yes
    infinite = answer(FALLS, -1.0, still, **{"free from": float("inf")})
    assert "no direction of the code is unseen" in infinite and "inf" not in infinite
    table = intervention_verdict.by_autoencoder(law_of(0), responses_of(PUSH["valid"], RISES))
    assert table.loc[0, "MSE at x 1.2"] == "1.10" and table.loc[0, "saves at best"] == "5.0 %"


def test_objectives_are_counted_over_cases_and_kinds():
    rows = pd.DataFrame(
        [("a", "s", "free", "separate", 0.5, True), ("a", "s", "free", "gather", 0.7, False),
         ("a", "s", "valid", "separate", 1.2, True), ("a", "s", "valid", "gather", 1.1, True),
         ("a", "s", "free", "push to x 1.5", 2.0, None)],
        columns=["concept", "SAE", "kind", "path", "MSE", "converged"],
    )  # fmt: skip
    assert intervention_verdict.effect_counts(rows) == {
        "pairs": 2, "separate lower": 1, "gather lower": 1, "separate below gather": 1,
        "converged": 3, "runs": 4}  # fmt: skip
