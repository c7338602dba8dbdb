"""The study of separability as a training objective: its grid, and what is measured of each SAE."""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from sae_lens import SAE
from torch import Tensor

from saerepgeo_lib.corpus import Passage, embedded_passages
from saerepgeo_lib.edits import setting_of
from saerepgeo_lib.files import sha256_json
from saerepgeo_lib.interventions import steepest
from saerepgeo_lib.latents import as_points, fvu
from saerepgeo_lib.local_representations import cluster_pca, space_of
from saerepgeo_lib.models import load_model
from saerepgeo_lib.noise_sweep import sweep
from saerepgeo_lib.prompts import Concept, load_concept
from saerepgeo_lib.residuals import Residuals, compute_residuals
from saerepgeo_lib.scaling import uniform_scaling
from saerepgeo_lib.separability_effects import runs_table
from saerepgeo_lib.separability_training import build_separable, residual_groups, separability
from saerepgeo_lib.sparse_probing import sparse_probing_accuracy
from saerepgeo_lib.stratification import rank_table, variability
from saerepgeo_lib.structure import Groups, average_dimensions, global_measures, groups_of
from saerepgeo_lib.study import Do, Study, measured
from saerepgeo_lib.tokens import tokenize
from saerepgeo_lib.training import (
    HOOK,
    METADATA,
    N_FRAME_SENTENCES,
    Recipe,
    collect_minilm,
    train,
)

N_TRAIN, N_HELD_OUT = 24_576, 1_536  # passages
CONCEPTS = ("months", "days", "elements")
PROBED = 4  # latents a probe may use
SEEDS = (0, 1, 2)
STRENGTHS = (0.0, 1.0, 3.0, 10.0, 30.0)  # chosen once, from a pilot
K = 32  # L0 of TopK
L1_WEIGHT, L1_BASELINES = 5.0, (2.5, 3.0, 6.0)  # these bracket the L0 of every strength
_LEVELS = (0.0, 0.2, 1.0)  # of noise, for the rank profile
_BATCH = 1024  # held-out tokens that fall into groups together


@dataclass(frozen=True)
class Point:
    """One training: all that its result depends on. `coefficient` is k, or the L1 weight."""

    kind: Literal["topk", "standard"]
    coefficient: float
    strength: float
    seed: int
    n_groups: int = 16
    n_samples: int = 120_000
    expansion: int = 4
    batch_size: int = 256
    learning_rate: float = 1e-3

    @property
    def recipe(self) -> Recipe:
        """How the autoencoder is trained, but for the objective."""
        return Recipe(
            "separability", self.kind, self.coefficient, self.n_samples, self.expansion,
            self.learning_rate, self.batch_size, self.seed,
        )  # fmt: skip


@dataclass(frozen=True)
class Probed:
    """A concept's content tokens, its entities' tokens among them, and what is known of each."""

    residuals: Residuals
    groups: Groups

    @property
    def entities(self) -> "Probed":
        """The last token of each prompt's entity."""
        rows = np.flatnonzero(self.residuals.entity.cpu().numpy())
        prompt = self.residuals.prompt[rows].cpu().numpy()
        last = rows[np.append(prompt[1:] != prompt[:-1], True)]
        r = self.residuals
        part = Residuals(r.x[last], r.prompt[last], r.position[last], r.entity[last])
        return Probed(part, self.groups.rows(last))


def probed(model: Any, concept: Concept) -> Probed:
    """One forward pass over a concept's prompts."""
    coded = tokenize(model.tokenizer, concept, n_ctx=model.cfg.n_ctx)
    found = compute_residuals(model, coded, HOOK)
    return Probed(found, groups_of(found, concept))


def trained(point: Point, activations: list[np.ndarray], *, checkpoints: Path, device: str) -> Any:
    """The inference SAE that a point trains, decoder rows of norm 1, as SAELens saves and loads it.

    Latents are then in the units of what they add to the reconstruction. The checkpoints are
    removed at the end.
    """
    build = partial(build_separable, strength=point.strength, n_groups=point.n_groups)
    sae = train(
        point.recipe, activations, metadata=METADATA, checkpoints=checkpoints, device=device,
        build=build,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        sae.save_inference_model(folder)
        out = SAE.load_from_disk(folder, device=device, dtype="float32").eval()
    if point.kind == "standard":  # TopK's rows are given norm 1 when it is saved
        out.fold_W_dec_norm()
    shutil.rmtree(checkpoints, ignore_errors=True)
    return out


def measure(
    sae: Any, held_out: Float[Tensor, "tokens d"], concepts: Mapping[str, Probed]
) -> dict[str, Any]:
    """Everything that is asked of one SAE: on held-out tokens, and by concept."""
    return measure_text(sae, held_out) | {
        "concepts": {name: measure_concept(sae, found) for name, found in concepts.items()}
    }


@torch.no_grad()
def measure_text(sae: Any, x: Float[Tensor, "tokens d"]) -> dict[str, float]:
    """FVU, mean L0, share of latents that never fire, and the objective, on these tokens.

    The objective is the mean over batches of 1,024 of the tokens (or all) in a fixed random order.
    """
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).to(x.device)
    apart, fired, l0 = [], torch.zeros(sae.cfg.d_sae, dtype=torch.bool, device=x.device), 0
    for rows in order.split(_BATCH):
        z = sae.encode(x[rows])
        fired |= (z != 0).any(0)
        l0 += int((z != 0).sum())
        if len(rows) == min(_BATCH, len(x)):  # the last batch is smaller
            apart.append(separability(z, residual_groups(x[rows])).item())
    return {
        "FVU": fvu(sae, x),
        "L0": l0 / len(x),
        "dead": 1 - fired.double().mean().item(),
        "separability": float(np.mean(apart)),
    }


def measure_concept(sae: Any, found: Probed) -> dict[str, float]:
    """Fit, separability of entities, probing, and a statistic of each Case, on one concept.

    Keys: FVU (content tokens); AEDP (of entities over the radius of all content tokens, as in Case
    2); probing (accuracy); rank range (Case 1: relative range of the relative rank, feature mode);
    clusters and dimension (Case 2: HDBSCAN's clusters, and their mean TwoNN dimension); rho* and
    slope (Case 3: scaling with the least error, and % of error a % of separability; entities'
    tokens).
    """
    x, groups, named = found.residuals.x, found.groups, found.entities
    z = as_points(sae, x)
    labels = cluster_pca(space_of(z))
    swept = sweep(
        found.residuals, {"SAE": sae}, sparse=[], levels=_LEVELS, seeds=(0, 1), description="rank"
    )
    ranges = variability(rank_table(swept), rule="relative").query("label == 'SAE' and mode == 3")
    here = setting_of(sae, named.residuals.x, named.groups.entity)
    known = named.groups
    return {
        "FVU": fvu(sae, x),
        "AEDP": global_measures(z, groups.entity)["AEDP of entities"],
        "probing": sparse_probing_accuracy(
            as_points(sae, named.residuals.x), known.entity, known.frame, k=PROBED
        ),
        "rank range": float(ranges["variability"].mean()),
        "clusters": int(labels.max() + 1),
        "dimension": average_dimensions(z, labels)[0],
        "rho*": uniform_scaling(here).optimum,
        "slope": steepest(here.single)[0],
    }


def passages() -> list[Passage]:
    """Part of the shipped autoencoders' corpus: its first passages, and its first held out."""
    corpus = embedded_passages(n_frame_sentences=N_FRAME_SENTENCES)
    held_out = [p for p in corpus if p.held_out][:N_HELD_OUT]
    return [p for p in corpus if not p.held_out][:N_TRAIN] + held_out


def prepare(work: Path, device: str) -> Do:
    """Collect the activations, and give the function from a point to its result.

    On a CPU every point is computed by one thread: it then rounds the same on any number of cores,
    and two calls of the study keep two cores busy.
    """
    model = load_model("minilm", device=device)
    folder, activations = collect_minilm(model, passages(), work=work)
    concepts = {name: probed(model, load_concept(name)) for name in CONCEPTS}
    held_out = torch.from_numpy(activations.held_out).float().to(device)

    def do(point: Point) -> dict[str, Any]:
        n_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            run = folder / f"separability-{sha256_json(asdict(point))[:12]}"
            sae = trained(point, activations.train, checkpoints=run, device=device)
            return measure(sae, held_out, concepts)
        finally:
            torch.set_num_threads(n_threads)

    return do


def variance_in_training(concepts: Mapping[str, Probed]) -> float:
    """Mean squared distance of a concept's tokens from their mean, mean over concepts.

    In the units of SAELens' trainer, which scales residuals to a mean norm of sqrt(d).
    """
    found = []
    for one in concepts.values():
        x = one.residuals.x.double()
        scale = x.shape[1] / x.norm(dim=1).mean().square()
        found.append((scale * (x - x.mean(0)).square().sum(1).mean()).item())
    return float(np.mean(found))


def demonstration(
    training: Mapping[str, Probed],
    held_out: Mapping[str, Probed],
    *,
    strength: float,
    n_samples: int,
    seed: int,
    device: str,
) -> pd.DataFrame:
    """Small SAEs with and without the objective, on concept prompts alone; `runs_table` of them.

    Trained on the content tokens of some concepts, measured on those of others.
    """
    x = torch.cat([found.residuals.x for found in training.values()]).half().cpu().numpy()
    unseen = torch.cat([found.residuals.x for found in held_out.values()])

    def do(point: Point) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            sae = trained(point, [x], checkpoints=Path(folder), device=device)
        return measure(sae, unseen, held_out)

    small = [
        replace(point, n_samples=n_samples, expansion=2)
        for weight in (0.0, strength)
        for point in (Point("topk", K, weight, seed), Point("standard", L1_WEIGHT, weight, seed))
    ]
    table = runs_table([measured(point, do) for point in small])
    return table.drop(columns=["seed", "seconds"])


def points() -> tuple[Point, ...]:
    """The grid: every kind, seed and strength; for L1 also the baselines at its other weights."""
    out = []
    for seed in SEEDS:
        for strength in STRENGTHS:
            out += [
                Point("topk", K, strength, seed),
                Point("standard", L1_WEIGHT, strength, seed),
            ]
        out += [Point("standard", weight, 0.0, seed) for weight in L1_BASELINES]
    return tuple(out)


STUDY = Study(points(), prepare)
