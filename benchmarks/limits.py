"""What this machine can do, measured in the same run, and the least time that work needs at that.

A floor is derived by hand from shapes: products or bytes that cannot be avoided, over the rate.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch

from benchmarks.measure import DISTURBED, Meter, synchronize
from benchmarks.shapes import Shape
from saerepgeo_lib.errors import UserError

Precision = Literal["float32", "tf32"]
_SIDE = 2_048  # of the square products
_COPY_BYTES = 2**29
_TRIES = 5


@dataclass(frozen=True)
class Limits:
    """Rates of one device: floating-point operations a second, and bytes a second.

    A matrix product of m x k by k x n has 2 m k n operations; a copy of n bytes moves 2 n.
    `encode` is the float32 product at the shape of an SAE's encoder, rows x d by d x F.
    """

    device: str
    precision: Precision
    square: float
    encode: float
    float64: float
    bandwidth: float


def measure_limits(
    shape: Shape, *, rows: int, device: str = "cpu", precision: Precision = "float32"
) -> Limits:
    """The rates at this shape, with `rows` tokens to encode. `precision` matters on a GPU only."""
    with allowed(precision):
        return Limits(
            device,
            precision,
            square=product_rate(_SIDE, _SIDE, _SIDE, device=device),
            encode=product_rate(rows, shape.d_model, shape.n_features, device=device),
            float64=product_rate(
                _SIDE // 2, _SIDE // 2, _SIDE // 2, dtype=torch.float64, device=device
            ),
            bandwidth=copy_rate(_COPY_BYTES, device=device),
        )


def quiet_limits(
    shape: Shape, *, rows: int, device: str = "cpu", precision: Precision = "float32"
) -> Limits:
    """The rates while no other program is busy: too low a rate would flatter every share.

    Raises UserError if the machine is not quiet in any of `_TRIES`.
    """
    work = partial(measure_limits, shape, rows=rows, device=device, precision=precision)
    meter = Meter(work, device)
    for _ in range(_TRIES):
        found: Limits = meter()
        others = meter.costs[-1].others_s / meter.costs[-1].wall_s
        if others <= DISTURBED:
            return found
    raise UserError(
        f"other programs keep {others:.1f} cores busy, and the machine's rates cannot be measured "
        "beside them: stop them, and run this again"
    )


@contextmanager
def allowed(precision: Precision) -> Iterator[None]:
    """Whether float32 products may be rounded to TF32 inside; as before afterwards."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def product_rate(
    m: int, k: int, n: int, *, dtype: torch.dtype = torch.float32, device: str = "cpu",
    repeats: int = 5,
) -> float:  # fmt: skip
    """Operations a second of an m x k by k x n matrix product, best of `repeats`."""
    a = torch.randn(m, k, dtype=dtype, device=device)
    b = torch.randn(k, n, dtype=dtype, device=device)
    out = torch.empty(m, n, dtype=dtype, device=device)
    return 2 * m * k * n / _best(lambda: torch.mm(a, b, out=out), repeats, device)


def copy_rate(n_bytes: int, *, device: str = "cpu", repeats: int = 5) -> float:
    """Bytes a second that a copy of `n_bytes` reads and writes, best of `repeats`."""
    source = torch.ones(n_bytes // 4, device=device)
    target = torch.empty_like(source)
    return 2 * n_bytes / _best(lambda: target.copy_(source), repeats, device)


def _best(work: Callable[[], Any], repeats: int, device: str) -> float:
    work()
    best = float("inf")
    for _ in range(repeats):
        synchronize(device)
        start = time.perf_counter()
        work()
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best


def residual_floor(shape: Shape, n_tokens: int, limits: Limits) -> float:
    """Seconds of the products with the blocks' matrices; those within attention come on top."""
    return 2 * n_tokens * shape.weights_a_block * shape.blocks_built / limits.square


def encode_floor(shape: Shape, rows: int, n_times: int, limits: Limits) -> float:
    """Seconds of the encoder's product for `rows` tokens, `n_times` over."""
    return n_times * 2 * rows * shape.d_model * shape.n_features / limits.encode


def spectra_floor(n_prompts: int, n_slots: int, n_active: int, limits: Limits) -> float:
    """Seconds of one QR of active x tokens, and of bringing three unfoldings to bidiagonal form.

    A QR of a x b (a >= b) without Q takes 2 b^2 (a - b / 3) operations, the bidiagonal form of
    m x m 8/3 m^3. After the first QR the tensor has min(tokens, active) features; each unfolding
    longer than wide has a QR of its own.
    """
    n = n_prompts * n_slots
    width = min(n, n_active)
    products = _qr(n_active, n) if n_active > n else 0.0
    for m in (n_prompts, n_slots, width):
        rest = n * width / m
        products += (_qr(rest, m) if rest > m else 0.0) + 8 / 3 * m**3
    return products / limits.float64


def _qr(a: float, b: float) -> float:
    return 2 * b**2 * (a - b / 3)


def cluster_floor(n_tokens: int, n_active: int, limits: Limits) -> float:
    """Seconds of the tokens' Gram matrix, brought to tridiagonal form: 2 n^2 active + 4/3 n^3."""
    return (2 * n_tokens**2 * n_active + 4 / 3 * n_tokens**3) / limits.float64


def step_floor(
    shape: Shape, *, n_clusters: int, n_active: int, n_nonzero: int, valid: bool, limits: Limits
) -> float:
    """Seconds of one step of an edit.

    Free: the clusters' shifts through the decoder, and the gradient back: two products of
    clusters x active by active x d. Valid: the decoder's row of every active latent of every
    clustered token, read for the reconstruction and again for its gradient.
    """
    if valid:
        return 2 * 4 * n_nonzero * shape.d_model / limits.bandwidth
    return 2 * 2 * n_clusters * n_active * shape.d_model / limits.square
