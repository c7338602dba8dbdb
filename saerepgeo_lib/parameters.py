"""Values of notebooks' parameters: one check of type, finiteness and secrets for every source."""

import json
import math
import re
from dataclasses import dataclass
from typing import Any

from saerepgeo_lib.errors import UserError, quoted
from saerepgeo_lib.strict_yaml import parse_yaml

_SECRET_NAME = re.compile(r"token|secret|passw|credential|api_?key|private_?key", re.IGNORECASE)
_SECRET_VALUE = re.compile(r"\b(hf|sk|ghp|gho|github_pat|xox[bap])[_-][A-Za-z0-9_-]{16,}")
_TYPE = re.compile(r"(list\[)*(str|int|float|bool)\]*")


@dataclass(frozen=True)
class Parameter:
    """One line of a notebook's parameters cell: `name: type = default  # description`."""

    name: str
    type: str
    default: Any
    description: str

    def __post_init__(self) -> None:
        if not _TYPE.fullmatch(self.type) or self.type.count("[") != self.type.count("]"):
            raise UserError(
                f"parameter {self.name!r} has type {self.type!r}; expected str, int, float, bool "
                "or a list of these"
            )


def refuse_secret(name: str, value: Any) -> None:
    """Refuse what looks like a secret: parameters are printed in the executed notebook."""
    if _SECRET_VALUE.search(name) or _SECRET_NAME.search(name) or _SECRET_VALUE.search(str(value)):
        shown = "a parameter's name" if _SECRET_VALUE.search(name) else f"parameter {name!r}"
        raise UserError(
            f"{shown} looks like a secret, and parameters are printed in the "
            "notebook; put it into the environment instead (for example HF_TOKEN)"
        )


def parse_value(parameter: Parameter, text: str) -> Any:
    """The value that a text on a command line stands for, checked."""
    if parameter.type == "str":
        return check_value(parameter, text)
    try:
        value = parse_yaml(text)
    except UserError:
        value = text
    return check_value(parameter, value, shown=text)


def check_value(parameter: Parameter, value: Any, *, shown: str | None = None) -> Any:
    """`value` as the declared type (an integer is a float's value too), or a UserError.

    Infinite and undefined numbers and texts that are not Unicode are refused: no record could
    hold them. `shown` is the value as the user wrote it.
    """
    if not _is_type(value, parameter.type):
        got = quoted(value if shown is None else shown, length=80)
        raise UserError(
            f"parameter {parameter.name!r} is a {parameter.type} ({parameter.description}), "
            f"for example {json.dumps(parameter.default)}; got {got}"
        )
    return _as_type(value, parameter.type)


def _is_type(value: Any, kind: str) -> bool:
    if kind.startswith("list["):
        return isinstance(value, list) and all(_is_type(v, kind[5:-1]) for v in value)
    if kind == "float":
        return isinstance(value, (int, float)) and type(value) is not bool and _is_finite(value)
    if kind == "int":
        return type(value) is int and -(2**63) <= value < 2**63
    return type(value) is bool if kind == "bool" else _is_text(value)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False


def _is_text(value: Any) -> bool:
    if type(value) is not str or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _as_type(value: Any, kind: str) -> Any:
    if kind.startswith("list["):
        return [_as_type(v, kind[5:-1]) for v in value]
    return float(value) if kind == "float" else value
