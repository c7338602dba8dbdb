"""Concept prompts: the sentences whose representations every case looks at.

Two forms of file are accepted (see `data/README.md`): the full form, where each prompt
carries its entity and frame, and the plain form `{"months": ["January is ...", ...]}`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saerepgeo_lib.errors import UserError, choose, nearest
from saerepgeo_lib.files import data_dir, read_json


@dataclass(frozen=True)
class Prompt:
    """One sentence; `entity` stands in it where `frame` has `{}` (both None in the plain form)."""

    text: str
    entity: str | None = None
    frame: str | None = None

    @property
    def entity_span(self) -> tuple[int, int] | None:
        """Character offsets (start, end) of the entity in the text, None if it has none."""
        if self.entity is None:
            return None
        if self.frame is not None:
            start = self.frame.index("{}")
        else:
            start = _find_word(self.text, self.entity)
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


def default_prompts_path() -> Path:
    """The shipped concept file."""
    return data_dir() / "concept_prompts.json"


def load_concepts(path: Path | str | None = None) -> dict[str, Concept]:
    """Read and check a concept file (default: the shipped one).

    Raises UserError with the concept, the index and the reason for anything malformed.
    """
    path = default_prompts_path() if path is None else Path(path)
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        raise UserError(
            f"{path}: expected an object of concepts, "
            f'{{"months": ["January is ...", ...]}}, got {_kind(content)}'
        )
    return {name: _parse_concept(name, value, path) for name, value in content.items()}


def names_in(text: str) -> list[str]:
    """The names in a text that separates them by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def load_concept(name: str, path: Path | str | None = None) -> Concept:
    """One concept of a file; an unknown name is refused with the nearest valid ones."""
    concepts = load_concepts(path)
    return concepts[choose("concept", name, concepts)]


def _parse_concept(name: str, value: Any, path: Path) -> Concept:
    where = f"{path}: concept {name!r}"
    template_words: frozenset[str] = frozenset()
    if isinstance(value, dict):
        _only_keys(value, {"prompts", "template_words"}, where)
        words = value.get("template_words", [])
        if not isinstance(words, list) or not all(isinstance(w, str) and w for w in words):
            raise UserError(f"{where}: template_words must be a list of non-empty strings")
        template_words = frozenset(w.lower() for w in words)
        value = value.get("prompts")
    if not isinstance(value, list):
        raise UserError(f"{where}: expected a list of prompts, got {_kind(value)}")
    if not value:
        raise UserError(f"{where}: has no prompts; give at least one or remove the concept")
    prompts = tuple(_parse_prompt(p, f"{where}, prompt {i}") for i, p in enumerate(value))
    seen: dict[str, int] = {}
    for i, prompt in enumerate(prompts):
        if prompt.text in seen:
            raise UserError(
                f"{where}, prompt {i}: duplicate of prompt {seen[prompt.text]}: {prompt.text!r}"
            )
        seen[prompt.text] = i
    if len({p.entity is None for p in prompts}) > 1:
        raise UserError(f"{where}: either every prompt or no prompt carries an entity")
    return Concept(name, prompts, template_words)


def _parse_prompt(value: Any, where: str) -> Prompt:
    if isinstance(value, str):
        prompt = Prompt(value)
    elif isinstance(value, dict):
        _only_keys(value, {"text", "entity", "frame"}, where)
        for key in ("text", "entity", "frame"):
            if key in value and not isinstance(value[key], str):
                raise UserError(f"{where}: {key} must be a string, got {_kind(value[key])}")
        if "text" not in value:
            raise UserError(f"{where}: has no 'text'")
        if "frame" in value and "entity" not in value:
            raise UserError(f"{where}: has a frame but no entity")
        prompt = Prompt(value["text"], value.get("entity"), value.get("frame"))
    else:
        raise UserError(f"{where}: expected a string or an object, got {_kind(value)}")
    if not prompt.text.strip():
        raise UserError(f"{where}: is empty")
    if prompt.entity is not None:
        if not prompt.entity.strip():
            raise UserError(f"{where}: the entity is empty")
        if prompt.entity not in prompt.text:
            raise UserError(f"{where}: entity {prompt.entity!r} is absent from {prompt.text!r}")
    if prompt.frame is not None:
        made = prompt.frame.replace("{}", prompt.entity or "")
        if prompt.frame.count("{}") != 1 or made != prompt.text:
            raise UserError(
                f"{where}: the frame {prompt.frame!r} with {prompt.entity!r} for its one '{{}}' "
                f"is not the text {prompt.text!r}"
            )
    return prompt


def _only_keys(value: dict[str, Any], valid: set[str], where: str) -> None:
    for key in value:
        if key not in valid:
            raise UserError(f"{where}: unknown key {key!r}; {nearest(key, valid)}")


def _find_word(text: str, word: str) -> int:
    """Offset of the first whole-word match of `word`, or of the first match at all."""
    start = text.find(word)
    while start >= 0:
        end = start + len(word)
        before, after = text[start - 1 : start], text[end : end + 1]
        if not before.isalnum() and not after.isalnum():
            return start
        start = text.find(word, start + 1)
    return text.index(word)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return "null" if value is None else names.get(type(value), f"a {type(value).__name__}")
