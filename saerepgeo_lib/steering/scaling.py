"""The theorem of uniform scaling: the error is a parabola in the ratio of separability.

Scale latents about their mean, z' = mu + rho (z - mu), or only their arrangement,
z' = z + (rho - 1) (c_k - mu). Either way AEDP is multiplied by rho, what the latents decode to
moves by (rho - 1) V with V fixed, and so
MSE(rho) = floor + curvature (rho - rho*)^2 with rho* = 1 + <error, V> / |V|^2.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.geometry.arrangements import aedp
from saerepgeo_lib.geometry.clusters import n_clusters
from saerepgeo_lib.stats.estimates import NotEstimable, jackknife
from saerepgeo_lib.steering.latents import ClusteredLatents, SteeringVectors, steer

# of `shrinkage`: the name of a statistic, those of its bounds, and its value without an effect
_STATISTICS = (("rho*", "{}", 1.0), ("rho* outward", "{} outward", 1.0), ("slope", "slope {}", 0.0))
_ENDS = ("low", "high", "p", "n")


@dataclass(frozen=True)
class ScalingLaw:
    """MSE as a function of the ratio rho; `optimum` is rho*, above 1 exactly if the SAE shrinks."""

    optimum: float
    curvature: float
    floor: float

    def mse(self, ratio: float) -> float:
        """Mean squared error at AEDP' / AEDP = ratio."""
        return self.floor + self.curvature * (ratio - self.optimum) ** 2

    @property
    def elasticity(self) -> float:
        """d log MSE / d log AEDP at ratio 1: its sign is that of 1 - rho*."""
        return 2 * self.curvature * (1 - self.optimum) / self.mse(1)


def uniform_scaling(latents: ClusteredLatents) -> ScalingLaw:
    """All latents are scaled about their mean."""
    return _law(latents, latents.decoded - latents.decoded.mean(0))


def arrangement_scaling(latents: ClusteredLatents) -> ScalingLaw:
    """Each cluster moves, as it is, `outward`."""
    return _law(latents, latents.to_tokens(outward(latents) @ latents.decoder.weight))


def outward(latents: ClusteredLatents) -> SteeringVectors:
    """Centroid minus the clustered tokens' mean: steering by (rho - 1) * this scales AEDP."""
    weights = latents.counts / latents.counts.sum()
    return latents.centroids - weights @ latents.centroids


def _law(latents: ClusteredLatents, direction: Float[Tensor, "tokens d"]) -> ScalingLaw:
    energy = direction.square().sum()
    if energy == 0:
        raise UserError("the decoder maps the scaled latents to one point: nothing is to be scaled")
    optimum = 1 + ((latents.error * direction).sum() / energy).item()
    curvature = energy.item() / latents.x.numel()
    return ScalingLaw(optimum, curvature, latents.mse - curvature * (1 - optimum) ** 2)


def with_optimum(latents: ClusteredLatents, optimum: float) -> ClusteredLatents:
    """The same latents before a decoder scaled about their mean, so that rho* is `optimum`: 1 takes
    shrinkage away, more plants it.
    """
    factor, old = uniform_scaling(latents).optimum / optimum, latents.decoder
    bias = old.bias + (1 - factor) * latents.decoded.mean(0)
    decoder = replace(old, weight=factor * old.weight, bias=bias, total=factor * old.total)
    return replace(latents, decoder=decoder)


def steepest(latents: ClusteredLatents) -> tuple[float, float]:
    """d log MSE / d log AEDP where AEDP rises fastest, and the cosine of that with `outward`."""
    vectors = torch.zeros_like(latents.centroids, requires_grad=True)
    steered = steer(latents, vectors)
    (up,) = torch.autograd.grad(aedp(steered.centroids).log(), vectors, retain_graph=True)
    (error,) = torch.autograd.grad(steered.mse().log(), vectors)
    cosine = torch.cosine_similarity(up.flatten(), outward(latents).flatten(), dim=0)
    return ((up * error).sum() / up.square().sum()).item(), cosine.item()


def removing_error(latents: ClusteredLatents) -> SteeringVectors:
    """The shortest free vectors to the least MSE: each cluster's mean error, as far as seen."""
    return latents.means(latents.error) @ latents.inverse


def least_mse(latents: ClusteredLatents) -> float:
    """The least mean squared error of any free steering (see `removing_error`)."""
    removed = (removing_error(latents) @ latents.decoder.weight).square()
    return latents.mse - (latents.counts[:, None] * removed).sum().item() / latents.x.numel()


def free_from(latents: ClusteredLatents) -> float:
    """The ratio of AEDP from which on separability is free: all have the least MSE within reach.

    Along directions that the decoder does not see, centroids whose error is removed can be moved
    apart at no cost, and drawn together until they agree there: only the pseudo-inverse image of
    the decoded centroids is left. Infinite if no active direction is unseen.
    """
    rank = (latents.inverse.T * latents.decoder.weight).sum()  # trace of the projection on the span
    if rank > len(latents.inverse.T) - 0.5:
        return float("inf")
    seen = latents.means(latents.decoded) @ latents.inverse + removing_error(latents)
    return (torch.pdist(seen).mean() / latents.aedp).item()


def shrinkage(latents: ClusteredLatents, fold: Int[np.ndarray, " tokens"]) -> dict[str, Any]:
    """rho* of both scalings and the elasticity along the gradient, with intervals over `fold`.

    Keys rho*, low, high, p, n (all latents scaled; p of rho* = 1); the same with " outward"; slope,
    slope low, slope high, slope p, slope n, cosine (`steepest`); elasticity and elasticity outward
    (the theorem's); helps up to (the ratio up to which moving outward lowers the error, 1 if it
    never does); gain (the share of the error that it saves at best); least MSE (ratio); free from.
    Intervals leave out one group of tokens at a time (`estimates.jackknife`); there are none where
    that leaves fewer than 2 clusters. Raises UserError for fewer than 3 groups.
    """

    def statistics(part: ClusteredLatents) -> list[float]:
        laws = uniform_scaling(part), arrangement_scaling(part)
        return [*(law.optimum for law in laws), steepest(part.single)[0]]

    kept, labels = [fold != group for group in np.unique(fold)], latents.labels.cpu().numpy()
    estimable = min(n_clusters(labels[keep]) for keep in kept) >= 2
    parts = np.array([statistics(latents.rows(keep)) for keep in kept] if estimable else [])
    row: dict[str, Any] = {}
    for i, value in enumerate(statistics(latents)):
        name, bounds, null = _STATISTICS[i]
        few = NotEstimable("fewer than 2 clusters are left")
        excess = jackknife(value - null, parts[:, i] - null) if estimable else few
        ends = (excess.low + null, excess.high + null, excess.p, excess.n)
        names = (name, *map(bounds.format, _ENDS))
        row |= dict(zip(names, (value, *ends), strict=True))
    law = arrangement_scaling(latents)
    return row | {
        "cosine": steepest(latents)[1],
        "elasticity": uniform_scaling(latents).elasticity,
        "elasticity outward": law.elasticity,
        "helps up to": max(1.0, 2 * law.optimum - 1),
        "gain": 1 - law.floor / law.mse(1) if law.optimum > 1 else 0.0,
        "least MSE": least_mse(latents) / latents.mse,
        "free from": free_from(latents),
    }
