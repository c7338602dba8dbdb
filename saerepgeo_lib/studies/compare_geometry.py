"""Case 2 in one call: local and global structure, residual stream against latents."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial

import pandas as pd
from matplotlib.axes import Axes

from saerepgeo_lib.activations.latents import random_sae_like
from saerepgeo_lib.activations.token_activations import TokenActivations
from saerepgeo_lib.errors import UserError, choose
from saerepgeo_lib.geometry import points
from saerepgeo_lib.geometry.clusters import MIN_CLUSTER_SIZE, Labels, cluster_pca
from saerepgeo_lib.geometry.structure import measure_spaces, structure_table
from saerepgeo_lib.plots.forests import plot_difference
from saerepgeo_lib.plots.panels import own_axes
from saerepgeo_lib.rank.noise_sweep import RESIDUAL, randomized, stream
from saerepgeo_lib.studies.case2_verdict import compare_spaces
from saerepgeo_lib.studies.forecast import Forecast, affordable, forecast_geometry
from saerepgeo_lib.studies.trust import Trust, trust_in


@dataclass(frozen=True, repr=False, eq=False)
class GeometryComparison:
    """Case 2 on a concept's tokens; what is measured is computed when it is first asked for."""

    acts: TokenActivations
    vectors: Mapping[str, points.Points]  # the tokens in every space, "random SAE #1" among them
    fold: Labels  # each token's group of frames
    options: Mapping[str, int]  # of `structure.measure_spaces`

    @cached_property
    def spaces(self) -> dict[str, points.PrincipalCoordinates]:
        """Principal coordinates of every space; of random encoders, the first draw."""
        shown = [label for label in self.vectors if label.partition(" #")[2] in ("", "1")]
        return {label: points.principal_coordinates(self.vectors[label]) for label in shown}

    @cached_property
    def clusters(self) -> dict[str, Labels]:
        """The cluster of each token in these spaces, -1 for none."""
        least = self.options["min_cluster_size"]
        return {k: cluster_pca(s, min_cluster_size=least) for k, s in self.spaces.items()}

    @cached_property
    def entities(self) -> "GeometryComparison":
        """The same of the entities' tokens alone."""
        keep = self.acts.in_entity.cpu().numpy()
        vectors = {label: x[keep] for label, x in self.vectors.items()}
        return replace(self, acts=self.acts.at("entity"), vectors=vectors, fold=self.fold[keep])

    @cached_property
    def samples(self) -> pd.DataFrame:
        """Every measure on all tokens, and without each group of frames in turn."""
        return measure_spaces(self.vectors, self.acts.entity, self.fold, **self.options)

    @cached_property
    def table(self) -> pd.DataFrame:
        """Columns measure, space, value, low, high, n (groups of frames), note."""
        return structure_table(self.samples)

    @cached_property
    def compared(self) -> pd.DataFrame:
        """Each SAE against residual, random and dense (columns: `case2_verdict.compare_spaces`)."""
        return compare_spaces(self.samples, self.acts)

    @cached_property
    def trust(self) -> Trust:
        """Whether the SAEs fit these tokens."""
        return trust_in([self.acts])

    def plot(self, ax: Axes | None = None, *, measure: str = "AEDP of entities") -> Axes:
        """Each SAE minus the residual stream in one measure, drawn into `ax` if it is given."""
        rows = self.compared.query("kind == 'residual'")
        rows = rows[rows["measure"] == choose("measure", measure, rows["measure"].unique())]
        ax = plot_difference(own_axes(ax, height=2.2), rows)
        ax.legend()
        return ax

    def __repr__(self) -> str:
        judged = self.trust.withheld_outcomes(self.compared).query("kind == 'residual'")
        outcomes = judged["outcome"].value_counts()
        counts = ", ".join(f"{n} {outcome}" for outcome, n in outcomes.items())
        concept = self.acts.concept.name if self.acts.concept else "no named concept"
        return (
            f"GeometryComparison of {concept}: {len(self.acts)} tokens in {len(self.vectors)} "
            f"spaces\nSAE minus residual stream, by the signs that the paper claims: {counts}"
            + self.trust.sentences
        )


def compare_geometry(
    acts: TokenActivations, *, n_groups: int = 12, n_random: int = 2,
    min_cluster_size: int = MIN_CLUSTER_SIZE, seed: int = 0,
) -> GeometryComparison:  # fmt: skip
    """Case 2: local and global structure of the residual stream, of latents, and of controls.

    Intervals leave out one of `n_groups` groups of sentence frames at a time. Every SAE is held
    against `n_random` draws of a random encoder with its L0 on these tokens. Raises UserError for
    activations without SAEs, and for fewer than 3 frames.
    """
    forecast = partial(_forecast, acts, n_groups, n_random)
    affordable("Case 2", len(acts.prompt.unique()), forecast)
    fold, vectors = acts.folds(n_groups), {RESIDUAL: acts.x.double().cpu().numpy()}
    vectors |= {label: points.as_points(sae, acts.x) for label, sae in acts.source.saes.items()}
    generator = stream(seed, "encoder")
    for label in acts.source.sparse:
        for draw in range(1, n_random + 1):
            random = random_sae_like(acts.source.saes[label], acts.x, generator=generator)
            vectors[f"{randomized(label)} #{draw}"] = points.as_points(random, acts.x)
    options = {"min_cluster_size": min_cluster_size, "seed": seed}
    return GeometryComparison(acts, vectors, fold, options)


def forecast_comparison(
    acts: TokenActivations, *, n_groups: int = 12, n_random: int = 2
) -> Forecast:
    """What `compare_geometry` and the measures of its result will take with these values."""
    return _forecast(acts, n_groups, n_random, len(acts.prompt.unique()))


def _forecast(acts: TokenActivations, n_groups: int, n_random: int, n_prompts: int) -> Forecast:
    """For that many of the prompts: the residual stream, the SAEs and their random encoders."""
    if acts.source is None:
        raise UserError("these activations come without SAEs; take them from a ModelWithSAEs")
    labels = [*acts.source.saes, *acts.source.sparse * n_random]
    widths = [acts.x.shape[1], *(acts.source.saes[label].cfg.d_sae for label in labels)]
    n_tokens = len(acts) * n_prompts // len(acts.prompt.unique())
    return forecast_geometry(n_tokens, widths, n_groups=n_groups)
