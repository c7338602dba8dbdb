"""Can the instrument of Case 1 tell stratified from smooth data? Planted data, every rank rule.

A planted set of points takes the place of a concept's tokens: it is put into the residual stream,
noise is added, and it is encoded, as in Case 1. The score of a rank rule is Case 1's: the relative
range of the rank over noise levels. Other scores look at the clean points only.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from sklearn.metrics import roc_curve
from torch import Tensor
from tqdm.auto import tqdm

from saerepgeo_lib import clusters, dimension, synthetic
from saerepgeo_lib.claims import Claim, Verdict
from saerepgeo_lib.errors import UserError, choose
from saerepgeo_lib.latents import encode
from saerepgeo_lib.noise_sweep import RESIDUAL, randomized, stream, workers
from saerepgeo_lib.points import Points
from saerepgeo_lib.ranks import (
    RULES,
    effective_rank,
    participation_ratio,
    permutation_rank,
    relative_rank,
)
from saerepgeo_lib.residuals import add_noise, float64, rms
from saerepgeo_lib.saes import random_sae
from saerepgeo_lib.statistics import Estimate, auc
from saerepgeo_lib.tensors import singular_values

DIMENSIONS = (1, 2, 4, 8)  # of the planted strata
AMBIENT = 32  # leading principal directions of the residual stream that planted data fill
LEVELS = (0, 0.05, 0.2, 0.5, 2)
TAUS = (0.01, 0.03, 0.1)  # thresholds of the relative rank that compete
STRATA = {"linear": synthetic.linear_strata, "curved": synthetic.curved_strata}
SCORES = (
    *(f"relative {t:g} range" for t in TAUS),
    *(f"{name} range" for name in (*RULES, "permutation") if name != "relative"),
    "TwoNN misfit", "MLE spread", "H0 gap",
    "clean relative rank", "clean effective rank", "clean participation",
)  # fmt: skip
CONTRASTS = ("same covariance", "same mean dimension", "lowest dimension")


def check_parameters(*, draws: int, n_points: int, score: str) -> None:
    """Refuse what the page could not use, before anything is loaded."""
    if draws < 2:
        raise UserError(f"draws must be at least 2, got {draws}: an AUC needs them")
    if n_points < 10 * len(DIMENSIONS):
        raise UserError(f"n_points must be at least {10 * len(DIMENSIONS)}, got {n_points}")
    choose("score", score, SCORES)


def covariance_twin(points: Points, *, curved: bool, rng: np.random.Generator) -> Points:
    """Smooth data with the mean and covariance of `points`: a flat, or an ellipsoid in its span.

    The flat is a Gaussian in the subspace that the points span, the ellipsoid a uniform sample of
    a sphere of that dimension stretched to the same covariance. Both are smooth manifolds.
    """
    mean = points.mean(axis=0)
    _, s, frame = np.linalg.svd(points - mean, full_matrices=False)
    kept = s > 1e-9 * s[0]
    r = int(kept.sum())
    x = rng.normal(size=(len(points), r))
    if curved:
        x *= np.sqrt(r) / np.linalg.norm(x, axis=1, keepdims=True)
    twin: np.ndarray = mean + (x * s[kept] / np.sqrt(len(points))) @ frame[kept]
    return twin


def placement(like: Float[Tensor, "tokens d"]) -> Callable[[Points], Float[Tensor, "n width"]]:
    """How to put points into the residual stream: with the mean and root mean square of `like`.

    Coordinate i goes along the i-th principal direction of `like`; so the data lie where the
    residual stream does, and an SAE sees directions that it knows.
    """
    mean, spread = like.mean(0), rms(like)
    directions = torch.linalg.svd(like - mean, full_matrices=False).Vh

    def place(points: Points) -> Float[Tensor, "n width"]:
        y = torch.from_numpy(points - points.mean(axis=0)).to(like)
        y = y @ directions[: points.shape[1]]
        return mean + y * (spread / rms(y))

    return place


@dataclass(frozen=True)
class Planted:
    """One planted data set: stratified or a smooth twin, and what it is compared by."""

    shape: str  # linear or curved
    contrast: str  # of CONTRASTS; empty for the strata themselves
    draw: int
    points: Points
    dimension: Int[np.ndarray, " n"]  # of the piece that each point lies on


def planted_sets(
    *, draws: int, n: int = 96, dimensions: Sequence[int] = DIMENSIONS, random_state: int = 0
) -> list[Planted]:
    """For each draw and shape, strata of several dimensions and their smooth twins.

    The twins have the covariance of the strata, their mean dimension, or their lowest dimension.
    """
    sets = []
    for draw in range(draws):
        for shape, strata in STRATA.items():
            entropy = np.random.SeedSequence([random_state, draw, len(shape)])
            seed = int(entropy.generate_state(1)[0])
            rng = np.random.default_rng(entropy)
            cloud = strata(dimensions, n // len(dimensions), AMBIENT, random_state=seed)
            sets.append(Planted(shape, "", draw, cloud.points, cloud.dimension))
            size, curved = len(cloud.points), shape == "curved"
            twin = covariance_twin(cloud.points, curved=curved, rng=rng)
            span = np.linalg.matrix_rank(twin - twin.mean(axis=0)) - curved
            sets.append(Planted(shape, CONTRASTS[0], draw, twin, np.full(size, span)))
            thin = (round(float(np.mean(dimensions))), min(dimensions))
            for contrast, d in zip(CONTRASTS[1:], thin, strict=True):
                piece = strata((d,), size, AMBIENT, random_state=seed + d)
                sets.append(Planted(shape, contrast, draw, piece.points, piece.dimension))
    return sets


def _ranks(s: np.ndarray, shape: tuple[int, int]) -> dict[str, float]:
    found = {f"{name} range": RULES[name](s, shape).value for name in RULES if name != "relative"}
    return {f"relative {t:g} range": relative_rank(s, tau=t).value for t in TAUS} | found


def scores(
    x: Float[Tensor, "n d"],
    encoders: Mapping[str, Callable[[Tensor], Tensor]],
    *,
    levels: Sequence[float] = LEVELS,
    seed: int = 0,
    n_permutations: int = 2,
) -> dict[tuple[str, str], float]:
    """Every score of every representation of one data set; keys (representation, score).

    Rank rules: relative range of the profile over `levels` (in units of the rms of x). On the
    clean points: "TwoNN misfit", "MLE spread" (standard deviation of the local dimension's
    inverse over its mean), "H0 gap" (largest H0 death over the median death), and three clean
    ranks.
    """
    sigma = rms(x)
    found: dict[tuple[str, str], float] = {}
    for label, encoder in encoders.items():
        profiles: dict[str, list[float]] = {}
        for level in levels:
            noisy = add_noise(x, level * sigma, scaling="absolute", generator=stream(seed, "noise"))
            z = float64(encoder(noisy))
            s = singular_values(z).cpu().numpy()
            ranks = _ranks(s, (z.shape[0], z.shape[1]))
            generator = stream(seed, "permutation")
            null = [_permuted_spectrum(z, generator) for _ in range(n_permutations)]
            ranks["permutation range"] = permutation_rank(s, np.stack(null)).value
            for name, rank in ranks.items():
                profiles.setdefault(name, []).append(rank)
            if level == 0:
                found |= {(label, k): v for k, v in _clean_scores(z.cpu().numpy(), s).items()}
        for name, profile in profiles.items():
            found[label, name] = (max(profile) - min(profile)) / max(profile[0], 1.0)
    return found


def _permuted_spectrum(z: Float[Tensor, "n F"], generator: torch.Generator) -> np.ndarray:
    by_feature = z.T.contiguous()
    orders = torch.rand(by_feature.shape, generator=generator).argsort(1).to(z.device)
    return singular_values(by_feature.gather(1, orders)).cpu().numpy()


def _clean_scores(z: Points, s: np.ndarray) -> dict[str, float]:
    inverse = dimension.local_inverse_dimensions(z)
    deaths = clusters.h0_deaths(z)
    middle = float(np.median(deaths[deaths > 0])) if (deaths > 0).any() else 1.0
    return {
        "TwoNN misfit": dimension.two_nn_misfit(z),
        "MLE spread": float(inverse.std() / inverse.mean()),
        "H0 gap": float(deaths[0]) / middle,
        "clean relative rank": relative_rank(s).value,
        "clean effective rank": effective_rank(s).value,
        "clean participation": participation_ratio(s).value,
    }


def score_table(
    sets: Sequence[Planted],
    like: Float[Tensor, "tokens d"],
    saes: Mapping[str, Any],
    *,
    sparse: Sequence[str],
    levels: Sequence[float] = LEVELS,
    seed: int = 0,
) -> pd.DataFrame:
    """Scores of all data sets, through the residual stream, the SAEs and random encoders.

    Columns shape, contrast, draw, representation, score, value. Random encoders are those of
    Case 1 (random directions, the mean L0 of their SAE on `like`), fresh for every draw.
    """
    l0 = {label: max(1, round(encode(saes[label], like).l0)) for label in sparse}
    place = placement(like)
    trained: dict[str, Callable[[Tensor], Tensor]] = {RESIDUAL: lambda x: x}
    trained |= {label: partial(_values, sae) for label, sae in saes.items()}

    def rows_of(item: Planted, encoders: Any) -> list[tuple[Any, ...]]:
        found = scores(place(item.points), encoders, levels=levels, seed=seed + item.draw)
        return [
            (item.shape, item.contrast, item.draw, label, score, value)
            for (label, score), value in found.items()
        ]

    rows = []
    by_draw = itertools.groupby(sorted(sets, key=lambda item: item.draw), lambda item: item.draw)
    with workers() as pool, tqdm(total=len(sets), desc="planted sets", leave=False) as bar:
        for draw, items in by_draw:
            generator = stream(seed + draw, "encoder")
            nulls = {
                randomized(x): partial(_values, random_sae(saes[x], l0=l0[x], generator=generator))
                for x in sparse
            }
            for part in pool.map(partial(rows_of, encoders=trained | nulls), items):
                rows += part
                bar.update()
    columns = ["shape", "contrast", "draw", "representation", "score", "value"]
    return pd.DataFrame(rows, columns=columns)


def _values(sae: Any, x: Float[Tensor, "n d"]) -> Float[Tensor, "n active"]:
    return encode(sae, x).values


def auc_table(table: pd.DataFrame) -> pd.DataFrame:
    """AUC of stratified against smooth by contrast, shape, representation and score.

    Columns contrast, shape ("both" pools them), representation, score, auc, low, high, p, n. Above
    0.5: the score is higher for stratified data, as Case 1's reading needs.
    """
    rows = []
    pooled = table.assign(shape="both")
    groups = ["shape", "representation", "score"]
    both = pd.concat([pooled, table])
    both = both.assign(score=pd.Categorical(both["score"], SCORES))
    for (shape, label, score), part in both.groupby(groups, sort=False, observed=True):
        strata = part.loc[part["contrast"] == "", "value"].to_numpy()
        for contrast in CONTRASTS:
            smooth = part.loc[part["contrast"] == contrast, "value"].to_numpy()
            found = auc(strata, smooth)
            rows.append(
                (
                    contrast,
                    shape,
                    label,
                    score,
                    found.value,
                    found.low,
                    found.high,
                    found.p,
                    found.n,
                )
            )
    columns = ["contrast", "shape", "representation", "score", "auc", "low", "high", "p", "n"]
    return pd.DataFrame(rows, columns=columns)


def roc_table(
    table: pd.DataFrame, representations: Sequence[str], scores: Sequence[str]
) -> pd.DataFrame:
    """ROC curves over both shapes; columns contrast, representation, score, false, true."""
    curves = []
    for contrast, label, score in itertools.product(CONTRASTS, representations, scores):
        part = table[(table["representation"] == label) & (table["score"] == score)]
        part = part[part["contrast"].isin(["", contrast])]
        false, true, _ = roc_curve(part["contrast"] == "", part["value"], drop_intermediate=False)
        curve = pd.DataFrame({"false": false, "true": true})
        curves.append(curve.assign(contrast=contrast, representation=label, score=score))
    return pd.concat(curves, ignore_index=True)


def worst_aucs(aucs: pd.DataFrame, representations: Sequence[str]) -> pd.DataFrame:
    """The least AUC of each score over these representations and both shapes, by contrast.

    Columns score, one a contrast, and worst (over all contrasts).
    """
    part = aucs[aucs["representation"].isin(representations) & (aucs["shape"] != "both")]
    out = part.pivot_table("auc", "score", "contrast", aggfunc="min", sort=False)
    out = out[list(CONTRASTS)].rename_axis(columns=None)
    return out.assign(worst=out.min(axis=1)).reset_index()


def judge(aucs: pd.DataFrame, score: str, representations: Sequence[str]) -> list[Claim]:
    """Does a score tell strata from smooth data? One finding a representation and contrast.

    It holds if the AUC over both shapes lies above 0.5 with its 95 % interval.
    """
    chosen = aucs[(aucs["score"] == score) & (aucs["shape"] == "both")]
    claims = []
    for row in chosen[chosen["representation"].isin(representations)].to_dict("records"):
        found = Estimate(row["auc"], row["low"], row["high"], row["p"], row["n"])
        verdict: Verdict = "holds" if found.low > 0.5 else "does not hold"
        subject = f"{row['representation']}, against smooth data of the {row['contrast']}"
        statistic = f"AUC of the {score}"
        claims.append(Claim.of("rank-detects-strata", subject, statistic, found, verdict))
    return claims
