"""Spectra of the unfolded latent tensor as noise enters the residual stream, beside the nulls.

One noise draw per seed serves all levels, so a profile changes with the level alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from saerepgeo_lib.activations.latents import Latents, random_sae
from saerepgeo_lib.activations.residual_stream import NoiseScaling, draw_noise, float64, rms, twins
from saerepgeo_lib.activations.token_activations import TokenActivations
from saerepgeo_lib.cores import workers
from saerepgeo_lib.errors import UserError, choose
from saerepgeo_lib.rank._noisy_latents import LatentsAt, NoisyLatents, permuted_latents
from saerepgeo_lib.rank.unfoldings import (
    MODES,
    aligned_rows,
    difference,
    modal_norms,
    modal_spectra,
    singular_values,
)

RESIDUAL = "residual"
PAPER_LEVELS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
MOST_NOISE = 1e6  # of it nothing but noise is left in single precision
Key = tuple[str, int]  # representation and mode
_STREAMS = {"noise": 0, "encoder": 1, "permutation": 2}


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


@dataclass(frozen=True)
class Sweep:
    """Spectra of every representation, mode, level and seed of one concept.

    `spectra` end with zeros; `shift` is the spectral norm of the unfolding's change from level 0,
    `shapes` its shape on the features active at any level. `active` counts the features active at a
    level, and `l0` is the mean L0. `tensor_shape` is (prompts, slots), and `distinct` how many
    prompts (by mode 1) and tokens (3) of it are no copies of another. With `centred` all of this is
    of the tensor minus its mean token. `inputs` are the spectra of each entity's own tokens, a
    matrix each, if they were asked for (centred by themselves).
    """

    levels: tuple[float, ...]
    seeds: tuple[int, ...]
    sigma: float
    tensor_shape: tuple[int, int]
    distinct: Mapping[int, int] = field(default_factory=dict)
    spectra: dict[Key, Float[np.ndarray, "levels seeds k"]] = field(default_factory=dict)
    shift: dict[Key, Float[np.ndarray, "levels seeds"]] = field(default_factory=dict)
    shapes: dict[Key, tuple[int, int]] = field(default_factory=dict)
    active: dict[str, Float[np.ndarray, "levels seeds"]] = field(default_factory=dict)
    l0: dict[str, Float[np.ndarray, "levels seeds"]] = field(default_factory=dict)
    centred: bool = False
    inputs: dict[str, Float[np.ndarray, "levels seeds inputs k"]] = field(default_factory=dict)
    rows: tuple[np.ndarray, ...] = ()  # of each input in the tensor

    @property
    def labels(self) -> tuple[str, ...]:
        """The representations: residual, SAEs, their random encoders, their permuted latents."""
        return tuple(self.active)

    def make_room(self, label: str) -> None:
        """Zeros for a representation."""
        p, t = self.tensor_shape
        grid = len(self.levels), len(self.seeds)
        self.active[label], self.l0[label] = np.zeros(grid), np.zeros(grid)
        for mode, n in {1: p, 2: t, 3: p * t}.items():
            self.spectra[label, mode] = np.zeros((*grid, n))
            self.shift[label, mode] = np.zeros(grid)
            self.shapes[label, mode] = (0, 0)
        if self.rows:
            longest = max(map(len, self.rows))
            self.inputs[label] = np.zeros((*grid, len(self.rows), longest))


def check_levels(levels: Sequence[float]) -> tuple[float, ...]:
    """Noise levels: ascending, distinct, finite, and beginning with 0."""
    out = tuple(float(level) for level in levels)
    if len(out) < 2 or out[0] != 0 or list(out) != sorted(set(out)) or not out[-1] <= MOST_NOISE:
        raise UserError(
            "noise levels must be at least two finite numbers that ascend from 0 and end at "
            f"{MOST_NOISE:g} at most, got {list(out)}"
        )
    return out


def sweep(
    acts: TokenActivations, saes: Mapping[str, Any], *, sparse: Sequence[str],
    levels: Sequence[float] = PAPER_LEVELS, scaling: NoiseScaling = "relative",
    seeds: Sequence[int] = tuple(range(10)), max_slots: int | None = 2, centred: bool = False,
    inputs: bool = False, description: str = "noise sweep",
) -> Sweep:  # fmt: skip
    """Spectra of the three unfoldings for every SAE and null, over noise levels and seeds.

    The representations are the residual stream, each of `saes`, and two nulls for each of the
    `sparse` SAEs: a random encoder with its mean L0 on the clean tokens, and its latents with every
    feature permuted over the tokens. `centred` takes the mean token away at every level; `inputs`
    asks for the spectra of each entity by itself, too (of its tokens in slot 0). Raises UserError
    for levels that do not ascend from 0, no seed, or an unknown SAE.
    """
    levels = check_levels(levels)
    choose("noise scaling", scaling, ("relative", "absolute"))
    seeds = tuple(dict.fromkeys(seeds))
    if not seeds:
        raise UserError("give at least one seed (and two or more for an interval)")
    for label in sparse:
        choose("sparse SAE", label, saes)
    labels = (RESIDUAL, *saes, *map(randomized, sparse), *map(permuted, sparse))
    if taken := sorted({label for label in labels if labels.count(label) > 1}):
        raise UserError(f"two representations would be named {', '.join(taken)}; rename the SAEs")
    rows = aligned_rows(acts, max_slots=max_slots)
    x = acts.x[rows.flatten()]
    sigma = rms(acts.x, massive="keep") if scaling == "relative" else 1.0
    shape = rows.shape[0], rows.shape[1]
    points = {1: x.reshape(len(rows), -1), 3: x}
    distinct = {mode: len(twins(float64(y).cpu().numpy())[0]) for mode, y in points.items()}
    result = Sweep(levels, seeds, sigma, shape, distinct, centred=centred)
    if inputs:
        entity = acts.entity[rows[:, 0].cpu().numpy()]
        own = tuple(np.flatnonzero(entity == e) * shape[1] for e in np.unique(entity[entity >= 0]))
        result = replace(result, rows=own)
    for label in labels:
        result.make_room(label)
    total = len(result.labels) * len(seeds)
    with workers() as pool, tqdm(total=total, desc=description, leave=False) as bar:
        for label, s, latents_at in _representations(result, x, saes, sparse, pool):
            _measure_levels(result, label, s, latents_at, pool)
            del latents_at  # it holds a product; the next one makes another
            bar.update()
    return result


def _representations(
    result: Sweep, x: Float[Tensor, "tokens d"], saes: Mapping[str, Any], sparse: Sequence[str],
    pool: Executor,
) -> Iterator[tuple[str, int, LatentsAt]]:  # fmt: skip
    """Each representation by label and number of the seed, as the function scale -> latents."""
    every = list(enumerate(result.seeds))
    for s, seed in every:
        yield RESIDUAL, s, partial(_unencoded, x, draw_noise(x, stream(seed, "noise")))
    for label, sae in saes.items():
        encoder = NoisyLatents(sae, x, pool=pool)
        for s, seed in every:
            latents_at = encoder.along(draw_noise(x, stream(seed, "noise")))
            yield label, s, latents_at
            if label in sparse:
                generator = stream(seed, "permutation")
                yield permuted(label), s, permuted_latents(latents_at, x, sae.cfg.d_sae, generator)
            del latents_at
    for label in sparse:
        l0 = max(1, round(result.l0[label][0, 0]))  # measured by now
        for s, seed in every:
            random = random_sae(saes[label], l0=l0, generator=stream(seed, "encoder"))
            noise = draw_noise(x, stream(seed, "noise"))
            yield randomized(label), s, NoisyLatents(random, x, pool=pool).along(noise)


def _unencoded(x: Tensor, noise: Tensor, scale: float) -> Latents:
    """The residual stream in the place of latents."""
    return Latents(torch.add(x, noise, alpha=scale), torch.arange(x.shape[1], device=x.device))


def _measure_levels(
    result: Sweep, label: str, s: int, latents_at: LatentsAt, pool: Executor
) -> None:
    """Put one representation's measurements at all levels into the result, for seed number `s`."""
    p, t = result.tensor_shape
    clean = latents_at(0.0)
    ever = clean.features
    unmoved = dict.fromkeys(MODES, clean.values.new_zeros(()))

    def middle(values: Tensor) -> Tensor:
        return float64(values) - float64(values).mean(0) if result.centred else values

    def measure(level: float) -> tuple[Any, ...]:
        latents = latents_at(level * result.sigma)
        norms = modal_norms(middle(difference(latents, clean)), t) if level else unmoved
        spectra = modal_spectra(middle(latents.values), t)
        own = [singular_values(middle(latents.values[rows])) for rows in result.rows]
        return latents.features, latents.values.count_nonzero(), spectra, norms, own

    measured = pool.map(measure, result.levels)
    for i, (features, n_nonzero, spectra, norms, own) in enumerate(measured):
        for k, values in enumerate(own):
            result.inputs[label][i, s, k, : len(values)] = values.cpu().numpy()
        ever = torch.cat([ever, features]).unique()
        result.active[label][i, s] = len(features)
        result.l0[label][i, s] = n_nonzero.item() / (p * t)
        for mode, spectrum in spectra.items():
            result.spectra[label, mode][i, s, : len(spectrum)] = spectrum.cpu().numpy()
            result.shift[label, mode][i, s] = norms[mode].item()
    n = max(len(ever), result.shapes[label, 3][0])
    for mode, shape in {1: (p, t * n), 2: (t, p * n), 3: (n, p * t)}.items():
        result.shapes[label, mode] = shape
