"""The theorems of Case 3, on planted codes and on a real SAE."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from planted_codes import double_sae, random_setting, simplex_setting
from scipy.optimize import minimize_scalar

from saerepgeo_lib import dose_response, saes, scaling, separability
from saerepgeo_lib.arrangements import aedp
from saerepgeo_lib.decoding import own_decode
from saerepgeo_lib.edits import edit, mse, setting_of
from saerepgeo_lib.points import NotEstimable

RATIOS = (0.3, 0.8, 1.0, 1.2, 2.5)


def measured(sae, setting, ratio):
    """AEDP and MSE of codes scaled about their mean, by SAELens' decode."""
    centre = setting.z.mean(0)
    codes = centre + ratio * (setting.z - centre)
    dense = torch.zeros(len(codes), sae.cfg.d_sae, dtype=sae.W_dec.dtype)
    dense[:, setting.features] = codes.to(dense)
    with own_decode(sae) as decode, torch.no_grad():
        error = (setting.x - decode(dense).double()).square().mean().item()
    return aedp(setting.mean(codes)).item(), error


def test_the_closed_form_is_the_measured_error_to_a_millionth():
    for seed in range(3):
        setting = random_setting(seed=seed)
        law, sae = scaling.uniform_scaling(setting), double_sae(setting)
        for ratio in RATIOS:
            separability, error = measured(sae, setting, ratio)
            assert separability == pytest.approx(ratio * setting.aedp, rel=1e-9)
            assert law.mse(ratio) == pytest.approx(error, rel=1e-6)
        best = minimize_scalar(lambda r: measured(sae, setting, r)[1], bounds=(0, 5))  # noqa: B023
        assert law.optimum == pytest.approx(best.x, abs=1e-3)
        outward, moved = scaling.arrangement_scaling(setting), scaling.outward(setting)
        for ratio in RATIOS:
            edited = edit(setting, (ratio - 1) * moved)
            assert aedp(edited.centroids).item() == pytest.approx(ratio * setting.aedp, rel=1e-9)
            assert outward.mse(ratio) == pytest.approx(mse(setting, edited).item(), rel=1e-6)


@pytest.mark.parametrize("name", ["minilm-l4-topk", "minilm-l4-l1"])
def test_the_closed_form_holds_for_shipped_saes(days, name):
    sae = saes.load_sae(name)
    labels = np.arange(len(days.x)) % 5
    setting = setting_of(sae, days.x, labels)
    law = scaling.uniform_scaling(setting)
    for ratio in RATIOS:  # the closed form is in double precision; so is this decode
        separability, error = measured(sae.double(), setting, ratio)
        assert separability == pytest.approx(ratio * setting.aedp, rel=1e-9)
        assert law.mse(ratio) == pytest.approx(error, rel=1e-6)


def test_the_optimum_is_the_planted_shrinkage_and_its_sign_is_that_of_the_effect():
    for shrinkage in (0.5, 0.8, 1.0, 1.25):
        setting = simplex_setting(shrinkage=shrinkage)
        for law in (scaling.uniform_scaling(setting), scaling.arrangement_scaling(setting)):
            assert law.optimum == pytest.approx(1 / shrinkage)
            assert np.sign(round(law.elasticity, 9)) == np.sign(round(1 - law.optimum, 9))
            slope = (np.log(law.mse(1.0001)) - np.log(law.mse(1))) / np.log(1.0001)
            assert law.elasticity == pytest.approx(slope, abs=2e-2)
        law = scaling.arrangement_scaling(setting)
        best = max(0.0, 1 - law.floor / setting.mse)
        assert law.gain == pytest.approx(best if shrinkage < 1 else 0)
        assert law.helps_up_to == pytest.approx(max(1, 2 / shrinkage - 1))
        if shrinkage < 1:
            assert law.mse(law.helps_up_to) == pytest.approx(setting.mse)
            assert law.mse(law.helps_up_to - 0.01) < setting.mse < law.mse(law.helps_up_to + 0.01)
        for optimum in (1.0, 1.2):
            corrected = scaling.with_optimum(setting, optimum)
            assert scaling.uniform_scaling(corrected).optimum == pytest.approx(optimum)
            assert corrected.aedp == setting.aedp
        without = scaling.with_optimum(setting, 1.0)
        assert without.mse == pytest.approx(scaling.uniform_scaling(setting).floor)


def test_the_least_error_of_free_edits_is_that_of_least_squares():
    for width in (3, 12):  # fewer features than dimensions, and more
        setting = random_setting(width=width)
        error, labels = setting.error.numpy().copy(), setting.labels.numpy()
        weight = setting.decoder.weight.numpy()
        for k in range(4):
            own = labels == k
            stacked = np.tile(weight.T, (own.sum(), 1))
            step = np.linalg.lstsq(stacked, error[own].ravel(), rcond=None)[0]
            error[own] -= step @ weight
        assert scaling.least_mse(setting) == pytest.approx(np.square(error).mean())


def test_every_separability_from_the_bound_on_has_the_least_error():
    setting = random_setting()
    bound, least = scaling.free_from(setting), scaling.least_mse(setting)
    shift = scaling.mean_error(setting) @ setting.inverse
    unseen = torch.eye(12, dtype=torch.float64) - setting.decoder.weight @ setting.inverse
    assert torch.linalg.matrix_rank(unseen) == 12 - 5
    together = shift - setting.centroids @ unseen  # the centroids agree where nothing is seen
    edited = edit(setting, together)
    assert mse(setting, edited).item() == pytest.approx(least)
    assert aedp(edited.centroids).item() / setting.aedp == pytest.approx(bound)
    generator = torch.Generator().manual_seed(0)
    for size in (0.1, 1, 10, 100):
        noise = torch.randn(shift.shape, generator=generator, dtype=torch.float64)
        edited = edit(setting, shift + size * noise @ unseen)
        assert mse(setting, edited).item() == pytest.approx(least)
        assert aedp(edited.centroids).item() / setting.aedp >= bound
    assert scaling.free_from(random_setting(width=5)) == float("inf")


def test_intervals_leave_out_one_group_at_a_time():
    setting = random_setting(loose=0)
    group = np.tile(np.arange(6), 4)
    null = 0.5
    found = scaling.over_groups(
        setting, lambda part: {"rho": scaling.uniform_scaling(part).optimum, "one": 1.0}, group,
        null={"rho": null},
    )  # fmt: skip
    value = scaling.uniform_scaling(setting).optimum
    assert found["rho"].value == pytest.approx(value) and found["rho"].n == 6
    replicates = [scaling.uniform_scaling(setting.rows(group != g)).optimum for g in range(6)]
    half = found["rho"].high - value
    error = np.sqrt(5 / 6 * np.square(replicates - np.mean(replicates)).sum())
    assert half == pytest.approx(2.5706 * error, rel=1e-3)  # Student's t, 5 degrees of freedom
    assert found["rho"].p < 0.05 and isinstance(found["one"], NotEstimable)
    shifted = scaling.over_groups(
        setting, lambda part: {"rho": scaling.uniform_scaling(part).optimum}, group,
        null={"rho": value},
    )  # fmt: skip
    assert shifted["rho"].p == pytest.approx(1)


def test_no_interval_where_one_group_holds_all_clusters_but_one():
    setting = random_setting(k=2, loose=0)
    holds_all = np.where(setting.labels == 0, 0, 1 + np.arange(12) % 2)
    for group, estimable in ((np.arange(12) % 3, True), (holds_all, False)):
        found = scaling.over_groups(
            setting, lambda part: {"rho": scaling.uniform_scaling(part).optimum}, group
        )["rho"]
        assert isinstance(found, NotEstimable) != estimable
    assert "fewer than 2 clusters" in str(found)
    row = separability.shrinkage(setting, holds_all)
    assert row["rho*"] == scaling.uniform_scaling(setting).optimum
    assert np.isnan([row["low"], row["slope high"], row["p"]]).all() and row["n"] == 0


def test_subsets_keep_features_and_renumber_clusters():
    setting = random_setting()
    keep = (setting.labels != 1).numpy()
    part = setting.rows(keep)
    assert part.labels.unique().tolist() == [-1, 0, 1, 2]
    torch.testing.assert_close(part.centroids, setting.centroids[[0, 2, 3]])
    assert replace(part).mse == pytest.approx(setting.error[keep].square().mean().item())


def test_the_scaled_path_of_the_dose_response_is_the_law():
    setting = random_setting()
    prompt = np.arange(len(setting.x)) % 9
    table = dose_response.dose_response(
        setting,
        prompt,
        prompt % 3,
        paths=[dose_response.UNIFORM, dose_response.ARRANGEMENT],
        n_bootstrap=50,
    )
    laws = {
        dose_response.UNIFORM: scaling.uniform_scaling(setting),
        dose_response.ARRANGEMENT: scaling.arrangement_scaling(setting),
    }
    for row in table.to_dict("records"):
        assert row["AEDP"] == pytest.approx(row["dose"])
        assert row["MSE"] == pytest.approx(laws[row["path"]].mse(row["dose"]) / setting.mse)
