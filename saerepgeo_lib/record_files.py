"""Records as read back from disk: checked whole, or refused. No numerical library is loaded."""

from pathlib import Path
from typing import Any

from saerepgeo_lib.errors import UserError, quoted
from saerepgeo_lib.files import read_json

RECORD_VERSION = 1
RECORD_END = ".record.json"
CLAIM_FIELDS: dict[str, tuple[type, ...]] = {  # of claims.Claim; undefined numbers are null
    "id": (str,),
    "subject": (str,),
    "statistic": (str,),
    "value": (float, int, type(None)),
    "low": (float, int, type(None)),
    "high": (float, int, type(None)),
    "p": (float, int, type(None)),
    "n": (int,),
    "verdict": (str,),
}
_PARTS: dict[str, type] = {
    "version": int, "notebook": str, "parameters": dict, "seeds": list, "claims": list,
    "numbers": dict, "tables": dict, "run": dict,
}  # fmt: skip


def read_record(path: Path) -> dict[str, Any]:
    """A run's record; a UserError says what is wrong with one that is cut short or foreign.

    A record of another RECORD_VERSION is refused: its fields may mean something else.
    """
    record = read_json(path)
    if not isinstance(record, dict):
        raise UserError(f"{path} is no record: expected an object, got {quoted(record)}")
    version = record.get("version")
    if type(version) is not int or version != RECORD_VERSION:
        raise UserError(
            f"{path} is a record of version {quoted(version)}, expected {RECORD_VERSION}; "
            "run its notebook again"
        )
    _check(record, _PARTS, path)
    for i, claim in enumerate(record["claims"]):
        _check_claim(claim, f"{path}: claim {i}")
    run = record["run"]
    _check(run, {"device": str, "stages": dict}, f"{path}: run")
    for name, stage in run["stages"].items():
        place = f"{path}: run.stages.{name}"
        if not isinstance(stage, dict):
            raise UserError(f"{place}: expected an object, got {quoted(stage)}")
        for key in ("seconds", "process_peak_mib"):
            if not _is(stage.get(key), (int, float)) or stage[key] < 0:
                raise UserError(f"{place}.{key}: expected a number, got {quoted(stage.get(key))}")
    return record


def _check(value: dict[str, Any], parts: dict[str, type], where: Path | str) -> None:
    for key, kind in parts.items():
        if key not in value:
            raise UserError(f"{where} has no {key!r}; it is cut short or no record")
        if not _is(value[key], (kind,)):
            raise UserError(f"{where}.{key}: expected {kind.__name__}, got {quoted(value[key])}")


def _check_claim(claim: Any, where: str) -> None:
    if not isinstance(claim, dict) or set(claim) != set(CLAIM_FIELDS):
        raise UserError(
            f"{where}: expected the keys {', '.join(CLAIM_FIELDS)}, got {quoted(claim)}"
        )
    for key, kinds in CLAIM_FIELDS.items():
        if not _is(claim[key], kinds):
            expected = " or ".join("null" if k is type(None) else k.__name__ for k in kinds)
            raise UserError(f"{where}.{key}: expected {expected}, got {quoted(claim[key])}")


def _is(value: Any, kinds: tuple[type, ...]) -> bool:
    """isinstance, where true is no number and an integer fits 64 bits."""
    if type(value) is int and not -(2**63) <= value < 2**63:
        return False
    return isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
