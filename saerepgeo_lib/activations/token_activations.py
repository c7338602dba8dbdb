"""Token activations: what every case looks at, and what is known of each token."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from saerepgeo_lib.activations.latents import Latents, encode
from saerepgeo_lib.activations.prompts import Concept, Prompt
from saerepgeo_lib.activations.residual_stream import (
    Massive,
    content_residuals,
    float64,
    is_causal,
    is_massive,
    times_median,
    twins,
)
from saerepgeo_lib.activations.tokens import Tokens, tokenize
from saerepgeo_lib.errors import UserError, choose

Positions = Literal["content", "entity"]
FEWEST = 3  # contexts for an interval over them
_OF_ROWS = ("prompt", "position", "in_entity")


@dataclass(frozen=True, repr=False, eq=False)
class TokenActivations:
    """The residual stream `x` at the tokens that count, one row per token in reading order.

    `prompt` and `position` say where each row came from, `in_entity` whether it belongs to the
    prompt's entity (of several tokens, in a causal model, the last); `source` is the model with its
    SAEs.

    Tokens with massive activations (`residual_stream.is_massive`, among all tokens or among those
    of entities) are left out when this is made, of `tokens` too, unless `massive` is "keep";
    `massive_tokens` names them either way (columns prompt, token, position, times the median,
    entity), and `whole` is the same with them.
    """

    x: Float[Tensor, "tokens d"]
    prompt: Int[Tensor, " tokens"]
    position: Int[Tensor, " tokens"]
    in_entity: Bool[Tensor, " tokens"]
    concept: Concept | None = None
    tokens: Tokens | None = None
    source: Any = None
    massive: Massive = field(default="leave out", kw_only=True)
    massive_tokens: pd.DataFrame | None = field(default=None, kw_only=True)  # None: to be found
    whole: "TokenActivations | None" = field(default=None, kw_only=True)  # None: nothing left out

    def __post_init__(self) -> None:
        choose("treatment of massive activations", self.massive, ("leave out", "keep"))
        if self.concept and self.concept.name in ("", "all"):
            raise UserError(
                f"a concept cannot be named {self.concept.name!r}, which is every concept together "
                "in tables of results; rename it"
            )
        if self.massive_tokens is not None:  # some tokens of activations in which they were found
            return
        if n := int((~self.x.isfinite().all(1)).sum()):
            raise UserError(
                f"{n:,} of {len(self.x):,} rows of these activations are NaN or infinite; leave "
                "them out, or mend what made them"
            )
        out, times = is_massive(self.x), times_median(self.x)
        if not self.in_entity.all():
            entity = self.in_entity.to(out.device) & ~out  # their means are taken alone, too
            times[entity], out[entity] = times_median(self.x[entity]), is_massive(self.x[entity])
        self._set(massive_tokens=pd.DataFrame())
        self._set(massive_tokens=self.rows(out)._named(times[out]))
        if self.massive == "keep" or not out.any():
            return
        whole, kept, out, tokens = replace(self, massive="keep"), self.rows(~out), out.cpu(), None
        if self.tokens is not None:
            masks = {name: getattr(self.tokens, name).clone() for name in ("content", "entity")}
            for mask in masks.values():
                mask[self.prompt[out], self.position[out]] = False
            tokens = replace(self.tokens, **masks)
        kept_rows = {name: getattr(kept, name) for name in ("x", *_OF_ROWS)}
        self._set(whole=whole, tokens=tokens, **kept_rows)

    def _set(self, **fields: Any) -> None:
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def _named(self, times: Float[Tensor, " tokens"]) -> pd.DataFrame:
        """The tokens by name, with how many times the median distance they lie off."""
        prompts = self.prompt.tolist()
        of = [self.concept.prompts[p] for p in prompts] if self.concept else [None] * len(prompts)
        known = self.tokens is not None and self.source is not None
        return pd.DataFrame({
            "prompt": [p.text if p else str(i) for p, i in zip(of, prompts, strict=True)],
            "token": self.words if known and prompts else "",
            "position": self.position.tolist(),
            "times the median": times.tolist(),
            "entity": [p.entity or "" if p and inside else "" for p, inside in
                       zip(of, self.in_entity.tolist(), strict=True)],
        })  # fmt: skip

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        of = self.concept.name if self.concept else "no named concept"
        n_out = len(self.whole) - len(self) if self.whole else 0
        out = f", {n_out} massive ones left out" if n_out else ""
        return f"TokenActivations of {of}: {len(self)} tokens of {self.x.shape[1]} dimensions{out}"

    def rows(self, keep: Bool[Tensor, " tokens"] | Int[Tensor, " kept"]) -> "TokenActivations":
        """Some of the tokens: a mask, or indices."""
        kept = {name: getattr(self, name)[keep.to("cpu")] for name in _OF_ROWS}
        return replace(self, x=self.x[keep.to(self.x.device)], whole=None, **kept)

    def at(self, positions: Positions) -> "TokenActivations":
        """All content tokens, or the entities' tokens only."""
        if choose("positions", positions, ("content", "entity")) == "content":
            return self
        if not self.in_entity.any():
            if self.whole is not None and self.whole.in_entity.any():
                raise UserError(
                    "every token of an entity has massive activations and was left out; read at "
                    "another hook, or keep them: massive='keep'"
                )
            raise UserError(
                "positions 'entity' needs prompts that carry an entity; these carry none "
                "(the plain form of a concept file): use positions 'content'"
            )
        whole = None if self.whole is None else self.whole.at(positions)
        return replace(self.rows(self.in_entity), whole=whole)

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
        """The number of each token's sentence frame; a text without an entity is its own."""
        return self._numbers(lambda p: p.context)

    @cached_property
    def context(self) -> Int[np.ndarray, " tokens"]:
        """The number of each token's context: its frame, but frames that share a vector of an
        entity are one, as those that begin alike are to a causal model.
        """
        of_entities = self.frame[self.in_entity.cpu().numpy()]
        shape = (int(self.frame.max(initial=-1)) + 1, len(self))
        held = csr_array((np.ones(len(of_entities)), (of_entities, self._point)), shape=shape)
        numbers: np.ndarray = connected_components(held @ held.T, directed=False)[1]
        return numbers[self.frame]

    @cached_property
    def _point(self) -> Int[np.ndarray, " entity_tokens"]:
        """Which of the different vectors each token of an entity has."""
        x = self.x[self.in_entity.to(self.x.device)]
        return twins(float64(x).cpu().numpy())[1]

    @property
    def shared_contexts(self) -> str:
        """What is to be said of frames that are one context; empty if none are."""
        n, n_frames = (len(np.unique(numbers)) for numbers in (self.context, self.frame))
        if n == n_frames or self.concept is None:
            return ""
        return (
            f"The {len(self._point)} entity tokens of {self.concept.name} are "
            f"{len(np.unique(self._point))} different points, so there "
            f"{'is 1 different context' if n == 1 else f'are {n} different contexts'} and not "
            f"{n_frames}; put different words before the entity."
        )

    def _numbers(self, name_of: Callable[[Prompt], str | None]) -> Int[np.ndarray, " tokens"]:
        """Numbers for a name that each prompt has, in order of first appearance, by token."""
        if self.concept is None:
            raise UserError("entities and frames are known of a concept's prompts only")
        names = np.array([name_of(prompt) for prompt in self.concept.prompts], dtype=object)
        numbers: np.ndarray = pd.factorize(names)[0]
        return numbers[self.prompt.cpu().numpy()]

    @property
    def lost_entities(self) -> tuple[str, ...]:
        """Entities of which no token is left, as all of them are massive."""
        if self.whole is None or self.concept is None:
            return ()
        lost = set(self.whole.entity) - set(self.entity)
        return tuple(self.concept.entities[number] for number in sorted(lost - {-1}))

    def folds(self, n_groups: int) -> Int[np.ndarray, " tokens"]:
        """The contexts dealt to at most `n_groups` groups, of which an interval leaves out one
        each. Raises UserError for fewer than 3.
        """
        folds: np.ndarray = self.context % min(n_groups, len(np.unique(self.context)))
        if (n := len(np.unique(folds))) < FEWEST:
            raise UserError(
                f"intervals need prompts of at least {FEWEST} frames, got {n}"
                + f". {self.shared_contexts}" * bool(self.shared_contexts)
            )
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
    function_words: str = "english", massive: Massive = "leave out",
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
            functions=function_words, causal=is_causal(model),
        )  # fmt: skip
    return read_activations(model, tokens, hook, concept=concept, source=source, massive=massive)


def read_activations(
    model: Any, tokens: Tokens, hook: str, *, concept: Concept | None = None, source: Any = None,
    batch_size: int = 64, massive: Massive = "leave out",
) -> TokenActivations:  # fmt: skip
    """One forward pass over given tokens: the activations at `hook` of those that count."""
    x = content_residuals(model, tokens, hook, batch_size=batch_size)
    prompt, position = tokens.content.nonzero(as_tuple=True)
    in_entity = tokens.entity[tokens.content]
    return TokenActivations(
        x, prompt, position, in_entity, concept, tokens, source, massive=massive
    )


def left_out_words(acts: Iterable[TokenActivations]) -> pd.DataFrame:
    """The words of concepts' prompts that do not count, by why: how many, and which how often."""
    columns = ["concept", "left out as", "words", "which"]
    return pd.DataFrame([
        (str(of.concept.name), why, words.total(),
         ", ".join(f"{word} ({n})" for word, n in words.most_common()) or "none")
        for of in acts if of.tokens and of.concept
        for why, words in of.tokens.left_out.items()
    ], columns=columns)  # fmt: skip
