"""The three cases on a vision model, by the functions of their pages: once, and over trainings."""

import shutil
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from matplotlib.figure import Figure

from saerepgeo_lib.activations.token_activations import TokenActivations
from saerepgeo_lib.cores import one_thread
from saerepgeo_lib.plots.panels import LINE, axes_grid, legend_below, named_rows
from saerepgeo_lib.plots.style import looks_of
from saerepgeo_lib.stats.claims import Claim, case_in_words
from saerepgeo_lib.steering.dose_response import LEAST, PUSH
from saerepgeo_lib.steering.downstream import replaced
from saerepgeo_lib.studies import case3_verdict
from saerepgeo_lib.studies.case1_verdict import MIN_SEEDS, rank_claims
from saerepgeo_lib.studies.case2_verdict import geometry_claims
from saerepgeo_lib.studies.compare_geometry import compare_geometry
from saerepgeo_lib.studies.rank_profile import rank_profile
from saerepgeo_lib.studies.steering_experiment import Grouping, SteeringExperiment, cases_of
from saerepgeo_lib.studies.study import Study
from saerepgeo_lib.studies.vision.carry_over import DRAWN
from saerepgeo_lib.studies.vision.digits import classify, digits, digits_concept
from saerepgeo_lib.studies.vision.training import VitRecipe, make, vision_cards

Tables = dict[str, pd.DataFrame]
N_GROUPS = 6  # of images, for intervals
_OF_INTERVALS = ("low", "high", "p", "n")


def case3(
    acts: TokenActivations, *, n_groups: int, n_bootstrap: int = 1_000, n_steps: int = 64,
    seed: int = 0, grouping: Grouping = "clusters",
) -> tuple[Tables, list[Claim]]:  # fmt: skip
    """Case 3 as on its page, along valid pushes and at the least error of valid latents.

    Tables "shrinkage" (rho* and slopes), "dose_response", "changed" (doses with the shrinkage
    changed by hand), and the findings.
    """
    paths = (PUSH["valid"], LEAST["valid"])
    steered = SteeringExperiment(
        cases_of([acts], grouping=grouping), dose_paths=paths, n_groups=n_groups,
        n_bootstrap=n_bootstrap, n_steps=n_steps, seed=seed,
    )  # fmt: skip
    law, responses = steered.shrinkage, steered.responses
    changed = replace(steered, dose_paths=paths[:1]).shrinkage_changed
    claims = [
        *case3_verdict.judge_push(law, responses),
        *case3_verdict.judge_least(responses),
        *case3_verdict.judge_shrinkage(law[law["SAE"].isin(acts.source.sparse)]),
        *case3_verdict.judge_manipulations(changed),
    ]
    claims = [replace(claim, tokens="content") for claim in claims]
    return {"shrinkage": law, "dose_response": responses, "changed": changed}, claims


@torch.no_grad()
def accuracy_with(acts: TokenActivations, sae: Any = None) -> Float[np.ndarray, " images"]:
    """1 for each image that is put into its class, with `sae`'s reconstruction at the hook."""
    assert acts.concept is not None and acts.tokens is not None
    with replaced(acts, slice(0, len(acts.tokens.ids)), None if sae is None else sae(acts.x)):
        predicted = classify(acts.source.model, acts.tokens.ids).argmax(1).cpu().numpy()
    true = np.array([int(str(p.entity)) for p in acts.concept.prompts])
    return (predicted == true).astype(float)


@dataclass(frozen=True)
class Training:
    """One training of the transformer and its autoencoders: split, weights, batches, cases."""

    seed: int


def measure_training(point: Training, *, work: Path, device: str = "cpu") -> dict[str, Any]:
    """Accuracy, fit, and all findings of the cases on one training's held-out digits.

    Findings come without intervals, which are not over trainings. Torch computes in one thread.
    """
    seed, folder = point.seed, work / "vision" / str(point.seed)
    options: dict[str, Any] = {"n_groups": N_GROUPS, "seed": seed}
    with one_thread():
        model = make(folder, vit=VitRecipe(seed=seed), work=work / "vision", device=device)
        acts = model.activations(digits_concept(digits(seed)))
        profile = rank_profile(acts, seeds=range(seed, seed + MIN_SEEDS))
        geometry = compare_geometry(acts, n_random=1, **options)
        claims = [
            *rank_claims([profile], sparse=acts.source.sparse),
            *geometry_claims(pd.concat([geometry.compared, geometry.entities.compared])),
            *case3(acts, n_bootstrap=40, **options)[-1],
        ]
    cards = vision_cards(folder)
    shutil.rmtree(folder)
    reached, fit = cards.pop("model")["accuracy"], {k: card["fit"] for k, card in cards.items()}
    findings = [
        {name: value for name, value in asdict(claim).items() if name not in _OF_INTERVALS}
        | {"value": claim.value if np.isfinite(claim.value) else None}
        for claim in claims
    ]
    return {"accuracy": reached, "fit": fit, "findings": findings}


@dataclass(frozen=True)
class OverTrainings:
    """The record of the study (`read_study`), finding by finding."""

    record: dict[str, Any]

    @cached_property
    def findings(self) -> pd.DataFrame:
        """A row per training and finding: seed, the case's fields (see `Claim`), case in words."""
        rows = [
            {"seed": point["point"]["seed"], **row, "case": case_in_words(row)}
            for point in self.record["points"]
            for row in point["result"]["findings"]
        ]
        return pd.DataFrame(rows).astype({"value": float, "dose": float})

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row per claim, case and statistic that every training has.

        Columns claim, case, statistic, least, mean, largest (of the values), positive (how many of
        them lie above 0), n (trainings with a value), holds (with that verdict, in part too).
        """
        known, keys = self.findings, ["id", "case", "statistic"]
        n_seeds = known.groupby(keys)["seed"].transform("nunique")
        flags = {"positive": known["value"] > 0, "holds": known["verdict"].str.startswith("holds")}
        shared = known.assign(**flags)[n_seeds == known["seed"].nunique()]
        table = shared.groupby(keys, sort=False).agg(
            least=("value", "min"), mean=("value", "mean"), largest=("value", "max"),
            positive=("positive", "sum"), n=("value", "count"), holds=("holds", "sum"),
        )  # fmt: skip
        return table.reset_index().rename(columns={"id": "claim"})

    def plot(self) -> Figure:
        """Values of the claims in `DRAWN`, a row per claim and case, a dot per training."""
        drawn = self.findings[self.findings["id"].isin(DRAWN)]
        names = drawn["id"].str.partition("-")[2] + ": " + drawn["case"]
        rows = list(dict.fromkeys(names))
        figure, (ax,) = axes_grid(1, height=0.28 * len(rows), extra=1.2)
        looks = looks_of([f"seed {seed}" for seed in drawn["seed"].unique()])
        for (_, group), look in zip(drawn.groupby("seed", sort=False), looks.values(), strict=True):
            places = [rows.index(name) for name in names[group.index]]
            ax.plot(group["value"], places, ls="none", ms=6, alpha=0.8, **look)
        ax.axvline(0, color="0.5", lw=0.8)
        ax.set_xscale("symlog", linthresh=0.01)
        ax.set_xlabel("statistic of the claim")
        named_rows(ax, rows, length=LINE)
        legend_below(figure, {label: {**v, "ls": "none"} for label, v in looks.items()}, columns=5)
        return figure


STUDY = Study(
    [Training(seed) for seed in range(3)],
    lambda work, device: partial(measure_training, work=work, device=device),
)
