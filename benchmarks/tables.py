"""What the library costs: a record of the benchmarks as tables."""

from math import nan, prod
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.files import read_json

_PARTS = ("machine", "limits", "stages", "scaling", "peers", "left out")
_LEVELS = 10  # of an encode sweep, the paper's
# float32 operations per second: of 8 cores with two 8-wide multiply-adds (AVX2) per cycle; and
# without tensor cores, by NVIDIA's datasheets, of the T4, the H100 and the H200
RATES = {"8 cores at 3 GHz": 0.768e12, "Colab's T4": 8.1e12, "an H100 or H200": 67e12}
LINEAR = 1.05  # exponents up to this one count as growth in proportion
LIBRARY, CAREFUL, LEAN, PLAIN = "library", "careful", "lean", "plain"
MEASURED, COMPUTED = "measured", "computed"
_ABOUT = ("case", "shape", "task", "levels", "side", "concept", "CPU s", "MiB")  # not parts of work


def read_costs(path: Path) -> dict[str, Any]:
    """A record of the benchmarks. Raises UserError for a file that is none."""
    record = read_json(path)
    missing = [part for part in _PARTS if not isinstance(record, dict) or part not in record]
    if missing:
        raise UserError(
            f"{path} is no record of the benchmarks: it lacks {', '.join(missing)}; "
            "make one with 'python -m benchmarks.everything --out FILE'"
        )
    return dict(record)


def dates(record: dict[str, Any]) -> list[str]:
    """The days on which the record's results were measured."""
    rows = [*record["stages"], *record["scaling"], *_runs(record)]
    return sorted({row["date"] for row in rows})


def _runs(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [run for peers in record["peers"] for run in peers["runs"]]


def _in_float32(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the rows of TF32, which follow on a GPU."""
    return [row for row in rows if row.get("precision", "float32") == "float32"]


def limits_table(record: dict[str, Any]) -> pd.DataFrame:
    """The rates measured beside each shape: GFLOP/s of products, GB/s of a copy."""
    names = {"encode": "encoder's product", "square": "square product", "float64": "in float64"}
    rows = [
        {"shape": rates["shape"], "precision": rates.get("precision", "float32")}
        | {f"{name} (GFLOP/s)": rates[key] / 1e9 for key, name in names.items()}
        | {"copy (GB/s)": rates["bandwidth"] / 1e9}
        for rates in record["limits"]
    ]
    return pd.DataFrame(rows)


def stage_table(record: dict[str, Any]) -> pd.DataFrame:
    """A row per stage: shape, stage, seconds (median), CPU seconds, peak MiB, floor, share, how.

    For a model that is built in part the seconds are computed; CPU and memory are then not known.
    """
    rows = []
    for stage in _in_float32(record["stages"]):
        seconds = (
            stage["computed_wall_s"] if "computed_wall_s" in stage else median(stage["wall_s"])
        )
        built = stage.get("blocks")
        rows.append({
            "shape": stage["shape"], "stage": stage["stage"], "seconds": seconds,
            "CPU s": None if built else stage["cpu_s"],
            "peak MiB": None if built else stage["peak_mib"],
            "floor": seconds * stage["share"], "share": stage["share"],
            "how": f"{COMPUTED}: {built}" if built else MEASURED,
        })  # fmt: skip
    columns = ["shape", "stage", "seconds", "CPU s", "peak MiB", "floor", "share", "how"]
    return pd.DataFrame(rows, columns=columns).astype({"CPU s": float, "peak MiB": float})


def near_the_limit(record: dict[str, Any]) -> pd.DataFrame:
    """How near the encode sweep and Case 1 are to the machine: a row per shape with their stages.

    "encode share" counts the sweep's two products over its time, at the rate of a product of the
    encoder's shape; "square share" at that of the square product; "encode effective" counts the ten
    products that they stand for. "paired share" is the median over "pairs" of a product and a
    sweep, one just after the other (NaN if there are none). "Case 1 / floor" is the time of Case 1
    without nulls over its floor; "Case 1 / own pass" over the library's own forward pass, as
    measured, and the two products.
    """
    rates = {row["shape"]: row for row in _in_float32(record["limits"])}
    pairs = {
        row["shape"]: row.get("beside_product", [])
        for row in _in_float32(record["stages"])
        if row["stage"] == "encode sweep"
    }
    rows = []
    for shape, part in stage_table(record).groupby("shape", sort=False):
        stages = part.set_index("stage")
        needed = ["encode sweep", "residuals", "Case 1, no nulls"]
        if not set(needed) <= set(stages.index):
            continue
        sweep, model, case = (stages.loc[name] for name in needed)
        rows.append({
            "shape": shape, "encode share": sweep["share"],
            "square share": sweep["share"] * rates[shape]["encode"] / rates[shape]["square"],
            "encode effective": sweep["share"] * _LEVELS / 2,
            "paired share": median(pairs[shape]) if pairs[shape] else nan,
            "pairs": len(pairs[shape]),
            "Case 1 / floor": 1 / case["share"],
            "Case 1 / own pass": case["seconds"] / (model["seconds"] + sweep["floor"]),
        })  # fmt: skip
    return pd.DataFrame(rows)


def growth_table(record: dict[str, Any]) -> pd.DataFrame:
    """A row per stage and axis: exponent of the cost and its interval, memory at both ends."""
    rows = [
        (grown["stage"], grown["axis"], first["size"], last["size"], grown["exponent"],
         grown["low"], grown["high"], first["peak_mib"], last["peak_mib"])
        for grown in record["scaling"]
        for first, last in [(grown["points"][0], grown["points"][-1])]
    ]  # fmt: skip
    columns = ["stage", "axis", "from", "to", "exponent", "low", "high", "MiB first", "MiB last"]
    return pd.DataFrame(rows, columns=columns)


def growth_verdicts(table: pd.DataFrame) -> dict[str, list[str]]:
    """Stages by what `growth_table` shows of them: whether cost grows faster than in proportion."""
    names = table["stage"] + " with " + table["axis"]
    faster, slower = table["low"] > LINEAR, table["high"] <= LINEAR
    return {
        "faster": list(names[faster]), "no faster": list(names[slower]),
        "not told apart": list(names[~faster & ~slower]),
    }  # fmt: skip


def growth_points(record: dict[str, Any]) -> pd.DataFrame:
    """A row per size: stage, axis, size, seconds (least of the repeats; on a GPU of the clock)."""
    rows = [
        (grown["stage"], grown["axis"], point["size"], min(point[grown.get("of", "cpu_s")]))
        for grown in record["scaling"]
        for point in grown["points"]
    ]
    return pd.DataFrame(rows, columns=["stage", "axis", "size", "seconds"])


def peers_table(record: dict[str, Any]) -> pd.DataFrame:
    """A row per side and task: case, shape, task, side, concepts, a column per part, CPU s, ...

    Further "ratio", "peak MiB" and "how". "ratio" is the side's CPU time over the library's on the
    same concepts. The plain sides' work at n levels is n times that at one; where it was not
    measured on all concepts it is computed so.
    """
    done = [run for run in _runs(record) if "failed" not in run]
    if not done:
        columns = ["case", "shape", "task", "side", "concepts", "CPU s", "ratio", "how"]
        return pd.DataFrame(columns=columns)
    runs = pd.DataFrame(map(_flat, done))
    rows = []
    for (case, _, shape), task in runs.groupby(["case", "task", "shape"], sort=False):
        library = task[task["side"] == LIBRARY].set_index("concept")
        rows += [_side(runs, library) for _, runs in task.groupby("side", sort=False)]
        levels = task["levels"].iloc[0]
        for side in (LEAN, PLAIN):
            single = (runs["case"] == 1) & (runs["side"] == side) & (runs["levels"] == 1)
            one = runs[single & (runs["shape"] == shape)]
            measured = task[task["side"] == side]
            if case == 1 and levels > 1 and len(measured) < len(library) == len(one):
                scaled = {name: one[name] * levels for name in (*_parts(one), "CPU s")}
                many = one.assign(**scaled, MiB=nan, task=task["task"].iloc[0])
                how = f"{COMPUTED}: {levels:.0f} times one level"
                rows.append(_side(many, library) | {"how": how})
    return pd.DataFrame(rows)


def _flat(run: dict[str, Any]) -> dict[str, Any]:
    parts = {name: cost["cpu_s"] for name, cost in run["parts"].items() if name != "load"}
    levels = run["levels"]
    tasks = {1: "one noise level", None: f"five doses, {run['kind']} edits"}
    return {
        "case": run["case"], "shape": run["shape"],
        "task": tasks.get(levels, f"{levels} noise levels"), "levels": levels,
        "side": run["side"], "concept": run["concept"], **parts, "CPU s": sum(parts.values()),
        "MiB": run["process_peak_mib"],
    }  # fmt: skip


def _parts(runs: pd.DataFrame) -> list[str]:
    return [str(name) for name in runs if name not in _ABOUT]


def _side(runs: pd.DataFrame, library: pd.DataFrame) -> dict[str, Any]:
    """One side's runs of a task in a row, beside the library's on the same concepts."""
    shared = [concept for concept in runs["concept"] if concept in library.index]
    same = library.loc[shared, "CPU s"].sum()
    return {
        **runs.iloc[0][["case", "shape", "task", "side"]], "concepts": len(runs),
        **{name: runs[name].sum(min_count=1) for name in _parts(runs)},
        "CPU s": runs["CPU s"].sum(), "ratio": runs["CPU s"].sum() / same if same else None,
        "peak MiB": runs["MiB"].max(), "how": MEASURED,
    }  # fmt: skip


def dense_gb(record: dict[str, Any]) -> float:
    """Gigabytes of the largest concept's latents, all tokens and features of ten levels, float32.

    What the plain side keeps; computed from the shape of its tensor. NaN if it was never run.
    """
    tensors = [run["tensor"] for run in _runs(record) if "tensor" in run]
    return max((4 * _LEVELS * prod(tensor) / 1e9 for tensor in tensors), default=nan)


def expected_table(record: dict[str, Any]) -> pd.DataFrame:
    """Case 1 of one concept without nulls: seconds as measured, and the least on other machines.

    The latter are the operations of its floor over the highest rate on paper: spectra, transfers
    and all that is no product come on top, so it is a bound and no forecast.
    """
    rates = {row["shape"]: row for row in _in_float32(record["limits"])}
    rows = []
    for shape, part in stage_table(record).groupby("shape", sort=False):
        stages = part.set_index("stage")
        floors = stages["floor"]
        if not {"residuals", "encode sweep"} <= set(stages.index):
            continue
        work = floors["residuals"] * rates[shape]["square"]
        work += floors["encode sweep"] * rates[shape]["encode"]
        row = {"shape": shape, "operations (GFLOP)": work / 1e9}
        row["here, measured (s)"] = stages["seconds"].get("Case 1, no nulls")
        rows.append(row | {f"{name}, computed bound (s)": work / r for name, r in RATES.items()})
    return pd.DataFrame(rows)
