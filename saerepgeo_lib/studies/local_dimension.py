"""Local dimension: what the study of planted families says of the test, and what text gives."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from saerepgeo_lib.activations.latents import random_sae_like
from saerepgeo_lib.activations.token_activations import TokenActivations
from saerepgeo_lib.geometry.local_dimension import (
    NEIGHBOURS,
    SMALLEST,
    dimension_spread,
    equal_pieces,
    volume_growth,
)
from saerepgeo_lib.geometry.points import as_points
from saerepgeo_lib.plots import panels
from saerepgeo_lib.plots.style import BLUE, NULL_COLOUR, ORANGE, looks_of
from saerepgeo_lib.rank.noise_sweep import RESIDUAL, randomized
from saerepgeo_lib.stats.estimates import NotEstimable, auc

STATISTIC = "excess spread of log dimension"
NULLS = ("one piece", "a piece for each token type")
_MOST = 10_000  # tokens, drawn at random
_CENTRES = 1500  # of them, around which neighbourhoods are sought
_TRUTHS = {"smooth": NULL_COLOUR, "several dimensions": ORANGE, "singular": BLUE}
_VERDICTS = ("several dimensions", "one dimension", "undecided", "not estimable")


def text_dimension(
    acts: TokenActivations, *, n_neighbours: int = NEIGHBOURS, seed: int = 0
) -> pd.DataFrame:
    """Both tests in the residual stream, in sparse latents and in a random encoder's.

    A row per representation and null: median local dimension, excess spread (value, low, high, n
    neighbourhoods), and the share of tokens that reject a manifold and a fibre bundle (p <= 0.05),
    beside the share in the null. At most 10,000 tokens, drawn at random.
    """
    some = torch.from_numpy(np.random.default_rng(seed).permutation(len(acts))[:_MOST])
    acts = acts.rows(some.sort().values)
    types = np.unique(acts.words, return_inverse=True)[1]
    saes = {label: acts.source.saes[label] for label in acts.source.sparse}
    for label in list(saes)[:1]:
        generator = torch.Generator().manual_seed(seed)
        saes[randomized(label)] = random_sae_like(saes[label], acts.x, generator=generator)
    rows = []
    for label in tqdm([RESIDUAL, *saes], desc="local dimension", unit="space"):
        x = acts.x.double().cpu().numpy() if label == RESIDUAL else as_points(saes[label], acts.x)
        grown = _rejected(x, seed)
        for null, groups in zip(NULLS, (types * 0, types), strict=True):
            found = dimension_spread(
                x, groups, n_neighbours=n_neighbours, null_draws=1, centres=_CENTRES,
                random_state=seed,
            )  # fmt: skip
            row = {"representation": label, "null": null}
            if isinstance(found, NotEstimable):
                rows.append(row | {"verdict": "not estimable"})
                continue
            pieces = equal_pieces(x, groups, np.random.default_rng(seed), least=n_neighbours)
            rows.append(row | {
                "median dimension": float(np.median(found.dimension)),
                "of the null": float(np.median(found.null)),
                "value": found.excess.value, "low": found.excess.low, "high": found.excess.high,
                "n": found.excess.n, "verdict": found.verdict,
                **grown,
                **{f"{name}, null": share for name, share in _rejected(pieces, seed).items()},
            })  # fmt: skip
    return pd.DataFrame(rows)


def _rejected(x: np.ndarray, seed: int) -> dict[str, float]:
    manifold, bundle = volume_growth(x, centres=_CENTRES, random_state=seed)
    shares = {"no manifold": manifold, "no fibre bundle": bundle}
    return {name: float(np.mean(p <= 0.05)) for name, p in shares.items()}


def plot_text_dimension(table: pd.DataFrame) -> Figure:
    """The excess with its interval by null, a look per representation."""
    table = table.dropna(subset=["value"])
    looks = looks_of(dict.fromkeys(table["representation"]))
    figure, (ax,) = panels.axes_grid(1, height=2.2, extra=0.6)
    panels.forest_of(ax, table, row="null", by="representation", looks=looks, gap=0.14,
                     names=NULLS, line=0)  # fmt: skip
    ax.set_xlabel(STATISTIC)
    panels.legend_below(figure, looks, ls="none")
    return figure


def planted_table(points: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The study's points (`read_study`) as a table: setting, truth, excess, verdict, rejections."""
    rows = []
    for entry in points:
        result = entry["result"]
        value, low, high = result["excess"] or [np.nan] * 3
        truth = "several dimensions" if result["stratified"] else "smooth"
        rows.append({
            **entry["point"], "origin": result["family"], "value": value, "low": low, "high": high,
            "truth": "singular" if result["singular"] else truth,
            "verdict": result["verdict"], **result.get("rejected", {}),
        })  # fmt: skip
    return pd.DataFrame(rows)


def planted_rates(table: pd.DataFrame) -> pd.DataFrame:
    """How often each verdict fell, by setting, origin and truth; and the AUC of the excess.

    The AUC is that of families, whose draws are averaged, with its 95 % interval; it stands beside
    the families of several dimensions. Families that share parts are not independent.
    """
    rows = []
    settings = ["space", "n", "noise", "origin"]
    for key, part in table.groupby(settings, sort=False):
        means = part.dropna(subset=["value"]).groupby(["truth", "family"])["value"].mean()
        for truth, drawn in part.groupby("truth", sort=False):
            row: dict[str, Any] = dict(zip(settings, key, strict=True)) | {"truth": truth}
            shares = drawn["verdict"].value_counts(normalize=True)
            row |= {verdict: float(shares.get(verdict, 0.0)) for verdict in _VERDICTS}
            row |= {"draws": len(drawn), "AUC": np.nan, "low": np.nan, "high": np.nan}
            if truth == "several dimensions":
                area = auc(means[truth].to_numpy(), means["smooth"].to_numpy())
                row |= {"AUC": area.value, "low": area.low, "high": area.high}
            rows.append(row)
    return pd.DataFrame(rows)


def plot_planted_excess(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """The excess of every draw by family, coloured by what is so; external families are open."""
    names = list(dict.fromkeys(table.sort_values("truth", kind="stable")["family"]))
    ax = panels.own_axes(ax, height=0.8 + 0.21 * len(names))
    for (truth, origin), part in table.groupby(["truth", "origin"]):
        colour = _TRUTHS[str(truth)]
        face, label = colour if origin == "ours" else "none", f"{truth}, {origin}"
        rows = part["family"].map(names.index)
        ax.plot(part["value"], rows, "o", ms=5, color=colour, mfc=face, label=label)
    panels.named_rows(ax, names, length=34)
    ax.axvline(SMALLEST, color="black", lw=1, zorder=0)
    ax.set_xlabel(STATISTIC)
    ax.legend(fontsize=9, loc="lower right")
    return ax
