"""Small mathematics behind the theory pages: the cone's strata, and margins of sparse codes."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from sae_lens import (
    JumpReLUSAE,
    JumpReLUSAEConfig,
    StandardSAE,
    StandardSAEConfig,
    TopKSAE,
    TopKSAEConfig,
)
from torch import Tensor

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.ranks import exact_rank
from saerepgeo_lib.tensors import singular_values

FLOAT64_EPS = float(np.finfo(np.float64).eps)


def spectrum(matrix: Float[np.ndarray, "m n"] | Float[Tensor, "m n"]) -> Float[np.ndarray, " k"]:
    """Singular values of an array or tensor, descending (see `tensors.singular_values`)."""
    return singular_values(torch.as_tensor(matrix)).numpy()


def rank_of(matrix: Float[np.ndarray, "m n"] | Float[Tensor, "m n"]) -> int:
    """`ranks.exact_rank` at the precision of float64: for matrices computed in float64."""
    return int(exact_rank(spectrum(matrix), (*matrix.shape,), eps=FLOAT64_EPS).value)


# The cone of SSPD matrices


def stratum_dimension(n: int, r: int) -> int:
    """Dimension n r - r (r - 1) / 2 of S(n, r), the n x n SSPD matrices of rank r.

    Source: Vandereycken, Absil and Vandewalle 2009. Raises UserError unless 0 <= r <= n.
    """
    if not 0 <= r <= n:
        raise UserError(f"a rank of n x n matrices lies between 0 and n = {n}, got {r}")
    return n * r - r * (r - 1) // 2


def factor_jacobian(m: Float[np.ndarray, "n r"]) -> Float[np.ndarray, "upper nr"]:
    """Derivative of M -> M M^T, the linear map H -> H M^T + M H^T, as a matrix.

    Columns belong to the entries of M (row by row), rows to the n (n + 1) / 2 entries of the
    upper triangle. Its columns span the tangent space of S(n, r) at M M^T if M has rank r.
    """
    n, r = m.shape
    upper = np.triu_indices(n)
    units = np.eye(n * r).reshape(n * r, n, r)
    moved = units @ m.T
    return (moved + moved.transpose(0, 2, 1))[:, upper[0], upper[1]].T


def cone_coordinates(matrices: Float[np.ndarray, "k 2 2"]) -> Float[np.ndarray, "k 3"]:
    """Coordinates ((a - c) / sqrt 2, sqrt 2 b, (a + c) / sqrt 2) of [[a, b], [b, c]].

    Distances between points are Frobenius distances between matrices, and the SSPD matrices
    are the upright circular cone: third coordinate >= length of the first two. Raises
    UserError if a matrix is not symmetric.
    """
    if not np.allclose(matrices, matrices.transpose(0, 2, 1)):
        raise UserError("expected symmetric 2 x 2 matrices")
    a, b, c = matrices[:, 0, 0], matrices[:, 0, 1], matrices[:, 1, 1]
    return np.stack([a - c, 2 * b, a + c], axis=1) / np.sqrt(2)


def cone_path(t: Float[np.ndarray, " k"]) -> Float[np.ndarray, "k 2 2"]:
    """A continuous path through every stratum of the 2 x 2 cone, for t in [0, 4].

    Interior (rank 2) for t < 1, boundary (rank 1) for 1 <= t < 3, apex (rank 0) at t = 3,
    interior again for t > 3. The eigenvectors turn at a constant speed.
    """
    large = np.where(t <= 3, 1.3 * np.minimum(1, 3 - t), t - 3)
    small = np.where(t <= 3, 0.9 * np.clip(1 - t, 0, None), (t - 3) / 2)
    angle = 0.9 * t
    v = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    w = np.stack([-np.sin(angle), np.cos(angle)], axis=1)
    outer = np.einsum("ki,kj->kij", v, v), np.einsum("ki,kj->kij", w, w)
    return large[:, None, None] * outer[0] + small[:, None, None] * outer[1]


# Encoders and what their thresholds do


def random_saes(
    d_in: int, d_sae: int, *, k: int, threshold: float, generator: torch.Generator
) -> dict[str, Any]:
    """A ReLU, a TopK and a JumpReLU SAE of SAELens that share random weights, in float64.

    Encoder entries are normal with variance 1 / d_in, biases normal with standard deviation
    0.1; the decoder is the encoder's transpose. Only the activation differs.
    """
    w_enc = torch.randn(d_in, d_sae, generator=generator, dtype=torch.float64) / d_in**0.5
    b_enc = 0.1 * torch.randn(d_sae, generator=generator, dtype=torch.float64)
    size: dict[str, Any] = {"d_in": d_in, "d_sae": d_sae, "dtype": "float64"}
    saes: dict[str, Any] = {
        "ReLU": StandardSAE(StandardSAEConfig(**size)),
        "TopK": TopKSAE(TopKSAEConfig(k=k, **size)),
        "JumpReLU": JumpReLUSAE(JumpReLUSAEConfig(**size)),
    }
    for sae in saes.values():
        state = {"W_enc": w_enc, "W_dec": w_enc.T.contiguous(), "b_enc": b_enc}
        state["b_dec"] = torch.zeros(d_in, dtype=torch.float64)
        if "threshold" in sae.state_dict():
            state["threshold"] = torch.full((d_sae,), threshold, dtype=torch.float64)
        sae.load_state_dict(state)
        sae.eval()
    return saes


@torch.no_grad()
def pre_activations(sae: Any, x: Float[Tensor, "n d"]) -> Float[Tensor, "n F"]:
    """What the SAE's activation function receives: an affine map of x."""
    return sae.process_sae_in(x) @ sae.W_enc + sae.b_enc


@torch.no_grad()
def active_sets(sae: Any, x: Float[Tensor, "n d"]) -> Bool[np.ndarray, "n F"]:
    """Which latents are nonzero."""
    return (sae.encode(x) != 0).numpy()


def step_to_threshold(
    pre: Float[np.ndarray, "n F"],
    w_enc: Float[np.ndarray, "d F"],
    *,
    threshold: Float[np.ndarray, " F"] | float = 0.0,
) -> Float[np.ndarray, "n d"]:
    """Shortest input step that brings a pre-activation to its threshold.

    Its length min_j |p_j - theta_j| / |w_j| is the largest radius within which no latent of a
    ReLU (theta = 0) or JumpReLU (theta >= 0) encoder switches: p_j is affine in x with slope
    w_j, so {p_j = theta_j} is a hyperplane at that distance.
    """
    gap = pre - threshold
    squared = (w_enc**2).sum(0)
    nearest = (np.abs(gap) / np.sqrt(squared)).argmin(1)
    rows = np.arange(len(pre))
    return -(gap[rows, nearest] / squared[nearest])[:, None] * w_enc[:, nearest].T


def step_to_tie(
    pre: Float[np.ndarray, "n F"], w_enc: Float[np.ndarray, "d F"], *, k: int
) -> Float[np.ndarray, "n d"]:
    """Shortest input step that brings a TopK code to a tie, or an active latent to zero.

    With A the k largest pre-activations, its length is the smaller of
    min_{i in A, j not in A} (p_i - p_j) / |w_i - w_j| and min_{i in A} p_i / |w_i|: the
    distance to the nearest of the hyperplanes p_i = p_j and p_i = 0, hence the largest radius
    within which the active set stays. Raises UserError unless 0 < k < F, if a row has fewer
    than k positive pre-activations (there TopK acts as ReLU: see `step_to_threshold`), or if
    two features share their encoder weights.
    """
    n_features = pre.shape[1]
    if not 0 < k < n_features:
        raise UserError(f"k must lie between 1 and {n_features - 1}, got {k}")
    order = np.argsort(-pre, axis=1)
    steps = []
    for p, inside, outside in zip(pre, order[:, :k], order[:, k:], strict=True):
        if p[inside].min() <= 0:
            raise UserError(f"a row has fewer than k = {k} positive pre-activations")
        slope = (w_enc[:, inside, None] - w_enc[:, None, outside]).reshape(len(w_enc), -1)
        slope = np.hstack([slope, w_enc[:, inside]])
        gap = np.append((p[inside, None] - p[outside]).ravel(), p[inside])
        squared = (slope**2).sum(0)
        if not squared.all():
            raise UserError("two features share their encoder weights, so their order is fixed")
        nearest = (gap / np.sqrt(squared)).argmin()
        steps.append(-gap[nearest] / squared[nearest] * slope[:, nearest])
    return np.stack(steps)
