"""One table of the claims of many runs: records to Parquet, in two passes and little memory."""

import itertools
import json
import logging
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from saerepgeo_lib.companion.records import CLAIM_FIELDS, RECORD_END, read_record
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.files import atomic_path, sha256_json

logger = logging.getLogger(__name__)

_BATCH = 5_000  # rows held at once
PARAMETER = "parameter "  # before a parameter's name in its column's
_TEXT, _NUMBER = pa.string(), pa.float64()
_ARROW: dict[Any, pa.DataType] = {
    str: _TEXT, bool: pa.bool_(), int: pa.int64(), float: _NUMBER, float | None: _NUMBER,
}  # fmt: skip


@dataclass(frozen=True)
class Collected:
    """Size of a table of claims, and how many records were too broken to be in it.

    `alike` runs have the notebook, parameters and device of another: they were made by another
    version of the library, of the data or of a package.
    """

    rows: int
    runs: int
    broken: int
    alike: int


def collect(folder: Path, out: Path) -> Collected:
    """Write the claims of all finished runs below `folder` to the Parquet file `out`, atomically.

    One row per claim: `run` (its folder's name), `notebook`, `model` and `hook` (empty where a
    record does not state them), each parameter as `parameter NAME` (empty where a notebook has none
    of that name; lists, and parameters whose type differs between notebooks, as JSON), the claim,
    `device`, `seconds` (all stages), `peak_mib` and when the record was `written`. A broken record
    is logged and left out. Raises UserError if no record has a claim.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: give the one that 'saerepgeo sweep -o' wrote to")
    good, broken, different = [], 0, set()
    types: dict[str, set[type]] = defaultdict(set)
    for path in sorted(folder.rglob(f"*{RECORD_END}")):
        if any(name.startswith(".") for name in path.relative_to(folder).parts):
            continue  # a run that is not finished
        try:
            record = read_record(path)
        except UserError as error:
            broken += 1
            logger.warning("left out: %s", error)
            continue
        good.append(path)
        same = [record["notebook"], record["parameters"], record["run"]["device"]]
        different.add(sha256_json(same))
        for name, value in record["parameters"].items():
            too_large = type(value) is int and not -(2**63) <= value < 2**63
            types[name].add(object if too_large else type(value))
    if not good:
        held = f"only broken records ({broken}, see above)" if broken else "no record of a run"
        raise UserError(f"{folder} holds {held}; 'saerepgeo sweep GRID -o {folder}' makes them")
    rows = _write(good, {name: _column(types[name]) for name in sorted(types)}, out)
    return Collected(rows, len(good), broken, len(good) - len(different))


def _column(types: set[type]) -> pa.DataType | None:
    """How a parameter with values of these types is stored: as itself, or (None) as JSON."""
    if types == {int, float}:
        return _NUMBER
    return _ARROW.get(*types) if len(types) == 1 else None


def _write(records: list[Path], columns: dict[str, pa.DataType | None], out: Path) -> int:
    """Write the records' rows batch by batch, and say how many they were."""
    schema = pa.schema(
        [
            *((name, _TEXT) for name in ("run", "notebook", "model", "hook")),
            *((f"{PARAMETER}{name}", kind or _TEXT) for name, kind in columns.items()),
            *((name, _ARROW.get(kind, _TEXT)) for name, kind in CLAIM_FIELDS.items()),
            ("device", _TEXT), ("seconds", _NUMBER), ("peak_mib", _NUMBER),
            ("written", pa.timestamp("us", tz="UTC")),
        ]
    )  # fmt: skip
    rows, written = itertools.chain.from_iterable(_rows(path, columns) for path in records), 0
    with atomic_path(out) as new:
        with pq.ParquetWriter(new, schema) as writer:
            while batch := list(itertools.islice(rows, _BATCH)):
                try:
                    writer.write_table(pa.Table.from_pylist(batch, schema))
                except pa.ArrowException as error:
                    first, last = batch[0]["run"], batch[-1]["run"]
                    text = f"a record from {first} to {last} does not fit: {error}"
                    raise UserError(text) from None
                written += len(batch)
        if not written:
            raise UserError(f"none of the {len(records)} records has a claim: no table")
    return written


def _rows(path: Path, columns: dict[str, pa.DataType | None]) -> Iterator[dict[str, Any]]:
    """The rows of one record, which was whole when its columns were looked up."""
    record = read_record(path)
    model, stages = record["numbers"].get("model"), record["run"]["stages"].values()
    common = {
        "run": path.parent.name,
        "notebook": record["notebook"],
        "device": record["run"]["device"],
        "seconds": float(sum(stage["seconds"] for stage in stages)),
        "peak_mib": float(max((stage["process_peak_mib"] for stage in stages), default=0)),
        "written": datetime.fromtimestamp(path.stat().st_mtime, UTC),
    }
    if isinstance(model, dict):
        common |= {name: model.get(name) for name in ("model", "hook")}
    for name, value in record["parameters"].items():
        as_text = json.dumps(value, ensure_ascii=False)
        common[f"{PARAMETER}{name}"] = value if columns[name] else as_text
    return (common | claim for claim in record["claims"])
