"""Claims across many runs: what holds on which model, layer, concept or seed."""

from pathlib import Path
from typing import get_args

import pandas as pd

from saerepgeo_lib.claims import Verdict, paper_claims
from saerepgeo_lib.collect import PARAMETER as _PARAMETER
from saerepgeo_lib.errors import UserError, choose
from saerepgeo_lib.files import data_dir

VERDICTS = get_args(Verdict)
ABSENT = "not stated"  # of a run whose notebook has no such parameter
MOST_VALUES = 6
_ENTITY = " (entity)"  # after a concept: its entities' tokens alone
_NEEDED = ("run", "notebook", "id", "subject", "statistic", "value", "low", "high", "verdict")


def shipped_claims() -> Path:
    """The table that comes with the book: the three cases on all nine concepts."""
    return data_dir() / "sweeps" / "all_concepts.parquet"


def read_claims(path: Path | str) -> pd.DataFrame:
    """The table that `saerepgeo collect` wrote: a row a claim of each run.

    Parameters lose their prefix where no other column has the name. Added: concept and case, from
    the claim's subject ("months: TopK SAE ..."); where that names none of the run's concepts, the
    concept is the run's only one, or "all". Raises UserError for a file that is no such table.
    """
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read {path} as Parquet ({error}); 'saerepgeo collect' makes it"
        ) from error
    if missing := [name for name in _NEEDED if name not in table.columns]:
        raise UserError(f"{path} has no columns {missing}: it was not made by 'saerepgeo collect'")
    asked = table["parameter concept"] if "parameter concept" in table.columns else None
    found = [
        _split(subject, "" if asked is None else str(asked.iloc[i]))
        for i, subject in enumerate(table["subject"])
    ]
    table["concept"], table["case"] = zip(*found, strict=True) if found else ((), ())
    renamed = {
        name: name.removeprefix(_PARAMETER)
        for name in table.columns
        if name.removeprefix(_PARAMETER) not in table.columns
    }
    return table.rename(columns=renamed)


def _split(subject: str, asked: str) -> tuple[str, str]:
    """Concept and case of a claim's subject, in a run on the concepts asked for."""
    concepts = [name.strip() for name in asked.split(",")]
    head, _, rest = subject.partition(": ")
    if rest and head.removesuffix(_ENTITY) in concepts:
        return head, rest
    return (concepts[0] if len(concepts) == 1 and concepts[0] else "all"), subject


def n_concepts(names: pd.Series) -> int:
    """How many concepts stand in a column; "months" and "months (entity)" are one."""
    return int(names.str.removesuffix(_ENTITY).nunique())


def compared_by(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """The table with the column to compare by as text, absent values named as such.

    The column is a parameter of the sweep, or model, hook, concept or notebook. Raises UserError
    for an unknown one, and for more than 6 values: no figure could show them.
    """
    choose("column to compare by", name, [c for c in table.columns if c not in _NEEDED[2:]])
    values = table[name].map(lambda v: ABSENT if pd.isna(v) else str(v))
    if (n := values.nunique()) > MOST_VALUES:
        raise UserError(
            f"{name!r} has {n} values; compare at most {MOST_VALUES}: take a smaller grid"
        )
    return table.assign(**{name: values})


def verdict_counts(table: pd.DataFrame, by: str) -> pd.DataFrame:
    """How often each verdict fell: a row a claim and value of `by`, a column a verdict, and n.

    Claims stand in the ledger's order.
    """
    counts = table.groupby(["id", by, "verdict"], sort=False).size().unstack(fill_value=0)
    counts = counts.reindex(columns=list(VERDICTS), fill_value=0).reset_index()
    order = {id: i for i, id in enumerate(paper_claims())}
    counts = counts.sort_values("id", key=lambda ids: ids.map(order), kind="stable")
    counts["n"] = counts[list(VERDICTS)].sum(axis=1)
    return counts.rename(columns={"id": "claim"}).rename_axis(columns=None).reset_index(drop=True)


def findings(table: pd.DataFrame, claim: str) -> pd.DataFrame:
    """The rows of one claim on its first statistic, those without a value left out."""
    choose("claim", claim, table["id"].unique())
    mine = table[table["id"] == claim]
    return mine[(mine["statistic"] == mine["statistic"].iloc[0]) & mine["value"].notna()]
