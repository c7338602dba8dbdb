"""Numbers in sentences, also where there is none."""

from collections.abc import Iterable
from math import isnan

NONE = "none"


def said(number: float | None, form: str = ".2f") -> str:
    """A number by a format such as ".0%"; "none" if it is undefined: a mean of nothing."""
    return NONE if number is None or isnan(number) else format(number, form)


def span(numbers: Iterable[float], form: str = ".2f") -> str:
    """Least and largest number, or the one that all are, or "none" if none is defined."""
    defined = [x for x in numbers if not isnan(x)]
    ends = [format(x, form) for x in (min(defined), max(defined))] if defined else [NONE]
    return " to ".join(dict.fromkeys(ends))
