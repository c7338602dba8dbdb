"""What the authors' public code does otherwise, and what difference each of it makes.

Facts about that code are `[authors' code]`; what is measured here is its procedure beside ours, on
the same tokens, latents and clusters.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from scipy.optimize import brentq
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor

from saerepgeo_lib.activations.residual_stream import NoiseScaling, rms
from saerepgeo_lib.activations.token_activations import TokenActivations, read_activations
from saerepgeo_lib.cores import workers
from saerepgeo_lib.geometry import arrangements, clusters
from saerepgeo_lib.geometry.points import as_points, principal_coordinates
from saerepgeo_lib.geometry.structure import average_dimensions
from saerepgeo_lib.plots.panels import LINE, axes_grid, legend_below
from saerepgeo_lib.plots.style import BLUE, GREEN, NULL_COLOUR, ORANGE, PINK, in_figure
from saerepgeo_lib.rank.noise_sweep import RESIDUAL, stream, sweep
from saerepgeo_lib.rank.profiles import rank_table
from saerepgeo_lib.steering import optimise, random_walk
from saerepgeo_lib.steering.latents import PAPER_SCALES, ClusteredLatents, steer, unsteered
from saerepgeo_lib.steering.latents import ratios as steered_ratios
from saerepgeo_lib.steering.random_walk import MEASURES
from saerepgeo_lib.studies import steering_experiment as experiment
from saerepgeo_lib.studies.tables import joined

CONTENT, EVERY, PADDED = "content only", "all of the prompts", "all, and padding"
SATURATED = 0.95  # share of the largest rank at which a profile counts as saturated
THRESHOLD = 0.01  # least threshold of an active latent in the authors' notes
SEPARATE, ERROR_ALONE, GW = "separate + MSE", "MSE only", "d_GW + MSE"
# Gradient paths: procedure, kind of edit, objective, look in the figure.
_GRADIENTS: tuple[tuple[str, Any, Any, dict[str, Any]], ...] = (
    (SEPARATE, "free", "separate", {"marker": "s", "color": ORANGE}),
    (ERROR_ALONE, "free", "reconstruct", {"marker": "^", "color": GREEN}),
    (SEPARATE, "valid", "separate", {"marker": "s", "color": ORANGE, "mfc": "white"}),
    (GW, "free", "gromov_wasserstein", {"marker": "D", "color": PINK}),
)


def steering_differences(
    acts: TokenActivations, *, min_cluster_size: int, mse_weight: float, n_steps: int,
    n_walks: int, dose: float, seed: int,
) -> dict[str, pd.DataFrame]:  # fmt: skip
    """Case 3 by their procedure and by ours, on the clusters of every SAE's latents.

    Tables "walks", "picked", "gradients", "losses", "errors" and "codes": those of the functions
    below, with columns concept and SAE in front.
    """
    saes = {label: acts.source.saes[label] for label in acts.source.sparse}
    cases = experiment.cases_of([acts], saes=saes, min_cluster_size=min_cluster_size)

    def measure(_: Any, case: experiment.Case) -> dict[str, Any]:
        return {
            "walks": walks(case.latents, n_walks=n_walks, seed=seed),
            "gradients": gradients(case.latents, mse_weight=mse_weight, n_steps=n_steps),
            "losses": distance_losses(case.latents),
            "errors": pd.DataFrame([standardising(case.latents)]),
            "codes": validity(case.latents, dose, seed=seed),
        }

    measured = experiment.for_each(cases, measure)
    tables = {
        name: joined({case: each[name] for case, each in measured.items()}, experiment.COLUMNS)
        for name in ("walks", "gradients", "losses", "errors", "codes")
    }
    return {**tables, "picked": picked(tables["walks"])}


def walks(latents: ClusteredLatents, *, n_walks: int = 5, seed: int = 0) -> pd.DataFrame:
    """Random walks (`random_walk.walks`) with both errors over those of the unedited latents."""
    table, before = random_walk.walks(latents, n_walks=n_walks, seed=seed), unsteered(latents)
    return table.assign(**{k: table[k] / before.mse(k).item() for k in MEASURES})


def picked(walks: pd.DataFrame) -> pd.DataFrame:
    """What a walk reports when its best iterate is kept: a row per SAE, walk and measure.

    `best`, `mean` and `last` are of the iterates' errors, `iterate` and `AEDP` of the best one.
    """
    rows = []
    for (sae, number), walk in walks.groupby(["SAE", "walk"], sort=False):
        for measure in MEASURES:
            error, best = walk[measure], walk.iloc[int(walk[measure].argmin())]
            rows.append({
                "SAE": sae, "walk": number, "measure": measure, "best": best[measure],
                "mean": error.mean(), "last": error.iloc[-1], "iterate": int(best["iterate"]),
                "AEDP": best["AEDP"],
            })  # fmt: skip
    return pd.DataFrame(rows)


def gradients(
    latents: ClusteredLatents, *, mse_weight: float = 1.0, n_steps: int = 40
) -> pd.DataFrame:
    """Where gradients of the SAE's own error lead: ratios at the last iterate, never the best."""
    rows = []
    for name, kind, objective, _ in _GRADIENTS:
        path = optimise.intervene(
            latents, objective, kind=kind, mse_weight=mse_weight, n_steps=n_steps
        )
        scored = steered_ratios(latents, path.vectors, kind, "z-scored")[1]
        row = {"procedure": name, "kind": kind, "AEDP": path.aedp, "own": path.mse}
        rows.append(row | {"z-scored": scored})
    return pd.DataFrame(rows)


@torch.no_grad()
def distance_losses(
    latents: ClusteredLatents, *, ratios: Sequence[float] = PAPER_SCALES
) -> pd.DataFrame:
    """1 / AEDP and d_GW to the residual's arrangement as all latents are scaled about their mean.

    Columns AEDP (the ratio), 1 / AEDP (likewise), d_GW (squared; both arrangements in units of
    their AEDP before the edit, as in Case 3), d_GW of shapes (each in units of its AEDP as it is).
    The coupling is that of the known clusters, improved by POT's conditional gradient.
    """
    residual, mean = latents.means(latents.x), latents.centroids.mean(0)
    residual = residual / arrangements.aedp(residual)
    start = torch.eye(len(residual)).to(mean) / len(residual)

    def d_gw(moved: Tensor) -> float:
        coupling = arrangements.gw_coupling(residual, moved, n_starts=0, start=start)
        return arrangements.gw_cost(residual, moved, coupling).clamp_min(0).item()

    rows = []
    for ratio in ratios:
        moved = mean + ratio * (latents.centroids - mean)
        aedp = arrangements.aedp(moved)
        reached = aedp.item() / latents.aedp
        rows.append({"AEDP": reached, "1 / AEDP": 1 / reached, "d_GW": d_gw(moved / latents.aedp),
                     "d_GW of shapes": d_gw(moved / aedp)})  # fmt: skip
    return pd.DataFrame(rows)


@torch.no_grad()
def standardising(latents: ClusteredLatents) -> dict[str, float]:
    """The error of the unedited latents in both measures, as a share of its target's variance.

    Keys own, z-scored, factor (of the second to the first), overshoot (`random_walk.overshoot`),
    median (of |z| over all latents), below (share of the active latents that lie below the
    authors' least threshold).
    """
    decoded, target = unsteered(latents).standardised()

    def unexplained(target: Tensor, error: Tensor) -> float:
        return (error.square().sum() / (target - target.mean(0)).square().sum()).item()

    scored = unexplained(target, target - latents.decoder.bias - decoded)
    plain = unexplained(latents.x, latents.error)
    active = latents.z[latents.z != 0].abs()
    zeros = active.new_zeros(latents.decoder.width * len(latents.z) - len(active))
    return {
        "own": plain, "z-scored": scored, "factor": scored / plain,
        "overshoot": random_walk.overshoot(latents),
        "median": torch.cat([active, zeros]).median().item(),
        "below": (active < THRESHOLD).double().mean().item(),
    }  # fmt: skip


def validity(latents: ClusteredLatents, dose: float, *, seed: int = 0) -> pd.DataFrame:
    """What kind of latents edits of one dose make of the clustered tokens.

    Edits: none; a free push along the gradient of AEDP; a random direction, free, of the length
    that gives the same AEDP; a valid push. AEDP and MSE are ratios, `negative` is a share of the
    nonzero entries, and L0 counts the features that are active somewhere; the SAE has more.
    """
    shape, generator = latents.centroids.shape, stream(seed, "noise")
    drawn = torch.randn(shape, generator=generator, dtype=torch.float64).to(latents.centroids)
    drawn *= latents.aedp / drawn.norm(dim=1, keepdim=True)

    def ratio(centroids: Tensor) -> float:
        return arrangements.aedp(centroids).item() / latents.aedp

    length = brentq(lambda a: ratio(latents.centroids + a * drawn) - dose, 0, 2 * dose + 2)
    free, valid = (optimise.push(latents, dose, kind=kind).vectors for kind in ("free", "valid"))
    edits = {
        "as encoded": unsteered(latents),
        "free, gradient": steer(latents, free),
        "free, random": steer(latents, length * drawn),
        "valid, gradient": steer(latents, valid, "valid"),
    }
    rows = []
    for name, edited in edits.items():
        steered = edited.latents()[latents.labels >= 0]
        active = steered != 0
        rows.append({
            "code": name, "AEDP": ratio(edited.centroids),
            "MSE": edited.mse().item() / latents.mse,
            "L0": active.sum(1).double().mean().item(),
            "negative": ((steered < 0).sum() / active.sum()).item(),
        })  # fmt: skip
    return pd.DataFrame(rows)


def token_choices(acts: TokenActivations) -> dict[str, TokenActivations]:
    """The activations of content tokens only; of all tokens; of all and padding."""
    tokens, source = acts.tokens, acts.source
    assert tokens is not None
    every, size = torch.ones_like(tokens.attention), len(tokens.ids)  # one batch: equal padding
    chosen = {  # theirs with tokens that are massive, as a BOS token can be
        name: replace(tokens, content=kept, entity=tokens.entity & kept)
        for name, kept in ((CONTENT, tokens.content), (EVERY, tokens.attention), (PADDED, every))
    }
    options: dict[str, Any] = {"source": source, "batch_size": size, "massive": "keep"}
    return {
        name: read_activations(source.model, kept, source.hook, **options)
        for name, kept in chosen.items()
    }


def clusterings(choices: Mapping[str, TokenActivations], *, min_cluster_size: int) -> pd.DataFrame:
    """Clusters of the residual and of each SAE's latents, by our pipeline, for every choice.

    `without content` counts clusters that hold no content token; `agreement` is the adjusted Rand
    index with "content only" on the content tokens, where those in no cluster count as one group;
    `avg. ID` is the mean TwoNN dimension over clusters.
    """
    tokens, source = choices[CONTENT].tokens, choices[CONTENT].source
    assert tokens is not None
    cases = list(itertools.product((RESIDUAL, *source.sparse), choices))

    def cluster(case: tuple[str, str]) -> tuple[clusters.Labels, float]:
        sae, x = source.saes.get(case[0]), choices[case[1]].x
        space = principal_coordinates(as_points(sae, x) if sae else x.double().cpu().numpy())
        labels = clusters.cluster_pca(space, min_cluster_size=min_cluster_size)
        return labels, average_dimensions(space.full, labels)[0]

    with workers() as pool, threadpool_limits(1):  # threads of threads take ten times as long
        clustered = dict(zip(cases, pool.map(cluster, cases), strict=True))
    rows = []
    for (space, name), (labels, dimension) in clustered.items():
        acts, n = choices[name], clusters.n_clusters(labels)
        of_content = labels[tokens.content[acts.prompt, acts.position].cpu().numpy()]
        rows.append({
            "space": space, "tokens": name, "rows": len(labels), "clusters": n,
            "without content": n - clusters.n_clusters(of_content),
            "agreement": clusters.stability([clustered[space, CONTENT][0], of_content]),
            "avg. ID": dimension,
        })  # fmt: skip
    return pd.DataFrame(rows)


def noise_differences(
    acts: TokenActivations, *, seeds: Sequence[int]
) -> tuple[pd.DataFrame, float]:
    """`saturation` under relative and under absolute noise, and the residual's own spread."""
    saes = {label: acts.source.saes[label] for label in acts.source.sparse}
    scalings: tuple[NoiseScaling, ...] = ("relative", "absolute")
    ranks: dict[str, pd.DataFrame] = {}
    for scaling in scalings:
        options: dict[str, Any] = {"seeds": seeds, "description": f"{scaling} noise"}
        ranks[scaling] = rank_table(sweep(acts, saes, sparse=(), scaling=scaling, **options))
    return saturation(ranks), rms(acts.x, massive="keep")


def saturation(ranks: Mapping[str, pd.DataFrame], *, mode: int = 3) -> pd.DataFrame:
    """Where each profile of the relative rank saturates, by the scaling of the noise.

    `ranks`: a table of `profiles.rank_table` by scaling. `clean` and `largest` are mean ranks over
    seeds; `saturates at` is the lowest level whose mean rank reaches `SATURATED` of the largest.
    """
    rows = []
    for scaling, table in ranks.items():
        relative = table.query("rule == 'relative' and mode == @mode")
        for label, profile in relative.groupby("label", sort=False):
            clean = profile.loc[profile["level"] == 0, "rank"]
            mean = profile.groupby("level")["rank"].mean()
            rows.append({
                "label": label, "noise": scaling, "clean": clean.mean(), "largest": mean.max(),
                "range at level 0": np.ptp(clean),
                "saturates at": float((mean >= SATURATED * mean.max()).idxmax()),
            })  # fmt: skip
    return pd.DataFrame(rows)


def plot_procedures(walks: pd.DataFrame, gradients: pd.DataFrame) -> Figure:
    """Error against AEDP (ratios): a row per SAE, a column per error.

    Thin lines are random walks, the filled dot on each its best iterate; other marks are the ends
    of gradient paths, and the circle is the unedited code.
    """
    panels = list(itertools.product(walks["SAE"].unique(), MEASURES))
    figure, axes = axes_grid(len(panels), height=2.6, extra=1.1, sharex=True, sharey=True)
    looks = {f"{name}, {kind}": {"ms": 8, **look} for name, kind, _, look in _GRADIENTS}
    for ax, (sae, measure) in zip(axes, panels, strict=True):
        for _, walk in walks[walks["SAE"] == sae].groupby("walk"):
            best = [int(walk[measure].argmin()) + 1]
            ax.plot([1, *walk["AEDP"]], [1, *walk[measure]], color=BLUE, lw=1, alpha=0.8,
                    marker="o", ms=5, markevery=best)  # fmt: skip
        for end in gradients[gradients["SAE"] == sae].to_dict("records"):
            ax.plot(end["AEDP"], end[measure], **looks[f"{end['procedure']}, {end['kind']}"])
        ax.axhline(1, color=NULL_COLOUR, lw=0.8, ls=":")
        ax.plot(1, 1, marker="o", ms=7, color="k", mfc="white", zorder=5)
        kind = "z-scored" if measure == "z-scored" else "its own"
        ax.set_title(in_figure(f"{sae}: {kind} error", LINE // 2), size=10)
    for ax in axes[-2:]:
        ax.set_xlabel("AEDP over that of the unedited code", fontsize=10)
    figure.supylabel("error over that of the unedited code", fontsize=10)
    ends = {name: {"ls": "none", **look} for name, look in looks.items()}
    walked = {"color": BLUE, "marker": "o", "ms": 5}
    legend_below(figure, {"random walk, best iterate": walked, **ends})
    return figure
