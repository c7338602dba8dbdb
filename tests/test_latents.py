import pytest
import torch

from saerepgeo_lib.latents import encode, fvu


def dense(codes, width):
    out = torch.zeros(len(codes.values), width)
    out[:, codes.features] = codes.values.float()
    return out


@pytest.mark.parametrize("budget", [2**28, 1000, 1])
def test_codes_are_the_sae_s_latents_whatever_the_batch(small_sae, budget):
    x = torch.randn(23, 8)
    codes = encode(small_sae, x, memory_budget=budget)
    torch.testing.assert_close(dense(codes, 32), small_sae.encode(x))
    assert codes.values.any(0).all()
    assert codes.l0 == pytest.approx((small_sae.encode(x) != 0).sum().item() / 23)


def test_fvu_is_0_for_a_perfect_and_1_for_a_constant_reconstruction(small_sae):
    x = torch.randn(50, 8)
    with torch.no_grad():
        small_sae.W_dec.zero_()
        small_sae.b_dec.copy_(x.mean(0))
    assert fvu(small_sae, x) == pytest.approx(1, rel=1e-5)
    assert fvu(small_sae, x, memory_budget=1) == pytest.approx(fvu(small_sae, x))
    with torch.no_grad():  # relu(x) - relu(-x) = x needs no more than 8 active latents
        small_sae.b_dec.zero_()
        small_sae.W_enc.zero_()
        small_sae.W_enc[:, :8], small_sae.W_enc[:, 8:16] = torch.eye(8), -torch.eye(8)
        small_sae.W_dec[:8], small_sae.W_dec[8:16] = torch.eye(8), -torch.eye(8)
    small_sae.activation_fn.k = 8
    assert fvu(small_sae, x) == pytest.approx(0, abs=1e-10)
