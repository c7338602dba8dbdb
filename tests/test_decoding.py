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

from saerepgeo_lib.decoding import decoder_on, own_decode, own_input, own_mse, to_residual
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.latents import Codes, encode

SHAPE = {"d_in": 8, "d_sae": 24}


def filled(sae, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sae.named_parameters():
            if name != "threshold":
                weight.copy_(torch.randn(weight.shape, generator=generator))
    return sae.eval()


KINDS = {
    "standard": lambda **k: StandardSAE(StandardSAEConfig(**SHAPE, **k)),
    "topk": lambda **k: TopKSAE(TopKSAEConfig(k=5, **SHAPE, **k)),
    "topk by norm": lambda **k: TopKSAE(
        TopKSAEConfig(k=5, rescale_acts_by_decoder_norm=True, **SHAPE, **k)
    ),
    "jumprelu": lambda **k: JumpReLUSAE(JumpReLUSAEConfig(**SHAPE, **k)),
    "gated": lambda **k: GatedSAE(GatedSAEConfig(**SHAPE, **k)),
}


@pytest.mark.parametrize("normalise", ["none", "layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_affine_map_is_saelens_decode_in_its_own_normalisation(kind, normalise):
    sae = filled(KINDS[kind](normalize_activations=normalise))
    x = torch.randn(20, 8, generator=torch.Generator().manual_seed(1)) * 3 + 1
    codes = encode(sae, x)
    decoder = decoder_on(sae, codes.features)
    found = codes.values.double() @ decoder.weight + decoder.bias
    whole = sae.decode(sae.encode(x))
    torch.testing.assert_close(to_residual(sae, x, found), whole, rtol=1e-3, atol=1e-3)
    error = own_mse(sae, x, codes)
    assert error == pytest.approx((own_input(sae, x) - found).square().mean().item(), rel=1e-4)
    if normalise == "none":
        assert error == pytest.approx((x - whole).square().mean().item(), rel=1e-4)
    ones = Codes(torch.ones(1, 24), torch.arange(24))
    with own_decode(sae) as decode:
        expected = decode(ones.values) - decoder.bias
    torch.testing.assert_close(decoder.total, expected[0].double(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sae.decode(sae.encode(x)), whole)  # the SAE is left as it was


def test_a_decoder_that_is_not_affine_is_refused():
    class Bent(StandardSAE):
        def decode(self, feature_acts):
            return super().decode(feature_acts) ** 2

    sae = filled(Bent(StandardSAEConfig(**SHAPE)))
    with pytest.raises(UserError, match="not an affine map"):
        decoder_on(sae, torch.arange(6))
