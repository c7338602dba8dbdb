"""All benchmarks in one call, on the CPU or a GPU, into one record.

    python -m benchmarks.everything --out benchmarks/results/cpu.json [--device auto]
        [--budget 3600] [--shapes minilm,gpt2-small] [--parts stages,scaling,peers]

The record: machine, limits, stages, scaling, peers, each result with its date, and what the whole
has besides that was left out, with the reason. It is written anew after every result. Results that
the file holds already are replaced one by one as they are measured again; the others stay. Peers
are also kept in `_build/peers-*.json`, and are not measured again by a second call there: remove
that file when the code has changed.
"""

import argparse
import datetime
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import Any

from benchmarks import peers, scaling
from benchmarks.limits import Precision, allowed, product_rate, quiet_limits
from benchmarks.measure import machine, measure
from benchmarks.page import write_tables
from benchmarks.peers import ROOT
from benchmarks.shapes import SHAPES, Shape, build
from benchmarks.stages import (
    ROUNDS,
    STAGES,
    WARMUP,
    prepare,
    row,
    stages,
    sweep_beside_product,
)
from saerepgeo_lib.activations.models import best_device
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.files import read_json, write_json

PARTS = ("stages", "scaling", "peers")
_SLACK = 20.0  # times its floor that a stage is taken to need before it has been measured
_LISTED = 3  # missing parts of a kind that are named; of more their number
_AXIS_S = 60.0  # seconds that the first axis is taken to need


@dataclass
class Run:
    """The record as it grows, where it is written, when it must end, why parts are missing."""

    out: Path
    record: dict[str, Any]
    end: float = inf

    def left(self) -> float:
        """Seconds of the budget that are left."""
        return self.end - time.monotonic()

    def fits(self, what: str, seconds: float) -> bool:
        """Whether there is time for it; if not, the record says so."""
        if seconds <= self.left():
            return True
        self.leave_out(what, f"needs about {seconds:.0f} s, {max(0, self.left()):.0f} s are left")
        return False

    def leave_out(self, what: str, why: str) -> None:
        """Note why something is not measured."""
        self.record["reasons"][what] = why
        self.save(f"left out: {what}: {why}")

    def add(self, part: str, result: dict[str, Any], text: str) -> None:
        """Keep a result in the place of an earlier one of the same thing."""
        others = [row for row in self.record[part] if _same(part, row) != _same(part, result)]
        self.record[part] = [*others, {**result, "date": _today()}]
        self.save(text)

    def save(self, text: str) -> None:
        """Write the record and say what is new."""
        self.record["left out"] = left_out(self.record)
        write_json(self.out, self.record)
        print(text, flush=True)


# what tells results of a part apart
_KEYS = {
    "limits": ("shape", "precision"), "stages": ("shape", "stage", "precision"),
    "scaling": ("shape", "stage", "axis"), "peers": ("shape", "case", "device"),
}  # fmt: skip


def _same(part: str, row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in _KEYS[part])


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def opened(out: Path, device: str) -> dict[str, Any]:
    """The record at `out`, or an empty one. Raises UserError if it is another machine's."""
    here = machine(device)
    if not out.is_file():
        return {"machine": here, "reasons": {}} | {part: [] for part in (*_KEYS, "left out")}
    record: dict[str, Any] = read_json(out)
    if other := [name for name in here if record["machine"].get(name) != here[name]]:
        raise UserError(
            f"{out} was measured elsewhere (its {', '.join(other)}: "
            f"{', '.join(str(record['machine'].get(name)) for name in other)}): name another --out"
        )
    return record


def left_out(record: dict[str, Any]) -> list[dict[str, str]]:
    """What all of it has and the record has not: {"what", "why"}, alike ones together.

    The record's "reasons" are kept for what is still missing; without one it was "not run".
    """
    done = {stage_name(row["shape"], row["stage"]) for row in record["stages"]}
    done |= {growth_name(row["stage"], row["axis"]) for row in record["scaling"]}
    wanted = [(f"stages at {s}'s shape", stage_name(s, name)) for s in SHAPES for name in STAGES]
    wanted += [("growth", growth_name(*axis)) for axis in _axes()]
    for found in record["peers"]:
        done |= {item_name(run) for run in found["runs"]}
    for item in all_items():
        wanted.append((f"Case {item['case']}, {item['side']} side", item_name(item)))
    reasons = {what: why for what, why in record["reasons"].items() if what not in done}
    record["reasons"] = reasons
    groups: dict[tuple[str, str], list[str]] = {}
    sizes = Counter(group for group, _ in wanted)
    for group, name in wanted:
        if name not in done:
            groups.setdefault((group, reasons.get(name, "not run")), []).append(name)
    found = []
    for (group, why), names in groups.items():
        listed = "; ".join(names) if len(names) <= _LISTED else f"{len(names)} of {sizes[group]}"
        which = "" if len(names) == sizes[group] else f": {listed}"
        found.append({"what": group + which, "why": why})
    return found


def stage_name(shape: str, stage: str) -> str:
    """A stage's name in what was left out."""
    return f"{shape}, {stage}"


def growth_name(stage: str, axis: str) -> str:
    """An axis' name in what was left out."""
    return f"{stage} with {axis}"


def item_name(item: dict[str, Any]) -> str:
    """A head-to-head's name in what was left out."""
    task = f"{item['levels']} levels" if item["case"] == 1 else f"{item['kind']} edits"
    return f"{item['side']}, {task}, {item['concept']}"


def all_items() -> Iterator[dict[str, Any]]:
    """Every head-to-head, as `peers` would run it."""
    for case, sides in peers.SIDES.items():
        concepts = peers.CONCEPTS[: 9 if case == 1 else 3]
        for item in peers.items(
            case, sides=sides, shape="", concepts=concepts, levels=(1, 10), doses=(), device=""
        ):
            yield asdict(item)


def precisions(device: str) -> tuple[Precision, ...]:
    """TF32 is a matter of GPUs."""
    return ("float32", "tf32") if device.startswith("cuda") else ("float32",)


def run_stages(run: Run, shape: Shape, device: str) -> None:
    """Limits and stages of a shape; with TF32 the encode sweep and Case 1 only."""
    try:
        bench = prepare(shape, device=device)
        all_rates = {
            precision: quiet_limits(shape, rows=len(bench.rows), device=device, precision=precision)
            for precision in precisions(device)
        }
    except UserError as error:
        for name in STAGES:
            run.leave_out(stage_name(shape.name, name), str(error))
        return
    for precision, rates in all_rates.items():
        with allowed(precision):
            text = f"{shape.name}: encode {rates.encode / 1e9:.0f} GFLOP/s, {precision}"
            run.add("limits", {"shape": shape.name, **asdict(rates)}, text)
            for name in STAGES if precision == "float32" else ("encode sweep", "Case 1"):
                stage = stages(bench).get(name)
                if stage is None:
                    why = f"{shape.blocks_built} of {shape.blocks_needed} blocks are built"
                    run.leave_out(stage_name(shape.name, name), why)
                    continue
                seconds = (WARMUP + ROUNDS) * _SLACK * stage.floor(rates)
                if not run.fits(stage_name(shape.name, name), seconds):
                    continue
                rate = product_rate(2_048, 2_048, 2_048, device=device)
                costs = measure(stage.work, rounds=ROUNDS, warmup=WARMUP, device=device)
                found = row(bench, stage, costs, rates, rate)
                if name == "encode sweep":
                    found["beside_product"] = sweep_beside_product(bench)
                text = f"{shape.name}: {name}: {min(found['wall_s']):.3f} s"
                run.add("stages", found, f"{text}, {100 * found['share']:.0f} % of it the floor")


def run_scaling(run: Run, shape: Shape, device: str) -> None:
    """Growth of every stage; an axis begins if there is time for one as long as the longest."""
    model, longest = build(shape, device=device).model, _AXIS_S
    for stage, axis in _axes():
        if run.fits(growth_name(stage, axis), longest):
            start = time.monotonic()
            found = scaling.grow(shape, stage, axis, model=model, device=device)
            longest = max(longest, time.monotonic() - start)
            run.add("scaling", found, scaling.line(found))


def _axes() -> Iterator[tuple[str, str]]:
    for stage, axes in scaling.AXES.items():
        for axis in axes:
            yield stage, axis


def run_peers(run: Run, shape: str, device: str, *, case: int, levels: str) -> None:
    """Head-to-heads, by a small process of their own; with no time left, those that are kept."""
    kept = ROOT / "_build" / f"peers-{shape}-case{case}-{device}.json"
    command = [sys.executable, "-m", "benchmarks.peers", "--out", str(kept), "--shape", shape]
    command += ["--case", str(case), "--levels", levels, "--device", device]
    command += [] if run.end == inf else ["--budget", f"{max(0, run.left()):.0f}"]
    subprocess.run(command, cwd=ROOT, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    found = read_json(kept)
    for item in found["runs"]:
        if "failed" in item:
            run.record["reasons"][item_name(item)] = item["failed"]
    found = {
        "runs": [item for item in found["runs"] if "failed" not in item],
        "totals": found["totals"],
    }
    about = {"shape": shape, "case": case, "device": device}
    run.add("peers", about | found, f"Case {case}: peers done")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--budget", type=float, default=inf, help="seconds in all")
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--scaling-shape", choices=SHAPES, default="minilm")
    parser.add_argument("--peers-shape", choices=SHAPES, default="gpt2-small")
    parser.add_argument("--peers-levels", default="1,10")
    args = parser.parse_args()
    device, parts = best_device(args.device), args.parts.split(",")
    try:
        record = opened(args.out, device)
    except UserError as error:
        parser.error(str(error))
    run = Run(args.out, record, time.monotonic() + args.budget)
    if "stages" in parts:
        for name in args.shapes.split(","):
            run_stages(run, SHAPES[name], device)
    if "scaling" in parts:
        run_scaling(run, SHAPES[args.scaling_shape], device)
    if "peers" in parts:
        for case in (1, 3):
            run_peers(run, args.peers_shape, device, case=case, levels=args.peers_levels)
    run.save(f"written to {args.out}")
    print(write_tables(args.out))


if __name__ == "__main__":
    main()
