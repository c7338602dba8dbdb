"""Rank rules on singular values, each with the tolerance it used, and Weyl's certificate.

Every rule takes singular values in descending order and returns a `Rank`. A zero matrix has
rank 0 under every rule.
"""

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
FLOAT32_EPS = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Rank:
    """A rank and the absolute tolerance on singular values that decided it (None if soft)."""

    value: float
    tolerance: float | None = None


def _count(s: Spectrum, tolerance: float) -> Rank:
    return Rank(float(np.count_nonzero(s > tolerance)), float(tolerance))


def _check(s: Spectrum) -> Float[np.ndarray, " values"]:
    s = np.asarray(s, dtype=float)
    if s.ndim != 1:
        raise UserError(f"expected a vector of singular values, got shape {s.shape}")
    if not len(s):  # codes without an active feature: a zero matrix
        return np.zeros(1)
    if not np.isfinite(s).all():
        raise UserError("the spectrum has NaN or infinite singular values")
    if (s < 0).any() or (np.diff(s) > 1e-12 * max(s[0], 1e-300)).any():
        raise UserError("singular values must be nonnegative and in descending order")
    return s


def _check_noise(noise_std: float | None) -> None:
    if noise_std is not None and not 0 < noise_std < inf:
        raise UserError(f"noise_std is a finite number above 0, got {noise_std}")


def exact_rank(s: Spectrum, shape: tuple[int, int], *, eps: float = FLOAT32_EPS) -> Rank:
    """Number of s_i > max(m, n) eps s_1: the numerical rank.

    `eps` is the machine precision of the data, not of the decomposition: latents computed in
    float32 carry rounding errors of that size (Golub and Van Loan, section 5.4).
    """
    s = _check(s)
    return _count(s, max(shape) * eps * s[0])


def relative_rank(s: Spectrum, *, tau: float = 0.01) -> Rank:
    """Number of s_i > tau s_1."""
    s = _check(s)
    if not 0 < tau < 1:
        raise UserError(f"tau must lie strictly between 0 and 1, got {tau}")
    return _count(s, tau * s[0])


def effective_rank(s: Spectrum) -> Rank:
    """exp of the entropy of s_i / sum(s) (Roy and Vetterli 2007)."""
    s = _check(s)
    p = s[s > 0] / s.sum() if s[0] > 0 else s[:0]
    return Rank(float(np.exp(-(p * np.log(p)).sum())) if len(p) else 0.0)


def participation_ratio(s: Spectrum) -> Rank:
    """(sum s_i^2)^2 / sum s_i^4: the number of directions that share the energy."""
    s = _check(s)
    p = (s / s[0]) ** 2 if s[0] > 0 else np.zeros(1)
    return Rank(float(p.sum() ** 2 / (p**2).sum()) if p[0] > 0 else 0.0)


def stable_rank(s: Spectrum) -> Rank:
    """sum s_i^2 / s_1^2: squared Frobenius norm over squared spectral norm."""
    s = _check(s)
    return Rank(float(((s / s[0]) ** 2).sum()) if s[0] > 0 else 0.0)


def gavish_donoho_rank(
    s: Spectrum, shape: tuple[int, int], *, noise_std: float | None = None
) -> Rank:
    """Optimal hard threshold for singular values under white additive noise.

    Known noise: lambda(beta) sqrt(n) sigma; unknown: omega(beta) median(s), where m <= n and
    beta = m / n (Gavish and Donoho 2014). For residuals only: pre-activations of more features
    than the residual has directions carry noise that is additive but not white, and behind an
    encoder's threshold it is neither.
    """
    s = _check(s)
    _check_noise(noise_std)
    m, n = sorted(shape)
    beta = m / n
    root = sqrt(beta**2 + 14 * beta + 1)
    factor = sqrt(2 * (beta + 1) + 8 * beta / (beta + 1 + root))
    if noise_std is not None:
        return _count(s, factor * sqrt(n) * noise_std)
    return _count(s, factor / sqrt(_marchenko_pastur_median(beta)) * float(np.median(s)))


def marchenko_pastur_rank(s: Spectrum, shape: tuple[int, int], *, noise_std: float) -> Rank:
    """Number of s_i above sigma (sqrt(m) + sqrt(n)), the edge of a pure-noise spectrum.

    For residuals only (see `gavish_donoho_rank`).
    """
    _check_noise(noise_std)
    return _count(_check(s), noise_std * (sqrt(shape[0]) + sqrt(shape[1])))


def permutation_rank(
    s: Spectrum, null: Float[np.ndarray, "draws n"], *, quantile: float = 0.95
) -> Rank:
    """Parallel analysis (Horn 1965): leading s_i above that quantile of permuted data's s_i.

    Counting stops at the first s_i that does not exceed its null; the tolerance returned is
    the null's quantile there. The quantile is the smallest draw with at least that share of the
    draws at or below it: 19 draws or more hold the level of 5 %, fewer only 1 / (draws + 1).
    """
    s = _check(s)
    if null.ndim != 2 or null.shape[1] != len(s) or not len(null):
        raise UserError(f"the null must have shape (draws, {len(s)}), got {null.shape}")
    bound = np.quantile(null, quantile, axis=0, method="higher")
    above = s > bound
    rank = len(s) if above.all() else int(np.argmin(above))
    return Rank(float(rank), float(bound[min(rank, len(s) - 1)]))


@lru_cache(maxsize=64)
def _marchenko_pastur_median(beta: float) -> float:
    """Median of the Marchenko-Pastur law of ratio `beta` <= 1 and unit variance."""
    low, high = (1 - sqrt(beta)) ** 2, (1 + sqrt(beta)) ** 2

    def density(t: float) -> float:
        return sqrt(max(0.0, (high - t) * (t - low))) / (2 * np.pi * beta * t) if t > 0 else 0.0

    def excess(x: float) -> float:
        # Substituting t = low + (x - low) u^2 removes the square-root behaviour at the edge.
        mass = quad(lambda u: density(low + (x - low) * u**2) * 2 * (x - low) * u, 0, 1)[0]
        return float(mass) - 0.5

    return float(brentq(excess, low + 1e-9, high))


# Rules that need the spectrum and the shape only, and so apply to every representation.
RULES: dict[str, Callable[[Spectrum, tuple[int, int]], Rank]] = {
    "relative": lambda s, shape: relative_rank(s),
    "exact": lambda s, shape: exact_rank(s, shape),
    "effective": lambda s, shape: effective_rank(s),
    "participation": lambda s, shape: participation_ratio(s),
    "stable": lambda s, shape: stable_rank(s),
}


def weyl_bounds(
    s: Spectrum, perturbation: float, *, threshold: tuple[float, float]
) -> tuple[int, int]:
    """Smallest and largest number of singular values of A + E above a threshold, by Weyl.

    `s` are those of A, `perturbation` bounds the spectral norm of E, and the threshold lies
    anywhere in the closed interval `threshold`. If both numbers agree, the rank is certified:
    s_r > eps + |E| and s_{r+1} < eps - |E|.
    """
    s = _check(s)
    low, high = threshold
    if not 0 <= perturbation < inf or not 0 <= low <= high:
        raise UserError("need 0 <= perturbation < inf and 0 <= threshold[0] <= threshold[1]")
    certain = np.count_nonzero(s > high + perturbation)
    possible = np.count_nonzero(s >= low - perturbation)
    return int(certain), int(possible)
