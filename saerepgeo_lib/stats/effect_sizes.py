"""Effect sizes on balanced grids of measurements, concept x layer x seed."""

from collections.abc import Callable

import numpy as np
from einops import rearrange
from jaxtyping import Float
from scipy import stats

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.stats.estimates import Estimate

Grid = Float[np.ndarray, "*draws concepts layers seeds"]
Cells = Float[np.ndarray, "concepts layers seeds"]
Effect = Callable[[Grid, Grid], Float[np.ndarray, "*draws"]]
_MOST = 10  # concepts: all 2^n exchanges are tried


def cliffs_delta(
    x: Float[np.ndarray, "*draws n"], y: Float[np.ndarray, "*draws m"]
) -> Float[np.ndarray, "*draws"]:
    """P(x > y) - P(x < y) over all pairs (Cliff 1993), which is 2 AUC - 1."""
    return np.asarray(np.sign(x[..., :, None] - y[..., None, :]).mean(axis=(-2, -1)))


def delta_in_layers(x: Grid, y: Grid) -> Float[np.ndarray, "*draws"]:
    """Cliff's delta of all values of a layer (concepts and seeds together), mean over layers."""
    a, b = (rearrange(grid, "... c layer s -> ... layer (c s)") for grid in (x, y))
    return np.asarray(cliffs_delta(a, b).mean(axis=-1))


def mean_difference(x: Grid, y: Grid) -> Float[np.ndarray, "*draws"]:
    """Mean of x - y over all cells."""
    return np.asarray((x - y).mean(axis=(-3, -2, -1)))


def paired_effect(
    x: Cells, y: Cells, *, effect: Effect, n_resamples: int = 2_000, random_state: int = 0
) -> Estimate:
    """An effect of x against y, whose cells are paired, with interval and p over the concepts.

    The interval draws concepts and, in every layer, seeds with replacement (pigeonhole bootstrap:
    Owen 2007), its percentiles as far out as Student's t for so few concepts (Hesterberg 2015). p
    is exact and two-sided: x and y trade places in whole concepts, in all 2^n ways. Raises
    UserError for NaN, or not 4 to 10 concepts.
    """
    if not np.isfinite([x, y]).all():
        raise UserError("an effect needs finite values; leave out concepts that have others")
    n, n_layers, n_seeds = x.shape
    if not 4 <= n <= _MOST:
        raise UserError(f"an effect over concepts needs 4 to {_MOST} of them, got {n}")
    rng = np.random.default_rng(random_state)
    concepts = rng.integers(n, size=(n_resamples, n))[:, :, None, None]
    seeds = rng.integers(n_seeds, size=(n_resamples, 1, n_layers, n_seeds))
    drawn = concepts, np.arange(n_layers)[None, None, :, None], seeds
    tail = float(stats.norm.cdf(np.sqrt(n / (n - 1)) * stats.t.ppf(0.025, n - 1)))
    low, high = np.quantile(effect(x[drawn], y[drawn]), (tail, 1 - tail))
    trade = (np.arange(2**n)[:, None] >> np.arange(n) & 1 > 0)[:, :, None, None]
    null = effect(np.where(trade, y, x), np.where(trade, x, y))
    value = float(effect(x, y))
    p = float(np.mean(np.abs(null) >= abs(value) - 1e-12))
    return Estimate(value, float(low), float(high), p, n)


def variance_shares(grid: Cells) -> dict[str, float]:
    """Shares of the total sum of squares, which sum to 1; seeds stand within layers.

    Raises UserError if the values do not vary.
    """
    centred = grid - grid.mean()
    total = float((centred**2).mean())
    if total <= 1e-24 * max(1.0, float((grid**2).mean())):
        raise UserError("values that do not vary have no shares of variance")
    concept = centred.mean(axis=(1, 2), keepdims=True)
    layer = centred.mean(axis=(0, 2), keepdims=True)
    effects = {"concept": concept, "layer": layer}
    effects["concept x layer"] = centred.mean(axis=2, keepdims=True) - concept - layer
    effects["seed"] = centred.mean(axis=0, keepdims=True) - layer
    effects["rest"] = centred - sum(effects.values())
    return {name: float((effect**2).mean()) / total for name, effect in effects.items()}
