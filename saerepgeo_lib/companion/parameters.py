"""Values of notebooks' parameters: their types, secrets among them, and what pages can use."""

import ast
import contextlib
import functools
import inspect
import json
import re
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError

from saerepgeo_lib.activations.prompts import names_in
from saerepgeo_lib.activations.words import languages
from saerepgeo_lib.errors import UserError, nearest, quoted

_SECRET_NAME = re.compile(r"token|secret|passw|credential|api_?key|private_?key", re.IGNORECASE)
_SECRET_VALUE = re.compile(r"\b(hf|sk|ghp|gho|github_pat|xox[bap])[_-][A-Za-z0-9_-]{16,}")
_TYPES: dict[str, Any] = {  # what records and tables can hold: Unicode, 64 bits
    "str": Annotated[str, Field(pattern=r"^[^\x00]*$")],
    "int": Annotated[int, Field(ge=-(2**63), lt=2**63)],
    "float": FiniteFloat,
    "bool": bool,
}


@dataclass(frozen=True)
class Parameter:
    """One line of a notebook's parameters cell: `name: type = default  # description`."""

    name: str
    type: str
    default: Any = None
    description: str = ""

    def __post_init__(self) -> None:
        _adapter(self.type)  # refuses other types


@functools.cache
def _adapter(kind: str) -> Any:
    """What checks values of a type; a UserError for types that parameters cannot have."""

    def annotation(kind: str) -> Any:
        if kind.startswith("list["):
            return list[annotation(kind[5:-1])]  # type: ignore[misc]
        return _TYPES[kind]

    try:
        return TypeAdapter(annotation(kind), config=ConfigDict(strict=True))
    except KeyError:
        valid = f"{', '.join(_TYPES)} or list[...]"
        raise UserError(f"a parameter has type {kind!r}; expected {valid}") from None


def check_value(parameter: Parameter, value: Any) -> Any:
    """`value` as the declared type (an integer is a float's value too), or a UserError.

    Infinite and undefined numbers and texts that are not Unicode are refused: no record could
    hold them.
    """
    try:
        return _adapter(parameter.type).validate_python(value)
    except ValidationError:
        about = f" ({parameter.description})" if parameter.description else ""
        if parameter.default is not None:
            about += f", for example {json.dumps(parameter.default)}"
        raise UserError(
            f"parameter {parameter.name!r} is a {parameter.type}{about}; got {quoted(value)}"
        ) from None


def parse_value(parameter: Parameter, text: str) -> Any:
    """The value that a text on a command line stands for (JSON or a Python literal), checked."""
    value: Any = text
    for parse in () if parameter.type == "str" else (ast.literal_eval, json.loads):
        with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            value = parse(text)
    return check_value(parameter, value)


def take_values(notebook: str, page: MutableMapping[str, Any]) -> dict[str, Any]:
    """The values of a running page's parameters (its annotated variables), read and checked.

    `page` are its variables (`globals()`). Plain papermill passes lists on as text, and sets any
    name at all: texts are read as on our command line, and the variables hold what was read. A
    UserError for a wrong type, or for a name that the page does not declare.
    """
    declared = {
        name: Parameter(name, kind if isinstance(kind, str) else inspect.formatannotation(kind))
        for name, kind in page.get("__annotations__", {}).items()
    }
    for name in _injected(page, declared):
        refuse_secret(name, page.get(name))
        if name not in declared:
            raise UserError(f"{notebook} has no parameter {name!r}; {nearest(name, declared)}")
    for name, parameter in declared.items():
        value = page[name]
        read = parse_value if isinstance(value, str) else check_value
        try:
            page[name] = read(parameter, value)
        except UserError as error:  # a number or truth value may have been "007", "1e5" or "NaN"
            raw = f"; papermill's -p turns texts into numbers: give {name} with -r"
            if isinstance(value, list | tuple):
                raw = "; names in a list are one text, separated by commas"
            raise UserError(f"{error}{raw * (parameter.type == 'str')}") from None
    return {name: page[name] for name in declared}


def _injected(page: Mapping[str, Any], declared: Mapping[str, Parameter]) -> list[str]:
    """The names that papermill set in a cell of its own, after the cell of parameters.

    IPython keeps the cells that were executed in `In`; papermill's begins with a comment.
    """
    cells = [str(cell) for cell in page.get("In", ())]
    own = re.compile("|".join(rf"^{name}\s*:" for name in declared) or "(?!)", re.MULTILINE)
    start = max((i for i, cell in enumerate(cells) if own.search(cell)), default=0)
    text = next((c for c in reversed(cells[start:]) if c.startswith("# Parameters\n")), "")
    targets = (node.targets for node in ast.parse(text).body if isinstance(node, ast.Assign))
    return [target.id for (target,) in targets if isinstance(target, ast.Name)]


def refuse_secret(name: str, value: Any) -> None:
    """Refuse what looks like a secret: parameters are printed in the executed notebook."""
    if _SECRET_VALUE.search(name) or _SECRET_NAME.search(name) or _SECRET_VALUE.search(str(value)):
        shown = "a parameter's name" if _SECRET_VALUE.search(name) else f"parameter {name!r}"
        raise UserError(
            f"{shown} looks like a secret, and parameters are printed in the "
            "notebook; put it into the environment instead (for example HF_TOKEN)"
        )


def _ascend_from_0(levels: list[float]) -> bool:
    ascend = len(levels) > 1 and levels[0] == 0 and levels == sorted(set(levels))
    return ascend and levels[-1] <= 1e6


# What a parameter must be wherever it occurs: at least a number, one of several values, or what is
# said in words. Names of rules and scores are copies, since nothing heavy is loaded here.
Limit = int | tuple[Any, ...] | dict[str, Callable[[Any], bool]]
_POSITIVE = {"above 0": lambda value: value > 0}
_RULES = ("relative", "exact", "effective", "participation", "stable")
_LIMITS: dict[str, Limit] = {
    "n_seeds": 2, "n_groups": 3, "n_random": 1, "n_bootstrap": 40, "n_walks": 1, "n_steps": 2,
    "n_umap_concepts": 0, "max_prompts": 0, "min_cluster_size": 2, "mse_weight": 0,
    "step": _POSITIVE, "replicates": 2, "null_draws": 2, "max_bias": _POSITIVE,
    "max_spread": _POSITIVE, "live_samples": 10_000, "live_strength": 0,
    "grouping": ("clusters", "entities"), "noise_scaling": ("relative", "absolute"),
    "dtype": ("float32", "bfloat16", "float16"), "seed": 0, "max_slots": 1, "n_downstream": 0,
    "massive": ("leave out", "keep"), "positions": ("content", "entity"), "rank_rule": _RULES,
    "rank_mode": (1, 2, 3),
    "function_words": {"none, or a language with a list, such as english or german":
                       lambda value: value in languages()},
    "concept": {
        "one name, or several different ones separated by commas":
            lambda value: 0 < len(set(names_in(value))) == len(names_in(value)),
    },
    "dose": {"above 1": lambda value: value > 1},
    "noise_levels": {"at least two numbers that ascend from 0, to 1e6 at most": _ascend_from_0},
    "tau": {"strictly between 0 and 1": lambda value: 0 < value < 1},
}  # fmt: skip
_LIMITS_OF_PAGES: dict[str, dict[str, Limit]] = {
    "beyond_language": {"n_per_class": 3},
    "cone_of_sspd_matrices": {"n": 3, "n_draws": 20},
    "differences": {"concept": {"one name": lambda value: len(names_in(value)) == 1}},
    "local_dimension": {"n_texts": 50, "n_neighbours": 3},
    "noise_and_rank": {"planted_rank": (1, 2, 3, 4, 5, 6), "width": 32, "n_draws": 50},
    "rank_rule_ablation": {
        "draws": 2, "n_points": 40,
        "score": (
            *(f"relative {threshold} range" for threshold in (0.01, 0.03, 0.1)),
            *(f"{rule} range" for rule in (*_RULES[1:], "permutation")),
            "TwoNN misfit", "MLE spread", "H0 gap",
            "clean relative rank", "clean effective rank", "clean participation",
        ),
    },
    "sparse_against_dense": {  # two slots leave the rank of mode 2 no room to vary
        "n_seeds": 1, "rank_rule": ("relative", "effective"), "rank_mode": (1, 3),
    },
    "unfolding_a_tensor": {"n_draws": 50, "n_masked": 4},
}  # fmt: skip


def check_limits(page: str, values: Mapping[str, Any]) -> None:
    """Refuse values that a page could not use, before anything is loaded."""
    for name, limit in (_LIMITS | _LIMITS_OF_PAGES.get(page, {})).items():
        if name not in values:
            continue
        value = values[name]
        if isinstance(limit, dict):
            ((expected, holds),) = limit.items()
            good = holds(value)
        elif isinstance(limit, tuple):
            expected, good = f"one of {', '.join(map(str, limit))}", value in limit
        else:
            expected, good = f"at least {limit}", value >= limit
        if not good:
            raise UserError(f"{name} must be {expected}, got {quoted(value)}")
