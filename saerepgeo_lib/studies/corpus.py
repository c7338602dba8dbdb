"""English text to train autoencoders on, and a model's activations on it.

WordNet 3.0's glosses, its usage examples, its example sentences for verbs, and sentences made from
frames (`data/training_frames.json`) whose slots are filled with WordNet lemmas and concept members.
The frames of the concept prompts are never among them. Or any text, one passage per line.
"""

import hashlib
import random
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from saerepgeo_lib.activations.prompts import load_concepts
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.files import data_dir, read_json

WORDNET_DIR = Path("/usr/share/wordnet")
HELD_OUT_SHARE = 0.02

# Slots of the training frames: WordNet's lexicographer files that fill them (wndb(5WN)).
_SLOTS = {
    "noun": (4, 6, 7, 8, 9, 10, 11, 12, 14, 17, 19, 20, 21, 25, 26),
    "person": (18,), "animal": (5,), "food": (13,), "place": (15,), "substance": (27,),
    "adjective": (0,), "adverb": (2,), "verb": tuple(range(29, 44)),
}  # fmt: skip
_COMMON_SHARE = 0.75  # share of slots filled with lemmas that occur in WordNet's tagged texts


@dataclass(frozen=True)
class Passage:
    """A text, and the source that it came from (glosses, examples, frames or user)."""

    text: str
    source: str

    @property
    def held_out(self) -> bool:
        """Whether the passage is kept from training; decided by its own text alone."""
        return int(hashlib.sha256(self.text.encode()).hexdigest()[:8], 16) < HELD_OUT_SHARE * 2**32


def user_passages(path: Path) -> list[Passage]:
    """The non-empty lines of a UTF-8 text file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the training text {path}: {error}") from error
    if not (texts := [line.strip() for line in lines if line.strip()]):
        raise UserError(f"the training text {path} has no non-empty line")
    return [Passage(text, "user") for text in texts]


def embedded_passages(
    *, n_frame_sentences: int, random_state: int = 0, wordnet: Path = WORDNET_DIR
) -> list[Passage]:
    """The corpus of the shipped autoencoders, shuffled, each text once."""
    if not (wordnet / "data.noun").is_file():
        raise UserError(
            f"no WordNet database at {wordnet}: install Debian's wordnet-base, "
            "or name the folder that holds data.noun"
        )
    from_frames = _frame_sentences(wordnet, n=n_frame_sentences, random_state=random_state)
    unique = list({p.text: p for p in (*_sentences(wordnet), *from_frames)}.values())
    random.Random(random_state).shuffle(unique)
    return unique


def _lines(wordnet: Path, kind: str) -> Iterator[str]:
    """The lines of WordNet's four files of a kind, without the licence that heads each."""
    for part in ("noun", "verb", "adj", "adv"):
        for line in (wordnet / f"{kind}.{part}").read_text(encoding="utf-8").splitlines():
            if not line.startswith("  "):
                yield line


def _synsets(wordnet: Path) -> Iterator[tuple[int, list[str], str]]:
    """Lexicographer file number, lemmas and gloss of every synset (format: wndb(5WN))."""
    for line in _lines(wordnet, "data"):
        fields, _, gloss = line.partition(" | ")
        words = fields.split()
        lemmas = words[4 : 4 + 2 * int(words[3], 16) : 2]
        yield int(words[1]), [x.split("(")[0].replace("_", " ") for x in lemmas], gloss.strip()


def _sentences(wordnet: Path) -> Iterator[Passage]:
    """Definitions and usage examples, then the example sentences for verbs."""
    for _, lemmas, gloss in _synsets(wordnet):
        definition = gloss.split('; "')[0].strip(' ;"')
        yield Passage(f"{lemmas[0]}: {definition}", "glosses")
        for example in re.findall(r'"([^"]+)"', gloss):
            yield Passage(example[0].upper() + example[1:].rstrip(";,") + ".", "examples")
    sentences, index = ((wordnet / f"{name}.vrb").read_text() for name in ("sents", "sentidx"))
    frames = dict(line.split(maxsplit=1) for line in sentences.splitlines())
    for line in index.splitlines():
        sense, *numbers = line.replace(",", " ").split()
        verb = sense.split("%")[0].replace("_", " ")
        for number in numbers:
            yield Passage(frames[number].strip().replace("%s", verb) + ".", "examples")


def _frame_sentences(wordnet: Path, *, n: int, random_state: int) -> Iterator[Passage]:
    """Sentences from frames, filled with concept members, and most often with common lemmas.

    Common are lemmas with at least one sense that occurs in WordNet's semantically tagged texts.
    """
    frames = read_json(data_dir() / "training_frames.json")
    members = {name: list(c.entities) for name, c in load_concepts().items()}
    slot_of = {number: slot for slot, numbers in _SLOTS.items() for number in numbers}
    lemmas: dict[str, list[str]] = defaultdict(list)
    for number, words, _ in _synsets(wordnet):
        if number in slot_of:
            lemmas[slot_of[number]] += words
    index = [line.split() for line in _lines(wordnet, "index")]
    common = {f[0].replace("_", " ") for f in index if int(f[5 + int(f[3])]) > 0}
    often = {slot: [w for w in words if w.lower() in common] for slot, words in lemmas.items()}
    rng = random.Random(random_state)

    def fill(match: re.Match[str]) -> str:
        slot = match.group(1)
        if slot in members:
            return rng.choice(members[slot])
        return rng.choice(often[slot] if rng.random() < _COMMON_SHARE else lemmas[slot])

    for _ in range(n):
        frame = rng.choice(frames["concept" if rng.random() < 0.5 else "general"])
        text = re.sub(r"\{(\w+)\}", fill, frame)
        yield Passage(text[0].upper() + text[1:], "frames")
