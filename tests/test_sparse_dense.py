"""Sparse against dense: a point on a tiny training, tables and findings on planted results."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from saerepgeo_lib import noise_sweep, sparse_dense
from saerepgeo_lib import sparse_dense_verdict as verdict
from saerepgeo_lib.claims import paper_claims
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.noise_sweep import RESIDUAL, randomized
from saerepgeo_lib.residuals import Residuals
from saerepgeo_lib.sparse_dense import DENSE, LABELS, RULES, Point, measure_point, variability_of
from saerepgeo_lib.stratification import rank_table, variability
from saerepgeo_lib.study import read_study, study_file
from saerepgeo_lib.training import Activations, Recipe

TOPK, L1 = verdict.SPARSE
CONCEPTS = [f"concept {i}" for i in range(7)]


def tokens(seed=0, prompts=12, d=16):
    """Residuals with two slots a prompt, the first the entity's, and text that looks like them."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(24, d))

    def draw(n):
        return (rng.random((n, 24)) * (rng.random((n, 24)) < 0.15)) @ directions * 4

    x = torch.from_numpy(draw(2 * prompts)).float()
    rows = torch.arange(2 * prompts)
    return Residuals(x, rows // 2, rows % 2, rows % 2 == 0), draw(3000).astype(np.float16)


def tiny(kind, seed=0):
    coefficient = {"topk": 4, "l1": 0.5, "dense": 0.0}[kind]
    how = "topk" if kind == "topk" else "standard"
    recipe = Recipe(
        kind, how, coefficient, 64 * 60, expansion=2, learning_rate=1e-2, batch_size=64, seed=seed
    )
    return Point(1, recipe, n_passages=1)


def measured(kind, seed=0):
    residuals, text = tokens()
    activations = Activations([text], text[:200].astype(np.float32), ["text"] * 200)
    return measure_point(tiny(kind, seed), activations, {"things": residuals})


@pytest.mark.parametrize("kind", LABELS)
def test_a_point_gives_the_same_numbers_twice_and_others_for_another_seed(kind):
    first = measured(kind)
    assert measured(kind) == first
    assert measured(kind, seed=1) != first
    own = LABELS[kind]
    found = first["concepts"]["things"]
    assert list(found) == [RESIDUAL, own, randomized(own)]
    json.dumps(first, allow_nan=False)
    if kind == "topk":
        assert found[own]["l0"] == found[randomized(own)]["l0"] == 4 == first["fit"]["L0"]
    if kind == "dense":
        assert first["fit"]["FVU"] < 0.5 and found[own]["l0"] > 8


def test_the_grid_is_balanced_and_kinds_differ_in_nothing_but_the_penalty():
    points = sparse_dense.STUDY.points
    cells = {(p.block, p.recipe.seed, p.recipe.name) for p in points}
    assert len(cells) == len(points) == 3 * 3 * 3
    shared = {
        (r.n_samples, r.expansion, r.learning_rate, r.batch_size, p.n_passages)
        for p in points
        for r in [p.recipe]
    }
    assert len(shared) == 1
    penalties = {p.recipe.name: (p.recipe.kind, p.recipe.coefficient) for p in points}
    assert penalties["dense"] == ("standard", 0) and penalties["l1"][0] == "standard"


def test_variability_and_random_encoder_are_those_of_case_1():
    residuals, text = tokens()
    activations = Activations([text], text[:200].astype(np.float32), ["text"] * 200)
    sae = sparse_dense.train_point(tiny("topk"), activations)
    levels = (0, 0.5, 5)
    found = variability_of(residuals, sae, label=TOPK, seed=3, levels=levels)
    whole = noise_sweep.sweep(residuals, {TOPK: sae}, sparse=[TOPK], levels=levels, seeds=[3])
    for rule in RULES:
        spread = variability(rank_table(whole), rule=rule).set_index(["label", "mode"])
        for name, values in found.items():
            expected = spread.loc[name, "variability"]
            assert values["range"][rule] == pytest.approx(list(expected), rel=1e-4), (name, rule)
            ranks = rank_table(whole).query("label == @name and rule == @rule and level == 0")
            assert values["clean"][rule] == pytest.approx(list(ranks["rank"]), rel=1e-4)


def planted(sparse=2.0, dense=2.0, random=1.0, *, full=(), spread=0.3):
    """Results in which the relative ranges of each kind lie about a value; ceilings are 100."""
    rng = np.random.default_rng(0)
    common = {c: rng.normal(scale=0.5) for c in CONCEPTS}
    means = {TOPK: sparse, L1: sparse, DENSE: dense, RESIDUAL: 2.0}
    points = []
    for p in sparse_dense.STUDY.points:
        own = LABELS[p.recipe.name]
        concepts = {}
        for c in CONCEPTS:
            concepts[c] = {}
            for name in (RESIDUAL, own, randomized(own)):
                value = means.get(name, random) + common[c] + spread * rng.normal(size=3)
                clean = 100.0 if name == randomized(own) and c in full else 40.0
                concepts[c][name] = {
                    "l0": 4.0, "ceiling": [100] * 3,
                    "clean": {rule: [clean] * 3 for rule in RULES},
                    "range": {rule: [*map(float, value)] for rule in RULES},
                }  # fmt: skip
        fit = {"FVU": 0.1, "L0": 4.0, "dead share": 0.0}
        point = {"block": p.block, "recipe": {"name": p.recipe.name, "seed": p.recipe.seed}}
        result = {"fit": fit, "FVU content": dict.fromkeys(CONCEPTS, 0.2), "concepts": concepts}
        points.append({"point": point, "result": result, "seconds": 1.0})
    return points


def effects_of(points):
    return verdict.effect_table(verdict.variability_table(points), mode=3)


def test_the_table_holds_every_value_in_its_place():
    points = planted()
    table = verdict.variability_table(points)
    assert len(table) == 3 * 3 * 7 * 7 * 3 * 2
    grid = verdict.grid_of(table, L1, rule="effective", mode=2)
    for entry in points:
        if LABELS[entry["point"]["recipe"]["name"]] == L1:
            layer = [1, 3, 5].index(entry["point"]["block"])
            for i, c in enumerate(CONCEPTS):
                value = entry["result"]["concepts"][c][L1]["range"]["effective"][1]
                assert grid[i, layer, entry["point"]["recipe"]["seed"]] == value
    with pytest.raises(UserError, match="full grid"):
        verdict.variability_table(points[:-1])
    fit = verdict.fit_table(points)
    assert len(fit) == 9 and set(fit["n"]) == {3} and set(fit["FVU content"].round(9)) == {0.2}


@pytest.mark.parametrize(
    ("means", "more_than_dense", "more_than_random"),
    [
        ({"sparse": 3.0}, "holds", "holds"),
        ({"dense": 3.0}, "does not hold", "holds"),
        ({"random": 2.0}, "does not hold", "does not hold"),
    ],
)
def test_planted_differences_are_found_and_none_is_not(means, more_than_dense, more_than_random):
    claims = verdict.claims_of(effects_of(planted(**means)), mode=3)
    assert len(claims) == 2 * 2 * 2 * len(RULES) and {c.n for c in claims} == {7}
    said = {(c.id, c.verdict) for c in claims}
    assert said == {
        ("dense-sparse-more-variable", more_than_dense),
        ("dense-sparse-beyond-random", more_than_random),
    }
    assert {c.id for c in claims} <= set(paper_claims())
    none = [c for c in claims if means == {"random": 2.0}]
    assert all(c.low < 0 < c.high for c in none)


def test_a_planted_size_is_that_of_the_effect_and_its_text():
    effects = effects_of(planted(dense=9.0))
    row = effects.query("of == @TOPK and against == @DENSE and rule == 'relative'")
    row = row.set_index("effect")
    assert row.loc["mean difference", "value"] == pytest.approx(-7, abs=0.2)
    assert row.loc["Cliff's delta", "value"] == -1 and row.loc["Cliff's delta", "p"] == 2 / 2**7
    assert row.loc["mean difference", "least"] < row.loc["mean difference", "greatest"] < -6
    text = verdict.verdict_text(effects, rule="relative")
    assert f"**{TOPK} against {DENSE}**: varies **less**" in text
    assert f"**{TOPK} against {randomized(TOPK)}**: varies **more**" in text
    same = verdict.verdict_text(effects_of(planted()), rule="relative")
    assert f"**{TOPK} against {DENSE}**: varies **neither more nor less**" in same


def test_a_null_at_its_ceiling_is_left_out():
    one = effects_of(planted(full=CONCEPTS[:1]))
    assert set(one[one["against"] == randomized(TOPK)]["n"]) == {6}
    assert set(one[one["against"] == DENSE]["n"]) == {7}
    two = effects_of(planted(full=CONCEPTS[:2]))
    against = two[two["against"] == randomized(TOPK)]
    assert set(against["verdict"]) == {"cannot be tested here"} and set(against["n"]) == {5}
    assert "cannot be tested; only 5 concepts" in verdict.verdict_text(two, rule="relative")


def test_shares_and_starts_of_planted_results():
    table = verdict.variability_table(planted(spread=1e-9))
    shares = verdict.shares_table(table, rule="relative", mode=3).set_index("representation")
    assert shares["concept"].to_numpy() == pytest.approx(np.ones(7), abs=1e-6)
    table["clean"] = 100 / (1 + table["range"] - table["range"].min())
    table["range"] -= table["range"].min()  # each profile climbs to its ceiling
    starts = verdict.start_decides(table, rule="relative", mode=3)
    assert starts["range"].to_numpy() == pytest.approx(starts["from the start"].to_numpy())
    assert starts["Spearman"].to_numpy() == pytest.approx(-np.ones(7))


def test_the_live_table_counts_and_leaves_out_a_common_direction():
    """A code with a large mean: with it the rank is 1 until noise fills it, without it full."""
    levels, k = (0.0, 1.0), 8
    offset = np.full((2, 1, k), 1.0)
    offset[..., 0] = 500
    offset[1] = 1.0
    flat = np.full((2, 1, k), 1.0)
    steep = np.geomspace(1, 1e-4, k) * np.ones((2, 1, 1))
    steep[1] = 1.0
    sweep = noise_sweep.Sweep(levels, (0,), 1.0, (4, 2))
    for name, spectra in {
        RESIDUAL: flat,
        TOPK: steep,
        randomized(TOPK): flat,
        DENSE: offset,
    }.items():
        sweep.make_room(name)
        for mode in (1, 2, 3):
            sweep.spectra[name, mode], sweep.shapes[name, mode] = spectra, (k, k)
    live = verdict.live_table({"things": sweep}, rule="relative", mode=3)
    by_name = live.set_index("representation")
    assert by_name.loc[DENSE, "range"] == 7 and by_name.loc[DENSE, "without first"] == 0
    assert by_name.loc[TOPK, "range"] == pytest.approx(3 / 5, abs=1)
    assert by_name.loc[RESIDUAL, "first"] == pytest.approx(1 / k)
    text = verdict.live_text(live, sparse=[TOPK], dense=[DENSE])
    assert "dense AE); a sparse one varies less than the dense one in 1 of 1 cases" in text
    assert "0.00 (dense AE); a sparse one varies less than the dense one in 0 of 1 cases" in text
    assert "more than its random encoder in 1 of 1" in text


def test_parameters_that_the_results_do_not_hold_are_refused():
    with pytest.raises(UserError, match="no room to vary"):
        verdict.check_parameters(rank_rule="relative", rank_mode=2)
    with pytest.raises(UserError, match="unknown rank rule"):
        verdict.check_parameters(rank_rule="exact", rank_mode=3)


@pytest.fixture(scope="module")
def shipped():
    return read_study(study_file("sparse-dense"))["points"]


def test_the_shipped_results_are_of_this_study_and_agree_where_they_must(shipped):
    assert [e["point"] for e in shipped] == [asdict(p) for p in sparse_dense.STUDY.points]
    table = verdict.variability_table(shipped)
    assert (table["clean"] <= table["ceiling"]).all() and (table["clean"] > 0).all()
    residual = {}
    for entry in shipped:
        for concept, found in entry["result"]["concepts"].items():
            cell = entry["point"]["block"], entry["point"]["recipe"]["seed"], concept
            assert residual.setdefault(cell, found[RESIDUAL]) == found[RESIDUAL]


def test_the_figures_texts_are_so_of_the_shipped_results(shipped):
    table = verdict.variability_table(shipped).query("rule == 'relative' and mode == 3")
    by_block = table.groupby(["layer", "representation"])["range"]
    least, most, medians = (
        f.unstack() for f in (by_block.min(), by_block.max(), by_block.median())
    )
    for label in (TOPK, L1):
        assert (medians[DENSE] > most[label]).all()
        assert (medians[randomized(label)] < medians[label]).all()
        assert (medians[randomized(label)] < 0.5).all()
    assert (medians[DENSE] > most[RESIDUAL]).all() and (least[DENSE] > medians[RESIDUAL]).all()
    from_start = table["ceiling"] / table["clean"] - 1
    assert ((table["range"] - from_start).abs() < 0.05 * (1 + from_start)).all()
