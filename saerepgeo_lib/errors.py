"""Errors that a user can act on: what was expected, what came, what to do."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake that the user can mend; command lines show its text without a traceback."""


def nearest(name: str, valid: Iterable[str], *, n: int = 3) -> str:
    """One line that names the valid names closest to `name`, or all of them if few."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=n, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    shown = names[:20]
    more = "" if len(names) <= 20 else f" and {len(names) - 20} more"
    return "valid: " + ", ".join(shown) + more


def choose(kind: str, name: str, valid: Iterable[str]) -> str:
    """Return `name` if it is one of `valid`, else raise a UserError naming the nearest."""
    names = list(valid)
    if name not in names:
        raise UserError(f"unknown {kind} {name!r}; {nearest(name, names)}")
    return name
