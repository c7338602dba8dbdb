"""Sparse against dense: a point on a tiny training, tables and findings on planted results."""

import json
from dataclasses import asdict, replace
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from saerepgeo_lib.activations.token_activations import TokenActivations
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.rank.noise_sweep import RESIDUAL, Sweep, randomized, sweep
from saerepgeo_lib.rank.profiles import rank_table, variability
from saerepgeo_lib.stats.effect_sizes import paired_effect
from saerepgeo_lib.studies import sparse_dense
from saerepgeo_lib.studies import sparse_dense_results as results
from saerepgeo_lib.studies.activation_store import Activations
from saerepgeo_lib.studies.paper_claims import paper_claims
from saerepgeo_lib.studies.rank_profile import RankProfile
from saerepgeo_lib.studies.sparse_dense_results import DENSE, LABELS, RULES, SPARSE, SparseDense
from saerepgeo_lib.studies.study import read_study, study_file

TOPK, L1 = SPARSE


CONCEPTS = [f"concept {i}" for i in range(7)]


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    few = partial(paired_effect, n_resamples=200)
    monkeypatch.setattr(results.effect_sizes, "paired_effect", few)


def tokens(seed=0, prompts=12, d=16):
    """Activations with two slots per prompt, the first the entity's, and text that is alike."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(24, d))

    def draw(n):
        return (rng.random((n, 24)) * (rng.random((n, 24)) < 0.15)) @ directions * 4

    x = torch.from_numpy(draw(2 * prompts)).float()
    rows = torch.arange(2 * prompts)
    return TokenActivations(x, rows // 2, rows % 2, rows % 2 == 0), draw(1000).astype(np.float16)


def measured(kind, seed=0):
    coefficient = {"topk": 4, "l1": 0.5, "dense": 0.0}[kind]
    small = {"n_samples": 64 * 60, "expansion": 2, "learning_rate": 1e-2, "batch_size": 64}
    recipe = replace(sparse_dense.recipe(kind, seed, 1), coefficient=coefficient, **small)
    acts, text = tokens()
    activations = Activations([text], text[:200].astype(np.float32), ["text"] * 200)
    point = sparse_dense.Point(1, recipe, n_passages=1)
    return sparse_dense.measure_point(point, activations, {"things": acts})


@pytest.mark.parametrize("kind", LABELS)
def test_a_point_gives_the_same_numbers_twice_and_others_for_another_seed(kind):
    first, label = measured(kind), LABELS[kind]
    assert measured(kind) == first
    assert kind != "topk" or measured(kind, seed=1) != first
    found = first["concepts"]["things"]
    assert list(found) == [RESIDUAL, label, randomized(label)]
    json.dumps(first, allow_nan=False)
    if kind == "topk":
        assert found[label]["l0"] == found[randomized(label)]["l0"] == 4 == first["fit"]["L0"]
    if kind == "dense":
        assert first["fit"]["FVU"] < 0.5 and found[label]["l0"] > 8


def test_the_grid_is_balanced_and_kinds_differ_in_nothing_but_the_penalty():
    points = sparse_dense.STUDY.points
    cells = {(p.block, p.recipe.seed, p.recipe.name) for p in points}
    assert len(cells) == len(points) == 3 * 3 * 3
    assert all(p.hook == f"blocks.{p.block}.hook_out" for p in points)
    differing = {"name": "", "kind": "topk", "coefficient": 0.0, "seed": 0, "hook": ""}
    assert len({(replace(p.recipe, **differing), p.n_passages) for p in points}) == 1
    penalties = {p.recipe.name: (p.recipe.kind, p.recipe.coefficient) for p in points}
    assert penalties["dense"] == ("standard", 0) and penalties["l1"][0] == "standard"


def test_variability_is_that_of_case_1(small_sae):
    acts, levels = tokens(d=8)[0], (0, 0.5, 5)
    found = sparse_dense.variability_of(acts, small_sae, label=TOPK, seed=3, levels=levels)
    ranks = rank_table(sweep(acts, {TOPK: small_sae}, sparse=[TOPK], levels=levels, seeds=[3]))
    for rule in RULES:
        spread = variability(ranks, rule=rule).set_index("label")["variability"]
        clean = ranks.query("rule == @rule and level == 0").set_index("label")["rank"]
        for name, values in found.items():
            assert values["range"][rule] == pytest.approx(list(spread[name]), rel=1e-4)
            assert values["clean"][rule] == pytest.approx(list(clean[name]), rel=1e-4)


def planted(sparse=2.0, dense=2.0, random=1.0, *, full=(), spread=0.3):
    """Results in which the relative ranges of each kind lie about a value; ceilings are 100."""
    rng = np.random.default_rng(0)
    common = {c: rng.normal(scale=0.5) for c in CONCEPTS}
    means = {TOPK: sparse, L1: sparse, DENSE: dense, RESIDUAL: 2.0}
    points = []
    for p in sparse_dense.STUDY.points:
        own = LABELS[p.recipe.name]
        concepts = {c: {} for c in CONCEPTS}
        for c, name in product(CONCEPTS, (RESIDUAL, own, randomized(own))):
            value = means.get(name, random) + common[c] + spread * rng.normal(size=3)
            clean = 100.0 if name == randomized(own) and c in full else 40.0
            concepts[c][name] = {
                "l0": 4.0, "ceiling": [100] * 3, "clean": {rule: [clean] * 3 for rule in RULES},
                "range": {rule: value.tolist() for rule in RULES},
            }  # fmt: skip
        fit = {"FVU": 0.1, "L0": 4.0, "dead share": 0.0}
        result = {"fit": fit, "FVU content": dict.fromkeys(CONCEPTS, 0.2), "concepts": concepts}
        points.append({"point": asdict(p), "result": result, "seconds": 1.0})
    return points


def test_the_table_holds_every_value_in_its_place():
    points = planted()
    found = SparseDense(points)
    assert len(found.table) == 3 * 3 * 7 * 7 * 3 * 2
    grid = found.values(L1, rule="effective", mode=2)
    for entry in points:
        if LABELS[entry["point"]["recipe"]["name"]] == L1:
            layer = [1, 3, 5].index(entry["point"]["block"])
            for i, c in enumerate(CONCEPTS):
                value = entry["result"]["concepts"][c][L1]["range"]["effective"][1]
                assert grid[i, layer, entry["point"]["recipe"]["seed"]] == value
    assert len(found.fit) == 9 and set(found.fit["n"]) == {3}
    assert set(found.fit["FVU content"].round(9)) == {0.2}
    with pytest.raises(UserError, match="full grid"):
        _ = SparseDense(points[:-1]).table


@pytest.mark.parametrize(
    ("means", "than_dense", "than_random", "words"),
    [
        ({"sparse": 3.0}, "holds", "holds", "more"),
        ({"dense": 9.0}, "does not hold", "holds", "less"),
        ({"random": 2.0}, "does not hold", "does not hold", "neither more nor less"),
    ],
)
def test_planted_differences_are_found_and_none_is_not(means, than_dense, than_random, words):
    found = SparseDense(planted(**means))
    assert len(found.claims) == 2 * 2 * 2 * len(RULES) and {c.n for c in found.claims} == {7}
    expected = {("dense-sparse-more-variable", than_dense),
                ("dense-sparse-beyond-random", than_random)}  # fmt: skip
    assert {(c.id, c.verdict) for c in found.claims} == expected
    assert {c.id for c in found.claims} <= set(paper_claims())
    effects = found.effects.query("of == @TOPK and against == @DENSE and rule == 'relative'")
    delta, mean = (effects.set_index("effect").loc[effect] for effect in results.EFFECTS)
    assert f"**{TOPK} against {DENSE}**: varies **{words}**" in found.text
    if "random" in means:
        assert all(c.low < 0 < c.high for c in found.claims)
    if "dense" in means:
        assert mean["value"] == pytest.approx(-7, abs=0.2)
        assert mean["least"] < mean["greatest"] < -6
        assert delta["value"] == -1 and delta["p"] == 2 / 2**7
        assert f"**{TOPK} against {randomized(TOPK)}**: varies **more**" in found.text


@pytest.mark.parametrize("n_full", [1, 2])
def test_a_null_at_its_ceiling_is_left_out(n_full):
    found = SparseDense(planted(full=CONCEPTS[:n_full]))
    against = found.effects[found.effects["against"] == randomized(TOPK)]
    assert set(against["n"]) == {7 - n_full}
    assert set(found.effects.query("against == @DENSE")["n"]) == {7}
    untested = n_full == 2  # five are left
    assert (set(against["verdict"]) == {"cannot be tested here"}) == untested
    assert ("cannot be tested; only 5 concepts" in found.text) == untested


def test_starts_of_profiles_that_climb_to_their_ceiling():
    found = SparseDense(planted(spread=1e-9))
    shown = found.shown
    shown["variability"] -= shown["variability"].min()
    shown["share"] = 1 / (1 + shown["variability"])
    starts = found.starts
    assert tuple(starts["representation"]) == found.labels
    assert starts["range"].to_numpy() == pytest.approx(starts["from the start"].to_numpy())
    assert starts["Spearman"].to_numpy() == pytest.approx(-np.ones(7))
    # Figures show every cell and draw into the axes given.
    assert len(found.plot_distributions().axes) == 3
    assert len(found.plot_effects().axes) == len(results.EFFECTS)
    ax = Figure().subplots()
    assert found.plot_starts(ax) is ax
    assert sum(len(line.get_xdata()) for line in ax.lines[:-1]) == len(found.shown)


def test_a_common_direction_can_be_left_out():
    """Latents with a large mean: with it the rank is 1 until noise fills it, without it full."""
    flat = np.ones((2, 1, 8))
    offset, steep = flat.copy(), flat.copy()
    offset[0, 0, 0], steep[0, 0] = 500, np.geomspace(1, 1e-4, 8)
    sweep = Sweep((0.0, 1.0), (0,), 1.0, (4, 2))
    for label, spectra in {RESIDUAL: flat, TOPK: steep, DENSE: offset}.items():
        sweep.make_room(label)
        for mode in (1, 2, 3):
            sweep.spectra[label, mode], sweep.shapes[label, mode] = spectra, (8, 8)
    profile = RankProfile(sweep)
    assert profile.ranges.to_dict() == {RESIDUAL: 0, TOPK: 1, DENSE: 7}  # TopK from 4 of 8
    assert profile.without_first.ranges[DENSE] == 0


def test_the_shipped_results_are_of_this_study_and_agree_where_they_must():
    shipped = read_study(study_file("sparse-dense"))["points"]
    assert [e["point"] for e in shipped] == [asdict(p) for p in sparse_dense.STUDY.points]
    assert SparseDense(shipped).table["share"].between(0, 1, inclusive="right").all()
    residual = {}
    for entry in shipped:
        for concept, found in entry["result"]["concepts"].items():
            cell = entry["point"]["block"], entry["point"]["recipe"]["seed"], concept
            assert residual.setdefault(cell, found[RESIDUAL]) == found[RESIDUAL]
    # What the figures' texts say is so.
    table = SparseDense(shipped).shown
    by_block = table.groupby(["layer", "label"])["variability"]
    least, most, medians = (by_block.agg(f).unstack() for f in ("min", "max", "median"))
    for label in (TOPK, L1):
        assert (medians[DENSE] > most[label]).all()
        assert (medians[randomized(label)] < medians[label]).all()
        assert (medians[randomized(label)] < 0.5).all()
    assert (medians[DENSE] > most[RESIDUAL]).all() and (least[DENSE] > medians[RESIDUAL]).all()
    from_start = 1 / table["share"] - 1
    assert ((table["variability"] - from_start).abs() < 0.05 * (1 + from_start)).all()
