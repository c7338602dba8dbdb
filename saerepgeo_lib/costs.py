"""What the library costs: the record of the benchmarks, as tables."""

from math import prod
from pathlib import Path
from typing import Any

import pandas as pd

from saerepgeo_lib.colab import ROOT
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.files import read_json

_PARTS = ("machine", "limits", "stages", "scaling", "peers", "left out")
_LEVELS = 10  # of an encode sweep, the paper's
# float32 operations a second: of 8 cores with two 8-wide multiply-adds (AVX2) a cycle; and
# without tensor cores, by NVIDIA's datasheets, of the T4, the H100 and the H200
RATES = {"8 cores at 3 GHz": 0.768e12, "Colab's T4": 8.1e12, "an H100 or H200": 67e12}
LINEAR = 1.05  # exponents up to here count as in proportion
LIBRARY, CAREFUL, LEAN, PLAIN = "library", "careful", "lean", "plain"
MEASURED, COMPUTED = "measured", "computed"


def shipped_costs() -> Path:
    """The record that comes with the book; `python -m benchmarks.everything` makes one."""
    return ROOT / "benchmarks" / "results" / "cpu.json"


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
    rows = [*record["stages"], *record["scaling"]]
    rows += [run for peers in record["peers"] for run in peers["runs"]]
    return sorted({row["date"] for row in rows})


def limits_table(record: dict[str, Any]) -> pd.DataFrame:
    """The rates measured beside each shape: GFLOP/s of products, GB/s of a copy."""
    names = {"encode": "encoder's product", "square": "square product", "float64": "in float64"}
    rows = [
        {"shape": found["shape"], "precision": found.get("precision", "float32")}
        | {f"{name} (GFLOP/s)": found[key] / 1e9 for key, name in names.items()}
        | {"copy (GB/s)": found["bandwidth"] / 1e9}
        for found in record["limits"]
    ]
    return pd.DataFrame(rows)


def stage_table(record: dict[str, Any]) -> pd.DataFrame:
    """A row a stage: shape, stage, seconds (median), CPU seconds, peak MiB, floor, share, how.

    For a model that is built in part the seconds are computed; CPU and memory are then not known.
    """
    rows = []
    for found in record["stages"]:
        if found.get("precision", "float32") != "float32":
            continue
        seconds = found.get("computed_wall_s", pd.Series(found["wall_s"]).median())
        built = found.get("blocks")
        how = f"{COMPUTED}: {built}" if built else MEASURED
        cpu, peak = (None, None) if built else (found["cpu_s"], found["peak_mib"])
        rows.append((found["shape"], found["stage"], seconds, cpu, peak, seconds * found["share"],
                     found["share"], how))  # fmt: skip
    columns = ["shape", "stage", "seconds", "CPU s", "peak MiB", "floor", "share", "how"]
    return pd.DataFrame(rows, columns=columns).astype({"CPU s": float, "peak MiB": float})


def near_the_limit(record: dict[str, Any]) -> pd.DataFrame:
    """A row a shape with the stages it takes: how near encode sweep and Case 1 are to the machine.

    "encode share" counts the sweep's two products over its time, at the rate of a product of the
    encoder's shape; "square share" at that of the square product; "encode effective" counts the ten
    products that they stand for. "paired share" is the median over "pairs" of a product and a
    sweep, one just after the other (NaN if there are none). "Case 1 / floor" is the time of Case 1
    without nulls over its floor; "Case 1 / own pass" over the library's own forward pass, as
    measured, and the two products.
    """
    rates = _rates(record)
    pairs = {
        found["shape"]: found.get("beside_product", [])
        for found in record["stages"]
        if found["stage"] == "encode sweep" and found.get("precision", "float32") == "float32"
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
            "paired share": pd.Series(pairs[shape], dtype=float).median(),
            "pairs": len(pairs[shape]),
            "Case 1 / floor": 1 / case["share"],
            "Case 1 / own pass": case["seconds"] / (model["seconds"] + sweep["floor"]),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _rates(record: dict[str, Any]) -> dict[Any, dict[str, Any]]:
    """The float32 rates measured beside each shape (on a GPU those of TF32 follow)."""
    return {
        found["shape"]: found
        for found in record["limits"]
        if found.get("precision", "float32") == "float32"
    }


def growth_table(record: dict[str, Any]) -> pd.DataFrame:
    """A row a stage and axis: exponent of the cost with its interval, and memory at both ends."""
    rows = []
    for found in record["scaling"]:
        first, last = found["points"][0], found["points"][-1]
        rows.append((found["stage"], found["axis"], first["size"], last["size"], found["exponent"],
                     found["low"], found["high"], first["peak_mib"], last["peak_mib"]))  # fmt: skip
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
    """A row a size: stage, axis, size, seconds (least of the repeats; on a GPU of the clock)."""
    rows = [
        (found["stage"], found["axis"], point["size"], min(point[found.get("of", "cpu_s")]))
        for found in record["scaling"]
        for point in found["points"]
    ]
    return pd.DataFrame(rows, columns=["stage", "axis", "size", "seconds"])


def peers_table(record: dict[str, Any]) -> pd.DataFrame:
    """A row a side and task: case, shape, task, side, concepts, a column a part, CPU s, and more.

    More: "ratio", "peak MiB", "how". "ratio" is the side's CPU time over the library's on the same
    concepts. The plain sides' work at n levels is n times that at one; where it was not measured on
    all concepts it is computed so.
    """
    done = [run for peers in record["peers"] for run in peers["runs"] if "failed" not in run]
    if not done:
        columns = ["case", "shape", "task", "side", "concepts", "CPU s", "ratio", "how"]
        return pd.DataFrame(columns=columns)
    runs = pd.DataFrame(map(_flat, done))
    rows = []
    for (case, task, _), part in runs.groupby(["case", "task", "shape"], sort=False):
        own = part[part["side"] == LIBRARY].set_index("concept")
        for side, found in part.groupby("side", sort=False):
            rows.append(_side(case, task, side, found, own) | {"how": MEASURED})
        for side in (LEAN, PLAIN):
            one = runs[(runs["case"] == 1) & (runs["side"] == side) & (runs["levels"] == 1)]
            one = one[one["shape"] == part["shape"].iloc[0]]
            known = part[part["side"] == side]
            if case == 1 and part["levels"].iloc[0] > 1 and len(known) < len(own) == len(one):
                levels = part["levels"].iloc[0]
                many = one.assign(**{c: one[c] * levels for c in (*_parts(one), "CPU s")})
                rows.append(_side(case, task, side, many.assign(MiB=float("nan")), own))
                rows[-1]["how"] = f"{COMPUTED}: {levels:.0f} times one level"
    return pd.DataFrame(rows)


def dense_gb(record: dict[str, Any]) -> float:
    """Gigabytes of the largest concept's latents, all tokens and features of ten levels, float32.

    What the plain side keeps; computed from the shape of its tensor. NaN if it was never run.
    """
    runs = [run for peers in record["peers"] for run in peers["runs"] if "tensor" in run]
    return max((4 * _LEVELS * prod(run["tensor"]) / 1e9 for run in runs), default=float("nan"))


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


def _parts(found: pd.DataFrame) -> list[str]:
    others = {"case", "shape", "task", "levels", "side", "concept", "CPU s", "MiB"}
    return [str(name) for name in found if name not in others]


def _side(
    case: Any, task: Any, side: Any, found: pd.DataFrame, own: pd.DataFrame
) -> dict[str, Any]:
    same = own.loc[[c for c in found["concept"] if c in own.index], "CPU s"].sum()
    return {
        "case": case, "shape": found["shape"].iloc[0], "task": task, "side": side,
        "concepts": len(found),
        **{name: found[name].sum(min_count=1) for name in _parts(found)},
        "CPU s": found["CPU s"].sum(), "ratio": found["CPU s"].sum() / same if same else None,
        "peak MiB": found["MiB"].max(),
    }  # fmt: skip


def expected_table(record: dict[str, Any]) -> pd.DataFrame:
    """Case 1 of one concept without nulls: seconds here, and the least that others could take.

    The latter are the operations of its floor over the highest rate on paper: spectra, transfers
    and all that is no product come on top, so it is a bound and no forecast.
    """
    rates = _rates(record)
    rows = []
    for shape, part in stage_table(record).groupby("shape", sort=False):
        floors = part.set_index("stage")["floor"]
        if not {"residuals", "encode sweep"} <= set(floors.index):
            continue
        work = floors["residuals"] * rates[shape]["square"]
        work += floors["encode sweep"] * rates[shape]["encode"]
        seconds = part.set_index("stage")["seconds"].get("Case 1, no nulls")
        row = {"shape": shape, "operations (GFLOP)": work / 1e9, "here, measured (s)": seconds}
        rows.append(row | {f"{name}, computed bound (s)": work / r for name, r in RATES.items()})
    return pd.DataFrame(rows)
