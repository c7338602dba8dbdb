"""Token activations: what every case looks at, and what is known of each token."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saerepgeo_lib.activations.latents import Latents, encode
from saerepgeo_lib.activations.prompts import Concept, Prompt
from saerepgeo_lib.activations.residual_stream import content_residuals
from saerepgeo_lib.activations.tokens import Tokens, tokenize
from saerepgeo_lib.errors import UserError, choose

Positions = Literal["content", "entity"]


@dataclass(frozen=True, repr=False, eq=False)
class TokenActivations:
    """The residual stream `x` at the tokens that count, one row per token in reading order.

    `prompt` and `position` say where each row came from, `in_entity` whether it belongs to the
    prompt's entity; `source` is the model with its SAEs.
    """

    x: Float[Tensor, "tokens d"]
    prompt: Int[Tensor, " tokens"]
    position: Int[Tensor, " tokens"]
    in_entity: Bool[Tensor, " tokens"]
    concept: Concept | None = None
    tokens: Tokens | None = None
    source: Any = None

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        of = self.concept.name if self.concept else "no named concept"
        return f"TokenActivations of {of}: {len(self)} tokens of {self.x.shape[1]} dimensions"

    def rows(self, keep: Bool[Tensor, " tokens"] | Int[Tensor, " kept"]) -> "TokenActivations":
        """Some of the tokens: a mask, or indices."""
        kept = {name: getattr(self, name)[keep] for name in ("prompt", "position", "in_entity")}
        return replace(self, x=self.x[keep.to(self.x.device)], **kept)

    def at(self, positions: Positions) -> "TokenActivations":
        """All content tokens, or the entities' tokens only."""
        if choose("positions", positions, ("content", "entity")) == "content":
            return self
        if not self.in_entity.any():
            raise UserError(
                "positions 'entity' needs prompts that carry an entity; these carry none "
                "(the plain form of a concept file): use positions 'content'"
            )
        return self.rows(self.in_entity)

    @property
    def by_position(self) -> "dict[Positions, TokenActivations]":
        """The tokens by what they are: all "content", and the "entity" tokens among them."""
        if self.in_entity.all():
            return {"entity": self}
        groups: dict[Positions, TokenActivations] = {"content": self}
        return groups | ({"entity": self.at("entity")} if self.in_entity.any() else {})

    @cached_property
    def entity(self) -> Int[np.ndarray, " tokens"]:
        """The number of each token's entity among the concept's, -1 for a token of none."""
        return np.where(self.in_entity.cpu().numpy(), self._numbers(lambda p: p.entity), -1)

    @cached_property
    def frame(self) -> Int[np.ndarray, " tokens"]:
        """The number of each token's sentence frame; a prompt without one is a frame of its own."""
        return self._numbers(lambda p: p.frame or p.text)

    def _numbers(self, name_of: Callable[[Prompt], str | None]) -> Int[np.ndarray, " tokens"]:
        """Numbers for a name that each prompt has, in order of first appearance, by token."""
        if self.concept is None:
            raise UserError("entities and frames are known of a concept's prompts only")
        names = np.array([name_of(prompt) for prompt in self.concept.prompts], dtype=object)
        numbers: np.ndarray = pd.factorize(names)[0]
        return numbers[self.prompt.cpu().numpy()]

    def folds(self, n_groups: int) -> Int[np.ndarray, " tokens"]:
        """The frames dealt to at most `n_groups` groups, of which an interval leaves out one each.

        Raises UserError for fewer than 3.
        """
        folds: np.ndarray = self.frame % min(n_groups, len(np.unique(self.frame)))
        if (n := len(np.unique(folds))) < 3:
            raise UserError(f"intervals need prompts of at least 3 frames, got {n}")
        return folds

    @property
    def words(self) -> tuple[str, ...]:
        """The tokens as the model's tokenizer writes them."""
        if self.tokens is None or self.source is None:
            raise UserError("words are known of activations that a ModelWithSAEs gave only")
        ids = self.tokens.ids[self.prompt, self.position].tolist()
        return tuple(self.source.model.tokenizer.convert_ids_to_tokens(ids))

    def latents(self, autoencoder: str) -> Latents:
        """The latents of one of the source's SAEs, by its label."""
        return encode(self.source.saes[choose("SAE", autoencoder, self.source.saes)], self.x)


def read_concept(
    model: Any, concept: Concept, hook: str, *, prepend_bos: bool = True, source: Any = None,
    function_words: str = "english",
) -> TokenActivations:  # fmt: skip
    """One forward pass over a concept's prompts: the activations at `hook`.

    `function_words` is the list of those that are masked: a language, or "none". Instead of a
    tokenizer, a model that reads no text has an object with `read_concept`.
    """
    if read := getattr(model.tokenizer, "read_concept", None):
        tokens: Tokens = read(concept)
    else:
        n_ctx = model.cfg.n_ctx
        tokens = tokenize(
            model.tokenizer, concept, n_ctx=n_ctx, prepend_bos=prepend_bos,
            functions=function_words,
        )  # fmt: skip
    return read_activations(model, tokens, hook, concept=concept, source=source)


def read_activations(
    model: Any, tokens: Tokens, hook: str, *, concept: Concept | None = None, source: Any = None,
    batch_size: int = 64,
) -> TokenActivations:  # fmt: skip
    """One forward pass over given tokens: the activations at `hook` of those that count."""
    x = content_residuals(model, tokens, hook, batch_size=batch_size)
    prompt, position = tokens.content.nonzero(as_tuple=True)
    in_entity = tokens.entity[tokens.content]
    return TokenActivations(x, prompt, position, in_entity, concept, tokens, source)


def left_out_words(acts: Iterable[TokenActivations]) -> pd.DataFrame:
    """The words of concepts' prompts that do not count, by why: how many, and which how often."""
    columns = ["concept", "left out as", "words", "which"]
    return pd.DataFrame([
        (str(of.concept.name), why, words.total(),
         ", ".join(f"{word} ({n})" for word, n in words.most_common()) or "none")
        for of in acts if of.tokens and of.concept
        for why, words in of.tokens.left_out.items()
    ], columns=columns)  # fmt: skip
