"""The three cases on a vision subject in one call, and over several trainings."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saerepgeo_lib import (
    dose_response,
    intervention_verdict,
    noise_sweep,
    scaling,
    separability,
    stratification,
    structure,
    structure_table,
    structure_verdict,
)
from saerepgeo_lib.claims import Claim
from saerepgeo_lib.cores import one_thread
from saerepgeo_lib.dose_response import LEAST, PUSH
from saerepgeo_lib.downstream import replaced
from saerepgeo_lib.edits import Setting
from saerepgeo_lib.intervention_verdict import PLANTED, TAKEN
from saerepgeo_lib.local_representations import space_of
from saerepgeo_lib.prompts import Concept
from saerepgeo_lib.separability import Key, Seen
from saerepgeo_lib.study import Study
from saerepgeo_lib.subject import Subject
from saerepgeo_lib.vision import classify
from saerepgeo_lib.vision_training import VitRecipe, cards, held_out_concept, make

RULE, MODE = "relative", 3  # of Case 1's page
N_GROUPS = 6  # of images, for intervals


def case1(
    subject: Subject, concept: Concept, *, seeds: Sequence[int], max_slots: int = 2
) -> tuple[noise_sweep.Sweep, pd.DataFrame, list[Claim]]:
    """Case 1 as on its page: the sweep, its ranks and the findings."""
    vectors = subject.residuals(subject.tokens(concept))
    result = noise_sweep.sweep(
        vectors, subject.autoencoders, sparse=subject.sparse, seeds=seeds, max_slots=max_slots,
        description=concept.name,
    )  # fmt: skip
    ranks = stratification.rank_table(result)
    claims = stratification.judge(
        ranks, stratification.ceilings(result, mode=MODE), concept=concept.name, rule=RULE,
        mode=MODE, sparse=subject.sparse,
    )  # fmt: skip
    return result, ranks, claims


def entity_view(view: structure_table.View) -> structure_table.View:
    """The same on the entities' tokens alone, each space in its own principal coordinates."""
    own = view.known
    vectors = {label: x[own] for label, x in view.vectors.items()}
    words = tuple(word for word, kept in zip(view.words, own, strict=True) if kept)
    spaces = {label: space_of(x) for label, x in vectors.items()}
    return replace(view, vectors=vectors, spaces=spaces, groups=view.groups.rows(own), words=words)


def case2(
    view: structure_table.View, *, concept: str, sparse: Sequence[str], n_groups: int, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Case 2 as on its page: the measures of every space, and each SAE against the others."""
    found = structure.measure_spaces(view.spaces, view.groups, n_groups=n_groups, seed=seed)
    return found, structure_verdict.compare_spaces(found, concept=concept, sparse=sparse)


@dataclass(frozen=True)
class Intervened:
    """Case 3: rho* and slopes, doses, doses with the shrinkage changed, and the findings."""

    shrinkage: pd.DataFrame
    responses: pd.DataFrame
    changed: pd.DataFrame
    claims: list[Claim]


def case3(
    settings: dict[Key, Setting], seen: Seen, *, sparse: Sequence[str], n_groups: int,
    n_bootstrap: int = 1_000, n_steps: int = 64, seed: int = 0,
) -> Intervened:  # fmt: skip
    """Case 3 as on its page, along valid pushes and at the least error of valid codes."""
    fold = seen.fold(n_groups)
    respond = partial(
        dose_response.dose_response, prompt=seen.prompt, fold=fold, n_bootstrap=n_bootstrap,
        n_steps=n_steps, seed=seed,
    )  # fmt: skip
    of_saes = {key: here for key, here in settings.items() if key[1] in sparse}
    law = separability.table(
        separability.for_each(settings, lambda key, here: separability.shrinkage(here, fold))
    )
    paths = [PUSH["valid"], LEAST["valid"]]
    responses = separability.table(
        separability.for_each(of_saes, lambda key, here: respond(here, paths=paths))
    )

    def with_shrinkage(optimum: float) -> pd.DataFrame:
        return separability.table(
            separability.for_each(
                of_saes,
                lambda key, here: respond(
                    scaling.with_optimum(here, optimum), doses=[1.0, 1.2], paths=paths[:1]
                ),
            )
        )

    changed = pd.concat(
        [with_shrinkage(1.0).assign(shrinkage=TAKEN), with_shrinkage(1.2).assign(shrinkage=PLANTED)]
    )
    claims = [
        *intervention_verdict.judge_push(law, responses),
        *intervention_verdict.judge_least(responses),
        *intervention_verdict.judge_shrinkage(law[law["SAE"].isin(sparse)]),
        *intervention_verdict.judge_manipulations(changed),
    ]
    return Intervened(law, responses, changed, claims)


@torch.no_grad()
def accuracy_with(
    subject: Subject, concept: Concept, sae: Any = None
) -> Float[np.ndarray, " images"]:
    """1 for each image that is put into its class, with `sae`'s reconstruction at the hook."""
    tokens = subject.tokens(concept)
    found = subject.residuals(tokens)
    back: Tensor | None = None if sae is None else sae(found.x)
    everything = slice(0, len(tokens.ids))
    with replaced(subject.model, tokens, subject.hook, found, everything, back):
        told = classify(subject.model, tokens.ids).argmax(1).cpu().numpy()
    true: Int[np.ndarray, " images"] = np.array([int(str(p.entity)) for p in concept.prompts])
    return (told == true).astype(float)


@dataclass(frozen=True)
class Training:
    """One training of the transformer and its autoencoders: split, weights, batches, cases."""

    seed: int


def measure_training(point: Training, *, work: Path, device: str = "cpu") -> dict[str, Any]:
    """Accuracy, fit, and all findings of the cases on one training's held-out digits.

    Torch computes in one thread, so that on CPUs of a kind the number of cores does not matter.
    """
    folder = work / "vision" / str(point.seed)
    with one_thread():
        subject = make(folder, vit=VitRecipe(seed=point.seed), work=work / "vision", device=device)
        claims = _all_findings(subject, held_out_concept(point.seed), point.seed)
    found = cards(folder)
    shutil.rmtree(folder)
    fit = {label: card["fit"] for label, card in found.items() if label != "model"}
    return {"accuracy": found["model"]["accuracy"], "fit": fit,
            "findings": [_plain(claim) for claim in claims]}  # fmt: skip


def _all_findings(subject: Subject, concept: Concept, seed: int) -> list[Claim]:
    sparse = subject.sparse
    view = structure_table.view(subject, concept, n_random=1, seed=seed)
    seen = separability.see(subject, concept)
    settings = {
        (concept.name, label): separability.setting(sae, seen)
        for label, sae in subject.autoencoders.items()
    }
    options: dict[str, Any] = {"sparse": sparse, "n_groups": N_GROUPS, "seed": seed}
    parts = {concept.name: view, f"{concept.name} (entity)": entity_view(view)}
    compared = pd.concat(case2(part, concept=name, **options)[1] for name, part in parts.items())
    return [
        *case1(subject, concept, seeds=range(seed, seed + stratification.MIN_SEEDS))[2],
        *structure_verdict.judge(compared),
        *case3(settings, seen, n_bootstrap=40, **options).claims,
    ]


def _plain(claim: Claim) -> dict[str, Any]:
    """A finding as JSON, without its interval, which is not one over trainings."""
    kept = ("id", "subject", "statistic", "verdict")
    row = {name: value for name, value in asdict(claim).items() if name in kept}
    return row | {"value": claim.value if np.isfinite(claim.value) else None}


def findings_of(record: dict[str, Any]) -> pd.DataFrame:
    """The findings of a study's record: a row a training and finding.

    Columns seed, id, subject, statistic, verdict, value (NaN where there is none).
    """
    rows = [
        {"seed": point["point"]["seed"], **row}
        for point in record["points"]
        for row in point["result"]["findings"]
    ]
    return pd.DataFrame(rows).astype({"value": float})


def over_trainings(found: pd.DataFrame) -> pd.DataFrame:
    """`findings_of` by case: a row a claim, subject and statistic.

    Columns claim, subject, statistic, least, mean, largest (of the values), positive (how many of
    them lie above 0), n (trainings with a value), holds (trainings with that verdict, in part too).
    Cases that not every training has, such as the weakest of several controls, are left out.
    """
    rows = []
    for (id, subject, statistic), part in found.groupby(["id", "subject", "statistic"], sort=False):
        if part["seed"].nunique() == found["seed"].nunique():
            v = part["value"].dropna()
            rows.append((id, subject, statistic, v.min(), v.mean(), v.max(), int((v > 0).sum()),
                         len(v), int(part["verdict"].str.startswith("holds").sum())))  # fmt: skip
    columns = ["claim", "subject", "statistic", "least", "mean", "largest", "positive", "n",
               "holds"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def prepare(work: Path, device: str) -> Any:
    """The function from a training to its result."""
    return partial(measure_training, work=work, device=device)


STUDY = Study([Training(seed) for seed in range(3)], prepare)
