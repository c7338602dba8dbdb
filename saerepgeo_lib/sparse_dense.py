"""The study "sparse-dense": rank variability of sparse and dense autoencoders, layer by layer.

A point trains one autoencoder on WordNet text at one block, and takes Case 1's noise sweep over
seven concepts, beside its random encoder of equal L0 and the residual stream.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from sae_lens import SAE

from saerepgeo_lib import noise_sweep, training
from saerepgeo_lib.cores import one_thread
from saerepgeo_lib.corpus import Passage, embedded_passages
from saerepgeo_lib.latents import encode
from saerepgeo_lib.models import MINILM, load_model
from saerepgeo_lib.noise_sweep import PAPER_LEVELS, randomized
from saerepgeo_lib.prompts import load_concepts
from saerepgeo_lib.residuals import Residuals, compute_residuals
from saerepgeo_lib.saes import random_sae
from saerepgeo_lib.stratification import rank_table, variability
from saerepgeo_lib.study import Do, Study
from saerepgeo_lib.tensors import MODES, aligned_rows
from saerepgeo_lib.tokens import tokenize
from saerepgeo_lib.training import Activations, Recipe

LABELS = {"topk": "TopK SAE", "l1": "L1-ReLU SAE", "dense": "dense AE"}
DENSE = LABELS["dense"]
RULES = ("relative", "effective")  # the book's rule, and one without a threshold
# All but the two with most prompts, whose spectra cost more than those of the others together.
CONCEPTS = ("months", "days", "elements", "color", "planets", "number", "constellations")
MAX_SLOTS = 2  # tokens a prompt, as on Case 1's page
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
        return f"blocks.{self.block}.hook_out"


def recipe(name: str, seed: int) -> Recipe:
    """The recipe of a kind, by its key in `LABELS`; but for the penalty the kinds share all."""
    return Recipe(
        name, "topk" if name == "topk" else "standard", _COEFFICIENTS[name], 200_000,
        expansion=4, learning_rate=1e-3, batch_size=512, seed=seed,
    )  # fmt: skip


def train_point(point: Point, activations: Activations, *, device: str = "cpu") -> Any:
    """The point's autoencoder as it would be read back from its files, in float32."""
    metadata = {"model_name": MINILM, "hook_name": point.hook, "prepend_bos": False}
    with tempfile.TemporaryDirectory() as folder:
        with one_thread():
            trained = training.train(
                point.recipe, activations.train, metadata=metadata,
                checkpoints=Path(folder) / "steps", device=device,
            )  # fmt: skip
        trained.save_inference_model(Path(folder) / "sae")
        return SAE.load_from_disk(Path(folder) / "sae", device=device, dtype="float32").eval()


def variability_of(
    residuals: Residuals, sae: Any, *, label: str, seed: int, levels: Sequence[float] = PAPER_LEVELS
) -> dict[str, dict[str, Any]]:
    """Clean rank, relative range and ceiling of the residual stream, `sae` and its random encoder.

    By representation: "l0" on the clean tokens, "ceiling" (no rank exceeds it) and, by rule,
    "clean" rank and relative "range"; lists are over the three modes. Noise and random encoder
    are those that Case 1's sweep draws for `seed`.
    """
    rows = aligned_rows(residuals, max_slots=MAX_SLOTS).flatten()
    l0 = max(1, round(encode(sae, residuals.x[rows]).l0))
    random = random_sae(sae, l0=l0, generator=noise_sweep.stream(seed, "encoder"))
    found = noise_sweep.sweep(
        residuals, {label: sae, randomized(label): random}, sparse=(), levels=levels,
        seeds=(seed,), max_slots=MAX_SLOTS, description=label,
    )  # fmt: skip
    ranks = rank_table(found)
    spread = {rule: variability(ranks, rule=rule).set_index("label") for rule in RULES}
    clean = ranks[ranks["level"] == 0].groupby(["label", "rule"])["rank"].agg(list)
    return {
        name: {
            "l0": _rounded(found.l0[name][0, 0]),
            "ceiling": [min(found.shapes[name, mode]) for mode in MODES],
            "clean": {rule: [*map(_rounded, np.asarray(clean[name, rule]))] for rule in RULES},
            "range": {
                rule: [*map(_rounded, np.asarray(spread[rule].loc[name, "variability"]))]
                for rule in RULES
            },
        }
        for name in found.labels
    }


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


def measure_point(
    point: Point,
    activations: Activations,
    concepts: Mapping[str, Residuals],
    *,
    device: str = "cpu",
) -> dict[str, Any]:
    """The result of a point: how well the autoencoder fits, and `variability_of` every concept."""
    label, seed = LABELS[point.recipe.name], point.recipe.seed
    sae = train_point(point, activations, device=device)
    fit = training.measure(sae, activations, dict(concepts), device=device)
    names = {"fvu_held_out": "FVU", "l0_held_out": "L0", "dead_share": "dead share"}
    return {
        "fit": {name: _rounded(fit[key]) for key, name in names.items()},
        "FVU content": {name: _rounded(value) for name, value in fit["fvu_content"].items()},
        "concepts": {
            name: variability_of(residuals, sae, label=label, seed=seed)
            for name, residuals in concepts.items()
        },
    }


def _passages(n: int) -> list[Passage]:
    """The first n passages to train on, and as large a share of those held out."""
    every = embedded_passages(n_frame_sentences=training.N_FRAME_SENTENCES)
    train = [p for p in every if not p.held_out]
    held_out = [p for p in every if p.held_out]
    return train[:n] + held_out[: max(1, n * len(held_out) // len(train))]


def prepare(work: Path, device: str) -> Do:
    """The function from a point to its result; activations are collected once in `work`."""
    model = load_model("minilm", device=device)
    every = load_concepts()
    concepts = {name: every[name] for name in CONCEPTS}

    @lru_cache(maxsize=1)  # points of one block follow each other
    def data(hook: str, n_passages: int) -> tuple[Activations, dict[str, Residuals]]:
        _, activations = training.collect_minilm(model, _passages(n_passages), work=work, hook=hook)
        tokens = {
            name: tokenize(model.tokenizer, concept, n_ctx=model.cfg.n_ctx)
            for name, concept in concepts.items()
        }
        return activations, {
            name: compute_residuals(model, found, hook) for name, found in tokens.items()
        }

    def do(point: Point) -> dict[str, Any]:
        return measure_point(point, *data(point.hook, point.n_passages), device=device)

    return do


STUDY = Study(
    [
        Point(block, recipe(name, seed))
        for block in (1, 3, 5)
        for seed in range(3)
        for name in LABELS
    ],
    prepare,
)
