"""The study "sparse-dense": rank variability of sparse and dense autoencoders, layer by layer.

A point trains one autoencoder on WordNet text at one block, and takes Case 1's noise sweep over
seven concepts, beside its random encoder of equal L0 and the residual stream.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

from saerepgeo_lib.activations.models import load_model
from saerepgeo_lib.activations.prompts import load_concepts
from saerepgeo_lib.activations.token_activations import TokenActivations, read_activations
from saerepgeo_lib.activations.tokens import tokenize
from saerepgeo_lib.rank.noise_sweep import PAPER_LEVELS, RESIDUAL, randomized
from saerepgeo_lib.rank.profiles import ceilings
from saerepgeo_lib.rank.unfoldings import MODES
from saerepgeo_lib.studies import training
from saerepgeo_lib.studies.activation_store import Activations, collect
from saerepgeo_lib.studies.corpus import embedded_passages
from saerepgeo_lib.studies.rank_profile import rank_profile
from saerepgeo_lib.studies.recipes import Recipe
from saerepgeo_lib.studies.sparse_dense_results import LABELS, RULES
from saerepgeo_lib.studies.study import Do, Study
from saerepgeo_lib.studies.texts import N_FRAME_SENTENCES

# All but the two with most prompts, whose spectra cost more than those of the others together.
CONCEPTS = ("months", "days", "elements", "color", "planets", "number", "constellations")
MAX_SLOTS = 2  # tokens per prompt, as on Case 1's page
_COEFFICIENTS = {"topk": 32.0, "l1": 2.3, "dense": 0.0}


@dataclass(frozen=True)
class Point:
    """An autoencoder (recipe with its seed) at a block, trained on the first passages."""

    block: int
    recipe: Recipe
    n_passages: int = 16_384

    @property
    def hook(self) -> str:
        """Where the autoencoder reads."""
        return self.recipe.hook


def recipe(name: str, seed: int, block: int) -> Recipe:
    """The recipe of a kind, by its key in `LABELS`; but for the penalty the kinds share all."""
    return Recipe(
        name, "topk" if name == "topk" else "standard", _COEFFICIENTS[name], 200_000,
        expansion=4, learning_rate=1e-3, batch_size=512, seed=seed,
        hook=f"blocks.{block}.hook_out",
    )  # fmt: skip


def variability_of(
    acts: TokenActivations, sae: Any, *, label: str, seed: int,
    levels: Sequence[float] = PAPER_LEVELS,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Clean rank, relative range and ceiling of the residual stream, `sae` and its random encoder.

    By representation: "l0" on the clean tokens, "ceiling" (no rank exceeds it) and, by rule,
    "clean" rank and relative "range"; lists are over the three modes.
    """
    profile = rank_profile(
        acts, saes={label: sae}, levels=levels, seeds=[seed], max_slots=MAX_SLOTS
    )
    clean = profile.ranks.query("level == 0").groupby(["label", "rule"])["rank"]
    spread = profile.variability.groupby(["label", "rule"])["variability"]

    def by_rule(groups: Any, name: str) -> dict[str, list[float]]:
        return {rule: [_rounded(v) for v in groups.get_group((name, rule))] for rule in RULES}

    return {
        name: {
            "l0": _rounded(profile.sweep.l0[name][0, 0]),
            "ceiling": [ceilings(profile.sweep, mode=mode)[name] for mode in MODES],
            "clean": by_rule(clean, name),
            "range": by_rule(spread, name),
        }
        for name in (RESIDUAL, label, randomized(label))
    }


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


def measure_point(
    point: Point, activations: Activations, concepts: Mapping[str, TokenActivations], *,
    device: str = "cpu",
) -> dict[str, Any]:  # fmt: skip
    """The result of a point: how well the autoencoder fits, and `variability_of` every concept.

    The autoencoder is the one that would be read back from its files, in float32.
    """
    sae = training.trained(point.recipe, activations.train, device=device)
    fit = training.measure(sae, activations, dict(concepts), device=device)
    names = {"fvu_held_out": "FVU", "l0_held_out": "L0", "dead_share": "dead share"}
    label, seed = LABELS[point.recipe.name], point.recipe.seed
    return {
        "fit": {name: _rounded(fit[key]) for key, name in names.items()},
        "FVU content": {name: _rounded(value) for name, value in fit["fvu_content"].items()},
        "concepts": {
            name: variability_of(acts, sae, label=label, seed=seed)
            for name, acts in concepts.items()
        },
    }


def prepare(work: Path, device: str) -> Do:
    """The function from a point to its result; activations are collected once in `work`."""
    model, concepts = load_model("minilm", device=device), load_concepts()
    tokens = {n: tokenize(model.tokenizer, concepts[n], n_ctx=model.cfg.n_ctx) for n in CONCEPTS}
    passages = embedded_passages(n_frame_sentences=N_FRAME_SENTENCES)
    train, held_out = ([p for p in passages if p.held_out == out] for out in (False, True))

    @lru_cache(maxsize=1)  # points of one block follow each other
    def data(hook: str, n: int) -> tuple[Activations, dict[str, TokenActivations]]:
        chosen = train[:n] + held_out[: max(1, n * len(held_out) // len(train))]
        _, activations = collect(model, chosen, work=work, hook=hook)
        return activations, {n: read_activations(model, t, hook) for n, t in tokens.items()}

    def do(point: Point) -> dict[str, Any]:
        return measure_point(point, *data(point.hook, point.n_passages), device=device)

    return do


GRID = product((1, 3, 5), range(3), LABELS)
STUDY = Study([Point(block, recipe(name, seed, block)) for block, seed, name in GRID], prepare)
