"""One table of the claims of many runs: records to Parquet, in two passes and little memory."""

import itertools
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.files import atomic_path, sha256_json
from saerepgeo_lib.record_files import CLAIM_FIELDS, RECORD_END, read_record

logger = logging.getLogger(__name__)

_BATCH = 5_000  # rows held at once
PARAMETER = "parameter "  # before a parameter's name in its column's
_ARROW: dict[type, pa.DataType] = {
    bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string(),
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

    One row a claim: `run` (its folder's name), `notebook`, `model` and `hook` (empty where a record
    does not state them), each parameter as `parameter NAME` (empty where a notebook has none of
    that name; lists, and parameters whose type differs between notebooks, as JSON), the claim,
    `device`, `seconds` (all stages), `peak_mib` and when the record was `written`. A broken record
    is logged and left out. Raises UserError if no record has a claim.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: give the one that 'saerepgeo sweep -o' wrote to")
    good, kinds, broken, seen = [], dict[str, set[type]](), 0, set()
    for path in sorted(folder.rglob(f"*{RECORD_END}")):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue  # a run that is not finished
        try:
            record = read_record(path)
        except UserError as error:
            broken += 1
            logger.warning("left out: %s", error)
            continue
        good.append(path)
        seen.add(
            sha256_json([record["notebook"], record["parameters"], record["run"]["device"]])
        )  # fmt: skip
        for name, value in record["parameters"].items():
            kinds.setdefault(name, set()).add(_kind(value))
    if not good:
        found = f"only broken records ({broken}, see above)" if broken else "no record of a run"
        raise UserError(
            f"{folder} holds {found}; 'saerepgeo sweep GRID -o {folder}' makes them"
        )  # fmt: skip
    rows = itertools.chain.from_iterable(_rows(path, kinds) for path in good)
    written = _write(rows, _schema(kinds), out)
    if not written:
        raise UserError(f"none of the {len(good)} records in {folder} has a claim: no table")
    return Collected(written, len(good), broken, len(good) - len(seen))


def _write(rows: Iterator[dict[str, Any]], schema: pa.Schema, out: Path) -> int:
    """Write rows batch by batch; nothing is left if there is none."""
    first = list(itertools.islice(rows, _BATCH))
    if not first:
        return 0
    written = 0
    with atomic_path(out) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        batch = first
        while batch:
            try:
                writer.write_table(pa.Table.from_pylist(batch, schema))
            except pa.ArrowException as error:
                names = sorted({str(row["run"]) for row in batch})[:3]
                raise UserError(
                    f"a record of {', '.join(names)}, ... does not fit: {error}"
                ) from None
            written += len(batch)
            batch = list(itertools.islice(rows, _BATCH))
    return written


def _kind(value: Any) -> type:
    """How a parameter is stored: as itself if it is a plain value, else as JSON text (list)."""
    if type(value) is int and not -(2**63) <= value < 2**63:
        return list
    return type(value) if type(value) in _ARROW else list


def _column(kinds: set[type]) -> type:
    if kinds == {int, float}:
        return float
    return next(iter(kinds)) if len(kinds) == 1 else list


def _schema(kinds: dict[str, set[type]]) -> pa.Schema:
    text, number, integer = _ARROW[str], _ARROW[float], _ARROW[int]
    parameters = [
        (f"{PARAMETER}{name}", _ARROW.get(_column(found), text))
        for name, found in sorted(kinds.items())
    ]
    claim = [
        (name, number if float in types else integer if int in types else text)
        for name, types in CLAIM_FIELDS.items()
    ]
    ends = [
        ("device", text), ("seconds", number), ("peak_mib", number),
        ("written", pa.timestamp("us", tz="UTC")),
    ]  # fmt: skip
    places = [("model", text), ("hook", text)]
    return pa.schema([("run", text), ("notebook", text), *places, *parameters, *claim, *ends])


def _rows(path: Path, kinds: dict[str, set[type]]) -> Iterator[dict[str, Any]]:
    """The rows of one record, which was whole when its columns were looked up."""
    record = read_record(path)
    parameters = {
        f"{PARAMETER}{name}": value
        if _column(kinds[name]) in _ARROW
        else json.dumps(value, ensure_ascii=False)
        for name, value in record["parameters"].items()
    }
    stages = record["run"]["stages"].values()
    subject = record["numbers"].get("subject")
    subject = subject if isinstance(subject, dict) else {}
    for claim in record["claims"]:
        numbers = {k: claim[k] for k in claim if float in CLAIM_FIELDS[k]}
        yield {
            "run": path.parent.name,
            "notebook": record["notebook"],
            "model": subject.get("model"),
            "hook": subject.get("hook"),
            **parameters,
            **claim,
            **{name: None if v is None else float(v) for name, v in numbers.items()},
            "device": record["run"]["device"],
            "seconds": float(sum(stage["seconds"] for stage in stages)),
            "peak_mib": float(max((s["process_peak_mib"] for s in stages), default=0)),
            "written": datetime.fromtimestamp(path.stat().st_mtime, UTC),
        }
