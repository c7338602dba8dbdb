"""Prompts to tokens, and the mask that says which of them count."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from saerepgeo_lib.activations.prompts import Concept
from saerepgeo_lib.errors import UserError


@dataclass(frozen=True)
class Tokens:
    """A concept's prompts as right-padded token ids, and masks of the same shape: `attention` of
    real tokens, `content` of those that count (no special token, punctuation, function or template
    word), `entity` of those of the entity, which are always content.
    """

    ids: Int[Tensor, "prompts positions"]
    attention: Bool[Tensor, "prompts positions"]
    content: Bool[Tensor, "prompts positions"]
    entity: Bool[Tensor, "prompts positions"]


def encode_texts(
    tokenizer: Any, texts: Sequence[str], *, prepend_bos: bool = True, max_length: int | None = None
) -> tuple[list[list[int]], list[list[tuple[int, int]]]]:
    """Token ids and character offsets of each text; a special token has the offset (0, 0).

    A tokenizer with a CLS token adds its specials; any other gets BOS in front if `prepend_bos`.
    """
    adds_specials = tokenizer.cls_token_id is not None
    encoded = tokenizer(
        list(texts), add_special_tokens=adds_specials, return_offsets_mapping=True,
        truncation=max_length is not None, max_length=max_length,
    )  # fmt: skip
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    if prepend_bos and not adds_specials:
        if tokenizer.bos_token_id is None:
            raise UserError("the SAE wants a BOS token in front, but the tokenizer has none")
        ids = [[tokenizer.bos_token_id, *row] for row in ids]
        offsets = [[(0, 0), *row] for row in offsets]
    return ids, offsets


def pad(
    rows: Sequence[Sequence[int]], pad_id: int
) -> tuple[Int[Tensor, "rows positions"], Bool[Tensor, "rows positions"]]:
    """Lists of ids, right-padded to one matrix, and the attention mask."""
    ids = pad_sequence([torch.tensor(row) for row in rows], True, pad_id)
    lengths = torch.tensor([len(row) for row in rows])
    return ids, torch.arange(ids.shape[1]) < lengths[:, None]


def tokenize(tokenizer: Any, concept: Concept, *, n_ctx: int, prepend_bos: bool = True) -> Tokens:
    """Tokenize a concept's prompts and mark what counts (function words are scikit-learn's).

    Raises UserError for a prompt longer than the model's context `n_ctx`, and for one in which
    nothing but masked tokens is left.
    """
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    texts = [prompt.text for prompt in concept.prompts]
    rows, offsets = encode_texts(tokenizer, texts, prepend_bos=prepend_bos)
    masked_words = ENGLISH_STOP_WORDS | concept.template_words
    ids, attention = pad(rows, tokenizer.pad_token_id or 0)
    content, entity = torch.zeros_like(attention), torch.zeros_like(attention)
    for p, prompt in enumerate(concept.prompts):
        where = f"concept {concept.name!r}, prompt {p}"
        if len(rows[p]) > n_ctx:
            raise UserError(
                f"{where}: {len(rows[p])} tokens exceed the model's context of {n_ctx}; shorten it"
            )
        text, (first, last) = prompt.text, prompt.entity_span or (0, 0)
        words = [(*m.span(), m.group().lower()) for m in re.finditer(r"\w+", text)]
        for t, (start, end) in enumerate(offsets[p]):
            start = end - len(text[start:end].lstrip())  # some tokens begin with a space
            word = next((word for a, b, word in words if a <= start < b), None)
            entity[p, t] = start < last and end > first
            counts = end > start and word is not None and word not in masked_words
            content[p, t] = entity[p, t] or counts
        if not content[p].any():
            raise UserError(
                f"{where}: only function words, template words or punctuation in {text!r}; "
                "nothing is left to look at"
            )
    return Tokens(ids, attention, content, entity)
