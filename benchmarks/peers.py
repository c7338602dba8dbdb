"""Head-to-heads: the library against its plain counterparts, each side alone in a process.

    python -m benchmarks.peers --out peers.json [--shape gpt2-small] [--case 1] [--levels 1,10]
        [--sides plain,lean,library] [--concepts months,days] [--doses 0.5,0.8,1,1.2,1.5]

Results are added to the file as they come, and what is there is not run again. Sides of Case 1:
plain, lean (spectra of the library's tokens only), careful (the model once, these tokens only),
gram (eigenvalues of the F x F matrix: MiniLM's width only), library. Of Case 3: plain, library, and
searched (the library's search at every dose, without the theorem and the intervals).
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import Any

from saerepgeo_lib.files import write_json

ROOT = Path(__file__).parent.parent
CONCEPTS = (
    "months", "days", "elements", "color", "planets", "number", "alphabet", "phonetic_symbol",
    "constellations",
)  # fmt: skip
SIDES = {1: ("library", "careful", "lean", "plain"), 3: ("library", "searched", "plain")}
KINDS = ("free", "valid")
PAPER_SCALES = (0.5, 0.8, 1.0, 1.2, 1.5)  # as `edits.PAPER_SCALES`; nothing heavy is imported here


@dataclass(frozen=True)
class Item:
    """One side's work on one concept: `levels` noise levels, or a `kind` of edit at `doses`."""

    case: int
    side: str
    shape: str
    concept: str
    device: str = "cpu"
    levels: int | None = None
    kind: str | None = None
    doses: tuple[float, ...] | None = None

    @property
    def command(self) -> list[str]:
        """The command that does it."""
        out = [sys.executable, "-m", "benchmarks.side", "--case", str(self.case)]
        out += ["--side", self.side, "--shape", self.shape, "--concept", self.concept]
        out += ["--device", self.device]
        if self.case == 1:
            return [*out, "--levels", str(self.levels)]
        return [*out, "--kind", str(self.kind), "--doses", json.dumps(self.doses)]


def items(
    case: int, *, sides: Sequence[str], shape: str, concepts: Sequence[str], levels: Sequence[int],
    doses: Sequence[float], device: str,
) -> Iterator[Item]:  # fmt: skip
    """Every piece of work, the cheap ones first."""
    if case == 1:
        for n in levels:
            for side in sides:
                for concept in concepts:
                    yield Item(1, side, shape, concept, device, levels=n)
    else:
        for side in sides:
            for concept in concepts:
                for kind in KINDS:
                    yield Item(3, side, shape, concept, device, kind=kind, doses=tuple(doses))


def run(item: Item, *, timeout_s: float = inf) -> dict[str, Any]:
    """Start the side, wait for it, and read what the system says it took.

    `process_cpu_s` and `process_peak_mib` (ru_maxrss) are the whole process', imports and loading
    too; the peak is right because this process, from which it starts, is small. A side that needs
    more than `timeout_s` seconds is stopped, and its result says so.
    """
    env = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    start = time.perf_counter()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(item.command, cwd=ROOT, env=env, stdout=out, stderr=errors)
        status, usage = _wait(process, timeout_s)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        errors.seek(0)
        said, why = out.read().decode(), errors.read().decode()
    found: dict[str, Any] = asdict(item) | {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(), "wall_s": wall,
        "process_cpu_s": usage.ru_utime + usage.ru_stime,
        "process_peak_mib": usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10),
    }  # fmt: skip
    if process.returncode or not said.strip():
        stopped = wall >= timeout_s
        lines = why.strip().splitlines()
        reason = f"stopped after {timeout_s:.0f} s" if stopped else (lines or ["no message"])[-1]
        return found | {"failed": reason, "exit": process.returncode}
    return found | json.loads(said.splitlines()[-1])


def _wait(process: subprocess.Popen[bytes], timeout_s: float) -> tuple[int, Any]:
    """The exit status and the resources of the process, which is killed when its time is over."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            return status, usage
        time.sleep(0.05)
    process.kill()
    _, status, usage = os.wait4(process.pid, 0)
    return status, usage


def totals(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sums over concepts of each side's parts (CPU and wall seconds), and its largest peak.

    Loading is left out of `cpu_s` and `wall_s`, which are those of the work.
    """
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for one in runs:
        if "failed" not in one:
            same = ("case", "shape", "device", "levels", "kind", "doses", "side")
            key = tuple(str(one[name]) if name == "doses" else one[name] for name in same)
            groups.setdefault(key, []).append(one)
    out = []
    for group in groups.values():
        first = group[0]
        row = {name: first[name] for name in
               ("case", "shape", "device", "side", "levels", "kind", "doses")}  # fmt: skip
        names = [name for name in first["parts"] if name != "load"]
        row["concepts"] = [one["concept"] for one in group]
        for unit in ("cpu_s", "wall_s"):
            row[f"{unit} by part"] = {
                name: sum(one["parts"][name][unit] for one in group) for name in names
            }
            row[unit] = sum(row[f"{unit} by part"].values())
        row["process_peak_mib"] = max(one["process_peak_mib"] for one in group)
        out.append(row)
    return out


def key(found: dict[str, Any]) -> str:
    """What tells results apart."""
    names = Item.__dataclass_fields__
    return json.dumps({name: found[name] for name in names}, sort_keys=True)


def line(found: dict[str, Any]) -> str:
    """A result to read."""
    what = f"{found['levels']} levels" if found["case"] == 1 else f"{found['kind']} edits"
    text = f"Case {found['case']}, {what}, {found['concept']}, {found['side']}: "
    if "failed" in found:
        return f"{text}{found['failed']}"
    seconds = ", ".join(f"{name} {p['cpu_s']:.1f}" for name, p in found["parts"].items())
    return f"{text}CPU s: {seconds}; {found['process_peak_mib']:.0f} MiB"


def resume(work: Iterable[Item], out: Path, *, budget: float) -> Iterator[dict[str, Any]]:
    """Do what the file has no result of, and add each result to it; one that failed is done again.

    When `budget` seconds are over, what runs is stopped and the rest only named in `left_out`.
    """
    end = time.monotonic() + budget
    runs = json.loads(out.read_text())["runs"] if out.is_file() else []
    runs = [one for one in runs if "failed" not in one]
    done, left_out = {key(one) for one in runs}, []
    for item in work:
        if key(asdict(item)) in done:
            continue
        left = end - time.monotonic()
        if left > 0:
            runs.append(run(item, timeout_s=left))
            yield runs[-1]
        else:
            left_out.append(asdict(item))
        write_json(out, {"runs": runs, "totals": totals(runs), "left_out": left_out})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shape", default="gpt2-small")
    parser.add_argument("--case", type=int, choices=(1, 3), default=1)
    parser.add_argument("--sides", help="default: all of the case")
    parser.add_argument("--concepts", help="default: all nine, and Case 3's first three")
    parser.add_argument("--levels", default="1,10", help="Case 1: numbers of noise levels")
    parser.add_argument("--doses", default=",".join(map(str, PAPER_SCALES)), help="Case 3")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--budget", type=float, default=inf, help="seconds in all")
    args = parser.parse_args()
    sides = args.sides.split(",") if args.sides else SIDES[args.case]
    concepts = args.concepts.split(",") if args.concepts else CONCEPTS[: 9 if args.case == 1 else 3]
    work = items(
        args.case, sides=sides, shape=args.shape, concepts=concepts,
        levels=[int(n) for n in args.levels.split(",")],
        doses=[float(dose) for dose in args.doses.split(",")], device=args.device,
    )  # fmt: skip
    for found in resume(work, args.out, budget=args.budget):
        print(line(found), flush=True)


if __name__ == "__main__":
    main()
