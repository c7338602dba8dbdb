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
from saerepgeo_lib.cores import workers
from saerepgeo_lib.errors import UserError, choose
from saerepgeo_lib.latents import encode
from saerepgeo_lib.noise_sweep import RESIDUAL, randomized, stream
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
from saerepgeo_lib.statistics import Estimate, auc, mean_estimate, stratified_auc
from saerepgeo_lib.stratification import nulls_of
from saerepgeo_lib.tensors import singular_values

DIMENSIONS = (1, 2, 4, 8)  # of the planted strata
AMBIENT = 32  # leading principal directions of the residual stream that planted data fill
LEVELS = (0, 0.2, 2)
N_PERMUTATIONS = 19  # the fewest that hold a level of 5 %
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

    The flat is a Gaussian sample in the subspace that the points span, made to have exactly
    their sample covariance. The ellipsoid is a uniform sample of a sphere of that dimension,
    stretched, and has their covariance in expectation. Both are smooth manifolds.
    """
    mean = points.mean(axis=0)
    _, s, frame = np.linalg.svd(points - mean, full_matrices=False)
    kept = s > 1e-9 * s[0]
    x = rng.normal(size=(len(points), int(kept.sum())))
    if curved:
        x /= np.linalg.norm(x, axis=1, keepdims=True) * np.sqrt(len(points) / x.shape[1])
    else:
        x = np.linalg.qr(x - x.mean(axis=0))[0]
    twin: np.ndarray = mean + (x * s[kept]) @ frame[kept]
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
    seed: int  # of its noise, permutations and random encoders


def planted_sets(
    *, draws: int, n: int = 96, dimensions: Sequence[int] = DIMENSIONS, random_state: int = 0
) -> list[Planted]:
    """For each draw and shape, strata of several dimensions and their smooth twins.

    The twins have the covariance of the strata, their mean dimension, or their lowest dimension.
    """
    sets = []
    for draw, (i, shape) in itertools.product(range(draws), enumerate(STRATA)):
        entropy = np.random.SeedSequence([random_state, draw, i])
        seeds = [int(state) for state in entropy.generate_state(3 + 4)]
        curved, strata = shape == "curved", STRATA[shape]
        cloud = strata(dimensions, n // len(dimensions), AMBIENT, random_state=seeds[0])
        size = len(cloud.points)
        twin = covariance_twin(cloud.points, curved=curved, rng=np.random.default_rng(entropy))
        span = int(np.linalg.matrix_rank(twin - twin.mean(axis=0))) - curved
        kinds = [("", cloud.points, cloud.dimension), (CONTRASTS[0], twin, np.full(size, span))]
        thin = (round(float(np.mean(dimensions))), min(dimensions))
        for contrast, d, seed in zip(CONTRASTS[1:], thin, seeds[1:3], strict=True):
            piece = strata((d,), size, AMBIENT, random_state=seed)
            kinds.append((contrast, piece.points, piece.dimension))
        sets += [
            Planted(shape, contrast, draw, points, known, seed)
            for (contrast, points, known), seed in zip(kinds, seeds[3:], strict=True)
        ]
    return sets


def _ranks(s: np.ndarray, shape: tuple[int, int]) -> dict[str, float]:
    found = {f"{name} range": RULES[name](s, shape).value for name in RULES if name != "relative"}
    return {f"relative {t:g} range": relative_rank(s, tau=t).value for t in TAUS} | found


def scores(
    x: Float[Tensor, "n d"],
    encoders: Mapping[str, Callable[[Tensor], Tensor]],
    *,
    permuted: Sequence[str] = (),
    levels: Sequence[float] = LEVELS,
    seed: int = 0,
) -> dict[tuple[str, str], float]:
    """Every score of every representation of one data set; keys (representation, score).

    Rank rules: relative range of the profile over `levels` (in units of the rms of x), the
    permutation rank for the representations in `permuted` only. On the clean points: "TwoNN
    misfit", "MLE spread" (standard deviation of the local dimension's inverse over its mean), "H0
    gap" (largest H0 death over the median death), and three clean ranks.
    """
    sigma = rms(x)
    found: dict[tuple[str, str], float] = {}
    for label, encoder in encoders.items():
        profiles: dict[str, list[float]] = {}
        generator = stream(seed, "permutation")
        for level in levels:
            noisy = add_noise(x, level * sigma, scaling="absolute", generator=stream(seed, "noise"))
            z = float64(encoder(noisy))
            s = singular_values(z).cpu().numpy()
            ranks = _ranks(s, (z.shape[0], z.shape[1]))
            if label in permuted:
                null = _permuted_spectra(z, generator)[:, : len(s)]
                ranks["permutation range"] = permutation_rank(s, null).value
            for name, rank in ranks.items():
                profiles.setdefault(name, []).append(rank)
            if level == 0:
                found |= {(label, k): v for k, v in _clean_scores(z.cpu().numpy(), s).items()}
        for name, profile in profiles.items():
            found[label, name] = (max(profile) - min(profile)) / max(profile[0], 1.0)
    return found


def _permuted_spectra(
    z: Float[Tensor, "n F"], generator: torch.Generator
) -> Float[np.ndarray, "draws n"]:
    """Spectra with every feature permuted over the tokens, from Gram matrices.

    Squaring costs digits at the small end, which a null of the leading values does not use.
    """
    by_feature = z.T.contiguous().cpu()
    null = []
    for _ in range(N_PERMUTATIONS):
        orders = torch.rand(by_feature.shape, generator=generator).argsort(1)
        shuffled = by_feature.gather(1, orders)
        null.append(torch.linalg.eigvalsh(shuffled.T @ shuffled).flip(0).clamp(min=0).sqrt())
    return torch.stack(null).numpy()


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
) -> pd.DataFrame:
    """Scores of all data sets, through the residual stream, the SAEs and random encoders.

    Columns shape, contrast, draw, representation, score, value. Random encoders are those of
    Case 1 (random directions, the mean L0 of their SAE on `like`), fresh for every data set. The
    permutation rank is taken of the SAEs only.
    """
    l0 = {label: max(1, round(encode(saes[label], like).l0)) for label in sparse}
    place = placement(like)
    trained: dict[str, Callable[[Tensor], Tensor]] = {RESIDUAL: lambda x: x}
    trained |= {label: partial(_values, sae) for label, sae in saes.items()}

    def rows_of(item: Planted) -> list[tuple[Any, ...]]:
        generator = stream(item.seed, "encoder")
        nulls = {
            randomized(x): partial(_values, random_sae(saes[x], l0=l0[x], generator=generator))
            for x in sparse
        }
        found = scores(
            place(item.points), trained | nulls, permuted=sparse, levels=levels, seed=item.seed
        )
        return [
            (item.shape, item.contrast, item.draw, label, score, value)
            for (label, score), value in found.items()
        ]

    with workers() as pool:
        parts = tqdm(pool.map(rows_of, sets), total=len(sets), desc="planted sets", leave=False)
        rows = [row for part in parts for row in part]
    columns = ["shape", "contrast", "draw", "representation", "score", "value"]
    return pd.DataFrame(rows, columns=columns)


def _values(sae: Any, x: Float[Tensor, "n d"]) -> Float[Tensor, "n active"]:
    return encode(sae, x).values


def auc_table(table: pd.DataFrame) -> pd.DataFrame:
    """AUC of stratified against smooth by contrast, shape, representation and score.

    Columns contrast, shape ("both": the mean over shapes, each compared with its own twins),
    representation, score, auc, low, high, p, n. Above 0.5: the score is higher for stratified data,
    as Case 1's reading needs.
    """
    ordered = table.assign(score=pd.Categorical(table["score"], SCORES))
    rows = []
    for (label, score), part in ordered.groupby(
        ["representation", "score"], sort=False, observed=True
    ):
        for contrast in CONTRASTS:
            pairs = {shape: _scores_of(part, shape, contrast) for shape in STRATA}
            found = {"both": stratified_auc(list(pairs.values()))}
            found |= {shape: auc(*pair) for shape, pair in pairs.items()}
            rows += [
                (contrast, shape, label, score, e.value, e.low, e.high, e.p, e.n)
                for shape, e in found.items()
            ]
    columns = ["contrast", "shape", "representation", "score", "auc", "low", "high", "p", "n"]
    out = pd.DataFrame(rows, columns=columns)
    order = pd.Categorical(out["score"], SCORES)
    return out.iloc[order.argsort(kind="stable")].reset_index(drop=True)


def _scores_of(part: pd.DataFrame, shape: str, contrast: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the strata of one shape, and of their smooth twins of one kind."""
    of_shape = part[part["shape"] == shape]
    strata, smooth = (of_shape.loc[of_shape["contrast"] == c, "value"] for c in ("", contrast))
    return strata.to_numpy(), smooth.to_numpy()


def roc_table(table: pd.DataFrame, representation: str, scores: Sequence[str]) -> pd.DataFrame:
    """ROC curves of one representation; columns contrast, shape, score, false, true."""
    curves = []
    for contrast, shape, score in itertools.product(CONTRASTS, STRATA, scores):
        chosen = (table["representation"] == representation) & (table["score"] == score)
        strata, smooth = _scores_of(table[chosen], shape, contrast)
        truth = np.repeat([True, False], [len(strata), len(smooth)])
        false, true, _ = roc_curve(truth, np.concatenate([strata, smooth]), drop_intermediate=False)
        curve = pd.DataFrame({"false": false, "true": true})
        curves.append(curve.assign(contrast=contrast, shape=shape, score=score))
    return pd.concat(curves, ignore_index=True)


def verdicts(table: pd.DataFrame, score: str, sparse: Sequence[str]) -> pd.DataFrame:
    """What Case 1's criterion says of planted data: is the score beyond its nulls, over the draws?

    One row a kind of data and SAE: columns data, shape, SAE, one a null (the mean difference to
    it), beyond all. A null is exceeded if the 95 % interval of the paired difference lies above 0
    and its sign-flip p is at most 0.05, as in `stratification.judge`.
    """
    chosen = table[table["score"] == score]
    rows = []
    for (contrast, shape), part in chosen.groupby(["contrast", "shape"], sort=False):
        by_draw = part.pivot(index="draw", columns="representation", values="value")
        for label in sparse:
            nulls = nulls_of(label, list(by_draw.columns), sparse)
            gaps = {null: mean_estimate((by_draw[label] - by_draw[null]).to_numpy())
                    for null in nulls}  # fmt: skip
            names = {null: null.partition(" ")[0] for null in nulls}
            row = {"data": contrast or "strata", "shape": shape, "SAE": label}
            row |= {f"minus {names[null]}": gap.value for null, gap in gaps.items()}
            beyond = all(gap.is_positive for gap in gaps.values())
            rows.append(row | {"beyond all": "yes" if beyond else "no"})
    return pd.DataFrame(rows)


def worst_aucs(aucs: pd.DataFrame, representations: Sequence[str]) -> pd.DataFrame:
    """The least AUC of each score over these representations and both shapes, by contrast.

    Columns score, one a contrast, and worst (over all contrasts).
    """
    part = aucs[aucs["representation"].isin(representations) & (aucs["shape"] != "both")]
    out = part.pivot_table("auc", "score", "contrast", aggfunc="min", sort=False, observed=True)
    out = out[list(CONTRASTS)].rename_axis(columns=None)
    return out.assign(worst=out.min(axis=1)).reset_index()


def judge(aucs: pd.DataFrame, score: str, representations: Sequence[str]) -> list[Claim]:
    """Does a score tell strata from smooth data? One finding a representation and contrast.

    It holds if the mean AUC of both shapes lies above 0.5 with its 95 % interval.
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
