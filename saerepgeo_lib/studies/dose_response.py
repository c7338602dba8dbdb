"""Case 3 in one call: the reconstruction error at a set separability, and each SAE's shrinkage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from saerepgeo_lib.activations.token_activations import TokenActivations
from saerepgeo_lib.errors import UserError, choose
from saerepgeo_lib.geometry.clusters import MIN_CLUSTER_SIZE
from saerepgeo_lib.plots.interventions import dose_panel
from saerepgeo_lib.plots.panels import own_axes
from saerepgeo_lib.plots.style import in_figure, looks_of
from saerepgeo_lib.steering.dose_response import LEAST, PUSH
from saerepgeo_lib.steering.latents import PAPER_SCALES
from saerepgeo_lib.steering.optimise import N_STEPS
from saerepgeo_lib.studies.steering_experiment import Grouping, SteeringExperiment, cases_of
from saerepgeo_lib.studies.trust import Trust, trust_in


@dataclass(frozen=True, repr=False, eq=False)
class DoseResponse:
    """The error of one concept's latents against their separability (see `dose_response`).

    `table` has a row per SAE, path and dose (columns of `steering.dose_response`), `shrinkage` one
    per SAE: rho* and slopes with their intervals (columns of `steering.scaling.shrinkage`). `trust`
    says how well the SAEs fit these tokens.
    """

    concept: str
    table: pd.DataFrame
    shrinkage: pd.DataFrame
    trust: Trust = field(default_factory=Trust)

    def plot(self, ax: Axes | None = None, *, path: str | None = None) -> Axes:
        """Draw error against dose along one path (by default the first), a line per SAE."""
        path = choose("path", path or self.table["path"].iloc[0], self.table["path"].unique())
        rows = self.table[self.table["path"] == path]
        ax = dose_panel(own_axes(ax), rows, looks_of(dict.fromkeys(rows["SAE"])), by="SAE")
        ax.set(xlabel="AEDP ratio", ylabel="MSE ratio")
        ax.set_title(in_figure(f"{self.concept}: {path}"), fontsize=11, loc="left")
        ax.legend(fontsize=8)
        return ax

    def __repr__(self) -> str:
        path, dose = self.table["path"].iloc[0], self.table["dose"].max()
        rows = self.table[(self.table["path"] == path) & (self.table["dose"] == dose)]
        return (
            f"DoseResponse of {self.concept}: {path} to {dose:g} times the separability, the error "
            f"is {_listed(rows, 'MSE')} of what it was\n"
            f"rho*, above 1 where the SAE shrinks: {_listed(self.shrinkage, 'rho*')}"
            + self.trust.sentences
        )


def _listed(rows: pd.DataFrame, column: str) -> str:
    return ", ".join(f"{v:.2f} ({sae})" for sae, v in zip(rows["SAE"], rows[column], strict=True))


def dose_response(
    acts: TokenActivations, *, saes: Mapping[str, Any] | None = None,
    doses: Sequence[float] = PAPER_SCALES, paths: Sequence[str] = (PUSH["valid"], LEAST["valid"]),
    grouping: Grouping = "clusters", min_cluster_size: int = MIN_CLUSTER_SIZE, n_groups: int = 12,
    n_bootstrap: int = 1_000, n_steps: int = N_STEPS, seed: int = 0,
) -> DoseResponse:  # fmt: skip
    """Case 3: push local representations apart and together, and read off the error.

    `saes` by label are those of `acts.source` unless given. Every one of `paths` (see
    `steering.dose_response.PATHS`) is followed to every ratio of AEDP in `doses`, 1 among them. The
    local representations are "clusters" of at least `min_cluster_size` tokens, or the "entities".
    Bands resample prompts, intervals leave out one of `n_groups` groups of sentence frames at a
    time; a search takes `n_steps`. Raises UserError for activations without SAEs, for fewer than 2
    clusters or 3 frames, and for values that are not valid.
    """
    saes = getattr(acts.source, "saes", None) if saes is None else saes
    if not saes or acts.concept is None:
        raise UserError(
            "dose_response needs a concept's activations with SAEs: those of a ModelWithSAEs, or "
            "dose_response(acts, saes={label: SAE})"
        )
    cases = cases_of([acts], saes=saes, grouping=grouping, min_cluster_size=min_cluster_size)
    experiment = SteeringExperiment(cases, doses, paths, n_groups, n_steps=n_steps,
                                    n_bootstrap=n_bootstrap, seed=seed)  # fmt: skip
    if not experiment.learned:
        raise UserError(
            f"none of {', '.join(saes)} counts as an SAE, whose latents are steered; the source of "
            "these activations names them as not sparse"
        )
    return DoseResponse(
        acts.concept.name,
        experiment.dose_response,
        experiment.shrinkage,
        trust_in([acts], saes=saes),
    )
