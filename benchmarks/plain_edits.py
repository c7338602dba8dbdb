"""Case 3 done plainly: at every step a dense copy of all latents of all tokens, decoded by the SAE.

The least error at a dose of separability, with the objective, the steps and the landing of
`optimise.least_mse_at`; `tests/test_benchmarks.py` shows that both give the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import log
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saerepgeo_lib.steering.latents import Kind
from saerepgeo_lib.steering.optimise import N_STEPS, STEP

Shift = Float[Tensor, "clusters F"]
PENALTY, REFRESH, LANDING = 10.0, 10, 5  # as in `steering.optimise`


@dataclass(frozen=True)
class Dense:
    """Tokens as the SAE sees them: residual, all latents, and the cluster of each (-1: none)."""

    sae: Any
    x: Float[Tensor, "tokens d"]
    z: Float[Tensor, "tokens F"]
    labels: Int[Tensor, " tokens"]

    @cached_property
    def members(self) -> Float[Tensor, "clusters tokens"]:
        """Weights that make a cluster's mean of its tokens."""
        names = torch.arange(int(self.labels.max()) + 1, device=self.labels.device)
        inside = (self.labels == names[:, None]).to(self.z)
        return inside / inside.sum(1, keepdim=True)

    @cached_property
    def aedp(self) -> Tensor:
        """AEDP of the unedited latents."""
        return torch.pdist(self.members @ self.z).mean()

    @cached_property
    def mse(self) -> Tensor:
        """Mean squared error of the unedited latents."""
        return (self.x - self.sae.decode(self.z)).square().mean()

    @cached_property
    def active(self) -> Float[Tensor, " F"]:
        """1 for the features that some token uses; no edit touches the others."""
        return (self.z != 0).any(0).to(self.z)

    @cached_property
    def used(self) -> Float[Tensor, "clusters F"]:
        """1 for the features that the cluster uses."""
        return (self.members @ (self.z != 0).to(self.z) > 0).to(self.z)

    @cached_property
    def l0(self) -> Int[Tensor, " tokens"]:
        """Active latents of each token."""
        return (self.z != 0).sum(1)

    @property
    def unmoved(self) -> Shift:
        """No shift."""
        return self.z.new_zeros(len(self.members), self.z.shape[1])


def edited(here: Dense, shift: Shift, kind: Kind) -> Float[Tensor, "tokens F"]:
    """z' = z + shift[cluster]; valid: nonnegative, the largest latents as many as there were."""
    inside = (here.labels >= 0)[:, None]
    if kind == "free":
        return here.z + inside * (shift * here.active)[here.labels]
    moved = (here.z + (shift * here.used)[here.labels]).relu()
    values, places = moved.topk(int(here.l0.max()), dim=1)
    rank = torch.arange(values.shape[1], device=values.device)
    kept = torch.zeros_like(here.z).scatter(1, places, values * (rank < here.l0[:, None]))
    return torch.where(inside, kept, here.z)


def ratios(here: Dense, shift: Shift, kind: Kind) -> tuple[Tensor, Tensor]:
    """AEDP and MSE of the edit over those of the unedited latents."""
    z = edited(here, shift, kind)
    separability = torch.pdist(here.members @ z).mean()
    return separability / here.aedp, (here.x - here.sae.decode(z)).square().mean() / here.mse


def least_mse_at(
    here: Dense, ratio: float, kind: Kind, start: Shift, *, n_steps: int = N_STEPS
) -> tuple[float, float, Shift]:
    """Ratios of AEDP and MSE, and the shift, at the least MSE found at that ratio of AEDP."""
    multiplier = 0.0

    def loss(a: Tensor, e: Tensor, now: int) -> Tensor:
        nonlocal multiplier
        off = a.log() - log(ratio)
        if now % REFRESH == 0:
            multiplier += 2 * PENALTY * off.item()
        return e + multiplier * off + PENALTY * off.square()

    begin = _landed(here, start, ratio, kind)
    end = _landed(here, descend(here, loss, begin, kind, n_steps=n_steps), ratio, kind)
    with torch.no_grad():
        found = [(*ratios(here, shift, kind), shift) for shift in (begin, end)]
    reached, error, shift = min(found, key=lambda item: item[1].item())
    return reached.item(), error.item(), shift


def reconstruct(here: Dense, kind: Kind, *, n_steps: int = N_STEPS) -> Shift:
    """The shift at the end of a descent of the MSE alone."""
    return descend(here, lambda a, e, now: e, here.unmoved, kind, n_steps=n_steps)


def descend(
    here: Dense, loss: Callable[[Tensor, Tensor, int], Tensor], start: Shift, kind: Kind, *,
    n_steps: int,
) -> Shift:  # fmt: skip
    """Adam on the shift, its rate falling to 0 along a cosine."""
    shift = start.clone().requires_grad_()
    rate = STEP * here.aedp.item() / here.active.sum().sqrt().item()
    optimiser = torch.optim.Adam([shift], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_steps)
    for now in range(n_steps):
        optimiser.zero_grad()
        loss(*ratios(here, shift, kind), now).backward()
        optimiser.step()
        schedule.step()
    return shift.detach()


def _landed(here: Dense, shift: Shift, ratio: float, kind: Kind) -> Shift:
    """The shift moved along the gradient of log AEDP until the ratio is reached."""
    moved = shift.clone().requires_grad_()
    first = _log_aedp(here, moved, kind).exp().item()
    for now in range(1, LANDING + 1):
        target = first * (ratio / first) ** min(1, 2 * now / LANDING)
        value = _log_aedp(here, moved, kind)
        (up,) = torch.autograd.grad(value, moved)
        with torch.no_grad():
            moved += (log(target) - value.item()) * up / up.square().sum()
    return moved.detach()


def _log_aedp(here: Dense, shift: Shift, kind: Kind) -> Tensor:
    return (torch.pdist(here.members @ edited(here, shift, kind)).mean() / here.aedp).log()
