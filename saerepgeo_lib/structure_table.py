"""Case 2 composed: from prompts to spaces, and the table for any presets and concepts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from saerepgeo_lib.claims import Claim
from saerepgeo_lib.clusters import MIN_CLUSTER_SIZE, Labels
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.latents import encode
from saerepgeo_lib.local_representations import Space, space_of
from saerepgeo_lib.models import best_device, load_model
from saerepgeo_lib.noise_sweep import RESIDUAL, randomized, stream
from saerepgeo_lib.presets import get_preset
from saerepgeo_lib.prompts import Concept, load_concept
from saerepgeo_lib.residuals import compute_residuals
from saerepgeo_lib.saes import check_fit, common_hook, load_sae, random_sae, wants_bos
from saerepgeo_lib.structure import DIRECTIONS, Groups, measure_spaces, structure_table
from saerepgeo_lib.tokens import tokenize


def names_in(text: str) -> list[str]:
    """Names separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def check_parameters(
    *, concept: str, umap_concepts: str, min_cluster_size: int, n_subsamples: int, n_seeds: int
) -> None:
    """Refuse what the page could not use, before anything is loaded."""
    if not names_in(concept):
        raise UserError("concept is empty; name one, or several separated by commas")
    if strangers := [name for name in names_in(umap_concepts) if name not in names_in(concept)]:
        raise UserError(f"umap_concepts names {strangers[0]!r}, which is not among the concepts")
    if min_cluster_size < 2:
        raise UserError(f"min_cluster_size must be at least 2, got {min_cluster_size}")
    if n_subsamples < 3:
        raise UserError(
            f"n_subsamples must be at least 3, got {n_subsamples}: an interval needs them"
        )
    if n_seeds < 2:
        raise UserError(f"n_seeds must be at least 2, got {n_seeds}: stability compares seeds")


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
    def known(self) -> Bool[np.ndarray, " n"]:
        """Tokens that belong to an entity."""
        return self.groups.entity >= 0


def view(
    model: Any,
    autoencoders: Mapping[str, Any],
    sparse: Sequence[str],
    concept: Concept,
    *,
    seed: int = 0,
) -> View:
    """The residual stream, every autoencoder's latents, and a random encoder for each sparse one.

    One forward pass of the prompts. Prompts without a frame count as a frame each.
    """
    for label, sae in autoencoders.items():
        check_fit(sae, model.cfg.d_model, label)
    coded = tokenize(
        model.tokenizer, concept, n_ctx=model.cfg.n_ctx, prepend_bos=wants_bos(autoencoders)
    )
    found = compute_residuals(model, coded, common_hook(autoencoders))
    vectors = {RESIDUAL: found.x.double().cpu().numpy()}
    for label, sae in autoencoders.items():
        vectors[label] = encode(sae, found.x).values.double().cpu().numpy()
    generator = stream(seed, "encoder")
    for label in sparse:
        l0 = max(1, round(encode(autoencoders[label], found.x).l0))
        random = random_sae(autoencoders[label], l0=l0, generator=generator)
        vectors[randomized(label)] = encode(random, found.x).values.double().cpu().numpy()
    prompts = [concept.prompts[int(p)] for p in found.prompt]
    entities = concept.entities
    frames = {f: i for i, f in enumerate(dict.fromkeys(p.frame or p.text for p in prompts))}
    groups = Groups(
        np.array(
            [
                entities.index(p.entity) if own and p.entity is not None else -1
                for p, own in zip(prompts, found.entity.tolist(), strict=True)
            ]
        ),
        np.array([frames[p.frame or p.text] for p in prompts]),
    )
    ids = coded.ids[found.prompt, found.position].tolist()
    words = tuple(model.tokenizer.convert_ids_to_tokens(ids))
    spaces = {label: space_of(x) for label, x in vectors.items()}
    return View(vectors, spaces, groups, entities, words, len(frames))


def overview(views: Mapping[str, View]) -> pd.DataFrame:
    """Tokens, entities, frames and the PCA dimensions of the first spaces, a row a concept."""
    rows = []
    for name, seen in views.items():
        row: dict[str, Any] = {"concept": name, "content tokens": len(seen.words)}
        row |= {"entity tokens": int(seen.known.sum()), "frames": seen.n_frames}
        row |= {f"dims, {label}": s.reduced.shape[1] for label, s in seen.spaces.items()}
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


def joined(samples: Mapping[str, pd.DataFrame], views: Mapping[str, View]) -> pd.DataFrame:
    """The tables of several concepts: concept, measure, space, value, low, high, n (frames)."""
    parts = [
        structure_table(found, n_frames=views[name].n_frames).assign(concept=name)
        for name, found in samples.items()
    ]
    columns = ["concept", "measure", "space", "value", "low", "high", "n"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def compare(
    presets: Sequence[str],
    concepts: Sequence[str],
    *,
    n_subsamples: int = 10,
    min_cluster_size: int = MIN_CLUSTER_SIZE,
    seed: int = 0,
    device: str = "auto",
) -> pd.DataFrame:
    """The paper's table for any presets and concepts: every measure of every space.

    Columns preset, concept, measure, space, value, low, high, n (frames). A pandas frame: `to_csv`
    and `to_latex` export it.
    """
    run_on = best_device(device)
    parts = []
    for preset in presets:
        chosen = get_preset(preset)
        autoencoders = {k: load_sae(source, device=run_on) for k, source in chosen.saes.items()}
        model = load_model(chosen.model, device=run_on)
        sparse = [label for label, source in chosen.saes.items() if source.sparse]
        for name in concepts:
            seen = view(model, autoencoders, sparse, load_concept(name), seed=seed)
            found = measure_spaces(
                seen.spaces, seen.groups, n_subsamples=n_subsamples,
                min_cluster_size=min_cluster_size, seed=seed,
            )  # fmt: skip
            parts.append(joined({name: found}, {name: seen}).assign(preset=preset))
    table = pd.concat(parts, ignore_index=True)
    return table[["preset", *[c for c in table.columns if c != "preset"]]]


def differences(claims: Sequence[Claim], against: str) -> pd.DataFrame:
    """Findings against one space, for a figure: measure, concept, SAE, value, low, high, sign."""
    signs = dict(DIRECTIONS.values())
    rows = []
    for claim in claims:
        concept, _, rest = claim.subject.partition(": ")
        sae, _, other = rest.partition(" minus ")
        if other == against:
            row = (claim.statistic, concept, sae, claim.value, claim.low, claim.high)
            rows.append((*row, signs[claim.statistic]))
    columns = ["measure", "concept", "SAE", "value", "low", "high", "sign"]
    return pd.DataFrame(rows, columns=columns)


def verdict_text(agreed: pd.DataFrame) -> str:
    """The agreement table in words (Markdown), a line a claim."""
    words = {
        "case2-dimension-up": "Local dimensionality rises",
        "case2-substructure-up": "Substructure rises",
        "case2-global-compressed": "The global structure is compressed",
        "case2-merging": "Similar features merge",
        "case2-distinction-up": "Distinctions are amplified",
    }
    lines = []
    for claim, text in words.items():
        chosen = agreed[agreed["claim"] == claim]
        part: dict[Any, dict[Any, Any]] = chosen.set_index("against").to_dict("index")
        if RESIDUAL not in part:
            continue
        row = part[RESIDUAL]
        line = (
            f"- **{text}** ({row['measure']}): claimed sign in {row['claimed sign']} of "
            f"{row['cases']} cases, beyond chance in {row['beyond chance']}, the opposite beyond "
            f"chance in {row['opposite beyond chance']} (differences {row['smallest']:+.2f} to "
            f"{row['largest']:+.2f})."
        )
        controls = [
            f"{part[kind]['beyond chance']} of {part[kind]['cases']} exceed the {name}"
            for kind, name in (("random", "random encoder"), ("dense", "dense autoencoder"))
            if kind in part
        ]
        lines.append(line + (" Controls: " + ", ".join(controls) + "." if controls else ""))
    return "\n".join(lines)
