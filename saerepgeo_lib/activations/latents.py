"""Residual vectors to latents on the active features, and SAEs in which nothing was learned."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saerepgeo_lib.activations.residual_stream import Massive, batches_of, float64, typical
from saerepgeo_lib.errors import UserError

MEMORY_BUDGET = 2**28  # bytes that one batch of dense latents may take
_ON_CPU = 2**24  # in `encode`; less is faster there: what was just written is still in the caches


@dataclass(frozen=True)
class Latents:
    """Latents on the features that are active (nonzero) somewhere; all others are exactly 0."""

    values: Float[Tensor, "tokens active"]
    features: Int[Tensor, " active"]

    @property
    def l0(self) -> float:
        """Mean number of active latents per token."""
        return self.values.count_nonzero().item() / len(self.values)


@torch.no_grad()
def encode(sae: Any, x: Float[Tensor, "tokens d"], *, memory_budget: int | None = None) -> Latents:
    """`sae.encode(x)` without the columns that are zero for every row.

    At most `memory_budget` bytes of dense latents exist at once (16 MiB on a CPU, else 256 MiB).
    """
    if memory_budget is None:
        memory_budget = _ON_CPU if x.device.type == "cpu" else MEMORY_BUDGET
    batches = _batches(sae, x, memory_budget)
    return join([in_use(sae.encode(x[rows])) for rows in batches], batches)


def _batches(sae: Any, x: Float[Tensor, "tokens d"], memory_budget: int) -> Sequence[slice]:
    """Batches of rows whose dense latents take at most that many bytes."""
    return batches_of(len(x), max(1, memory_budget // (sae.cfg.d_sae * x.element_size())))


def in_use(z: Float[Tensor, "tokens F"]) -> Latents:
    """Dense latents without the columns that are zero for every token."""
    features = (z.abs().amax(0) != 0).nonzero()[:, 0]
    return Latents(z.index_select(1, features), features)


def join(parts: Sequence[Latents], places: Sequence[slice]) -> Latents:
    """The latents of several batches of tokens as one; `places` are the batches' rows."""
    if len(parts) == 1:
        return parts[0]
    features = torch.unique(torch.cat([part.features for part in parts]))
    values = parts[0].values.new_zeros(sum(len(part.values) for part in parts), len(features))
    for rows, part in zip(places, parts, strict=True):
        values[rows, torch.searchsorted(features, part.features)] = part.values
    return Latents(values, features)


@torch.no_grad()
def fvu(
    sae: Any, x: Float[Tensor, "tokens d"], *, massive: Massive = "leave out",
    memory_budget: int = MEMORY_BUDGET,
) -> float:  # fmt: skip
    """Fraction of variance unexplained: sum |x - decode(encode(x))|^2 / sum |x - mean(x)|^2.

    The mean is that of the rows given, so the value for a subset is relative to the subset's own
    spread. Rows that are massive (`residual_stream.is_massive`) do not count, unless they are to
    "keep". Raises UserError if the rows do not vary.
    """
    x = typical(x, massive)
    total = (float64(x) - float64(x).mean(0)).square().sum().item()
    if total == 0:
        raise UserError(f"the FVU of {len(x)} identical tokens is undefined: they do not vary")
    batches = (x[rows] for rows in _batches(sae, x, memory_budget))
    errors = (float64(rows - sae.decode(sae.encode(rows))).square().sum() for rows in batches)
    return sum(error.item() for error in errors) / total


def fit_on(
    sae: Any, x: Float[Tensor, "tokens d"], *, massive: Massive = "leave out"
) -> dict[str, float]:
    """FVU and mean L0 of an SAE on these tokens; massive ones are left out, or to "keep"."""
    x = typical(x, massive)
    return {"FVU": fvu(sae, x, massive="keep"), "L0": encode(sae, x).l0}


def random_sae_like(
    sae: Any, x: Float[Tensor, "tokens d"], *, generator: torch.Generator, keep_centre: bool = True
) -> Any:
    """`random_sae` with the mean L0 that `sae` has on these tokens."""
    l0 = max(1, round(encode(sae, x).l0))
    return random_sae(sae, l0=l0, generator=generator, keep_centre=keep_centre)


def random_sae(
    reference: Any, *, l0: int, generator: torch.Generator, keep_centre: bool = True
) -> Any:
    """A null: a TopK SAE (`l0` latents) of random unit directions with the reference's width.

    Nothing in it is learned but the centre b_dec (0 without `keep_centre`). The decoder is the
    encoder's transpose.
    """
    from sae_lens import TopKSAE, TopKSAEConfig

    width, d_in = reference.cfg.d_sae, reference.cfg.d_in
    if not 1 <= l0 <= width:
        raise UserError(f"l0 must lie between 1 and the width {width}, got {l0}")
    directions = torch.randn(width, d_in, generator=generator)
    directions /= directions.norm(dim=1, keepdim=True)
    copied = {name: getattr(reference.cfg, name) for name in ("normalize_activations", "metadata")}
    sae = TopKSAE(TopKSAEConfig(d_in, width, k=l0, apply_b_dec_to_input=True, **copied))
    weights = {"W_enc": directions.T.contiguous(), "W_dec": directions, "b_enc": torch.zeros(width)}
    weights["b_dec"] = reference.b_dec.detach().float().cpu() * keep_centre
    sae.load_state_dict(weights)
    return sae.to(reference.b_dec.device).eval()
