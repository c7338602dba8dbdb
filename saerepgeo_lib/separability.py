"""Case 3 composed: from prompts to settings, and everything that is done to one of them."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm

from saerepgeo_lib import downstream, interventions
from saerepgeo_lib.claims import NOTHING
from saerepgeo_lib.clusters import MIN_CLUSTER_SIZE
from saerepgeo_lib.cores import workers
from saerepgeo_lib.decoding import to_residual
from saerepgeo_lib.edits import Kind, Measure, Setting, Shift, edit, mse, setting_of
from saerepgeo_lib.errors import UserError, check_least, choose
from saerepgeo_lib.interventions import N_STEPS, OBJECTIVES, STEP, Path
from saerepgeo_lib.latents import as_points
from saerepgeo_lib.local_representations import cluster_pca, space_of
from saerepgeo_lib.noise_sweep import stream
from saerepgeo_lib.points import NotEstimable
from saerepgeo_lib.prompts import Concept, names_in
from saerepgeo_lib.residuals import Residuals
from saerepgeo_lib.saes import random_sae
from saerepgeo_lib.scaling import (
    arrangement_scaling,
    free_from,
    least_mse,
    over_groups,
    uniform_scaling,
)
from saerepgeo_lib.statistics import Estimate
from saerepgeo_lib.structure import groups_of
from saerepgeo_lib.subject import Subject
from saerepgeo_lib.tokens import Tokens

logger = logging.getLogger(__name__)

T = TypeVar("T")
Grouping = Literal["clusters", "entities"]
SHUFFLED = "separate, shuffled labels"
UP, DOWN = 1.5, 0.5  # how far separability alone is pushed
DOWNSTREAM = ("separate", "gather", "reconstruct", f"push to x {UP:g}", f"push to x {DOWN:g}")
Key = tuple[str, str]  # concept and SAE


def check_parameters(
    *, concept: str, grouping: str, min_cluster_size: int, mse_weight: float, step: float,
    n_steps: int, n_bootstrap: int, n_groups: int, n_walks: int,
) -> None:  # fmt: skip
    """Refuse what the page could not use, before anything is loaded."""
    if not names_in(concept):
        raise UserError("concept is empty; name one, or several separated by commas")
    choose("grouping", grouping, ("clusters", "entities"))
    least = {"min_cluster_size": (min_cluster_size, 2), "mse_weight": (mse_weight, 0),
             "n_steps": (n_steps, 2), "n_bootstrap": (n_bootstrap, 40), "n_groups": (n_groups, 3),
             "n_walks": (n_walks, 1)}  # fmt: skip
    check_least(least)
    if not 0 < step < float("inf"):
        raise UserError(f"step must be a positive number, got {step}")


@dataclass(frozen=True)
class Seen:
    """A concept's tokens before an SAE: where they are, and their residual."""

    tokens: Tokens
    residuals: Residuals
    hook: str
    frame: Int[np.ndarray, " tokens"]
    entity: Int[np.ndarray, " tokens"]

    @property
    def prompt(self) -> Int[np.ndarray, " tokens"]:
        """The prompt of each token."""
        return self.residuals.prompt.cpu().numpy()

    def fold(self, n_groups: int) -> Int[np.ndarray, " tokens"]:
        """The frames dealt to at most `n_groups` groups."""
        folds: np.ndarray = self.frame % min(n_groups, len(np.unique(self.frame)))
        if len(np.unique(folds)) < 3:
            raise UserError("intervals need prompts of at least 3 frames")
        return folds


def see(subject: Subject, concept: Concept, *, grouping: Grouping = "clusters") -> Seen:
    """One forward pass. All content tokens for "clusters", the entities' tokens for "entities"."""
    choose("grouping", grouping, ("clusters", "entities"))
    coded = subject.tokens(concept)
    found = subject.residuals(coded)
    found = found.at("entity") if grouping == "entities" else found
    groups = groups_of(found, concept)
    return Seen(coded, found, subject.hook, groups.frame, groups.entity)


def see_nothing(
    subject: Subject, concepts: Mapping[str, Concept], *, l0: int, grouping: Grouping, seed: int = 0
) -> tuple[Any, dict[str, Seen]]:
    """The control that decides: a random SAE on a random model, in which nothing was learned.

    The model's architecture with the weights that training would start from, and a TopK SAE of
    random directions with the width of the subject's first SAE and that L0.
    """
    sae = random_sae(
        subject.autoencoders[subject.sparse[0]], l0=l0, generator=stream(seed, "encoder"),
        keep_centre=False,
    )  # fmt: skip
    nothing = Subject(subject.random_model(seed), {NOTHING: sae}, at=subject.hook)
    return sae, {
        name: see(nothing, concept, grouping=grouping) for name, concept in concepts.items()
    }


def setting(
    sae: Any,
    seen: Seen,
    *,
    grouping: Grouping = "clusters",
    min_cluster_size: int = MIN_CLUSTER_SIZE,
) -> Setting:
    """The local representations: clusters of the SAE's latents as in Case 2, or the entities."""
    x = seen.residuals.x
    if choose("grouping", grouping, ("clusters", "entities")) == "entities":
        return setting_of(sae, x, seen.entity)
    codes = space_of(as_points(sae, x))
    return setting_of(sae, x, cluster_pca(codes, min_cluster_size=min_cluster_size))


def settings_of(
    sae: Any,
    label: str,
    seen: Mapping[str, Seen],
    *,
    grouping: Grouping = "clusters",
    min_cluster_size: int = MIN_CLUSTER_SIZE,
) -> dict[Key, Setting]:
    """The settings of several concepts, without those whose tokens fall into fewer than 2 clusters.

    For a control that may have no structure at all; each one left out is logged.
    """
    out = {}
    for concept, found in seen.items():
        try:
            out[concept, label] = setting(
                sae, found, grouping=grouping, min_cluster_size=min_cluster_size
            )
        except UserError as error:
            logger.warning("%s, %s is left out: %s", concept, label, error)
    return out


def for_each(settings: Mapping[Key, Setting], work: Callable[[Key, Setting], T]) -> dict[Key, T]:
    """`work(key, setting)` for every setting, spread over the cores; with a progress bar.

    The largest begins first, so that no core waits long for another at the end.
    """
    order = sorted(settings, key=lambda key: settings[key].z.numel(), reverse=True)
    with workers() as pool:
        done = pool.map(lambda key: work(key, settings[key]), order)
        bar = tqdm(done, total=len(order), unit="case", leave=False)
        found = dict(zip(order, bar, strict=True))
    return {key: found[key] for key in settings}


def table(results: Mapping[Key, pd.DataFrame | dict[str, Any]]) -> pd.DataFrame:
    """The results of several cases in one table, with columns concept and SAE in front."""
    parts = []
    for (concept, sae), found in results.items():
        part = pd.DataFrame([found]) if isinstance(found, dict) else found.copy()
        part.insert(0, "concept", concept)
        part.insert(1, "SAE", sae)
        parts.append(part)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def with_intervals(found: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    """The table with values as "value [low, high]" in the columns given, to read.

    Each column comes with the suffix of its bounds: "low SUFFIX" and "high SUFFIX"; without one
    they are "NAME low" and "NAME high".
    """
    out = found.copy()
    for name, suffix in columns.items():
        low, high = (f"{end}{suffix}" if suffix else f"{name} {end}" for end in ("low", "high"))
        out[name] = [
            f"{v:.2f} [{a:.2f}, {b:.2f}]" if a == a else f"{v:.2f} (no interval)"
            for v, a, b in zip(found[name], found[low], found[high], strict=True)
        ]
    return out


def shrinkage(here: Setting, fold: Int[np.ndarray, " tokens"]) -> dict[str, Any]:
    """rho* of both scalings and the elasticity along the gradient, with intervals over `fold`.

    Keys rho*, low, high, p, n (all codes scaled; p of rho* = 1); the same with " outward" (clusters
    moved outward); slope, slope low, slope high, slope p, slope n (d log MSE / d log AEDP along the
    steepest ascent of AEDP, free); cosine (of that way with outward); elasticity and elasticity
    outward (the theorem's); helps up to, gain (outward); least MSE (ratio); free from.
    """

    def statistics(part: Setting) -> dict[str, float]:
        return {
            "rho*": uniform_scaling(part).optimum,
            "rho* outward": arrangement_scaling(part).optimum,
            "slope": interventions.steepest(part.single)[0],
        }

    found = over_groups(here, statistics, fold, null={"rho*": 1.0, "rho* outward": 1.0})
    row: dict[str, Any] = statistics(here)
    for name, given in found.items():
        none = isinstance(given, NotEstimable)
        estimate = Estimate(row[name], np.nan, np.nan, np.nan, 0) if none else given
        for key in ("low", "high", "p", "n"):
            row[name.replace("rho*", key) if "rho*" in name else f"slope {key}"] = getattr(
                estimate, key
            )
    outward = arrangement_scaling(here)
    return row | {
        "cosine": interventions.steepest(here)[1],
        "elasticity": uniform_scaling(here).elasticity,
        "elasticity outward": outward.elasticity,
        "helps up to": outward.helps_up_to,
        "gain": outward.gain,
        "least MSE": least_mse(here) / here.mse,
        "free from": free_from(here),
    }


def intervene_all(
    here: Setting,
    *,
    kinds: Sequence[Kind] = ("free", "valid"),
    mse_weight: float = 1.0,
    measure: Measure = "own",
    step: float = STEP,
    n_steps: int = N_STEPS,
    seed: int = 0,
) -> list[Path]:
    """Every objective and every control, for each kind of edit; no iterate is selected.

    Objectives: those of `interventions.OBJECTIVES` ("reconstruct" is the control without
    separability), and the push on separability alone to AEDP x 1.5 and x 0.5. Controls: a random
    direction with the steps' lengths of "separate", and "separate" with shuffled labels
    (AEDP and steps are those of the shuffled groups); one draw each. Uniform scaling is exact:
    `scaling.uniform_scaling`; `summary` has its optimum.
    """
    options: dict[str, Any] = {"measure": measure, "step": step, "n_steps": n_steps}
    paths: list[Path] = []
    for kind in kinds:
        for objective in OBJECTIVES:
            paths.append(
                interventions.intervene(
                    here, objective, kind=kind, mse_weight=mse_weight, **options
                )
            )
        pushes = [
            interventions.push(here, ratio, kind=kind, measure=measure) for ratio in (UP, DOWN)
        ]
        separated = paths[-len(OBJECTIVES)]
        generator = stream(seed, "permutation")
        mixed = interventions.shuffled(here, generator)
        control = interventions.intervene(
            mixed, "separate", kind=kind, mse_weight=mse_weight, **options
        )
        drawn = interventions.random_direction(
            here, separated, stream(seed, "noise"), measure=measure
        )
        paths += [*pushes, drawn, _renamed(control, SHUFFLED)]
    return paths


def _renamed(path: Path, name: str) -> Path:
    return type(path)(**{**path.__dict__, "name": name})


def end_of(paths: Sequence[Path], name: str, kind: Kind) -> Shift:
    """The shift at the end of the path of that name and kind."""
    return next(path.shift for path in paths if (path.name, path.kind) == (name, kind))


def summary(here: Setting, paths: Sequence[Path]) -> pd.DataFrame:
    """A row a path: name, kind, AEDP, MSE, z-scored (ratios), d_GW, L0, left, converged.

    z-scored is the error of the authors' code at the same edit; d_GW is squared. The last two are
    None for paths that optimise nothing. The last row scales all codes to rho*.
    """
    rows = []
    none = edit(here, torch.zeros_like(here.centroids))
    scored = mse(here, none, "z-scored")
    for path in paths:
        row: dict[str, Any] = {
            "path": path.name, "kind": path.kind, "AEDP": path.aedp, "MSE": path.mse
        }  # fmt: skip
        if path.name == SHUFFLED:
            row |= {"z-scored": np.nan, "d_GW": np.nan, "L0": np.nan}
        else:
            edited = edit(here, path.shift, path.kind)
            row["z-scored"] = (mse(here, edited, "z-scored") / scored).item()
            row["d_GW"] = interventions.gw_distance(here, edited.centroids)
            row["L0"] = (edited.codes() != 0).sum(1).double().mean().item()
        run = isinstance(path, interventions.Run)
        row["left"] = path.left if run else np.nan  # type: ignore[attr-defined]
        row["converged"] = path.converged if run else None  # type: ignore[attr-defined]
        rows.append(row)
    law = uniform_scaling(here)
    rows.append(
        {"path": "all codes scaled to rho*", "kind": "free", "AEDP": law.optimum,
         "MSE": law.floor / law.mse(1), "converged": None}
    )  # fmt: skip
    return pd.DataFrame(rows)


def downstream_text(effects: pd.DataFrame, name: str) -> str:
    """What the pushes do to the model, beside the SAE's own reconstruction (Markdown)."""
    lines = []
    for (concept, sae), part in effects.groupby(["concept", "SAE"], sort=False):
        words = [
            f"{row['path']} {row['effect']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
            for row in part.to_dict("records")
        ]
        lines.append(f"- {concept}, {sae}, {name}: {'; '.join(words)}.")
    return "\n".join(lines)


def downstream_effects(
    model: Any, sae: Any, seen: Seen, here: Setting, paths: Sequence[Path],
    clean: Tensor, *, n_bootstrap: int = 1_000, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """The effect on the model of the SAE's own reconstruction, and of each path's.

    Columns path, kind, AEDP, MSE, effect (mean over prompts; see `downstream.effect`), low, high
    (95 %, prompts resampled).
    """
    rng = np.random.default_rng(seed)
    none = Path("as encoded", "free", torch.zeros_like(here.centroids), pd.DataFrame(), 1.0, 1.0)
    rows = []
    for path in (none, *paths):
        decoded = edit(here, path.shift, path.kind).decoded + here.decoder.bias
        back = to_residual(sae, seen.residuals.x, decoded)
        found = downstream.outputs(model, seen.tokens, seen.hook, seen.residuals, back)
        values = downstream.effect(clean, found).cpu().numpy()
        means = values[rng.integers(len(values), size=(n_bootstrap, len(values)))].mean(1)
        low, high = np.quantile(means, (0.025, 0.975))
        rows.append((path.name, path.kind, path.aedp, path.mse, values.mean(), low, high))
    return pd.DataFrame(rows, columns=["path", "kind", "AEDP", "MSE", "effect", "low", "high"])
