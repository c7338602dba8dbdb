"""Latents along a ray of noise against the SAE's own `encode`, for every kind and normalisation."""

import pytest
import torch
from sae_lens import (
    GatedSAE,
    GatedSAEConfig,
    JumpReLUSAE,
    JumpReLUSAEConfig,
    StandardSAE,
    StandardSAEConfig,
    TopKSAE,
    TopKSAEConfig,
)
from sae_lens.saes.abstopk_sae import AbsTopKSAE, AbsTopKSAEConfig

from saerepgeo_lib import noisy_codes
from saerepgeo_lib.cores import workers
from saerepgeo_lib.noisy_codes import NoisyCodes, largest

KINDS = {
    "standard": (StandardSAE, StandardSAEConfig, {}),
    "topk": (TopKSAE, TopKSAEConfig, {"k": 7}),
    "rescaled topk": (
        TopKSAE, TopKSAEConfig, {"k": 7, "rescale_acts_by_decoder_norm": True}
    ),
    "jumprelu": (JumpReLUSAE, JumpReLUSAEConfig, {}),
    "gated": (GatedSAE, GatedSAEConfig, {}),
}  # fmt: skip
D, F = 12, 512


def made(kind, normalisation="none", *, with_centre=True, dtype="float64"):
    make, config, more = KINDS[kind]
    torch.manual_seed(0)
    sae = make(
        config(d_in=D, d_sae=F, dtype=dtype, apply_b_dec_to_input=with_centre,
               normalize_activations=normalisation, **more)
    )  # fmt: skip
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
    return sae.eval()


def draw(n=40, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, n, D, generator=generator, dtype=torch.float64).to(dtype) + 0.3


def dense(codes):
    out = codes.values.new_zeros(len(codes.values), F)
    out[:, codes.features] = codes.values
    return out


def along(sae, x, noise, scale, **options):
    with workers() as pool:
        codes = NoisyCodes(sae, x, pool=pool, **options)
        return codes, codes.along(noise)(scale), codes.clean()


@pytest.mark.parametrize("with_centre", [True, False])
@pytest.mark.parametrize("normalisation", ["none", "layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("kind", KINDS)
def test_latents_along_noise_are_those_that_the_sae_encodes(kind, normalisation, with_centre):
    sae, (x, noise) = made(kind, normalisation, with_centre=with_centre), draw()
    for scale in (0.0, 0.02, 1.0, 10.0):
        codes, found, clean = along(sae, x, noise, scale)
        assert codes._affine
        with torch.no_grad():
            expected, expected_clean = sae.encode(x + scale * noise), sae.encode(x)
        assert torch.equal(dense(found) != 0, expected != 0)
        torch.testing.assert_close(dense(found), expected, rtol=1e-10, atol=1e-11)
        torch.testing.assert_close(dense(clean), expected_clean, rtol=1e-10, atol=1e-11)
        assert found.values.any(0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_in_single_precision_they_agree_up_to_rounding(kind):
    sae, (x, noise) = made(kind, dtype="float32"), draw(dtype=torch.float32)
    _, found, _ = along(sae, x, noise, 0.5)
    with torch.no_grad():
        expected = sae.encode(x + 0.5 * noise)
    torch.testing.assert_close(dense(found), expected, rtol=1e-4, atol=1e-5)


class Halved(StandardSAE):
    """A user's own encoder."""

    def encode(self, x):
        return super().encode(x) / 2


def hooked(sae):
    sae.hook_sae_acts_pre.add_hook(lambda pre, hook: pre * 0.5)
    return sae


@pytest.mark.parametrize("normalisation", ["none", "constant_norm_rescale", "layer_norm"])
@pytest.mark.parametrize("kind", KINDS)
def test_many_levels_at_once_in_many_batches_are_those_one_by_one(kind, normalisation, monkeypatch):
    monkeypatch.setattr(noisy_codes, "IN_CACHE", 7 * F * 8)
    monkeypatch.setattr(noisy_codes, "_COLUMNS", F // 5)
    sae, (x, noise) = made(kind, normalisation), draw()
    x.requires_grad_()
    scales = [0.1 * i for i in range(40)]
    with workers() as pool:
        codes_at = NoisyCodes(sae, x, pool=pool).along(noise)
        found = list(pool.map(codes_at, scales))
    for scale, codes in zip(scales, found, strict=True):
        with torch.no_grad():
            torch.testing.assert_close(dense(codes), sae.encode(x + scale * noise))


def test_no_latent_at_all_gives_codes_without_features():
    sae, (x, noise) = made("topk"), draw()
    with torch.no_grad():
        sae.b_enc.fill_(-1e6)
    _, found, clean = along(sae, x, noise, 0.5)
    assert found.values.shape == clean.values.shape == (len(x), 0) and found.l0 == 0


@pytest.mark.parametrize("why", ["own encode", "signed", "hook", "memory", "bfloat16"])
def test_what_is_not_affine_or_too_large_is_encoded_by_the_sae_itself(why):
    x, noise = draw(dtype=torch.float32)
    sae = made("standard", dtype="bfloat16" if why == "bfloat16" else "float32")
    if why == "own encode":
        sae.__class__ = Halved
    elif why == "signed":  # shares TopK's encode, and keeps negative latents
        torch.manual_seed(0)
        sae = AbsTopKSAE(AbsTopKSAEConfig(d_in=D, d_sae=F, k=7)).eval()
    elif why == "hook":
        sae = hooked(sae)
    codes, found, _ = along(sae, x, noise, 0.5, held=1 if why == "memory" else 2**30)
    assert not codes._affine
    with torch.no_grad():
        expected = sae.encode(x + 0.5 * noise)
    torch.testing.assert_close(dense(found), expected)
    assert (expected < 0).any() == (why == "signed")


@pytest.mark.parametrize(("n", "k"), [(64 * 40, 8), (64 * 40, 11), (1000, 8), (64 * 16, 1)])
def test_the_largest_are_those_of_torch(n, k):
    x = torch.randn(50, n, generator=torch.Generator().manual_seed(2))
    x[:5] = x[:5].round()  # ties
    values, places = largest(x, k)
    expected = x.topk(k).values
    assert torch.equal(values.sort(descending=True).values, expected)
    assert torch.equal(x.gather(1, places), values)
    assert all(len(row.unique()) == k for row in places)
