"""The tables that the page *What it costs* shows, made from a record of the benchmarks.

    python -m benchmarks.page [benchmarks/results/cpu.json]

writes them beside the record, as `cpu.tables.json`. `everything` does the same at its end.
"""

import argparse
import json
from math import isnan
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.aims import aims_table
from benchmarks.tables import (
    LINEAR,
    dates,
    dense_gb,
    expected_table,
    growth_points,
    growth_table,
    growth_verdicts,
    limits_table,
    near_the_limit,
    peers_table,
    read_costs,
    stage_table,
)
from saerepgeo_lib.files import write_text

SHIPPED = Path(__file__).parent / "results" / "cpu.json"


def page_tables(record: dict[str, Any]) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    """All that the page shows of a record: what is said of the measurements, and its tables."""
    growth = growth_table(record)
    gigabytes = dense_gb(record)
    about = {
        "dates": dates(record), "machine": record["machine"], "left out": record["left out"],
        "dense GB": None if isnan(gigabytes) else gigabytes, "linear": LINEAR,
        "verdicts on growth": growth_verdicts(growth),
    }  # fmt: skip
    return about, {
        "aims": aims_table(record), "limits": limits_table(record), "stages": stage_table(record),
        "near the limit": near_the_limit(record), "peers": peers_table(record), "growth": growth,
        "growth points": growth_points(record), "expected": expected_table(record),
    }  # fmt: skip


def write_tables(path: Path) -> Path:
    """Write the tables of the record `path` beside it, a row on a line; where they are."""
    about, tables = page_tables(read_costs(path))
    out = path.with_suffix(".tables.json")
    lines = [f' "{key}": {_json(value)}' for key, value in about.items()]
    texts = [
        f' "{name}": {{"columns": {_json(list(table.columns))}, "data": [\n  '
        + ",\n  ".join(map(_json, table.to_numpy(dtype=object).tolist()))
        + "\n ]}"
        for name, table in tables.items()
    ]
    both = ('{"about": {', ",\n".join(lines), '}, "tables": {', ",\n".join(texts), "}}")
    write_text(out, "\n".join(both) + "\n")
    return out


def _json(value: Any) -> str:
    """Strict JSON in a line, null for a number that is not known."""
    if isinstance(value, list):
        value = [None if isinstance(v, float) and isnan(v) else v for v in value]
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("record", type=Path, nargs="?", default=SHIPPED)
    print(write_tables(parser.parse_args().record))


if __name__ == "__main__":
    main()
