"""Studies: many trainings, one result each, in one file that comes with the book.

A point is a frozen dataclass of all that its result depends on. Each result is first a file of its
own in the work folder, so a study can be stopped at any time, and two calls share the work.
"""

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.files import (
    data_dir,
    held_lock,
    read_json,
    sha256_json,
    write_json,
    write_text,
)

logger = logging.getLogger(__name__)

Do = Callable[[Any], dict[str, Any]]
TOLERANCE = 0.01  # relative difference up to which a repeated number counts as the same


@dataclass(frozen=True)
class Study:
    """Points, and `prepare(work, device)`, which gives the function from a point to its result."""

    points: Sequence[Any]
    prepare: Callable[[Path, str], Do]


def study_file(name: str) -> Path:
    """The file of a study's results that comes with the book."""
    return data_dir() / "studies" / f"{name}.json"


def read_study(path: Path | str) -> dict[str, Any]:
    """A file of results, or those of the book by name: "made with" (by the last call), "points".

    A point has "point", "result", "seconds" and what it was "made with" itself.
    """
    record = read_json(path if isinstance(path, Path) else study_file(path))
    if not isinstance(record, dict) or not record.get("points"):
        raise UserError(f"{path} has no results of a study; 'saerepgeo study NAME' makes them")
    return record


def run_study(name: str, study: Study, *, work: Path, out: Path, device: str) -> Path | None:
    """Do what has no result yet, then write all results to `out`.

    A point that another process holds is left to it; None if that leaves some without a result.
    """
    import torch  # who only reads results has no need of it

    folder = work / "studies" / name
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{sha256_json(asdict(point))[:16]}.json" for point in study.points]
    made = {"torch": torch.__version__, "sae_lens": version("sae_lens"), "device": device}
    do: Do | None = None
    for point, file in zip(tqdm(study.points, desc=name, unit="point"), files, strict=True):
        with held_lock(file.with_suffix(".lock"), wait=False) as held:
            if held and not file.is_file():
                do = do or study.prepare(work, device)
                write_json(file, measured(point, do) | {"made with": made})
    if missing := sum(not file.is_file() for file in files):
        logger.info("%s: %d points are with another process", name, missing)
        return None
    points = ",\n".join(json.dumps(read_json(file), ensure_ascii=False) for file in files)
    head = json.dumps(made, ensure_ascii=False)
    write_text(out, f'{{"made with": {head}, "points": [\n{points}\n]}}\n')  # a line per point
    return out


def measured(point: Any, do: Do) -> dict[str, Any]:
    """A point with its result and the seconds that it took."""
    start = time.monotonic()
    result = do(point)
    return {"point": asdict(point), "result": result, "seconds": time.monotonic() - start}


def check_point(
    study: Study, number: int, *, recorded: Path, work: Path, device: str
) -> dict[str, float]:
    """Repeat one point of a file of results: how far each number is from the recorded one.

    Relative to the larger of both (numbers below 0.001 count as that), 0 if they are equal; words
    that differ are infinitely far. `number` counts from 0 in the file. Raises UserError for a point
    that is not in the file, or no longer in the study.
    """
    points = read_study(recorded)["points"]
    if not 0 <= number < len(points):
        raise UserError(f"{recorded} has points 0 to {len(points) - 1}, not {number}")
    known = points[number]
    point = next((p for p in study.points if asdict(p) == known["point"]), None)
    if point is None:
        raise UserError(f"the study has changed: point {number} of {recorded} is not in it now")
    before = _flat(known["result"])
    after = _flat(study.prepare(work, device)(point))
    if different := sorted(set(before) ^ set(after)):
        raise UserError(f"the study has changed: {different} are in one only")
    return {name: _apart(before[name], after[name]) for name in before}


def _flat(result: Any, name: str = "") -> dict[str, Any]:
    """The numbers and words of a nested result, by the names and places that lead to them."""
    if not isinstance(result, dict | list):
        return {name: result}
    items = result.items() if isinstance(result, dict) else enumerate(result)
    nested = (_flat(value, f"{name}: {key}" if name else str(key)) for key, value in items)
    return {key: value for values in nested for key, value in values.items()}


def _apart(a: float | str | None, b: float | str | None) -> float:
    if a == b:
        return 0.0
    if isinstance(a, float | int) and isinstance(b, float | int):
        return abs(a - b) / max(abs(a), abs(b), 1e-3)
    return float("inf")
