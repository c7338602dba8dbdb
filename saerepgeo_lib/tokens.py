"""Prompts to tokens, and the mask that says which of them count."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from torch import Tensor

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.prompts import Concept

FUNCTION_WORDS = frozenset(ENGLISH_STOP_WORDS)


@dataclass(frozen=True)
class Tokens:
    """A concept's prompts as right-padded token ids with three masks of the same shape.

    `attention` is true for real tokens, specials included. `content` is true for tokens
    that count: no special token, no padding, no punctuation, no function word, no template
    word. `entity` is true for the tokens of the entity; they are always content.
    """

    ids: Int[Tensor, "prompts positions"]
    attention: Bool[Tensor, "prompts positions"]
    content: Bool[Tensor, "prompts positions"]
    entity: Bool[Tensor, "prompts positions"]


def encode_texts(
    tokenizer: Any, texts: Sequence[str], *, prepend_bos: bool = True, max_length: int | None = None
) -> tuple[list[list[int]], list[list[tuple[int, int]]]]:
    """Token ids and character offsets of each text; a special token has the offset (0, 0).

    A tokenizer with a CLS token adds its own specials. Any other adds none of its own, and
    gets BOS in front if `prepend_bos`, as the SAE's metadata demands.
    """
    own_specials = tokenizer.cls_token_id is not None
    coded = tokenizer(
        list(texts),
        add_special_tokens=own_specials,
        return_offsets_mapping=True,
        truncation=max_length is not None,
        max_length=max_length,
    )
    ids, offsets = coded["input_ids"], coded["offset_mapping"]
    if not own_specials and prepend_bos:
        if tokenizer.bos_token_id is None:
            raise UserError("the SAE wants a BOS token in front, but the tokenizer has none")
        ids = [[tokenizer.bos_token_id, *row] for row in ids]
        offsets = [[(0, 0), *row] for row in offsets]
    return ids, [[tuple(span) for span in row] for row in offsets]


def pad(
    rows: Sequence[Sequence[int]], pad_id: int
) -> tuple[Int[Tensor, "rows positions"], Bool[Tensor, "rows positions"]]:
    """Right-pad id lists to one matrix; also the attention mask."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.full((len(rows), int(lengths.max())), pad_id)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return ids, torch.arange(ids.shape[1]) < lengths[:, None]


def tokenize(tokenizer: Any, concept: Concept, *, n_ctx: int, prepend_bos: bool = True) -> Tokens:
    """Tokenize a concept's prompts and mark what counts.

    Raises UserError for a prompt longer than the model's context `n_ctx`, and for one in
    which nothing but masked tokens is left.
    """
    texts = [prompt.text for prompt in concept.prompts]
    rows, offsets = encode_texts(tokenizer, texts, prepend_bos=prepend_bos)
    masked_words = FUNCTION_WORDS | concept.template_words
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    ids, attention = pad(rows, pad_id)
    content = torch.zeros_like(attention)
    entity = torch.zeros_like(attention)
    for p, prompt in enumerate(concept.prompts):
        where = f"concept {concept.name!r}, prompt {p}"
        if len(rows[p]) > n_ctx:
            raise UserError(
                f"{where}: {len(rows[p])} tokens exceed the model's context of {n_ctx}; shorten it"
            )
        words = [m.span() for m in re.finditer(r"\w+", prompt.text)]
        span = prompt.entity_span
        for t, (start, end) in enumerate(offsets[p]):
            start += len(prompt.text[start:end]) - len(prompt.text[start:end].lstrip())
            if span is not None and start < span[1] and end > span[0]:
                entity[p, t] = content[p, t] = True
                continue
            word = next((prompt.text[a:b] for a, b in words if a <= start < b), None)
            content[p, t] = end > start and word is not None and word.lower() not in masked_words
        if not content[p].any():
            raise UserError(
                f"{where}: only function words, template words or punctuation in {prompt.text!r}; "
                "nothing is left to look at"
            )
    return Tokens(ids, attention, content, entity)
