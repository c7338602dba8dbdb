"""The residual stream at a hook, computed once, and the noise that enters there."""

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saerepgeo_lib.activations.tokens import Tokens
from saerepgeo_lib.errors import UserError, choose, nearest

NoiseScaling = Literal["relative", "absolute"]
REMEDY = {  # for NaN and infinity, by what a model computes in
    torch.float16: "float16, which ends at 65,504; load the model in dtype 'float32' or 'bfloat16'",
    torch.bfloat16: "bfloat16; load the model in dtype 'float32', and if they still are, compare "
                    "its files with the original",
    torch.float32: "float32; compare the model's files with the original",
    torch.float64: "float64; compare the model's files with the original",
}  # fmt: skip
Massive = Literal["leave out", "keep"]
MASSIVE = 5.0  # median distances from the median beyond which a row is massive
FEW, _LEAST = 0.25, 5  # the largest share of rows that can be massive; rows for a median
_ROUNDING = 1e-6  # of the norm: rows as close to the median as this are copies of it


def is_causal(model: Any) -> bool:
    """Whether tokens see only those before them (the bridge's own `attention_dir` ignores BERT)."""
    masked = "MaskedLM" in str(getattr(model.cfg, "architecture", ""))
    return bool(model.cfg.attention_dir == "causal" and not masked)


class _Caught(Exception):
    """Ends a forward pass, and carries the activation out of it."""


@contextmanager
def _in_eval_mode(model: Any) -> Iterator[None]:
    """Without dropout; afterwards each part of the model is in the mode that it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@torch.no_grad()
def run_to_hook(
    model: Any, ids: Int[Tensor, "rows positions"], attention: Bool[Tensor, "rows positions"],
    hook: str,
) -> Float[Tensor, "rows positions d"]:  # fmt: skip
    """One forward pass that ends at the hook; the activation there, without dropout.

    Raises UserError, with the nearest valid names, if the model has no such hook or never runs it,
    and if somebody left a hook on the model, outside of a `with model.hooks(...)`.
    """
    block, n_blocks = re.match(r"blocks\.(\d+)\.", hook), model.cfg.n_layers
    if block and int(block.group(1)) >= n_blocks:
        raise UserError(
            f"there is no hook {hook!r}: the model has {n_blocks} blocks, 0 to {n_blocks - 1}"
        )
    if hook not in model.hook_dict:
        raise UserError(f"the model has no hook {hook!r}; {nearest(hook, model.hook_dict)}")
    for name, point in model.hook_dict.items():
        if any(not handle.context_level for handle in point.fwd_hooks):
            raise UserError(
                f"the model has a hook at {name!r} that was left there and may change what it "
                "computes; remove it: model.reset_hooks(including_permanent=True), or put it into "
                "a 'with model.hooks(...)'"
            )

    # `stop_at_layer` stops before a later block: after the last one it would go on to the logits
    def catch(x: Any, *, hook: Any) -> None:
        raise _Caught(x[0] if isinstance(x, tuple) else x)

    check_ids(model, ids)
    device = model.cfg.device
    with ExitStack() as hooks:
        hooks.enter_context(_in_eval_mode(model))
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


def content_residuals(
    model: Any, tokens: Tokens, hook: str, *, batch_size: int = 64
) -> Float[Tensor, "tokens d"]:
    """The residual stream at `hook` for the content tokens of all prompts, in reading order.

    A causal model reads no further than the last token that counts. Tokens in the same context get
    the same vector, to the last bit: rounded copies would look like very dense clusters.
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
    lengths = tokens.attention.sum(1).tolist()
    first: dict[tuple[int, ...], int] = {}  # row of what a token sees, and where it stands
    rows_of = [
        first.setdefault((t, *tokens.ids[p, : t + 1 if causal else lengths[p]].tolist()), row)
        for row, (p, t) in enumerate(tokens.content.nonzero().tolist())
    ]
    order = torch.cat(places).argsort()
    x = torch.cat(parts)[order[rows_of]]
    check_finite(x, f"the residual stream at {hook}", dtype=model.cfg.dtype)
    return x


def check_finite(x: Float[Tensor, "rows d"], what: str, *, dtype: torch.dtype) -> None:
    """Refuse NaN and infinity, told by the number of rows, where the model computed in `dtype`."""
    if n := int((~x.isfinite().all(1)).sum()):
        raise UserError(
            f"{n:,} of {len(x):,} rows of {what} are NaN or infinite in {REMEDY[dtype]}"
        )


def check_ids(model: Any, ids: Int[Tensor, "..."]) -> None:
    """Refuse token ids for which the model's embedding has no row."""
    rows = model.cfg.d_vocab
    if ids.numel() and int(ids.max()) >= rows:
        raise UserError(
            f"the tokenizer gives the token id {int(ids.max())}, but the model's embedding has "
            f"{rows} rows, 0 to {rows - 1}: that tokenizer belongs to another model"
        )


def float64(x: Tensor) -> Tensor:
    """`x` in double precision; on the CPU where the device (Apple's mps) has none."""
    return x.cpu().double() if x.device.type == "mps" else x.double()


def times_median(x: Float[Tensor, "tokens d"]) -> Float[Tensor, " tokens"]:
    """Each row's distance from the componentwise median, over the median of these distances.

    Copies of the median itself do not count in the latter. 0 for fewer than 5 rows, or where all
    rows coincide: there is nothing typical.
    """
    distances = (x - x.median(0).values).norm(dim=1) if len(x) else x.new_zeros(0)
    apart = distances[distances > _ROUNDING * x.norm(dim=1).median()] if len(x) else distances
    if len(x) < _LEAST or not len(apart):
        return torch.zeros_like(distances)
    return distances / apart.median()


def is_massive(x: Float[Tensor, "tokens d"]) -> Bool[Tensor, " tokens"]:
    """The few rows that would decide every mean: massive activations (Sun et al. 2402.17762).

    A row is massive if it lies more than `MASSIVE` = 5 times as far from the componentwise median
    as the median row: in a sum of squares it counts for more than 25 typical ones. Sun et al. ask
    for single components of 1,000 times the median magnitude; a rule for rows needs no component
    to be known. Measured on content tokens of the nine shipped concepts: MiniLM reaches 1.3 at
    every block, SmolLM2 2.9 where it has no massive token (blocks 0, 9, 10); its massive ones lie
    at 5 to 17 (blocks 2 to 8) and at up to 250 (blocks 11 to 29; without BOS in front these are the
    first tokens of all prompts, a tenth of the rows). Gaussian rows reach 4.7 in 8
    dimensions or more, of five rows already. More than a quarter of all rows are no few exceptions
    but a part of the data, and so none of them is massive. A small cluster as far away is found
    too: it decides a mean as well.
    """
    massive = times_median(x) > MASSIVE
    return massive & (massive.sum() <= FEW * len(x))


def typical(x: Float[Tensor, "tokens d"], massive: Massive = "leave out") -> Tensor:
    """The rows without the massive ones, or all of them for "keep"."""
    out = choose("treatment of massive activations", massive, ("leave out", "keep")) == "leave out"
    return x[~is_massive(x)] if out else x


def rms(x: Float[Tensor, "tokens d"], *, massive: Massive = "leave out") -> float:
    """Root mean square of the centred rows: sqrt(mean((x - mean)^2)) over tokens and components.

    That of the `typical` rows, unless massive ones are to "keep".
    """
    y = float64(typical(x, massive))
    return (y - y.mean(0)).square().mean().sqrt().item()


def add_noise(
    x: Float[Tensor, "tokens d"], level: float, *, scaling: NoiseScaling, generator: torch.Generator
) -> Float[Tensor, "tokens d"]:
    """`x + level * sigma * eps`, eps standard normal from `generator` (a CPU generator), sigma 1
    for "absolute" and `rms(x)` for "relative" scaling.
    """
    choose("noise scaling", scaling, ("relative", "absolute"))
    if not level >= 0 or level == float("inf"):
        raise UserError(f"a noise level is a finite number >= 0, got {level}")
    return x + level * (rms(x) if scaling == "relative" else 1.0) * draw_noise(x, generator)


def draw_noise(
    x: Float[Tensor, "tokens d"], generator: torch.Generator
) -> Float[Tensor, "tokens d"]:
    """Standard normal noise for `x`, the same on every device (from a CPU generator).

    Copies of a row get the same noise: they are one point, as in a causal model the words before an
    entity are in all prompts that begin alike; noise that told them apart would raise any rank.
    """
    kept, which = twins(float64(x).cpu().numpy())
    return torch.randn(x.shape, generator=generator, dtype=torch.float32)[kept[which]].to(x)


def twins(
    points: Float[np.ndarray, "n d"],
) -> tuple[Int[np.ndarray, " kept"], Int[np.ndarray, " n"]]:
    """The row at which each distinct point comes first, in order; for each point, which it is."""
    number: dict[bytes, int] = {}
    rows = points + 0.0  # -0 becomes 0
    which = np.array([number.setdefault(row.tobytes(), len(number)) for row in rows], dtype=int)
    return np.unique(which, return_index=True)[1], which


def batches_of(n: int, size: int) -> Sequence[slice]:
    """Slices that cover range(n) in steps of `size`."""
    return [slice(i, min(i + size, n)) for i in range(0, n, size)]
