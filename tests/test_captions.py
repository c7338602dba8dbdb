"""What captions and alt texts say of the book's own run is so: asked of the pages' records."""

from pathlib import Path

import pandas as pd
import pytest

from saerepgeo_lib.companion.records import read_record
from saerepgeo_lib.files import read_json
from saerepgeo_lib.rank import RESIDUAL
from saerepgeo_lib.steering.dose_response import LEAST, PUSH
from saerepgeo_lib.studies.steering_experiment import NOTHING

ROOT = Path(__file__).resolve().parent.parent
L1, TOPK, DENSE = "L1-ReLU SAE", "TopK SAE", "dense AE"
SPARSE = [L1, TOPK]


def optimum(tables, *labels):
    """rho* of these SAEs, a value per concept."""
    law = tables["shrinkage"]
    return law.loc[law["SAE"].isin(labels), "rho*"]


def valleys(tables, path):
    """Whether the least error lies at dose 1, but for one SAE and concept, where it lies above."""
    rows = tables["dose_response"].query("path == @path and SAE != @NOTHING")
    best = rows.loc[rows.groupby(["concept", "SAE"])["MSE"].idxmin()]
    best = best.set_index(["concept", "SAE"])["dose"]
    return len(best) == 6 and best.pop(("elements", L1)) > 1 and (best == 1).all()


def free_edits_level_off(tables):
    rows = tables["dose_response"]
    rows = rows[(rows["path"] == LEAST["free"]) & (rows["SAE"] != NOTHING)]
    errors = rows.pivot(index=["concept", "SAE"], columns="dose", values="MSE")
    falls = {dose: errors[dose] - errors[dose + 0.3] for dose in (0.5, 1.2)}
    return (falls[0.5] > 5 * falls[1.2]).all() and (falls[1.2] > 0).all()


def walks_split_the_errors(tables):
    walks = tables["walk_correlations"]
    scored, random = walks["z-scored: median r"], walks["SAE"] == NOTHING
    return (
        (walks["own: least"] > 0).all()
        and (scored[~random] < -0.9).all()
        and (scored[random].between(-0.9, -0.1)).all()
        and (walks.loc[random, "apart"] - 1).abs().max() < 0.01
    )


def what_the_model_makes_of_it(tables):
    low, high, error = (
        tables["downstream"].pivot(index="path", columns="SAE", values=name)
        for name in ("low", "high", "MSE")
    )
    alike = (low.loc["separate"] < high.loc["gather"]) & (low.loc["gather"] < high.loc["separate"])
    up, down = "push to x 1.5", "push to x 0.5"
    same = abs(error.loc[up, TOPK] / error.loc[down, TOPK] - 1) < 0.03
    return alike.all() and low.loc[up, TOPK] > 0 > high.loc[down, TOPK] and same


def paths_end_where_it_is_said(tables):
    ends = tables["paths"].query("concept == 'months' and SAE in @SPARSE")
    ends = ends.pivot(index="path", columns=["SAE", "kind"], values="MSE")
    free = ends.xs("free", axis=1, level="kind")
    near = free.loc[["reconstruct", "gromov_wasserstein"]] < 0.9
    parted = (ends.loc["gather"] > 1.05).all() and (ends.loc["separate"] < 1.15).all()
    return near.all(axis=None) and parted


def picking_gains_in_the_z_score_alone(tables):
    best = tables["picked"].groupby(["SAE", "measure"])["best"].median().unstack()
    return (best["z-scored"] < 1).all() and (best["own"] > 1).all()


def gains_without_separating(tables):
    free = tables["gradients"].query("kind == 'free'")
    free = free.pivot(index="SAE", columns="procedure", values="own")
    return (free["MSE only"] <= 1.1 * free["separate + MSE"]).all()


def free_ends_lie_below_and_valid_ones_above(tables):
    ends = tables["gradients"]
    return ((ends["own"] < 1) == (ends["kind"] == "free")).all()


def claimed_of_entities_only(tables):
    claimed = tables["compared"].query("kind == 'residual' and outcome == 'claimed'")
    missing = claimed[(claimed["SAE"] == L1) & (claimed["concept"] == "days")]
    return set(claimed["measure"]) == {"AEDP of entities"} and len(claimed) == 5 and missing.empty


def dense_varies_most(tables):
    ranks = tables["ranks"].query("rule == 'relative' and mode == 3")
    ends = ranks.groupby(["concept", "label"])["mean"].agg(["min", "max"])
    varies = ((ends["max"] - ends["min"]) / ends["min"]).unstack("label")
    nulls = varies.filter(regex="^(random|permuted)")
    return (
        (varies.idxmax(axis=1) == DENSE).all()
        and (varies[RESIDUAL] > 0.7 * varies[DENSE]).all()
        and varies[SPARSE].lt(varies[RESIDUAL] / 2, axis=0).all(axis=None)
        and (nulls < 0.25).all(axis=None)
    )


def the_prompt_mode_fills(tables):
    ranks = tables["ranks"].query("rule == 'relative' and mode == 1")
    ranks = ranks.pivot(index=["concept", "label"], columns="level", values="mean")
    nulls = ranks[ranks.index.get_level_values("label").str.contains("^random|^permuted")]
    return (ranks[1.0] == ranks[10.0]).all() and (nulls[0.0] > 0.99 * nulls[10.0]).all()


def classes_lie_closer(tables):
    beside = tables["beside_language"]
    beside = beside.query("claim == 'case2-distinction-up' and tokens == 'entity'")
    every = tables["trainings"].query("claim == 'case2-distinction-up'")
    every = every[every["case"].str.contains(", entity tokens: ")]
    return (beside["high"] < 0).all() and len(every) == 2 and (every["largest"] < 0).all()


def explained_in_every_training(tables):
    every = tables["trainings"].query("claim == 'case3-explained'")
    return len(every) == 4 and (every["holds"] == every["n"]).all()


def slopes_change_their_sign(tables):
    slopes = tables["trainings"].query("claim == 'case3-separability-helps'")
    return len(slopes.query("0 < positive < n")) > 0


def all_rates_but_four(tables):
    rates = tables["false_positives"].set_index("test")["rate"]
    outside = rates[~rates.between(0.03, 0.07)].index
    broken = outside.str.contains("skewed|shared|verdict")
    return len(rates) == 17 and len(outside) == broken.sum() == 4


def worst_is_0(tables):
    worst = tables["worst_auc"].set_index("score")
    return (worst.loc["relative 0.01 range", "lowest dimension"] == 0).all()


def one_direction_makes_the_gap(tables):
    live = tables["live"].groupby("representation")[["range", "without first", "first"]].mean()
    gaps = live.loc[DENSE] - live.loc[[TOPK, L1]]
    return (gaps["without first"] < gaps["range"] / 4).all() and live.loc[DENSE, "first"] > 0.5


def paths_run_up(tables):
    means = tables["effects"].query("strength > 0")
    means = means.pivot(index=["kind", "strength"], columns="outcome", values="value")
    ends = means.query("strength == 100")
    rises = (ends["FVU"] > 0) & (means["separability"] > 0).all() & (means["AEDP"] < 0).all()
    return len(ends) == 2 and rises.all()


def probing_stays(tables):
    probing = tables["effects"].query("outcome == 'probing' and strength > 0")
    return len(probing) == 8 and ((probing["low"] < 0) & (probing["high"] > 0)).all()


def only_l1_shrinks(tables):
    text = tables["trainings"].query("group != ''").groupby("label")["value"]
    others = text.max().drop("L1-ReLU SAE")
    return text.min()["L1-ReLU SAE"] > 0.05 > 0.03 > others.max() and text.std().max() < 0.005


def sparser_shrinks_more(tables):
    rows = tables["trainings"].query("name in ['grid', 'topk', 'l1'] and seed == 0")
    l1, topk = (rows[rows["kind"] == kind] for kind in ("standard", "topk"))
    falls = [
        part.sort_values("L0")["value"].is_monotonic_decreasing for _, part in l1.groupby("block")
    ]
    return len(falls) == 3 and all(falls) and topk["value"].abs().max() < 0.005


def choices_decide(tables):
    more = tables["specifications"].groupby("null")["varies more"]
    all_of, least, most = more.first(), more.min(), more.max()
    turns = [null for null in all_of.index if "random" in null or "permuted" in null]
    return (  # hardly: at most a tenth; decided: some choice makes it most answers, another few
        all_of["Against the residual stream"] < 0.1 and most["Against the residual stream"] <= 0.1
        and len(turns) == 2 and (most[turns] > 0.5).all() and (least[turns] < 0.25).all()
    )  # fmt: skip


def some_nulls_draw_apart(tables):
    found = tables["distinction"].set_index("label")
    up, down = found[found["low"] > 0], found[found["high"] < 0]
    nulls = up.index[up["group"] == "nulls"]
    return (
        sorted(up.index[up["group"] != "nulls"]) == ["BatchTopK SAE", "L1-ReLU SAE", "TopK SAE"]
        and len(nulls) == 2 and nulls.str.startswith("dense bottleneck").all()
        and found["value"].idxmin() == "on a random model"
        and (down["group"] == "nulls").sum() * 2 == (found["group"] == "nulls").sum()
    )  # fmt: skip


# What a page's words mean, as a function of the tables of its record.
SAID = {
    ("intervention", "it lies between 1.05 and 1.15;"):
        lambda t: optimum(t, L1).between(1.05, 1.15).all(),
    ("intervention", "dense autoencoder within 2 % of 1;"):
        lambda t: optimum(t, TOPK, DENSE).between(0.98, 1.02).all(),
    ("intervention", "random SAE on a random model near 0.36."):
        lambda t: optimum(t, NOTHING).between(0.35, 0.37).all(),
    ("intervention", "Multiply the latents of the L1 SAE by 1.13."):
        lambda t: (optimum(t, L1).round(2) == 1.13).any(),
    ("intervention", "a valley at 1, but for the L1 SAE on elements, where it lies right of 1."):
        lambda t: valleys(t, PUSH["valid"]),
    ("intervention", "The least error of valid edits has its valleys at the same places."):
        lambda t: valleys(t, LEAST["valid"]),
    ("intervention", "The least error of free edits falls steeply below 1, and hardly beyond."):
        free_edits_level_off,
    ("intervention", "and slightly in most walks where nothing was learned."):
        walks_split_the_errors,
    ("intervention", "raising separability by half raises the cross-entropy and halving it lowers"):
        what_the_model_makes_of_it,
    ("intervention", "*Separate* stays near the unedited error, and *gather* rises above it"):
        paths_end_where_it_is_said,
    ("differences", "picking the best reports an improvement in the z-scored error alone"):
        picking_gains_in_the_z_score_alone,
    ("differences", "lie below 1 in the SAE's own error if free, and above 1 if valid."):
        free_ends_lie_below_and_valid_ones_above,
    ("differences", "it gains as well without any wish to separate"): gains_without_separating,
    ("representation_structure", "of entities lie there, but for the L1 SAE on days."):
        claimed_of_entities_only,
    ("stratified_manifold", "The dense autoencoder varies most;"): dense_varies_most,
    ("stratified_manifold", "every profile at its ceiling once noise is as strong as the signal;"):
        the_prompt_mode_fills,
    ("beyond_language",
     "the classes' means at the class token lie *closer* together in the latents,"):
        classes_lie_closer,
    ("beyond_language", "in every training the error rises without it and falls with it."):
        explained_in_every_training,
    ("beyond_language", "The slope itself changes its sign from one training to another."):
        slopes_change_their_sign,
    ("calibration", "All lie within 3 to 7 percent but four:"): all_rates_but_four,
    ("rank_rule_ablation", "Against smooth data of the lowest dimension it has AUC 0."):
        worst_is_0,
    ("sparse_against_dense", "without that direction the gap shrinks to a fraction"):
        one_direction_makes_the_gap,
    ("separability_training",
     "all paths run up: to the right for groups, to the left for entities."): paths_run_up,
    ("stratified_manifold", "varies under hardly any choice; more than a random"): choices_decide,
    ("trained_again", "On held-out text only L1-ReLU SAEs shrink clearly."): only_l1_shrinks,
    ("trained_again", "the three trainings of a kind hardly differ"): only_l1_shrinks,
    ("trained_again", "The sparser an L1 SAE was made, the more it shrinks; a TopK SAE does"):
        sparser_shrinks_more,
    ("trained_again", "two dense bottlenecks draw them apart as well"): some_nulls_draw_apart,
    ("separability_training", "probing accuracy stays within its intervals of zero."):
        probing_stays,
}  # fmt: skip


@pytest.mark.parametrize(("page", "words"), SAID, ids=lambda given: str(given)[:40])
def test_what_a_page_says_of_the_books_run_is_so(page, words):
    source = (ROOT / "notebooks" / f"{page}.py").read_text(encoding="utf-8")
    assert words in " ".join(source.replace("\n# ", " ").split()), "the page no longer says so"
    if not (ROOT / "_build" / "html" / "index.html").is_file():
        pytest.skip("the book is not built: run 'make book'")
    record = read_record(ROOT / "_build" / "stage" / "executed" / f"{page}.record.json")
    tables = {name: pd.DataFrame(table) for name, table in record["tables"].items()}
    assert SAID[page, words](tables)


def test_no_page_shows_a_warning_or_what_a_process_says():
    executed = sorted((ROOT / "_build" / "stage" / "executed").glob("*.ipynb"))
    if not executed:
        pytest.skip("the book is not built: run 'make book'")
    for path in executed:
        outputs = [out for cell in read_json(path)["cells"] for out in cell.get("outputs", [])]
        assert [out["text"] for out in outputs if out["output_type"] == "stream"] == [], path.name
