"""Concept prompts: the sentences whose representations every case looks at.

Files have the full form, where each prompt carries its entity and frame, or the plain form
`{"months": ["January is ...", ...]}` (see `data/README.md`).
"""

from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pydantic
from pydantic import AfterValidator, BeforeValidator, StrictStr, StringConstraints
from pydantic.dataclasses import dataclass

from saerepgeo_lib.activations.words import alike, clean, in_whole_words, is_word, place_of
from saerepgeo_lib.errors import UserError, choose, explained, quoted
from saerepgeo_lib.files import data_dir, read_json

_CLOSED = pydantic.ConfigDict(extra="forbid")
_Text = Annotated[StrictStr, AfterValidator(clean)]
_Name = Annotated[_Text, AfterValidator(str.strip)]
_Word = Annotated[str, StringConstraints(strict=True, min_length=1, to_lower=True)]


@dataclass(frozen=True, config=_CLOSED)
class Prompt:
    """One sentence; `entity` stands in it where `frame` has `{}` (both None in the plain form).

    All three are kept in Unicode's composed form (NFC), without characters that are not seen.
    """

    text: _Text
    entity: _Name | None = None
    frame: _Text | None = None

    @property
    def entity_span(self) -> tuple[int, int] | None:
        """Offsets (start, end) of the entity in the text. Raises UserError for a part of a word."""
        if self.entity is None:
            return None
        if self.frame is None:
            place = place_of(self.text, self.entity)
        else:
            start = self.frame.index("{}")
            place = start, start + len(self.entity)
        if place is None or not in_whole_words(self.text, *place):
            raise UserError(
                f"the entity {self.entity!r} is absent from {quoted(self.text)}, or only a part of "
                "a word or number there: give the whole word as it stands in the text"
                + _in_another_form(self.entity, self.text)
            )
        return place

    @property
    def context(self) -> str:
        """The frame; if none is given, the text with `{}` for its entity, or without one as it is.

        Raises UserError as `entity_span` does.
        """
        if self.frame is not None or (span := self.entity_span) is None:
            return self.frame or self.text
        return f"{self.text[: span[0]]}{{}}{self.text[span[1] :]}"


@dataclass(frozen=True)
class Concept:
    """Prompts that share a theme, and the words of its templates that are masked."""

    name: str
    prompts: tuple[Prompt, ...]
    template_words: frozenset[str] = frozenset()

    @property
    def entities(self) -> tuple[str, ...]:
        """The distinct entities in order of first appearance; empty in the plain form."""
        return tuple(dict.fromkeys(p.entity for p in self.prompts if p.entity is not None))

    def drawn(self, n: int, *, seed: int = 0) -> "Concept":
        """At most `n` of the prompts in their order, drawn without replacement; 0: all.

        Entities take turns, so their numbers of prompts differ by one at most, as far as each has
        them.
        """
        if n < 0:
            raise UserError(f"the largest number of prompts is at least 1, or 0 for all, got {n}")
        if not n or n >= len(self.prompts):
            return self
        turn: dict[str | None, int] = {}
        turns = {}  # of each prompt, in a random order
        for i in np.random.default_rng(seed).permutation(len(self.prompts)).tolist():
            entity = self.prompts[i].entity
            turns[i] = turn[entity] = turn.get(entity, 0) + 1
        kept = sorted(sorted(turns, key=lambda i: turns[i])[:n])
        return replace(self, prompts=tuple(self.prompts[i] for i in kept))

    def entity_spans(self) -> list[tuple[int, int] | None]:
        """The place of each prompt's entity (None without one).

        Raises UserError where it is part of a word, or of a longer entity, and where prompts or
        entities look alike.
        """
        self._refuse_twins()
        entities, spans = self.entities, []
        longer = {e: [o for o in entities if e in o and e != o] for e in entities}
        for i, prompt in enumerate(self.prompts):
            try:
                spans.append(span := prompt.entity_span)
            except UserError as error:
                raise UserError(f"prompts[{i}]: {error}") from None
            for other in longer.get(prompt.entity or "", ()):
                place = place_of(prompt.text, other)
                if span and place and place[0] <= span[0] and span[1] <= place[1]:
                    raise UserError(
                        f"prompts[{i}]: the entity {prompt.entity!r} stands inside {other!r}, an "
                        f"entity of its own, in {quoted(prompt.text)}"
                    )
        return spans

    def _refuse_twins(self) -> None:
        """Raises UserError for prompts or entities that look alike, and for a phrase as a word."""
        if repeated := _repeated(alike(prompt.text) for prompt in self.prompts):
            at, first = repeated
            text = quoted(self.prompts[at].text)
            raise UserError(f"prompts[{at}]: duplicate of prompt {first}: {text}")
        if repeated := _repeated(alike(entity).casefold() for entity in self.entities):
            one, other = (self.entities[i] for i in repeated)
            raise UserError(
                f"the entities {other!r} and {one!r} are the same but for case, spaces, or the "
                "form of apostrophes and hyphens; write them the same way"
            )
        if phrase := next((w for w in self.template_words if not is_word(clean(w))), None):
            raise UserError(
                f"template_words: {phrase!r} is not one word; list the words of a phrase separately"
            )


def _in_another_form(entity: str, text: str) -> str:
    """Ends a message on an entity that is absent only as it is written; else empty."""
    is_there = bool(alike(entity)) and alike(entity) in alike(text) and entity not in text
    return "; they differ in the form of a space, an apostrophe or a hyphen" * is_there


def _repeated(names: Iterable[str]) -> tuple[int, int] | None:
    """Where a name first occurs again, and where it stood before."""
    first: dict[str, int] = {}
    return next(
        ((i, first[name]) for i, name in enumerate(names) if first.setdefault(name, i) < i), None
    )


def _full_form(key: str) -> BeforeValidator:
    """Puts a value of the plain form under `key`, where it stands in the full form."""

    def full(value: Any) -> Any:
        if isinstance(value, dict) and None in value.values():
            raise ValueError("null is no value; leave out what there is none of")
        return value if isinstance(value, dict) else {key: value}

    return BeforeValidator(full)


def _checked(prompt: Prompt) -> Prompt:
    """A prompt of a file, if entity and frame fit its text."""
    text, entity, frame = prompt.text, prompt.entity, prompt.frame
    if not text.strip():
        raise ValueError("the prompt is empty")
    if entity is not None and not (entity.strip() and entity in text):
        form = _in_another_form(entity, text)
        raise ValueError(f"the entity {entity!r} is empty, or absent from {text!r}{form}")
    if frame is not None and entity is None:
        raise ValueError("has a frame but no entity")
    if frame is not None and (frame.count("{}") != 1 or frame.replace("{}", str(entity)) != text):
        raise ValueError(
            f"the frame {frame!r} with {entity!r} for its one '{{}}' is not the text {text!r}"
        )
    return prompt


@dataclass(frozen=True, config=_CLOSED)
class _Content:
    """What a file holds of a concept."""

    prompts: list[Annotated[Prompt, _full_form("text"), AfterValidator(_checked)]]
    template_words: list[_Word] = pydantic.Field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ValueError("has no prompts; give at least one or remove the concept")
        if len({prompt.entity is None for prompt in self.prompts}) > 1:
            raise ValueError("either every prompt or no prompt carries an entity")
        Concept("", tuple(self.prompts), frozenset(self.template_words)).entity_spans()


_FILE = pydantic.TypeAdapter(dict[str, Annotated[_Content, _full_form("prompts")]])


def load_concepts(path: Path | str | None = None) -> dict[str, Concept]:
    """Read and check a concept file (default: the shipped one).

    Raises UserError with the concept, the index and the reason for anything malformed.
    """
    path = data_dir() / "concept_prompts.json" if path is None else Path(path)
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        raise UserError(
            f'{path}: expected an object of concepts, {{"months": ["January is ...", ...]}}, '
            f"got {quoted(content)}"
        )
    try:
        checked = _FILE.validate_python(content)
    except pydantic.ValidationError as error:
        keys = [field.name for kind in (Prompt, _Content) for field in fields(kind)]
        raise explained(error, path, fields=keys) from None
    for name in checked:
        if name in ("", "all") or name != " ".join(name.split()) or "," in name:
            raise UserError(
                f"{path}: {name!r} is no name of a concept: one line, without commas (which part "
                "the names in a list), without outer or double spaces, and not 'all'; rename it"
            )
    if repeated := _repeated(map(alike, checked)):
        one, other = (list(checked)[i] for i in repeated)
        raise UserError(f"{path}: the concepts {other!r} and {one!r} look alike; rename one")
    return {
        clean(name): Concept(clean(name), tuple(c.prompts), frozenset(c.template_words))
        for name, c in checked.items()
    }


def load_concept(name: str, path: Path | str | None = None) -> Concept:
    """One concept of a file; an unknown name is refused with the nearest valid ones."""
    concepts = load_concepts(path)
    return concepts[choose("concept", clean(name), concepts)]


def names_in(text: str) -> list[str]:
    """The names in a text that separates them by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]
