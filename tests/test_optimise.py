"""Interventions against known optima, their controls against their bounds."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import torch
from planted_latents import random_latents, simplex_latents
from refusals import refused
from scipy.optimize import brentq
from scipy.spatial.distance import pdist, squareform

from saerepgeo_lib.rank.noise_sweep import stream
from saerepgeo_lib.steering import optimise, scaling
from saerepgeo_lib.steering.latents import ratios, steer, unsteered
from saerepgeo_lib.steering.optimise import intervene, least_mse_at, push
from saerepgeo_lib.studies.steering_experiment import SHUFFLED, SteeringExperiment, summary

LONG = {"n_steps": 150}
KINDS = ("free", "valid")


@pytest.fixture(autouse=True, scope="module")
def _quick(one_thread):
    """Small matrices on one thread."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("overcomplete", [False, True])
def test_reconstruct_reaches_the_analytic_least_error(overcomplete, kind):
    latents = simplex_latents(overcomplete=overcomplete)
    # all five features of each cluster are used, so the valid latents hold the optimum too
    path = intervene(latents, "reconstruct", kind=kind, **LONG)
    least = scaling.least_mse(latents) / latents.mse
    assert least < 0.2
    assert path.mse == pytest.approx(least, rel=0.01) and path.mse >= least * (1 - 1e-9)
    assert path.converged


def test_the_step_does_not_decide_the_optimum_but_a_tiny_one_is_seen_not_to_converge():
    latents = simplex_latents()
    coarse, fine, tiny = (intervene(latents, "reconstruct", step=s, **LONG)
                          for s in (0.4, 0.15, 0.0005))  # fmt: skip
    assert coarse.mse == pytest.approx(fine.mse, rel=0.01) and not tiny.converged


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ratio", [0.6, 1.8])
def test_the_least_error_at_a_dose_is_that_of_the_scaled_simplex(ratio, kind):
    """Without unseen directions: by convexity and symmetry the optimum is a scaled simplex."""
    latents = simplex_latents()
    start = intervene(latents, "reconstruct", kind=kind).vectors
    path = least_mse_at(latents, ratio, kind=kind, start=start, **LONG)
    expected = scaling.arrangement_scaling(latents).mse(ratio) / latents.mse
    assert path.aedp == pytest.approx(ratio, rel=1e-4)
    assert path.mse == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_the_least_error_is_no_higher_than_where_the_search_began(kind):
    latents = random_latents()
    start = intervene(latents, "reconstruct", kind=kind, n_steps=20).vectors
    for ratio in (0.7, 1.0, 1.5):
        path = least_mse_at(latents, ratio, kind=kind, start=start, n_steps=4)
        begin = optimise._landed(latents, start, ratio, kind)
        reached, error = ratios(latents, begin, kind)
        assert reached == pytest.approx(ratio, rel=0.02)
        assert path.mse <= error * (1 + 1e-6)


def test_with_unseen_directions_the_least_error_is_the_same_at_every_dose():
    latents = simplex_latents(overcomplete=True)
    least = scaling.least_mse(latents) / latents.mse
    for ratio in (1.2, 2.0):
        assert ratio > scaling.free_from(latents)
        path = least_mse_at(latents, ratio, n_steps=300)
        assert path.aedp == pytest.approx(ratio, rel=1e-4)
        assert path.mse == pytest.approx(least, rel=0.01)


@pytest.mark.parametrize(("objective", "sign"), [("separate", 1), ("gather", -1)])
def test_separate_and_gather_reach_the_balance_of_error_and_separability(objective, sign):
    latents, weight = simplex_latents(), 4.0
    law = scaling.arrangement_scaling(latents)
    slope = 2 * weight * law.curvature / latents.mse
    balance = brentq(lambda r: slope * (r - law.optimum) - sign / r, 0.5 * law.optimum, 5)
    path = intervene(latents, objective, mse_weight=weight, **LONG)
    assert path.aedp == pytest.approx(balance, rel=0.01)
    assert path.mse == pytest.approx(law.mse(balance) / latents.mse, rel=0.01)


def test_the_gromov_wasserstein_objective_restores_the_residuals_arrangement():
    latents = random_latents(k=5, d=4)
    before = optimise.gw_distance(unsteered(latents))
    path = intervene(latents, "gromov_wasserstein", mse_weight=0, n_steps=300)
    after = optimise.gw_distance(steer(latents, path.vectors))
    assert after < 0.01 * before
    assert 1 - 1e-3 <= path.history["value"].iloc[0] < 1.2  # a bound by fewer starts
    assert path.aedp == pytest.approx(1, abs=0.05)  # of equal arrangements in units of AEDP
    # D_GW is the least over all pairings, and 0 of two clusters.
    a, b = latents.means(latents.x).numpy(), latents.centroids.numpy()
    a, b = squareform(pdist(a)) / pdist(a).mean(), squareform(pdist(b)) / pdist(b).mean()
    brute = min(np.square(a - b[np.ix_(o, o)]).mean() for o in permutations(range(5)))
    assert before == pytest.approx(brute, rel=1e-9)
    two = random_latents(k=2)
    assert optimise.gw_distance(unsteered(two)) == pytest.approx(0, abs=1e-12)
    assert intervene(two, "gromov_wasserstein", n_steps=60).mse < 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_push_follows_separability_alone_to_its_dose(kind):
    latents = random_latents()
    for ratio in (0.7, 1.4):
        path = push(latents, ratio, kind=kind)
        assert path.aedp == pytest.approx(ratio, rel=0.02) and path.converged is None
        assert (np.sign(np.diff(path.history["AEDP"])) == np.sign(ratio - 1)).all()
    # the error has no say: another residual, another error, the same vectors
    other = push(replace(latents, x=latents.x + 5), 1.4, kind=kind)
    torch.testing.assert_close(other.vectors, path.vectors)
    if kind == "free":  # and of a simplex it is the scaling of the theorem
        latents = simplex_latents()
        law = scaling.arrangement_scaling(latents)
        for ratio in (0.6, 1.5):
            path = push(latents, ratio)
            assert path.mse == pytest.approx(law.mse(path.aedp) / latents.mse, rel=1e-3)


def test_no_path_and_no_control_beats_its_bound():
    latents = random_latents()
    paths = SteeringExperiment({}, n_steps=40).follow(latents)
    least = scaling.least_mse(latents) / latents.mse
    mixed = optimise.shuffled(latents, stream(0, "permutation"))
    free = [path for path in paths if path.kind == "free"]
    assert [path.name for path in free] == [
        "separate", "gather", "gromov_wasserstein", "reconstruct", "push to x 1.5",
        "push to x 0.5", "random direction", "separate, shuffled labels",
    ]  # fmt: skip
    for path in free:
        bound = scaling.least_mse(mixed) / mixed.mse if path.name == SHUFFLED else least
        assert (path.history["MSE"] >= bound * (1 - 1e-5)).all() and path.mse >= bound * (1 - 1e-9)
    law = scaling.uniform_scaling(latents)
    assert min(law.mse(ratio) for ratio in np.linspace(0.2, 3, 15)) >= law.floor
    densest = summary(latents, paths).query("kind == 'valid'")["L0"].max()
    assert densest <= (latents.z != 0).sum(1).double().mean().item()


def test_the_last_iterate_is_returned_not_the_best():
    latents = random_latents()
    path = intervene(latents, "separate", mse_weight=0, n_steps=40)
    assert path.mse > 1.5 * path.history["MSE"].min()
    assert path.mse == pytest.approx(path.history["MSE"].iloc[-1], rel=1e-4)
    assert path.aedp == pytest.approx(path.history["AEDP"].iloc[-1], rel=1e-4)
    assert not path.converged  # AEDP has no largest value


def test_controls_keep_what_they_should_and_change_the_rest():
    latents = random_latents()
    mixed = optimise.shuffled(latents, torch.Generator().manual_seed(0))
    assert mixed.counts.equal(latents.counts) and not mixed.labels.equal(latents.labels)
    assert (mixed.labels < 0).equal(latents.labels < 0)
    for kind in KINDS:
        path = intervene(latents, "separate", kind=kind, n_steps=20)
        drawn, other = (optimise.random_direction(latents, path, torch.Generator().manual_seed(s))
                        for s in (1, 2))  # fmt: skip
        steps = path.history.set_index("step").loc[drawn.history["step"]]
        assert list(steps.index) == [0, 4, 8, 12, 16, 20]
        np.testing.assert_allclose(drawn.history["distance"], steps["distance"], rtol=1e-5)
        lengths = drawn.vectors.norm(dim=1) / latents.aedp
        expected = torch.full((4,), path.history["distance"].iloc[-1], dtype=torch.float64)
        torch.testing.assert_close(lengths, expected, rtol=1e-5, atol=0)
        if kind == "valid":
            assert ((drawn.vectors == 0) | latents.used).all()
        cosine = torch.cosine_similarity(drawn.vectors.flatten(), other.vectors.flatten(), dim=0)
        assert cosine.abs() < 0.5  # 3 standard deviations of two directions in so many dimensions


def test_the_measure_reaches_every_path_and_the_same_call_gives_the_same_history():
    latents, quick = random_latents(), SteeringExperiment({}, n_steps=8, seed=3)
    own, again = (quick.follow(latents, kinds=("free",)) for _ in range(2))
    scored = quick.follow(latents, kinds=("free",), measure="z-scored")
    mixed = optimise.shuffled(latents, stream(3, "permutation"))
    for one, same, other in zip(own, again, scored, strict=True):
        pd.testing.assert_frame_equal(one.history, same.history, check_exact=True)
        assert one.mse == same.mse != other.mse
        on = mixed if one.name == SHUFFLED else latents
        for path, measure in ((one, "own"), (other, "z-scored")):
            expected = steer(on, path.vectors).mse(measure) / unsteered(on).mse(measure)
            assert path.mse == pytest.approx(expected.item())
            assert path.history["MSE"].iloc[-1] == pytest.approx(path.mse, rel=1e-3)
    assert quick.follow(latents, kinds=("free",), known=own[3])[3] is own[3]


def test_users_mistakes_are_named(unchecked):
    latents = random_latents()
    refused("'seperate'; did you mean 'separate'", intervene, latents, "seperate")
    refused("mse_weight", intervene, latents, "separate", mse_weight=-1)
    refused("step > 0 and at least 2 steps", intervene, latents, "separate", step=0)
    refused("must be positive, got -1", least_mse_at, latents, -1)
    refused("ratio > 0", push, latents, 0)
    refused("left the finite numbers", intervene, latents, "separate", step=1e30, n_steps=4)
