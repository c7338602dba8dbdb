"""The study "smollm2": autoencoders of SmolLM2 over kinds, samples, blocks, sparsities and seeds.

Nulls are trained, too: with decoder or encoder kept as they were drawn (Korznikov et al.
2602.14111), on a model of the same architecture with random weights (Heap et al. 2501.17727), and
dense bottlenecks, of which the widest loses about as much as the SAEs.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saerepgeo_lib.activations.models import load_model
from saerepgeo_lib.activations.prompts import load_concepts
from saerepgeo_lib.activations.token_activations import TokenActivations, read_concept
from saerepgeo_lib.geometry.points import as_points
from saerepgeo_lib.geometry.structure import global_measures
from saerepgeo_lib.stats.estimates import Estimate, NotEstimable, jackknife
from saerepgeo_lib.steering.latents import ClusteredLatents
from saerepgeo_lib.steering.scaling import shrinkage
from saerepgeo_lib.studies import training
from saerepgeo_lib.studies.activation_store import collect
from saerepgeo_lib.studies.recipes import RECIPES, Recipe, seeds_of
from saerepgeo_lib.studies.study import Do, Study
from saerepgeo_lib.studies.texts import N_PASSAGES, N_SAMPLES, corpus_of

N_SEEDS, N_GROUPS = 3, 12  # trainings of each; groups of frames, or of rows of text, left out
_MORE = 240_000  # passages of the larger text
_TOPK, _L1 = RECIPES["smollm2-b10-topk"], RECIPES["smollm2-b10-l1"]
_KINDS = ("topk", "l1", "batchtopk", "gated", "matryoshka", "jumprelu", "dense")
_SPARSITIES = ((_TOPK, 16), (_TOPK, 64), (_L1, 2.5), (_L1, 0.8))  # L0, or weights around 1.5
_BOTTLENECKS = (1 / 16, 1 / 8, 1 / 4)  # widths over the residual stream's


@dataclass(frozen=True)
class Point:
    """A training on the first passages of the corpus, or on a model with random weights."""

    recipe: Recipe
    n_passages: int = N_SAMPLES + N_PASSAGES
    random_model: bool = False


def _trained(name: str, recipe: Recipe, **changes: Any) -> list[Recipe]:
    """The recipe under a name, once for each training seed."""
    seeds = seeds_of(replace(recipe, **changes), N_SEEDS)
    return [replace(r, name=name, n_samples=_TOPK.n_samples) for r in seeds]


def points() -> list[Point]:
    """Kinds and nulls by seed, curves over samples on two sizes of text, blocks by sparsity."""
    kinds = [r for k in _KINDS for r in _trained(k, RECIPES[f"smollm2-b10-{k}"])]
    nulls = [r for part in ("decoder", "soft decoder", "encoder")
             for r in _trained(f"frozen {part}", _TOPK, frozen=part)]  # fmt: skip
    dense = RECIPES["smollm2-b10-dense"]
    narrow = [r for width in _BOTTLENECKS for r in _trained("bottleneck", dense, expansion=width)]
    random_model = [Point(r, random_model=True) for r in _trained("random model", _TOPK)]
    curve = [replace(_TOPK, name="curve", n_samples=n * 125_000) for n in (1, 2, 4, 8, 32)]
    longest = replace(_TOPK, name="curve", n_samples=16_000_000)
    more = [Point(r, n_passages=N_SAMPLES + _MORE) for r in (curve[-1], longest)]
    grid = [
        replace(like, name="grid", coefficient=c, hook=f"blocks.{block}.hook_out")
        for block, (like, c) in product((3, 10, 20), _SPARSITIES)
    ]
    return [*map(Point, [*kinds, *nulls, *narrow, *curve]), *random_model, *map(Point, grid), *more]


@torch.no_grad()
def rho_of_text(sae: Any, x: Float[Tensor, "tokens d"]) -> Estimate | NotEstimable:
    """Case 3's rho* (`scaling.uniform_scaling`) on running text, minus 1: how far an SAE shrinks.

    The interval leaves out one of 12 stretches of the text at a time.
    """
    decoded = sae.decode(sae.encode(x)).double()
    error, stretch = x.double() - decoded, torch.arange(len(x), device=x.device) * N_GROUPS

    def excess(keep: Tensor) -> float:
        moved = decoded[keep] - decoded[keep].mean(0)
        return ((error[keep] * moved).sum() / moved.square().sum()).item()

    parts = [excess(stretch // len(x) != i) for i in range(N_GROUPS)]
    return jackknife(excess(stretch >= 0), np.array(parts))


def cases(sae: Any, concepts: Iterable[TokenActivations]) -> dict[str, dict[str, Any]]:
    """What Cases 2 and 3 ask, by concept, on the entities' tokens in both spaces.

    Keys: those of `scaling.shrinkage`, and AEDP of entities over the radius of their own tokens, in
    the latents and in the residual stream.
    """
    found = {}
    for acts in concepts:
        own = acts.at("entity")
        row = shrinkage(ClusteredLatents.of(sae, own.x, own.entity), own.folds(N_GROUPS))
        spaces = {"AEDP latents": as_points(sae, own.x),
                  "AEDP residual": own.x.double().cpu().numpy()}  # fmt: skip
        row |= {k: global_measures(x, own.entity)["AEDP of entities"] for k, x in spaces.items()}
        assert own.concept is not None
        found[own.concept.name] = {k: v if np.isfinite(v) else None for k, v in row.items()}
    return found


def prepare(work: Path, device: str) -> Do:
    """The function from a point to its result; activations are collected once in `work`."""

    @lru_cache(maxsize=1)
    def model(is_random: bool) -> Any:
        return load_model("smollm2", device=device, random_state=0 if is_random else None)

    passages = corpus_of("smollm2", model(False), n_passages=_MORE)

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
        fit = training.measure(sae, read, concepts, device=device, loss=loss)
        text = torch.from_numpy(read.held_out).float().to(device)
        return {**fit, "rho* - 1 held out": asdict(rho_of_text(sae, text)),
                "cases": cases(sae, concepts.values())}  # fmt: skip

    return do


STUDY = Study(points(), prepare)
