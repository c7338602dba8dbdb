"""Dose and response: the error at a fixed ratio of separability, along several paths to it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saerepgeo_lib.edits import PAPER_SCALES, Edited, Kind, Setting, Shift, edit, squared_errors
from saerepgeo_lib.errors import UserError, choose
from saerepgeo_lib.interventions import (
    N_STEPS,
    STEP,
    gw_distance,
    intervene,
    least_mse_at,
    push,
)
from saerepgeo_lib.points import NotEstimable
from saerepgeo_lib.scaling import free_from, mean_error, outward
from saerepgeo_lib.statistics import Estimate, correlation_within, jackknife

UNIFORM, ARRANGEMENT = "all codes scaled", "clusters moved outward"
KINDS: tuple[Kind, ...] = ("free", "valid")
PUSH = {"free": "pushed, free", "valid": "pushed, valid"}
LEAST = {"free": "least error, free", "valid": "least error, valid"}
PATHS = (UNIFORM, ARRANGEMENT, *PUSH.values(), *LEAST.values())


def check_doses(doses: Sequence[float]) -> tuple[float, ...]:
    """Ratios of AEDP: at least two that ascend, positive, finite, 1 among them."""
    out = tuple(float(dose) for dose in doses)
    if len(out) < 2 or min(out) <= 0 or list(out) != sorted(set(out)) or not np.isfinite(out).all():
        raise UserError(f"doses must be at least 2 positive numbers that ascend, got {list(out)}")
    if 1.0 not in out:
        raise UserError(f"doses must hold 1, with which the others are compared, got {list(out)}")
    return out


@dataclass(frozen=True)
class Dosed:
    """An edit at a dose: the ratio of AEDP reached, and `left` of its optimisation (or NaN).

    `exact` says that the ratio is set by the theorem of unseen directions, along which the edit's
    own centroids may still be moved.
    """

    edited: Edited
    aedp: float
    left: float = np.nan
    exact: bool = False


def dose_response(
    setting: Setting,
    prompt: Int[np.ndarray, " tokens"],
    fold: Int[np.ndarray, " tokens"],
    *,
    doses: Sequence[float] = PAPER_SCALES,
    paths: Sequence[str] = PATHS,
    start: Shift | None = None,
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
    code), low, high (percentiles over resampled prompts); change (MSE over that at dose 1 of the
    same path, minus 1), change low, change high, p, groups (the jackknife over `fold`, the groups
    of sentence frames: prompts of one frame share words and errors); z-scored (ratio of the
    authors' error), d_GW (squared, to the residual's arrangement), L0, left (see
    `interventions.Run`). Edits are held fixed in all intervals. The search among valid codes begins
    at `start`, by default the end of "reconstruct".
    """
    doses = check_doses(doses)
    for path in paths:
        choose("path", path, PATHS)
    unedited = edit(setting, torch.zeros_like(setting.centroids))
    before, scored = (squared_errors(setting, unedited, m) for m in ("own", "z-scored"))
    prompts, groups = (_Sums.of(labels) for labels in (prompt, fold))
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(prompts.n, np.full(prompts.n, 1 / prompts.n), size=n_bootstrap)
    starts = _starts(setting, paths, start, step=step, n_steps=n_steps)
    rows = []
    for path in paths:
        dosed = {
            dose: edited_at(setting, path, dose, start=starts.get(path), step=step, n_steps=n_steps)
            for dose in doses
        }
        after = {dose: squared_errors(setting, found.edited) for dose, found in dosed.items()}
        for dose, found in dosed.items():
            sums = draws @ prompts(after[dose]) / (draws @ prompts(before))
            change = _change(groups(after[dose]), groups(after[1.0]))
            row = {
                "path": path, "dose": dose, "AEDP": found.aedp,
                "MSE": (after[dose].sum() / before.sum()).item(),
                "low": np.quantile(sums, 0.025), "high": np.quantile(sums, 0.975),
                "change": change.value, "change low": change.low, "change high": change.high,
                "p": change.p, "groups": change.n, "left": found.left,
            }  # fmt: skip
            if not found.exact:  # else these depend on the unseen directions taken
                authors = squared_errors(setting, found.edited, "z-scored")
                row["z-scored"] = (authors.sum() / scored.sum()).item()
                row["d_GW"] = gw_distance(setting, found.edited.centroids)
                row["L0"] = (found.edited.codes() != 0).sum(1).double().mean().item()
            rows.append(row)
    columns = ["path", "dose", "AEDP", "MSE", "low", "high", "change", "change low", "change high",
               "p", "groups", "z-scored", "d_GW", "L0", "left"]  # fmt: skip
    return pd.DataFrame(rows).reindex(columns=columns)


@dataclass(frozen=True)
class _Sums:
    """Sums of the tokens' errors by group."""

    place: Int[np.ndarray, " tokens"]
    n: int

    @classmethod
    def of(cls, labels: Int[np.ndarray, " tokens"]) -> "_Sums":
        names, place = np.unique(labels, return_inverse=True)
        return cls(place, len(names))

    def __call__(self, errors: Float[Tensor, " tokens"]) -> Float[np.ndarray, " groups"]:
        return np.bincount(self.place, errors.cpu().numpy())


def _change(after: np.ndarray, base: np.ndarray) -> Estimate:
    """Relative change of the summed errors, with the jackknife over groups."""
    value = after.sum() / base.sum() - 1
    replicates = (after.sum() - after) / (base.sum() - base) - 1
    found = jackknife(value, replicates)
    if isinstance(found, NotEstimable):  # the same edit: no change, in every group
        return Estimate(value, value, value, 1.0, len(after))
    return found


def _starts(
    setting: Setting, paths: Sequence[str], start: Shift | None, *, step: float, n_steps: int
) -> dict[str, Shift]:
    """Where the search for the least error begins: at the least error of any separability."""
    starts = {}
    if LEAST["free"] in paths:
        starts[LEAST["free"]] = mean_error(setting) @ setting.inverse
    if LEAST["valid"] in paths:
        if start is None:
            options = {"step": step, "n_steps": n_steps}
            start = intervene(setting, "reconstruct", kind="valid", **options).shift  # type: ignore[arg-type]
        starts[LEAST["valid"]] = start
    return starts


def edited_at(
    setting: Setting,
    path: str,
    dose: float,
    *,
    start: Shift | None = None,
    step: float = STEP,
    n_steps: int = N_STEPS,
) -> Dosed:
    """The edit at a dose of a path; `start` is where a search for the least error begins."""
    if path == UNIFORM:
        return Dosed(_scaled(setting, dose), dose)
    if path == ARRANGEMENT:
        return Dosed(edit(setting, (dose - 1) * outward(setting)), dose)
    for kind in KINDS:
        if path == PUSH[kind]:
            pushed = push(setting, dose, kind=kind)
            return Dosed(edit(setting, pushed.shift, kind), pushed.aedp)
    if path == LEAST["free"] and dose >= free_from(setting):
        shift = mean_error(setting) @ setting.inverse
        return Dosed(edit(setting, shift), dose, exact=True)
    least: Kind = "free" if path == LEAST["free"] else "valid"
    run = least_mse_at(setting, dose, kind=least, start=start, step=step, n_steps=n_steps)
    return Dosed(edit(setting, run.shift, least), run.aedp, run.left)


def _scaled(setting: Setting, dose: float) -> Edited:
    """Every code scaled about the mean code."""
    centre, decoded = setting.z.mean(0), setting.decoded.mean(0)

    def codes() -> Float[Tensor, "tokens active"]:
        return centre + dose * (setting.z - centre)

    def moments() -> tuple[Tensor, Tensor]:
        return codes().sum(1), codes().square().sum(1)

    moved = decoded + dose * (setting.decoded - decoded)
    return Edited(moved, centre + dose * (setting.centroids - centre), moments, codes)


def correlations(responses: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Correlation of AEDP and MSE over the doses: by case, by concept, by SAE, and over all.

    `responses`: rows of `dose_response` with columns concept and SAE. Several cases are pooled
    within cases (`statistics.correlation_within`). The doses are set, not drawn: p says how
    easily chance would order the errors so, the interval how much hangs on single doses; neither
    speaks of a population. Columns over, concept, SAE, path, method, r, low, high, p, n, note.
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
