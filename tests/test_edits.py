"""Edits of codes: what they touch, what they measure, and their gradients."""

import numpy as np
import pytest
import torch
from planted_codes import double_sae, random_setting
from scipy.spatial.distance import pdist

from saerepgeo_lib import interventions
from saerepgeo_lib.arrangements import aedp, gw_cost, gw_coupling
from saerepgeo_lib.decoding import own_mse
from saerepgeo_lib.edits import edit, mse, setting_of
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.latents import Codes
from saerepgeo_lib.scaling import outward


def shift_of(setting, size=0.7, seed=5):
    generator = torch.Generator().manual_seed(seed)
    shape = setting.centroids.shape
    return size * torch.randn(shape, generator=generator, dtype=torch.float64)


def by_hand(setting, shift, kind):
    """The edited codes, token by token."""
    z, labels = setting.z.numpy(), setting.labels.numpy()
    out = z.copy()
    for i, k in enumerate(labels):
        if k < 0:
            continue
        out[i] = z[i] + shift[k].numpy()
        if kind == "valid":
            used = (z[labels == k] != 0).any(axis=0)
            out[i] = np.where(used, np.maximum(out[i], 0), 0)
            keep = np.argsort(-out[i], kind="stable")[: (z[i] != 0).sum()]
            out[i] = np.where(np.isin(np.arange(len(out[i])), keep), out[i], 0)
    return out


@pytest.mark.parametrize("kind", ["free", "valid"])
def test_codes_aedp_and_mse_by_brute_force_and_by_saelens(kind):
    setting = random_setting()
    shift = shift_of(setting)
    edited, codes = edit(setting, shift, kind), by_hand(setting, shift, kind)
    np.testing.assert_allclose(edited.codes().numpy(), codes, atol=1e-12)
    labels = setting.labels.numpy()
    centroids = np.stack([codes[labels == k].mean(axis=0) for k in range(4)])
    assert aedp(edited.centroids).item() == pytest.approx(pdist(centroids).mean())
    found = mse(setting, edited).item()
    by_saelens = own_mse(
        double_sae(setting), setting.x, Codes(torch.from_numpy(codes), setting.features)
    )
    assert found == pytest.approx(by_saelens, rel=1e-9)


@pytest.mark.parametrize("kind", ["free", "valid"])
def test_no_shift_changes_nothing_and_a_cluster_moves_alone(kind):
    setting = random_setting()
    none = edit(setting, torch.zeros_like(setting.centroids), kind)
    torch.testing.assert_close(none.codes(), setting.z)
    assert mse(setting, none).item() == pytest.approx(setting.mse)
    assert aedp(none.centroids).item() == pytest.approx(setting.aedp)
    shift = torch.zeros_like(setting.centroids)
    shift[2] = 1.5
    moved = edit(setting, shift, kind)
    changed = (moved.codes() != setting.z).any(dim=1)
    assert changed.equal(setting.labels == 2)
    same = (moved.decoded - none.decoded).abs().amax(dim=1) < 1e-12
    assert same.equal(setting.labels != 2)


def test_valid_codes_are_nonnegative_no_denser_and_on_the_clusters_features():
    setting = random_setting()
    for size in (0.1, 1, 10):
        codes = edit(setting, shift_of(setting, size), "valid").codes()
        assert (codes >= 0).all()
        assert ((codes != 0).sum(1) <= setting.l0).all()
        used = setting.used[setting.labels.clamp_min(0)] | (setting.labels < 0)[:, None]
        assert (used | (codes == 0)).all()
    assert not (edit(setting, shift_of(setting, 1), "free").codes() >= 0).all()


@pytest.mark.parametrize("kind", ["free", "valid"])
def test_the_z_scored_error_is_that_of_standardised_dense_codes(kind):
    setting = random_setting()
    shift = shift_of(setting)
    codes = np.pad(by_hand(setting, shift, kind), ((0, 0), (0, 4)))  # 4 features never active
    weight = np.concatenate([setting.decoder.weight.numpy(), np.ones((4, 5))])
    wide = type(setting.decoder)(
        setting.decoder.weight, setting.decoder.bias, torch.from_numpy(weight.sum(0)), 16
    )
    setting = type(setting)(setting.x, setting.z, setting.features, wide, setting.labels)
    standardise = lambda a: (a - a.mean(1, keepdims=True)) / a.std(1, ddof=1, keepdims=True)  # noqa: E731
    rebuilt = standardise(codes) @ weight + setting.decoder.bias.numpy()
    expected = np.square(standardise(setting.x.numpy()) - rebuilt).mean()
    assert mse(setting, edit(setting, shift, kind), "z-scored").item() == pytest.approx(expected)


@pytest.mark.parametrize("measure", ["own", "z-scored"])
@pytest.mark.parametrize("kind", ["free", "valid"])
def test_gradients_of_error_and_separability_by_finite_differences(kind, measure):
    setting = random_setting()
    shift = shift_of(setting).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s: mse(setting, edit(setting, s, kind), measure), (shift,), eps=1e-7, atol=1e-5
    )
    assert torch.autograd.gradcheck(
        lambda s: aedp(edit(setting, s, kind).centroids).log(), (shift,), eps=1e-7, atol=1e-5
    )


def test_the_gradient_of_the_gromov_wasserstein_cost_by_finite_differences():
    setting = random_setting()
    shift = shift_of(setting).requires_grad_()
    target = setting.residual_centroids
    coupling = gw_coupling(target, (setting.centroids + shift).detach())
    assert torch.autograd.gradcheck(
        lambda s: gw_cost(target, edit(setting, s).centroids, coupling), (shift,), eps=1e-7,
        atol=1e-5,
    )  # fmt: skip


def test_the_gradient_of_the_error_is_that_through_saelens_decode():
    setting = random_setting()
    sae = double_sae(setting)
    shift = shift_of(setting).requires_grad_()
    (found,) = torch.autograd.grad(mse(setting, edit(setting, shift)), shift)
    error = setting.x - sae.decode(setting.z + setting.spread(shift))
    (expected,) = torch.autograd.grad(error.square().mean(), shift)
    torch.testing.assert_close(found, expected)


def test_steepest_is_the_slope_of_the_error_along_a_small_push():
    setting = random_setting()
    slope, cosine = interventions.steepest(setting)
    step = interventions.push(setting, 1.002, n_steps=1)
    assert np.log(step.mse) / np.log(step.aedp) == pytest.approx(slope, rel=0.05)
    shift = step.shift.flatten()  # one step of the flow goes along the gradient
    expected = torch.cosine_similarity(shift, outward(setting).flatten(), dim=0).item()
    assert cosine == pytest.approx(expected, abs=1e-3) and cosine > 0


def test_single_precision_agrees():
    setting = random_setting()
    shift = shift_of(setting)
    for kind in ("free", "valid"):
        a = mse(setting, edit(setting, shift, kind)).item()
        b = mse(setting.single, edit(setting.single, shift.float(), kind)).item()
        assert a == pytest.approx(b, rel=1e-5)


def test_users_mistakes_are_named(small_sae, unchecked):
    x = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match="one a token"):
        setting_of(small_sae, x, np.zeros(3, dtype=int))
    with pytest.raises(UserError, match="at least 2 clusters, got 1"):
        setting_of(small_sae, x, np.zeros(12, dtype=int))
    with pytest.raises(UserError, match="at least 2 clusters, got 0"):
        setting_of(small_sae, x, np.full(12, -1))
    setting = setting_of(small_sae, x, np.array([7] * 5 + [3] * 5 + [-1] * 2))
    assert setting.labels.tolist() == [1] * 5 + [0] * 5 + [-1] * 2
    with pytest.raises(UserError, match="unknown kind of edit"):
        edit(setting, setting.centroids, "half")
    negative = random_setting(nonnegative=False)
    with pytest.raises(UserError, match="nonnegative"):
        edit(negative, negative.centroids, "valid")
