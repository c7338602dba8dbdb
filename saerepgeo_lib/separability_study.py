"""The study of separability as a training objective: its grid, and what is measured of each SAE."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from sae_lens import SAE
from torch import Tensor

from saerepgeo_lib.cores import one_thread
from saerepgeo_lib.corpus import Passage, embedded_passages
from saerepgeo_lib.edits import setting_of
from saerepgeo_lib.interventions import steepest
from saerepgeo_lib.latents import as_points, fvu
from saerepgeo_lib.local_representations import cluster_pca, space_of
from saerepgeo_lib.models import load_model
from saerepgeo_lib.noise_sweep import sweep
from saerepgeo_lib.points import Points
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
PROBED = 1  # latents a probe may use
SEEDS = (0, 1, 2)
STRENGTHS = (0.0, -30.0, 3.0, 10.0, 30.0, 100.0)  # chosen once, from a pilot
K = 32  # L0 of TopK
L1_WEIGHT, L1_BASELINES = 5.0, (1.5, 2.0, 3.0, 7.0)  # these bracket the L0 of every strength
_LEVELS = (0.0, 0.2, 1.0)  # of noise, for the rank profile


@dataclass(frozen=True)
class Point:
    """One training: all that its result depends on. `coefficient` is k, or the L1 weight."""

    kind: Literal["topk", "standard"]
    coefficient: float
    strength: float
    seed: int
    n_groups: int = 16
    n_samples: int = 200_000
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

    Latents are then in the units of what they add to the reconstruction.
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
    return out


def measure(
    sae: Any, point: Point, held_out: Float[Tensor, "tokens d"], concepts: Mapping[str, Probed]
) -> dict[str, Any]:
    """Everything that is asked of one SAE: on held-out tokens, and by concept."""
    return measure_text(sae, point, held_out) | {
        "concepts": {name: measure_concept(sae, found) for name, found in concepts.items()}
    }


@torch.no_grad()
def measure_text(sae: Any, point: Point, x: Float[Tensor, "tokens d"]) -> dict[str, float]:
    """FVU, mean L0, share of latents that never fire, the objective, and the rest of the loss.

    On these tokens, in the batches of the point (a fixed random order). "loss" is what was trained
    on without the objective, in its units: squared error and L1 of inputs with the mean norm
    sqrt(d).
    """
    scale = x.shape[1] ** 0.5 / x.norm(dim=1).mean().item()
    weight = point.coefficient if point.kind == "standard" else 0.0
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).to(x.device)
    apart, loss, fired, l0 = (
        [],
        0.0,
        torch.zeros(sae.cfg.d_sae, dtype=torch.bool, device=x.device),
        0,
    )
    for rows in order.split(point.batch_size):
        z = sae.encode(x[rows])
        error = scale**2 * (x[rows] - sae.decode(z)).square().sum()
        loss += (error + weight * scale * z.abs().sum()).item()
        fired |= (z != 0).any(0)
        l0 += int((z != 0).sum())
        if len(rows) == min(point.batch_size, len(x)):  # the last batch is smaller
            groups = residual_groups(x[rows], n_groups=point.n_groups)
            apart.append(separability(z, groups).item())
    return {
        "FVU": fvu(sae, x),
        "L0": l0 / len(x),
        "dead": 1 - fired.double().mean().item(),
        "separability": float(np.mean(apart)),
        "loss": loss / len(x),
    }


def measure_concept(sae: Any, found: Probed) -> dict[str, float | None]:
    """Fit, separability, probing, and a statistic of each Case, on one concept; None: no clusters.

    Keys: FVU (content tokens); AEDP (of entities over the radius of all content tokens, as in Case
    2); AEDP clusters (of HDBSCAN's clusters over the radius of their tokens); probing; rank range
    (Case 1: relative range of the relative rank, feature mode); clusters and dimension (Case 2:
    HDBSCAN's clusters, and their mean TwoNN dimension); rho* and slope (Case 3: scaling with the
    least error, and % of error a % of separability; entities' tokens).
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
        "AEDP clusters": _apart(z, labels),
        "probing": sparse_probing_accuracy(
            as_points(sae, named.residuals.x), known.entity, known.frame, k=PROBED
        ),
        "rank range": float(ranges["variability"].mean()),
        "clusters": int(labels.max() + 1),
        "dimension": _finite(average_dimensions(z, labels)[0]),
        "rho*": uniform_scaling(here).optimum,
        "slope": steepest(here.single)[0],
    }


def _apart(z: Points, labels: Int[np.ndarray, " n"]) -> float | None:
    """Separability of clusters, unclustered points (-1) left out."""
    inside = labels >= 0
    if len(np.unique(labels[inside])) < 2:
        return None
    return separability(torch.from_numpy(z[inside]), torch.from_numpy(labels[inside])).item()


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


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
        with one_thread():
            with tempfile.TemporaryDirectory(dir=folder) as run:
                sae = trained(point, activations.train, checkpoints=Path(run), device=device)
            return measure(sae, point, held_out, concepts)

    return do


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
        return measure(sae, point, unseen, held_out)

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
