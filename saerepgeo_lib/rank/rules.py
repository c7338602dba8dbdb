"""Rank rules on descending singular values, with the tolerance of each; zeros have rank 0."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import inf, sqrt

import numpy as np
from jaxtyping import Float
from scipy.integrate import quad
from scipy.optimize import brentq

from saerepgeo_lib.errors import UserError

Spectrum = Float[np.ndarray, " k"]
Shape = tuple[int, int]
FLOAT32_EPS = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Rank:
    """A rank and the absolute tolerance on singular values that decided it (None if soft)."""

    value: float
    tolerance: float | None = None


def exact_rank(s: Spectrum, shape: Shape, *, eps: float = FLOAT32_EPS) -> Rank:
    """Number of s_i > max(m, n) eps s_1, `eps` being the machine precision of the data: the
    numerical rank (Golub and Van Loan, section 5.4).
    """
    s = _checked(s)
    return _count(s, max(shape) * eps * s[0])


def relative_rank(s: Spectrum, *, tau: float = 0.01) -> Rank:
    """Number of s_i > tau s_1."""
    s = _checked(s)
    if not 0 < tau < 1:
        raise UserError(f"tau must lie strictly between 0 and 1, got {tau}")
    return _count(s, tau * s[0])


def effective_rank(s: Spectrum) -> Rank:
    """exp of the entropy of s_i / sum(s) (Roy and Vetterli 2007)."""
    s = _checked(s)
    p = s[s > 0] / s.sum()
    return Rank(float(np.exp(-(p * np.log(p)).sum())) if len(p) else 0.0)


def participation_ratio(s: Spectrum) -> Rank:
    """(sum s_i^2)^2 / sum s_i^4: the number of directions that share the energy."""
    energy = _energy(s)
    return Rank(float(energy.sum() ** 2 / (energy**2).sum()) if energy[0] else 0.0)


def stable_rank(s: Spectrum) -> Rank:
    """sum s_i^2 / s_1^2: squared Frobenius norm over squared spectral norm."""
    return Rank(float(_energy(s).sum()))


def gavish_donoho_rank(s: Spectrum, shape: Shape, *, noise_std: float | None = None) -> Rank:
    """Optimal hard threshold for singular values under white additive noise.

    Known noise: lambda(beta) sqrt(n) sigma; unknown: omega(beta) median(s), where m <= n and
    beta = m / n (Gavish and Donoho 2014). For residuals only: behind an encoder noise is not white.
    """
    s = _checked(s)
    m, n = sorted(shape)
    beta = m / n
    root = sqrt(beta**2 + 14 * beta + 1)
    factor = sqrt(2 * (beta + 1) + 8 * beta / (beta + 1 + root))
    if noise_std is not None:
        return _count(s, factor * sqrt(n) * _checked_noise(noise_std))
    return _count(s, factor / sqrt(_marchenko_pastur_median(beta)) * float(np.median(s)))


def marchenko_pastur_rank(s: Spectrum, shape: Shape, *, noise_std: float) -> Rank:
    """Number of s_i above sigma (sqrt(m) + sqrt(n)), the edge of pure noise; for residuals only."""
    return _count(_checked(s), _checked_noise(noise_std) * (sqrt(shape[0]) + sqrt(shape[1])))


def permutation_rank(
    s: Spectrum, null: Float[np.ndarray, "draws n"], *, quantile: float = 0.95
) -> Rank:
    """Parallel analysis (Horn 1965): leading s_i above that quantile of permuted data's s_i.

    Counting stops at the first s_i that does not exceed its null, whose quantile is the tolerance.
    19 draws or more hold the level of 5 %, fewer only 1 / (draws + 1). For centred data: a mean is
    in the permuted data, too, and hides what lies below it.
    """
    s = _checked(s)
    if null.ndim != 2 or null.shape[1] != len(s) or not len(null):
        raise UserError(f"the null must have shape (draws, {len(s)}), got {null.shape}")
    bound = np.quantile(null, quantile, axis=0, method="higher")
    rank = int(np.logical_and.accumulate(s > bound).sum())
    return Rank(float(rank), float(bound[min(rank, len(s) - 1)]))


# Rules that need the spectrum and the shape only, and so apply to every representation.
RULES: dict[str, Callable[[Spectrum, Shape], Rank]] = {
    "relative": lambda s, shape: relative_rank(s),
    "exact": exact_rank,
    "effective": lambda s, shape: effective_rank(s),
    "participation": lambda s, shape: participation_ratio(s),
    "stable": lambda s, shape: stable_rank(s),
}


def weyl_bounds(
    s: Spectrum, perturbation: float, *, threshold: tuple[float, float]
) -> tuple[int, int]:
    """Smallest and largest number of singular values of A + E above a threshold, by Weyl.

    `s` are those of A, `perturbation` bounds the spectral norm of E, and the threshold lies in the
    closed interval `threshold`. Where both numbers agree, the rank is certified.
    """
    s, (low, high) = _checked(s), threshold
    if not 0 <= perturbation < inf or not 0 <= low <= high:
        raise UserError("need 0 <= perturbation < inf and 0 <= threshold[0] <= threshold[1]")
    return int((s > high + perturbation).sum()), int((s >= low - perturbation).sum())


def _checked(s: Spectrum) -> Float[np.ndarray, " values"]:
    s = np.asarray(s, dtype=float)
    if s.ndim != 1:
        raise UserError(f"expected a vector of singular values, got shape {s.shape}")
    if not len(s):  # latents without an active feature: a zero matrix
        return np.zeros(1)
    descending = (np.diff(s) <= 1e-12 * max(s[0], 1e-300)).all()
    if not np.isfinite(s).all() or (s < 0).any() or not descending:
        raise UserError("singular values must be finite, nonnegative and in descending order")
    return s


def _checked_noise(noise_std: float) -> float:
    if not 0 < noise_std < inf:
        raise UserError(f"noise_std is a finite number above 0, got {noise_std}")
    return noise_std


def _count(s: Spectrum, tolerance: float) -> Rank:
    return Rank(float(np.count_nonzero(s > tolerance)), float(tolerance))


def _energy(s: Spectrum) -> Float[np.ndarray, " values"]:
    """s_i^2 / s_1^2, and 0 for a zero matrix."""
    s = _checked(s)
    return (s / s[0]) ** 2 if s[0] else s


@lru_cache(maxsize=64)
def _marchenko_pastur_median(beta: float) -> float:
    """Median of the Marchenko-Pastur law of ratio `beta` <= 1 and unit variance."""
    low, high = (1 - sqrt(beta)) ** 2, (1 + sqrt(beta)) ** 2

    def density(t: float) -> float:
        return sqrt(max(0.0, (high - t) * (t - low))) / (2 * np.pi * beta * t)

    return float(brentq(lambda x: quad(density, low, x)[0] - 0.5, low, high))
