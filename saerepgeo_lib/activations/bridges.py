"""A bridge held against transformers: the model inside it, run without the bridge."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent

from saerepgeo_lib.activations.residual_stream import REMEDY, check_ids
from saerepgeo_lib.activations.tokens import pad
from saerepgeo_lib.errors import UserError

TOLERANCE = 1e-3  # of a token's norm; rounding alone is far below it in float32
_TEXT = "The snow melts in January, and from then on the days are longer than 1 night."
_N_TOKENS, _N_CUT = 12, 7
_ROUNDING = 8  # units in the last place that other orders of the same operations may add up to
# What transformers and TransformerLens raise for a model that they cannot run.
FAULTS = (RuntimeError, ValueError, TypeError, IndexError, AttributeError, KeyError, AssertionError)
_ADVICE = ("choose a model of an architecture that agrees ('How to read' lists those that do not), "
           "or another version of transformer_lens")  # fmt: skip


@dataclass(frozen=True)
class Stream:
    """What transformers itself gives after each block for a few tokens (`whole`), for the first of
    these alone (`cut`), and for as many with others behind the first (`changed`): by the number of
    the block.
    """

    ids: Int[Tensor, " positions"]
    whole: dict[int, Float[Tensor, "positions d"]]
    cut: dict[int, Float[Tensor, "cut d"]]
    changed: dict[int, Float[Tensor, "positions d"]]

    def is_causal(self, dtype: torch.dtype) -> bool:
        """Whether tokens see only those before them: what follows then changes nothing.

        Passes of one shape round alike, so in a causal model they agree to the last bit, as passes
        of two shapes do not. Raises UserError for a change that may be rounding in `dtype`.
        """
        off = max(difference(x[:_N_CUT], self.whole[i][:_N_CUT]) for i, x in self.changed.items())
        if not (off < TOLERANCE or off > allowed_in(dtype)):
            raise UserError(
                f"it cannot be told whether the model's tokens see those after them: other tokens "
                f"there change a vector by {off:.2g} of its norm, which may be rounding in "
                f"{str(dtype).removeprefix('torch.')}; load the model in dtype 'float32'"
            )
        return off < TOLERANCE


def check_weights(model: nn.Module) -> None:
    """Refuse weights that hold NaN or infinity, as a damaged file or a cast to float16 gives."""
    for name, weight in model.named_parameters():
        if weight.numel() and not torch.stack(torch.aminmax(weight.detach())).isfinite().all():
            n = int((~weight.isfinite()).sum())
            raise UserError(
                f"{n:,} of {weight.numel():,} values of the model's weight "
                f"{name.replace('_original_component.', '')} are NaN or infinite in "
                f"{REMEDY[weight.dtype]}"
            )


@contextmanager
def unhooked(model: TransformerBridge) -> Iterator[nn.Module]:
    """The model of transformers in the bridge, with its own modules in the places of the bridge's.

    The weights are shared, so nothing is loaded again; afterwards all is as it was.
    """
    replaced: list[tuple[nn.Module, str, nn.Module | None]] = []

    def unwrap(parent: nn.Module) -> None:
        for name, child in list(parent._modules.items()):
            inner: Any = child
            while isinstance(inner, GeneralizedComponent):
                inner = inner.original_component
            if inner is not child:
                replaced.append((parent, name, child))
                parent._modules[name] = inner
            if inner is not None:
                unwrap(inner)

    unwrap(model.original_model)
    try:
        yield model.original_model
    finally:
        for parent, name, child in replaced:
            parent._modules[name] = child


@torch.no_grad()
def true_stream(model: TransformerBridge) -> Stream:
    """The residual stream of a few tokens as transformers gives it. Raises UserError if the model
    has no one stack of blocks that reads text.
    """
    kind = model.cfg.architecture
    blocks = model.adapter.component_mapping.get("blocks")
    if blocks is None or model.tokenizer is None:
        raise UserError(
            f"{kind} has no one stack of blocks through which a text's residual stream runs (it "
            "has several, or reads pictures or sound); choose a language model that has one"
        )
    ids = torch.tensor(model.tokenizer(_TEXT, add_special_tokens=False)["input_ids"][:_N_TOKENS])
    if len(ids) < _N_TOKENS:  # the tokenizer knows hardly a word of that
        ids = torch.arange(_N_TOKENS) % model.cfg.d_vocab
    check_ids(model, ids)
    others = torch.cat([ids[:_N_CUT], (ids[_N_CUT:] + 1) % model.cfg.d_vocab])
    streams: list[dict[int, Tensor]] = []
    with unhooked(model) as inner:
        layers: Any = inner.get_submodule(blocks.name)
        for row in (ids, ids[:_N_CUT], others):
            stream: dict[int, Tensor] = {}

            def note(layer: Any, given: Any, x: Any, *, stream: dict[int, Tensor] = stream) -> None:
                stream[len(stream)] = (x if isinstance(x, Tensor) else x[0])[0].float().cpu()

            hooks = [layer.register_forward_hook(note) for layer in layers]
            row = row[None].to(model.cfg.device)
            try:
                inner(input_ids=row, attention_mask=torch.ones_like(row))
            except FAULTS as error:
                raise UserError(f"transformers cannot run this {kind}: {error}") from error
            finally:
                for hook in hooks:
                    hook.remove()
            if any(x.shape != (row.shape[1], model.cfg.d_model) for x in stream.values()):
                sizes = " x ".join(map(str, stream[0].shape[1:]))
                raise UserError(
                    f"{kind} has no one residual stream: its blocks give {sizes} numbers per "
                    f"token, not {model.cfg.d_model}; choose another model"
                )
            for i, x in stream.items():
                if not x.isfinite().all(-1).any():
                    raise UserError(
                        f"the residual stream after block {i} is NaN or infinite for each of "
                        f"{len(x)} tokens in {REMEDY[model.cfg.dtype]}"
                    )
            streams.append(stream)
    return Stream(ids, *streams)


@torch.no_grad()
def check_stream(model: TransformerBridge, true: Stream, *, centred: bool = False) -> None:
    """Refuse a bridge that does not give the `true` residual stream at each block's output, alone
    or beside padding; `centred` where the mean over components may have been taken from it.
    """
    kind, found = model.cfg.architecture, {}

    def note(x: Any, *, hook: Any) -> None:
        found[hook.name] = (x if isinstance(x, Tensor) else x[0]).float().cpu()

    rows = true.ids.tolist()
    names = {i: f"blocks.{i}.hook_out" for i in true.whole}
    ids, attention = (x.to(model.cfg.device) for x in pad([rows, rows[:_N_CUT]], 0))
    try:
        with model.hooks(fwd_hooks=[(name, note) for name in names.values()]):
            model(ids, attention_mask=attention.long())
    except FAULTS as error:
        raise UserError(f"TransformerLens cannot run this {kind}: {error}") from error
    if missing := sorted(set(names.values()) - set(found)):
        raise UserError(f"TransformerLens computes no {missing[0]} of this {kind}; {_ADVICE}")
    allowed = allowed_in(model.cfg.dtype)
    for i, name in names.items():
        for x, y in zip(found[name], (true.whole[i], true.cut[i]), strict=True):
            x = x[: len(y)]
            off = difference(x, y)
            if centred:
                off = min(off, difference(x, y - y.mean(-1, keepdim=True)))
            if not off <= allowed:
                raise UserError(
                    f"the residual stream that TransformerLens gives for this {kind} is not the "
                    f"model's: {name} differs from transformers by {off:.2g} of a token's norm "
                    f"(allowed: {allowed:.2g}); {_ADVICE}"
                )


def allowed_in(dtype: torch.dtype) -> float:
    """The largest `difference` that may be rounding where a model computes in `dtype`."""
    return max(TOLERANCE, _ROUNDING * torch.finfo(dtype).eps)


@torch.no_grad()
def check_middle(model: TransformerBridge, hook: str) -> None:
    """Refuse a `hook_resid_mid` that does not lie between its block's attention and MLP.

    In a bridge that is the input of the second layer norm. A BERT's comes behind the MLP.
    """
    if not hook.endswith(".hook_resid_mid") or hook not in model.hook_dict:
        return
    fired: list[str] = []
    hooks = [(name, lambda x, hook, name=name: fired.append(name))
             for name in (hook, hook.replace("hook_resid_mid", "mlp.hook_out"))]  # fmt: skip
    ids = (torch.arange(_N_TOKENS) % model.cfg.d_vocab)[None].to(model.cfg.device)
    with model.hooks(fwd_hooks=hooks):
        model(ids, attention_mask=torch.ones_like(ids))
    if fired[:1] != [hook] or len(set(fired)) < len(hooks):
        raise UserError(
            f"what TransformerLens calls {hook} is not the residual stream between attention and "
            f"MLP in this {model.cfg.architecture}, whose second layer norm does not stand there; "
            f"name a hook between blocks, such as {hook.replace('resid_mid', 'out')}"
        )


def difference(x: Float[Tensor, "n d"], y: Float[Tensor, "n d"]) -> float:
    """The largest |x - y| / |y| of a row, over the rows in which y is finite; nan if none is."""
    off = (x - y).norm(dim=-1) / y.norm(dim=-1).clamp_min(1e-30)
    kept = off[y.isfinite().all(-1)].nan_to_num(torch.inf)
    return kept.max().item() if len(kept) else torch.nan
