"""Studies: many trainings, one result each, in one file that comes with the book.

A point is a frozen dataclass of plain values: all that its result depends on. Each result is a file
of its own in the work folder, so a study can be stopped at any time, and two calls share the work.
"""

import logging
import time
from collections.abc import Callable, Sequence
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
STUDIES: dict[str, str] = {  # name: the module that has its STUDY; imported when it is wanted
    "vision": "saerepgeo_lib.vision_study",
}


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
    """A file of results: "made with", and "points" of "point", "result", "seconds"."""
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
    do: Do | None = None
    for point, file in zip(tqdm(study.points, desc=name, unit="point"), files, strict=True):
        with held_lock(file.with_suffix(".lock"), wait=False) as held:
            if not held or file.is_file():
                continue
            do = do or study.prepare(work, device)
            write_json(file, measured(point, do))
    if missing := sum(not file.is_file() for file in files):
        logger.info("%s: %d points are with another process", name, missing)
        return None
    made = {"torch": torch.__version__, "sae_lens": version("sae_lens"), "device": device}
    write_json(out, {"made with": made, "points": [read_json(file) for file in files]})
    return out


def measured(point: Any, do: Do) -> dict[str, Any]:
    """A point with its result and the seconds that it took."""
    start = time.monotonic()
    result = do(point)
    return {"point": asdict(point), "result": result, "seconds": time.monotonic() - start}
