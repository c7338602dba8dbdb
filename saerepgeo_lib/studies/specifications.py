"""The study "specifications": Case 1's comparison under every choice of analysis that may turn it.

A specification is: whether the mean token is taken away, which tensor (of a concept or of each
input), which unfolding, which rank, and up to which noise level. Statistic: the relative range of
the rank. Unit: the concept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from saerepgeo_lib.activations.model_with_saes import load
from saerepgeo_lib.activations.prompts import load_concepts
from saerepgeo_lib.rank import rules
from saerepgeo_lib.rank.noise_sweep import Sweep, randomized, sweep
from saerepgeo_lib.rank.profiles import nulls_of
from saerepgeo_lib.studies.case1_verdict import VARIES
from saerepgeo_lib.studies.study import Do, Study

LEVELS = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 10.0)
TOPS = (0.2, 1.0, 10.0)  # the largest level that counts
TAUS = (0.003, 0.01, 0.03, 0.1, 0.3)
_LARGEST = " of the largest"
RULES = {f"rank above {tau:g}{_LARGEST}": tau for tau in TAUS}
SOFT = {"entropy": rules.effective_rank, "participation": rules.participation_ratio}
READINGS = {  # tensor (two tokens: the entity's last and one more): (tokens, mode or 0: each input)
    "two tokens, by prompt": ("content", 1),
    "two tokens, by feature": ("content", 3),
    "entity tokens": ("entity", 3),
    "each entity by itself": ("entity", 0),
}
CHOICES = ("mean token", "tensor", "rank", "noise up to")
MORE, LESS, SAME, OPEN = "varies more", "varies less", "no difference", "undecided"
CONSTANT = "not estimable"  # one value for all concepts: neither rank varies, as a rule
OUTCOMES = (MORE, SAME, OPEN, LESS, CONSTANT)
NULLS = {"residual": "the residual stream", "dense AE": "the dense autoencoder",
         "random": "a random encoder", "permuted": "its permuted latents"}  # fmt: skip
_SEEDS = (0, 1)


@dataclass(frozen=True)
class Point:
    """One concept's tokens on one model, with or without their mean."""

    preset: str
    concept: str
    tokens: str
    centred: bool


def ranges(swept: Sweep, label: str, mode: int) -> dict[str, list[float]]:
    """The relative range of every rank up to each of `TOPS`, mean over seeds and inputs.

    `mode` 0 takes the inputs' own spectra.
    """
    spectra = swept.spectra[label, mode][:, :, None] if mode else swept.inputs[label]

    def every(rank: Any) -> np.ndarray:
        return np.apply_along_axis(lambda s: rank(s).value, -1, spectra)

    named = {name: every(lambda s, tau=tau: rules.relative_rank(s, tau=tau))
             for name, tau in RULES.items()}  # fmt: skip
    named |= {name: every(rule) for name, rule in SOFT.items()}
    found = {}
    for name, rank in named.items():  # of shape levels, seeds, inputs
        up_to = [rank[: swept.levels.index(top) + 1] for top in TOPS]
        spread = [(r.max(0) - r.min(0)) / np.maximum(r[0], 1) for r in up_to]
        found[name] = [round(float(s.mean()), 4) for s in spread]
    return found


def prepare(work: Path, device: str) -> Do:
    """The function from a point to its result."""
    model = lru_cache(maxsize=1)(lambda preset: load(preset, device=device))

    def do(point: Point) -> dict[str, Any]:
        source = model(point.preset)
        acts = source.activations(load_concepts()[point.concept])
        entity = point.tokens == "entity"
        swept = sweep(
            acts.at("entity") if entity else acts, source.saes, sparse=source.sparse,
            levels=LEVELS, seeds=_SEEDS, max_slots=1 if entity else 2, centred=point.centred,
            inputs=entity, description=point.concept,
        )  # fmt: skip
        modes = {name: mode for name, (tokens, mode) in READINGS.items() if tokens == point.tokens}
        return {
            label: {name: ranges(swept, label, mode) for name, mode in modes.items()}
            for label in swept.labels
        }

    return do


STUDY = Study(
    [Point(*p) for p in product(("smollm2", "minilm"), load_concepts(), ("content", "entity"),
                                (False, True))],
    prepare,
)  # fmt: skip


def specification_table(points: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Each SAE against each null in every specification (points of `read_study`).

    Columns preset, SAE, against, `CHOICES`, value (mean difference of relative ranges over the
    concepts), low, high (Student's 95 % interval), n (concepts), outcome: more or less if the
    interval lies beyond `VARIES` on that side, no difference if it lies within, else undecided; not
    estimable, and without an interval, if all concepts have the same value.
    """
    rows = []
    for point in points:
        given, found = point["point"], point["result"]
        sparse = [label for label in found if randomized(label) in found]
        for sae, reading, rank in product(sparse, READINGS, [*RULES, *SOFT]):
            if READINGS[reading][0] != given["tokens"]:
                continue
            for against in nulls_of(sae, list(found), sparse):
                both = zip(found[sae][reading][rank], found[against][reading][rank], strict=True)
                for top, (a, b) in zip(TOPS, both, strict=True):
                    rows.append({
                        "preset": given["preset"], "SAE": sae, "against": against,
                        "mean token": "taken away" if given["centred"] else "kept",
                        "tensor": reading, "rank": rank, "noise up to": f"{top:g}",
                        "difference": a - b,
                    })  # fmt: skip
    keys = ["preset", "SAE", "against", *CHOICES]
    groups = pd.DataFrame(rows).groupby(keys, sort=False)["difference"]
    table = groups.agg(value="mean", sd="std", n="size").reset_index()
    half = stats.t.ppf(0.975, table["n"] - 1) * table.pop("sd") / np.sqrt(table["n"])
    half = half.where(half > 1e-12)
    table["low"], table["high"] = table["value"] - half, table["value"] + half
    inside = (table["low"] >= -VARIES) & (table["high"] <= VARIES)
    cases = [half.isna(), table["low"] > VARIES, table["high"] < -VARIES, inside]
    found = np.select(cases, [CONSTANT, MORE, LESS, SAME], OPEN)
    return table.assign(outcome=found)


def by_null(table: pd.DataFrame) -> pd.DataFrame:
    """`specification_table` with the nulls' names in words, those of each SAE's own joined."""
    names = {n: NULLS.get(n, NULLS.get(n.partition(" ")[0], n)) for n in table["against"].unique()}
    return table.assign(against=table["against"].map(names))


def outcome_shares(table: pd.DataFrame, by: str) -> pd.DataFrame:
    """The share of each of `OUTCOMES` by the values of a column."""
    counts = table.groupby(by, sort=False)["outcome"].value_counts().unstack(fill_value=0)
    counts = counts.reindex(columns=list(OUTCOMES), fill_value=0)
    return counts.div(counts.sum(axis=1), axis=0)


def specification_shares(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The outcomes against each null: shares of all specifications, then by each choice made."""
    parts = {}
    for null, rows in by_null(table).groupby("against", sort=False):
        shares = [outcome_shares(rows.assign(all="all"), "all")]
        for choice in CHOICES:
            prefix = "" if choice in ("tensor", "rank") else f"{choice} "
            named = rows.assign(**{choice: prefix + rows[choice].str.removesuffix(_LARGEST)})
            shares.append(outcome_shares(named, choice))
        parts[f"Against {null}"] = pd.concat(shares)
    return parts


def most_turning(table: pd.DataFrame) -> tuple[str, str, float, str, float]:
    """The choice whose values differ most in how often the SAE varies more: its name, the value
    with the largest share and the share, the value with the smallest and the share.
    """
    found = []
    for choice in CHOICES:
        share = outcome_shares(table, choice)[MORE]
        ends = str(share.idxmax()), float(share.max()), str(share.idxmin()), float(share.min())
        found.append((choice, *ends))
    return max(found, key=lambda row: row[2] - row[4])


def specification_text(table: pd.DataFrame) -> str:
    """How often each comparison comes out which way, and which choice turns it (Markdown)."""
    n, cases = len(table.drop_duplicates([*CHOICES])), len(table.groupby(["preset", "SAE"]))
    lines = [
        "**Does the rank vary more in a sparse autoencoder than where nothing sparse was "
        f"learned?** {n} ways to ask were tried on {cases} autoencoders of the book's "
        f"{table['preset'].nunique()} models, each over {table['n'].max()} concepts. So there are "
        f"{n * cases} answers against each null. They depend on each other, and their shares "
        "describe the choices, not the evidence:",
        "",
    ]
    for null, rows in by_null(table).groupby("against", sort=False):
        shares = rows["outcome"].value_counts(normalize=True)
        choice, most, high, least, low = most_turning(rows)
        more, less = (f"{shares.get(name, 0.0):.0%}" for name in (MORE, LESS))
        lines.append(
            f"- *Against {null}*: more in {more} of the answers, less in {less}, the rest neither "
            f"or undecided. What turns it most is the {choice} ({most}: more in {high:.0%}; "
            f"{least}: in {low:.0%})."
        )
    return "\n".join(lines)
