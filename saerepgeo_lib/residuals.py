"""The residual stream at a hook, computed once, and the noise that enters there."""

import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saerepgeo_lib.errors import UserError, choose, nearest
from saerepgeo_lib.models import is_causal
from saerepgeo_lib.tokens import Tokens

NoiseScaling = Literal["relative", "absolute"]
Positions = Literal["content", "entity"]


@dataclass(frozen=True)
class Residuals:
    """Residual-stream vectors of the tokens that count, one row a token; masked tokens are absent.

    `prompt` and `position` say where each row came from, `entity` whether it belongs to the
    prompt's entity. Rows are in reading order, prompt after prompt.
    """

    x: Float[Tensor, "tokens d"]
    prompt: Int[Tensor, " tokens"]
    position: Int[Tensor, " tokens"]
    entity: Bool[Tensor, " tokens"]

    def at(self, positions: Positions) -> "Residuals":
        """All content tokens, or the entities' tokens only."""
        if choose("positions", positions, ("content", "entity")) == "content":
            return self
        if not self.entity.any():
            raise UserError(
                "positions 'entity' needs prompts that carry an entity; these carry none "
                "(the plain form of a concept file): use positions 'content'"
            )
        keep = self.entity
        return Residuals(self.x[keep], self.prompt[keep], self.position[keep], keep[keep])


def by_position(residuals: Residuals) -> dict[str, Residuals]:
    """The tokens given by what they are: all "content", and the "entity" tokens among them."""
    if residuals.entity.all():
        return {"entity": residuals}
    parts = {"content": residuals}
    return parts | ({"entity": residuals.at("entity")} if residuals.entity.any() else {})


class _Caught(Exception):
    """Ends a forward pass, and carries the activation out of it."""


@torch.no_grad()
def run_to_hook(
    model: Any,
    ids: Int[Tensor, "rows positions"],
    attention: Bool[Tensor, "rows positions"],
    hook: str,
) -> Float[Tensor, "rows positions d"]:
    """One forward pass that ends at the hook; the activation there.

    Raises UserError, with the nearest valid names, if the model has no such hook or never runs it.
    """
    block = re.match(r"blocks\.(\d+)\.", hook)
    if block and int(block.group(1)) >= model.cfg.n_layers:
        raise UserError(
            f"the hook {hook!r} does not exist: the model has {model.cfg.n_layers} blocks, "
            f"0 to {model.cfg.n_layers - 1}"
        )
    if hook not in model.hook_dict:
        raise UserError(f"the model has no hook {hook!r}; {nearest(hook, model.hook_dict)}")

    # `stop_at_layer` stops before a later block: after the last one it would go on to the logits
    def catch(x: Any, *, hook: Any) -> None:
        raise _Caught(x[0] if isinstance(x, tuple) else x)

    device = model.cfg.device
    with ExitStack() as hooks:
        try:
            hooks.enter_context(model.hooks(fwd_hooks=[(hook, catch)]))
        except ValueError as error:
            raise UserError(f"the hook {hook!r} is switched off: {error}") from error
        try:
            model(ids.to(device), attention_mask=attention.long().to(device))
        except _Caught as caught:
            (x,) = caught.args
            return x
    raise UserError(f"the model has the hook {hook!r}, but does not compute it; name another")


def compute_residuals(model: Any, tokens: Tokens, hook: str, *, batch_size: int = 64) -> Residuals:
    """The residual stream at `hook` for the content tokens of all prompts.

    Each prompt passes through the model once: noise levels and seeds never run it again, and a
    causal model reads no further than the last token that counts. Tokens in the same context get
    the same vector, to the last bit: left to rounding, copies would look like very dense clusters.
    """
    causal = is_causal(model)
    positions = torch.arange(1, tokens.ids.shape[1] + 1)
    needed = ((tokens.content if causal else tokens.attention) * positions).amax(1)
    place = (tokens.content.flatten().cumsum(0) - 1).view_as(tokens.ids)
    places, parts = [], []
    for rows in needed.argsort(stable=True).split(batch_size):  # alike in length: little padding
        width = int(needed[rows].max())
        x = run_to_hook(model, tokens.ids[rows, :width], tokens.attention[rows, :width], hook)
        content = tokens.content[rows, :width]
        parts.append(x[content.to(x.device)].float())
        places.append(place[rows, :width][content])
    back = torch.cat(places).argsort()
    first = back[_first_in_context(tokens, causal=causal)]
    prompt, position = tokens.content.nonzero(as_tuple=True)
    return Residuals(torch.cat(parts)[first], prompt, position, tokens.entity[tokens.content])


def _first_in_context(tokens: Tokens, *, causal: bool) -> list[int]:
    """For each content token the first one that sees the same tokens from the same position."""
    lengths = tokens.attention.sum(1).tolist()
    first: dict[tuple[int, ...], int] = {}
    out = []
    for place, (p, t) in enumerate(tokens.content.nonzero().tolist()):
        seen = tokens.ids[p, : t + 1 if causal else lengths[p]].tolist()
        out.append(first.setdefault((t, *seen), place))
    return out


def float64(x: Tensor) -> Tensor:
    """`x` in double precision; on the CPU where the device (Apple's mps) has none."""
    return x.cpu().double() if x.device.type == "mps" else x.double()


def rms(x: Float[Tensor, "tokens d"]) -> float:
    """Root mean square of the centred rows: sqrt(mean((x - mean)^2)) over tokens and components."""
    y = float64(x)
    return (y - y.mean(0)).square().mean().sqrt().item()


def add_noise(
    x: Float[Tensor, "tokens d"],
    level: float,
    *,
    scaling: NoiseScaling,
    generator: torch.Generator,
) -> Float[Tensor, "tokens d"]:
    """`x + level * sigma * eps`, eps standard normal from `generator` (a CPU generator).

    sigma is 1 for "absolute" and the root mean square of the centred rows for "relative".
    """
    choose("noise scaling", scaling, ("relative", "absolute"))
    if not level >= 0 or level == float("inf"):
        raise UserError(f"a noise level is a finite number >= 0, got {level}")
    return x + level * (rms(x) if scaling == "relative" else 1.0) * draw_noise(x, generator)


def draw_noise(
    x: Float[Tensor, "tokens d"], generator: torch.Generator
) -> Float[Tensor, "tokens d"]:
    """Standard normal noise for `x`, the same on every device (from a CPU generator)."""
    return torch.randn(x.shape, generator=generator, dtype=torch.float32).to(x)


def batches_of(n: int, size: int) -> Sequence[slice]:
    """Slices that cover range(n) in steps of `size`."""
    return [slice(i, min(i + size, n)) for i in range(0, n, size)]
