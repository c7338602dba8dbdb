"""An SAE's latents as noise enters what it reads: `encode(x + scale * noise)` for many scales.

What the encoder's weights multiply is affine in the input, up to one factor a token where the SAE
normalises it. So two matrix products, of `x` and of the noise, serve all scales.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from threading import Lock
from typing import Any

import torch
from jaxtyping import Float, Int
from sae_lens import GatedSAE, JumpReLUSAE, StandardSAE, TopKSAE
from sae_lens.saes.topk_sae import TopK
from torch import Tensor

from saerepgeo_lib.latents import MEMORY_BUDGET, Codes, encode, in_use, join
from saerepgeo_lib.residuals import batches_of

_NORMALISED = ("layer_norm", "constant_norm_rescale")
_LAYER_NORM_EPS = 1e-5  # SAELens'
HELD = 2**30  # bytes that the two products may take together
IN_CACHE = 2**22  # bytes of pre-activations that a CPU works on at once
_COLUMNS = 1024  # of the encoder's weights, that a core multiplies at once: they fit its cache
_GROUP = 64  # latents of which the largest stands for all while the k largest are sought


_Largest = tuple[Float[Tensor, "_ k"], Int[Tensor, "_ k"]]


class NoisyCodes:
    """The latents of `x`, and of `x` along any noise, equal to `sae.encode`'s up to rounding.

    For SAELens' standard, TopK, JumpReLU and gated SAEs in single or double precision. Any other,
    a subclass, one with hooks, or products beyond `held` bytes: every scale is encoded from
    scratch.
    """

    @torch.no_grad()
    def __init__(
        self, sae: Any, x: Float[Tensor, "tokens d"], *, pool: Executor, held: int = HELD
    ) -> None:
        self._sae, self.x, self._pool, self._lock = sae, x, pool, Lock()
        self._normalisation = sae.cfg.normalize_activations
        self._latents = _LATENTS.get(type(sae), _standard)
        size = 2 * len(x) * sae.cfg.d_sae * x.element_size()
        self._affine = size <= held and _plain(sae, x)
        if self._affine:
            self._factors = _factors(sae)
            centre = sae.b_dec * sae.cfg.apply_b_dec_to_input
            self._bias = (sae.b_gate if isinstance(sae, GatedSAE) else sae.b_enc).detach()
            if self._normalisation in _NORMALISED:  # centre and bias come after the factor
                self._bias = self._bias - centre @ sae.W_enc
                self._product = self._times_encoder(self._centred(x))
            else:
                self._product = self._times_encoder(x - centre, self._bias)

    def clean(self) -> Codes:
        """The latents of `x`."""
        return self._codes(0.0)

    @torch.no_grad()
    def along(self, noise: Float[Tensor, "tokens d"]) -> Callable[[float], Codes]:
        """The function scale -> latents of `x + scale * noise`."""
        product = self._times_encoder(self._centred(noise)) if self._affine else None
        return partial(self._codes, noise=noise, product=product)

    @torch.no_grad()
    def _codes(
        self,
        scale: float,
        *,
        noise: Float[Tensor, "tokens d"] | None = None,
        product: Float[Tensor, "tokens F"] | None = None,
    ) -> Codes:
        noisy = self.x if noise is None else torch.add(self.x, noise, alpha=scale)
        if not self._affine:
            if self._normalisation not in _NORMALISED:
                return encode(self._sae, noisy)
            with self._lock:  # such an SAE keeps what it divided by
                return encode(self._sae, noisy)
        budget = IN_CACHE if noisy.device.type == "cpu" else MEMORY_BUDGET
        parts = batches_of(len(noisy), max(1, budget // (self._product[0].nbytes)))
        found = []
        for rows in parts:
            step = 0.0 if product is None else product[rows]
            pre = torch.add(self._product[rows], step, alpha=scale)
            if self._normalisation in _NORMALISED:
                pre = pre.mul_(self._scale(noisy[rows])).add_(self._bias)
            found.append(self._latents(self._sae, pre, self._factors))
        if isinstance(self._sae, TopKSAE):
            return _scattered(found, self._sae.cfg.d_sae)
        return join(found, parts)

    def _scale(self, x: Float[Tensor, "rows d"]) -> Float[Tensor, "rows 1"]:
        """By what the SAE's normalisation multiplies its centred input."""
        if self._normalisation == "layer_norm":
            return 1 / (x.std(1, keepdim=True) + _LAYER_NORM_EPS)
        return x.shape[1] ** 0.5 / x.norm(dim=1, keepdim=True)

    def _centred(self, x: Float[Tensor, "rows d"]) -> Float[Tensor, "rows d"]:
        return x - x.mean(1, keepdim=True) if self._normalisation == "layer_norm" else x

    def _times_encoder(
        self, x: Float[Tensor, "tokens d"], bias: Float[Tensor, " F"] | None = None
    ) -> Float[Tensor, "tokens F"]:
        out, weights = x.new_empty(len(x), self._sae.cfg.d_sae), self._sae.W_enc.detach()

        x = x.detach()  # whether gradients are kept is each thread's own affair

        def multiply(f: slice) -> None:
            block = out[:, f]
            torch.mm(x, weights[:, f], out=block)
            if bias is not None:
                block += bias[f]

        size = _COLUMNS if x.device.type == "cpu" else out.shape[1]
        list(self._pool.map(multiply, batches_of(out.shape[1], size)))
        return out


def _plain(sae: Any, x: Float[Tensor, "tokens d"]) -> bool:
    """Whether the SAE's `encode` is its products and its activation, and nothing else."""
    own = {"encode", "process_sae_in"} & set(vars(sae))
    hooks = any(m._forward_hooks or m._forward_pre_hooks for m in sae.modules())
    activation = TopK if isinstance(sae, TopKSAE) else torch.nn.ReLU
    return (
        type(sae) in _LATENTS
        and type(sae.activation_fn) is activation
        and sae.dtype == x.dtype
        and x.dtype in (torch.float32, torch.float64)
        and sae.cfg.reshape_activations == "none"
        and not own
        and not hooks
    )


def _factors(sae: Any) -> Float[Tensor, " F"] | None:
    """What multiplies pre-activations by feature, if anything does."""
    if isinstance(sae, GatedSAE):
        return sae.r_mag.exp()
    rescales = isinstance(sae, TopKSAE) and sae.cfg.rescale_acts_by_decoder_norm
    return sae.W_dec.norm(dim=-1) if rescales else None


def _standard(sae: Any, pre: Float[Tensor, "rows F"], factors: Tensor | None) -> Codes:
    return in_use(sae.activation_fn(pre))


def _jumprelu(sae: Any, pre: Float[Tensor, "rows F"], factors: Tensor | None) -> Codes:
    return in_use(sae.activation_fn(pre) * (pre > sae.threshold))


def _gated(sae: Any, pre: Float[Tensor, "rows F"], factors: Tensor | None) -> Codes:
    magnitudes = sae.activation_fn((pre - sae.b_gate) * factors + sae.b_mag)
    return in_use(magnitudes * (pre > 0))


def _topk(sae: Any, pre: Float[Tensor, "rows F"], factors: Tensor | None) -> _Largest:
    return largest(pre if factors is None else pre * factors, sae.activation_fn.k)


def _scattered(found: Sequence[_Largest], n_features: int) -> Codes:
    """The codes whose largest pre-activations and their features are given, part by part."""
    values, places = (torch.cat(part) for part in zip(*found, strict=True))
    values = values.relu()
    used = torch.bincount(places[values > 0], minlength=n_features) > 0
    features = used.nonzero()[:, 0]
    if not len(features):
        return Codes(values.new_zeros(len(values), 0), features)
    position = (used.cumsum(0) - 1).clamp_min(0)[places]  # of a value of 0 it does not matter
    codes = values.new_zeros(len(values), len(features))
    return Codes(codes.scatter_add_(1, position, values), features)


_LATENTS: dict[type, Callable[[Any, Tensor, Tensor | None], Any]] = {
    StandardSAE: _standard,
    JumpReLUSAE: _jumprelu,
    GatedSAE: _gated,
    TopKSAE: _topk,
}


def largest(x: Float[Tensor, "rows n"], k: int) -> _Largest:
    """The k largest of each row and their places, in any order: `torch.topk`, twice as fast.

    They lie in the k groups with the largest maxima, so most of the row is only read once.
    """
    n_groups = x.shape[1] // _GROUP
    if x.shape[1] % _GROUP or n_groups < 4 * k:
        return x.topk(k, sorted=False)
    grouped = x.unflatten(1, (n_groups, _GROUP))
    groups = grouped.amax(2).topk(k, sorted=False).indices
    rows = torch.arange(len(x), device=x.device)[:, None]
    inside = grouped[rows, groups].flatten(1)
    values, places = inside.topk(k, sorted=False)
    return values, groups.gather(1, places // _GROUP) * _GROUP + places % _GROUP
