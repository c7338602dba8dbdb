"""Case 2 composed: from prompts to spaces, and the table for any presets and concepts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from saerepgeo_lib.clusters import MIN_CLUSTER_SIZE, Labels
from saerepgeo_lib.errors import UserError, check_least
from saerepgeo_lib.latents import as_points, encode
from saerepgeo_lib.local_representations import Space, space_of
from saerepgeo_lib.models import best_device
from saerepgeo_lib.noise_sweep import RESIDUAL, randomized, stream
from saerepgeo_lib.prompts import Concept, load_concept, names_in
from saerepgeo_lib.residuals import Residuals
from saerepgeo_lib.saes import random_sae
from saerepgeo_lib.structure import Groups, groups_of, measure_spaces, structure_table
from saerepgeo_lib.subject import Subject, load_subject


def check_parameters(
    *, concept: str, n_umap_concepts: int, min_cluster_size: int, n_groups: int, n_random: int,
    n_seeds: int,
) -> None:  # fmt: skip
    """Refuse what the page could not use, before anything is loaded."""
    if not names_in(concept):
        raise UserError("concept is empty; name one, or several separated by commas")
    least = {"n_umap_concepts": (n_umap_concepts, 0), "min_cluster_size": (min_cluster_size, 2),
             "n_groups": (n_groups, 3), "n_random": (n_random, 1),
             "n_seeds": (n_seeds, 2)}  # fmt: skip
    check_least(least)


@dataclass(frozen=True)
class View:
    """A concept's content tokens in every space, with what is known of each token."""

    vectors: dict[str, Float[np.ndarray, "n _"]]
    spaces: dict[str, Space]
    groups: Groups
    entities: tuple[str, ...]
    words: tuple[str, ...]
    n_frames: int

    @property
    def single(self) -> dict[str, Space]:
        """The spaces with one draw of each random encoder."""
        return {k: v for k, v in self.spaces.items() if " #" not in k or k.endswith(" #1")}

    @property
    def known(self) -> Bool[np.ndarray, " n"]:
        """Tokens that belong to an entity."""
        return self.groups.entity >= 0


def view(subject: Subject, concept: Concept, *, n_random: int = 3, seed: int = 0) -> View:
    """The residual stream, every autoencoder's latents, and random encoders for each sparse one.

    One forward pass of the prompts.
    """
    coded = subject.tokens(concept)
    found = subject.residuals(coded)
    ids = coded.ids[found.prompt, found.position].tolist()
    words = tuple(subject.model.tokenizer.convert_ids_to_tokens(ids))
    return view_of(
        found, words, subject.autoencoders, subject.sparse, concept, n_random=n_random, seed=seed
    )


def view_of(
    found: Residuals,
    words: tuple[str, ...],
    autoencoders: Mapping[str, Any],
    sparse: Sequence[str],
    concept: Concept,
    *,
    n_random: int = 3,
    seed: int = 0,
) -> View:
    """The spaces of residual vectors that are given, with entity and frame of each token.

    Random encoders are those of Case 1 (random directions, TopK with the L0 of their SAE on these
    tokens), `n_random` draws each. Prompts without a frame count as a frame each.
    """
    vectors = {RESIDUAL: found.x.double().cpu().numpy()}
    for label, sae in autoencoders.items():
        vectors[label] = as_points(sae, found.x)
    generator = stream(seed, "encoder")
    for label in sparse:
        l0 = max(1, round(encode(autoencoders[label], found.x).l0))
        for draw in range(n_random):
            random = random_sae(autoencoders[label], l0=l0, generator=generator)
            vectors[f"{randomized(label)} #{draw + 1}"] = as_points(random, found.x)
    groups = groups_of(found, concept)
    spaces = {label: space_of(x) for label, x in vectors.items()}
    return View(vectors, spaces, groups, concept.entities, words, int(groups.frame.max()) + 1)


def overview(views: Mapping[str, View]) -> pd.DataFrame:
    """Tokens, entities, frames and the PCA dimensions of the first spaces, a row a concept."""
    rows = []
    for name, seen in views.items():
        row: dict[str, Any] = {"concept": name, "content tokens": len(seen.words)}
        row |= {"entity tokens": int(seen.known.sum()), "frames": seen.n_frames}
        row |= {f"dims, {label}": s.reduced.shape[1] for label, s in seen.single.items()}
        rows.append(row)
    return pd.DataFrame(rows)


def cluster_words(seen: View, labels: Labels, *, shown: int = 6) -> pd.DataFrame:
    """The largest clusters with their size, share of entity tokens and commonest tokens."""
    found, sizes = np.unique(labels[labels >= 0], return_counts=True)
    rows = []
    for k in found[np.argsort(-sizes, kind="stable")][:shown]:
        inside = np.flatnonzero(labels == k)
        words = pd.Series([seen.words[i] for i in inside]).value_counts().index[:4]
        share = f"{seen.known[inside].mean():.0%}"
        rows.append((len(inside), share, ", ".join(words)))
    return pd.DataFrame(rows, columns=["tokens", "of entities", "commonest"])


def joined(samples: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The tables of several concepts: concept, measure, space, value, low, high, n, note."""
    parts = [structure_table(found).assign(concept=name) for name, found in samples.items()]
    columns = ["concept", "measure", "space", "value", "low", "high", "n", "note"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def compare(
    presets: Sequence[str],
    concepts: Sequence[str],
    *,
    n_groups: int = 12,
    n_random: int = 3,
    min_cluster_size: int = MIN_CLUSTER_SIZE,
    seed: int = 0,
    device: str = "auto",
) -> pd.DataFrame:
    """Every measure of every space, for any presets and concepts, by the pipeline without UMAP.

    Columns preset, concept, measure, space, value, low, high, n (groups of frames), note; for CSV.
    `wide` makes of it a table to read or to export as LaTeX.
    """
    run_on = best_device(device)
    parts = []
    for preset in presets:
        subject = load_subject(preset, device=run_on)
        for name in concepts:
            seen = view(subject, load_concept(name), n_random=n_random, seed=seed)
            found = measure_spaces(
                seen.spaces, seen.groups, n_groups=n_groups, min_cluster_size=min_cluster_size,
                seed=seed,
            )  # fmt: skip
            parts.append(joined({name: found}).assign(preset=preset))
    table = pd.concat(parts, ignore_index=True)
    return table[["preset", *[c for c in table.columns if c != "preset"]]]


def wide(table: pd.DataFrame) -> pd.DataFrame:
    """A row a measure (of a preset and concept), a column a space: "value [low, high]"."""

    def cell(row: pd.Series) -> str:
        if not np.isfinite(row["value"]):
            return "–"
        interval = f" [{row['low']:.2f}, {row['high']:.2f}]" if np.isfinite(row["low"]) else ""
        return f"{row['value']:.2f}{interval}"

    rows = [c for c in ("preset", "concept", "measure") if c in table.columns]
    cells = table.assign(cell=table.apply(cell, axis=1))
    out = cells.pivot_table("cell", rows, "space", aggfunc="first", sort=False)
    return out.rename_axis(columns=None).reset_index()
