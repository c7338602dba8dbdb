"""The negative control: a random walk of the clusters, judged by the error of the authors' code.

Their public code takes random noise for the gradient, and standardises latents and residual token
by token before decoding `[authors' code]`. Nothing is learned or optimised in a walk.
"""

import pandas as pd
import torch

from saerepgeo_lib.arrangements import aedp
from saerepgeo_lib.edits import PAPER_SCALES, Measure, Setting, edit, mse, standardised
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.noise_sweep import child_seed, stream

N_ITERATES = 10
MEASURES: tuple[Measure, ...] = ("own", "z-scored")


@torch.no_grad()
def random_walk(
    setting: Setting,
    *,
    scale: float = 1.0,
    n_iterates: int = N_ITERATES,
    together: bool = False,
    generator: torch.Generator,
) -> pd.DataFrame:
    """Add Gaussian noise to every cluster's shift, step after step; all iterates are returned.

    With `together` all clusters take the same steps, so that separability does not change at all.

    A step is `scale` / 10 * AEDP_0 long in the root mean square over clusters (the authors' own
    length is not known). Columns iterate, AEDP (ratio), own and z-scored (the two errors).
    """
    if not scale > 0 or n_iterates < 4:
        raise UserError(
            f"need a scale > 0 and at least 4 iterates to correlate, got {scale}, {n_iterates}"
        )
    shift = torch.zeros_like(setting.centroids)
    length = scale / 10 * setting.aedp / shift.shape[1] ** 0.5
    rows = []
    for iterate in range(n_iterates):
        noise = torch.randn(shift.shape, generator=generator, dtype=torch.float64)
        noise = noise[:1].expand_as(noise) if together else noise
        shift = shift + length * noise.to(shift)
        edited = edit(setting, shift)
        errors = [mse(setting, edited, measure).item() for measure in MEASURES]
        rows.append((iterate, aedp(edited.centroids).item() / setting.aedp, *errors))
    return pd.DataFrame(rows, columns=["iterate", "AEDP", *MEASURES])


def walks(setting: Setting, *, n_walks: int = 5, seed: int = 0) -> pd.DataFrame:
    """Independent walks, with the scale factors of the paper in turn: columns of `random_walk`,
    walk, scale, and overshoot (of the standardised codes before any edit).

    Two more columns compare a further walk of scale 1 with one in which all clusters move together:
    z-scored error at the end over that at the start, "apart" and "together".
    """
    parts = []
    for number in range(n_walks):
        scale = PAPER_SCALES[number % len(PAPER_SCALES)]
        generator = stream(child_seed(seed, number), "noise")
        found = random_walk(setting, scale=scale, generator=generator)
        parts.append(found.assign(walk=number, scale=scale))
    found = pd.concat(parts, ignore_index=True).assign(overshoot=overshoot(setting))
    for column, together in (("apart", False), ("together", True)):
        generator = stream(child_seed(seed, n_walks), "noise")
        walk = random_walk(setting, together=together, generator=generator)["z-scored"]
        found[column] = walk.iloc[-1] / walk.iloc[0]
    return found


def overshoot(setting: Setting) -> float:
    """How many times too large the decoded part of standardised codes is: 1 / its best scaling."""
    unedited = edit(setting, torch.zeros_like(setting.centroids))
    decoded, target = standardised(setting, unedited)
    decoded = decoded - decoded.mean(0)
    return float(decoded.square().sum() / (target * decoded).sum())


def within_walks(found: pd.DataFrame) -> pd.DataFrame:
    """Spearman correlation of AEDP and each error within each walk.

    `found`: rows of `walks` with columns concept and SAE. Columns concept, label (the SAE), walk,
    measure, r, overshoot, apart, together.
    """
    rows = []
    kept = ["overshoot", "apart", "together"]
    for (concept, label, number), walk in found.groupby(["concept", "SAE", "walk"], sort=False):
        for measure in MEASURES:
            r = float(walk["AEDP"].corr(walk[measure], method="spearman"))
            rows.append((concept, label, number, measure, r, *walk[kept].iloc[0]))
    return pd.DataFrame(rows, columns=["concept", "label", "walk", "measure", "r", *kept])


def medians(within: pd.DataFrame) -> pd.DataFrame:
    """Median, least and largest correlation within walks, by SAE, both measures side by side."""
    rows = []
    for label, part in within.groupby("label", sort=False):
        row = {"SAE": label, "walks": len(part) // len(MEASURES)}
        for measure in MEASURES:
            r = part.loc[part["measure"] == measure, "r"]
            row |= {f"{measure}: median r": r.median(), f"{measure}: least": r.min(),
                    f"{measure}: largest": r.max()}  # fmt: skip
        rows.append(row | part[["overshoot", "apart", "together"]].median().to_dict())
    return pd.DataFrame(rows)
