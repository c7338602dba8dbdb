"""What steering does to the model itself, when the reconstruction is put back at the hook."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy

from saerepgeo_lib.activations.residual_stream import batches_of, is_causal, run_to_hook
from saerepgeo_lib.activations.token_activations import TokenActivations
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.steering.latents import ClusteredLatents, steer
from saerepgeo_lib.steering.optimise import Path

EMBEDDING, NEXT_TOKEN = "cosine of sentence embeddings", "cross-entropy"


def effect_name(model: Any) -> str:
    """How a model is judged: masked language models by their embeddings, others by their loss."""
    return NEXT_TOKEN if is_causal(model) else EMBEDDING


@contextmanager
def replaced(
    acts: TokenActivations, rows: slice, replacement: Float[Tensor, "tokens d"] | None
) -> Iterator[None]:
    """Within it, the residual at the hook is `replacement` (None: no change) for the tokens that
    count of the prompts `rows`; specials and function words keep what the model computes.
    """
    inside = (acts.prompt >= rows.start) & (acts.prompt < rows.stop)
    where = (acts.prompt[inside] - rows.start, acts.position[inside])

    def put(x: Tensor, hook: Any) -> Tensor:
        x = x.clone()
        x[where] = replacement[inside.to(replacement.device)].to(x)  # type: ignore[index,union-attr]
        return x

    hooks = [] if replacement is None else [(acts.source.hook, put)]
    with acts.source.model.hooks(fwd_hooks=hooks):
        yield


def token_losses(
    model: Any, ids: Int[Tensor, "rows positions"], attention: Bool[Tensor, "rows positions"]
) -> Float[Tensor, "rows predicted"]:
    """Cross-entropy in nats of each token but the first, given those before it; padding too."""
    ids = ids.to(model.cfg.device)
    logits = model(ids, attention_mask=attention.long().to(ids.device))[:, :-1].float()
    return cross_entropy(logits.mT, ids[:, 1:], reduction="none")


@torch.no_grad()
def outputs(
    acts: TokenActivations, replacement: Float[Tensor, "tokens d"] | None = None, *,
    batch_size: int = 256,
) -> Float[Tensor, "prompts _"]:  # fmt: skip
    """What the model makes of the prompts, with residual rows replaced at the hook: sentence
    embeddings (the mean of the last block's output) of a masked language model, of others the mean
    cross-entropy of the next tokens in nats, one column.
    """
    if replacement is not None and replacement.shape != acts.x.shape:
        raise UserError(
            f"expected a replacement of shape {tuple(acts.x.shape)}, one row per token, "
            f"got {tuple(replacement.shape)}"
        )
    model, tokens = acts.source.model, acts.tokens
    assert tokens is not None
    parts = []
    for rows in batches_of(len(tokens.ids), batch_size):
        width = int(tokens.attention[rows].sum(1).max())
        ids, weight = tokens.ids[rows, :width], tokens.attention[rows, :width]
        with replaced(acts, rows, replacement):
            if effect_name(model) == EMBEDDING:
                x = run_to_hook(model, ids, weight, f"blocks.{model.cfg.n_layers - 1}.hook_out")
            else:
                x = token_losses(model, ids, weight).unsqueeze(-1)
                weight = weight[:, 1:]
        weight = weight.to(x).unsqueeze(-1)
        parts.append((x * weight).sum(1) / weight.sum(1))
    return torch.cat(parts).float()


def effect(
    clean: Float[Tensor, "prompts _"], steered: Float[Tensor, "prompts _"]
) -> Float[Tensor, " prompts"]:
    """Cosine to the clean embedding (1: no effect), or rise of the cross-entropy (0: none)."""
    if clean.shape[1] == 1:
        return (steered - clean)[:, 0]
    return cosine_similarity(clean, steered, dim=1)


@torch.no_grad()
def to_residual(
    sae: Any, x: Float[Tensor, "tokens d"], reconstruction: Float[Tensor, "tokens d"]
) -> Float[Tensor, "tokens d"]:
    """A reconstruction in the SAE's own normalisation of the residual x, in the units of x."""
    sae.run_time_activation_norm_fn_in(x)
    back: Tensor = sae.run_time_activation_norm_fn_out(reconstruction.to(x))
    return back


def effects(
    sae: Any, acts: TokenActivations, latents: ClusteredLatents, paths: Sequence[Path], *,
    n_bootstrap: int = 1_000, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """The `effect` on the model of the SAE's own reconstruction, and of each path's: columns path,
    kind, AEDP, MSE, effect (mean over prompts), low, high (95 %, prompts resampled).
    """
    clean, rng = outputs(acts), np.random.default_rng(seed)
    none = Path("as encoded", "free", 0 * latents.centroids, pd.DataFrame(), 1.0, 1.0)
    rows = []
    for path in (none, *paths):
        decoded = steer(latents, path.vectors, path.kind).decoded + latents.decoder.bias
        values = effect(clean, outputs(acts, to_residual(sae, acts.x, decoded))).cpu().numpy()
        means = values[rng.integers(len(values), size=(n_bootstrap, len(values)))].mean(1)
        low, high = np.quantile(means, (0.025, 0.975))
        rows.append({"path": path.name, "kind": path.kind, "AEDP": path.aedp, "MSE": path.mse,
                     "effect": values.mean(), "low": low, "high": high})  # fmt: skip
    return pd.DataFrame(rows)
