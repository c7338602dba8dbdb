"""Case 3: interventions on separability by gradients through the decoder, and their controls.

Every quantity is a ratio to the unedited code: AEDP / AEDP_0, MSE / MSE_0, d_GW / d_GW,0. So one
weight of the error means the same for every model. The last iterate is the result, never the best.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from saerepgeo_lib.arrangements import aedp, gw_cost, gw_coupling
from saerepgeo_lib.edits import Kind, Measure, Setting, Shift, edit, mse
from saerepgeo_lib.errors import UserError, choose
from saerepgeo_lib.scaling import outward

Objective = Literal["separate", "gather", "gromov_wasserstein", "reconstruct"]
OBJECTIVES: tuple[Objective, ...] = ("separate", "gather", "gromov_wasserstein", "reconstruct")
STEP, N_STEPS = 0.2, 64
_CONVERGED = 0.01  # share of the whole improvement that the second half of the steps may bring
_REFRESH = 10  # steps between two solutions for the coupling, or two updates of the multiplier
_GATHERED = 0.01  # ratio of AEDP below which nothing pulls: log AEDP has no least value
_LANDING = 5  # steps that set an edit on a dose
_EVERY = 4  # steps between two points of a control that only follows another run
_GW_STARTS = 10
_PENALTY = 10.0  # of the squared deviation of log AEDP from a dose

Loss = Callable[[Tensor, Tensor, Tensor, int], Tensor]  # of AEDP ratio, MSE ratio, centroids, step


@dataclass(frozen=True)
class Path:
    """An edit, and the way to it. `history` has a row a step, from where it starts.

    Columns step, AEDP and MSE (ratios to the unedited code), distance (root mean square length of
    the clusters' shifts, over AEDP_0). `aedp` and `mse` are the ratios at the end, in double
    precision.
    """

    name: str
    kind: Kind
    shift: Shift
    history: pd.DataFrame
    aedp: float
    mse: float


@dataclass(frozen=True)
class Run(Path):
    """One optimisation: `history` has the objective's value too.

    `left` is the share of the whole improvement that came in the second half of the steps.
    """

    left: float

    @property
    def converged(self) -> bool:
        """Whether at most 1 % of the improvement came in the second half of the steps."""
        return self.left <= _CONVERGED


def intervene(
    setting: Setting,
    objective: Objective,
    *,
    kind: Kind = "free",
    mse_weight: float = 1.0,
    measure: Measure = "own",
    step: float = STEP,
    n_steps: int = N_STEPS,
) -> Run:
    """Minimise an objective over the clusters' shifts, by Adam from the unedited code.

    "separate" and "gather": -+ log AEDP (gathered to a ratio of 0.01 at most);
    "gromov_wasserstein": d_GW between the centroids of residual and latents, each in units of its
    AEDP before the edit; each with `mse_weight` times
    the MSE ratio. "reconstruct": the MSE ratio alone. A coordinate of a shift moves by about
    `step` * AEDP_0 / sqrt(features) at first; the rate falls to 0 along a cosine.
    Raises UserError for a negative weight, or a step or number of steps that is not positive.
    """
    choose("objective", objective, OBJECTIVES)
    if not mse_weight >= 0:
        raise UserError(f"mse_weight must be at least 0, got {mse_weight}")
    loss: dict[str, Callable[[], Loss]] = {
        "separate": lambda: lambda a, e, _, __: mse_weight * e - a.log(),
        "gather": lambda: lambda a, e, _, __: mse_weight * e + a.clamp_min(_GATHERED).log(),
        "gromov_wasserstein": lambda: _gw_loss(setting, mse_weight),
        "reconstruct": lambda: lambda _, e, __, ___: e,
    }
    start = torch.zeros_like(setting.centroids)
    return _descend(setting, objective, loss[objective](), start, kind, measure, step, n_steps)


def least_mse_at(
    setting: Setting,
    ratio: float,
    *,
    kind: Kind = "free",
    start: Shift | None = None,
    measure: Measure = "own",
    step: float = STEP,
    n_steps: int = N_STEPS,
) -> Run:
    """The least MSE found at AEDP' / AEDP = ratio: an upper bound of the least there is.

    From `start` (such as the shift of "reconstruct"; by default the unedited code), pushed to the
    ratio. The ratio is held by the method of multipliers, and the end set on it along the gradient
    of AEDP, which at an optimum costs nothing to first order; what was reached is in `aedp`. Of
    beginning and end the better counts. `left` is that of the MSE.
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

    shift = torch.zeros_like(setting.centroids) if start is None else start
    begin = _landed(setting, shift, ratio, kind)
    name = f"AEDP x {ratio:g}"
    run = _descend(setting, name, loss, begin, kind, measure, step, n_steps)
    end = _landed(setting, run.shift, ratio, kind)
    found = [(*ratios(setting, shift, kind, measure), shift) for shift in (begin, end)]
    reached, error, final = min(found, key=lambda item: item[1])
    left = _left(run.history["MSE"].to_numpy())
    return replace(run, shift=final, aedp=reached, mse=error, left=left)


def _landed(setting: Setting, shift: Shift, ratio: float, kind: Kind) -> Shift:
    """The shift, moved along the gradient of log AEDP until the ratio is reached."""
    here, moved = setting.single, shift.float().requires_grad_()
    with torch.no_grad():
        first = aedp(edit(here, moved, kind).centroids).item() / here.aedp
    for now in range(1, _LANDING + 1):
        _towards(here, moved, first * (ratio / first) ** min(1, 2 * now / _LANDING), kind)
    return moved.detach().to(shift)


def _towards(setting: Setting, shift: Shift, ratio: float, kind: Kind) -> None:
    """One step of `shift`, in place, along the gradient of log AEDP that should reach the ratio."""
    log_ratio = (aedp(edit(setting, shift, kind).centroids) / setting.aedp).log()
    (up,) = torch.autograd.grad(log_ratio, shift)
    gap = np.log(ratio) - log_ratio.item()
    with torch.no_grad():
        shift += gap * up / up.square().sum().clamp_min(torch.finfo(up.dtype).tiny)


def gw_distance(setting: Setting, centroids: Shift | None = None) -> float:
    """Squared d_GW of the latents' centroids (by default unedited) to the residual's arrangement.

    Each arrangement in units of its AEDP before the edit. The coupling is sought from the known
    correspondence, cluster to cluster, and up to 20 clusters also from random pairings: an upper
    bound.
    """
    a, b = _units(setting, setting.centroids if centroids is None else centroids)
    same = torch.eye(len(a), dtype=a.dtype, device=a.device) / len(a)
    coupling = gw_coupling(a, b, n_starts=_GW_STARTS if len(a) <= 20 else 0, start=same)
    return max(0.0, gw_cost(a, b, coupling).item())


def _units(setting: Setting, centroids: Shift) -> tuple[Tensor, Tensor]:
    residual = setting.residual_centroids.to(centroids)
    return residual / aedp(residual), centroids / setting.aedp


def _gw_loss(setting: Setting, mse_weight: float) -> Loss:
    before = gw_distance(setting)
    unit = before if before > 1e-9 else 1.0  # equal already, as of any two clusters
    coupling = torch.eye(len(setting.counts)) / len(setting.counts)

    def loss(_: Tensor, e: Tensor, centroids: Tensor, now: int) -> Tensor:
        nonlocal coupling
        a, b = _units(setting, centroids)
        if now % _REFRESH == 0:
            coupling = gw_coupling(a, b.detach(), n_starts=0, start=coupling).to(a)
        return mse_weight * e + gw_cost(a, b, coupling) / unit

    return loss


def _descend(
    setting: Setting, name: str, loss: Loss, start: Shift, kind: Kind, measure: Measure,
    step: float, n_steps: int,
) -> Run:  # fmt: skip
    if not step > 0 or n_steps < 2:
        raise UserError(f"need a step > 0 and at least 2 steps, got {step} and {n_steps}")
    here = setting.single
    with torch.no_grad():
        before = mse(here, edit(here, torch.zeros_like(here.centroids), kind), measure).item()
    shift = start.float().requires_grad_()
    optimiser = torch.optim.Adam([shift], lr=step * setting.aedp / start.shape[1] ** 0.5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_steps)
    rows = []
    for now in range(n_steps + 1):
        edited = edit(here, shift, kind)
        a = aedp(edited.centroids) / here.aedp
        e = mse(here, edited, measure) / before
        value = loss(a, e, edited.centroids, now)
        rows.append((now, a.item(), e.item(), _distance(setting, shift), value.item()))
        if not np.isfinite(rows[-1]).all():
            raise UserError(
                f"the objective {name!r} left the finite numbers at step {now}; "
                f"a step below {step} may help"
            )
        if now < n_steps:
            (shift.grad,) = torch.autograd.grad(value, shift)
            optimiser.step()
            schedule.step()
    history = pd.DataFrame(rows, columns=["step", "AEDP", "MSE", "distance", "value"])
    final = shift.detach().to(start)
    left = _left(history["value"].to_numpy())
    return Run(name, kind, final, history, *ratios(setting, final, kind, measure), left=left)


@torch.no_grad()
def ratios(
    setting: Setting, shift: Shift, kind: Kind, measure: Measure = "own"
) -> tuple[float, float]:
    """AEDP and MSE of an edit over those of the unedited code, in double precision."""
    edited, none = edit(setting, shift, kind), edit(setting, 0 * shift, kind)
    error = mse(setting, edited, measure) / mse(setting, none, measure)
    return aedp(edited.centroids).item() / setting.aedp, error.item()


def _distance(setting: Setting, shift: Shift) -> float:
    return shift.detach().square().sum(1).mean().sqrt().item() / setting.aedp


def _left(values: Float[np.ndarray, " steps"]) -> float:
    """Share of the whole change that came in the second half of the steps."""
    whole = values[0] - values[-1]
    late = values[len(values) // 2] - values[-1]
    return float(abs(late) / max(abs(whole), 1e-3))


def push(
    setting: Setting,
    ratio: float,
    *,
    kind: Kind = "free",
    measure: Measure = "own",
    n_steps: int = 10,
) -> Path:
    """Only push on separability: follow the gradient of log AEDP to AEDP' / AEDP = ratio.

    Euler steps of the gradient flow, equal in log AEDP; the error plays no part. Of a valid edit
    the flow may stall where no latent is left to move; its `aedp` says where it got to.
    """
    if not ratio > 0 or n_steps < 1:
        raise UserError(f"need a ratio > 0 and at least 1 step, got {ratio} and {n_steps}")
    here = setting.single
    shift = torch.zeros_like(here.centroids, requires_grad=True)
    before = mse(here, edit(here, shift.detach(), kind), measure).item()
    rows = []
    for now in range(n_steps + 1):
        edited = edit(here, shift, kind)
        log_ratio = (aedp(edited.centroids) / here.aedp).log()
        error = mse(here, edited, measure).item() / before
        rows.append((now, log_ratio.exp().item(), error, _distance(setting, shift)))
        if now == n_steps:
            break
        _towards(here, shift, ratio ** ((now + 1) / n_steps), kind)
    history = pd.DataFrame(rows, columns=["step", "AEDP", "MSE", "distance"])
    final = shift.detach().to(setting.centroids)
    reached = ratios(setting, final, kind, measure)
    return Path(f"push to x {ratio:g}", kind, final, history, *reached)


def shuffled(setting: Setting, generator: torch.Generator) -> Setting:
    """A control: the labels of the clustered tokens permuted among them."""
    inside = (setting.labels >= 0).nonzero()[:, 0]
    order = torch.randperm(len(inside), generator=generator).to(inside.device)
    return setting.relabelled(setting.labels.index_copy(0, inside, setting.labels[inside[order]]))


@torch.no_grad()
def random_direction(
    setting: Setting, run: Path, generator: torch.Generator, *, measure: Measure = "own"
) -> Path:
    """A control: at every fourth step of `run`, a shift as long along a random direction.

    Every cluster has its own direction, drawn once, among the features that its kind of edit may
    use; all clusters move as far as those of `run` do in the root mean square.
    """
    here = setting.single
    draw = torch.randn(setting.centroids.shape, generator=generator).to(here.centroids)
    draw = draw * setting.used if run.kind == "valid" else draw
    draw = draw / draw.norm(dim=1, keepdim=True)
    before = mse(here, edit(here, 0 * draw, run.kind), measure).item()
    rows = []
    history = run.history.iloc[::-_EVERY].iloc[::-1]
    for now, distance in zip(history["step"], history["distance"], strict=True):
        edited = edit(here, distance * setting.aedp * draw, run.kind)
        a = aedp(edited.centroids).item() / setting.aedp
        rows.append((now, a, mse(here, edited, measure).item() / before, distance))
    final = (rows[-1][3] * setting.aedp * draw).to(setting.centroids)
    history = pd.DataFrame(rows, columns=["step", "AEDP", "MSE", "distance"])
    reached = ratios(setting, final, run.kind, measure)
    return Path("random direction", run.kind, final, history, *reached)


def steepest(setting: Setting) -> tuple[float, float]:
    """Elasticity of MSE along the steepest ascent of AEDP, and that way's cosine with `outward`.

    The first is d log MSE / d log AEDP when the clusters start to move in the free direction
    that raises AEDP fastest.
    """
    shift = torch.zeros_like(setting.centroids, requires_grad=True)
    edited = edit(setting, shift)
    (up,) = torch.autograd.grad(aedp(edited.centroids).log(), shift, retain_graph=True)
    (error,) = torch.autograd.grad(mse(setting, edited).log(), shift)
    inner = (up * error).sum()
    cosine = torch.cosine_similarity(up.flatten(), outward(setting).flatten(), dim=0)
    return (inner / up.square().sum()).item(), cosine.item()
