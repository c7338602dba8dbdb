"""Spectra of the unfolded latent tensor as noise enters the residual stream, beside the nulls.

One noise draw per seed serves all levels, so a profile changes with the level alone.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from saerepgeo_lib.cores import workers
from saerepgeo_lib.errors import UserError, choose
from saerepgeo_lib.latents import Codes
from saerepgeo_lib.noisy_codes import NoisyCodes
from saerepgeo_lib.permuted_codes import PermutedCodes
from saerepgeo_lib.residuals import NoiseScaling, Residuals, draw_noise, rms
from saerepgeo_lib.saes import random_sae
from saerepgeo_lib.tensors import MODES, aligned_rows, difference, modal_norms, modal_spectra

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

    def store(self, label: str, i: int, s: int, point: "_Point", ever: int) -> None:
        """The measurements at level `i` of seed `s`; `ever` features were active up to it."""
        self.active[label][i, s] = len(point.features)
        self.l0[label][i, s] = point.n_nonzero.item() / np.prod(self.tensor_shape)
        for mode, spectrum in point.spectra.items():
            self.spectra[label, mode][i, s, : len(spectrum)] = spectrum.cpu().numpy()
            self.shift[label, mode][i, s] = point.norms[mode].item()
        p, t = self.tensor_shape
        ever = max(ever, self.shapes[label, 3][0])
        self.shapes |= {(label, 1): (p, t * ever), (label, 2): (t, p * ever)}
        self.shapes[label, 3] = (ever, p * t)


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
    if not seeds:
        raise UserError("give at least one seed (and two or more for an interval)")
    for label in sparse:
        choose("sparse SAE", label, saes)
    rows = aligned_rows(residuals, max_slots=max_slots)
    x = residuals.x[rows.flatten()]
    sigma = rms(residuals.x) if scaling == "relative" else 1.0
    result = Sweep(levels, seeds, sigma, (rows.shape[0], rows.shape[1]))
    for label in (RESIDUAL, *saes, *map(randomized, sparse), *map(permuted, sparse)):
        result.make_room(label)
    every = range(len(seeds))
    n_passes = (1 + len(saes) + len(sparse)) * len(seeds)
    with workers() as pool, tqdm(total=n_passes, desc=description, leave=False) as bar:
        run = partial(_run, result, pool=pool, bar=bar)
        run([RESIDUAL], _Unencoded(x), every)
        for label, sae in saes.items():
            labels = [label, permuted(label)] if label in sparse else [label]
            run(labels, NoisyCodes(sae, x, pool=pool), every)
        for label in sparse:
            l0 = max(1, round(result.l0[label][0, 0]))
            for s in every:
                encoder = random_sae(saes[label], l0=l0, generator=stream(seeds[s], "encoder"))
                run([randomized(label)], NoisyCodes(encoder, x, pool=pool), [s])
    return result


@dataclass(frozen=True)
class _Unencoded:
    """The residual stream in the place of latents."""

    x: Float[Tensor, "tokens d"]

    def clean(self) -> Codes:
        return Codes(self.x, torch.arange(self.x.shape[1], device=self.x.device))

    def along(self, noise: Float[Tensor, "tokens d"]) -> Callable[[float], Codes]:
        features = self.clean().features
        return lambda scale: Codes(torch.add(self.x, noise, alpha=scale), features)


@dataclass(frozen=True)
class _Point:
    """What a sweep measures of one representation at one level and seed, still on the device."""

    spectra: dict[int, Float[Tensor, " k"]]
    norms: dict[int, Float[Tensor, ""]]
    features: Int[Tensor, " active"]
    n_nonzero: Int[Tensor, ""]


def _run(
    result: Sweep,
    labels: Sequence[str],
    encoder: NoisyCodes | _Unencoded,
    columns: Iterable[int],
    *,
    pool: Executor,
    bar: "tqdm[Any]",
) -> None:
    """One encoder at all levels for the seeds in `columns`; a second label is its permuted null.

    A core works on one level at a time and waits for no result to be read: that is done here, as
    levels are done. What grows with the levels are the result's arrays.
    """
    n_slots = result.tensor_shape[1]
    scales = [level * result.sigma for level in result.levels[1:]]
    clean = encoder.clean()
    start = _point(clean, clean, n_slots)
    for s in columns:
        codes_at = encoder.along(draw_noise(encoder.x, stream(result.seeds[s], "noise")))
        nulls = [PermutedCodes(clean, stream(result.seeds[s], "permutation")) for _ in labels[1:]]
        measure = partial(_measure, codes_at, clean, nulls, n_slots)
        starts = [start, *(_point(null.clean, null.clean, n_slots) for null in nulls)]
        seen = [point.features for point in starts]
        for i, points in enumerate(chain([starts], pool.map(measure, scales))):
            for n, (label, point) in enumerate(zip(labels, points, strict=True)):
                seen[n] = torch.cat([seen[n], point.features]).unique()
                result.store(label, i, s, point, len(seen[n]))
        del codes_at, measure  # they hold a product; the next seed makes another
        bar.update()


def _measure(
    codes_at: Callable[[float], Codes],
    clean: Codes,
    nulls: Sequence[PermutedCodes],
    n_slots: int,
    scale: float,
) -> list[_Point]:
    codes = codes_at(scale)
    return [
        _point(codes, clean, n_slots),
        *(_point(null(codes), null.clean, n_slots) for null in nulls),
    ]


def _point(codes: Codes, clean: Codes, n_slots: int) -> _Point:
    norms = dict.fromkeys(MODES, codes.values.new_zeros(()))
    if codes is not clean:
        norms = modal_norms(difference(codes, clean), n_slots)
    spectra = modal_spectra(codes.values, n_slots)
    return _Point(spectra, norms, codes.features, codes.values.count_nonzero())
