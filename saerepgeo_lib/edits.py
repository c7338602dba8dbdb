"""Edits of a concept's codes: each local representation moves as a whole.

A free edit adds one vector per cluster to the codes of its tokens. A valid edit then makes them
codes that an encoder could give: nonnegative, no more active latents a token than before, and on
features that the cluster uses. Tokens without a cluster are never touched.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from saerepgeo_lib.arrangements import aedp
from saerepgeo_lib.clusters import Labels
from saerepgeo_lib.decoding import Decoder, decoder_on, own_input
from saerepgeo_lib.errors import UserError, choose
from saerepgeo_lib.latents import Codes, encode
from saerepgeo_lib.residuals import float64

Kind = Literal["free", "valid"]
Measure = Literal["own", "z-scored"]
Shift = Float[Tensor, "clusters active"]
PAPER_SCALES = (0.5, 0.8, 1.0, 1.2, 1.5)  # of separability [authors' notes]
MIN_SPREAD = 1e-12
RANK_TOLERANCE = 3e-5  # of singular values of the decoder, over the largest: float32 weights


@dataclass(frozen=True)
class Setting:
    """A concept's tokens as one SAE sees them: residual, codes, decoder and clusters (float64).

    `x` is the residual in the SAE's own normalisation, `z` the codes on the active `features`,
    `labels` the cluster of each token, numbered from 0 (-1: none).
    """

    x: Float[Tensor, "tokens d"]
    z: Float[Tensor, "tokens active"]
    features: Int[Tensor, " active"]
    decoder: Decoder
    labels: Int[Tensor, " tokens"]

    @cached_property
    def decoded(self) -> Float[Tensor, "tokens d"]:
        """What the codes add to the decoder's bias."""
        return self.z @ self.decoder.weight

    @cached_property
    def target(self) -> Float[Tensor, "tokens d"]:
        """What the codes should add to the decoder's bias."""
        return self.x - self.decoder.bias

    @cached_property
    def error(self) -> Float[Tensor, "tokens d"]:
        """Residual minus reconstruction."""
        return self.target - self.decoded

    @cached_property
    def counts(self) -> Float[Tensor, " clusters"]:
        """Tokens of each cluster."""
        return torch.bincount(self.labels[self.labels >= 0]).to(self.z)

    @cached_property
    def centroids(self) -> Shift:
        """Mean code of each cluster: the global representation in the latents."""
        return self.mean(self.z)

    @cached_property
    def residual_centroids(self) -> Float[Tensor, "clusters d"]:
        """Mean residual of each cluster: the same objects in the residual stream."""
        return self.mean(self.x)

    @cached_property
    def aedp(self) -> float:
        """Average distance between pairs of centroids of the unedited codes."""
        return aedp(self.centroids).item()

    @cached_property
    def mse(self) -> float:
        """Mean squared error of the unedited codes over tokens and components."""
        return self.error.square().mean().item()

    @cached_property
    def l0(self) -> Int[Tensor, " tokens"]:
        """Active latents of each token."""
        return (self.z != 0).sum(1)

    def mean(self, values: Float[Tensor, "tokens _"]) -> Float[Tensor, "clusters _"]:
        """Mean of each cluster's rows."""
        inside = self.labels >= 0
        out = values.new_zeros(len(self.counts), values.shape[1])
        return out.index_add(0, self.labels[inside], values[inside]) / self.counts[:, None]

    def spread(self, values: Float[Tensor, "clusters _"]) -> Float[Tensor, "tokens _"]:
        """Each token's cluster's row; zeros for tokens without a cluster."""
        rows = torch.cat([values, values.new_zeros(1, values.shape[1])])
        return rows.index_select(0, self.labels % len(rows))  # -1: the last row

    def rows(self, keep: np.ndarray) -> "Setting":
        """The same on some of the tokens, clusters renumbered if one is lost."""
        kept = torch.from_numpy(np.asarray(keep)).to(self.labels.device)
        labels = _numbered(self.labels[kept])
        return Setting(self.x[kept], self.z[kept], self.features, self.decoder, labels)

    def relabelled(self, labels: Int[Tensor, " tokens"]) -> "Setting":
        """The same tokens in other clusters."""
        return Setting(self.x, self.z, self.features, self.decoder, _numbered(labels))

    @cached_property
    def inverse(self) -> Float[Tensor, "d active"]:
        """Pseudo-inverse of the decoder on the active features: the shortest code for a change."""
        return torch.linalg.pinv(self.decoder.weight, rtol=RANK_TOLERANCE)

    @cached_property
    def single(self) -> "Setting":
        """The same in single precision, in which optimisation is twice as fast."""
        decoder = Decoder(
            self.decoder.weight.float(), self.decoder.bias.float(), self.decoder.total.float(),
            self.decoder.width,
        )  # fmt: skip
        return Setting(self.x.float(), self.z.float(), self.features, decoder, self.labels)

    @cached_property
    def used(self) -> Bool[Tensor, "clusters active"]:
        """The features that some token of the cluster uses."""
        counts = torch.zeros_like(self.centroids)
        inside = self.labels >= 0
        counts.index_add_(0, self.labels[inside], (self.z[inside] != 0).to(counts))
        return counts > 0

    @cached_property
    def local(self) -> "_Local":
        """The clustered tokens on the features that their cluster uses."""
        if (self.z < 0).any():
            raise UserError("valid edits are for nonnegative codes; these hold negative latents")
        width = int(self.used.sum(1).max())
        features = self.used.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :width]
        tokens = (self.labels >= 0).nonzero()[:, 0]
        own, l0 = self.labels[tokens], self.l0[tokens]
        kept = torch.arange(int(l0.max()), device=l0.device) < l0[:, None]
        return _Local(
            features, self.used.gather(1, features), tokens, own,
            self.z[tokens].gather(1, features[own]), l0,
            (kept.nonzero()[:, 0], kept.flatten().nonzero()[:, 0]),
            self.decoded.index_fill(0, tokens, 0.0),
        )  # fmt: skip


@dataclass(frozen=True)
class _Local:
    features: Int[Tensor, "clusters local"]  # those that a cluster uses come first
    used: Bool[Tensor, "clusters local"]
    tokens: Int[Tensor, " clustered"]
    cluster: Int[Tensor, " clustered"]
    z: Float[Tensor, "clustered local"]
    l0: Int[Tensor, " clustered"]
    kept: tuple[Int[Tensor, " nonzero"], Int[Tensor, " nonzero"]]  # token; place in (token, rank)
    others: Float[Tensor, "tokens d"]  # decoded codes of the tokens without a cluster, else 0


def setting_of(sae: Any, x: Float[Tensor, "tokens d"], labels: Labels) -> Setting:
    """Encode residual vectors, and take the clusters as given.

    Raises UserError for fewer than 2 clusters or fewer labels than tokens, and for a decoder that
    is not affine.
    """
    found: Codes = encode(sae, x)
    given = torch.as_tensor(labels, dtype=torch.long)
    if given.shape != (len(x),):
        raise UserError(f"expected {len(x)} labels, one a token, got shape {tuple(given.shape)}")
    given = _numbered(given.to(found.values.device))
    return Setting(
        float64(own_input(sae, x)), float64(found.values), found.features,
        decoder_on(sae, found.features), given,
    )  # fmt: skip


def _numbered(labels: Int[Tensor, " tokens"]) -> Int[Tensor, " tokens"]:
    """Labels from 0 without gaps; -1 stays."""
    names = torch.unique(labels[labels >= 0])
    if len(names) < 2:
        raise UserError(
            f"an arrangement needs at least 2 clusters, got {len(names)}; a smaller "
            "min_cluster_size or other prompts may give more"
        )
    out = torch.searchsorted(names, labels.clamp_min(0))
    return torch.where(labels >= 0, out, -1)


@dataclass(frozen=True)
class Edited:
    """Codes after an edit: decoded, and as centroids; `l0` is their mean number of active latents.

    `total` and `square` are each token's sum and sum of squares over its latents.
    """

    decoded: Float[Tensor, "tokens d"]
    centroids: Shift
    moments: Callable[[], tuple[Float[Tensor, " tokens"], Float[Tensor, " tokens"]]]
    codes: Callable[[], Float[Tensor, "tokens active"]]


def edit(setting: Setting, shift: Shift, kind: Kind = "free") -> Edited:
    """Move each cluster by its row of `shift`; differentiable in it almost everywhere."""
    choose("kind of edit", kind, ("free", "valid"))
    return _translate(setting, shift) if kind == "free" else _valid(setting, shift)


def _translate(setting: Setting, shift: Shift) -> Edited:
    decoded = setting.decoded + setting.spread(shift @ setting.decoder.weight)

    def moments() -> tuple[Tensor, Tensor]:
        codes = setting.z + setting.spread(shift)
        return codes.sum(1), codes.square().sum(1)

    return Edited(
        decoded, setting.centroids + shift, moments, lambda: setting.z + setting.spread(shift)
    )


def _valid(setting: Setting, shift: Shift) -> Edited:
    here = setting.local
    by_cluster = shift.gather(1, here.features) * here.used
    moved = (here.z + by_cluster.index_select(0, here.cluster)).relu()
    token, rank = here.kept
    values, places = moved.topk(int(here.l0.max()), dim=1)
    values, places = (found.flatten().index_select(0, rank) for found in (values, places))
    features = here.features[here.cluster[token], places]
    rebuilt = embedding_bag(
        features, setting.decoder.weight, here.l0.cumsum(0) - here.l0,
        per_sample_weights=values, mode="sum",
    )  # fmt: skip
    decoded = here.others.index_add(0, here.tokens, rebuilt)
    n_features = setting.z.shape[1]
    flat = here.cluster[token] * n_features + features
    sums = values.new_zeros(setting.centroids.numel()).index_add(0, flat, values)
    centroids = sums.view_as(setting.centroids) / setting.counts[:, None]

    def codes() -> Tensor:
        return setting.z.index_fill(0, here.tokens, 0.0).index_put(
            (here.tokens[token], features), values
        )

    def moments() -> tuple[Tensor, Tensor]:
        total, square = (
            values.new_zeros(len(here.tokens)).index_add(0, token, value)
            for value in (values, values.square())
        )
        return (
            setting.z.sum(1).index_copy(0, here.tokens, total),
            setting.z.square().sum(1).index_copy(0, here.tokens, square),
        )

    return Edited(decoded, centroids, moments, codes)


def mse(setting: Setting, edited: Edited, measure: Measure = "own") -> Float[Tensor, ""]:
    """Mean squared error of the edited codes; see `squared_errors`."""
    return squared_errors(setting, edited, measure).mean() / setting.x.shape[1]


def squared_errors(
    setting: Setting, edited: Edited, measure: Measure = "own"
) -> Float[Tensor, " tokens"]:
    """Squared reconstruction error of each token, summed over components.

    "own" compares with the residual in the SAE's own normalisation. "z-scored" is that of the
    paper's public code: latents (all of the SAE's, the inactive ones too) and residual
    are standardised token by token before decoding; no SAE was trained for such codes.
    """
    if choose("measure", measure, ("own", "z-scored")) == "own":
        return (setting.target - edited.decoded).square().sum(1)
    decoded, target = standardised(setting, edited)
    return (target - setting.decoder.bias - decoded).square().sum(1)


def standardised(
    setting: Setting, edited: Edited
) -> tuple[Float[Tensor, "tokens d"], Float[Tensor, "tokens d"]]:
    """Decoded codes (less the bias) and residual, both standardised token by token beforehand."""
    width = setting.decoder.width
    total, square = edited.moments()
    mean = total / width
    scale = ((square - width * mean.square()) / (width - 1)).clamp_min(MIN_SPREAD).sqrt()
    decoded = (edited.decoded - mean[:, None] * setting.decoder.total) / scale[:, None]
    target = (setting.x - setting.x.mean(1, keepdim=True)) / setting.x.std(1, keepdim=True)
    return decoded, target
