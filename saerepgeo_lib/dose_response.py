"""Dose and response: the error at a fixed ratio of separability, along several paths to it."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saerepgeo_lib.arrangements import aedp
from saerepgeo_lib.edits import Edited, Kind, Setting, edit, squared_errors
from saerepgeo_lib.errors import UserError, choose
from saerepgeo_lib.interventions import N_STEPS, STEP, gw_distance, least_mse_at, push
from saerepgeo_lib.points import NotEstimable
from saerepgeo_lib.scaling import free_from, mean_error, outward
from saerepgeo_lib.statistics import correlation_within

PAPER_DOSES = (0.5, 0.8, 1.0, 1.2, 1.5)
UNIFORM, ARRANGEMENT = "all codes scaled", "clusters moved outward"
PUSH = {"free": "pushed, free", "valid": "pushed, valid"}
LEAST = {"free": "least error, free", "valid": "least error, valid"}
PATHS = (UNIFORM, ARRANGEMENT, *PUSH.values(), *LEAST.values())


def check_doses(doses: Sequence[float]) -> tuple[float, ...]:
    """Ratios of AEDP: ascending, positive, finite, 1 among them, at least 4 (to correlate)."""
    out = tuple(float(dose) for dose in doses)
    if len(out) < 4 or min(out) <= 0 or list(out) != sorted(set(out)) or not np.isfinite(out).all():
        raise UserError(f"doses must be at least 4 positive numbers that ascend, got {list(out)}")
    if 1.0 not in out:
        raise UserError(f"doses must hold 1, with which the others are compared, got {list(out)}")
    return out


def dose_response(
    setting: Setting,
    prompt: Int[np.ndarray, " tokens"],
    *,
    doses: Sequence[float] = PAPER_DOSES,
    paths: Sequence[str] = PATHS,
    step: float = STEP,
    n_steps: int = N_STEPS,
    n_bootstrap: int = 1_000,
    seed: int = 0,
) -> pd.DataFrame:
    """MSE at each dose along each path: a row a path and dose.

    Paths: all codes scaled about their mean; the clusters moved outward as they are; separability
    pushed along its gradient; and the least error found at that dose; the last two for free and
    for valid edits. The least error of free edits is exact where the theorem gives it (from
    `scaling.free_from` on). Columns path, dose, AEDP (ratio reached), MSE (ratio to the unedited
    code), low, high, change (MSE over that at dose 1 of the same path, minus 1), change low,
    change high, p (two-sided: no change), prompts (their number), z-scored (ratio of the
    authors' error), d_GW (to the residual's arrangement), L0, left (of an optimisation, see
    `interventions.Run`). Intervals are percentiles over prompts, resampled with the edits held
    fixed: they do not cover the optimisation.
    """
    doses = check_doses(doses)
    unedited = edit(setting, torch.zeros_like(setting.centroids))
    before, scored = (squared_errors(setting, unedited, m) for m in ("own", "z-scored"))
    prompt = np.unique(prompt, return_inverse=True)[1]
    number = int(prompt.max()) + 1
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(number, np.full(number, 1 / number), size=n_bootstrap).astype(float)

    def resampled(errors: Float[Tensor, " tokens"]) -> Float[np.ndarray, " draws"]:
        sums: np.ndarray = draws @ np.bincount(prompt, errors.cpu().numpy())
        return sums

    for path in paths:
        choose("path", path, PATHS)
    rows = []
    for path in paths:
        responses = {}
        for dose in doses:
            edited, known, left = edited_at(setting, path, dose, step=step, n_steps=n_steps)
            after = squared_errors(setting, edited)
            authors = squared_errors(setting, edited, "z-scored").sum() / scored.sum()
            ratio = aedp(edited.centroids).item() / setting.aedp if known is None else known
            # Directions that the decoder does not see may carry any arrangement and any L0.
            gw = gw_distance(setting, edited.centroids) if known is None else np.nan
            l0 = (edited.codes() != 0).sum(1).double().mean().item() if known is None else np.nan
            scored_ratio = authors.item() if known is None else np.nan
            responses[dose] = (after, ratio, scored_ratio, gw, l0, left)
        base = responses[1.0][0]
        for dose, (after, ratio, *others) in responses.items():
            low, high = np.quantile(resampled(after) / resampled(before), (0.025, 0.975))
            changes = resampled(after) / resampled(base) - 1
            tail = min((changes <= 0).mean(), (changes >= 0).mean())
            p = min(1.0, 2 * max(float(tail), 1 / n_bootstrap))
            rows.append(
                (path, dose, ratio, (after.sum() / before.sum()).item(), low, high,
                 (after.sum() / base.sum()).item() - 1, *np.quantile(changes, (0.025, 0.975)), p,
                 number, *others)
            )  # fmt: skip
    columns = ["path", "dose", "AEDP", "MSE", "low", "high", "change", "change low",
               "change high", "p", "prompts", "z-scored", "d_GW", "L0", "left"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def edited_at(
    setting: Setting, path: str, dose: float, *, step: float = STEP, n_steps: int = N_STEPS
) -> tuple[Edited, float | None, float]:
    """The edit at a dose of a path; its ratio of AEDP if that is the dose by a theorem; `left`."""
    if path == UNIFORM:
        return _scaled(setting, dose), None, np.nan
    if path == ARRANGEMENT:
        return edit(setting, (dose - 1) * outward(setting)), None, np.nan
    for kind in ("free", "valid"):
        if path == PUSH[kind]:
            return edit(setting, push(setting, dose, kind=kind).shift, kind), None, np.nan
    if path == LEAST["free"] and dose >= free_from(setting):
        return _corrected(setting), dose, np.nan
    least: Kind = "free" if path == LEAST["free"] else "valid"
    run = least_mse_at(setting, dose, kind=least, step=step, n_steps=n_steps)
    return edit(setting, run.shift, least), None, run.left


def _scaled(setting: Setting, dose: float) -> Edited:
    """Every code scaled about the mean code."""
    centre, decoded = setting.z.mean(0), setting.decoded.mean(0)

    def codes() -> Float[Tensor, "tokens active"]:
        return centre + dose * (setting.z - centre)

    def moments() -> tuple[Tensor, Tensor]:
        return codes().sum(1), codes().square().sum(1)

    moved = decoded + dose * (setting.decoded - decoded)
    return Edited(moved, centre + dose * (setting.centroids - centre), moments, codes)


def _corrected(setting: Setting) -> Edited:
    """Each cluster moved by the least shift that removes its mean error."""
    return edit(setting, mean_error(setting) @ setting.inverse)


def correlations(responses: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Correlation of AEDP and MSE over the doses: by case, by concept, by SAE, and over all.

    `responses`: rows of `dose_response` with columns concept and SAE. Several cases are pooled
    within cases (`statistics.correlation_within`). The doses are set, not drawn: p says how
    easily chance would order five errors so, and nothing of a population. Columns over, concept,
    SAE, path, method, r, low, high, p, n, note.
    """
    rows = []
    groupings = {"case": ["concept", "SAE"], "concept": ["concept"], "SAE": ["SAE"], "all": []}
    for over, keys in groupings.items():
        parts = responses.groupby([*keys, "path"], sort=False)
        for names, part in parts:
            found = dict(zip([*keys, "path"], names, strict=True))
            cases = [
                (case["AEDP"].to_numpy(), case["MSE"].to_numpy())
                for _, case in part.groupby(["concept", "SAE"], sort=False)
            ]
            for method in ("pearson", "spearman"):
                r = correlation_within(cases, method=method, random_state=seed)
                note = str(r) if isinstance(r, NotEstimable) else ""
                values = (
                    (np.nan,) * 4 + (len(part),) if isinstance(r, NotEstimable)
                    else (r.value, r.low, r.high, r.p, r.n)
                )  # fmt: skip
                rows.append(
                    (over, found.get("concept", "all"), found.get("SAE", "all"), found["path"],
                     method, *values, note)
                )  # fmt: skip
    columns = ["over", "concept", "SAE", "path", "method", "r", "low", "high", "p", "n", "note"]
    return pd.DataFrame(rows, columns=columns)
