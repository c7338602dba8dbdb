"""Studies: many trainings, one result each, in one file that comes with the book.

A point is a frozen dataclass of plain values: all that its result depends on. Each result is a file
of its own in the work folder, so a study can be stopped at any time, and two calls share the work.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from saerepgeo_lib.errors import UserError, choose
from saerepgeo_lib.files import data_dir, held_lock, read_json, sha256_json, write_json

logger = logging.getLogger(__name__)

Do = Callable[[Any], dict[str, Any]]
STUDIES = {  # name: the module that has its STUDY; imported when it is wanted
    "separability": "saerepgeo_lib.separability_study",
    "sparse-dense": "saerepgeo_lib.sparse_dense",
    "vision": "saerepgeo_lib.vision_study",
}
TOLERANCE = 0.01  # relative difference up to which a repeated number counts as the same


@dataclass(frozen=True)
class Study:
    """Points, and `prepare(work, device)`, which gives the function from a point to its result.

    A result is a JSON object, the same on every call up to the rounding of the machine.
    """

    points: Sequence[Any]
    prepare: Callable[[Path, str], Do]


def study_file(name: str) -> Path:
    """Where the results of a study are that come with the book."""
    return data_dir() / "studies" / f"{name}.json"


def find_study(name: str) -> Study:
    """The study of that name. Raises UserError for an unknown one."""
    found = import_module(STUDIES[choose("study", name, STUDIES)]).STUDY
    assert isinstance(found, Study)
    return found


def read_study(path: Path) -> dict[str, Any]:
    """A file of results: "made with" (by the last call), and "points".

    A point has "point", "result", "seconds" and what it was "made with" itself.
    """
    record = read_json(path)
    if not isinstance(record, dict) or not record.get("points"):
        raise UserError(f"{path} has no results of a study; 'saerepgeo study NAME' makes them")
    return record


def run_study(name: str, study: Study, *, work: Path, out: Path, device: str) -> Path | None:
    """Do what has no result yet, then write all results to `out`.

    A point that another process holds is left to it; None if that leaves some without a result.
    """
    folder = work / "studies" / name
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{sha256_json(asdict(point))[:16]}.json" for point in study.points]
    made = {"torch": torch.__version__, "sae_lens": version("sae_lens"), "device": device}
    do: Do | None = None
    for point, file in zip(tqdm(study.points, desc=name, unit="point"), files, strict=True):
        with held_lock(file.with_suffix(".lock"), wait=False) as held:
            if not held or file.is_file():
                continue
            do = do or study.prepare(work, device)
            write_json(file, measured(point, do) | {"made with": made})
    if missing := sum(not file.is_file() for file in files):
        logger.info("%s: %d points are with another process", name, missing)
        return None
    write_json(out, {"made with": made, "points": [read_json(file) for file in files]})
    return out


def check_point(
    study: Study, number: int, *, recorded: Path, work: Path, device: str
) -> dict[str, float]:
    """Repeat one point of a file of results: how far each number is from the recorded one.

    Relative to the larger of both (numbers below 0.001 count as that), 0 if they are equal; words
    that differ are infinitely far.
    `number` counts from 0 in the file. Raises UserError for a point that is not in the file, or no
    longer in the study.
    """
    points = read_study(recorded)["points"]
    if not 0 <= number < len(points):
        raise UserError(f"{recorded} has points 0 to {len(points) - 1}, not {number}")
    known = points[number]
    point = next((p for p in study.points if asdict(p) == known["point"]), None)
    if point is None:
        raise UserError(f"the study has changed: point {number} of {recorded} is not in it now")
    before = dict(_numbers(known["result"]))
    after = dict(_numbers(measured(point, study.prepare(work, device))["result"]))
    if set(before) != set(after):
        raise UserError(
            f"the study has changed: {sorted(set(before) ^ set(after))} are in one only"
        )
    return {name: _apart(before[name], after[name]) for name in before}


def _numbers(result: Any, name: str = "") -> Iterator[tuple[str, float | str | None]]:
    """The numbers and words of a nested result, by the names and places that lead to them."""
    if not isinstance(result, dict | list):
        yield name, result
        return
    parts = result.items() if isinstance(result, dict) else enumerate(result)
    for key, value in parts:
        yield from _numbers(value, f"{name}: {key}" if name else str(key))


def _apart(a: float | str | None, b: float | str | None) -> float:
    if a == b:
        return 0.0
    if a is None or b is None or isinstance(a, str) or isinstance(b, str):
        return float("inf")
    return abs(a - b) / max(abs(a), abs(b), 1e-3)


def measured(point: Any, do: Do) -> dict[str, Any]:
    """A point with its result and the seconds that it took."""
    start = time.monotonic()
    result = do(point)
    return {"point": asdict(point), "result": result, "seconds": time.monotonic() - start}
