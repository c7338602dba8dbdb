"""The negative control: random walks, judged by both errors."""

import numpy as np
import pandas as pd
import pytest
import torch
from planted_codes import random_setting
from scipy import stats
from scipy.optimize import minimize_scalar

from saerepgeo_lib import intervention_verdict, random_walk
from saerepgeo_lib.edits import edit, mse, standardised
from saerepgeo_lib.errors import UserError


def test_walks_keep_every_iterate_repeat_themselves_and_differ_from_each_other():
    setting = random_setting()
    found = random_walk.walks(setting, n_walks=6, seed=4)
    again = random_walk.walks(setting, n_walks=6, seed=4)
    pd.testing.assert_frame_equal(found, again, check_exact=True)
    assert (found.groupby("walk").size() == random_walk.N_ITERATES).all()
    assert found.groupby("walk")["scale"].first().tolist() == [0.5, 0.8, 1.0, 1.2, 1.5, 0.5]
    first, last = (found[found["walk"] == w]["own"].to_numpy() for w in (0, 5))  # of one scale
    assert abs(np.diff(first) / np.diff(last) - 1).min() > 1e-6  # no step in common


def test_clusters_that_move_together_keep_their_separability():
    setting = random_setting()
    walk = random_walk.random_walk(
        setting, together=True, generator=torch.Generator().manual_seed(0)
    )
    np.testing.assert_allclose(walk["AEDP"], 1)
    assert walk["own"].iloc[-1] > setting.mse
    found = random_walk.walks(setting, n_walks=2, seed=1)
    for column, together in (("apart", False), ("together", True)):
        generator = random_walk.stream(random_walk.child_seed(1, 2), "noise")
        expected = random_walk.random_walk(setting, together=together, generator=generator)
        ratio = expected["z-scored"].iloc[-1] / expected["z-scored"].iloc[0]
        assert found[column].iloc[0] == pytest.approx(ratio)


def test_the_error_of_a_walk_grows_as_its_length_says():
    """Expected error after t steps: MSE_0 + t * step^2 |W|^2 / d on the clustered tokens."""
    setting = random_setting(loose=0)
    ends = [
        random_walk.random_walk(setting, generator=torch.Generator().manual_seed(s))["own"].iloc[-1]
        for s in range(300)
    ]
    step = setting.aedp / 10 / 12**0.5
    rise = 10 * step**2 * setting.decoder.weight.square().sum().item() / 5
    error = stats.sem(ends)
    assert np.mean(ends) == pytest.approx(setting.mse + rise, abs=4 * error)


def test_overshoot_is_the_factor_that_would_reconstruct_best():
    setting = random_setting()
    edited = edit(setting, torch.zeros_like(setting.centroids))
    decoded, target = standardised(setting, edited)
    decoded, target = decoded - decoded.mean(0), target - target.mean(0)
    best = minimize_scalar(lambda f: (target - f * decoded).square().sum().item())
    assert random_walk.overshoot(setting) == pytest.approx(1 / best.x)
    unedited = mse(setting, edited, "z-scored").item()
    assert unedited == pytest.approx(
        (standardised(setting, edited)[1] - setting.decoder.bias
         - standardised(setting, edited)[0]).square().mean().item()
    )  # fmt: skip


def test_correlations_are_taken_within_walks():
    walks = pd.DataFrame({
        "concept": "c", "SAE": "s", "walk": np.repeat([0, 1], 4), "overshoot": 2.0,
        "apart": 0.8, "together": 0.9,
        "AEDP": [1, 2, 3, 4, 11, 12, 13, 14], "own": [1, 2, 3, 4, 4, 3, 2, 1],
        "z-scored": [4, 3, 2, 1, 9, 8, 7, 6],
    })  # fmt: skip
    found = random_walk.within_walks(walks)
    r = found.pivot(index="walk", columns="measure", values="r")
    assert r["own"].tolist() == pytest.approx([1, -1])
    assert r["z-scored"].tolist() == pytest.approx([-1, -1])
    table = random_walk.medians(found).iloc[0]
    assert table["walks"] == 2 and table["own: median r"] == pytest.approx(0)
    assert table["z-scored: largest"] == pytest.approx(-1) and table["overshoot"] == 2
    assert table["apart"] == 0.8 and table["together"] == 0.9


def test_the_artefact_is_claimed_only_of_correlations_below_zero():
    rng = np.random.default_rng(0)
    rows = [
        {"label": "nothing", "measure": measure, "r": centre + 0.05 * rng.normal()}
        for measure, centre in (("own", 0.9), ("z-scored", -0.9), ("none", 0.0))
        for _ in range(15)
    ]
    claims = intervention_verdict.judge_walks(pd.DataFrame(rows))
    assert [c.verdict for c in claims][:2] == ["does not hold", "holds"]
    assert claims[2].verdict != "holds"
    assert all(-1 <= c.low <= c.value <= c.high <= 1 and np.isnan(c.p) for c in claims)


def test_users_mistakes_are_named(unchecked):
    with pytest.raises(UserError, match="at least 4 iterates"):
        random_walk.random_walk(random_setting(), n_iterates=3, generator=torch.Generator())
