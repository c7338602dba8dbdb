"""Local dimension of running text, in a model's residual stream and behind its autoencoders."""

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from saerepgeo_lib.activations.latents import random_sae_like
from saerepgeo_lib.activations.token_activations import TokenActivations
from saerepgeo_lib.geometry.local_dimension import (
    NEIGHBOURS,
    dimension_spread,
    equal_pieces,
    volume_growth,
)
from saerepgeo_lib.geometry.points import as_points
from saerepgeo_lib.rank.noise_sweep import RESIDUAL, randomized
from saerepgeo_lib.stats.estimates import NotEstimable

NULLS = ("one piece", "a piece for each token type")
_MOST = 10_000  # tokens, drawn at random
_CENTRES = 1500  # of them, around which neighbourhoods are sought


def text_dimension(
    acts: TokenActivations, *, n_neighbours: int = NEIGHBOURS, seed: int = 0
) -> pd.DataFrame:
    """Both tests in the residual stream, in sparse latents and in a random encoder's.

    A row per representation and null: median local dimension, excess spread (value, low, high, n
    neighbourhoods), and the share of tokens that reject a manifold and a fibre bundle (p <= 0.05),
    beside the share in the null. At most 10,000 tokens, drawn at random.
    """
    some = torch.from_numpy(np.random.default_rng(seed).permutation(len(acts))[:_MOST])
    acts = acts.rows(some.sort().values)
    types = np.unique(acts.words, return_inverse=True)[1]
    saes = {label: acts.source.saes[label] for label in acts.source.sparse}
    for label in list(saes)[:1]:
        generator = torch.Generator().manual_seed(seed)
        saes[randomized(label)] = random_sae_like(saes[label], acts.x, generator=generator)
    rows = []
    for label in tqdm([RESIDUAL, *saes], desc="local dimension", unit="space"):
        x = acts.x.double().cpu().numpy() if label == RESIDUAL else as_points(saes[label], acts.x)
        grown = _rejected(x, seed)
        for null, groups in zip(NULLS, (types * 0, types), strict=True):
            found = dimension_spread(
                x, groups, n_neighbours=n_neighbours, null_draws=1, centres=_CENTRES,
                random_state=seed,
            )  # fmt: skip
            row = {"representation": label, "null": null}
            if isinstance(found, NotEstimable):
                rows.append(row | {"verdict": "not estimable"})
                continue
            pieces = equal_pieces(x, groups, np.random.default_rng(seed), least=n_neighbours)
            rows.append(row | {
                "median dimension": float(np.median(found.dimension)),
                "of the null": float(np.median(found.null)),
                "value": found.excess.value, "low": found.excess.low, "high": found.excess.high,
                "n": found.excess.n, "verdict": found.verdict,
                **grown,
                **{f"{name}, null": share for name, share in _rejected(pieces, seed).items()},
            })  # fmt: skip
    return pd.DataFrame(rows)


def _rejected(x: np.ndarray, seed: int) -> dict[str, float]:
    manifold, bundle = volume_growth(x, centres=_CENTRES, random_state=seed)
    shares = {"no manifold": manifold, "no fibre bundle": bundle}
    return {name: float(np.mean(p <= 0.05)) for name, p in shares.items()}


def dimension_answer(planted: pd.DataFrame, text: pd.DataFrame) -> str:
    """What the test sees of planted data (rows of `planted_table`), and what it says of text."""
    called = planted["verdict"].eq("several dimensions").groupby(planted["truth"])
    counts = {truth: f"{hits.sum()} of {len(hits)}" for truth, hits in called}
    one, pieces = (row for _, row in text[text["representation"] == RESIDUAL].iterrows())
    lines = [
        f"**Planted strata are seen**: {counts['several dimensions']} draws of families of several "
        f"dimensions, and {counts['smooth']} of smooth ones, are said to have several.",
        "",
    ]
    if "not estimable" in (one["verdict"], pieces["verdict"]):
        return "\n".join([*lines, "**Running text**: too few tokens for the test."])
    differ = pieces["verdict"] == "several dimensions"
    lines.append(
        "**Running text, in the residual stream**: local dimension varies more than in one smooth "
        f"piece by {one['value']:.2f} [{one['low']:.2f}, {one['high']:.2f}] ({one['verdict']}; "
        f"{one['n']:.0f} neighbourhoods). But tokens lie in clusters, and it varies "
        + ("more than in equal clusters, too: **the clusters themselves differ.**" if differ else
           "no more, as far as can be seen, than in equal clusters in the places of the token "
           "types. **So it is undecided whether the clusters have different dimensions.**")
    )  # fmt: skip
    return "\n".join(lines)
