"""Case 3's verdict, drawn from planted tables."""

import numpy as np
import pandas as pd

from saerepgeo_lib.plots.interventions import with_intervals
from saerepgeo_lib.steering.dose_response import LEAST, PUSH, correlations
from saerepgeo_lib.studies import case3_verdict as verdict
from saerepgeo_lib.studies.steering_experiment import NOTHING, PLANTED, TAKEN


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


def test_the_claim_is_judged_by_the_slope_and_the_doses_above_one():
    for change, slope, expected in (
        (FALLS, -1.0, "holds"), (PART, -1.0, "holds in part"),
        (RISES, -0.5, "holds in part"),  # only a small push helps
        (RISES, -0.005, "does not hold"), (RISES, 0.5, "does not hold"),  # one in its interval
    ):  # fmt: skip
        rows = responses_of(PUSH["valid"], change)
        (claim,) = verdict.judge_push(law_of(slope), rows)
        assert (claim.verdict, claim.value, claim.n) == (expected, slope, 12)
        assert (claim.concept, claim.autoencoder) == ("months", "SAE")
        missed = responses_of(PUSH["valid"], change, aedp=[0.5, 0.8, 1, 1.2, 1.2])
        (claim,) = verdict.judge_push(law_of(slope), missed)
        assert claim.verdict == "cannot be tested here"
        no_interval = law_of(slope, np.nan, **{"slope p": np.nan, "slope n": 0})
        (claim,) = verdict.judge_push(no_interval, rows)
        assert claim.verdict == ("holds" if expected == "holds" else "cannot be tested here")


def test_the_least_error_is_judged_by_its_change_beyond_chance():
    for change, options, expected in (
        (FALLS, {}, "holds"), (PART, {}, "holds in part"), (RISES, {}, "does not hold"),
        (FALLS, {"spread": 0.5}, "does not hold"), (FALLS, {"p": 0.2}, "does not hold"),
    ):  # fmt: skip
        (claim,) = verdict.judge_least(responses_of(LEAST["valid"], change, **options))
        assert (claim.verdict, claim.value, claim.dose) == (expected, change[3], 1.2)


def test_correlations_are_judged_on_all_three_paths():
    rows = pd.concat([
        responses_of(path, change, concept=concept)
        for path, change in ((PUSH["valid"], [0.5, 0.2, 0, 0.2, 0.5]), (LEAST["valid"], FALLS),
                             (LEAST["free"], [0, 0, 0, 0, 0]))
        for concept in "abc"
    ])  # fmt: skip
    claims = verdict.judge_correlations(correlations(rows))
    by_path = {(c.autoencoder, c.statistic.partition(", ")[2]): c.verdict for c in claims}
    assert by_path == {
        (label, path): expected
        for label in ("SAE", "")
        for path, expected in ((PUSH["valid"], "does not hold"), (LEAST["valid"], "holds"),
                               (LEAST["free"], "cannot be tested here"))
    }  # fmt: skip


def test_shrinkage_explains_only_if_the_effect_comes_and_goes_with_it():
    for change, kind, expected in (
        (RISES, TAKEN, "holds"), (PART, TAKEN, "does not hold"),
        (PART, PLANTED, "holds"), (RISES, PLANTED, "does not hold"),
    ):  # fmt: skip
        rows = responses_of(PUSH["valid"], change).assign(shrinkage=kind)
        (claim,) = verdict.judge_manipulations(rows)
        assert (claim.verdict, claim.condition) == (expected, f"shrinkage {kind}")
        assert claim.dose == 1.2
    law = pd.concat([law_of(0), law_of(0, low=0.95), law_of(0, p=0.2), law_of(0, p=np.nan)])
    verdicts = [c.verdict for c in verdict.judge_shrinkage(law)]
    assert verdicts == ["holds", "does not hold", "does not hold", "cannot be tested here"]


def test_prompts_that_are_copies_of_each_other_are_no_evidence():
    """Every replicate gives the same number: an interval of zero width."""
    for change, expected in ((0.1, "cannot be tested here"), (0.0, "does not hold")):
        rows = responses_of(PUSH["valid"], RISES).assign(shrinkage=TAKEN)
        rows[["change", "change low", "change high"]] = change
        (claim,) = verdict.judge_manipulations(rows)
        assert claim.verdict == expected and ("replicates" in claim.reason) == (change != 0)


def test_the_artefact_is_claimed_only_of_correlations_below_zero():
    rng = np.random.default_rng(0)
    centres = np.repeat([0.9, -0.9, 0.0], 15)
    walks = pd.DataFrame({"label": "nothing", "r": centres + 0.05 * rng.normal(size=45),
                          "measure": np.repeat(["own", "z-scored", "none"], 15)})  # fmt: skip
    claims = list(verdict.judge_walks(walks))
    assert [claim.verdict == "holds" for claim in claims] == [False, True, False]
    assert claims[0].verdict == "does not hold"
    for claim in claims:
        assert -1 <= claim.low <= claim.value <= claim.high <= 1 and np.isnan(claim.p)


def answer(change, slope, manipulated, **law):
    rows = pd.concat([
        responses_of(path, change, concept=c) for path in (PUSH["valid"], LEAST["valid"])
        for c in "ab"
    ])  # fmt: skip
    laws = pd.concat([law_of(slope, concept=c, **law) for c in "ab"])
    walks = pd.DataFrame({"label": NOTHING, "measure": ["own", "z-scored"] * 2,
                          "r": [0.9, -0.8, 0.7, -0.6], "apart": 0.9,
                          "together": 0.88})  # fmt: skip
    claims = [*verdict.judge_push(laws, rows), *verdict.judge_least(rows),
              *verdict.judge_manipulations(manipulated)]  # fmt: skip
    return verdict.steering_answer_text(laws, rows, claims, walks)


def test_the_answer_says_what_was_found_and_nothing_else():
    gone = responses_of(PUSH["valid"], RISES).assign(shrinkage=TAKEN)
    still = responses_of(PUSH["valid"], FALLS).assign(shrinkage=TAKEN)
    no = answer(RISES, 0.5, gone)
    for said in (
        "Over 2 cases (SAE and concept) the claim does not hold.**",
        "- **SAE: does not hold.** More separable helps up to AEDP x 1.20 and saves",
        "the error is 1.10 at x 1.2, 1.40 at x 1.5 of what it was",
        "raises the error in 1 of 1 cases", "median Spearman of -0.70", "+0.80",
        "falls by 10.0 % when the clusters walk apart, and by 12.0 % when",
    ):  # fmt: skip
        assert said in no
    yes = answer(FALLS, -1.0, still)
    for said in ("the claim holds.**", "- **SAE: holds.**", "falls as separability rises holds.",
                 "raises the error in 0 of 1 cases", "From AEDP x 0.90 on"):  # fmt: skip
        assert said in yes
    infinite = answer(FALLS, -1.0, still, **{"free from": float("inf")})
    assert "no direction of the code is unseen" in infinite and "inf" not in infinite
    table = verdict.steering_answer(law_of(0), responses_of(PUSH["valid"], RISES))
    assert table.loc[0, "MSE at x 1.2"] == "1.10" and table.loc[0, "saves at best"] == "5.0 %"


def test_objectives_are_counted_over_cases_and_kinds_and_intervals_shown_or_said_to_be_missing():
    rows = pd.DataFrame({
        "concept": "a", "SAE": "s", "kind": ["free", "free", "valid", "valid", "free"],
        "path": ["separate", "gather", "separate", "gather", "push to x 1.5"],
        "MSE": [0.5, 0.7, 1.2, 1.1, 2.0], "converged": [True, False, True, True, None],
    })  # fmt: skip
    assert verdict.objective_counts(rows) == {
        "pairs": 2, "separate lower": 1, "gather lower": 1, "separate below gather": 1,
        "converged": 3, "runs": 4}  # fmt: skip
    rows = pd.DataFrame({"r": [1.0, 2.0], "low x": [0.5, np.nan], "high x": [2.0, np.nan],
                         "s": [3.0, 4.0], "s low": [2.0, 3.0], "s high": [4.0, 5.0]})  # fmt: skip
    shown = with_intervals(rows, {"r": " x", "s": ""})
    assert shown["r"].tolist() == ["1.00 [0.50, 2.00]", "2.00 (no interval)"]
    assert shown["s"].tolist() == ["3.00 [2.00, 4.00]", "4.00 [3.00, 5.00]"]
