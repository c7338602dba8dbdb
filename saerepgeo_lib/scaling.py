"""The theorem of uniform scaling: the error is a parabola in the ratio of separability.

Scale codes about their mean, z' = mu + rho (z - mu), or only their arrangement,
z' = z + (rho - 1) (c_k - mu). Either way AEDP is multiplied by rho, the decoded code moves by
(rho - 1) V with V fixed, and so
MSE(rho) = floor + curvature (rho - rho*)^2 with rho* = 1 + <error, V> / |V|^2.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saerepgeo_lib.clusters import n_clusters
from saerepgeo_lib.edits import RANK_TOLERANCE, Setting
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.points import NotEstimable
from saerepgeo_lib.statistics import Estimate, jackknife


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
    def helps_up_to(self) -> float:
        """The ratio up to which more separability lowers the error; 1 if it never does."""
        return max(1.0, 2 * self.optimum - 1)

    @property
    def gain(self) -> float:
        """Share of the error that the best more separable code saves; 0 if none does."""
        return 1 - self.floor / self.mse(1) if self.optimum > 1 else 0.0

    @property
    def elasticity(self) -> float:
        """d log MSE / d log AEDP at the unedited code: per cent of error per cent of separability.

        Its sign is that of 1 - rho*.
        """
        return 2 * self.curvature * (1 - self.optimum) / self.mse(1)


def uniform_scaling(setting: Setting) -> ScalingLaw:
    """Every code is scaled about the mean code."""
    return _law(setting, setting.decoded - setting.decoded.mean(0))


def arrangement_scaling(setting: Setting) -> ScalingLaw:
    """Each cluster moves, as it is, away from the mean code of the clustered tokens."""
    return _law(setting, setting.spread(outward(setting) @ setting.decoder.weight))


def with_optimum(setting: Setting, optimum: float) -> Setting:
    """The same codes before a decoder scaled about the mean code, so that rho* is `optimum`.

    1 takes shrinkage away, more plants it; codes and clusters, and so AEDP, stay as they are.
    """
    factor, old = uniform_scaling(setting).optimum / optimum, setting.decoder
    bias = old.bias + (1 - factor) * setting.decoded.mean(0)
    decoder = replace(old, weight=factor * old.weight, bias=bias, total=factor * old.total)
    return replace(setting, decoder=decoder)


def outward(setting: Setting) -> Float[Tensor, "clusters active"]:
    """Centroid minus the clustered tokens' mean code: the edit (rho - 1) * this scales AEDP."""
    weights = setting.counts / setting.counts.sum()
    return setting.centroids - weights @ setting.centroids


def _law(setting: Setting, direction: Float[Tensor, "tokens d"]) -> ScalingLaw:
    energy = direction.square().sum()
    if energy == 0:
        raise UserError("the decoder maps the scaled codes to one point: there is nothing to scale")
    optimum = 1 + ((setting.error * direction).sum() / energy).item()
    curvature = energy.item() / setting.x.numel()
    return ScalingLaw(optimum, curvature, setting.mse - curvature * (1 - optimum) ** 2)


def over_groups(
    setting: Setting,
    statistics: Callable[[Setting], Mapping[str, float]],
    group: Int[np.ndarray, " tokens"],
    *,
    null: Mapping[str, float] | None = None,
) -> dict[str, Estimate | NotEstimable]:
    """Statistics with the intervals that leaving out one group of tokens at a time gives.

    Clusters stay as they are. p is that of "the statistic equals its `null`" (by default 0); see
    `statistics.jackknife`. There is none where the tokens of fewer than 2 clusters are left without
    one of the groups. Raises UserError for fewer than 3 groups.
    """
    group, labels = np.asarray(group), setting.labels.cpu().numpy()
    kept = [group != g for g in np.unique(group)]
    if min(n_clusters(labels[keep]) for keep in kept) < 2:
        why = NotEstimable("without one of the groups fewer than 2 clusters are left")
        return dict.fromkeys(statistics(setting), why)
    parts = [statistics(setting.rows(keep)) for keep in kept]
    out: dict[str, Estimate | NotEstimable] = {}
    for name, value in statistics(setting).items():
        at = (null or {}).get(name, 0.0)
        found = jackknife(value - at, np.array([part[name] for part in parts]) - at)
        if isinstance(found, Estimate):
            found = replace(found, value=value, low=found.low + at, high=found.high + at)
        out[name] = found
    return out


def least_mse(setting: Setting) -> float:
    """The least mean squared error of any free edit: each cluster's mean error is removed.

    Only its part in the span of the decoder's active directions can be.
    """
    return setting.mse - _removable(setting).item() / setting.x.numel()


def _span(setting: Setting) -> Float[Tensor, "d rank"]:
    """Orthonormal basis of the span of the decoder's active directions."""
    values, vectors = torch.linalg.eigh(setting.decoder.weight.T @ setting.decoder.weight)
    return vectors[:, values > RANK_TOLERANCE**2 * values[-1]]


def mean_error(setting: Setting) -> Float[Tensor, "clusters d"]:
    """Each cluster's mean error, as far as the decoder's active directions reach."""
    basis = _span(setting)
    return setting.mean(setting.error) @ basis @ basis.T


def _removable(setting: Setting) -> Float[Tensor, ""]:
    return (setting.counts[:, None] * mean_error(setting).square()).sum()


def free_from(setting: Setting) -> float:
    """The ratio of AEDP from which on separability is free: all have the least MSE within reach.

    Latents are more than dimensions, so directions exist that the decoder does not see. Centroids
    whose error is removed can be moved apart along them at no cost, and drawn together until they
    agree there: then only the pseudo-inverse image of the decoded centroids is left. Infinite if
    the active directions are independent (no unseen direction).
    """
    if len(setting.decoder.weight) <= _span(setting).shape[1]:
        return float("inf")
    decoded = setting.mean(setting.decoded) + mean_error(setting)
    seen = decoded @ setting.inverse
    return (torch.pdist(seen).mean() / setting.aedp).item()
