"""Small mathematics behind the theory pages: the cone's strata, and margins of encoders."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saerepgeo_lib.errors import UserError, choose
from saerepgeo_lib.rank.rules import RULES, exact_rank, gavish_donoho_rank, marchenko_pastur_rank
from saerepgeo_lib.rank.unfoldings import singular_values

Map = Callable[[Tensor], Tensor]


def factor_jacobian(m: Float[np.ndarray, "n r"]) -> Float[np.ndarray, "upper nr"]:
    """The derivative of M -> M M^T: rows are entries of its upper triangle, columns those of M.

    If M has rank r, the columns span the tangent space of the SSPD matrices of rank r at M M^T.
    """
    n, r = m.shape
    moved = np.eye(n * r).reshape(n * r, n, r) @ m.T
    rows, columns = np.triu_indices(n)
    return (moved + moved.transpose(0, 2, 1))[:, rows, columns].T


def cone_coordinates(matrices: Float[np.ndarray, "k 2 2"]) -> Float[np.ndarray, "k 3"]:
    """Coordinates ((a - c) / sqrt 2, sqrt 2 b, (a + c) / sqrt 2) of [[a, b], [b, c]].

    Distances are Frobenius distances, and the SSPD matrices the upright circular cone. Raises
    UserError if a matrix is not symmetric.
    """
    if not np.allclose(matrices, matrices.transpose(0, 2, 1)):
        raise UserError("expected symmetric 2 x 2 matrices")
    a, b, c = matrices[:, 0, 0], matrices[:, 0, 1], matrices[:, 1, 1]
    return np.stack([a - c, 2 * b, a + c], axis=1) / np.sqrt(2)


def cone_path(t: Float[np.ndarray, " k"]) -> Float[np.ndarray, "k 2 2"]:
    """A continuous path through every stratum of the 2 x 2 cone, for t in [0, 4]: of rank 2 up to
    t = 1, rank 1 up to t = 3, rank 0 there, then rank 2; eigenvectors turn.
    """
    large = np.where(t <= 3, 1.3 * np.minimum(1, 3 - t), t - 3)
    small = np.where(t <= 3, 0.9 * np.clip(1 - t, 0, None), (t - 3) / 2)
    cos, sin = np.cos(0.9 * t), np.sin(0.9 * t)
    vectors = np.array([[cos, -sin], [sin, cos]])  # in columns
    return np.einsum("ivk,vk,jvk->kij", vectors, [large, small], vectors)


def spectrum(matrix: Float[np.ndarray, "m n"] | Float[Tensor, "m n"]) -> Float[np.ndarray, " k"]:
    """Singular values of an array or tensor, descending (see `unfoldings.singular_values`)."""
    return singular_values(torch.as_tensor(matrix)).numpy()


def rank_of(x: Float[Tensor, "n d"], rule: str = "exact") -> float:
    """The rank of x under a rule of `rules.RULES`; the exact one at the precision of float64."""
    s, shape = spectrum(x), (x.shape[0], x.shape[1])
    if rule == "exact":
        return int(exact_rank(s, shape, eps=float(np.finfo(np.float64).eps)).value)
    return RULES[choose("rank rule", rule, RULES)](s, shape).value


def noise_aware_ranks(x: Float[Tensor, "n d"], noise_std: float) -> dict[str, int]:
    """What the rules made for white noise of that standard deviation say of a noisy matrix."""
    s, shape = spectrum(x), (x.shape[0], x.shape[1])
    return {
        "Marchenko-Pastur": int(marchenko_pastur_rank(s, shape, noise_std=noise_std).value),
        "Gavish-Donoho": int(gavish_donoho_rank(s, shape, noise_std=noise_std).value),
        "Gavish-Donoho, std unknown": int(gavish_donoho_rank(s, shape).value),
    }


def noise_behind(
    represent: Map, x: Float[Tensor, "n d"], noise: Float[Tensor, "n d"]
) -> tuple[dict[str, float], Float[np.ndarray, " k"]]:
    """What becomes of noise on x behind a representation, such as an encoder.

    The noise-aware ranks, told the root mean square of what arrives, and measures of that noise
    (NaN for fewer than two values); and the spectrum of the noisy representation over the edge of
    white noise of that size.
    """
    clean, noisy = represent(x), represent(x + noise)
    error = noisy - clean
    std = error.square().mean().sqrt().item()
    edge = std * float(sum(np.sqrt(noisy.shape)))

    def spread(values: Tensor) -> float:
        return values.std().item() if len(values) > 1 else np.nan

    measured = {"noise std where clean value > 0": spread(error[clean > 0]),
                "elsewhere": spread(error[clean <= 0]),
                "largest s / edge of white noise": float(spectrum(error)[0]) / edge}  # fmt: skip
    return noise_aware_ranks(noisy, std) | measured, spectrum(noisy) / edge


def rank_changes(
    x: Float[Tensor, "n d"], noise: float, *, rule: str = "exact", encode: Map = lambda x: x,
    n_draws: int, draw: Callable[..., Tensor],
) -> dict[str, float]:  # fmt: skip
    """How often a rank of encode(x) falls and rises under noise on x of that Frobenius norm, which
    `draw` makes of a given shape; and the largest change.
    """
    draws = (draw(*x.shape) for _ in range(n_draws))
    ranks = [rank_of(encode(x + noise * e / e.norm()), rule) for e in draws]
    change = np.array(ranks) - rank_of(encode(x), rule)
    return {"noise": float(noise), "fell": float((change < 0).mean()),
            "rose": float((change > 0).mean()),
            "largest change": float(np.abs(change).max())}  # fmt: skip


@dataclass(frozen=True)
class Encoder:
    """The encoder z = activation(x W + b) of an SAE whose decoder has no bias."""

    weight: Float[Tensor, "d F"]
    bias: Float[Tensor, " F"]
    activation: Map

    def pre_activations(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n F"]:
        """What the activation function receives: an affine map of x."""
        return x @ self.weight + self.bias

    def __call__(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n F"]:
        return self.activation(self.pre_activations(x))

    def inputs_with(self, pre: Float[Tensor, "n F"]) -> Float[Tensor, "n d"]:
        """The shortest inputs with these pre-activations, if there are any (F <= d)."""
        return (pre - self.bias) @ torch.linalg.pinv(self.weight)

    def switches(
        self, x: Float[Tensor, "n d"], step: Float[np.ndarray, "n d"]
    ) -> Bool[np.ndarray, " n"]:
        """Whether some latent becomes active, or ceases to be, as x moves by a step."""
        before, after = self(x) != 0, self(x + torch.from_numpy(step)) != 0
        return (before != after).any(1).numpy()


def random_encoders(
    d: int, n_features: int, *, k: int, threshold: float, generator: torch.Generator
) -> dict[str, Encoder]:
    """A ReLU, a TopK and a JumpReLU encoder, as SAELens has them, with the same random weights.

    Weights are normal with variance 1 / d, biases with standard deviation 0.1, in float64.
    """
    weight = torch.randn(d, n_features, generator=generator, dtype=torch.float64) / d**0.5
    bias = 0.1 * torch.randn(n_features, generator=generator, dtype=torch.float64)

    def top_k(p: Tensor) -> Tensor:
        largest, features = p.topk(k)
        return torch.zeros_like(p).scatter(-1, features, largest.relu())

    activations: dict[str, Map] = {
        "ReLU": torch.relu, "TopK": top_k, "JumpReLU": lambda p: torch.where(p > threshold, p, 0)
    }  # fmt: skip
    return {kind: Encoder(weight, bias, f) for kind, f in activations.items()}


def step_to_threshold(
    pre: Float[np.ndarray, "n F"], weight: Float[np.ndarray, "d F"], *,
    threshold: Float[np.ndarray, " F"] | float = 0.0,
) -> Float[np.ndarray, "n d"]:  # fmt: skip
    """Shortest input step that brings a pre-activation to its threshold.

    Its length min_j |p_j - theta_j| / |w_j| is the largest radius within which no latent of a ReLU
    (theta = 0) or JumpReLU encoder switches.
    """
    gap, squared = pre - threshold, (weight**2).sum(0)
    nearest = (np.abs(gap) / np.sqrt(squared)).argmin(axis=1)
    factor = np.take_along_axis(-gap / squared, nearest[:, None], axis=1)
    return factor * weight.T[nearest]


def step_to_tie(
    pre: Float[np.ndarray, "n F"], weight: Float[np.ndarray, "d F"], *, k: int
) -> Float[np.ndarray, "n d"]:
    """Shortest input step that brings TopK latents to a tie, or an active latent to zero: to the
    nearest hyperplane p_i = p_j or p_i = 0, i among the k largest and j not (`step_to_threshold`).

    Raises UserError unless 0 < k < F, if a row has fewer than k positive pre-activations (there
    TopK acts as ReLU), or if two features share their encoder weights.
    """
    n_features = pre.shape[1]
    if not 0 < k < n_features:
        raise UserError(f"k must lie between 1 and {n_features - 1}, got {k}")
    steps = []
    for p, order in zip(pre, np.argsort(-pre, axis=1), strict=True):
        inside, outside = order[:k], order[k:]
        if p[inside].min() <= 0:
            raise UserError(f"a row has fewer than k = {k} positive pre-activations")
        slopes = (weight[:, inside, None] - weight[:, None, outside]).reshape(len(weight), -1)
        slopes = np.hstack([slopes, weight[:, inside]])
        if not slopes.any(axis=0).all():
            raise UserError("two features share their encoder weights, so their order is fixed")
        gaps = np.append(p[inside, None] - p[outside], p[inside])
        steps.append(step_to_threshold(gaps[None], slopes)[0])
    return np.stack(steps)
