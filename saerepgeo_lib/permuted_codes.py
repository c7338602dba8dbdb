"""The permutation null: every feature's values in a random order of the tokens, its own."""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from saerepgeo_lib.latents import Codes
from saerepgeo_lib.residuals import batches_of

_AT_ONCE = 2**18  # random numbers: 2 MiB, about a core's cache
# of SplitMix64 (Steele, Lea and Flood 2014), as torch's 64-bit integers, which are signed
_STEP, _FIRST, _SECOND = (
    n - 2**64 for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


class PermutedCodes:
    """Codes with each feature permuted over the tokens.

    A feature's order depends on the generator and on its number only: not on what else is in use,
    nor on the device. All of it is computed there (Apple's mps leaves the orders to the CPU).
    """

    def __init__(self, clean: Codes, generator: torch.Generator) -> None:
        self._key = int(torch.randint(2**62, (), generator=generator))
        self.clean = self(clean)

    def __call__(self, codes: Codes) -> Codes:
        """The codes permuted; they have a row a token, as many as the clean ones."""
        n = len(codes.values)
        features = codes.features.cpu() if codes.features.device.type == "mps" else codes.features
        values = torch.zeros_like(codes.values)
        for few in batches_of(len(features), max(1, _AT_ONCE // max(1, n))):
            order = orders(self._key, features[few], n).to(values.device)
            values[:, few].scatter_(0, order.T, codes.values[:, few])
        return Codes(values, codes.features)


def orders(
    key: int, features: Int[Tensor, " features"], n_tokens: int
) -> Int[Tensor, "features tokens"]:
    """For each feature a random order of range(n_tokens): that of SplitMix64's numbers."""
    tokens = torch.arange(n_tokens, device=features.device)
    own = _scrambled(key + features * _STEP)
    last = 2 ** n_tokens.bit_length() - 1
    # the number's high bits decide, and the token itself is carried along in the low ones
    drawn = _scrambled(own[:, None] + tokens * _STEP) & ~last | tokens
    return _ascending(drawn) & last


def _scrambled(x: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """SplitMix64's finalizer, one to one on the 64-bit integers."""
    x = (x ^ _right(x, 30)) * _FIRST
    x = (x ^ _right(x, 27)) * _SECOND
    return x ^ _right(x, 31)


def _right(x: Int[Tensor, "..."], n: int) -> Int[Tensor, "..."]:
    """`x >> n` of an unsigned number."""
    return x >> n & (1 << 64 - n) - 1


def _ascending(x: Int[Tensor, "rows n"]) -> Int[Tensor, "rows n"]:
    """Each row sorted; on a CPU by numpy, which takes a fraction of torch's time."""
    if x.device.type == "cpu":
        return torch.from_numpy(np.sort(x.numpy(), axis=1))
    return x.sort(1).values
