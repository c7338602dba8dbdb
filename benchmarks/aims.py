"""What the costs at GPT-2's shape were to be, and what a record of the benchmarks shows.

Growth and memory are those of the record's scaling, whatever its shape.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.tables import (
    LIBRARY,
    MEASURED,
    PLAIN,
    growth_table,
    growth_verdicts,
    near_the_limit,
    peers_table,
)

SHAPE = "gpt2-small"
REACHED, MISSED, UNKNOWN = "reached", "not reached", "not measured"
OPEN = "not missed, but not shown for all"
_TEN = "10 noise levels"
_GB_PER_MIB = 2**20 / 1e9
# case and task, how many times the library's CPU time the plain side's was to be, concepts in all
_TIMES = ((1, _TEN, 20, 9), (1, "one noise level", 3, 9), (3, "five doses, free edits", 8, 3),
          (3, "five doses, valid edits", 8, 3))  # fmt: skip
_MOST_GB, _PLAIN_GB = 2, 7
_SHARE, _FLOORS = 0.7, 1.5  # of the encode sweep, and of Case 1
_GROWS = 0.1  # the exponent from which memory counts as growing
# they take all pairs, or a decomposition: cost in proportion is not possible
_QUADRATIC = {
    f"{stage} with {axis}"
    for stage in ("spectra", "sweep", "clusters")
    for axis in ("prompts", "tokens")
}
Row = dict[str, str]


def aims_table(record: dict[str, Any], *, shape: str = SHAPE) -> pd.DataFrame:
    """A row per aim: aim, found, on (what it was measured on), verdict."""
    peers: list[Any] = peers_table(record).to_dict("records")
    measured = {
        (row["case"], row["task"], row["side"]): row
        for row in peers
        if (row["shape"], row["how"]) == (shape, MEASURED)
    }
    rows = [*_times(measured), *_peaks(measured), *_limits(record, shape)]
    return pd.DataFrame([*rows, *_growth(record), *_memory(record)])


def _row(aim: str, found: str, on: str, reached: bool) -> Row:
    return {"aim": aim, "found": found, "on": on, "verdict": REACHED if reached else MISSED}


def _unknown(aim: str) -> Row:
    return {"aim": aim, "found": "–", "on": "–", "verdict": UNKNOWN}


def _times(measured: dict[tuple[int, str, str], Any]) -> Iterator[Row]:
    for case, task, least, n in _TIMES:
        aim = (
            f"Case {case}, {task}: CPU time of the plain side over the library's, at least {least}"
        )
        row = measured.get((case, task, PLAIN))
        if row is not None and not pd.isna(row["ratio"]):
            ratio = float(row["ratio"])
            yield _row(aim, f"{ratio:.1f}", f"{row['concepts']} of {n} concepts", ratio >= least)
        else:
            yield _unknown(aim)


def _peaks(measured: dict[tuple[int, str, str], Any]) -> Iterator[Row]:
    for side, low, high, aim in (
        (LIBRARY, 0.0, _MOST_GB, f"Case 1, {_TEN}: peak memory under {_MOST_GB} GB"),
        (PLAIN, _PLAIN_GB, float("inf"), f"the plain side's there: over {_PLAIN_GB} GB"),
    ):
        if row := measured.get((1, _TEN, side)):
            gb = float(row["peak MiB"]) * _GB_PER_MIB
            yield _row(aim, f"{gb:.2f} GB", f"{row['concepts']} of 9 concepts", low < gb < high)
        else:
            yield _unknown(aim)


def _limits(record: dict[str, Any], shape: str) -> Iterator[Row]:
    near: list[Any] = near_the_limit(record).to_dict("records")
    found = next((row for row in near if row["shape"] == shape), None)
    own = f"Case 1 without nulls over a forward pass and the products, at most {_FLOORS}"
    floor = "the same, the pass too counted by its products"
    sweep = f"encode sweep: share of the products' rate, at least {100 * _SHARE:.0f} %"
    if found is None:
        yield from map(_unknown, (own, floor, sweep))
        return
    for aim, column in ((own, "Case 1 / own pass"), (floor, "Case 1 / floor")):
        times = float(found[column])
        yield _row(aim, f"{times:.2f}", "one concept", times <= _FLOORS)
    share = float(found["encode share"])
    yield _row(sweep, f"{100 * share:.0f} %", "one concept", share >= _SHARE)


def _growth(record: dict[str, Any]) -> Iterator[Row]:
    aim, table = "cost grows in proportion at most, where that is possible", growth_table(record)
    sorted_out = {
        verdict: [name for name in names if name not in _QUADRATIC]
        for verdict, names in growth_verdicts(table).items()
    }
    n = sum(map(len, sorted_out.values()))
    if not n:
        yield _unknown(aim)
        return
    counts = {verdict: len(names) for verdict, names in sorted_out.items()}
    found = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    row = _row(aim, found, f"{n} stages and axes", not counts["faster"])
    # an interval that contains the bound shows neither
    yield row | ({"verdict": OPEN} if counts["not told apart"] and not counts["faster"] else {})


def _memory(record: dict[str, Any]) -> Iterator[Row]:
    """Judged by the exponent of peak memory over all sizes: one peak alone scatters."""
    for axis in ("levels", "seeds"):
        aim = f"memory of a sweep does not grow with {axis}"
        points: list[Any] = next(
            (row["points"] for row in record["scaling"]
             if (row["stage"], row["axis"]) == ("sweep", axis)), [],
        )  # fmt: skip
        sizes = [point["size"] for point in points]
        peaks = np.array([point["peak_mib"] for point in points], float)
        if len(peaks) < 2 or not (peaks > 0).all():
            yield _unknown(aim)
            continue
        exponent = float(np.polyfit(np.log(sizes), np.log(peaks), 1)[0])
        found = f"{', '.join(f'{peak:.0f}' for peak in peaks)} MiB (exponent {exponent:.2f})"
        at = f"{', '.join(map(str, sizes))} {axis}"
        yield _row(aim, found, at, exponent <= _GROWS)
