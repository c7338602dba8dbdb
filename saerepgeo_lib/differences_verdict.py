"""What the measured differences come to: one sentence each, and whether they meet a criterion."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from saerepgeo_lib.differences import CONTENT, GW, PADDED, THRESHOLD
from saerepgeo_lib.noise_sweep import RESIDUAL

AGREES = 0.9  # adjusted Rand index from which two clusterings count as the same
FACTOR = 2.0  # of an error or a count, from which a difference counts as one of kind


@dataclass(frozen=True)
class Finding:
    """What a difference makes, in words of a run; `changes` says whether it meets its criterion."""

    text: str
    changes: bool


def said_of_picking(picked: pd.DataFrame) -> Finding:
    """Makes a difference if, for some SAE, the two errors of the best iterate move oppositely.

    `picked`: rows of `differences.picked` with a column SAE.
    """
    words, opposite = [], False
    for label, part in picked.groupby("SAE", sort=False):
        best = part.groupby("measure")["best"].median() - 1
        opposite |= bool(best["z-scored"] * best["own"] < 0)
        words.append(f"{label} {best['z-scored']:+.0%} z-scored, {best['own']:+.0%} its own")
    return Finding(f"change of the error at the best iterate: {'; '.join(words)}", opposite)


def said_of_distance(losses: pd.DataFrame, gradients: pd.DataFrame) -> Finding:
    """Makes a difference if 1 / AEDP falls somewhere where d_GW rises.

    `losses` and `gradients`: of `differences.distance_losses` and `gradients`, with a column SAE.
    """
    apart = steps = 0
    for _, part in losses.groupby("SAE", sort=False):
        moves = np.sign(part[["1 / AEDP", "d_GW"]].diff().dropna())
        apart += int((moves["1 / AEDP"] != moves["d_GW"]).sum())
        steps += len(moves)
    reached = gradients.loc[gradients["procedure"] == GW, "AEDP"]
    text = (
        f"under scaling they move in opposite ways on {apart} of {steps} steps; where the true "
        f"d_GW is lowered (with the error), AEDP ends at {_span(reached)} of itself"
    )
    return Finding(text, apart > 0)


def said_of_masking(clusters: pd.DataFrame) -> Finding:
    """Makes a difference if clusters appear without content tokens, or others hold them."""
    full = clusters[clusters["tokens"] == PADDED]
    base = clusters[clusters["tokens"] == CONTENT]
    regrouped = bool((full["agreement"] < AGREES).any())
    text = (
        f"clusters {_span(base['clusters'], '.0f')} become {_span(full['clusters'], '.0f')}, of "
        f"which {_span(full['without content'], '.0f')} hold no content token; content tokens are "
        f"grouped {'otherwise' if regrouped else 'alike'} (adjusted Rand index "
        f"{_span(full['agreement'])}); mean local dimension {_span(base['avg. ID'], '.1f')} "
        f"becomes {_span(full['avg. ID'], '.1f')}"
    )
    return Finding(text, regrouped or bool((full["without content"] > 0).any()))


def said_of_levels(saturation: pd.DataFrame) -> Finding:
    """Makes a difference if the rank, one number at level 0, grows over the levels."""
    sparse = saturation[(saturation["label"] != RESIDUAL) & (saturation["noise"] == "relative")]
    text = (
        f"at level 0 the rank of the latents varies by {sparse['range at level 0'].max():.0f}; "
        f"over all levels it is {_span(sparse['clean'], '.0f')} without noise and up to "
        f"{_span(sparse['largest'], '.0f')} with it"
    )
    return Finding(text, bool((sparse["largest"] > sparse["clean"]).any()))


def said_of_scaling(saturation: pd.DataFrame, spread: float) -> Finding:
    """Makes a difference if some profile saturates at another level. `spread`: the residual's."""
    at = saturation.pivot(index="label", columns="noise", values="saturates at")
    other = at[at["relative"] != at["absolute"]]
    words = [f"{k} {r['absolute']:g} against {r['relative']:g}" for k, r in other.iterrows()]
    text = (
        f"an absolute level of 1 is a relative one of {1 / spread:.2g}; the rank saturates at "
        + (f"another level (absolute against relative) for {'; '.join(words)}" if words else
           f"the same level ({_span(at['relative'], 'g')})")
    )  # fmt: skip
    return Finding(text, bool(words))


def said_of_standardising(errors: pd.DataFrame) -> Finding:
    """Makes a difference if it multiplies some unedited error by `FACTOR` or more."""
    words = [
        f"{r['SAE']} {r['own']:.2f} becomes {r['z-scored']:.3g} (x {r['factor']:.3g})"
        for r in errors.to_dict("records")
    ]
    text = f"error of the unedited code, over the target's variance: {'; '.join(words)}"
    return Finding(text, bool((errors["factor"] >= FACTOR).any()))


def said_of_validity(codes: pd.DataFrame) -> Finding:
    """Makes a difference if free edits have `FACTOR` times the L0, or negative entries."""
    whole = codes.set_index("code")
    free, none = whole.loc[["free, gradient", "free, random"]], whole.loc[["as encoded"]]
    valid = whole.loc[["valid, gradient"]]
    text = (
        f"at the same separability, L0 {_span(none['L0'], '.0f')} becomes "
        f"{_span(free['L0'], '.0f')} and {_span(free['negative'], '.0%')} of the nonzero entries "
        f"negative; valid edits have L0 {_span(valid['L0'], '.0f')} and "
        f"{_span(valid['negative'], '.0%')}"
    )
    dense = free["L0"].min() >= FACTOR * none["L0"].max()
    return Finding(text, bool(dense or (free["negative"] > 0).any()))


def said_of_threshold(errors: pd.DataFrame) -> Finding:
    """Makes a difference if the median of |z| lies above 0: then it decides what is active."""
    text = (
        f"the median of all latents is {_span(errors['median'], 'g')}; "
        f"{_span(errors['below'], '.1%')} of the active latents lie below {THRESHOLD:g}"
    )
    return Finding(text, bool((errors["median"] > 0).any()))


def conclusion(findings: Sequence[tuple[str, Finding]]) -> str:
    """Which of the measured differences meet their criterion, and which do not (Markdown)."""
    changing = [topic for topic, found in findings if found.changes]
    others = [topic for topic, found in findings if not found.changes]
    return (
        f"By their criteria these make a difference in this run: {'; '.join(changing) or 'none'}. "
        f"These do not: {'; '.join(others) or 'none'}."
    )


def overview(
    rows: Sequence[tuple[str, str, str, str]], findings: Sequence[tuple[str, Finding]],
    not_measured: Mapping[str, str],
) -> str:  # fmt: skip
    """A Markdown table: topic, the paper, its code, this book, and what difference it makes.

    `rows` hold the first four columns; the last comes from the finding on that topic, or says why
    there is none. Raises KeyError for a topic with neither.
    """
    said = {topic: found.text for topic, found in findings}
    said |= {topic: f"*not measured*: {why}" for topic, why in not_measured.items()}
    head = (
        "| Topic | The paper describes | Its public code | This book | What difference it makes |"
    )
    lines = [f"| {' | '.join((f'**{row[0]}**', *row[1:], said[row[0]]))} |" for row in rows]
    return "\n".join([head, "|---|---|---|---|---|", *lines])


def _span(values: pd.Series, form: str = ".2f") -> str:
    """Least and largest value, or the one value that all have."""
    low, high = format(values.min(), form), format(values.max(), form)
    return low if low == high else f"{low} to {high}"
