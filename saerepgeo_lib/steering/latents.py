"""A concept's latents in clusters, before an affine decoder, and their steering.

Free steering adds one vector per cluster to the latents of its tokens. Valid steering then makes
them latents that an encoder could give: nonnegative, no more active ones per token than before, and
on features that the cluster uses. Tokens without a cluster are never touched. Errors are measured
in the SAE's own run-time normalisation.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag, one_hot

from saerepgeo_lib.activations.latents import MEMORY_BUDGET, encode
from saerepgeo_lib.activations.residual_stream import batches_of, float64
from saerepgeo_lib.errors import UserError, choose
from saerepgeo_lib.geometry.arrangements import aedp
from saerepgeo_lib.geometry.clusters import Labels

Kind = Literal["free", "valid"]
Measure = Literal["own", "z-scored"]
SteeringVectors = Float[Tensor, "clusters active"]
PAPER_SCALES = (0.5, 0.8, 1.0, 1.2, 1.5)  # of separability [authors' notes]
RANK_TOLERANCE = 3e-5  # of singular values of the decoder, over the largest: float32 weights
MIN_VARIANCE = 1e-12


def before_denormalising(sae: Any) -> Any:
    """A shallow copy of the SAE, with the same weights, whose `decode` undoes no normalisation."""
    inner = copy.copy(sae)
    inner.run_time_activation_norm_fn_out = lambda x: x
    return inner


@dataclass(frozen=True)
class Decoder:
    """`z @ weight + bias`: the decoder on some of the features, the others being 0."""

    weight: Float[Tensor, "active d"]
    bias: Float[Tensor, " d"]
    total: Float[Tensor, " d"]  # the sum of the directions of all features
    width: int  # their number


@torch.no_grad()
def decoder_on(sae: Any, features: Int[Tensor, " active"]) -> Decoder:
    """The decoder restricted to `features` in double precision, read off `sae.decode` itself.

    Raises UserError if that is not an affine map.
    """
    decode, width = before_denormalising(sae).decode, sae.cfg.d_sae
    zeros = torch.zeros(1, width, dtype=sae.W_dec.dtype, device=features.device)
    bias = decode(zeros)
    batches = batches_of(len(features), max(1, MEMORY_BUDGET // (8 * width)))
    units = (one_hot(features[rows], width).to(zeros) for rows in batches)
    weight = torch.cat([decode(unit) - bias for unit in units])
    mixed = torch.linspace(0, 2, len(features)).to(zeros)
    decoded = decode(zeros.index_copy(1, features, mixed[None]))[0]
    expected = mixed @ weight + bias[0]
    if not torch.allclose(decoded, expected, rtol=1e-3, atol=1e-3 * float(decoded.abs().max())):
        raise UserError(
            f"the decoder of {type(sae).__name__} is not an affine map of the latents; "
            "steering is defined for affine decoders only"
        )
    total = decode(zeros + 1) - bias
    return Decoder(float64(weight), float64(bias[0]), float64(total[0]), width)


@dataclass(frozen=True)
class ClusteredLatents:
    """A concept's tokens as one SAE sees them, in double precision: the residual stream `x` in its
    own normalisation, the latents `z` on the active `features`, and the cluster of each token, its
    `labels` numbered from 0 (-1: none).
    """

    x: Float[Tensor, "tokens d"]
    z: Float[Tensor, "tokens active"]
    features: Int[Tensor, " active"]
    decoder: Decoder
    labels: Int[Tensor, " tokens"]

    @classmethod
    @torch.no_grad()
    def of(cls, sae: Any, x: Float[Tensor, "tokens d"], labels: Labels) -> "ClusteredLatents":
        """Encode residual vectors whose clusters are given.

        Raises UserError for fewer than 2 clusters, labels that are not one per token, and a decoder
        that is not affine.
        """
        if labels.shape != (len(x),):
            raise UserError(f"expected {len(x)} labels, one per token, got {labels.shape}")
        latents = encode(sae, x)
        z, features = float64(latents.values), latents.features
        numbered = _numbered(torch.as_tensor(labels, device=z.device).long())
        normalised = float64(sae.run_time_activation_norm_fn_in(x))
        return cls(normalised, z, features, decoder_on(sae, features), numbered)

    @cached_property
    def decoded(self) -> Float[Tensor, "tokens d"]:
        """What the latents add to the decoder's bias."""
        return self.z @ self.decoder.weight

    @cached_property
    def error(self) -> Float[Tensor, "tokens d"]:
        """Residual minus reconstruction."""
        return self.x - self.decoder.bias - self.decoded

    @cached_property
    def mse(self) -> float:
        """Mean squared error of the reconstruction over tokens and components."""
        return self.error.square().mean().item()

    @cached_property
    def counts(self) -> Float[Tensor, " clusters"]:
        """Tokens of each cluster."""
        return torch.bincount(self.labels[self.labels >= 0]).to(self.z)

    @cached_property
    def centroids(self) -> Float[Tensor, "clusters active"]:
        """Mean latents of each cluster: the global representation."""
        return self.means(self.z)

    @cached_property
    def aedp(self) -> float:
        """Average distance between pairs of centroids."""
        return aedp(self.centroids).item()

    @cached_property
    def used(self) -> Bool[Tensor, "clusters active"]:
        """The features that some token of the cluster uses."""
        return self.means((self.z != 0).to(self.z)) > 0

    @cached_property
    def inverse(self) -> Float[Tensor, "d active"]:
        """Pseudo-inverse of the decoder: the shortest latents that make a given change."""
        return torch.linalg.pinv(self.decoder.weight, rtol=RANK_TOLERANCE)

    @cached_property
    def single(self) -> "ClusteredLatents":
        """The same in single precision, in which optimisation is twice as fast."""
        old = self.decoder
        decoder = Decoder(old.weight.float(), old.bias.float(), old.total.float(), old.width)
        return replace(self, x=self.x.float(), z=self.z.float(), decoder=decoder)

    @cached_property
    def local(self) -> "LocalLatents":
        """What valid steering computes with. Raises UserError for negative latents."""
        return LocalLatents(self)

    def means(self, values: Float[Tensor, "tokens _"]) -> Float[Tensor, "clusters _"]:
        """Mean of each cluster's rows."""
        inside = self.labels >= 0
        out = values.new_zeros(len(self.counts), values.shape[1])
        return out.index_add(0, self.labels[inside], values[inside]) / self.counts[:, None]

    def to_tokens(self, values: Float[Tensor, "clusters _"]) -> Float[Tensor, "tokens _"]:
        """Each token's cluster's row; zeros for tokens without a cluster."""
        rows = torch.cat([values, values.new_zeros(1, values.shape[1])])
        return rows.index_select(0, self.labels % len(rows))  # -1: the last row

    def rows(self, keep: Bool[np.ndarray, " tokens"]) -> "ClusteredLatents":
        """The same on some of the tokens, clusters renumbered if one is lost."""
        kept = torch.from_numpy(keep).to(self.labels.device)
        return replace(self, x=self.x[kept], z=self.z[kept], labels=_numbered(self.labels[kept]))


class LocalLatents:
    """The clustered tokens' latents on the features of their cluster, which come first."""

    def __init__(self, latents: ClusteredLatents) -> None:
        if (latents.z < 0).any():
            raise UserError("valid steering is for nonnegative latents; some of these are negative")
        most = int(latents.used.sum(1).max())
        order = latents.used.to(torch.int8).argsort(dim=1, descending=True, stable=True)
        self.features: Int[Tensor, "clusters local"] = order[:, :most]
        self.used = latents.used.gather(1, self.features)
        self.tokens: Int[Tensor, " clustered"] = (latents.labels >= 0).nonzero()[:, 0]
        self.cluster = latents.labels[self.tokens]
        self.l0 = (latents.z[self.tokens] != 0).sum(1)  # active latents of each token
        self.z = latents.z[self.tokens].gather(1, self.features[self.cluster])
        # what stays active: its token, and its place among the largest latents of all tokens
        kept = torch.arange(int(self.l0.max()), device=self.l0.device) < self.l0[:, None]
        self.owner, self.place = kept.nonzero()[:, 0], kept.flatten().nonzero()[:, 0]
        self.others = latents.decoded.index_fill(0, self.tokens, 0.0)  # of tokens without a cluster


def _numbered(labels: Int[Tensor, " tokens"]) -> Int[Tensor, " tokens"]:
    """Labels from 0 without gaps; -1 stays."""
    names = torch.unique(labels[labels >= 0])
    if len(names) < 2:
        raise UserError(
            f"an arrangement needs at least 2 clusters, got {len(names)}; a smaller "
            "min_cluster_size or other prompts may give more"
        )
    return torch.where(labels >= 0, torch.searchsorted(names, labels.clamp_min(0)), -1)


@dataclass(frozen=True)
class SteeredLatents:
    """Latents after steering, and what they were `before`."""

    before: ClusteredLatents
    decoded: Float[Tensor, "tokens d"]  # less the bias
    centroids: SteeringVectors
    latents: Callable[[], Float[Tensor, "tokens active"]]
    # each token's sum and sum of squares over its latents, where that is quicker without `latents`
    moments: Callable[[], tuple[Tensor, Tensor]] | None = None

    @property
    def aedp(self) -> Float[Tensor, ""]:
        """AEDP over that before."""
        return aedp(self.centroids) / self.before.aedp

    @property
    def l0(self) -> float:
        """Mean number of active latents per token."""
        return (self.latents() != 0).sum(1).double().mean().item()

    def mse(self, measure: Measure = "own") -> Float[Tensor, ""]:
        """Mean squared error over tokens and components; see `squared_errors`."""
        return self.squared_errors(measure).mean() / self.decoded.shape[1]

    def squared_errors(self, measure: Measure = "own") -> Float[Tensor, " tokens"]:
        """Squared reconstruction error of each token, summed over components.

        "z-scored" is that of the paper's public code: latents (the inactive ones too) and residual
        are standardised token by token before decoding; no SAE was trained for such latents.
        """
        target, decoded = self.before.x, self.decoded
        if choose("measure", measure, ("own", "z-scored")) == "z-scored":
            decoded, target = self.standardised()
        return (target - self.before.decoder.bias - decoded).square().sum(1)

    def standardised(self) -> tuple[Float[Tensor, "tokens d"], Float[Tensor, "tokens d"]]:
        """Decoded latents (less the bias) and residual, both standardised token by token before."""
        decoder, x = self.before.decoder, self.before.x
        if self.moments is None:
            latents = self.latents()
            total, square = latents.sum(1), latents.square().sum(1)
        else:
            total, square = self.moments()
        mean = total / decoder.width
        variance = (square - decoder.width * mean.square()) / (decoder.width - 1)
        scale = variance.clamp_min(MIN_VARIANCE).sqrt()
        decoded = (self.decoded - mean[:, None] * decoder.total) / scale[:, None]
        return decoded, (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)


def steer(
    latents: ClusteredLatents, vectors: SteeringVectors, kind: Kind = "free"
) -> SteeredLatents:
    """Move each cluster by its row of `vectors`; differentiable in them almost everywhere."""
    if choose("kind of steering", kind, ("free", "valid")) == "valid":
        return _valid(latents, vectors)
    decoded = latents.decoded + latents.to_tokens(vectors @ latents.decoder.weight)
    return SteeredLatents(
        latents, decoded, latents.centroids + vectors,
        lambda: latents.z + latents.to_tokens(vectors),
    )  # fmt: skip


def unsteered(latents: ClusteredLatents, kind: Kind = "free") -> SteeredLatents:
    """The latents as they are."""
    return steer(latents, torch.zeros_like(latents.centroids), kind)


@torch.no_grad()
def ratios(
    latents: ClusteredLatents, vectors: SteeringVectors, kind: Kind, measure: Measure = "own"
) -> tuple[float, float]:
    """AEDP and MSE of steered latents over those of the unsteered."""
    steered, before = steer(latents, vectors, kind), unsteered(latents, kind)
    return steered.aedp.item(), (steered.mse(measure) / before.mse(measure)).item()


def _valid(latents: ClusteredLatents, vectors: SteeringVectors) -> SteeredLatents:
    local = latents.local
    by_cluster = vectors.gather(1, local.features) * local.used
    moved = (local.z + by_cluster.index_select(0, local.cluster)).relu()
    largest = moved.topk(int(local.l0.max()), dim=1)
    values, columns = (ranked.flatten().index_select(0, local.place) for ranked in largest)
    cluster = local.cluster[local.owner]
    features = local.features[cluster, columns]
    rebuilt = embedding_bag(
        features, latents.decoder.weight, local.l0.cumsum(0) - local.l0,
        per_sample_weights=values, mode="sum",
    )  # fmt: skip
    sums = values.new_zeros(latents.centroids.numel())
    sums = sums.index_add(0, cluster * latents.centroids.shape[1] + features, values)

    def steered() -> Tensor:
        places = (local.tokens[local.owner], features)
        return latents.z.index_fill(0, local.tokens, 0.0).index_put(places, values)

    def per_token(power: Callable[[Tensor], Tensor]) -> Tensor:
        total = values.new_zeros(len(local.tokens)).index_add(0, local.owner, power(values))
        return power(latents.z).sum(1).index_copy(0, local.tokens, total)

    return SteeredLatents(
        latents, local.others.index_add(0, local.tokens, rebuilt),
        sums.view(latents.centroids.shape) / latents.counts[:, None], steered,
        lambda: (per_token(lambda v: v), per_token(torch.square)),
    )  # fmt: skip
