"""What captions and alt texts say of the book's own run is so: asked of the pages' records."""

from pathlib import Path

import pandas as pd
import pytest

from saerepgeo_lib.claims import NOTHING
from saerepgeo_lib.dose_response import LEAST, PUSH
from saerepgeo_lib.record_files import read_record

ROOT = Path(__file__).resolve().parent.parent
L1, TOPK, DENSE = "L1-ReLU SAE", "TopK SAE", "dense AE"
SAID = {}


def says(page, words):
    """Registers what a page's words mean, as a function of the tables of its record."""

    def register(holds):
        SAID[page, words] = holds
        return holds

    return register


@says("intervention", "it lies between 1.1 and 1.2;")
def _(tables):
    law = tables["shrinkage"]
    return law.loc[law["SAE"] == L1, "rho*"].between(1.1, 1.2).all()


@says("intervention", "dense autoencoder within 2 % of 1;")
def _(tables):
    law = tables["shrinkage"]
    return law.loc[law["SAE"].isin([TOPK, DENSE]), "rho*"].between(0.98, 1.02).all()


@says("intervention", "random SAE on a random model near 0.5.")
def _(tables):
    law = tables["shrinkage"]
    return law.loc[law["SAE"] == NOTHING, "rho*"].between(0.4, 0.6).all()


@says("intervention", "Multiply the latents of the L1 SAE by 1.13.")
def _(tables):
    law = tables["shrinkage"]
    return (law.loc[law["SAE"] == L1, "rho*"].round(2) == 1.13).any()


def best_doses(tables, path, sae):
    """The dose of the least error for each concept."""
    rows = tables["dose_response"]
    rows = rows[(rows["path"] == path) & (rows["SAE"] == sae)]
    return rows.loc[rows.groupby("concept")["MSE"].idxmin(), "dose"]


@says("intervention", "Pushed, both SAEs have a valley: at 1 for TopK, right of 1 for L1.")
def _(tables):
    pushed = PUSH["valid"]
    return (best_doses(tables, pushed, TOPK) == 1).all() and (
        best_doses(tables, pushed, L1) > 1
    ).all()


@says("intervention", "has its valley at 1 for TopK and near 1.2 for L1.")
def _(tables):
    least = LEAST["valid"]
    return (best_doses(tables, least, TOPK) == 1).all() and (
        best_doses(tables, least, L1) == 1.2
    ).all()


@says("intervention", "The least error of free edits falls to a floor and stays flat.")
def _(tables):
    rows = tables["dose_response"]
    rows = rows[(rows["path"] == LEAST["free"]) & (rows["SAE"] != NOTHING)]
    errors = rows.pivot(index=["concept", "SAE"], columns="dose", values="MSE")
    return (errors[0.5] > 1.01 * errors[1.5]).all() and (errors[1.2] < 1.01 * errors[1.5]).all()


@says("intervention", "the SAE's own error rises while the z-scored one falls, with and without")
def _(tables):
    walks = tables["walk_correlations"]
    return (walks["own: least"] > 0).all() and (walks["z-scored: median r"] < 0).all()


@says("differences", "picking the best reports an improvement in the z-scored error alone")
def _(tables):
    best = tables["picked"].groupby(["SAE", "measure"])["best"].median().unstack()
    return (best["z-scored"] < 1).all() and (best["own"] > 1).all()


@says("differences", "it gains as well without any wish to separate")
def _(tables):
    free = (
        tables["gradients"]
        .query("kind == 'free'")
        .pivot(index="SAE", columns="procedure", values="own")
    )
    return (free["MSE only"] <= 1.1 * free["separate + MSE"]).all()


@says("representation_structure", "only the distances of entities lie there.")
def _(tables):
    found = tables["compared"].query("kind == 'residual'")
    claimed = found[found["outcome"] == "claimed"]
    return set(claimed["measure"]) == {"AEDP of entities"} and len(claimed) == 6


@says("stratified_manifold", "The dense autoencoder varies most;")
def _(tables):
    ranks = tables["ranks"].query("rule == 'relative' and mode == 3")
    ends = ranks.groupby(["concept", "label"])["mean"].agg(["min", "max"])
    varies = ((ends["max"] - ends["min"]) / ends["min"]).unstack("label")
    return (varies.idxmax(axis=1) == DENSE).all()


def of_trainings(tables, claim):
    """The cases of a claim over the trainings of the vision chapter's study."""
    found = tables["trainings"]
    return found[found["claim"] == claim]


@says(
    "beyond_language", "the classes' means at the class token lie *closer* together in the latents,"
)
def _(tables):
    here = tables["beside_language"].query("claim == 'case2-distinction-up' and tokens == 'entity'")
    every = of_trainings(tables, "case2-distinction-up")
    every = every[every["subject"].str.contains("(entity)", regex=False)]
    return (here["high"] < 0).all() and len(every) == 2 and (every["largest"] < 0).all()


@says("beyond_language", "in every training the error rises without it and falls with it.")
def _(tables):
    every = of_trainings(tables, "case3-explained")
    return len(every) == 4 and (every["holds"] == every["n"]).all()


@says("beyond_language", "The slope itself changes its sign from one training to another.")
def _(tables):
    slopes = of_trainings(tables, "case3-separability-helps")
    return ((slopes["positive"] > 0) & (slopes["positive"] < slopes["n"])).any()


@says("calibration", "All lie within 3 to 7 percent but two:")
def _(tables):
    rates = tables["false_positives"]["rate"]
    return len(rates) == 11 and (~rates.between(0.03, 0.07)).sum() == 2


@says("rank_rule_ablation", "Against smooth data of the lowest dimension they have AUC 0.")
def _(tables):
    worst = tables["worst_auc"].set_index("score")
    return (worst.loc["relative 0.01 range", "lowest dimension"] == 0).all()


@says("sparse_against_dense", "without that direction the gap shrinks to a fraction")
def _(tables):
    live = tables["live"].groupby("representation")[["range", "without first", "first"]].mean()
    gaps = live.loc[DENSE] - live.loc[[TOPK, L1]]
    shrinks = (gaps["without first"] < gaps["range"] / 4).all()
    return shrinks and live.loc[DENSE, "first"] > 0.5


@says(
    "separability_training", "all paths run up: to the right for groups, to the left for entities."
)
def _(tables):
    means = tables["effects"].query("strength > 0").pivot(
        index=["kind", "strength"], columns="outcome", values="value"
    )  # fmt: skip
    ends = means.query("strength == 100")
    ran = (ends["FVU"] > 0) & (means["separability"] > 0).all() & (means["AEDP"] < 0).all()
    return len(ends) == 2 and ran.all()


@says("separability_training", "probing accuracy stays within its intervals of zero.")
def _(tables):
    found = tables["effects"].query("outcome == 'probing' and strength > 0")
    return len(found) == 8 and ((found["low"] < 0) & (found["high"] > 0)).all()


@pytest.mark.parametrize(("page", "words"), SAID, ids=lambda given: str(given)[:40])
def test_what_a_page_says_of_the_books_run_is_so(page, words):
    source = (ROOT / "notebooks" / f"{page}.py").read_text(encoding="utf-8")
    assert words in " ".join(source.replace("\n# ", " ").split()), "the page no longer says so"
    if not (ROOT / "_build" / "html" / "index.html").is_file():
        pytest.skip("the book is not built: run 'make book'")
    record = read_record(ROOT / "_build" / "stage" / "executed" / f"{page}.record.json")
    tables = {name: pd.DataFrame(table) for name, table in record["tables"].items()}
    assert SAID[page, words](tables)
