"""The study "smollm2": autoencoders of SmolLM2 over samples, blocks and sparsities, and nulls.

Nulls are trained, too: with decoder or encoder kept as they were drawn (Korznikov et al.
2602.14111), or on a model of the same architecture with random weights (Heap et al. 2501.17727).
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

from saerepgeo_lib.activations.models import load_model
from saerepgeo_lib.activations.prompts import load_concepts
from saerepgeo_lib.activations.token_activations import read_concept
from saerepgeo_lib.studies import training
from saerepgeo_lib.studies.activation_store import collect
from saerepgeo_lib.studies.recipes import RECIPES, Recipe
from saerepgeo_lib.studies.study import Do, Study
from saerepgeo_lib.studies.texts import N_PASSAGES, N_SAMPLES, corpus_of

_TOPK, _L1 = RECIPES["smollm2-b10-topk"], RECIPES["smollm2-b10-l1"]
_GRID = ((_TOPK, 16), (_TOPK, 64), (_L1, 2.5), (_L1, 0.8))  # by L0, or by weights that bracket 1.5
_GRID_SAMPLES = 1_000_000


@dataclass(frozen=True)
class Point:
    """A training on the first passages of the corpus, or on a model with random weights."""

    recipe: Recipe
    n_passages: int = N_SAMPLES + N_PASSAGES
    random_model: bool = False


def points() -> list[Point]:
    """The curve over samples, the nulls with its last point as reference, then the grid."""
    curve = [replace(_TOPK, name="curve", n_samples=n * 125_000) for n in (1, 2, 4, 8)]
    nulls = [replace(curve[-1], name=f"frozen {part}", frozen=part)
             for part in ("decoder", "soft decoder", "encoder")]  # fmt: skip
    random_model = Point(replace(curve[-1], name="random model"), random_model=True)
    grid = [
        replace(like, name="grid", coefficient=c, expansion=4, n_samples=_GRID_SAMPLES,
                hook=f"blocks.{block}.hook_out")
        for block, (like, c) in product((3, 10, 20), _GRID)
    ]  # fmt: skip
    return [*map(Point, [*curve, *nulls]), random_model, *map(Point, grid)]


def prepare(work: Path, device: str) -> Do:
    """The function from a point to its result; activations are collected once in `work`."""

    @lru_cache(maxsize=1)
    def model(is_random: bool) -> Any:
        return load_model("smollm2", device=device, random_state=0 if is_random else None)

    passages = corpus_of("smollm2", model(False))

    @lru_cache(maxsize=1)  # points of one block follow each other
    def data(hook: str, n: int, is_random: bool) -> Any:
        chosen = passages[:n]
        folder = work / "random" if is_random else work
        read = collect(model(is_random), chosen, work=folder, name="smollm2", hook=hook)[1]
        concepts = {name: read_concept(model(is_random), c, hook)
                    for name, c in load_concepts().items()}  # fmt: skip
        loss = None if is_random else training.loss_on(model(False), hook, chosen, read)
        return read, concepts, loss

    def do(point: Point) -> dict[str, Any]:
        recipe = point.recipe
        read, concepts, loss = data(recipe.hook, point.n_passages, point.random_model)
        sae = training.trained(recipe, read.train, device=device)
        return training.measure(sae, read, concepts, device=device, loss=loss)

    return do


STUDY = Study(points(), prepare)
