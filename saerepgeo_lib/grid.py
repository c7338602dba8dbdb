"""Grid files: which notebooks a sweep runs, with which parameters.

    notebook: stratified_manifold            # or a list of names
    fixed: {n_seeds: 7}                      # one value, in every run
    grid:                                    # every combination of these
      concept: [months, days]
      noise_levels: [[0, 1], [0, 0.5, 1]]    # a list parameter's points are lists
    runs:                                    # sets of values, each at every point of the grid
      - {preset: minilm, device: cpu}
      - {preset: gpt2-small, device: cuda}

Everything is checked before anything runs. Of several notebooks each takes the parameters that
it has.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saerepgeo_lib.errors import UserError, nearest, quoted
from saerepgeo_lib.files import sha256_json
from saerepgeo_lib.notebooks import find_notebook, read_parameters
from saerepgeo_lib.parameters import Parameter, check_value, refuse_secret
from saerepgeo_lib.strict_yaml import parse_yaml

_KEYS = ("notebook", "fixed", "grid", "runs")
_Declared = dict[str, Parameter]


@dataclass(frozen=True)
class Point:
    """One run of a sweep: a notebook's source and the parameters that are not left as they are."""

    source: Path
    parameters: dict[str, Any]


@dataclass(frozen=True)
class _Part:
    """A notebook's share of a grid: `sets` of values times the product of `axes`."""

    source: Path
    fixed: dict[str, Any]
    sets: list[dict[str, Any]]
    axes: dict[str, list[Any]]


@dataclass(frozen=True)
class Grid:
    """The runs of a grid file; iteration makes them one at a time."""

    path: Path
    parts: tuple[_Part, ...]

    @property
    def n_runs(self) -> int:
        """Number of runs, counted without making them."""
        return sum(
            len(part.sets) * math.prod(len(axis) for axis in part.axes.values())
            for part in self.parts
        )

    def __iter__(self) -> Iterator[Point]:
        for part in self.parts:
            for values in part.sets:
                for choice in itertools.product(*part.axes.values()):
                    varied = dict(zip(part.axes, choice, strict=True))
                    yield Point(part.source, part.fixed | values | varied)


def read_grid(path: Path) -> Grid:
    """Read and check a grid file; a UserError names the place of the first mistake."""
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no such file: {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected the keys {', '.join(_KEYS)}, got {_kind(content)}")
    for key in content:
        if key not in _KEYS:
            raise UserError(f"{path}: unknown key {key!r}; {nearest(key, _KEYS)}")
    notebooks = _notebooks(content.get("notebook"), path)
    declared = {source: read_parameters(source) for source in notebooks}
    fixed = _mapping(content.get("fixed", {}), f"{path}: fixed")
    axes = _mapping(content.get("grid", {}), f"{path}: grid")
    sets = content.get("runs", [{}])
    if not isinstance(sets, list) or not sets:
        raise UserError(
            f"{path}: runs: expected a list of sets of values, "
            f"- {{name: value, ...}}, got {_kind(sets)}"
        )
    places = {f"{path}: runs[{i}]": _mapping(s, f"{path}: runs[{i}]") for i, s in enumerate(sets)}
    _check_names({f"{path}: fixed": fixed, f"{path}: grid": axes} | places, declared)
    for name, axis in axes.items():
        if not isinstance(axis, list) or not axis:
            raise UserError(
                f"{path}: grid.{name}: expected a list of at least one value, got {_kind(axis)}; "
                "a single value goes under 'fixed'"
            )
    return Grid(path, tuple(_part(s, d, fixed, axes, places, path) for s, d in declared.items()))


def _notebooks(value: Any, path: Path) -> list[Path]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise UserError(
            f"{path}: notebook: expected a notebook's name or a list of names, got {_kind(value)}"
        )
    try:
        return list(dict.fromkeys(find_notebook(name).resolve() for name in names))
    except UserError as error:
        raise UserError(f"{path}: notebook: {error}") from None


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected parameters, name: value, got {_kind(value)}")
    return value


def _check_names(places: dict[str, dict[str, Any]], declared: dict[Path, _Declared]) -> None:
    """Every parameter is known to a notebook, is no secret, and has one place that sets it."""
    known = {name for parameters in declared.values() for name in parameters}
    first: dict[str, str] = {}
    for place, values in places.items():
        kind = place.rpartition("[")[0] or place  # the sets under `runs` count as one place
        for name, value in values.items():
            try:
                refuse_secret(name, value)
            except UserError as error:
                raise UserError(f"{place}: {error}") from None
            if name not in known:
                raise UserError(f"{place}: unknown parameter {name!r}; {nearest(name, known)}")
            if first.setdefault(name, kind) != kind:
                raise UserError(
                    f"{place}: parameter {name!r} stands in {first[name]} too; leave one of them"
                )


def _part(
    source: Path,
    declared: _Declared,
    fixed: dict[str, Any],
    axes: dict[str, list[Any]],
    sets: dict[str, dict[str, Any]],
    path: Path,
) -> _Part:
    """What one notebook takes of a grid, checked against its types; equal runs are one."""
    defaults = {n: check_value(p, p.default) for n, p in declared.items()}
    taken = [_checked(values, declared, place) for place, values in sets.items()]
    return _Part(
        source,
        _checked(fixed, declared, f"{path}: fixed"),
        list({_identity(defaults | values): values for values in reversed(taken)}.values())[::-1],
        {
            name: list({_identity(v): v for v in _points(declared[name], axis, path)}.values())
            for name, axis in axes.items()
            if name in declared
        },
    )


def _identity(value: Any) -> str:
    return sha256_json(value)


def _checked(values: dict[str, Any], declared: _Declared, place: str) -> dict[str, Any]:
    out = {}
    for name, value in values.items():
        if name in declared:
            try:
                out[name] = check_value(declared[name], value)
            except UserError as error:
                raise UserError(f"{place}: {error}") from None
    return out


def _points(parameter: Parameter, axis: list[Any], path: Path) -> Iterator[Any]:
    for i, value in enumerate(axis):
        try:
            yield check_value(parameter, value)
        except UserError as error:
            hint = ""
            if parameter.type.startswith("list[") and not isinstance(value, list):
                hint = f"; each point of this axis is a list, so write {parameter.name}: [[...]]"
            raise UserError(f"{path}: grid.{parameter.name}[{i}]: {error}{hint}") from None


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, (dict, list)):
        return ("a " if value else "an empty ") + ("list" if isinstance(value, list) else "mapping")
    return quoted(value)
