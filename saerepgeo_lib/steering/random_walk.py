"""The negative control: random walks of the clusters, as in the authors' public code, which takes
random noise for the gradient `[authors' code]`. Nothing is learned or optimised in a walk.
"""

from typing import Any

import pandas as pd
import torch

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.rank.noise_sweep import child_seed, stream
from saerepgeo_lib.steering.latents import PAPER_SCALES, ClusteredLatents, Measure, steer, unsteered

N_ITERATES = 10
MEASURES: tuple[Measure, ...] = ("own", "z-scored")
_ALIKE = ["overshoot", "apart", "together"]  # columns that are the same for all walks of a case


@torch.no_grad()
def random_walk(
    latents: ClusteredLatents, *, scale: float = 1.0, n_iterates: int = N_ITERATES,
    together: bool = False, generator: torch.Generator,
) -> pd.DataFrame:  # fmt: skip
    """Add Gaussian noise to every steering vector, step after step; all iterates are returned.

    With `together` all clusters take the same steps: separability does not change. A step is
    `scale` / 10 * AEDP_0 long in the root mean square over clusters (the authors' length is not
    known). Columns iterate, AEDP (ratio), own and z-scored (the two errors).
    """
    if not scale > 0 or n_iterates < 4:
        raise UserError(
            f"need a scale > 0 and at least 4 iterates to correlate, got {scale}, {n_iterates}"
        )
    vectors = torch.zeros_like(latents.centroids)
    length = scale / 10 * latents.aedp / vectors.shape[1] ** 0.5
    rows = []
    for iterate in range(n_iterates):
        noise = torch.randn(vectors.shape, generator=generator, dtype=torch.float64).to(vectors)
        vectors = vectors + length * (noise[:1] if together else noise)
        steered = steer(latents, vectors)
        errors = {measure: steered.mse(measure).item() for measure in MEASURES}
        rows.append({"iterate": iterate, "AEDP": steered.aedp.item()} | errors)
    return pd.DataFrame(rows)


def walks(latents: ClusteredLatents, *, n_walks: int = 5, seed: int = 0) -> pd.DataFrame:
    """Independent walks, with the scale factors of the paper in turn: columns of `random_walk`,
    walk, scale, overshoot (see there), and "apart" and "together": z-scored error at the end over
    that at the start in a further walk of scale 1, and in one in which all clusters move together.
    """

    def walk(number: int, **options: Any) -> pd.DataFrame:
        generator = stream(child_seed(seed, number), "noise")
        return random_walk(latents, generator=generator, **options).assign(walk=number)

    scales = [PAPER_SCALES[number % len(PAPER_SCALES)] for number in range(n_walks)]
    parts = [walk(number, scale=scale).assign(scale=scale) for number, scale in enumerate(scales)]
    table = pd.concat(parts, ignore_index=True).assign(overshoot=overshoot(latents))
    for column in ("apart", "together"):
        errors = walk(n_walks, together=column == "together")["z-scored"]
        table[column] = errors.iloc[-1] / errors.iloc[0]
    return table


def overshoot(latents: ClusteredLatents) -> float:
    """How many times too large the decoded part of standardised latents is: 1 / best scaling."""
    decoded, target = unsteered(latents).standardised()
    decoded = decoded - decoded.mean(0)
    return float(decoded.square().sum() / (target * decoded).sum())


def within_walks(table: pd.DataFrame) -> pd.DataFrame:
    """Spearman's r of AEDP and each error within each of `walks` (with columns concept and SAE).

    Columns concept, label (the SAE), walk, measure, r, overshoot, apart, together.
    """
    rows = []
    for (concept, label, number), walk in table.groupby(["concept", "SAE", "walk"], sort=False):
        case = {"concept": concept, "label": label, "walk": number}
        for measure in MEASURES:
            r = float(walk["AEDP"].corr(walk[measure], method="spearman"))
            rows.append({**case, "measure": measure, "r": r, **walk[_ALIKE].iloc[0]})
    return pd.DataFrame(rows)


def medians(within: pd.DataFrame) -> pd.DataFrame:
    """Median, least and largest correlation within walks, by SAE, both measures side by side."""
    rows = []
    for label, part in within.groupby("label", sort=False):
        row = {"SAE": label, "walks": len(part) // len(MEASURES)}
        for measure, r in part.groupby("measure")["r"]:
            row |= {f"{measure}: median r": r.median(), f"{measure}: least": r.min(),
                    f"{measure}: largest": r.max()}  # fmt: skip
        rows.append(row | part[_ALIKE].median().to_dict())
    return pd.DataFrame(rows)
