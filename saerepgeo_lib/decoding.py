"""SAELens' decoders as the affine maps that they are, in the SAE's own normalisation.

An SAE with run-time normalisation (layer norm, constant norm) reconstructs the normalised residual
and undoes the normalisation last; errors are measured before that step.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.latents import MEMORY_BUDGET, Codes
from saerepgeo_lib.residuals import batches_of, float64

Rows = Float[Tensor, "rows _"]


@torch.no_grad()
def own_input(sae: Any, x: Float[Tensor, "tokens d"]) -> Float[Tensor, "tokens d"]:
    """The residual as the SAE reconstructs it: after its run-time normalisation, if it has one."""
    normalised: Tensor = sae.run_time_activation_norm_fn_in(x)
    return normalised


@contextmanager
def own_decode(sae: Any) -> Iterator[Callable[[Rows], Rows]]:
    """`sae.decode` without undoing the run-time normalisation, so for codes of any tokens."""
    undo = sae.run_time_activation_norm_fn_out
    sae.run_time_activation_norm_fn_out = lambda x: x
    try:
        yield sae.decode
    finally:
        sae.run_time_activation_norm_fn_out = undo


@torch.no_grad()
def to_residual(
    sae: Any, x: Float[Tensor, "tokens d"], reconstruction: Float[Tensor, "tokens d"]
) -> Float[Tensor, "tokens d"]:
    """A reconstruction in the SAE's own normalisation of the residual x, in the units of x."""
    sae.run_time_activation_norm_fn_in(x)
    back: Tensor = sae.run_time_activation_norm_fn_out(reconstruction.to(x))
    return back


@dataclass(frozen=True)
class Decoder:
    """`z @ weight + bias`: the decoder on some of the features, the others being 0; float64.

    `total` is the sum of the decoder directions of all features, `width` their number.
    """

    weight: Float[Tensor, "active d"]
    bias: Float[Tensor, " d"]
    total: Float[Tensor, " d"]
    width: int


@torch.no_grad()
def decoder_on(sae: Any, features: Int[Tensor, " active"]) -> Decoder:
    """The decoder restricted to `features`, read off `sae.decode` itself.

    Raises UserError if `sae.decode` is not an affine map, which every edit here relies on.
    """
    width, device = sae.cfg.d_sae, features.device
    dtype = sae.W_dec.dtype
    with own_decode(sae) as decode:
        bias = decode(torch.zeros(1, width, dtype=dtype, device=device))
        total = decode(torch.ones(1, width, dtype=dtype, device=device)) - bias
        parts = []
        for rows in batches_of(len(features), max(1, MEMORY_BUDGET // (4 * width))):
            unit = torch.zeros(len(features[rows]), width, dtype=dtype, device=device)
            unit[torch.arange(len(unit)), features[rows]] = 1
            parts.append(decode(unit) - bias)
        weight = torch.cat(parts)
        mixed = torch.linspace(0, 2, len(features), dtype=dtype, device=device)
        code = torch.zeros(1, width, dtype=dtype, device=device)
        code[0, features] = mixed
        found, expected = decode(code)[0], mixed @ weight + bias[0]
    if not torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(found.abs().max())):
        raise UserError(
            f"the decoder of {type(sae).__name__} is not an affine map of the latents; "
            "interventions on the code are defined for affine decoders only"
        )
    return Decoder(float64(weight), float64(bias[0]), float64(total[0]), width)


@torch.no_grad()
def own_mse(sae: Any, x: Float[Tensor, "tokens d"], codes: Codes) -> float:
    """Mean squared error over tokens and components by `sae.decode`, in its own normalisation."""
    target, error = own_input(sae, x), 0.0
    size = max(1, MEMORY_BUDGET // (4 * sae.cfg.d_sae))
    with own_decode(sae) as decode:
        for rows in batches_of(len(x), size):
            dense = target.new_zeros(len(target[rows]), sae.cfg.d_sae)
            dense[:, codes.features] = codes.values[rows].to(dense)
            error += float64(target[rows] - decode(dense)).square().sum().item()
    return error / target.numel()
