"""Words of any script: how texts are written, where words stand in them, which do not count."""

import unicodedata
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import regex

from saerepgeo_lib.errors import choose
from saerepgeo_lib.files import data_dir, read_as

# Scripts written without spaces between words, or with particles joined to them.
_TOGETHER = "[" + "".join(
    rf"\p{{{script}}}" for script in
    ("Thai", "Lao", "Khmer", "Myanmar", "Tibetan", "Han", "Hiragana", "Katakana", "Bopomofo",
     "Hangul")
) + "ー]"  # fmt: skip
_IN_WORD = r"[\p{L}\p{M}\p{N}\u200c\u200d]"  # the last two join letters, or keep them from it
_APOSTROPHE = r"['`\u00b4\u2018\u2019\u02bc\u2032\uff07]"
_APART = rf"(?!{_TOGETHER})[\p{{L}}\p{{N}}](?:(?!{_TOGETHER}){_IN_WORD})*"
_RUN = regex.compile(
    rf"(?P<together>(?={_TOGETHER})[\p{{L}}\p{{N}}](?:(?={_TOGETHER}|\p{{M}}){_IN_WORD})*)"
    rf"|{_APART}(?:{_APOSTROPHE}{_APART})*"
)
_WITHIN = regex.compile(  # a place between two characters of one word
    rf"(?<={_IN_WORD})(?:(?=[\p{{M}}\u200c\u200d])|(?<!{_TOGETHER})(?!{_TOGETHER})(?={_IN_WORD}))"
)
_NUMBER = regex.compile(  # with a fraction, or with thousands set apart; no list or date
    r"(?<!\p{Nd}|\p{Nd}[.,])\p{Nd}+(?:[,\u066c]\p{Nd}{3})*(?:[.\u066b]\p{Nd}+)?"
    r"(?!\p{Nd}|[.,]\p{Nd})"
)
_HYPHEN = r"[-\u2010\u2011]"
_JOINED = rf"{_APOSTROPHE}|{_HYPHEN}|_|[+\u2212]"  # beside it a word may be part of another
# Soft hyphens, zero-width spaces, marks of direction: nobody sees them, and they part words.
_UNSEEN = regex.compile(
    r"[\u00ad\u034f\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff]"
)


class Word(NamedTuple):
    """Where a word stands in a text, and why it does not count (empty if it does)."""

    start: int
    end: int
    left_out: str = ""


def clean(text: str) -> str:
    """`text` in Unicode's composed form (NFC), without characters that are not seen."""
    return unicodedata.normalize("NFC", _UNSEEN.sub("", text))


def alike(text: str) -> str:
    """What texts share that differ in nothing but white space, the form of apostrophes and
    hyphens, or in how letters are joined.
    """
    straight = regex.sub(_HYPHEN, "-", regex.sub(_APOSTROPHE, "'", clean(text)))
    return " ".join(regex.sub(r"[\u200c\u200d]", "", straight).split())


def key(word: str) -> str:
    """A word as lists of words have it: clean, in lower case, with straight apostrophes."""
    return regex.sub(_APOSTROPHE, "'", clean(word).casefold())


def languages() -> tuple[str, ...]:
    """What `function_words` may be: the languages that have a list, and "none"."""
    return (*sorted(path.stem for path in (data_dir() / "function_words").glob("*.txt")), "none")


def function_words(language: str) -> frozenset[str]:
    """The function words of a language (`data/README.md` tells their source), or none of "none"."""
    if choose("list of function words", language, languages()) == "none":
        return frozenset()
    path = data_dir() / "function_words" / f"{language}.txt"
    lines = read_as("text", path, str.splitlines)
    return frozenset(key(line) for line in lines if not line.startswith("#"))


def is_word(text: str) -> bool:
    """Whether `text` is one word (or a run of a script that writes words together)."""
    return _RUN.fullmatch(text) is not None


def place_of(text: str, part: str) -> tuple[int, int] | None:
    """Where `part` first stands in `text` in whole words: (start, end), or None.

    In a script that writes words together any place will do. Beside an apostrophe, a hyphen or a
    sign, as "John" in "John's" or "one" in "twenty-one", only if there is no other.
    """

    def is_joined(place: tuple[int, int]) -> bool:
        around = text[max(0, place[0] - 1) : place[0]] + text[place[1] : place[1] + 1]
        return regex.search(_JOINED, around) is not None

    places = (m.span() for m in regex.finditer(regex.escape(part), text, overlapped=True))
    return min((p for p in places if in_whole_words(text, *p)), key=is_joined, default=None)


def in_whole_words(text: str, start: int, end: int) -> bool:
    """Whether no word or number of a text begins before `start` or ends after `end`."""
    numbers = (number.span() for number in _NUMBER.finditer(text))
    in_number = any(a <= start and end <= b and b - a > end - start for a, b in numbers)
    return not (in_number or _WITHIN.match(text, start) or _WITHIN.match(text, end))


def words_in(text: str, left_out: Mapping[str, Collection[str]]) -> Iterator[Word]:
    """The words of a text; `left_out` has those that do not count (as `key` writes them) by why.

    What apostrophes join is looked up whole, then in pieces, each with or without the apostrophe
    beside it: of "John's", "'s" is left out. In a script that writes words together a word is left
    out wherever it occurs.
    """
    reasons = {word: why for why, words in left_out.items() for word in words}
    joined = sorted(filter(regex.compile(_TOGETHER).search, reasons), key=len, reverse=True)
    listed = "|".join(map(regex.escape, joined)) or "(?!)"
    for run in _RUN.finditer(text):
        if run["together"]:
            cut = rf"{listed}|(?:(?!{listed}).)+"
        else:
            cut = ".+" if key(run[0]) in reasons else rf"(?:(?!{_APOSTROPHE}).)+"
        for piece in regex.finditer(cut, text, pos=run.start(), endpos=run.end()):
            start, end = piece.span()
            before, after = max(start - 1, run.start()), min(end + 1, run.end())
            forms = map(key, (text[start:end], text[before:end], text[start:after]))
            yield Word(start, end, next((reasons[f] for f in forms if f in reasons), ""))
