"""The guard: which stages got slower since the stored record, in units of the machine's own rate.

    python -m benchmarks.compare FRESH.json [--stored benchmarks/results/cpu.json]

Compared is time x rate of the square matrix product measured just before the stage (GFLOP), never
raw seconds. A stage is slower if its median is more than `TOLERANCE` times the stored one and not
even its fastest round is as fast as the slowest stored one. Exits 1 if any is. Programs beside it
slow a stage down more than the product: the guard says where there were any. Of another processor
or number of cores or threads than the stored record's there is no verdict: not all of a stage is
products. Other versions of Python and torch are named. What others take of a shared host, nothing
here sees: what is slower in one run only is no finding.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measure import DISTURBED

TOLERANCE = 1.3
_LONG = 1.0  # seconds from which that can be told
AGAIN = "Run it again before you look for a cause: a shared host can be slow for minutes."
STORED = Path(__file__).parent / "results" / "cpu.json"
Key = tuple[str, str, str, str]  # shape, stage, device, precision
HARDWARE = ("cpu", "cores", "threads", "device", "gpu")


def read_stages(path: Path) -> dict[Key, dict[str, Any]]:
    """The stages of a record of `everything` or of pytest-benchmark."""
    record = json.loads(path.read_text())
    rows = (
        record["stages"]
        if "stages" in record
        else [benchmark["extra_info"] for benchmark in record["benchmarks"]]
    )
    names = ("shape", "stage", "device", "precision")
    return {tuple(row[name] for name in names): row for row in rows if "gflop" in row}


def read_machine(path: Path) -> dict[str, Any]:
    """The machine that a record names, empty if it names none."""
    record = json.loads(path.read_text())
    if "benchmarks" not in record:
        return record.get("machine") or {}
    found = (row["extra_info"].get("machine") for row in record["benchmarks"])
    return next(found, None) or {}


def differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> dict[str, str]:
    """In what two machines differ, and how, by name."""
    return {
        name: f"{name} {there.get(name)}, here {here.get(name)}"
        for name in sorted({*here, *there})
        if here.get(name) != there.get(name)
    }


def is_slower(fresh: list[float], stored: list[float], tolerance: float = TOLERANCE) -> bool:
    """Whether the median grew beyond the tolerance, and no round of one is among the other's."""
    return median(fresh) > tolerance * median(stored) and min(fresh) > max(stored)


def compared(
    fresh: Mapping[Key, dict[str, Any]],
    stored: Mapping[Key, dict[str, Any]],
    tolerance: float = TOLERANCE,
) -> list[dict[str, Any]]:
    """A row for each stage that was run: its key, both medians, their ratio and the verdict."""
    rows = []
    for key, found in fresh.items():
        now = found["gflop"]
        row: dict[str, Any] = {"key": key, "fresh": median(now), "verdict": "new"}
        if key in stored:
            then = stored[key]["gflop"]
            row |= {"stored": median(then), "ratio": median(now) / median(then)}
            faster = is_slower(then, now, tolerance)
            row["verdict"] = "faster" if faster else "as before"
            if is_slower(now, then, tolerance):
                row["verdict"] = "SLOWER"
        long = sum(found.get("wall_s", [_LONG])) >= _LONG
        if long and (others := found.get("others_cores", 0.0)) > DISTURBED:
            row["verdict"] += f" (others kept {others:.1f} cores busy)"
        rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The comparison to read."""
    lines = [f"{'shape':<12} {'stage':<18} {'device':<6} {'stored':>10} {'fresh':>10} {'ratio':>6}"]
    for row in rows:
        shape, stage, device, precision = row["key"]
        name = stage if precision == "float32" else f"{stage} ({precision})"
        then = f"{row['stored']:>10.1f}" if "stored" in row else f"{'-':>10}"
        ratio = f"{row['ratio']:>6.2f}" if "ratio" in row else f"{'-':>6}"
        lines.append(
            f"{shape:<12} {name:<18} {device:<6} {then} {row['fresh']:>10.1f} {ratio}"
            f"  {row['verdict']}"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("fresh", type=Path)
    parser.add_argument("--stored", type=Path, default=STORED)
    parser.add_argument("--tolerance", type=float, default=TOLERANCE)
    args = parser.parse_args(arguments)
    if not args.stored.is_file():
        parser.error(f"no stored record at {args.stored}; benchmarks.everything makes one")
    fresh, stored = read_stages(args.fresh), read_stages(args.stored)
    rows = compared(fresh, stored, args.tolerance)
    print("Time x rate of the matrix product in the same run (GFLOP):")
    print(table(rows))
    shapes = {key[0] for key in fresh}
    if missing := [" ".join(key[:2]) for key in stored if key[0] in shapes and key not in fresh]:
        print(f"Stored, but not run now: {', '.join(missing)}")
    if not any("stored" in row for row in rows):
        print(f"{args.stored} has none of these stages: no verdict.")
        return 0
    other = differences(read_machine(args.fresh), read_machine(args.stored))
    if other:
        print(f"{args.stored} was measured with: {'; '.join(other.values())}.")
    if not other.keys().isdisjoint(HARDWARE):
        print("No verdict on another machine.")
        return 0
    slower = [" ".join(row["key"][:2]) for row in rows if "SLOWER" in row["verdict"]]
    print(
        f"Slower than {args.tolerance:g} times the stored record: {', '.join(slower)}\n{AGAIN}"
        if slower
        else f"Nothing is slower than {args.tolerance:g} times the stored record."
    )
    return int(bool(slower))


if __name__ == "__main__":
    sys.exit(main())
