"""Case 3 composed: from token activations to clustered latents, and all that is done to them."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, TypeVar

import pandas as pd
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from saerepgeo_lib.activations.latents import random_sae_like
from saerepgeo_lib.activations.model_with_saes import ModelWithSAEs
from saerepgeo_lib.activations.token_activations import TokenActivations
from saerepgeo_lib.cores import workers
from saerepgeo_lib.errors import UserError, choose
from saerepgeo_lib.geometry.clusters import MIN_CLUSTER_SIZE, cluster_pca
from saerepgeo_lib.geometry.points import as_points, principal_coordinates
from saerepgeo_lib.plots.frames import Frame
from saerepgeo_lib.plots.interventions import dose_frame, plot_paths
from saerepgeo_lib.rank.noise_sweep import child_seed, stream
from saerepgeo_lib.steering import dose_response as doses_of
from saerepgeo_lib.steering import downstream, optimise, random_walk, scaling
from saerepgeo_lib.steering.dose_response import LEAST, PATHS, PUSH
from saerepgeo_lib.steering.latents import PAPER_SCALES, ClusteredLatents, Kind, Measure, steer
from saerepgeo_lib.steering.optimise import N_STEPS, OBJECTIVES, STEP, Path, intervene
from saerepgeo_lib.studies.forecast import Forecast, affordable, forecast_steering
from saerepgeo_lib.studies.tables import joined

logger = logging.getLogger(__name__)

T = TypeVar("T")
Key = tuple[str, str]
COLUMNS = ("concept", "SAE")  # of every table, in front: the key
Grouping = Literal["clusters", "entities"]
NOTHING = "random SAE, random model"  # label of the control in which nothing was learned
SHUFFLED, RESCALED = "separate, shuffled labels", "all codes scaled to rho*"
TAKEN, PLANTED = "taken away", "planted"
UP, DOWN = 1.5, 0.5  # how far separability alone is pushed
DOWNSTREAM = ("separate", "gather", "reconstruct", f"push to x {UP:g}", f"push to x {DOWN:g}")


def nothing_learned(acts: TokenActivations, *, seed: int = 0) -> ModelWithSAEs:
    """The control that decides: a random SAE on a random model, in which nothing was learned.

    The architecture of the source of `acts` with the weights that training would start from, and a
    TopK SAE of random directions with the width and, on these tokens, the L0 of its first SAE.
    """
    model, generator = acts.source, stream(seed, "encoder")
    first = model.saes[model.sparse[0]]
    sae = random_sae_like(first, acts.x, generator=generator, keep_centre=False)
    return ModelWithSAEs(model.random_model(seed), {NOTHING: sae}, hook=model.hook)


@dataclass(frozen=True)
class Case:
    """A concept's tokens and their latents in one SAE; `sparse`: it is an SAE proper."""

    acts: TokenActivations
    sae: Any
    latents: ClusteredLatents
    sparse: bool = True


def cases_of(
    acts: Iterable[TokenActivations], *, saes: Mapping[str, Any] | None = None,
    grouping: Grouping = "clusters", min_cluster_size: int = MIN_CLUSTER_SIZE,
) -> dict[Key, Case]:  # fmt: skip
    """Every concept as every SAE sees it (those of its source, or `saes` by label), by their names.

    The local representations are clusters of the latents as in Case 2, or the entities on their own
    tokens. Fewer than 2 clusters are a UserError, except of the control `NOTHING`, which may have
    no structure at all: it is left out, and that is logged.
    """
    by_entity = choose("grouping", grouping, ("clusters", "entities")) == "entities"
    every, cases = [read.at("entity") if by_entity else read for read in acts], {}
    n_prompts = max((len(read.prompt.unique()) for read in every), default=0)
    affordable(
        "Case 3", n_prompts, lambda n: forecast_cases(every, saes=saes, max_prompts=n),
        devices={"cpu", *(read.x.device.type for read in every)},
    )  # fmt: skip
    for read in every:
        assert read.concept is not None
        for label, sae in (saes or read.source.saes).items():
            try:
                labels = read.entity if by_entity else cluster_pca(
                    principal_coordinates(as_points(sae, read.x)), min_cluster_size=min_cluster_size
                )  # fmt: skip
                latents = ClusteredLatents.of(sae, read.x, labels)
            except UserError as error:
                if label != NOTHING:
                    raise
                logger.warning("%s, %s is left out: %s", read.concept.name, label, error)
                continue
            sparse = label not in getattr(read.source, "not_sparse", ())
            cases[read.concept.name, label] = Case(read, sae, latents, sparse)
    return cases


def forecast_cases(
    acts: Iterable[TokenActivations], *, saes: Mapping[str, Any] | None = None,
    n_steps: int = N_STEPS, max_prompts: int = 0,
) -> Forecast:  # fmt: skip
    """What Case 3 will take on these activations, or on `max_prompts` of each one's prompts."""
    parts = []
    for read in acts:
        n_prompts = len(read.prompt.unique())
        n_tokens = len(read) * min(max_prompts or n_prompts, n_prompts) // n_prompts
        widths = [sae.cfg.d_sae for sae in (saes or read.source.saes).values()]
        parts.append(forecast_steering(n_tokens, widths, n_steps=n_steps))
    return Forecast(sum(part.seconds for part in parts), sum(part.memory for part in parts))


def for_each(cases: Mapping[Any, Case], work: Callable[[Any, Case], T]) -> dict[Any, T]:
    """`work(key, case)` for every case, spread over the cores; with a progress bar.

    The largest begins first, so that no core waits long for another at the end.
    """
    order = sorted(cases, key=lambda key: cases[key].latents.z.numel(), reverse=True)
    with workers() as pool:
        done = pool.map(lambda key: work(key, cases[key]), order)
        bar = tqdm(done, total=len(order), unit="case", leave=False)
        results = dict(zip(order, bar, strict=True))
    return {key: results[key] for key in cases}


def summary(latents: ClusteredLatents, paths: Sequence[Path]) -> pd.DataFrame:
    """A row per path: path, kind, AEDP, MSE (ratios), `optimise.side_effects`, left, converged.

    The last two say nothing of paths that optimise nothing. The last row scales all latents to
    rho*.
    """
    rows = []
    for path in paths:
        known = path.name != SHUFFLED
        steered = steer(latents, path.vectors, path.kind) if known else None
        rows.append({
            "path": path.name, "kind": path.kind, "AEDP": path.aedp, "MSE": path.mse,
            **optimise.side_effects(steered), "left": path.left, "converged": path.converged,
        })  # fmt: skip
    law = scaling.uniform_scaling(latents)
    rows.append({"path": RESCALED, "kind": "free", "AEDP": law.optimum,
                 "MSE": law.floor / law.mse(1), "converged": None})  # fmt: skip
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class SteeringExperiment:
    """Case 3 over several concepts and SAEs; each table is computed when it is first asked for.

    Shrinkage is measured for all `cases`. Steering takes the SAEs proper, and the first case of the
    control `NOTHING`. Intervals leave out one of `n_groups` groups of sentence frames at a time.
    Tables have columns concept and SAE, and those of the function that is named.
    """

    TABLES: ClassVar = (
        "shrinkage", "paths", "dose_response", "shrinkage_changed", "correlations", "walks",
        "random_pair",
    )  # fmt: skip
    cases: Mapping[Key, Case]
    doses: Sequence[float] = PAPER_SCALES
    dose_paths: Sequence[str] = PATHS
    n_groups: int = 12
    mse_weight: float = 1.0
    step: float = STEP
    n_steps: int = N_STEPS
    n_bootstrap: int = 1_000
    n_walks: int = 5
    seed: int = 0

    @cached_property
    def learned(self) -> dict[Key, Case]:
        """The cases of SAEs proper that learned something."""
        return {key: case for key, case in self.cases.items() if case.sparse and key[1] != NOTHING}

    @cached_property
    def control(self) -> dict[Key, Case]:
        """The first case of the control, if it has any structure."""
        return dict([item for item in self.cases.items() if item[0][1] == NOTHING][:1])

    def _steered(self, work: Callable[[Key, Case], T]) -> dict[Key, T]:
        return for_each(self.learned | self.control, work)

    @cached_property
    def shrinkage(self) -> pd.DataFrame:
        """`scaling.shrinkage` of every case."""

        def work(_: Key, case: Case) -> pd.DataFrame:
            return pd.DataFrame([scaling.shrinkage(case.latents, case.acts.folds(self.n_groups))])

        return joined(for_each(self.cases, work), COLUMNS)

    @cached_property
    def _reconstructed(self) -> dict[Key, Path]:
        """The end of "reconstruct" among valid latents, where searches at a dose begin."""
        options: dict[str, Any] = {"step": self.step, "n_steps": self.n_steps}
        return self._steered(
            lambda _, case: intervene(case.latents, "reconstruct", kind="valid", **options)
        )

    @cached_property
    def trajectories(self) -> dict[Key, list[Path]]:
        """`follow` of the steered cases."""
        known = self._reconstructed
        return self._steered(lambda key, case: self.follow(case.latents, known=known[key]))

    def follow(
        self, latents: ClusteredLatents, *, kinds: Iterable[Kind] = PUSH,
        known: Path | None = None, measure: Measure = "own",
    ) -> list[Path]:  # fmt: skip
        """Every objective and every control, for each kind of steering; no iterate is selected.

        Objectives: `OBJECTIVES` ("reconstruct" is the control without separability), and the push
        on separability alone to AEDP x 1.5 and x 0.5. Controls: a random direction with the steps'
        lengths of "separate", and "separate" with shuffled labels (AEDP and steps are those of the
        shuffled groups); one draw each. A path that is `known` is not computed again.
        """
        options: dict[str, Any] = {"mse_weight": self.mse_weight, "measure": measure,
                                   "step": self.step, "n_steps": self.n_steps}  # fmt: skip
        mixed = optimise.shuffled(latents, stream(self.seed, "permutation"))
        paths: list[Path] = []
        for kind in kinds:
            for name in OBJECTIVES:
                if known is not None and (known.name, known.kind) == (name, kind):
                    paths.append(known)
                else:
                    paths.append(intervene(latents, name, kind=kind, **options))
            separated, noise = paths[-len(OBJECTIVES)], stream(self.seed, "noise")
            paths += [
                *(optimise.push(latents, at, kind=kind, measure=measure) for at in (UP, DOWN)),
                optimise.random_direction(latents, separated, noise, measure=measure),
                replace(intervene(mixed, "separate", kind=kind, **options), name=SHUFFLED),
            ]
        return paths

    @cached_property
    def paths(self) -> pd.DataFrame:
        """`summary` of the trajectories."""
        paths = self.trajectories
        return joined(self._steered(lambda key, case: summary(case.latents, paths[key])), COLUMNS)

    @cached_property
    def dose_response(self) -> pd.DataFrame:
        """`dose_response` of the steered cases."""
        return self._respond(self.learned | self.control, self.dose_paths, self.doses)

    @property
    def responses(self) -> pd.DataFrame:
        """The doses of SAEs that learned something: without the control."""
        return self.dose_response[self.dose_response["SAE"] != NOTHING]

    @cached_property
    def shrinkage_changed(self) -> pd.DataFrame:
        """Doses of 1 and 1.2 after rescaling the decoder: `shrinkage` is taken away, or planted."""
        parts = []
        for shrinkage, optimum, least in ((TAKEN, 1.0, [LEAST["valid"]]), (PLANTED, 1.2, [])):
            paths = [path for path in (PUSH["valid"], *least) if path in self.dose_paths]
            part = self._respond(self.learned, paths, (1.0, 1.2), optimum)
            parts.append(part.assign(shrinkage=shrinkage))
        return pd.concat(parts)

    def _respond(
        self, cases: Mapping[Key, Case], paths: Sequence[str], doses: Sequence[float],
        optimum: float | None = None,
    ) -> pd.DataFrame:  # fmt: skip
        starts = self._reconstructed if LEAST["valid"] in paths else {}

        def work(key: Key, case: Case) -> pd.DataFrame:
            latents = case.latents
            return doses_of.dose_response(
                latents if optimum is None else scaling.with_optimum(latents, optimum),
                case.acts.prompt.cpu().numpy(), case.acts.folds(self.n_groups), doses=doses,
                paths=paths, start=starts[key].vectors if starts else None, step=self.step,
                n_steps=self.n_steps, n_bootstrap=self.n_bootstrap, seed=self.seed,
            )  # fmt: skip

        return joined(for_each(cases, work), COLUMNS)

    @cached_property
    def correlations(self) -> pd.DataFrame:
        """`correlations` over the doses, of SAEs that learned something."""
        return doses_of.correlations(self.responses, seed=self.seed)

    @cached_property
    def walks(self) -> pd.DataFrame:
        """`random_walk.walks` of all SAEs proper, those that learned nothing too."""
        numbers = {key: number for number, key in enumerate(self.cases)}

        def work(key: Key, case: Case) -> pd.DataFrame:
            seed = child_seed(self.seed, numbers[key])
            return random_walk.walks(case.latents, n_walks=self.n_walks, seed=seed)

        sparse = {key: case for key, case in self.cases.items() if case.sparse}
        return joined(for_each(sparse, work), COLUMNS)

    @cached_property
    def random_pair(self) -> pd.DataFrame:
        """The control's summary, beside the ends of the same objectives on the z-scored error."""
        of_control = (self.paths["SAE"] == NOTHING) & (self.paths["path"] != RESCALED)
        columns = ["path", "kind", "AEDP", "MSE", "z-scored"]
        beside = self.paths.loc[of_control, columns].reset_index(drop=True)
        by_kind = for_each(
            {kind: case for case in self.control.values() for kind in PUSH},
            lambda kind, case: self.follow(case.latents, kinds=[kind], measure="z-scored"),
        )
        paths = [path for parts in by_kind.values() for path in parts]
        beside["AEDP, z-scored objective"] = [path.aedp for path in paths]
        beside["z-scored, z-scored objective"] = [path.mse for path in paths]
        return beside

    def downstream(self, n_concepts: int) -> pd.DataFrame:
        """`downstream.effects` of the main valid paths, for the first concepts."""
        first = list(dict.fromkeys(concept for concept, _ in self.learned))[:n_concepts]
        options = {"n_bootstrap": self.n_bootstrap, "seed": self.seed}
        results = {}
        for key in (key for key in self.learned if key[0] in first):
            case, valid = self.cases[key], [p for p in self.trajectories[key] if p.kind == "valid"]
            paths = [path for path in valid if path.name in DOWNSTREAM]
            results[key] = downstream.effects(case.sae, case.acts, case.latents, paths, **options)
        return joined(results, COLUMNS)

    def frame(self, concept: str, dose: float) -> Frame:
        """A concept's latents, pushed to a dose and valid, drawn beside the error at all doses."""
        at = for_each(
            {label: case for (name, label), case in self.learned.items() if name == concept},
            lambda _, case: doses_of.steered_at(case.latents, PUSH["valid"], dose),
        )
        curve = self.responses.query("concept == @concept and path == @PUSH['valid']")
        return dose_frame(at, curve, dose=dose)

    def plot_paths(self, concept: str) -> Figure:
        """Error against separability along every path of a concept (`plots.plot_paths`)."""
        shown = {key: case.latents for key, case in self.learned.items() if key[0] == concept}
        return plot_paths(
            {label: self.trajectories[name, label] for name, label in shown},
            {label: scaling.uniform_scaling(latents) for (_, label), latents in shown.items()},
            {label: scaling.least_mse(z) / z.mse for (_, label), z in shown.items()},
        )
