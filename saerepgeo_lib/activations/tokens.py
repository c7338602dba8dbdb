"""Prompts to tokens, and the mask that says which of them count."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from saerepgeo_lib.activations.prompts import Concept
from saerepgeo_lib.activations.words import function_words, key, words_in
from saerepgeo_lib.errors import UserError, quoted

UNKNOWN = "unknown to the tokenizer"  # why a word is left out
Pieces = list[tuple[int, int, int]]  # of a text: position of the token, start and end


@dataclass(frozen=True)
class Tokens:
    """A concept's prompts as right-padded token ids, and masks of the same shape: `attention` of
    real tokens, `content` of those that count (no special or unknown token, punctuation, function
    or template word), `entity` of those of the entity (in a causal model of the last, which alone
    has seen the whole of it); an entity is always content. `left_out` counts the words that do not
    count, by why.
    """

    ids: Int[Tensor, "prompts positions"]
    attention: Bool[Tensor, "prompts positions"]
    content: Bool[Tensor, "prompts positions"]
    entity: Bool[Tensor, "prompts positions"]
    left_out: Mapping[str, Counter[str]] = field(default_factory=dict)


def encode_texts(
    tokenizer: Any, texts: Sequence[str], *, prepend_bos: bool = True,
    max_length: int | None = None, causal: bool = False,
) -> tuple[list[list[int]], list[list[tuple[int, int]]]]:  # fmt: skip
    """Token ids and character offsets of each text; a special token has the offset (0, 0).

    A tokenizer with a CLS token adds its specials, unless the model is `causal`; any other gets BOS
    in front if `prepend_bos`. Raises UserError for a tokenizer that cannot tell offsets.
    """
    if not tokenizer.is_fast:
        raise UserError(
            f"{type(tokenizer).__name__} cannot tell which characters a token stands for; take a "
            "model with a tokenizer.json"
        )
    adds_specials = tokenizer.cls_token_id is not None and not causal
    encoded = tokenizer(
        list(texts), add_special_tokens=adds_specials, return_offsets_mapping=True,
        truncation=max_length is not None, max_length=max_length,
    )  # fmt: skip
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    if prepend_bos and not adds_specials:
        if tokenizer.bos_token_id is None:
            raise UserError(
                "the SAE wants a BOS token in front, but the tokenizer has none: name it as "
                "bos_token in the model's tokenizer_config.json if there is one; if the SAE was "
                "trained without, set prepend_bos to false in its metadata"
            )
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


def tokenize(
    tokenizer: Any, concept: Concept, *, n_ctx: int, prepend_bos: bool = True,
    functions: str = "english", causal: bool = False,
) -> Tokens:  # fmt: skip
    """Tokenize a concept's prompts and mark what counts: all tokens that overlap a word that does.

    Of an entity of several tokens a `causal` model is read at the last.
    `functions` is the list of function words (see `function_words`). Raises UserError for a prompt
    longer than the model's context `n_ctx`, for one that is the same to the tokenizer as another,
    for one in which nothing but masked tokens is left, and for an entity that is unknown.
    """
    from saerepgeo_lib.activations.tokenizers import check_reading  # transformers takes seconds

    texts = [prompt.text for prompt in concept.prompts]
    check_reading(tokenizer, texts)
    rows, offsets = encode_texts(tokenizer, texts, prepend_bos=prepend_bos, causal=causal)
    masked = {"function word": function_words(functions),
              "template word": frozenset(map(key, concept.template_words))}  # fmt: skip
    ids, attention = pad(rows, tokenizer.pad_token_id or 0)
    content, entity = torch.zeros_like(attention), torch.zeros_like(attention)
    left_out = {why: Counter[str]() for why in (*masked, UNKNOWN)}
    first: dict[tuple[int, ...], int] = {}
    for p, (text, span) in enumerate(zip(texts, concept.entity_spans(), strict=True)):
        where = f"concept {concept.name!r}, prompt {p}"
        if len(rows[p]) > n_ctx:
            raise UserError(
                f"{where}: {len(rows[p])} tokens exceed the model's context of {n_ctx}; shorten it"
            )
        if (twin := first.setdefault(tuple(rows[p]), p)) < p:
            raise UserError(
                f"{where}: to the model's tokenizer {quoted(text)} is the same as "
                f"{quoted(texts[twin])} (prompt {twin}); leave one of them out"
            )
        known, unknown = _pieces(tokenizer, text, rows[p], offsets[p])
        begun = next((text[a:b] for _, a, b in unknown if not text[:a].strip()), None)
        if begun and begun in (tokenizer.bos_token, tokenizer.cls_token):
            raise UserError(
                f"{where}: {quoted(text)} begins with the special token {begun!r}; leave it out: "
                "one is put in front here if the SAE was trained so"
            )
        if span is not None:
            places = _over(known, *span)
            content[p, places] = True
            entity[p, places[-1:] if causal else places] = True
            if not places:
                raise UserError(
                    f"{where}: the model's tokenizer does not know the entity "
                    f"{text[slice(*span)]!r}; leave it out, or take a model that reads this script"
                )
        strange = set()
        for start, end, why in words_in(text, masked):
            if not why:
                content[p, _over(known, start, end)] = True
                strange |= {offsets[p][t] for t in _over(unknown, start, end)}
            elif span is None or end <= span[0] or span[1] <= start:
                left_out[why][text[start:end]] += 1
        left_out[UNKNOWN].update(text[start:end] for start, end in strange)
        if not content[p].any():
            raise UserError(
                f"{where}: only function words, template words, words that the tokenizer does not "
                f"know, or punctuation in {quoted(text)}; nothing is left to look at"
            )
    return Tokens(ids, attention, content, entity, left_out)


def _pieces(
    tokenizer: Any, text: str, ids: Sequence[int], offsets: Sequence[tuple[int, int]]
) -> tuple[Pieces, Pieces]:
    """The tokens that stand for a piece of `text`, not for a space: what is known, what is not.

    Unknown, or special, is also a special token that somebody wrote into the text.
    """
    written = tokenizer.convert_ids_to_tokens(ids)
    pieces = [(t, *place) for t, place in enumerate(offsets)
              if text[slice(*place)].strip() and written[t].strip("▁")]  # fmt: skip
    special = {*tokenizer.all_special_ids, tokenizer.unk_token_id}
    return ([piece for piece in pieces if ids[piece[0]] not in special],
            [piece for piece in pieces if ids[piece[0]] in special])  # fmt: skip


def _over(pieces: Pieces, start: int, end: int) -> list[int]:
    """The positions of the tokens that overlap a stretch of text."""
    return [t for t, a, b in pieces if a < end and start < b]
