"""What the measured differences come to: one sentence each, and whether they meet a criterion."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from saerepgeo_lib.rank.noise_sweep import RESIDUAL
from saerepgeo_lib.stats.words import span
from saerepgeo_lib.studies.differences import CONTENT, GW, PADDED, THRESHOLD
from saerepgeo_lib.text import plain

AGREES = 0.9  # adjusted Rand index from which two clusterings count as the same
FACTOR = 2.0  # of an error or a count, from which a difference counts as one of kind


class Finding(NamedTuple):
    """What a difference makes, in words of a run; `changes` says whether it meets its criterion."""

    topic: str
    text: str
    changes: bool


def difference_findings(tables: Mapping[str, pd.DataFrame], spread: float) -> list[Finding]:
    """Each measured topic with its finding, from the tables that `differences` makes, by name."""
    saturation, errors = tables["saturation"], tables["errors"]
    return [
        said_of_levels(saturation), said_of_scaling(saturation, spread), said_of_threshold(errors),
        said_of_masking(tables["clusters"]), said_of_picking(tables["picked"]),
        said_of_distance(tables["losses"], tables["gradients"]), said_of_standardising(errors),
        said_of_validity(tables["codes"]),
    ]  # fmt: skip


def said_of_levels(saturation: pd.DataFrame) -> Finding:
    """Makes a difference if the rank, one number at level 0, grows over the levels."""
    sparse = saturation[(saturation["label"] != RESIDUAL) & (saturation["noise"] == "relative")]
    text = (
        f"at level 0 the rank of the latents varies by {sparse['range at level 0'].max():.0f}; "
        f"over all levels it is {span(sparse['clean'], '.0f')} without noise and up to "
        f"{span(sparse['largest'], '.0f')} with it"
    )
    return Finding("Noise levels", text, bool((sparse["largest"] > sparse["clean"]).any()))


def said_of_scaling(saturation: pd.DataFrame, spread: float) -> Finding:
    """Makes a difference if some profile saturates at another level. `spread`: the residual's."""
    at = saturation.pivot(index="label", columns="noise", values="saturates at")
    other = at[at["relative"] != at["absolute"]]
    words = [
        f"{plain(str(k))} {r['absolute']:g} against {r['relative']:g}" for k, r in other.iterrows()
    ]
    where = f"the same level ({span(at['relative'], 'g')})"
    if words:
        where = f"another level (absolute against relative) for {'; '.join(words)}"
    text = f"an absolute level of 1 is a relative one of {1 / spread:.2g}; the rank saturates at "
    return Finding("Size of the noise", text + where, bool(words))


def said_of_threshold(errors: pd.DataFrame) -> Finding:
    """Makes a difference if the median of |z| lies above 0: then it decides what is active."""
    text = (
        f"the median of all latents is {span(errors['median'], 'g')}; "
        f"{span(errors['below'], '.1%')} of the active latents lie below {THRESHOLD:g}"
    )
    return Finding("Active latents", text, bool((errors["median"] > 0).any()))


def said_of_masking(clusters: pd.DataFrame) -> Finding:
    """Makes a difference if clusters appear without content tokens, or others hold them."""
    full, base = (clusters[clusters["tokens"] == name] for name in (PADDED, CONTENT))
    regrouped = bool((full["agreement"] < AGREES).any())
    text = (
        f"clusters {span(base['clusters'], '.0f')} become {span(full['clusters'], '.0f')}, of "
        f"which {span(full['without content'], '.0f')} hold no content token; content tokens are "
        f"grouped {'otherwise' if regrouped else 'alike'} (adjusted Rand index "
        f"{span(full['agreement'])}); mean local dimension {span(base['avg. ID'], '.1f')} "
        f"becomes {span(full['avg. ID'], '.1f')}"
    )
    changes = regrouped or bool((full["without content"] > 0).any())
    return Finding("Tokens that are clustered", text, changes)


def said_of_picking(picked: pd.DataFrame) -> Finding:
    """Makes a difference if, for some SAE, the two errors of the best iterate move oppositely."""
    best = picked.pivot_table("best", "SAE", "measure", aggfunc="median", sort=False) - 1
    words = [
        f"{plain(str(sae))} {change['z-scored']:+.0%} z-scored, {change['own']:+.0%} its own"
        for sae, change in best.iterrows()
    ]
    text = f"change of the error at the best iterate: {'; '.join(words)}"
    opposite = bool((best["z-scored"] * best["own"] < 0).any())
    return Finding("The way to separability", text, opposite)


def said_of_distance(losses: pd.DataFrame, gradients: pd.DataFrame) -> Finding:
    """Makes a difference if 1 / AEDP falls somewhere where d_GW rises."""
    moves = np.sign(losses.groupby("SAE", sort=False)[["1 / AEDP", "d_GW"]].diff().dropna())
    apart = int((moves["1 / AEDP"] != moves["d_GW"]).sum())
    reached = gradients.loc[gradients["procedure"] == GW, "AEDP"]
    text = (
        f"under scaling they move in opposite ways on {apart} of {len(moves)} steps; where the "
        f"true d_GW is lowered (with the error), AEDP ends at {span(reached)} of itself"
    )
    return Finding("Distance of arrangements", text, apart > 0)


def said_of_standardising(errors: pd.DataFrame) -> Finding:
    """Makes a difference if it multiplies some unedited error by `FACTOR` or more."""
    words = [
        f"{plain(r['SAE'])} {r['own']:.2f} becomes {r['z-scored']:.3g} (x {r['factor']:.3g})"
        for r in errors.to_dict("records")
    ]
    text = f"error of the unedited code, over the target's variance: {'; '.join(words)}"
    return Finding("Reconstruction error", text, bool((errors["factor"] >= FACTOR).any()))


def said_of_validity(codes: pd.DataFrame) -> Finding:
    """Makes a difference if free edits have `FACTOR` times the L0, or negative entries."""
    none, free, valid = (codes[codes["code"].str.startswith(k)] for k in ("as", "free", "valid"))
    text = (
        f"at the same separability, L0 {span(none['L0'], '.0f')} becomes "
        f"{span(free['L0'], '.0f')} and {span(free['negative'], '.0%')} of the nonzero entries "
        f"negative; valid edits have L0 {span(valid['L0'], '.0f')} and "
        f"{span(valid['negative'], '.0%')}"
    )
    dense = free["L0"].min() >= FACTOR * none["L0"].max()
    return Finding("Edited codes", text, bool(dense or (free["negative"] > 0).any()))
