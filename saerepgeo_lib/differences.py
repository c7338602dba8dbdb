"""What the authors' public code does otherwise, and what difference each of it makes.

Facts about that code are `[authors' code]`; what is measured here is its procedure beside ours, on
the same tokens, codes and clusters.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from scipy.optimize import brentq
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor

from saerepgeo_lib import interventions, random_walk
from saerepgeo_lib.arrangements import aedp, gw_cost, gw_coupling
from saerepgeo_lib.clusters import Labels, n_clusters
from saerepgeo_lib.cores import workers
from saerepgeo_lib.edits import PAPER_SCALES, Edited, Kind, Setting, edit, mse, standardised
from saerepgeo_lib.errors import UserError, check_least
from saerepgeo_lib.latents import as_points
from saerepgeo_lib.local_representations import cluster_pca, space_of, stability
from saerepgeo_lib.noise_sweep import RESIDUAL, stream
from saerepgeo_lib.points import Points
from saerepgeo_lib.prompts import names_in
from saerepgeo_lib.random_walk import MEASURES
from saerepgeo_lib.residuals import compute_residuals
from saerepgeo_lib.structure import average_dimensions
from saerepgeo_lib.tokens import Tokens

CONTENT = "content only"
EVERY, PADDED = "all of the prompts", "all, and padding"
SATURATED = 0.95  # share of the largest rank at which a profile counts as saturated
THRESHOLD = 0.01  # least threshold of an active latent in the authors' notes
SEPARATE, ERROR_ALONE, GW = "separate + MSE", "MSE only", "d_GW + MSE"
_GRADIENTS: tuple[tuple[str, interventions.Objective, Kind], ...] = (
    (SEPARATE, "separate", "free"),
    (ERROR_ALONE, "reconstruct", "free"),
    (SEPARATE, "separate", "valid"),
    (GW, "gromov_wasserstein", "free"),
)


def check_parameters(
    *, concept: str, min_cluster_size: int, mse_weight: float, n_steps: int, n_walks: int,
    n_seeds: int, dose: float,
) -> None:  # fmt: skip
    """Refuse what the page could not use, before anything is loaded."""
    if len(names_in(concept)) != 1:
        raise UserError(f"this page looks at one concept, got {concept!r}")
    least = {"min_cluster_size": (min_cluster_size, 2), "mse_weight": (mse_weight, 0),
             "n_steps": (n_steps, 2), "n_walks": (n_walks, 1), "n_seeds": (n_seeds, 2)}  # fmt: skip
    check_least(least)
    if not 1 < dose < float("inf"):
        raise UserError(f"dose is a ratio of AEDP above 1, got {dose}")


def walks(here: Setting, *, n_walks: int = 5, seed: int = 0) -> pd.DataFrame:
    """Random walks (`random_walk.walks`) with both errors over those of the unedited code."""
    found = random_walk.walks(here, n_walks=n_walks, seed=seed)
    none = edit(here, torch.zeros_like(here.centroids))
    for measure in MEASURES:
        found[measure] /= mse(here, none, measure).item()
    return found


def picked(found: pd.DataFrame) -> pd.DataFrame:
    """What a walk reports when its best iterate is kept: a row a walk and a measure.

    `found`: walks with errors as ratios, and a column walk. Columns walk, measure, best, mean and
    last (of the iterates' errors; the unedited code is no iterate), iterate and AEDP (of the best).
    """
    rows = []
    for number, walk in found.groupby("walk", sort=False):
        for measure in MEASURES:
            errors = walk[measure].to_numpy()
            at = int(errors.argmin())
            best = walk.iloc[at]
            rows.append((number, measure, errors[at], errors.mean(), errors[-1],
                         int(best["iterate"]), float(best["AEDP"])))  # fmt: skip
    columns = ["walk", "measure", "best", "mean", "last", "iterate", "AEDP"]
    return pd.DataFrame(rows, columns=columns)


def gradients(here: Setting, *, mse_weight: float = 1.0, n_steps: int = 40) -> pd.DataFrame:
    """Where gradients of the SAE's own error lead; the last iterate counts, never the best.

    Columns procedure, kind, AEDP, own, z-scored (ratios to the unedited code).
    """
    rows = []
    for name, objective, kind in _GRADIENTS:
        path = interventions.intervene(
            here, objective, kind=kind, mse_weight=mse_weight, n_steps=n_steps
        )
        scored = interventions.ratios(here, path.shift, kind, "z-scored")[1]
        rows.append((name, kind, path.aedp, path.mse, scored))
    return pd.DataFrame(rows, columns=["procedure", "kind", "AEDP", *MEASURES])


@torch.no_grad()
def distance_losses(here: Setting, *, ratios: Sequence[float] = PAPER_SCALES) -> pd.DataFrame:
    """1 / AEDP and d_GW to the residual's arrangement as all codes are scaled about their mean.

    Columns AEDP (the ratio), 1 / AEDP (likewise), d_GW (squared; both arrangements in units of
    their AEDP before the edit, as in Case 3), d_GW of shapes (each in units of its AEDP as it is).
    The coupling is that of the known clusters, improved by POT's conditional gradient.
    """
    start = torch.eye(len(here.counts), dtype=here.z.dtype, device=here.z.device)
    start = start / len(start)
    a = here.residual_centroids / aedp(here.residual_centroids)
    mean = here.centroids.mean(0)
    rows = []
    for ratio in ratios:
        moved = mean + ratio * (here.centroids - mean)
        reached = aedp(moved)
        found = [
            gw_cost(a, b, gw_coupling(a, b, n_starts=0, start=start)).clamp_min(0).item()
            for b in (moved / here.aedp, moved / reached)
        ]
        now = reached.item() / here.aedp
        rows.append((now, 1 / now, *found))
    return pd.DataFrame(rows, columns=["AEDP", "1 / AEDP", "d_GW", "d_GW of shapes"])


@torch.no_grad()
def standardising(here: Setting) -> dict[str, float]:
    """The unedited code's error in both measures, each as a share of its target's variance.

    Keys own, z-scored, factor (of the second to the first), overshoot
    (`random_walk.overshoot`), median (of |z| over all latents), below (share of the active latents
    that lie below the authors' least threshold).
    """
    decoded, target = standardised(here, edit(here, torch.zeros_like(here.centroids)))
    scored = _unexplained(target, target - here.decoder.bias - decoded)
    own = _unexplained(here.x, here.error)
    active = here.z[here.z != 0].abs()
    off = here.decoder.width * len(here.z) - len(active)
    sizes = torch.cat([active, active.new_zeros(off)])
    return {
        "own": own, "z-scored": scored, "factor": scored / own,
        "overshoot": random_walk.overshoot(here), "median": sizes.median().item(),
        "below": (active < THRESHOLD).double().mean().item(),
    }  # fmt: skip


def _unexplained(target: Float[Tensor, "tokens d"], error: Float[Tensor, "tokens d"]) -> float:
    return (error.square().sum() / (target - target.mean(0)).square().sum()).item()


def validity(here: Setting, dose: float, *, seed: int = 0) -> pd.DataFrame:
    """What kind of codes edits of one dose make of the clustered tokens.

    Rows: as encoded; a free push along the gradient of AEDP; a random direction, free, of the
    length that gives the same AEDP; a valid push. Columns code, AEDP and MSE (ratios), L0, negative
    (share of the nonzero entries). Dense counts are over the features that are active somewhere;
    the SAE has more.
    """
    none = torch.zeros_like(here.centroids)
    free, valid = (interventions.push(here, dose, kind=kind).shift for kind in ("free", "valid"))
    drawn = torch.randn(none.shape, generator=stream(seed, "noise"), dtype=torch.float64).to(none)
    edits = {
        "as encoded": edit(here, none),
        "free, gradient": edit(here, free),
        "free, random": edit(here, _to_dose(here, drawn, dose)),
        "valid, gradient": edit(here, valid, "valid"),
    }
    return pd.DataFrame([{"code": name, **_kind_of(here, e)} for name, e in edits.items()])


def _to_dose(here: Setting, drawn: Tensor, dose: float) -> Tensor:
    """The direction, as long as AEDP needs to be multiplied by `dose`."""
    drawn = drawn * here.aedp / drawn.norm(dim=1, keepdim=True)

    def off(length: float) -> float:
        return aedp(here.centroids + length * drawn).item() / here.aedp - dose

    return float(brentq(off, 0, 2 * dose + 2)) * drawn


@torch.no_grad()
def _kind_of(here: Setting, edited: Edited) -> dict[str, float]:
    codes = edited.codes()[here.labels >= 0]
    return {
        "AEDP": aedp(edited.centroids).item() / here.aedp,
        "MSE": mse(here, edited).item() / here.mse,
        "L0": (codes != 0).sum(1).double().mean().item(),
        "negative": ((codes < 0).sum() / (codes != 0).sum()).item(),
    }


@dataclass(frozen=True)
class Rows:
    """Residual vectors to cluster, and which of them are content tokens."""

    x: Float[Tensor, "rows d"]
    content: Bool[Tensor, " rows"]


def token_choices(model: Any, tokens: Tokens, hook: str) -> dict[str, Rows]:
    """The residual of content tokens only; of all tokens; of all and padding."""
    kinds = {
        CONTENT: tokens.content,
        EVERY: tokens.attention,
        PADDED: torch.ones_like(tokens.attention),
    }
    out = {}
    for name, kept in kinds.items():
        seen = replace(tokens, content=kept, entity=tokens.entity & kept)
        found = compute_residuals(model, seen, hook, batch_size=len(tokens.ids))  # equal padding
        out[name] = Rows(found.x, tokens.content[kept].to(found.x.device))
    return out


def clusterings(
    choices: Mapping[str, Rows], saes: Mapping[str, Any], *, min_cluster_size: int
) -> pd.DataFrame:
    """Clusters of the residual and of each SAE's latents, by our pipeline, for every choice.

    Columns space, tokens (the choice), rows, clusters, without content (clusters that hold no
    content token), agreement (adjusted Rand index with "content only", on the content tokens; those
    in no cluster count as one group), avg. ID (mean TwoNN dimension over clusters).
    """
    items = list(itertools.product((RESIDUAL, *saes), choices))

    def cluster(item: tuple[str, str]) -> tuple[Labels, float]:
        found = space_of(_points(saes.get(item[0]), choices[item[1]].x))
        labels = cluster_pca(found, min_cluster_size=min_cluster_size)
        return labels, average_dimensions(found.full, labels)[0]

    with workers() as pool, threadpool_limits(1):  # threads of threads take ten times as long
        found = dict(zip(items, pool.map(cluster, items), strict=True))
    rows = []
    for (space, name), (labels, dimension) in found.items():
        content = choices[name].content.cpu().numpy()
        mixed = n_clusters(labels[content])
        agreement = stability([found[space, CONTENT][0], labels[content]])
        rows.append((space, name, len(labels), n_clusters(labels), n_clusters(labels) - mixed,
                     agreement, dimension))  # fmt: skip
    columns = ["space", "tokens", "rows", "clusters", "without content", "agreement", "avg. ID"]
    return pd.DataFrame(rows, columns=columns)


def _points(sae: Any | None, x: Tensor) -> Points:
    return x.double().cpu().numpy() if sae is None else as_points(sae, x)


def saturation(ranks: Mapping[str, pd.DataFrame], *, mode: int = 3) -> pd.DataFrame:
    """Where each profile of the relative rank saturates, by the scaling of the noise.

    `ranks`: a rank table (`stratification.rank_table`) by scaling. Columns label, noise, clean and
    largest (mean ranks over seeds), range at level 0 (over seeds), saturates at (the lowest level
    whose mean rank reaches `SATURATED` of the largest).
    """
    rows = []
    for scaling, table in ranks.items():
        part = table[(table["rule"] == "relative") & (table["mode"] == mode)]
        for label, profile in part.groupby("label", sort=False):
            clean = profile.loc[profile["level"] == 0, "rank"]
            mean = profile.groupby("level")["rank"].mean()
            level = float(mean.index[(mean >= SATURATED * mean.max()).to_numpy().argmax()])
            rows.append((label, scaling, clean.mean(), mean.max(), np.ptp(clean), level))
    columns = ["label", "noise", "clean", "largest", "range at level 0", "saturates at"]
    return pd.DataFrame(rows, columns=columns)
