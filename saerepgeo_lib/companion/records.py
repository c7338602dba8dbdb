"""The one machine-readable record that an executed notebook leaves, written and read back.

No numerical library is loaded here: tables are asked for their values, whatever they are.
"""

import importlib.metadata
import math
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from pydantic import ConfigDict, Field, FiniteFloat, ValidationError, create_model

from saerepgeo_lib.companion.parameters import check_limits, take_values
from saerepgeo_lib.errors import UserError, explained, quoted
from saerepgeo_lib.files import read_json, write_json
from saerepgeo_lib.stats.claims import Claim

RECORD_VERSION = 3  # 3: a claim has a reason
RECORD_END = ".record.json"
RECORD_VARIABLE = "SAEREPGEO_RECORD"  # tells the running notebook where its record goes
CLAIM_FIELDS: dict[str, Any] = get_type_hints(Claim)  # the type of each
_PACKAGES = (
    "saerepgeo-lib", "torch", "numpy", "scipy", "scikit-learn", "pandas", "transformers",
    "transformer-lens", "sae-lens", "papermill", "jupytext",
)  # fmt: skip


def _form(name: str, **fields: Any) -> Any:
    """A model that knows all keys and converts nothing."""
    config = ConfigDict(extra="forbid", frozen=True, strict=True)
    return create_model(name, __config__=config, **fields)


_NUMBER = FiniteFloat | None  # undefined numbers are null
_INTEGER = Annotated[int, Field(ge=-(2**63), lt=2**63)]
_STORED = {float: _NUMBER, float | None: _NUMBER, int: _INTEGER}
_MEASURED = Annotated[FiniteFloat, Field(ge=0)]
_Claim = _form("Claim", **{name: _STORED.get(kind, kind) for name, kind in CLAIM_FIELDS.items()})
_Stage = _form("Stage", seconds=_MEASURED, process_peak_mib=_MEASURED)
_Run = _form("Run", device=str, versions=(dict[str, str], {}), stages=dict[str, _Stage])
_Record = _form(
    "Record", version=int, notebook=str, parameters=dict[str, Any], seeds=list[int],
    claims=list[_Claim], numbers=dict[str, Any], tables=dict[str, dict[str, list[Any]]],
    run=_Run,  # what the same parameters and seeds do not reproduce
)  # fmt: skip


class _Kept(dict[str, Any]):
    """What a record holds by name; what no record can hold is refused when it is assigned."""

    def __init__(self, form: Callable[[Any, str], Any], given: Mapping[str, Any]) -> None:
        super().__init__()
        self.form = form
        self |= given

    def __setitem__(self, name: str, value: Any) -> None:
        self.form(value, quoted(name))
        super().__setitem__(name, value)

    def __ior__(self, given: Any) -> "_Kept":  # type: ignore[override, misc]
        for name, value in dict(given).items():
            self[name] = value
        return self

    def as_json(self) -> dict[str, Any]:
        return {str(name): self.form(value, quoted(name)) for name, value in self.items()}


@dataclass
class Record:
    """Everything a run leaves for machines; `write` makes it one JSON file.

    Values that no record can hold are refused when they are assigned to `numbers` or `tables`, not
    when the run ends; undefined and infinite numbers, and missing values, become null.
    """

    notebook: str
    parameters: dict[str, Any]
    seeds: list[int]
    device: str
    claims: list[Claim] = field(default_factory=list)
    tables: dict[str, Any] = field(default_factory=dict)  # pandas.DataFrame
    numbers: dict[str, Any] = field(default_factory=dict)
    stages: dict[str, dict[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tables = _Kept(_columns, self.tables)
        self.numbers = _Kept(_plain, self.numbers)

    @classmethod
    def start(
        cls, notebook: str, page: MutableMapping[str, Any], *, seeds: Sequence[int] | None = None
    ) -> "Record":
        """The record of a page, from its variables (`globals()`).

        Its parameters are those of `take_values`; seeds are those given, else `seed` and the next
        `n_seeds`, if the page has them. The page's `device` chooses where to compute, and is not
        kept among the parameters. Raises UserError for unknown names, and for values that the page
        could not use.
        """
        given = take_values(notebook, page)
        check_limits(notebook, given)
        if seeds is None:
            first = given.get("seed")
            seeds = [] if first is None else range(first, first + given.get("n_seeds", 1))
        device = given.pop("device", "cpu")
        if device != "cpu":
            from saerepgeo_lib.activations.models import best_device

            device = best_device(device)
        return cls(notebook, given, list(seeds), device)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage, and note the process' peak memory at its end."""
        if name in self.stages:
            raise UserError(f"the record has a stage {name!r} already")
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        scale = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB on Linux
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale
        self.stages[name] = {"seconds": round(seconds, 3), "process_peak_mib": round(peak)}

    def write(self, path: Path | None = None) -> None:
        """Write the record, by default to where the runner asks for it, or beside the notebook."""
        record = {
            "version": RECORD_VERSION, "notebook": self.notebook, "seeds": self.seeds,
            "parameters": _plain(self.parameters, "parameters"),
            "claims": _plain([asdict(claim) for claim in self.claims], "claims"),
            "numbers": _Kept(_plain, self.numbers).as_json(),
            "tables": _Kept(_columns, self.tables).as_json(),
            "run": {"device": self.device, "versions": _versions(), "stages": self.stages},
        }  # fmt: skip
        default = os.environ.get(RECORD_VARIABLE, f"{self.notebook}{RECORD_END}")
        write_json(path or Path(default), _checked(record, f"the record of {self.notebook}"))


def read_record(path: Path) -> dict[str, Any]:
    """A run's record; a UserError says what is wrong with one that is cut short or foreign.

    A record of another RECORD_VERSION is refused: its fields may mean something else.
    """
    record = read_json(path)
    version = record.get("version") if isinstance(record, dict) else RECORD_VERSION
    if type(version) is not int or version != RECORD_VERSION:
        raise UserError(
            f"{path} is a record of version {quoted(version)}, expected {RECORD_VERSION}; "
            "run its notebook again"
        )
    return _checked(record, path)


def _checked(record: Any, where: Path | str) -> dict[str, Any]:
    try:
        _Record.model_validate(record)
    except ValidationError as error:
        raise explained(error, where, fields=_Record.model_fields) from None
    return dict(record)


def _versions() -> dict[str, str]:
    """Python's version and those of the packages that compute."""
    installed = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed[name] = "not installed"
    return installed


def _plain(value: Any, where: str) -> Any:
    """A value as JSON: what is undefined, infinite or missing as null, arrays as lists.

    Raises UserError, with the place `where`, for what JSON cannot say.
    """
    if isinstance(value, Mapping):
        out = {_key(name, where): _plain(v, f"{where}: {name!r}") for name, v in value.items()}
        if len(out) < len(value):
            raise UserError(f"two names of a record are the same as text, at {where}: {list(out)}")
        return out
    if isinstance(value, list | tuple):
        return [_plain(v, where) for v in value]
    if hasattr(value, "tolist") and not isinstance(value, type):  # an array, or one number of it
        return _plain(value.tolist(), where)
    if value is None or type(value).__name__ in ("NAType", "NaTType"):  # pandas' missing values
        return None
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return value.encode(errors="replace").decode()  # half a character cannot be written
    if isinstance(value, date | timedelta):
        return str(value)
    raise UserError(
        f"a record cannot hold {quoted(value)} ({type(value).__name__}, at {where}): give numbers, "
        "texts, dates, None, or lists, arrays and dictionaries of them"
    )


def _key(name: Any, where: str) -> str:
    """The name of a value in a JSON object."""
    name = name.tolist() if hasattr(name, "tolist") else name
    if not isinstance(name, str | int | float):
        raise UserError(f"a name in a record is a text or a number, got {quoted(name)} at {where}")
    return str(_plain(name, where) if isinstance(name, str) else name)


def _columns(table: Any, where: str) -> dict[str, Any]:
    """A table (pandas) as lists by column."""
    if not hasattr(table, "columns") or len(set(map(str, table.columns))) < len(table.columns):
        raise UserError(
            f"record.tables[{where}] must be a table whose columns have different names, "
            f"got {getattr(table, 'columns', type(table))}"
        )
    return {str(name): _plain(table[name], f"{where}: {name!r}") for name in table.columns}
