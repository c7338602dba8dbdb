"""Can the instrument of Case 1 tell stratified from smooth data? Planted data, every rank rule.

A planted set of points takes the place of a concept's tokens: it is put into the residual stream,
noise is added, and it is encoded, as in Case 1. The score of a rank rule is Case 1's: the relative
range of the rank over noise levels. Other scores look at the clean points only.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from saerepgeo_lib import clusters, dimension, synthetic
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
from saerepgeo_lib.statistics import auc
from saerepgeo_lib.tensors import singular_values

DIMENSIONS = (1, 2, 4, 8)  # of the planted strata
AMBIENT = 32  # leading principal directions of the residual stream that planted data fill
LEVELS = (0, 0.05, 0.2, 0.5, 2)
TAUS = (0.01, 0.03, 0.1)  # thresholds of the relative rank that compete
STRATA = {"linear": synthetic.linear_strata, "curved": synthetic.curved_strata}
CONTRASTS = ("same covariance", "same mean dimension", "lowest dimension")


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


def dimension_twin(n: int, d: int, *, curved: bool, ambient: int, seed: int) -> Points:
    """One smooth piece of dimension d: a sphere, or a Gaussian in a flat."""
    strata = synthetic.curved_strata if curved else synthetic.linear_strata
    return strata((d,), n, ambient, random_state=seed).points


def place(points: Points, like: Float[Tensor, "tokens d"]) -> Float[Tensor, "n d"]:
    """Points as residual-stream vectors with the mean and root mean square of `like`.

    Coordinate i goes along the i-th principal direction of `like`; so the data lie where the
    residual stream does, and an SAE sees directions that it knows.
    """
    mean = like.mean(0)
    directions = torch.linalg.svd(like - mean, full_matrices=False).Vh[: points.shape[1]]
    y = torch.from_numpy(points - points.mean(axis=0)).to(like) @ directions
    return mean + y * (rms(like) / rms(y))


@dataclass(frozen=True)
class Planted:
    """One planted data set: stratified or a smooth twin, and what it is compared by."""

    shape: str  # linear or curved
    contrast: str  # of CONTRASTS; empty for the strata themselves
    draw: int
    points: Points


def planted_sets(
    *, draws: int, n: int = 96, dimensions: Sequence[int] = DIMENSIONS, random_state: int = 0
) -> list[Planted]:
    """For each draw and shape, strata of several dimensions and their smooth twins.

    The twins have the covariance of the strata, their mean dimension, or their lowest dimension."""
    sets = []
    for draw in range(draws):
        for shape, strata in STRATA.items():
            entropy = np.random.SeedSequence([random_state, draw, len(shape)])
            seed = int(entropy.generate_state(1)[0])
            rng = np.random.default_rng(entropy)
            x = strata(dimensions, n // len(dimensions), AMBIENT, random_state=seed).points
            curved = shape == "curved"
            sets.append(Planted(shape, "", draw, x))
            twins = [covariance_twin(x, curved=curved, rng=rng)]
            for d in (round(float(np.mean(dimensions))), min(dimensions)):
                twins.append(
                    dimension_twin(len(x), d, curved=curved, ambient=AMBIENT, seed=seed + d)
                )
            for contrast, twin in zip(CONTRASTS, twins, strict=True):
                sets.append(Planted(shape, contrast, draw, twin))
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

    def one(item: Planted) -> list[tuple[Any, ...]]:
        own = seed + 1 + item.draw
        generator = stream(own, "encoder")
        nulls = {
            randomized(label): random_sae(saes[label], l0=l0[label], generator=generator)
            for label in sparse
        }
        encoders: dict[str, Callable[[Tensor], Tensor]] = {RESIDUAL: lambda x: x}
        for label, sae in {**saes, **nulls}.items():
            encoders[label] = partial(_values, sae)
        found = scores(place(item.points, like), encoders, levels=levels, seed=own)
        return [
            (item.shape, item.contrast, item.draw, label, score, value)
            for (label, score), value in found.items()
        ]

    with workers() as pool:
        rows = list(tqdm(pool.map(one, sets), total=len(sets), desc="planted sets", leave=False))
    columns = ["shape", "contrast", "draw", "representation", "score", "value"]
    return pd.DataFrame([row for part in rows for row in part], columns=columns)


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
    for (shape, label, score), part in pd.concat([pooled, table]).groupby(groups, sort=False):
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


def best_rule(aucs: pd.DataFrame, sparse: Sequence[str]) -> pd.DataFrame:
    """Rank rules by the least they do: the smallest AUC over SAEs, contrasts and shapes.

    Columns score, worst auc, worst low (its interval's lower end), mean auc; best first.
    """
    part = aucs[
        aucs["representation"].isin(sparse)
        & (aucs["shape"] != "both")
        & aucs["score"].str.contains("range")
    ]
    groups = part.groupby("score", sort=False)
    out = groups.agg(**{"worst auc": ("auc", "min"), "worst low": ("low", "min"),
                        "mean auc": ("auc", "mean")})  # fmt: skip
    return out.sort_values("worst auc", ascending=False).reset_index()
