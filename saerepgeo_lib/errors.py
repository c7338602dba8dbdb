"""Errors that a user can act on: what was expected, what came, what to do."""

import difflib
from collections.abc import Iterable
from typing import Any


class UserError(ValueError):
    """A mistake that the user can mend; command lines and notebooks show no traceback with it."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows of it."""
        return [f"UserError: {self}"]


def nearest(name: str, valid: Iterable[str]) -> str:
    """The valid names closest to `name`, or the first 20 of them if none is close."""
    names = sorted(valid)
    if close := difflib.get_close_matches(name, names, cutoff=0.5):
        return f"did you mean {' or '.join(map(repr, close))}?"
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return f"valid: {', '.join(names[:20])}{more}"


def choose(kind: str, name: str, valid: Iterable[str]) -> str:
    """Return `name` if it is one of `valid`, else raise a UserError naming the nearest."""
    names = list(valid)
    if name not in names:
        raise UserError(f"unknown {kind} {name!r}; {nearest(name, names)}")
    return name


def quoted(value: Any, *, length: int = 60) -> str:
    """A value as messages quote it: its `repr`, cut to `length` characters."""
    text = repr(value)
    return text if len(text) <= length else f"{text[: length - 3]}..."


def explained(error: Any, where: Any, *, fields: Iterable[str] = ()) -> UserError:
    """The first fault of a pydantic `ValidationError`, with its place in the file `where`.

    An unknown key comes with the nearest of `fields`, the keys that the file may have.
    """
    fault = error.errors()[0]
    place = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in fault["loc"])
    reason = fault["msg"].removeprefix("Value error, ")
    if fault["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        name = str(fault["loc"][-1])
        reason = f"unknown key {name!r}; {nearest(name, fields)}"
    elif fault["type"] not in ("value_error", "missing"):
        expected = "expected an object" if fault["type"] == "dataclass_type" else reason
        reason = f"{expected}, got {quoted(fault['input'])}"
    return UserError(": ".join(filter(None, (str(where), place.removeprefix("."), reason))))
