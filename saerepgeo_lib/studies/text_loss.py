"""Next-token loss on text, and how much of it an SAE's reconstruction recovers."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from saerepgeo_lib.activations.tokens import encode_texts, pad

Put = Callable[[Float[Tensor, "tokens d"]], Tensor]


@torch.no_grad()
def next_token_loss(
    model: Any, texts: Sequence[str], *, hook: str = "", put: Put | None = None,
    batch_size: int = 32,
) -> float:  # fmt: skip
    """Mean cross-entropy in nats of every token that has one before it (BOS is in front).

    With `put`, the residual stream at `hook` is replaced by what it gives, for all tokens but BOS.
    """
    rows, offsets = encode_texts(model.tokenizer, texts, max_length=128)
    total = count = 0.0
    by_length = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for start in range(0, len(rows), batch_size):
        chosen = by_length[start : start + batch_size]
        ids, attention = (x.to(model.cfg.device) for x in pad([rows[i] for i in chosen], 0))
        ends = torch.tensor([[end for _, end in offsets[i]] + [0] * (ids.shape[1] - len(offsets[i]))
                             for i in chosen])  # fmt: skip
        real = (ends > 0).to(ids.device)

        def replace(x: Tensor, hook: Any, real: Tensor = real) -> Tensor:
            x = x.clone()
            x[real] = put(x[real])  # type: ignore[misc]
            return x

        with model.hooks(fwd_hooks=[(hook, replace)] if put else []):
            logits = model(ids, attention_mask=attention.long())[:, :-1].float()
        loss = cross_entropy(logits.mT, ids[:, 1:], reduction="none")[attention[:, 1:]]
        total, count = total + float(loss.sum()), count + loss.numel()
    return total / count


def loss_recovered(
    model: Any, sae: Any, hook: str, texts: Sequence[str], mean: Float[Tensor, " d"]
) -> dict[str, float]:
    """The loss as it is, with the reconstruction put back, and with the mean of all tokens.

    Recovered is the share of what the mean costs that the reconstruction does not.
    """
    clean = next_token_loss(model, texts)
    back = next_token_loss(model, texts, hook=hook, put=lambda x: sae.decode(sae.encode(x)))
    ablated = next_token_loss(model, texts, hook=hook, put=lambda x: mean.to(x).expand_as(x))
    return {"loss": clean, "with_reconstruction": back, "with_mean": ablated,
            "recovered": (ablated - back) / (ablated - clean)}  # fmt: skip
