"""Next-token loss on text, and how much of it an SAE's reconstruction recovers."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saerepgeo_lib.activations.tokens import encode_texts, pad
from saerepgeo_lib.steering.downstream import token_losses

Put = Callable[[Float[Tensor, "tokens d"]], Tensor]


@torch.no_grad()
def next_token_loss(
    model: Any, texts: Sequence[str], *, hook: str = "", put: Put | None = None,
    batch_size: int = 32,
) -> float:  # fmt: skip
    """Mean cross-entropy in nats of every token that has one before it (BOS is in front).

    With `put`, the residual stream at `hook` is replaced by what it gives, for all tokens but BOS.
    """
    rows, offsets = encode_texts(model.tokenizer, texts, max_length=128, causal=True)
    lengths = [len(row) for row in rows]
    total = count = 0.0
    for chosen in torch.tensor(lengths).argsort(stable=True).split(batch_size):
        ids, attention = pad([rows[i] for i in chosen], 0)
        real, _ = pad([[int(end > start) for start, end in offsets[i]] for i in chosen], 0)
        where = real.bool().to(model.cfg.device)

        def replace(x: Tensor, where: Tensor = where, **_: Any) -> Tensor:
            x = x.clone()
            x[where] = put(x[where])  # type: ignore[misc]
            return x

        with model.hooks(fwd_hooks=[(hook, replace)] if put else []):
            losses = token_losses(model, ids, attention)[attention[:, 1:].to(where.device)]
        total, count = total + float(losses.sum()), count + len(losses)
    return total / count


def loss_recovered(
    model: Any, hook: str, texts: Sequence[str], mean: Float[Tensor, " d"]
) -> Callable[[Any], dict[str, float]]:
    """What measures an SAE by the loss on these texts: as it is (also as `perplexity`, its
    exponential), with the reconstruction put back at the hook, and with the `mean` token there; and
    the share of what the mean costs that the reconstruction does not ("recovered").
    """
    clean = next_token_loss(model, texts)
    ablated = next_token_loss(model, texts, hook=hook, put=lambda x: mean.to(x).expand_as(x))

    def measure(sae: Any) -> dict[str, float]:
        back = next_token_loss(model, texts, hook=hook, put=lambda x: sae.decode(sae.encode(x)))
        recovered = (ablated - back) / (ablated - clean)
        return {"n_texts": len(texts), "loss": clean, "perplexity": math.exp(clean),
                "with_reconstruction": back, "with_mean": ablated,
                "recovered": recovered}  # fmt: skip

    return measure
