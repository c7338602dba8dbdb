"""Spectra of the unfolded latent tensor as noise enters the residual stream, beside the nulls.

One noise draw per seed serves all levels, so a profile changes with the level alone.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from saerepgeo_lib.errors import UserError, choose
from saerepgeo_lib.latents import Codes, difference, encode
from saerepgeo_lib.residuals import NoiseScaling, Residuals, add_noise, rms
from saerepgeo_lib.saes import random_sae
from saerepgeo_lib.tensors import MODES, aligned_rows, modal_norms, modal_spectra

RESIDUAL = "residual"
_STREAMS = {"noise": 0, "encoder": 1, "permutation": 2}
PAPER_LEVELS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def permuted(label: str) -> str:
    """Name of the null in which each feature of `label` is permuted over the tokens."""
    return f"permuted {label}"


def randomized(label: str) -> str:
    """Name of the random encoder with the L0 of `label`."""
    return f"random {label}"


def child_seed(seed: int, use: int) -> int:
    """A seed for one use of a seed; different uses share no random numbers."""
    return int(np.random.SeedSequence([seed, use]).generate_state(1)[0])


def stream(seed: int, purpose: str) -> torch.Generator:
    """A generator for one purpose of a seed; different purposes share no random numbers."""
    state = np.random.SeedSequence([seed, _STREAMS[purpose]]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)


@dataclass
class Sweep:
    """Spectra of every representation, mode, level and seed of one concept.

    `spectra[label, mode]` has shape (levels, seeds, k), filled with 0 beyond the shorter side of
    the unfolding; `shift[label, mode]` (levels, seeds)
    holds the spectral norm of the unfolding's change from level 0; `shapes[label, mode]` is
    the unfolding's shape on the features active at any level; `active[label]` (levels, seeds)
    counts the features active at each level, and `l0[label]` (levels, seeds) is the mean L0.
    """

    levels: tuple[float, ...]
    seeds: tuple[int, ...]
    sigma: float
    tensor_shape: tuple[int, int]
    spectra: dict[tuple[str, int], Float[np.ndarray, "levels seeds k"]] = field(
        default_factory=dict
    )
    shift: dict[tuple[str, int], Float[np.ndarray, "levels seeds"]] = field(default_factory=dict)
    shapes: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)
    active: dict[str, Float[np.ndarray, "levels seeds"]] = field(default_factory=dict)
    l0: dict[str, Float[np.ndarray, "levels seeds"]] = field(default_factory=dict)

    @property
    def labels(self) -> tuple[str, ...]:
        """The representations, in the order in which they were computed."""
        return tuple(self.active)


def check_levels(levels: Sequence[float]) -> tuple[float, ...]:
    """Noise levels: ascending, distinct, finite, and beginning with 0."""
    out = tuple(float(level) for level in levels)
    if len(out) < 2 or out[0] != 0 or list(out) != sorted(set(out)) or not np.isfinite(out).all():
        raise UserError(
            f"noise levels must be at least two finite numbers that ascend from 0, got {list(out)}"
        )
    return out


def sweep(
    residuals: Residuals,
    saes: Mapping[str, Any],
    *,
    sparse: Sequence[str],
    levels: Sequence[float] = PAPER_LEVELS,
    scaling: NoiseScaling = "relative",
    seeds: Sequence[int] = tuple(range(10)),
    max_slots: int | None = 2,
    description: str = "noise sweep",
) -> Sweep:
    """Spectra of the three unfoldings for every SAE and null, over noise levels and seeds.

    The representations are the residual stream, each of `saes`, and for each of the `sparse`
    SAEs two nulls: a random encoder with its mean L0 on the clean tokens, and its latents with
    every feature permuted over the tokens. The model is not needed: `residuals` are given.
    Noise, random encoders and permutations of a seed come from separate streams.
    """
    levels = check_levels(levels)
    choose("noise scaling", scaling, ("relative", "absolute"))
    seeds = tuple(dict.fromkeys(seeds))
    if len(seeds) < 2:
        raise UserError("give at least two different seeds: an interval needs them")
    for label in sparse:
        choose("sparse SAE", label, saes)
    rows = aligned_rows(residuals, max_slots=max_slots)
    x = residuals.x[rows.flatten()]
    sigma = rms(residuals.x) if scaling == "relative" else 1.0
    result = Sweep(levels, seeds, sigma, (rows.shape[0], rows.shape[1]))
    l0 = {label: max(1, round(encode(saes[label], x).l0)) for label in sparse}

    def at_level(level: float, seed: int, nulls: Mapping[str, Any]) -> dict[str, Codes]:
        generator = stream(seed, "noise")
        noisy = add_noise(x, level * sigma, scaling="absolute", generator=generator)
        codes = {RESIDUAL: Codes(noisy, torch.arange(noisy.shape[1], device=x.device))}
        return codes | {label: encode(sae, noisy) for label, sae in {**saes, **nulls}.items()}

    with workers() as pool:
        for s, seed in enumerate(tqdm(seeds, desc=description, unit="seed", leave=False)):
            generator = stream(seed, "encoder")
            nulls = {
                randomized(label): random_sae(saes[label], l0=l0[label], generator=generator)
                for label in sparse
            }
            sequence = list(pool.map(partial(at_level, seed=seed, nulls=nulls), levels))
            for label in sparse:
                shuffled = _permute([codes[label] for codes in sequence], seed)
                for codes, null in zip(sequence, shuffled, strict=True):
                    codes[permuted(label)] = null
            _store(result, s, sequence, pool)
    return result


@contextmanager
def workers() -> Iterator[ThreadPoolExecutor]:
    """A thread a core, each single-threaded in torch: twice as fast on many small matrices."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(max_workers=n_threads) as pool:
            yield pool
    finally:
        torch.set_num_threads(n_threads)


def _permute(sequence: list[Codes], seed: int) -> list[Codes]:
    """Each feature permuted over the tokens, in the same way at every level."""
    features = torch.unique(torch.cat([codes.features for codes in sequence]))
    generator = stream(seed, "permutation")
    keys = torch.rand(len(sequence[0].values), len(features), generator=generator)
    orders = keys.argsort(0).to(features.device)
    return [
        Codes(c.values.gather(0, orders[:, torch.searchsorted(features, c.features)]), c.features)
        for c in sequence
    ]


def _store(
    result: Sweep, s: int, sequence: list[dict[str, Codes]], pool: ThreadPoolExecutor
) -> None:
    """Spectra, shifts and counts of one seed's codes at all levels, into column `s`."""
    p, t = result.tensor_shape
    n_values = {1: p, 2: t, 3: p * t}
    grid = (len(result.levels), len(result.seeds))

    def measure(item: tuple[int, str]) -> tuple[dict[int, Tensor], dict[int, float]]:
        i, label = item
        codes = sequence[i][label]
        norms = dict.fromkeys(MODES, 0.0)
        if i > 0:
            norms = modal_norms(difference(codes, sequence[0][label]), t)
        return modal_spectra(codes.values, t), norms

    items = list(itertools.product(range(len(sequence)), sequence[0]))
    for (i, label), (spectra, norms) in zip(items, pool.map(measure, items), strict=True):
        codes = sequence[i][label]
        result.active.setdefault(label, np.zeros(grid))[i, s] = len(codes.features)
        result.l0.setdefault(label, np.zeros(grid))[i, s] = codes.l0
        for mode, k in n_values.items():
            key = label, mode
            spectrum = spectra[mode].cpu().numpy()
            result.spectra.setdefault(key, np.zeros((*grid, k)))[i, s, : len(spectrum)] = spectrum
            result.shift.setdefault(key, np.zeros(grid))[i, s] = norms[mode]
    for label in sequence[0]:
        ever = len(torch.unique(torch.cat([codes[label].features for codes in sequence])))
        ever = max(ever, result.shapes.get((label, 3), (0, 0))[0])
        result.shapes |= {(label, 1): (p, t * ever), (label, 2): (t, p * ever)}
        result.shapes[label, 3] = (ever, p * t)
