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
from jaxtyping import Bool, Float, Int
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler
from torch import Tensor

from saerepgeo_lib.activations.latents import fit_on
from saerepgeo_lib.activations.models import load_model
from saerepgeo_lib.activations.prompts import load_concepts
from saerepgeo_lib.activations.token_activations import TokenActivations, read_concept
from saerepgeo_lib.cores import one_thread
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.geometry.clusters import cluster_pca
from saerepgeo_lib.geometry.points import Points, as_points, check_points, principal_coordinates
from saerepgeo_lib.geometry.structure import average_dimensions, global_measures
from saerepgeo_lib.rank.noise_sweep import sweep
from saerepgeo_lib.rank.profiles import rank_table, variability
from saerepgeo_lib.steering.latents import ClusteredLatents
from saerepgeo_lib.steering.scaling import steepest, uniform_scaling
from saerepgeo_lib.studies import training
from saerepgeo_lib.studies.activation_store import collect
from saerepgeo_lib.studies.corpus import embedded_passages
from saerepgeo_lib.studies.recipes import HOOK, Recipe
from saerepgeo_lib.studies.separability import objective
from saerepgeo_lib.studies.separability.effects import runs_table
from saerepgeo_lib.studies.study import Do, Study, measured
from saerepgeo_lib.studies.texts import N_FRAME_SENTENCES

Kind = Literal["topk", "standard"]
N_TRAIN, N_HELD_OUT = 24_576, 1_536  # passages
CONCEPTS = ("months", "days", "elements")
SEEDS = (0, 1, 2)
STRENGTHS = (0.0, -30.0, 3.0, 10.0, 30.0, 100.0)  # chosen once, from a pilot
K = 32  # L0 of TopK
L1_WEIGHT, L1_BASELINES = 5.0, (1.5, 2.0, 3.0, 7.0)  # these bracket the L0 of every strength
COMPARED: tuple[tuple[Kind, float], ...] = (("topk", K), ("standard", L1_WEIGHT))
_LEVELS = (0.0, 0.2, 1.0)  # of noise, for the rank profile


@dataclass(frozen=True)
class Point:
    """One training: all that its result depends on. `coefficient` is k, or the L1 weight."""

    kind: Kind
    coefficient: float
    strength: float
    seed: int
    n_groups: int = 16
    n_samples: int = 200_000
    expansion: int = 4
    batch_size: int = 256
    learning_rate: float = 1e-3


def grid() -> list[Point]:
    """Every kind, seed and strength; for L1 also the baselines at its other weights."""
    points = []
    for seed in SEEDS:
        points += [Point(*kind, strength, seed) for strength in STRENGTHS for kind in COMPARED]
        points += [Point("standard", weight, 0.0, seed) for weight in L1_BASELINES]
    return points


def trained(point: Point, activations: list[np.ndarray], *, device: str) -> Any:
    """The inference SAE that a point trains, decoder rows of norm 1, as SAELens saves and loads it.

    Latents are then in the units of what they add to the reconstruction.
    """
    asked: dict[str, Any] = {"strength": point.strength, "n_groups": point.n_groups}
    options = {name: value for name, value in vars(point).items() if name not in asked}
    with tempfile.TemporaryDirectory() as checkpoints:
        sae = training.train(
            Recipe("separability", **options), activations,
            checkpoints=Path(checkpoints), device=device,
            configure=partial(objective.separable_config, **asked),
        )  # fmt: skip
    out = training.read_back(sae, device=device)
    if point.kind == "standard":  # TopK's rows are given norm 1 when it is saved
        out.fold_W_dec_norm()
    return out


def measure(
    sae: Any, point: Point, held_out: Float[Tensor, "tokens d"],
    concepts: Mapping[str, TokenActivations],
) -> dict[str, Any]:  # fmt: skip
    """Everything that is asked of one SAE: on held-out tokens, and by concept."""
    by_concept = {name: measure_concept(sae, acts) for name, acts in concepts.items()}
    return measure_text(sae, point, held_out) | {"concepts": by_concept}


@torch.no_grad()
def measure_text(sae: Any, point: Point, x: Float[Tensor, "tokens d"]) -> dict[str, float]:
    """FVU, mean L0, share of latents that never fire, the objective, and the rest of the loss.

    In the batches of the point (a fixed random order). "loss" is what was trained on without the
    objective, in its units: squared error and L1 of inputs with the mean norm sqrt(d).
    """
    scale = x.shape[1] ** 0.5 / x.norm(dim=1).mean().item()
    weight = point.coefficient if point.kind == "standard" else 0.0
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).to(x.device)
    apart, loss = [], 0.0
    for rows in order.split(point.batch_size):
        z = sae.encode(x[rows])
        error = scale**2 * (x[rows] - sae.decode(z)).square().sum()
        loss += (error + weight * scale * z.abs().sum()).item()
        if len(rows) == min(point.batch_size, len(x)):  # the last batch is smaller
            groups = objective.residual_groups(x[rows], n_groups=point.n_groups)
            apart.append(objective.separability(z, groups).item())
    dead = 1 - training.fired(sae, x)[0].double().mean().item()
    return {**fit_on(sae, x), "dead": dead, "separability": float(np.mean(apart)),
            "loss": loss / len(x)}  # fmt: skip


def measure_concept(sae: Any, acts: TokenActivations) -> dict[str, float | None]:
    """Fit, separability, probing, and a statistic of each Case, on one concept; None: no clusters.

    Keys: FVU (content tokens); AEDP (of entities over the radius of all content tokens, as in Case
    2); AEDP clusters (of HDBSCAN's clusters over the radius of their tokens); probing (by one
    latent); rank range (Case 1: relative range of the relative rank, feature mode); clusters and
    dimension (Case 2: HDBSCAN's clusters, and their mean TwoNN dimension); rho* and slope (Case 3:
    scaling with the least error, and % of error per % of separability; entities' tokens).
    """
    last, z = last_of_entity(acts), as_points(sae, acts.x)
    labels = cluster_pca(principal_coordinates(z))
    swept = sweep(acts, {"SAE": sae}, sparse=[], levels=_LEVELS, seeds=(0, 1), description="rank")
    ranges = variability(rank_table(swept), rule="relative").query("label == 'SAE' and mode == 3")
    dimension = average_dimensions(z, labels)[0]
    latents = ClusteredLatents.of(sae, last.x, last.entity)
    apart, inside = None, labels >= 0
    if labels.max() > 0:
        tokens, clusters = torch.from_numpy(z[inside]), torch.from_numpy(labels[inside])
        apart = objective.separability(tokens, clusters).item()
    return {
        "FVU": fit_on(sae, acts.x)["FVU"],
        "AEDP": global_measures(z, acts.entity)["AEDP of entities"],
        "AEDP clusters": apart,
        "probing": sparse_probing_accuracy(as_points(sae, last.x), last.entity, last.frame, k=1),
        "rank range": float(ranges["variability"].mean()),
        "clusters": int(labels.max() + 1),
        "dimension": dimension if np.isfinite(dimension) else None,
        "rho*": uniform_scaling(latents).optimum,
        "slope": steepest(latents.single)[0],
    }


def mean_difference(x: Points, y: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " d"]:
    """How far each feature's mean in the class lies from its mean outside."""
    return np.abs(x[y].mean(0) - x[~y].mean(0))


def sparse_probing_accuracy(
    points: Points, entity: Int[np.ndarray, " n"], frame: Int[np.ndarray, " n"], *, k: int,
    n_folds: int = 4,
) -> float:  # fmt: skip
    """Balanced accuracy of logistic probes on `k` features, one for each entity, over folds.

    A probe tells an entity from all others (Gurnee et al. 2023). On the training folds alone its k
    features with the largest `mean_difference` are chosen, and divided by their largest value; no
    frame is on both sides of a fold. The mean over folds and entities; chance is 1/2. Raises
    UserError for fewer frames than folds, one entity, or more features asked for than there are.
    """
    x = check_points(points)
    n_frames, n_entities = len(np.unique(frame)), len(np.unique(entity))
    if n_frames < n_folds or n_entities < 2 or not 1 <= k <= x.shape[1]:
        raise UserError(
            f"probing needs at least {n_folds} frames, 2 entities and {k} features; "
            f"got {n_frames}, {n_entities} and {x.shape[1]}"
        )
    probe = make_pipeline(
        SelectKBest(mean_difference, k=k), MaxAbsScaler(),
        LogisticRegression(C=10, class_weight="balanced", max_iter=1000),
    )  # fmt: skip
    given = {"groups": frame, "cv": GroupKFold(n_folds), "scoring": "balanced_accuracy"}
    scores = [cross_val_score(probe, x, entity == one, **given) for one in np.unique(entity)]
    return float(np.mean(scores))


def last_of_entity(acts: TokenActivations) -> TokenActivations:
    """The last token of each prompt's entity."""
    rows = acts.in_entity.nonzero()[:, 0].cpu()
    prompt = acts.prompt[rows]
    return acts.rows(rows[prompt != torch.cat([prompt[1:], torch.tensor([-1])])])


def prepare(work: Path, device: str) -> Do:
    """Collect the activations, and give the function from a point to its result.

    The text is part of the shipped autoencoders' corpus: its first passages, and its first held
    out. Every point is computed by one thread, and so rounds the same on any number of cores.
    """
    corpus = embedded_passages(n_frame_sentences=N_FRAME_SENTENCES)
    train, held = ([p for p in corpus if p.held_out == out] for out in (False, True))
    passages = train[:N_TRAIN] + held[:N_HELD_OUT]
    model, known = load_model("minilm", device=device), load_concepts()
    activations = collect(model, passages, work=work)[1]
    concepts = {name: read_concept(model, known[name], HOOK) for name in CONCEPTS}
    held_out = torch.from_numpy(activations.held_out).float().to(device)

    def do(point: Point) -> dict[str, Any]:
        with one_thread():
            sae = trained(point, activations.train, device=device)
            return measure(sae, point, held_out, concepts)

    return do


def small_version(
    shown: Mapping[str, TokenActivations], held_out: Mapping[str, TokenActivations], *,
    strength: float, n_samples: int, seed: int, device: str,
) -> pd.DataFrame:  # fmt: skip
    """Small SAEs with and without the objective, on concept prompts alone; `runs_table` of them.

    Trained on the content tokens of some concepts, measured on those of others.
    """
    x = torch.cat([acts.x for acts in shown.values()]).half().cpu().numpy()
    unseen = torch.cat([acts.x for acts in held_out.values()])

    def do(point: Point) -> dict[str, Any]:
        return measure(trained(point, [x], device=device), point, unseen, held_out)

    small = [
        replace(Point(*kind, weight, seed), n_samples=n_samples, expansion=2)
        for weight in (0.0, strength)
        for kind in COMPARED
    ]
    table = runs_table([measured(point, do) for point in small])
    return table.drop(columns=["seed", "seconds"])


STUDY = Study(grid(), prepare)
