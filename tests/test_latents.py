import pytest
import torch

from saerepgeo_lib.activations.latents import encode, fit_on, fvu


@pytest.mark.parametrize("budget", [2**28, 1000, 1])
def test_latents_are_those_of_the_sae_whatever_the_batch(small_sae, budget):
    x = torch.randn(23, 8)
    latents, expected = encode(small_sae, x, memory_budget=budget), small_sae.encode(x)
    dense = torch.zeros(23, 32)
    dense[:, latents.features] = latents.values
    torch.testing.assert_close(dense, expected)
    assert latents.values.any(0).all()
    assert latents.l0 == pytest.approx((expected != 0).sum().item() / 23)


def test_fvu_is_0_for_a_perfect_and_1_for_a_constant_reconstruction(small_sae):
    x, eye = torch.randn(50, 8), torch.eye(8)
    small_sae.W_dec.data.zero_()
    small_sae.b_dec.data.copy_(x.mean(0))
    assert fvu(small_sae, x) == pytest.approx(1, rel=1e-5)
    assert fvu(small_sae, x, memory_budget=1) == pytest.approx(fvu(small_sae, x))
    small_sae.b_dec.data.zero_()
    small_sae.W_enc.data.zero_()  # relu(x) - relu(-x) = x needs no more than 8 active latents
    small_sae.W_enc.data[:, :16] = torch.cat([eye, -eye], 1)
    small_sae.W_dec.data[:16] = torch.cat([eye, -eye])
    small_sae.activation_fn.k = 8
    assert fit_on(small_sae, x) == {"FVU": pytest.approx(0, abs=1e-10), "L0": 8}
