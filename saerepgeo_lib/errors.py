"""Errors that a user can act on: what was expected, what came, what to do."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


class UserError(ValueError):
    """A mistake that the user can mend; command lines show its text without a traceback."""


def nearest(name: str, valid: Iterable[str], *, n: int = 3) -> str:
    """One line that names the valid names closest to `name`, or all of them if few."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=n, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    first = names[:20]
    more = "" if len(names) <= 20 else f" and {len(names) - 20} more"
    return "valid: " + ", ".join(first) + more


def choose(kind: str, name: str, valid: Iterable[str]) -> str:
    """Return `name` if it is one of `valid`, else raise a UserError naming the nearest."""
    names = list(valid)
    if name not in names:
        raise UserError(f"unknown {kind} {name!r}; {nearest(name, names)}")
    return name


def check_least(given: Mapping[str, tuple[float, float]]) -> None:
    """Refuse parameters below their least values (NaN too): `{name: (value, least)}`."""
    for name, (value, least) in given.items():
        if not value >= least:
            raise UserError(f"{name} must be at least {least}, got {value}")


def quoted(value: Any, *, length: int = 60) -> str:
    """A value as messages quote it: its `repr`, cut to `length` characters."""
    text = repr(value)
    return text if len(text) <= length else text[: length - 3] + "..."
