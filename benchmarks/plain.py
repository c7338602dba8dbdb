"""Case 1 done plainly: the model again for every noise level, every token encoded, all kept dense.

And done with more care: the model once, and the tensor's tokens alone, level by level.

What one writes first with TransformerLens, SAELens and torch, and a counterpart for the library:
`tests/test_benchmarks.py` shows that both give the same spectra.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.measure import Parts
from saerepgeo_lib.activations.residual_stream import run_to_hook
from saerepgeo_lib.activations.tokens import Tokens

Variant = Literal["plain", "lean", "careful", "gram"]
VARIANTS: tuple[Variant, ...] = ("plain", "lean", "careful", "gram")
_BATCH = 64  # prompts that pass through the model together, as in the library


def run_with_noise(
    model: Any, tokens: Tokens, hook: str, noise: Float[Tensor, "P T d"]
) -> Float[Tensor, "P T d"]:
    """The residual stream of all tokens, noise added at the hook, by a whole forward pass.

    `run_with_cache` as it is: every activation is cached, and the logits are computed.
    """
    parts = []
    for rows in torch.arange(len(tokens.ids)).split(_BATCH):
        with model.hooks(fwd_hooks=[(hook, _adds(noise[rows]))]):
            _, cache = model.run_with_cache(
                tokens.ids[rows].to(noise.device),
                attention_mask=tokens.attention[rows].long().to(noise.device),
            )
        parts.append(cache[hook])
    return torch.cat(parts)


def run_once(
    model: Any, tokens: Tokens, hook: str, at: tuple[Int[Tensor, "P slots"], Int[Tensor, "P slots"]]
) -> Float[Tensor, "P slots d"]:
    """The residual stream of the tokens `at` (prompts, positions), by a pass up to the hook."""
    batches = torch.arange(len(tokens.ids)).split(_BATCH)
    found = [run_to_hook(model, tokens.ids[b], tokens.attention[b], hook) for b in batches]
    return torch.cat(found)[at]


def _adds(noise: Tensor) -> Callable[..., Tensor]:
    def add(activation: Tensor, hook: Any) -> Tensor:
        return activation + noise

    return add


def unfoldings(z: Float[Tensor, "P T F"]) -> dict[int, Float[Tensor, "n rest"]]:
    """The three dense unfoldings of the latent tensor, by mode."""
    return {mode: z.movedim(mode - 1, 0).flatten(1) for mode in (1, 2, 3)}


def singular_values(z: Float[Tensor, "P T F"]) -> dict[int, Float[Tensor, " k"]]:
    """All singular values of each dense unfolding, by mode."""
    return {mode: torch.linalg.svdvals(matrix) for mode, matrix in unfoldings(z).items()}


def gram_values(z: Float[Tensor, "P T F"]) -> dict[int, Float[Tensor, " F"]]:
    """Square roots of the eigenvalues of the feature mode's SSPD matrix, all F x F of it."""
    matrix = unfoldings(z)[3].double()
    found = torch.linalg.eigvalsh(matrix @ matrix.T)
    return {3: found.flip(0).clamp(min=0).sqrt()}


@torch.no_grad()
def spectra(
    model: Any,
    sae: Any,
    tokens: Tokens,
    hook: str,
    noise: Float[Tensor, "P T d"],
    *,
    levels: Sequence[float],
    variant: Variant = "plain",
    at: tuple[Int[Tensor, "P slots"], Int[Tensor, "P slots"]] | None = None,
    parts: Parts | None = None,
) -> list[dict[int, Tensor]]:
    """Singular values of the latents' unfoldings at each noise level, by mode.

    `noise` is multiplied by each of `levels`. "plain" unfolds the tensor of all tokens, padding and
    specials too; "lean" that of the tokens `at` (prompts, positions) alone; "gram" takes the
    eigenvalues of the feature mode's F x F matrix, of the same tokens as "lean". The latents of all
    levels exist together. "careful" gives what "lean" does, but runs the model once up to the hook,
    encodes the tokens `at` only, and keeps no level's latents.
    """
    parts = parts or Parts(str(noise.device))
    if variant != "plain" and at is None:
        raise ValueError(f"variant {variant!r} needs the tokens to look at: give `at`")
    if variant == "careful":
        return _careful(model, sae, tokens, hook, noise, levels, at, parts)
    latents = []
    for level in levels:
        with parts("model"):
            x = run_with_noise(model, tokens, hook, level * noise)
        with parts("encode"):
            latents.append(sae.encode(x))
    with parts("spectra"):
        if variant == "plain":
            return [singular_values(z) for z in latents]
        values = singular_values if variant == "lean" else gram_values
        return [values(z[at]) for z in latents]


def _careful(
    model: Any, sae: Any, tokens: Tokens, hook: str, noise: Tensor, levels: Sequence[float],
    at: Any, parts: Parts,
) -> list[dict[int, Tensor]]:  # fmt: skip
    with parts("model"):
        x = run_once(model, tokens, hook, at)
    found = []
    for level in levels:
        with parts("encode"):
            z = sae.encode(x + level * noise[at])
        with parts("spectra"):
            found.append(singular_values(z))
    return found
