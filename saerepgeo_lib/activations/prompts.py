"""Concept prompts: the sentences whose representations every case looks at.

Files have the full form, where each prompt carries its entity and frame, or the plain form
`{"months": ["January is ...", ...]}` (see `data/README.md`).
"""

import re
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import pydantic
from pydantic import AfterValidator, BeforeValidator, StrictStr, StringConstraints
from pydantic.dataclasses import dataclass

from saerepgeo_lib.errors import UserError, choose, explained, quoted
from saerepgeo_lib.files import data_dir, read_json

_CLOSED = pydantic.ConfigDict(extra="forbid")
_Word = Annotated[str, StringConstraints(strict=True, min_length=1, to_lower=True)]


@dataclass(frozen=True, config=_CLOSED)
class Prompt:
    """One sentence; `entity` stands in it where `frame` has `{}` (both None in the plain form)."""

    text: StrictStr
    entity: StrictStr | None = None
    frame: StrictStr | None = None

    @property
    def entity_span(self) -> tuple[int, int] | None:
        """Offsets (start, end) of the entity in the text, as a whole word if it can be."""
        if self.entity is None:
            return None
        if self.frame is not None:
            start = self.frame.index("{}")
        else:
            whole = re.search(rf"(?<![^\W_]){re.escape(self.entity)}(?![^\W_])", self.text)
            start = whole.start() if whole else self.text.index(self.entity)
        return start, start + len(self.entity)


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
        raise ValueError(f"the entity {entity!r} is empty, or absent from {text!r}")
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
        texts = [prompt.text for prompt in self.prompts]
        for i, text in enumerate(texts):
            if (first := texts.index(text)) < i:
                raise ValueError(f"prompts[{i}]: duplicate of prompt {first}: {text!r}")
        if len({prompt.entity is None for prompt in self.prompts}) > 1:
            raise ValueError("either every prompt or no prompt carries an entity")


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
        if not name or name != " ".join(name.split()) or "," in name:
            raise UserError(
                f"{path}: {name!r} is no name of a concept: one line, without commas (which part "
                "the names in a list), and without outer or double spaces; rename it"
            )
    return {
        name: Concept(name, tuple(c.prompts), frozenset(c.template_words))
        for name, c in checked.items()
    }


def load_concept(name: str, path: Path | str | None = None) -> Concept:
    """One concept of a file; an unknown name is refused with the nearest valid ones."""
    concepts = load_concepts(path)
    return concepts[choose("concept", name, concepts)]


def names_in(text: str) -> list[str]:
    """The names in a text that separates them by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]
