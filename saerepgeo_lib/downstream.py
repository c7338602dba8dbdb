"""What an edit does to the model itself, when the reconstruction is put back at the hook."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.models import is_causal
from saerepgeo_lib.residuals import Residuals, batches_of, run_to_hook
from saerepgeo_lib.tokens import Tokens

EMBEDDING, NEXT_TOKEN = "cosine of sentence embeddings", "cross-entropy"


def effect_name(model: Any) -> str:
    """How a model is judged: masked language models by their embeddings, others by their loss."""
    return NEXT_TOKEN if is_causal(model) else EMBEDDING


@contextmanager
def replaced(
    model: Any,
    tokens: Tokens,
    hook: str,
    found: Residuals,
    rows: slice,
    replacement: Float[Tensor, "tokens d"] | None,
) -> Iterator[None]:
    """Within it, the residual at the hook is `replacement` for the tokens of `found`.

    All other tokens (specials, function words) keep what the model computes. None: no change.
    """
    inside = (found.prompt >= rows.start) & (found.prompt < rows.stop)
    where = (found.prompt[inside] - rows.start, found.position[inside])

    def put(x: Tensor, hook: Any) -> Tensor:
        x = x.clone()
        x[where] = replacement[inside.to(replacement.device)].to(x)  # type: ignore[index,union-attr]
        return x

    hooks = [] if replacement is None else [(hook, put)]
    with model.hooks(fwd_hooks=hooks):
        yield


@torch.no_grad()
def outputs(
    model: Any,
    tokens: Tokens,
    hook: str,
    found: Residuals,
    replacement: Float[Tensor, "tokens d"] | None = None,
    *,
    batch_size: int = 256,
) -> Float[Tensor, "prompts _"]:
    """What the model makes of the prompts, with residual rows replaced at the hook.

    A masked language model: sentence embeddings, the mean of the last block's output over a
    prompt's tokens. Others: the mean cross-entropy of a prompt's next tokens, in nats, shape
    (prompts, 1).
    """
    if replacement is not None and replacement.shape != found.x.shape:
        raise UserError(
            f"expected a replacement of shape {tuple(found.x.shape)}, one row a token, "
            f"got {tuple(replacement.shape)}"
        )
    embed = effect_name(model) == EMBEDDING
    parts = []
    for rows in batches_of(len(tokens.ids), batch_size):
        width = int(tokens.attention[rows].sum(1).max())
        ids, attention = tokens.ids[rows, :width], tokens.attention[rows, :width]
        with replaced(model, tokens, hook, found, rows, replacement):
            if embed:
                last = f"blocks.{model.cfg.n_layers - 1}.hook_out"
                x = run_to_hook(model, ids, attention, last)
            else:
                device = model.cfg.device
                x = model(ids.to(device), attention_mask=attention.long().to(device))
        weight = attention.to(x).unsqueeze(-1)
        if not embed:
            targets = ids[:, 1:].to(x.device)
            x = cross_entropy(x[:, :-1].float().flatten(0, 1), targets.flatten(), reduction="none")
            x, weight = x.view(targets.shape).unsqueeze(-1), weight[:, 1:]
        parts.append((x * weight).sum(1) / weight.sum(1))
    return torch.cat(parts).float()


def effect(
    clean: Float[Tensor, "prompts _"], edited: Float[Tensor, "prompts _"]
) -> Float[Tensor, " prompts"]:
    """Cosine to the clean embedding (1: no effect), or rise of the cross-entropy (0: none)."""
    if clean.shape[1] == 1:
        return (edited - clean)[:, 0]
    return cosine_similarity(clean, edited, dim=1)
