"""Grid files: which notebooks a sweep runs, with which parameters.

notebook = "stratified_manifold"         # or a list of names, each takes what it has
fixed.n_seeds = 7                        # one value, in every run
[grid]                                   # every combination of these
concept = ["months", "days"]
noise_levels = [[0, 1], [0, 0.5, 1]]     # a list parameter's points are lists
[[runs]]                                 # sets of values, each at every point of the grid
preset = "minilm"
device = "cpu"
"""

import itertools
import math
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from saerepgeo_lib.companion.inputs import TOGETHER, check_inputs
from saerepgeo_lib.companion.notebooks import find_notebook, read_parameters
from saerepgeo_lib.companion.parameters import Parameter, check_limits, check_value, refuse_secret
from saerepgeo_lib.errors import UserError, explained, nearest
from saerepgeo_lib.files import read_as, sha256_json

_Values = dict[str, Any]
_Declared = dict[str, Parameter]
_HINTS = {
    "notebook": "; expected a notebook's name or a list of names",
    "grid": "; expected a list of at least one value; a single value goes under [fixed]",
    "runs": "; expected sets of values, each under [[runs]]",
}


def _as_list(names: Any) -> Any:
    return [names] if isinstance(names, str) else names


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    notebook: Annotated[list[str], Field(min_length=1), BeforeValidator(_as_list)]
    fixed: _Values = {}
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    runs: Annotated[list[_Values], Field(min_length=1)] = [{}]

    @property
    def given(self) -> Iterator[tuple[str, str, str, Any]]:
        """Every value: its section of the file, its place there, its name, and itself."""
        yield from (("fixed", "", name, value) for name, value in self.fixed.items())
        for name, axis in self.grid.items():
            yield from (("grid", f".{name}[{i}]", name, value) for i, value in enumerate(axis))
        for i, values in enumerate(self.runs):
            yield from (("runs", f"[{i}]", name, value) for name, value in values.items())


@dataclass(frozen=True)
class Point:
    """One run of a sweep: a notebook's source and the parameters that are not left as they are."""

    source: Path
    parameters: _Values


@dataclass(frozen=True)
class Grid:
    """The runs of a grid file, made one at a time: a set of values from each of the axes."""

    path: Path
    axes: dict[Path, list[list[_Values]]]

    @property
    def n_runs(self) -> int:
        """Number of runs, counted without making them."""
        return sum(math.prod(map(len, axes)) for axes in self.axes.values())

    def __iter__(self) -> Iterator[Point]:
        for source, axes in self.axes.items():
            for choice in itertools.product(*axes):
                yield Point(source, {k: v for values in choice for k, v in values.items()})


def read_grid(path: Path) -> Grid:
    """Read and check a grid file; a UserError names the place of the first mistake."""
    content = read_as("TOML", path, tomllib.loads)
    try:
        file = _File.model_validate(content)
    except ValidationError as error:
        hint = _HINTS.get(str(error.errors()[0]["loc"][0]), "")
        raise UserError(f"{explained(error, path, fields=_File.model_fields)}{hint}") from None
    section, place = "notebook", ""
    try:
        sources = [find_notebook(name).resolve() for name in file.notebook]
        declared = {source: read_parameters(source) for source in sources}
        owners: dict[str, str] = {}
        for section, place, name, value in file.given:  # noqa: B007 (the error names it)
            _check(name, value, list(declared.values()), axis=section == "grid")
            if owners.setdefault(name, section) != section:
                raise UserError(f"parameter {name!r} stands in {owners[name]} too; leave one")
    except UserError as error:
        raise UserError(f"{path}: {section}{place}: {error}") from None
    grid = Grid(path, {source: _axes(file, parameters) for source, parameters in declared.items()})
    for source, axes in grid.axes.items():
        defaults = {name: p.default for name, p in declared[source].items()}
        _check_together(grid.path, source.stem, defaults, axes)
    return grid


def _check_together(path: Path, page: str, defaults: _Values, axes: list[list[_Values]]) -> None:
    """Refuse a grid with a point that its page could not use, so far as values and files tell."""

    def shared(point: _Values) -> _Values:
        return {name: value for name, value in point.items() if name in TOGETHER}

    few = [{sha256_json(shared(point)): shared(point) for point in axis}.values() for axis in axes]
    alone = (point for axis in axes for point in axis)
    together = (
        {k: v for part in choice for k, v in part.items()} for choice in itertools.product(*few)
    )
    for check, points in ((check_limits, alone), (check_inputs, together)):
        for point in points:
            try:
                check(page, defaults | point)
            except UserError as error:
                raise UserError(f"{path}: {page} with {point}: {error}") from None


def _check(name: str, value: Any, declared: list[_Declared], *, axis: bool) -> None:
    """Refuse a secret, and a value that no notebook takes or one of them cannot take."""
    refuse_secret(name, value)
    owners = [parameters[name] for parameters in declared if name in parameters]
    if not owners:
        raise UserError(f"unknown parameter {name!r}; {nearest(name, set().union(*declared))}")
    for parameter in owners:
        if axis and parameter.type.startswith("list[") and not isinstance(value, list):
            raise UserError(f"each point of this axis is a list, so write {name} = [[...]]")
        check_value(parameter, value)


def _axes(file: _File, declared: _Declared) -> list[list[_Values]]:
    """What a notebook takes of a grid; values that are equal, perhaps by default, count once."""

    def taken(values: _Values) -> _Values:
        return {n: check_value(declared[n], value) for n, value in values.items() if n in declared}

    defaults = taken({name: p.default for name, p in declared.items()})
    sets = [taken(file.fixed | values) for values in file.runs]
    axes = [
        [taken({name: value}) for value in values]
        for name, values in file.grid.items()
        if name in declared
    ]
    return [
        list({sha256_json(defaults | point): point for point in axis}.values())
        for axis in (sets, *axes)
    ]
