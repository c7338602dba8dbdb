"""Dose and response: the error at a fixed ratio of separability, along several paths to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from torch import Tensor

from saerepgeo_lib.errors import UserError, choose
from saerepgeo_lib.stats.estimates import Estimate, NotEstimable, correlation_within, jackknife
from saerepgeo_lib.steering import optimise
from saerepgeo_lib.steering.latents import (
    PAPER_SCALES,
    ClusteredLatents,
    Kind,
    SteeredLatents,
    SteeringVectors,
    steer,
    unsteered,
)
from saerepgeo_lib.steering.optimise import N_STEPS, STEP
from saerepgeo_lib.steering.scaling import free_from, outward, removing_error

UNIFORM, ARRANGEMENT = "all codes scaled", "clusters moved outward"
PUSH: dict[Kind, str] = {"free": "pushed, free", "valid": "pushed, valid"}
LEAST: dict[Kind, str] = {"free": "least error, free", "valid": "least error, valid"}
PATHS = (UNIFORM, ARRANGEMENT, *PUSH.values(), *LEAST.values())


def check_doses(doses: Sequence[float]) -> tuple[float, ...]:
    """Ratios of AEDP: at least two that ascend, positive, finite, 1 among them."""
    out = tuple(float(dose) for dose in doses)
    if len(out) < 2 or list(out) != sorted(set(out)) or not 0 < out[0] <= out[-1] < np.inf:
        raise UserError(f"doses must be at least 2 positive numbers that ascend, got {list(out)}")
    if 1.0 not in out:
        raise UserError(f"doses must hold 1, with which the others are compared, got {list(out)}")
    return out


@dataclass(frozen=True)
class AtDose:
    """Latents steered to a dose."""

    steered: SteeredLatents
    aedp: float  # the ratio that was reached
    left: float = np.nan  # of a search; see `optimise.Path`
    exact: bool = False  # set by the theorem of unseen directions, along which they may still move


def dose_response(
    latents: ClusteredLatents, prompt: Int[np.ndarray, " tokens"],
    fold: Int[np.ndarray, " tokens"], *, doses: Sequence[float] = PAPER_SCALES,
    paths: Sequence[str] = PATHS, start: SteeringVectors | None = None, step: float = STEP,
    n_steps: int = N_STEPS, n_bootstrap: int = 1_000, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """MSE at each dose along each of the `PATHS`: a row per path and dose.

    The least error is exact if free, from `scaling.free_from` on; the search among valid latents
    begins at `start`, by default the end of "reconstruct". Columns path, dose, AEDP (ratio
    reached), MSE (ratio to the unsteered latents), low, high (percentiles over resampled prompts);
    change (of the MSE from dose 1 of the same path), change low, change high, p, groups (the
    jackknife over `fold`, groups of sentence frames); those of `optimise.side_effects`; left (see
    `optimise.Path`). Steering is held fixed in all intervals.
    """
    doses = check_doses(doses)
    for path in paths:
        choose("path", path, PATHS)
    search: dict[str, Any] = {"step": step, "n_steps": n_steps}
    if start is None and LEAST["valid"] in paths:
        start = optimise.intervene(latents, "reconstruct", kind="valid", **search).vectors
    before = unsteered(latents).squared_errors()
    prompts = _sums(before, prompt)
    n = len(prompts)
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_bootstrap)
    rows = []
    for path in paths:
        at = {dose: steered_at(latents, path, dose, start=start, **search) for dose in doses}
        after = {dose: one.steered.squared_errors() for dose, one in at.items()}
        for dose, one in at.items():
            resampled = draws @ _sums(after[dose], prompt) / (draws @ prompts)
            low, high = np.quantile(resampled, (0.025, 0.975))
            change = _change(_sums(after[dose], fold), _sums(after[1.0], fold))
            rows.append({
                "path": path, "dose": dose, "AEDP": one.aedp,
                "MSE": (after[dose].sum() / before.sum()).item(), "low": low, "high": high,
                "change": change.value, "change low": change.low, "change high": change.high,
                "p": change.p, "groups": change.n,
                **optimise.side_effects(None if one.exact else one.steered), "left": one.left,
            })  # fmt: skip
    return pd.DataFrame(rows)


def _sums(errors: Float[Tensor, " tokens"], labels: Int[np.ndarray, " tokens"]) -> np.ndarray:
    """Sums of the tokens' errors by group."""
    return np.bincount(np.unique(labels, return_inverse=True)[1], errors.cpu().numpy())


def _change(after: np.ndarray, base: np.ndarray) -> Estimate:
    """Relative change of the summed errors, with the jackknife over groups."""
    value = after.sum() / base.sum() - 1
    change = jackknife(value, (after.sum() - after) / (base.sum() - base) - 1)
    if isinstance(change, NotEstimable):  # the same latents: no change, in every group
        return Estimate(value, value, value, 1.0, len(after))
    return change


def steered_at(
    latents: ClusteredLatents, path: str, dose: float, *, start: SteeringVectors | None = None,
    step: float = STEP, n_steps: int = N_STEPS,
) -> AtDose:  # fmt: skip
    """Latents steered to a dose along a path; a search among valid ones begins at `start`."""
    if path == UNIFORM:
        return AtDose(_scaled(latents, dose), dose)
    if path == ARRANGEMENT:
        return AtDose(steer(latents, (dose - 1) * outward(latents)), dose)
    kind: Kind = "free" if path in (PUSH["free"], LEAST["free"]) else "valid"
    if path == PUSH[kind]:
        reached = optimise.push(latents, dose, kind=kind)
    else:
        if kind == "free":
            start = removing_error(latents)
            if dose >= free_from(latents):
                return AtDose(steer(latents, start), dose, exact=True)
        reached = optimise.least_mse_at(
            latents, dose, kind=kind, start=start, step=step, n_steps=n_steps
        )
    return AtDose(steer(latents, reached.vectors, kind), reached.aedp, reached.left)


def _scaled(latents: ClusteredLatents, dose: float) -> SteeredLatents:
    """All latents scaled about their mean."""
    centre, mean = latents.z.mean(0), latents.decoded.mean(0)
    decoded = mean + dose * (latents.decoded - mean)
    centroids = centre + dose * (latents.centroids - centre)
    return SteeredLatents(latents, decoded, centroids, lambda: centre + dose * (latents.z - centre))


def correlations(responses: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Correlation of AEDP and MSE over the doses: by case, by concept, by SAE, and over all.

    `responses`: rows of `dose_response` with columns concept and SAE. Cases are pooled within
    (`estimates.correlation_within`). The doses are set, not drawn: p and interval speak of no
    population. Columns over, concept, SAE, path, method, r, low, high, p, n, note.
    """
    rows = []
    groupings = {"case": ["concept", "SAE"], "concept": ["concept"], "SAE": ["SAE"], "all": []}
    for over, keys in groupings.items():
        for names, of_names in responses.groupby([*keys, "path"], sort=False):
            cases = of_names.groupby(["concept", "SAE"], sort=False)
            pairs = [(case["AEDP"].to_numpy(), case["MSE"].to_numpy()) for _, case in cases]
            for method in ("pearson", "spearman"):
                r = correlation_within(pairs, method=method, random_state=seed)
                row = {"over": over, "concept": "all", "SAE": "all"}
                row |= dict(zip([*keys, "path"], map(str, names), strict=True))
                row |= {"method": method, "note": str(r) if isinstance(r, NotEstimable) else ""}
                values = {"r": r.value, "low": r.low, "high": r.high, "p": r.p, "n": len(of_names)}
                rows.append(row | values)
    return pd.DataFrame(rows)
