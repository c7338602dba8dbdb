"""Can the instrument of Case 1 tell stratified from smooth data? Planted data, every rank rule."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from saerepgeo_lib.activations.latents import encode, random_sae
from saerepgeo_lib.activations.residual_stream import add_noise, float64, rms
from saerepgeo_lib.cores import workers
from saerepgeo_lib.geometry import clusters, dimension
from saerepgeo_lib.geometry.points import Points
from saerepgeo_lib.rank.noise_sweep import RESIDUAL, randomized, stream
from saerepgeo_lib.rank.profiles import nulls_of
from saerepgeo_lib.rank.rules import RULES, permutation_rank, relative_rank
from saerepgeo_lib.rank.unfoldings import singular_values
from saerepgeo_lib.stats.estimates import auc, mean_estimate, stratified_auc
from saerepgeo_lib.synthetic import data

DIMENSIONS = (1, 2, 4, 8)  # of the planted strata
AMBIENT = 32  # leading principal directions of the residual stream that planted data fill
LEVELS = (0, 0.2, 2)
TAUS = (0.01, 0.03, 0.1)  # thresholds of the relative rank that compete
SHAPES = ("linear", "curved")
CONTRASTS = ("same covariance", "same mean dimension", "lowest dimension")
SCORES = (
    *(f"relative {t:g} range" for t in TAUS),
    *(f"{name} range" for name in (*RULES, "permutation") if name != "relative"),
    "TwoNN misfit", "MLE spread", "H0 gap",
    "clean relative rank", "clean effective rank", "clean participation",
)  # fmt: skip


@dataclass(frozen=True)
class Planted:
    """One planted data set in the place of a concept's tokens: stratified, or a smooth twin."""

    shape: str  # of SHAPES
    contrast: str  # of CONTRASTS; empty for the strata themselves
    draw: int
    points: Points
    dimension: Int[np.ndarray, " n"]  # of the piece that each point lies on
    seed: int  # of its noise, permutations and random encoders


def planted_sets(
    *, draws: int, n: int = 96, dimensions: Sequence[int] = DIMENSIONS, random_state: int = 0
) -> list[Planted]:
    """For each draw and shape, strata of several dimensions and their twins by `CONTRASTS`."""
    sets = []
    for draw, (i, shape) in itertools.product(range(draws), enumerate(SHAPES)):
        entropy = np.random.SeedSequence([random_state, draw, i])
        seeds = [int(state) for state in entropy.generate_state(7)]
        curved = shape == "curved"
        make = partial(data.strata, ambient=AMBIENT, curved=curved)
        strata = make(dimensions, n // len(dimensions), random_state=seeds[0])
        size = len(strata.points)
        twin = covariance_twin(strata.points, curved=curved, rng=np.random.default_rng(entropy))
        span = int(np.linalg.matrix_rank(twin - twin.mean(axis=0))) - curved
        mean = make((round(np.mean(dimensions)),), size, random_state=seeds[1])
        least = make((min(dimensions),), size, random_state=seeds[2])
        kinds = [(cloud.points, cloud.dimension) for cloud in (strata, mean, least)]
        kinds.insert(1, (twin, np.full(size, span)))
        for contrast, kind, seed in zip(("", *CONTRASTS), kinds, seeds[3:], strict=True):
            sets.append(Planted(shape, contrast, draw, *kind, seed))
    return sets


def covariance_twin(points: Points, *, curved: bool, rng: np.random.Generator) -> Points:
    """Smooth data with the mean and covariance of `points`, in their span.

    Gaussian with exactly their sample covariance, or (`curved`) an ellipsoid with that expected.
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
    """How to put points into the residual stream: with the mean and root mean square of `like`,
    coordinate i along its i-th principal direction, which an SAE knows.
    """
    mean, spread = like.mean(0), rms(like)
    directions = torch.linalg.svd(like - mean, full_matrices=False).Vh

    def place(points: Points) -> Float[Tensor, "n width"]:
        y = torch.from_numpy(points - points.mean(axis=0)).to(like) @ directions[: points.shape[1]]
        return mean + y * (spread / rms(y, massive="keep"))

    return place


def scores(
    x: Float[Tensor, "n d"], encoders: Mapping[str, Callable[[Tensor], Tensor]], *,
    permuted: Sequence[str] = (), levels: Sequence[float] = LEVELS, seed: int = 0,
) -> dict[tuple[str, str], float]:  # fmt: skip
    """Every score of every representation of one data set, by the names of both.

    Of rank rules Case 1's: the relative range over `levels` (in units of the rms of x), that of the
    permutation rank for the representations in `permuted` only. The others are of the clean points:
    "MLE spread" is that of the inverse local dimension over its mean, "H0 gap" the largest H0 death
    over the median.
    """
    scored: dict[tuple[str, str], float] = {}
    for label, encoder in encoders.items():
        profiles, generator = [], stream(seed, "permutation")
        for level in levels:
            noise = stream(seed, "noise")
            noisy = add_noise(
                x, level * rms(x, massive="keep"), scaling="absolute", generator=noise
            )
            z = float64(encoder(noisy)).cpu()
            s = singular_values(z).numpy()
            if level == 0:
                clean = _clean_scores(z.numpy(), s)
            ranks = {
                f"{name} range": rule(s, z.numpy().shape).value for name, rule in RULES.items()
            }
            ranks |= {f"relative {t:g} range": relative_rank(s, tau=t).value for t in TAUS}
            if label in permuted:
                null = data.permuted_spectra(partial(_shuffled, z, generator))
                ranks["permutation range"] = permutation_rank(s, null[:, : len(s)]).value
            profiles.append(ranks)
        table = pd.DataFrame(profiles).drop(columns="relative range")
        ranges = (table.max() - table.min()) / table.iloc[0].clip(lower=1)
        scored |= {(label, str(s)): v for s, v in {**clean, **ranges}.items()}
    return scored


def _shuffled(z: Float[Tensor, "n F"], generator: torch.Generator) -> Float[Tensor, "n F"]:
    """Every feature in an order of its own."""
    by_feature = z.T.contiguous()
    orders = torch.rand(by_feature.shape, generator=generator).argsort(1)
    return by_feature.gather(1, orders).T


def _clean_scores(z: Points, s: np.ndarray) -> dict[str, float]:
    inverse = dimension.local_inverse_dimensions(z)
    deaths = clusters.h0_deaths(z)
    middle = float(np.median(deaths[deaths > 0])) if (deaths > 0).any() else 1.0
    names = ("relative rank", "effective rank", "participation")
    ranks = {f"clean {name}": RULES[name.split()[0]](s, z.shape).value for name in names}
    return {"TwoNN misfit": dimension.two_nn_misfit(z), "H0 gap": float(deaths[0]) / middle,
            "MLE spread": float(inverse.std() / inverse.mean()), **ranks}  # fmt: skip


def score_table(
    sets: Sequence[Planted], like: Float[Tensor, "tokens d"], saes: Mapping[str, Any], *,
    sparse: Sequence[str], levels: Sequence[float] = LEVELS,
) -> pd.DataFrame:  # fmt: skip
    """Scores of all data sets, through the residual stream, the SAEs and random encoders.

    Columns representation, score, value, shape, contrast, draw. Random encoders are those of Case 1
    (with the mean L0 of their SAE on `like`), fresh for every data set.
    """
    place = placement(like)
    l0 = {label: max(1, round(encode(saes[label], like).l0)) for label in sparse}

    def scores_of(item: Planted) -> list[dict[str, Any]]:
        generator = stream(item.seed, "encoder")
        both = dict(saes)
        for label in sparse:
            both[randomized(label)] = random_sae(saes[label], l0=l0[label], generator=generator)
        encoders: dict[str, Callable[[Tensor], Tensor]] = {RESIDUAL: lambda x: x}
        encoders |= {label: partial(_values, sae) for label, sae in both.items()}
        scored = scores(
            place(item.points), encoders, permuted=sparse, levels=levels, seed=item.seed
        )
        kind = {"shape": item.shape, "contrast": item.contrast, "draw": item.draw}
        return [
            {"representation": label, "score": score, "value": value, **kind}
            for (label, score), value in scored.items()
        ]

    with workers() as pool:
        rows = pool.map(scores_of, sets)
        bar = tqdm(rows, total=len(sets), desc="planted sets", leave=False)
        return pd.DataFrame(itertools.chain.from_iterable(bar))


def _values(sae: Any, x: Float[Tensor, "n d"]) -> Float[Tensor, "n active"]:
    return encode(sae, x).values


def strata_and_twins(
    table: pd.DataFrame, shape: str, contrast: str
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " m"]]:
    """One score of the strata of a shape, and of their smooth twins of one kind."""
    values = table[table["shape"] == shape].groupby("contrast")["value"]
    return values.get_group("").to_numpy(), values.get_group(contrast).to_numpy()


def auc_table(table: pd.DataFrame) -> pd.DataFrame:
    """AUC of stratified against smooth by contrast, shape, representation and score.

    Columns contrast, shape ("both": the mean over shapes, each compared with its own twins),
    representation, score, auc (above 0.5: higher for stratified data), low, high, p, n.
    """
    rows = []
    for (label, score), values in table.groupby(["representation", "score"], sort=False):
        for contrast in CONTRASTS:
            pairs = {shape: strata_and_twins(values, shape, contrast) for shape in SHAPES}
            areas = {"both": stratified_auc(list(pairs.values()))}
            areas |= {shape: auc(*pair) for shape, pair in pairs.items()}
            case = {"contrast": contrast, "representation": label, "score": score}
            rows += [{**case, "shape": shape, **asdict(area)} for shape, area in areas.items()]
    rows.sort(key=lambda row: SCORES.index(row["score"]))
    return pd.DataFrame(rows).rename(columns={"value": "auc"})


def verdicts(table: pd.DataFrame, score: str, sparse: Sequence[str]) -> pd.DataFrame:
    """What Case 1's criterion says of planted data: is the score beyond its nulls, over the draws?

    One row per kind of data and SAE: columns data, shape, SAE, one per null (the mean difference to
    it), beyond all. A null is exceeded as in Case 1 (`Estimate.is_positive`).
    """
    of_score = table[table["score"] == score]
    rows = []
    for (contrast, shape), values in of_score.groupby(["contrast", "shape"], sort=False):
        by_draw = values.pivot(index="draw", columns="representation", values="value")
        for label in sparse:
            nulls = nulls_of(label, list(by_draw.columns), sparse)
            above = {null: (by_draw[label] - by_draw[null]).to_numpy() for null in nulls}
            gaps = {f"minus {n.partition(' ')[0]}": mean_estimate(x) for n, x in above.items()}
            row = {"data": contrast or "strata", "shape": shape, "SAE": label}
            row |= {name: gap.value for name, gap in gaps.items()}
            beyond = all(gap.is_positive for gap in gaps.values())
            rows.append(row | {"beyond all": "yes" if beyond else "no"})
    return pd.DataFrame(rows)


def worst_aucs(aucs: pd.DataFrame, representations: Sequence[str]) -> pd.DataFrame:
    """The least AUC of each score over these representations and both shapes: columns score, one
    per contrast, worst (over all contrasts), and low (the least lower end of an interval).
    """
    chosen = aucs[aucs["representation"].isin(representations) & (aucs["shape"] != "both")]
    least = chosen.pivot_table("auc", "score", "contrast", aggfunc="min", sort=False)
    least = least[list(CONTRASTS)].rename_axis(columns=None)
    low = chosen.groupby("score")["low"].min()
    return least.assign(worst=least.min(axis=1), low=low).reset_index()
