"""Residuals to latents, in batches sized to a memory budget, kept on the active features."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.points import twins
from saerepgeo_lib.residuals import batches_of, float64

MEMORY_BUDGET = 2**28  # bytes that one batch of dense latents may take
_ON_CPU = 2**24  # in `encode`; less is faster there: what was just written is still in the caches


@dataclass(frozen=True)
class Codes:
    """Latents on the features that are active (nonzero) somewhere; all others are exactly 0."""

    values: Float[Tensor, "tokens active"]
    features: Int[Tensor, " active"]

    @property
    def l0(self) -> float:
        """Mean number of active latents a token."""
        return self.values.count_nonzero().item() / len(self.values)


@torch.no_grad()
def encode(sae: Any, x: Float[Tensor, "tokens d"], *, memory_budget: int | None = None) -> Codes:
    """`sae.encode(x)` without the columns that are zero for every row.

    At most `memory_budget` bytes of dense latents exist at once a call (16 MiB on a CPU, 256 MiB
    elsewhere); what is kept grows with the features in use, not with the width of the SAE.
    """
    if memory_budget is None:
        memory_budget = _ON_CPU if x.device.type == "cpu" else MEMORY_BUDGET
    size = max(1, memory_budget // (sae.cfg.d_sae * x.element_size()))
    parts = batches_of(len(x), size)
    return join([in_use(sae.encode(x[rows])) for rows in parts], parts)


def in_use(z: Float[Tensor, "tokens F"]) -> Codes:
    """Dense latents without the columns that are zero for every token."""
    features = (z.abs().amax(0) != 0).nonzero()[:, 0]
    return Codes(z.index_select(1, features), features)


def join(codes: Sequence[Codes], parts: Sequence[slice]) -> Codes:
    """The codes of several parts of the tokens as one."""
    if len(codes) == 1:
        return codes[0]
    features = torch.unique(torch.cat([part.features for part in codes]))
    first = codes[0].values
    values = first.new_zeros(sum(len(part.values) for part in codes), len(features))
    for rows, part in zip(parts, codes, strict=True):
        values[rows, torch.searchsorted(features, part.features)] = part.values
    return Codes(values, features)


def as_points(sae: Any, x: Float[Tensor, "tokens d"]) -> Float[np.ndarray, "tokens active"]:
    """The codes as points; rows of `x` that are equal get equal ones, to the last bit."""
    kept, position = twins(x.cpu().numpy())
    values: np.ndarray = encode(sae, x[torch.from_numpy(kept)]).values.double().cpu().numpy()
    return values[position]


@torch.no_grad()
def fvu(sae: Any, x: Float[Tensor, "tokens d"], *, memory_budget: int = MEMORY_BUDGET) -> float:
    """Fraction of variance unexplained: sum |x - decode(encode(x))|^2 / sum |x - mean(x)|^2.

    The mean is that of the rows given, so the value for a subset is relative to the
    subset's own spread.
    """
    size = max(1, memory_budget // (sae.cfg.d_sae * x.element_size()))
    error = sum(
        float64(x[rows] - sae.decode(sae.encode(x[rows]))).square().sum().item()
        for rows in batches_of(len(x), size)
    )
    spread = float64(x) - float64(x).mean(0)
    total = spread.square().sum().item()
    if total == 0:
        raise UserError(f"the FVU of {len(x)} identical tokens is undefined: they do not vary")
    return error / total


def fit_on(sae: Any, x: Float[Tensor, "tokens d"]) -> dict[str, float]:
    """FVU and mean L0 of an SAE on these tokens (see `latents.fvu`)."""
    return {"FVU": fvu(sae, x), "L0": encode(sae, x).l0}
