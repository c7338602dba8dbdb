"""Case 1 in one call: how the ranks of a concept's latents change as noise enters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from saerepgeo_lib.activations.residual_stream import NoiseScaling
from saerepgeo_lib.activations.token_activations import TokenActivations
from saerepgeo_lib.errors import UserError, choose
from saerepgeo_lib.plots.frames import Frame
from saerepgeo_lib.plots.panels import own_axes
from saerepgeo_lib.plots.profiles import noise_frame, profile_panel
from saerepgeo_lib.plots.style import in_figure
from saerepgeo_lib.rank import profiles
from saerepgeo_lib.rank.noise_sweep import PAPER_LEVELS, Sweep, sweep
from saerepgeo_lib.rank.rules import RULES
from saerepgeo_lib.rank.unfoldings import MODES
from saerepgeo_lib.studies.forecast import Forecast, affordable, forecast_ranks
from saerepgeo_lib.studies.trust import Trust, trust_in


@dataclass(frozen=True, repr=False, eq=False)
class RankProfile:
    """Ranks of one concept's latent tensor by noise level, beside the nulls (see `rank_profile`).

    `sweep` has the spectra, `rule` and `mode` are those that are shown, `tau` is the threshold of
    the relative rank, `trust` says how well the SAEs fit these tokens.
    """

    sweep: Sweep
    concept: str = "tokens"
    tokens: str = "content"
    rule: str = "relative"
    mode: int = 3
    tau: float = profiles.TAU
    trust: Trust = field(default_factory=Trust)

    @cached_property
    def ranks(self) -> pd.DataFrame:
        """Every rank: a row per label, mode, level, seed and rule."""
        return profiles.rank_table(self.sweep, tau=self.tau)

    @cached_property
    def table(self) -> pd.DataFrame:
        """The ranks over the seeds: mean, low, high, tolerance and n."""
        return profiles.summarise(self.ranks).assign(concept=self.concept)

    @cached_property
    def certified(self) -> pd.DataFrame:
        """What Weyl's inequality allows for the relative rank."""
        return profiles.certified_table(self.sweep, tau=self.tau)

    @cached_property
    def variability(self) -> pd.DataFrame:
        """The relative range of each profile, for every rule."""
        return profiles.variability(self.ranks)

    @property
    def ranges(self) -> pd.Series:
        """The relative range of each label under the rule and in the mode, mean over seeds."""
        shown = self.variability.query("mode == @self.mode and rule == @self.rule")
        return shown.groupby("label", sort=False)["variability"].mean()

    @cached_property
    def without_first(self) -> "RankProfile":
        """The same for spectra without their largest singular value."""
        spectra = {key: s[..., 1:] for key, s in self.sweep.spectra.items()}
        return replace(self, sweep=replace(self.sweep, spectra=spectra))

    def plot(self, ax: Axes | None = None, *, mode: int | None = None) -> Axes:
        """Draw the rank profiles of one mode into `ax`, or into a figure of its own."""
        ax = own_axes(ax)
        profile_panel(ax, self.ranks, self.certified, rule=self.rule, mode=mode or self.mode)
        ax.set_title(in_figure(self.concept), fontsize=11, loc="left")
        ax.legend(fontsize=8)
        return ax

    def frame(self, at: int) -> Frame:
        """Spectra at one noise level (number `at`), above the profile with that level marked."""
        return noise_frame(
            self.sweep, self.ranks, at=at, rule=self.rule, mode=self.mode, tau=self.tau
        )

    def __repr__(self) -> str:
        prompts, slots = self.sweep.tensor_shape
        return (
            f"RankProfile of {self.concept}: {self.tokens} tokens, tensor of {prompts} prompts x "
            f"{slots} tokens x features, {len(self.sweep.seeds)} seeds\n"
            f"relative range of the {self.rule} rank in mode {self.mode} ({MODES[self.mode]}): "
            + ", ".join(f"{label} {value:.2f}" for label, value in self.ranges.items())
            + self.trust.sentences
        )


def rank_profile(
    acts: TokenActivations, *, saes: Mapping[str, Any] | None = None,
    levels: Sequence[float] = PAPER_LEVELS, scaling: NoiseScaling = "relative",
    seeds: Sequence[int] = range(4), max_slots: int = 2, rule: str = "relative", mode: int = 3,
    tau: float = profiles.TAU,
) -> RankProfile:  # fmt: skip
    """Case 1: ranks of the unfolded latent tensor as noise enters the residual stream.

    `saes` by label are those of `acts.source` unless given. Noise at each of the ascending `levels`
    is that many times the tokens' spread ("relative"), or that large ("absolute"); a seed draws the
    noise, and each SAE's random encoder and permutation. The tensor has `max_slots` tokens per
    prompt, the entity's first. Raises UserError for activations without SAEs, and for values that
    are not valid.
    """
    saes, sparse = _saes_of(acts, saes)
    choose("rank rule", rule, RULES)
    if mode not in MODES:
        raise UserError(f"mode is 1 (prompt), 2 (token) or 3 (feature), got {mode}")
    if not 0 < tau < 1:
        raise UserError(f"tau must lie strictly between 0 and 1, got {tau}")
    concept = acts.concept.name if acts.concept else "tokens"
    sizes: dict[str, Any] = {
        "n_levels": len(levels), "n_seeds": len(seeds), "max_slots": max_slots
    }  # fmt: skip
    n_prompts = len(acts.prompt.unique())
    forecast = partial(_forecast, acts, saes, sparse, **sizes)
    affordable(f"Case 1 of {concept}", n_prompts, forecast, devices=[acts.x.device.type])
    swept = sweep(
        acts, saes, sparse=sparse, levels=levels, scaling=scaling, seeds=seeds,
        max_slots=max_slots, description=concept,
    )  # fmt: skip
    tokens = "entity" if acts.in_entity.all() else "content"
    return RankProfile(swept, concept, tokens, rule, mode, tau, trust_in([acts], saes=saes))


def forecast_profile(
    acts: TokenActivations, *, saes: Mapping[str, Any] | None = None,
    levels: Sequence[float] = PAPER_LEVELS, seeds: Sequence[int] = range(4), max_slots: int = 2,
) -> Forecast:  # fmt: skip
    """What `rank_profile` will take with these values."""
    n_prompts, (saes, sparse) = len(acts.prompt.unique()), _saes_of(acts, saes)
    return _forecast(
        acts, saes, sparse, n_prompts, max_slots=max_slots, n_levels=len(levels),
        n_seeds=len(seeds),
    )  # fmt: skip


def _saes_of(
    acts: TokenActivations, saes: Mapping[str, Any] | None
) -> tuple[Mapping[str, Any], list[str]]:
    """The SAEs of a profile, and the labels of those that are sparse."""
    saes = getattr(acts.source, "saes", None) if saes is None else saes
    if not saes:
        raise UserError("these activations come without SAEs: give rank_profile(saes={label: SAE})")
    return saes, [label for label in saes if label not in getattr(acts.source, "not_sparse", ())]


def _forecast(
    acts: TokenActivations, saes: Mapping[str, Any], sparse: Sequence[str], n_prompts: int, *,
    max_slots: int, **sizes: int,
) -> Forecast:  # fmt: skip
    """Of the residual stream, the SAEs, and two nulls of each sparse one."""
    labels = [*saes, *sparse, *sparse]
    widths = [acts.x.shape[1], *(saes[label].cfg.d_sae for label in labels)]
    return forecast_ranks(n_prompts, max_slots, widths, **sizes)
