"""English text to train the shipped autoencoders on.

Sources: WordNet 3.0's glosses, its usage examples, its example sentences for verbs, and
sentences made from frames (`data/training_frames.json`) whose slots are filled with WordNet
lemmas and concept members. The frames of the concept prompts are never among them. Or any
text that a user names, one passage a line.
"""

import hashlib
import json
import random
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.files import data_dir
from saerepgeo_lib.prompts import load_concepts

WORDNET_DIR = Path("/usr/share/wordnet")
HELD_OUT_SHARE = 0.02

# Slots of the training frames: WordNet's lexicographer files that fill them (wndb(5WN)).
_SLOTS = {
    "noun": (4, 6, 7, 8, 9, 10, 11, 12, 14, 17, 19, 20, 21, 25, 26),
    "person": (18,),
    "animal": (5,),
    "food": (13,),
    "place": (15,),
    "substance": (27,),
    "adjective": (0,),
    "adverb": (2,),
    "verb": tuple(range(29, 44)),
}
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
    passages = [Passage(line.strip(), "user") for line in lines if line.strip()]
    if not passages:
        raise UserError(f"the training text {path} has no non-empty line")
    return passages


def embedded_passages(
    *, n_frame_sentences: int, random_state: int = 0, wordnet: Path = WORDNET_DIR
) -> list[Passage]:
    """The corpus of the shipped autoencoders, shuffled, each text once."""
    if not (wordnet / "data.noun").is_file():
        raise UserError(
            f"no WordNet database at {wordnet}: install Debian's wordnet-base, "
            "or name the folder that holds data.noun"
        )
    passages = [
        *_glosses(wordnet),
        *_verb_sentences(wordnet),
        *_frame_sentences(wordnet, n=n_frame_sentences, random_state=random_state),
    ]
    unique = list({p.text: p for p in passages}.values())
    random.Random(random_state).shuffle(unique)
    return unique


def _synsets(wordnet: Path) -> Iterator[tuple[int, list[str], str]]:
    """Lexicographer file number, lemmas and gloss of every synset (format: wndb(5WN))."""
    for part in ("noun", "verb", "adj", "adv"):
        for line in (wordnet / f"data.{part}").read_text(encoding="utf-8").splitlines():
            if line.startswith("  "):  # the licence that heads each file
                continue
            fields, _, gloss = line.partition(" | ")
            words = fields.split()
            n_lemmas = int(words[3], 16)
            lemmas = [words[4 + 2 * i].split("(")[0] for i in range(n_lemmas)]
            yield int(words[1]), [x.replace("_", " ") for x in lemmas], gloss.strip()


def _glosses(wordnet: Path) -> Iterator[Passage]:
    for _, lemmas, gloss in _synsets(wordnet):
        examples = re.findall(r'"([^"]+)"', gloss)
        definition = gloss.split('; "')[0].strip(' ;"')
        yield Passage(f"{lemmas[0]}: {definition}", "glosses")
        for example in examples:
            yield Passage(example[0].upper() + example[1:].rstrip(";,") + ".", "examples")


def _verb_sentences(wordnet: Path) -> Iterator[Passage]:
    frames = dict(
        line.split(maxsplit=1) for line in (wordnet / "sents.vrb").read_text().splitlines()
    )
    for line in (wordnet / "sentidx.vrb").read_text().splitlines():
        sense, *numbers = line.replace(",", " ").split()
        verb = sense.split("%")[0].replace("_", " ")
        for number in numbers:
            yield Passage(frames[number].strip().replace("%s", verb) + ".", "examples")


def _common_lemmas(wordnet: Path) -> set[str]:
    """Lemmas with at least one sense that occurs in WordNet's semantically tagged texts."""
    common = set()
    for part in ("noun", "verb", "adj", "adv"):
        for line in (wordnet / f"index.{part}").read_text(encoding="utf-8").splitlines():
            if not line.startswith("  "):
                fields = line.split()
                if int(fields[5 + int(fields[3])]) > 0:
                    common.add(fields[0].replace("_", " "))
    return common


def _frame_sentences(wordnet: Path, *, n: int, random_state: int) -> Iterator[Passage]:
    frames = json.loads((data_dir() / "training_frames.json").read_text(encoding="utf-8"))
    concepts = load_concepts()
    fillers: dict[str, list[str]] = {name: list(c.entities) for name, c in concepts.items()}
    slot_of = {number: slot for slot, numbers in _SLOTS.items() for number in numbers}
    lemmas: dict[str, list[str]] = defaultdict(list)
    for number, words, _ in _synsets(wordnet):
        if number in slot_of:
            lemmas[slot_of[number]] += words
    common = _common_lemmas(wordnet)
    often = {slot: [w for w in words if w.lower() in common] for slot, words in lemmas.items()}
    rng = random.Random(random_state)

    def fill(match: re.Match[str]) -> str:
        slot = match.group(1)
        if slot in fillers:
            return rng.choice(fillers[slot])
        return rng.choice(often[slot] if rng.random() < _COMMON_SHARE else lemmas[slot])

    for _ in range(n):
        frame = rng.choice(frames["concept" if rng.random() < 0.5 else "general"])
        text = re.sub(r"\{(\w+)\}", fill, frame)
        yield Passage(text[0].upper() + text[1:], "frames")
