"""An SAE's latents as noise enters what it reads: `encode(x + scale * noise)` for many scales.

Two matrix products with the encoder's weights, of `x` and of the noise, serve all scales.
"""

from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from threading import Lock
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saerepgeo_lib.activations.latents import MEMORY_BUDGET, Latents, encode, in_use, join
from saerepgeo_lib.activations.residual_stream import batches_of

_LAYER_NORM_EPS = 1e-5  # SAELens'
HELD = 2**30  # bytes that the two products may take together
IN_CACHE = 2**22  # bytes of pre-activations that a CPU works on at once
_COLUMNS = 1024  # of the encoder's weights, that a core multiplies at once: they fit its cache
_GROUP = 64  # latents of which the largest stands for all while the k largest are sought

LatentsAt = Callable[[float], Latents]  # from the scale of the noise
_Largest = tuple[Float[Tensor, "_ k"], Int[Tensor, "_ k"]]  # values and their features


class NoisyLatents:
    """The latents of `x`, and of `x` along any noise, equal to `sae.encode`'s up to rounding.

    An SAE that `_activation` does not know, or products beyond `held` bytes, are encoded from
    scratch at every scale.
    """

    @torch.no_grad()
    def __init__(
        self, sae: Any, x: Float[Tensor, "tokens d"], *, pool: Executor, held: int = HELD
    ) -> None:
        self._sae, self._x, self._pool, self._lock = sae, x, pool, Lock()
        self._layer_norm = sae.cfg.normalize_activations == "layer_norm"
        self._scaled = self._layer_norm or sae.cfg.normalize_activations == "constant_norm_rescale"
        fits = 2 * len(x) * sae.cfg.d_sae * x.element_size() <= held
        self._activate = _activation(sae, x.dtype) if fits else None
        if self._activate is None:
            return
        centre = sae.b_dec * sae.cfg.apply_b_dec_to_input
        self._bias = (sae.b_gate if hasattr(sae, "b_gate") else sae.b_enc).detach()
        if self._scaled:  # centre and bias come after the factor
            self._bias = self._bias - centre @ sae.W_enc
            self._product = self._times_encoder(x)
        else:
            self._product = self._times_encoder(x - centre).add_(self._bias)

    @torch.no_grad()
    def along(self, noise: Float[Tensor, "tokens d"]) -> LatentsAt:
        """The function scale -> latents of `x + scale * noise`."""
        product = self._times_encoder(noise) if self._activate else noise
        return partial(self._latents_at, noise, product)

    @torch.no_grad()
    def _latents_at(
        self, noise: Float[Tensor, "tokens d"], product: Float[Tensor, "tokens _"], scale: float
    ) -> Latents:
        noisy = torch.add(self._x, noise, alpha=scale)
        if self._activate is None:
            if not self._scaled:
                return encode(self._sae, noisy)
            with self._lock:  # such an SAE keeps what it divided by
                return encode(self._sae, noisy)
        budget = IN_CACHE if noisy.device.type == "cpu" else MEMORY_BUDGET
        batches = batches_of(len(noisy), max(1, budget // self._product[0].nbytes))
        parts: list[Any] = []
        for rows in batches:
            pre = torch.add(self._product[rows], product[rows], alpha=scale)
            if self._scaled:
                pre = pre.mul_(self._factor(noisy[rows])).add_(self._bias)
            parts.append(self._activate(pre))
        if isinstance(parts[0], Latents):
            return join(parts, batches)
        values, features = (torch.cat(part) for part in zip(*parts, strict=True))
        return _sparse(values.relu(), features, self._sae.cfg.d_sae)

    def _factor(self, x: Float[Tensor, "rows d"]) -> Float[Tensor, "rows 1"]:
        """By what the SAE's normalisation multiplies its centred input."""
        if self._layer_norm:
            return 1 / (x.std(1, keepdim=True) + _LAYER_NORM_EPS)
        return x.shape[1] ** 0.5 / x.norm(dim=1, keepdim=True)

    def _times_encoder(self, x: Float[Tensor, "tokens d"]) -> Float[Tensor, "tokens F"]:
        x, weights = x.detach(), self._sae.W_enc.detach()  # each thread has gradients on
        x = x - x.mean(1, keepdim=True) if self._layer_norm else x
        out = x.new_empty(len(x), weights.shape[1])

        def multiply(f: slice) -> None:
            torch.mm(x, weights[:, f], out=out[:, f])

        size = _COLUMNS if x.device.type == "cpu" else out.shape[1]
        list(self._pool.map(multiply, batches_of(out.shape[1], size)))
        return out


def _activation(sae: Any, dtype: torch.dtype) -> Callable[[Tensor], Latents | _Largest] | None:
    """From pre-activations to latents; None if `encode` is not just the products and this."""
    import sae_lens
    from sae_lens.saes.topk_sae import TopK

    replaced = {"encode", "process_sae_in"} & set(vars(sae))
    hooked = any(m._forward_hooks or m._forward_pre_hooks for m in sae.modules())
    other_type = sae.dtype != dtype or dtype not in (torch.float32, torch.float64)
    if replaced or hooked or other_type or sae.cfg.reshape_activations != "none":
        return None
    kind = type(sae), type(sae.activation_fn)
    if kind == (sae_lens.StandardSAE, torch.nn.ReLU):
        return lambda pre: in_use(sae.activation_fn(pre))
    if kind == (sae_lens.JumpReLUSAE, torch.nn.ReLU):
        return lambda pre: in_use(sae.activation_fn(pre) * (pre > sae.threshold))
    if kind == (sae_lens.GatedSAE, torch.nn.ReLU):
        gate, bias, scale = sae.b_gate, sae.b_mag, sae.r_mag.exp()
        return lambda pre: in_use(sae.activation_fn((pre - gate) * scale + bias) * (pre > 0))
    if kind == (sae_lens.TopKSAE, TopK):
        norms = sae.W_dec.norm(dim=-1) if sae.cfg.rescale_acts_by_decoder_norm else None
        return lambda pre: largest(pre if norms is None else pre * norms, sae.activation_fn.k)
    return None


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
    values, places = grouped[rows, groups].flatten(1).topk(k, sorted=False)
    return values, groups.gather(1, places // _GROUP) * _GROUP + places % _GROUP


def _sparse(
    values: Float[Tensor, "tokens k"], features: Int[Tensor, "tokens k"], n_features: int
) -> Latents:
    """The latents with these values at these features, and 0 elsewhere."""
    used = torch.bincount(features[values > 0], minlength=n_features) > 0
    column = (used.cumsum(0) - 1).clamp_min(0)[features]  # of a value of 0 it does not matter
    active = used.nonzero()[:, 0]
    out = values.new_zeros(len(values), len(active))
    return Latents(out.scatter_add_(1, column, values) if len(active) else out, active)


def permuted_latents(
    latents_at: LatentsAt, x: Float[Tensor, "tokens d"], width: int, generator: torch.Generator
) -> LatentsAt:
    """The permutation null: each of `width` features permuted over the tokens `x`, at any scale.

    The order of a feature depends on the generator, the number of tokens and the feature's number
    only, since all are drawn at once: not on what else is in use, nor on the device.
    """
    key = int(torch.randint(2**62, (), generator=generator))
    drawn = np.tile(np.arange(len(x), dtype=np.int32), (width, 1))
    np.random.Generator(np.random.Philox(key=key)).permuted(drawn, axis=1, out=drawn)
    orders = torch.from_numpy(drawn).to(x.device)

    def permuted_at(scale: float) -> Latents:
        latents = latents_at(scale)
        values = torch.empty_like(latents.values)
        n_columns = max(1, IN_CACHE // max(1, len(x)))  # of 64-bit places at once
        for some in batches_of(values.shape[1], n_columns):
            order = orders[latents.features[some]].T.long()
            values[:, some] = latents.values[:, some].gather(0, order)
        return Latents(values, latents.features)

    return permuted_at
