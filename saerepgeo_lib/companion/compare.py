"""Claims across many runs, and the costs that were measured: the tables that pages read."""

from pathlib import Path
from typing import Any

import pandas as pd

from saerepgeo_lib.companion.collect import PARAMETER
from saerepgeo_lib.companion.records import CLAIM_FIELDS
from saerepgeo_lib.errors import UserError, choose
from saerepgeo_lib.files import data_dir, read_json
from saerepgeo_lib.stats.claims import VERDICTS, case_in_words
from saerepgeo_lib.studies.paper_claims import paper_claims

ABSENT = "not stated"  # of a run whose notebook has no such parameter


def shipped_claims() -> Path:
    """The table that comes with the book: the three cases on all nine concepts."""
    return data_dir() / "sweeps" / "all_concepts.parquet"


def read_claims(path: Path | str) -> pd.DataFrame:
    """The table that `saerepgeo collect` wrote: a row per claim of each run.

    Parameters lose their prefix where no other column has the name. Added: case, in words and
    without the concept. A finding that names no concept has the run's only one, or "all". Raises
    UserError for a file that is no such table.
    """
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        advice = "'saerepgeo collect' makes it"
        raise UserError(f"cannot read {path} as Parquet ({error}); {advice}") from error
    table["reason"] = table.get("reason", "")  # of tables before claims had one
    if missing := [n for n in ("run", "notebook", *CLAIM_FIELDS) if n not in table.columns]:
        raise UserError(f"{path} has no columns {missing}: it was not made by 'saerepgeo collect'")
    if "parameter concept" in table.columns:  # a run on one concept pools nothing else
        asked = table["parameter concept"].fillna("")
        table["concept"] = table["concept"].where(
            (table["concept"] != "") | asked.str.contains(","), asked
        )
    table["concept"] = table["concept"].replace("", "all")
    table["case"] = [case_in_words(row) for row in table.assign(concept="").to_dict("records")]
    short = {name: name.removeprefix(PARAMETER) for name in table.columns}
    return table.rename(columns={k: v for k, v in short.items() if v not in table.columns})


def compared_by(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """The table with the column to compare by as text, absent values named as such.

    The column is a parameter of the sweep, or model, hook, concept or notebook. Raises UserError
    for an unknown one, and for more than 6 values: no figure could show them.
    """
    valid = [c for c in table.columns if c not in CLAIM_FIELDS or c in ("concept", "tokens")]
    choose("column to compare by", name, valid)
    values = table[name].map(lambda v: ABSENT if pd.isna(v) else str(v))
    if (n := values.nunique()) > 6:
        raise UserError(f"{name!r} has {n} values; compare at most 6: take a smaller grid")
    return table.assign(**{name: values})


def verdict_counts(table: pd.DataFrame, by: str) -> pd.DataFrame:
    """How often each verdict fell, and n: a row per claim (in the ledger's order) and `by`."""
    order = {id: i for i, id in enumerate(paper_claims())}
    groups = table.rename(columns={"id": "claim"}).groupby(["claim", by, "verdict"], sort=False)
    counts = groups.size().unstack(fill_value=0).reindex(columns=VERDICTS, fill_value=0)
    counts = counts.assign(n=counts.sum(axis=1)).rename_axis(columns=None).reset_index()
    return counts.sort_values("claim", key=lambda c: c.map(order), kind="stable", ignore_index=True)


def findings(table: pd.DataFrame, claim: str) -> pd.DataFrame:
    """The rows of one claim on its first statistic, those without a value left out."""
    choose("claim", claim, table["id"].unique())
    rows = table[table["id"] == claim]
    return rows[(rows["statistic"] == rows["statistic"].iloc[0]) & rows["value"].notna()]


def read_costs(path: Path | str = "") -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    """What is said of the measurements (machine, dates, ...), and the tables by name.

    Without a path those that come with the book. Raises UserError for a file that
    `python -m benchmarks.page` did not write.
    """
    path = path or Path(__file__).parents[2] / "benchmarks" / "results" / "cpu.tables.json"
    costs = read_json(Path(path))
    if not isinstance(costs, dict) or set(costs) != {"about", "tables"}:
        raise UserError(
            f"{path} holds no tables of the benchmarks; 'python -m benchmarks.page RECORD' makes "
            "them from a record of 'python -m benchmarks.everything'"
        )
    return costs["about"], {name: pd.DataFrame(**table) for name, table in costs["tables"].items()}
