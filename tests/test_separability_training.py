"""The objective in closed form and under what must not change it, and training with it."""

from functools import partial

import numpy as np
import pytest
import torch
from sae_lens import SAE, StandardSAE, TopKSAE, TrainingSAE
from sae_lens.saes.sae import TrainStepInput
from scipy.spatial.distance import pdist

from saerepgeo_lib import training
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.separability_training import (
    SeparableStandardTrainingSAE,
    SeparableTopKTrainingSAE,
    build_separable,
    residual_groups,
    separability,
)

METADATA = {"hook_name": "blocks.4.hook_out", "model_name": "test"}
KINDS = [("topk", 4), ("standard", 1.0)]

pytestmark = pytest.mark.usefixtures("one_thread")  # beside other tests


def data(n=4000, d=16, seed=0):
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(24, d))
    codes = rng.random((n, 24)) * (rng.random((n, 24)) < 0.1)
    return [(codes @ directions * 4).astype(np.float16)]


def codes(n=60, width=12, k=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, width, generator=generator, dtype=torch.float64).relu()
    return z, torch.randint(k, (n,), generator=generator)


def recipe(kind, coefficient, n_samples=64 * 300):
    return training.Recipe("t", kind, coefficient, n_samples, expansion=2, batch_size=64)


def build(kind, coefficient, strength, **options):
    return build_separable(
        recipe(kind, coefficient), strength=strength, n_groups=8, d_in=16, metadata=METADATA,
        device="cpu", **options,
    )  # fmt: skip


def trained(kind, coefficient, strength, folder):
    return training.train(
        recipe(kind, coefficient), data(), metadata=METADATA, checkpoints=folder,
        build=partial(build_separable, strength=strength, n_groups=8),
    )  # fmt: skip


def test_separability_is_mean_distance_over_radius_by_hand_and_by_brute_force():
    one_hot = torch.eye(4, dtype=torch.float64).repeat(5, 1)  # four points at distance sqrt 2
    found = separability(one_hot, torch.arange(4).repeat(5))
    assert found.item() == pytest.approx(np.sqrt(2 * 4 / 3))
    z, labels = codes()
    means = np.stack([z[labels == c].mean(0) for c in range(5)])
    radius = np.sqrt(np.square(z - z.mean(0)).sum(1).mean())
    assert separability(z, labels).item() == pytest.approx(pdist(means).mean() / radius)


def test_separability_does_not_change_with_scale_place_or_order():
    z, labels = codes()
    value = separability(z, labels)
    features, rows = torch.randperm(12), torch.randperm(60)
    rename = torch.tensor([7, 3, 9, 0, 4])
    for other, named in [
        (37.0 * z, labels), (z + 5, labels), (z[:, features], labels), (z[rows], labels[rows]),
        (z, rename[labels]),
    ]:  # fmt: skip
        assert separability(other, named).item() == pytest.approx(value.item(), rel=1e-12)
    assert separability(z, labels[rows]).item() != pytest.approx(value.item(), rel=1e-3)


def test_the_gradient_of_separability_is_that_of_finite_differences():
    z, labels = codes()
    z = (z + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: separability(x, labels).log(), z, eps=1e-6)


def test_groups_are_kmeans_fixed_by_the_order_and_carry_no_gradient():
    generator = torch.Generator().manual_seed(1)
    centres = 20 * torch.randn(6, 5, generator=generator)
    planted = torch.arange(6).repeat(40)
    x = centres[planted] + torch.randn(240, 5, generator=generator)
    found = residual_groups(x.requires_grad_(), n_groups=6)
    assert not found.requires_grad
    assert (found.reshape(40, 6) == found[:6]).all() and len(found[:6].unique()) == 6
    assert torch.equal(found, residual_groups(x, n_groups=6))
    with pytest.raises(UserError, match="cannot fall into 8 groups"):
        residual_groups(x[:7], n_groups=8)


@pytest.mark.parametrize(("kind", "coefficient"), KINDS)
def test_a_latent_gains_nothing_by_growing_while_its_decoder_row_shrinks(kind, coefficient):
    sae = build(kind, coefficient, 1.0)
    x = torch.from_numpy(data(200)[0]).float()
    given = TrainStepInput(x, {"l1": 0.0, "separability": 1.0}, None, 0, False)
    before = sae.training_forward_pass(given)
    factor = torch.linspace(0.5, 2, sae.cfg.d_sae)
    with torch.no_grad():
        sae.W_enc *= factor
        sae.b_enc *= factor
        sae.W_dec /= factor[:, None]
    after = sae.training_forward_pass(given)
    assert after.losses["mse_loss"].item() == pytest.approx(
        before.losses["mse_loss"].item(), rel=1e-5
    )
    lost = [step.losses["separability_loss"].item() for step in (before, after)]
    assert lost[0] == pytest.approx(lost[1], rel=1e-5) and lost[0] != 0
    labels = residual_groups(x, n_groups=8)
    z = sae.encode(x) * (1 if kind == "topk" else sae.W_dec.norm(dim=1))
    assert lost[1] == pytest.approx(-separability(z, labels).log().item(), rel=1e-5)


@pytest.mark.parametrize(("kind", "coefficient"), KINDS)
def test_without_strength_it_is_saelens_own_training_to_the_last_bit(tmp_path, kind, coefficient):
    own = training.train(
        recipe(kind, coefficient), data(), metadata=METADATA, checkpoints=tmp_path / "own"
    )
    ours = trained(kind, coefficient, 0.0, tmp_path / "ours")
    assert type(own) is not type(ours)
    for name, value in own.state_dict().items():
        assert torch.equal(value, ours.state_dict()[name]), name


@pytest.mark.parametrize(("kind", "coefficient"), KINDS)
def test_training_with_it_separates_the_groups_of_new_data(tmp_path, kind, coefficient):
    x = torch.from_numpy(data(400, seed=0)[0]).float()
    labels = residual_groups(x, n_groups=8)
    found = {}
    for strength in (-30.0, 0.0, 30.0):
        sae = trained(kind, coefficient, strength, tmp_path / str(strength))
        sae.fold_W_dec_norm()
        found[strength] = separability(sae.encode(x), labels).item()
    assert found[-30.0] < found[0.0] < found[30.0]


@pytest.mark.parametrize(
    ("kind", "coefficient", "training_class", "inference_class"),
    [("topk", 4, SeparableTopKTrainingSAE, TopKSAE),
     ("standard", 1.0, SeparableStandardTrainingSAE, StandardSAE)],
)  # fmt: skip
def test_saelens_loads_its_checkpoint_and_an_ordinary_sae_from_what_it_saves(
    tmp_path, kind, coefficient, training_class, inference_class
):
    sae = build(kind, coefficient, 2.5)
    with torch.no_grad():
        sae.W_dec *= torch.linspace(0.5, 2, sae.cfg.d_sae)[:, None]
    x = torch.from_numpy(data(50)[0]).float()
    sae.save_model(tmp_path / "checkpoint")
    again = TrainingSAE.load_from_disk(tmp_path / "checkpoint")
    assert type(again) is training_class
    assert (again.cfg.separability_coefficient, again.cfg.n_groups) == (2.5, 8)
    assert torch.equal(again.encode(x), sae.encode(x))
    sae.save_inference_model(tmp_path / "inference")
    plain = SAE.load_from_disk(tmp_path / "inference")
    assert type(plain) is inference_class
    assert plain.cfg.metadata.training_architecture_details["separability_coefficient"] == 2.5
    assert torch.allclose(plain(x), sae(x), atol=1e-5)


@pytest.mark.parametrize(("kind", "coefficient"), KINDS)
def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(
    tmp_path, kind, coefficient, interrupt_at
):
    whole = trained(kind, coefficient, 10.0, tmp_path / "whole")
    with interrupt_at(250):
        trained(kind, coefficient, 10.0, tmp_path / "cut")
    assert list((tmp_path / "cut").glob("*/whole"))
    resumed = trained(kind, coefficient, 10.0, tmp_path / "cut")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
