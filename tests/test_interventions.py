"""Interventions against known optima, their controls against their bounds."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import torch
from planted_codes import random_setting, simplex_setting
from scipy.optimize import brentq
from scipy.spatial.distance import pdist, squareform

from saerepgeo_lib import interventions, scaling, separability
from saerepgeo_lib.edits import edit, mse
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.interventions import intervene, least_mse_at, push

LONG = {"n_steps": 400}


@pytest.mark.parametrize("kind", ["free", "valid"])
@pytest.mark.parametrize("overcomplete", [False, True])
def test_reconstruct_reaches_the_analytic_least_error(overcomplete, kind):
    setting = simplex_setting(overcomplete=overcomplete)
    # all five features of each cluster are used, so the valid codes hold the optimum too
    run = intervene(setting, "reconstruct", kind=kind, **LONG)
    least = scaling.least_mse(setting) / setting.mse
    assert least < 0.2
    assert run.mse == pytest.approx(least, rel=0.01) and run.mse >= least * (1 - 1e-9)
    assert run.converged


@pytest.mark.parametrize("kind", ["free", "valid"])
@pytest.mark.parametrize("ratio", [0.6, 1.0, 1.8])
def test_the_least_error_at_a_dose_is_that_of_the_scaled_simplex(ratio, kind):
    """Without unseen directions: by convexity and symmetry the optimum is a scaled simplex."""
    setting = simplex_setting()
    start = intervene(setting, "reconstruct", kind=kind).shift
    run = least_mse_at(setting, ratio, kind=kind, start=start, **LONG)
    expected = scaling.arrangement_scaling(setting).mse(ratio) / setting.mse
    assert run.aedp == pytest.approx(ratio, rel=1e-4)
    assert run.mse == pytest.approx(expected, rel=0.01)


def test_the_least_error_is_no_higher_than_where_the_search_began():
    setting = random_setting()
    for kind in ("free", "valid"):
        start = intervene(setting, "reconstruct", kind=kind).shift
        for ratio in (0.7, 1.0, 1.5):
            run = least_mse_at(setting, ratio, kind=kind, start=start, n_steps=4)
            begin = interventions._landed(setting, start, ratio, kind)
            reached, error = interventions.ratios(setting, begin, kind)
            assert reached == pytest.approx(ratio, rel=0.02)
            assert run.mse <= error * (1 + 1e-6)


def test_with_unseen_directions_the_least_error_is_the_same_at_every_dose():
    setting = simplex_setting(overcomplete=True)
    least = scaling.least_mse(setting) / setting.mse
    for ratio in (1.2, 1.6, 2.0):
        assert ratio > scaling.free_from(setting)
        run = least_mse_at(setting, ratio, **LONG)
        assert run.aedp == pytest.approx(ratio, rel=1e-4)
        assert run.mse == pytest.approx(least, rel=0.01)


@pytest.mark.parametrize(("objective", "sign"), [("separate", 1), ("gather", -1)])
def test_separate_and_gather_reach_the_balance_of_error_and_separability(objective, sign):
    setting, weight = simplex_setting(), 4.0
    law = scaling.arrangement_scaling(setting)
    slope = 2 * weight * law.curvature / setting.mse
    balance = brentq(lambda r: slope * (r - law.optimum) - sign / r, 0.5 * law.optimum, 5)
    run = intervene(setting, objective, mse_weight=weight, **LONG)
    assert run.aedp == pytest.approx(balance, rel=0.01)
    assert run.mse == pytest.approx(law.mse(balance) / setting.mse, rel=0.01)


def test_the_gromov_wasserstein_objective_restores_the_residuals_arrangement():
    setting = random_setting(k=5, d=4)
    before = interventions.gw_distance(setting)
    run = intervene(setting, "gromov_wasserstein", mse_weight=0, **LONG)
    after = interventions.gw_distance(setting, edit(setting, run.shift).centroids)
    assert after < 0.01 * before
    assert 1 - 1e-3 <= run.history["value"].iloc[0] < 1.2  # a bound by fewer starts
    assert run.aedp == pytest.approx(1, abs=0.05)  # of equal arrangements in units of AEDP


def test_d_gw_is_the_least_over_all_pairings():
    setting = random_setting(k=5)
    a, b = setting.residual_centroids.numpy(), setting.centroids.numpy()
    a, b = squareform(pdist(a)) / pdist(a).mean(), squareform(pdist(b)) / pdist(b).mean()
    brute = min(np.square(a - b[np.ix_(o, o)]).mean() for o in permutations(range(5)))
    found = interventions.gw_distance(setting)
    assert found == pytest.approx(brute, rel=1e-9)


@pytest.mark.parametrize("kind", ["free", "valid"])
def test_a_push_follows_separability_alone_to_its_dose(kind):
    setting = random_setting()
    for ratio in (0.7, 1.4):
        path = push(setting, ratio, kind=kind)
        assert path.aedp == pytest.approx(ratio, rel=0.02)
        assert (np.sign(np.diff(path.history["AEDP"])) == np.sign(ratio - 1)).all()
    # the error has no say: another residual, another error, the same shift
    other = type(setting)(
        setting.x + 5, setting.z, setting.features, setting.decoder, setting.labels
    )
    torch.testing.assert_close(
        push(other, 1.4, kind=kind).shift, push(setting, 1.4, kind=kind).shift
    )


def test_two_clusters_always_have_the_same_arrangement():
    setting = random_setting(k=2)
    assert interventions.gw_distance(setting) == pytest.approx(0, abs=1e-12)
    run = intervene(setting, "gromov_wasserstein", n_steps=60)
    assert run.mse < 1


def test_a_push_on_a_simplex_is_the_scaling_of_the_theorem():
    setting = simplex_setting()
    law = scaling.arrangement_scaling(setting)
    for ratio in (0.6, 1.5):
        path = push(setting, ratio)
        assert path.mse == pytest.approx(law.mse(path.aedp) / setting.mse, rel=1e-3)


def test_no_path_and_no_control_beats_its_bound():
    setting = random_setting()
    paths = separability.intervene_all(setting, n_steps=60)
    least = scaling.least_mse(setting) / setting.mse
    mixed = interventions.shuffled(setting, separability.stream(0, "permutation"))
    bounds = {separability.SHUFFLED: scaling.least_mse(mixed) / mixed.mse}
    free = [path for path in paths if path.kind == "free"]
    assert {path.name for path in free} == {
        "separate", "gather", "gromov_wasserstein", "reconstruct", "push to x 1.5",
        "push to x 0.5", "random direction", "separate, shuffled labels",
    }  # fmt: skip
    for path in free:
        bound = bounds.get(path.name, least)
        assert (path.history["MSE"] >= bound * (1 - 1e-5)).all() and path.mse >= bound * (1 - 1e-9)
    law = scaling.uniform_scaling(setting)
    for ratio in np.linspace(0.2, 3, 15):
        assert law.mse(ratio) >= law.floor
    summary = separability.summary(setting, paths).set_index(["path", "kind"])
    assert (
        summary.xs("valid", level="kind")["L0"].dropna() <= setting.l0.double().mean().item()
    ).all()


def test_the_last_iterate_is_returned_not_the_best():
    setting = random_setting()
    run = intervene(setting, "separate", mse_weight=0, n_steps=40)
    assert run.mse > 1.5 * run.history["MSE"].min()
    assert run.mse == pytest.approx(run.history["MSE"].iloc[-1], rel=1e-4)
    assert run.aedp == pytest.approx(run.history["AEDP"].iloc[-1], rel=1e-4)
    edited = edit(setting, run.shift)
    assert run.mse == pytest.approx(mse(setting, edited).item() / setting.mse)
    assert not run.converged  # AEDP has no largest value


def test_controls_keep_what_they_should_and_change_the_rest():
    setting = random_setting()
    mixed = interventions.shuffled(setting, torch.Generator().manual_seed(0))
    assert mixed.counts.equal(setting.counts) and not mixed.labels.equal(setting.labels)
    assert (mixed.labels < 0).equal(setting.labels < 0)
    for kind in ("free", "valid"):
        run = intervene(setting, "separate", kind=kind, n_steps=20)
        drawn = interventions.random_direction(setting, run, torch.Generator().manual_seed(1))
        steps = run.history.set_index("step").loc[drawn.history["step"]]
        assert list(steps.index) == [0, 4, 8, 12, 16, 20]
        np.testing.assert_allclose(drawn.history["distance"], steps["distance"])
        length = drawn.shift.norm(dim=1).square().mean().sqrt() / setting.aedp
        assert length.item() == pytest.approx(run.history["distance"].iloc[-1], rel=1e-5)
        if kind == "valid":
            assert ((drawn.shift == 0) | setting.used).all()
        lengths = drawn.shift.norm(dim=1)
        torch.testing.assert_close(lengths, lengths[:1].expand(4), rtol=1e-5, atol=0)
        other = interventions.random_direction(setting, run, torch.Generator().manual_seed(2))
        cosine = torch.cosine_similarity(drawn.shift.flatten(), other.shift.flatten(), dim=0)
        assert cosine.abs() < 0.5  # 3 standard deviations of two directions in so many dimensions


def test_the_z_scored_measure_reaches_every_path():
    setting = random_setting()
    own, scored = (
        separability.intervene_all(setting, measure=m, n_steps=8, kinds=("free",))
        for m in ("own", "z-scored")
    )
    for one, other in zip(own, scored, strict=True):
        here = setting
        if one.name == separability.SHUFFLED:
            here = interventions.shuffled(setting, separability.stream(0, "permutation"))
        for path, measure in ((one, "own"), (other, "z-scored")):
            none = mse(here, edit(here, 0 * path.shift), measure)
            expected = mse(here, edit(here, path.shift), measure) / none
            assert path.mse == pytest.approx(expected.item())
            assert path.history["MSE"].iloc[-1] == pytest.approx(path.mse, rel=1e-3)
        assert one.mse != other.mse


def test_the_same_call_gives_the_same_history():
    setting = random_setting()
    a, b = (separability.intervene_all(setting, n_steps=10, seed=3) for _ in range(2))
    for one, other in zip(a, b, strict=True):
        pd.testing.assert_frame_equal(one.history, other.history, check_exact=True)
        assert one.mse == other.mse


def test_the_step_size_does_not_decide_the_optimum_but_a_tiny_one_is_seen_not_to_converge():
    setting = simplex_setting()
    coarse, fine = (intervene(setting, "reconstruct", step=s, n_steps=600) for s in (0.3, 0.1))
    assert coarse.mse == pytest.approx(fine.mse, rel=0.01)
    assert not intervene(setting, "reconstruct", step=0.001, n_steps=50).converged


def test_users_mistakes_are_named(unchecked):
    setting = random_setting()
    with pytest.raises(UserError, match="unknown objective 'seperate'; did you mean 'separate'"):
        intervene(setting, "seperate")
    with pytest.raises(UserError, match="mse_weight"):
        intervene(setting, "separate", mse_weight=-1)
    with pytest.raises(UserError, match="step > 0 and at least 2 steps"):
        intervene(setting, "separate", step=0)
    with pytest.raises(UserError, match="must be positive, got -1"):
        least_mse_at(setting, -1)
    with pytest.raises(UserError, match="ratio > 0"):
        push(setting, 0)
    with pytest.raises(UserError, match="left the finite numbers at step"):
        intervene(setting, "separate", step=1e30, n_steps=4)
