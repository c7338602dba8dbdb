"""Dose and response, correlations over doses, and the random walks that are their control."""

import numpy as np
import pandas as pd
import pytest
import torch
from planted_latents import random_latents, simplex_latents
from scipy import stats
from scipy.optimize import minimize_scalar

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.rank.noise_sweep import child_seed, stream
from saerepgeo_lib.stats.estimates import correlation_within
from saerepgeo_lib.steering import dose_response as doses
from saerepgeo_lib.steering import random_walk, scaling
from saerepgeo_lib.steering.dose_response import ARRANGEMENT, LEAST, PUSH, UNIFORM, dose_response
from saerepgeo_lib.steering.latents import unsteered

N = np.arange(27)


def test_every_path_has_every_dose_and_starts_at_the_unsteered_latents(one_thread):
    latents = random_latents()
    rows = dose_response(latents, N % 9, N % 3, n_steps=40, n_bootstrap=200)
    assert list(dict.fromkeys(rows["path"])) == list(doses.PATHS)
    assert (rows.groupby("path")["dose"].apply(list).map(tuple) == (0.5, 0.8, 1, 1.2, 1.5)).all()
    for path in (UNIFORM, ARRANGEMENT, *PUSH.values()):
        row = rows[(rows["path"] == path) & (rows["dose"] == 1)].iloc[0]
        ones = ["AEDP", "MSE", "low", "high", "p", "z-scored"]
        np.testing.assert_allclose(row[ones].astype(float), 1, rtol=1e-6)
        assert row["change"] == 0
    assert (rows["AEDP"] / rows["dose"] - 1).abs().max() < 0.02
    one = rows[rows["dose"] == 1].set_index("path")["MSE"]
    np.testing.assert_allclose(rows["change"], rows["MSE"] / rows["path"].map(one) - 1)
    for path, law in ((UNIFORM, scaling.uniform_scaling(latents)),
                      (ARRANGEMENT, scaling.arrangement_scaling(latents))):  # fmt: skip
        scaled = rows[rows["path"] == path]
        np.testing.assert_allclose(
            scaled["MSE"], [law.mse(d) / latents.mse for d in scaled["dose"]]
        )
    # the least error is least and bounded
    values = rows.pivot(index="dose", columns="path", values="MSE")
    least, bound = scaling.least_mse(latents) / latents.mse, scaling.free_from(latents)
    free = values[LEAST["free"]]
    assert bound < 1.5
    np.testing.assert_allclose(free[free.index >= bound], least)
    assert (free >= least * (1 - 1e-9)).all()
    assert (free <= values[[PUSH["free"], ARRANGEMENT]].min(axis=1) + 1e-6).all()


def test_bands_are_those_of_resampled_prompts():
    """The ratio of two sums over prompts, resampled by hand."""
    latents = random_latents(k=4, per=15, loose=0)
    prompt = np.repeat(np.arange(20), 3)
    rows = dose_response(latents, prompt, prompt % 4, paths=[UNIFORM], n_bootstrap=4_000, seed=1)
    row = rows.set_index("dose").loc[1.5]
    centre = latents.decoded.mean(0)
    moved = latents.x - latents.decoder.bias - centre - 1.5 * (latents.decoded - centre)
    after, before = (
        e.square().sum(1).numpy().reshape(20, 3).sum(1) for e in (moved, latents.error)
    )
    drawn = np.random.default_rng(9).integers(20, size=(4_000, 20))
    low, high = np.quantile(after[drawn].sum(1) / before[drawn].sum(1), (0.025, 0.975))
    assert (row["low"], row["high"]) == pytest.approx((low, high), abs=0.1 * (high - low))
    # and the change, with its interval over the four groups
    groups = np.arange(20) % 4
    ratio = after.sum() / before.sum()
    replicates = [after[groups != g].sum() / before[groups != g].sum() for g in range(4)]
    error = np.sqrt(3 / 4 * np.square(np.array(replicates) - np.mean(replicates)).sum())
    assert row["change"] == pytest.approx(ratio - 1) and row["groups"] == 4
    assert row["change high"] - row["change"] == pytest.approx(stats.t.ppf(0.975, 3) * error)
    assert row["p"] == pytest.approx(2 * stats.t.sf(abs(ratio - 1) / error, 3))


def test_a_planted_shrinkage_is_found_and_its_effect_taken_away():
    prompt = np.arange(40) % 8
    for shrinkage, helps in ((0.5, True), (1.0, False)):
        latents = simplex_latents(shrinkage=shrinkage)
        options = {"paths": [PUSH["valid"]], "n_bootstrap": 50}
        rows = dose_response(latents, prompt, prompt % 4, **options)
        above = rows[rows["dose"] > 1]
        assert ((above["change high"] < 0) == helps).all()
        for optimum, sign in ((1.0, 1), (1.5, -1)):
            changed = scaling.with_optimum(latents, optimum)
            rows = dose_response(changed, prompt, prompt % 4, doses=[1.0, 1.2], **options)
            assert np.sign(rows["change"].iloc[-1]) == sign


def test_doses_and_paths_are_checked():
    for given, message in (
        ([1, 0.5, 1.2, 2], "ascend"), ([0, 1, 2, 3], "positive"), ([1], "at least 2"),
        ([0.5, 0.8, 1.2, 1.5], "must hold 1"), ([0.5, 1, 2, np.inf], "ascend"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            doses.check_doses(given)
    with pytest.raises(UserError, match="unknown path 'pushed'"):
        dose_response(random_latents(), N, N % 3, paths=["pushed"])


def test_correlations_within_cases_ignore_their_levels_and_hold_theirs():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 3, 6))
    levels = np.array([[0.0], [100], [-50]])
    centred = [(v - v.mean(1, keepdims=True)).ravel() for v in (x, y)]
    for a, b in ((x, y), (x + levels, y - 7 * levels)):
        pooled = correlation_within(list(zip(a, b, strict=True)), n_resamples=500)
        assert pooled.value == pytest.approx(np.corrcoef(centred)[0, 1]) and pooled.n == 18
    monotone = [(v, np.exp(v) * 5 + k) for k, v in enumerate(x)]
    up = correlation_within(monotone, method="spearman", n_resamples=999)
    assert up.value == pytest.approx(1) and up.p == pytest.approx(0.001, abs=1e-4)
    p = []  # the permutation within groups holds its level
    for trial in range(300):
        groups = [(rng.normal(size=5) + 9 * k, rng.normal(size=5) - 9 * k) for k in range(3)]
        p.append(correlation_within(groups, n_resamples=199, random_state=trial + 1000).p)
    assert 0.02 < np.mean(np.array(p) <= 0.05) < 0.09


def test_walks_keep_every_iterate_repeat_themselves_and_differ_from_each_other():
    latents = random_latents()
    walks, again = (random_walk.walks(latents, n_walks=6, seed=4) for _ in range(2))
    pd.testing.assert_frame_equal(walks, again, check_exact=True)
    assert (walks.groupby("walk").size() == random_walk.N_ITERATES).all()
    assert walks.groupby("walk")["scale"].first().tolist() == [0.5, 0.8, 1.0, 1.2, 1.5, 0.5]
    first, last = (walks[walks["walk"] == w]["own"].to_numpy() for w in (0, 5))  # of one scale
    assert abs(np.diff(first) / np.diff(last) - 1).min() > 1e-6  # no step in common
    for column, together in (("apart", False), ("together", True)):
        generator = stream(child_seed(4, 6), "noise")
        walk = random_walk.random_walk(latents, together=together, generator=generator)
        ratio = walk["z-scored"].iloc[-1] / walk["z-scored"].iloc[0]
        assert walks[column].iloc[0] == pytest.approx(ratio)
    np.testing.assert_allclose(walk["AEDP"], 1)  # clusters that move together
    assert walk["own"].iloc[-1] > latents.mse
    with pytest.raises(UserError, match="at least 4 iterates"):
        random_walk.random_walk(latents, n_iterates=3, generator=generator)
    # expected error after t steps: MSE_0 + t * step^2 |W|^2 / d on the clustered tokens
    latents = random_latents(loose=0)
    generator = torch.Generator().manual_seed(0)
    ends = [
        random_walk.random_walk(latents, n_iterates=4, generator=generator)["own"].iloc[-1]
        for _ in range(100)
    ]
    step = latents.aedp / 10 / 12**0.5
    rise = 4 * step**2 * latents.decoder.weight.square().sum().item() / 5
    assert np.mean(ends) == pytest.approx(latents.mse + rise, abs=4 * stats.sem(ends))


def test_overshoot_would_reconstruct_best_and_correlations_are_taken_within_walks():
    latents = random_latents()
    steered = unsteered(latents)
    decoded, target = steered.standardised()
    error = (target - latents.decoder.bias - decoded).square().mean().item()
    assert steered.mse("z-scored").item() == pytest.approx(error)
    decoded, target = decoded - decoded.mean(0), target - target.mean(0)
    best = minimize_scalar(lambda f: (target - f * decoded).square().sum().item())
    assert random_walk.overshoot(latents) == pytest.approx(1 / best.x)
    walks = pd.DataFrame({
        "concept": "c", "SAE": "s", "walk": np.repeat([0, 1], 4), "overshoot": 2.0,
        "apart": 0.8, "together": 0.9,
        "AEDP": [1, 2, 3, 4, 11, 12, 13, 14], "own": [1, 2, 3, 4, 4, 3, 2, 1],
        "z-scored": [4, 3, 2, 1, 9, 8, 7, 6],
    })  # fmt: skip
    within = random_walk.within_walks(walks)
    r = within.pivot(index="walk", columns="measure", values="r")
    assert r["own"].tolist() == pytest.approx([1, -1])
    assert r["z-scored"].tolist() == pytest.approx([-1, -1])
    row = random_walk.medians(within).iloc[0]
    assert row["walks"] == 2 and row["own: median r"] == pytest.approx(0)
    assert row["z-scored: largest"] == pytest.approx(-1) and row["overshoot"] == 2
    assert row["apart"] == 0.8 and row["together"] == 0.9
