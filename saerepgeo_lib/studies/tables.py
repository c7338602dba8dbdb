"""Tables of several cases in one: long, and wide to read."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd


def joined(
    tables: Mapping[Any, pd.DataFrame], columns: Sequence[str] = ("concept",)
) -> pd.DataFrame:
    """The rows of several tables in one, their keys in front: a column per part of a key."""
    if not tables:
        return pd.DataFrame()
    rows = pd.concat(tables, names=list(columns))
    return rows.reset_index(list(columns)).reset_index(drop=True)


def wide_table(table: pd.DataFrame) -> pd.DataFrame:
    """A row per measure (of a preset and concept), a column per space: "value [low, high]"."""
    value, low, high = (table[name].map("{:.2f}".format) for name in ("value", "low", "high"))
    cells = value + (" [" + low + ", " + high + "]").where(np.isfinite(table["low"]), "")
    table = table.assign(cell=cells.where(np.isfinite(table["value"]), "–"))
    keys = [name for name in ("preset", "concept", "measure") if name in table.columns]
    out = table.pivot_table("cell", keys, "space", aggfunc="first", sort=False)
    return out.rename_axis(columns=None).reset_index()
