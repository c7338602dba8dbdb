"""Interventions on separability by gradients through the decoder, and their controls.

Every quantity is a ratio to the unsteered latents (AEDP / AEDP_0, MSE / MSE_0), so that one weight
of the error means the same for every model. The last iterate is the result, never the best.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from saerepgeo_lib.errors import UserError, choose
from saerepgeo_lib.geometry.arrangements import aedp, gw_cost, gw_coupling
from saerepgeo_lib.steering.latents import (
    ClusteredLatents,
    Kind,
    Measure,
    SteeredLatents,
    SteeringVectors,
    ratios,
    steer,
    unsteered,
)

Objective = Literal["separate", "gather", "gromov_wasserstein", "reconstruct"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
STEP, N_STEPS = 0.2, 64
_CONVERGED = 0.01  # share of the whole improvement that the second half of the steps may bring
_REFRESH = 10  # steps between two solutions for the coupling, or two updates of the multiplier
_GATHERED = 0.01  # ratio of AEDP below which nothing pulls: log AEDP has no least value
_LANDING = 5  # steps that set steered latents on a dose
_EVERY = 4  # steps between two points of a control that only follows another path
_GW_STARTS = 10
_PENALTY = 10.0  # of the squared deviation of log AEDP from a dose

Loss = Callable[[Tensor, Tensor, Tensor, int], Tensor]  # of AEDP ratio, MSE ratio, centroids, step


@dataclass(frozen=True)
class Path:
    """Steering vectors, and the way to them.

    `history` has a row per step: step, AEDP and MSE (ratios), distance (root mean square length of
    the vectors, over AEDP_0) and, of an optimisation, the objective's value. `aedp` and `mse` are
    the ratios at the end, in double precision. `left` is the share of an optimisation's whole
    improvement that came in the second half of the steps, else NaN.
    """

    name: str
    kind: Kind
    vectors: SteeringVectors
    history: pd.DataFrame
    aedp: float
    mse: float
    left: float = np.nan

    @property
    def converged(self) -> bool | None:
        """Whether at most 1 % of the improvement was left; None if nothing was optimised."""
        return None if np.isnan(self.left) else self.left <= _CONVERGED


class _Track:
    """Measures steering vectors on their way, in single precision, and keeps the history."""

    def __init__(self, latents: ClusteredLatents, kind: Kind, measure: Measure) -> None:
        self.latents, self.kind, self.measure = latents, kind, measure
        self.history: list[dict[str, float]] = []
        with torch.no_grad():
            self.before = unsteered(latents.single, kind).mse(measure).item()

    def at(self, step: int, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """AEDP and MSE, both over the unsteered, and the centroids."""
        steered = steer(self.latents.single, vectors, self.kind)
        a, e = steered.aedp, steered.mse(self.measure) / self.before
        length = vectors.detach().square().sum(1).mean().sqrt().item()
        self.history.append({"step": step, "AEDP": a.item(), "MSE": e.item(),
                             "distance": length / self.latents.aedp})  # fmt: skip
        return a, e, steered.centroids

    def path(self, name: str, vectors: Tensor) -> Path:
        """The way to these vectors, its end in double precision."""
        end = vectors.detach().to(self.latents.centroids)
        ends = ratios(self.latents, end, self.kind, self.measure)
        return Path(name, self.kind, end, pd.DataFrame(self.history), *ends)


def intervene(
    latents: ClusteredLatents, objective: Objective, *, kind: Kind = "free",
    mse_weight: float = 1.0, measure: Measure = "own", step: float = STEP, n_steps: int = N_STEPS,
) -> Path:  # fmt: skip
    """Minimise an objective over the steering vectors, by Adam from the unsteered latents.

    "separate" and "gather": -+ log AEDP (gathered to a ratio of 0.01 at most);
    "gromov_wasserstein": `gw_distance` over that before; each with `mse_weight` times the MSE
    ratio. "reconstruct": the MSE ratio alone. A coordinate of a vector moves by about `step` *
    AEDP_0 / sqrt(features) at first. Raises UserError for a negative weight, and for steps that
    lead nowhere.
    """
    choose("objective", objective, OBJECTIVES)
    if not mse_weight >= 0:
        raise UserError(f"mse_weight must be at least 0, got {mse_weight}")
    gw_ratio = _gw_ratio(latents) if objective == "gromov_wasserstein" else None

    def loss(a: Tensor, e: Tensor, centroids: Tensor, now: int) -> Tensor:
        if objective == "reconstruct":
            return e
        if gw_ratio is not None:
            return mse_weight * e + gw_ratio(centroids, now)
        pull = -a.log() if objective == "separate" else a.clamp_min(_GATHERED).log()
        return mse_weight * e + pull

    start = torch.zeros_like(latents.centroids)
    return _descend(_Track(latents, kind, measure), objective, loss, start, step, n_steps)


def least_mse_at(
    latents: ClusteredLatents, ratio: float, *, kind: Kind = "free",
    start: SteeringVectors | None = None, step: float = STEP, n_steps: int = N_STEPS,
) -> Path:  # fmt: skip
    """The least MSE found at AEDP' / AEDP = ratio: an upper bound of the least there is.

    From `start` (such as the vectors of "reconstruct"; by default none), pushed to the ratio, which
    the method of multipliers holds. The end is set on it along the gradient of AEDP, which at an
    optimum costs nothing to first order. Of both the better counts. `left` is that of the MSE.
    """
    if not ratio > 0:
        raise UserError(f"a ratio of AEDP must be positive, got {ratio}")
    multiplier = 0.0

    def loss(a: Tensor, e: Tensor, _: Tensor, now: int) -> Tensor:
        nonlocal multiplier
        off = a.log() - np.log(ratio)
        if now % _REFRESH == 0:
            multiplier += 2 * _PENALTY * off.item()
        return e + multiplier * off + _PENALTY * off.square()

    begin = torch.zeros_like(latents.centroids) if start is None else start
    begin = _landed(latents, begin, ratio, kind)
    track = _Track(latents, kind, "own")
    path = _descend(track, f"AEDP x {ratio:g}", loss, begin, step, n_steps)
    both = begin, _landed(latents, path.vectors, ratio, kind)
    ends = [(*ratios(latents, vectors, kind), vectors) for vectors in both]
    a, e, best = min(ends, key=lambda end: end[1])
    return replace(path, vectors=best, aedp=a, mse=e, left=_left(path.history["MSE"]))


def _descend(
    track: _Track, name: str, loss: Loss, start: SteeringVectors, step: float, n_steps: int
) -> Path:
    """Adam on the vectors, its rate falling to 0 along a cosine."""
    if not step > 0 or n_steps < 2:
        raise UserError(f"need a step > 0 and at least 2 steps, got {step} and {n_steps}")
    vectors = start.float().requires_grad_()
    rate = step * track.latents.aedp / start.shape[1] ** 0.5
    optimiser = torch.optim.Adam([vectors], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_steps)
    for now in range(n_steps + 1):
        value = loss(*track.at(now, vectors), now)
        track.history[-1]["value"] = value.item()
        if not np.isfinite(list(track.history[-1].values())).all():
            raise UserError(
                f"the objective {name!r} left the finite numbers at step {now}; "
                f"a step below {step} may help"
            )
        if now < n_steps:
            (vectors.grad,) = torch.autograd.grad(value, vectors)
            optimiser.step()
            schedule.step()
    path = track.path(name, vectors)
    return replace(path, left=_left(path.history["value"]))


def _left(values: pd.Series) -> float:
    """Share of the whole change that came in the second half of the steps."""
    start, middle, end = values.iloc[[0, len(values) // 2, -1]]
    return float(abs(middle - end) / max(abs(start - end), 1e-3))


def push(
    latents: ClusteredLatents, ratio: float, *, kind: Kind = "free", measure: Measure = "own",
    n_steps: int = 10,
) -> Path:  # fmt: skip
    """Only push on separability: Euler steps along the gradient of log AEDP, equal in it, to a
    ratio. Valid steering may stall where no latent is left to move; its `aedp` says where.
    """
    if not ratio > 0 or n_steps < 1:
        raise UserError(f"need a ratio > 0 and at least 1 step, got {ratio} and {n_steps}")
    track, start = _Track(latents, kind, measure), torch.zeros_like(latents.single.centroids)
    way = [ratio ** (now / n_steps) for now in range(1, n_steps + 1)]
    for now, vectors in enumerate([start, *_flow(latents.single, start, way, kind)]):
        track.at(now, vectors)
    return track.path(f"push to x {ratio:g}", vectors)


def _landed(
    latents: ClusteredLatents, vectors: SteeringVectors, ratio: float, kind: Kind
) -> SteeringVectors:
    """The vectors, moved along the gradient of log AEDP until the ratio is reached."""
    first = aedp(steer(latents.single, vectors.float(), kind).centroids).item()
    first /= latents.single.aedp  # in double precision
    way = [first * (ratio / first) ** min(1, 2 * i / _LANDING) for i in range(1, _LANDING + 1)]
    *_, moved = _flow(latents.single, vectors.float(), way, kind)
    return moved.to(vectors)


def _flow(
    latents: ClusteredLatents, vectors: Tensor, way: Iterable[float], kind: Kind
) -> Iterator[Tensor]:
    """The vectors after each step along the gradient of log AEDP that should reach a ratio."""
    for ratio in way:
        vectors = vectors.detach().requires_grad_()
        log_ratio = steer(latents, vectors, kind).aedp.log()
        (up,) = torch.autograd.grad(log_ratio, vectors)
        gap = np.log(ratio) - log_ratio.item()
        norm = up.square().sum().clamp_min(torch.finfo(up.dtype).tiny)
        vectors = (vectors + gap * up / norm).detach()
        yield vectors


def side_effects(steered: SteeredLatents | None) -> dict[str, float]:
    """The ratio of the authors' error, `gw_distance` and mean L0; NaN where these are not known."""
    if steered is None:
        return {"z-scored": np.nan, "d_GW": np.nan, "L0": np.nan}
    scored = steered.mse("z-scored") / unsteered(steered.before).mse("z-scored")
    return {"z-scored": scored.item(), "d_GW": gw_distance(steered), "L0": steered.l0}


def gw_distance(steered: SteeredLatents) -> float:
    """Squared d_GW of the centroids to the residual's, each in units of its AEDP before steering.

    An upper bound; random pairings are tried for up to 20 clusters.
    """
    a, b = _units(steered.before, steered.centroids)
    same = torch.eye(len(a), dtype=a.dtype, device=a.device) / len(a)
    coupling = gw_coupling(a, b, n_starts=_GW_STARTS if len(a) <= 20 else 0, start=same)
    return max(0.0, gw_cost(a, b, coupling).item())


def _units(latents: ClusteredLatents, centroids: SteeringVectors) -> tuple[Tensor, Tensor]:
    residual = latents.means(latents.x).to(centroids)
    return residual / aedp(residual), centroids / latents.aedp


def _gw_ratio(latents: ClusteredLatents) -> Callable[[Tensor, int], Tensor]:
    """d_GW of centroids over that before, the coupling found anew every few steps."""
    before = gw_distance(unsteered(latents))
    unit = before if before > 1e-9 else 1.0  # equal already, as of any two clusters
    coupling = torch.eye(len(latents.counts)) / len(latents.counts)

    def ratio(centroids: Tensor, now: int) -> Tensor:
        nonlocal coupling
        a, b = _units(latents, centroids)
        if now % _REFRESH == 0:
            coupling = gw_coupling(a, b.detach(), n_starts=0, start=coupling).to(a)
        return gw_cost(a, b, coupling) / unit

    return ratio


def shuffled(latents: ClusteredLatents, generator: torch.Generator) -> ClusteredLatents:
    """A control: the labels of the clustered tokens permuted among them."""
    labels = latents.labels
    inside = (labels >= 0).nonzero()[:, 0]
    order = torch.randperm(len(inside), generator=generator).to(inside.device)
    return replace(latents, labels=labels.index_copy(0, inside, labels[inside[order]]))


@torch.no_grad()
def random_direction(
    latents: ClusteredLatents, path: Path, generator: torch.Generator, *, measure: Measure = "own"
) -> Path:
    """A control: at every fourth step of `path`, vectors as long (root mean square over clusters),
    each in its own random direction among the features that this steering may use.
    """
    draw = torch.randn(latents.centroids.shape, generator=generator).to(latents.single.centroids)
    draw = draw * latents.used if path.kind == "valid" else draw
    draw = draw / draw.norm(dim=1, keepdim=True)
    track = _Track(latents, path.kind, measure)
    history = path.history.iloc[::-_EVERY].iloc[::-1]
    for step, distance in zip(history["step"], history["distance"], strict=True):
        vectors = distance * latents.aedp * draw
        track.at(step, vectors)
    return track.path("random direction", vectors)
