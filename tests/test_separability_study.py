"""One point of the study, sparse probing, and effects on runs with known differences."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from refusals import refused
from scipy import stats

from saerepgeo_lib.activations.latents import fvu
from saerepgeo_lib.activations.prompts import Concept, load_concept
from saerepgeo_lib.activations.token_activations import read_concept
from saerepgeo_lib.studies import training
from saerepgeo_lib.studies.recipes import HOOK
from saerepgeo_lib.studies.separability.effects import (
    OUTCOMES,
    SeparabilityEffects,
    runs_table,
    seeds_estimate,
)
from saerepgeo_lib.studies.separability.objective import residual_groups, separability
from saerepgeo_lib.studies.separability.trainings import (
    SEEDS,
    STRENGTHS,
    K,
    Point,
    grid,
    last_of_entity,
    mean_difference,
    measure,
    measure_text,
    sparse_probing_accuracy,
    trained,
)

TINY = Point("standard", 1.0, 20.0, 0, n_groups=8, n_samples=64 * 60, expansion=1, batch_size=64)

pytestmark = pytest.mark.usefixtures("one_thread")  # beside other tests


@pytest.fixture(scope="module")
def acts(minilm):
    """The days, and some of the colours (all frames of four)."""
    color = load_concept("color")
    few = tuple(p for p in color.prompts if p.entity in color.entities[:4])
    concepts = {"days": load_concept("days"), "color": Concept("color", few)}
    return {name: read_concept(minilm, c, HOOK) for name, c in concepts.items()}


def sae_of(point, acts):
    return trained(point, [acts["color"].x.half().numpy()], device="cpu")


def test_the_grid_has_every_seed_at_every_strength_and_baselines_around_the_l1_weight():
    points = grid()
    assert len(set(points)) == len(points) and len(SEEDS) >= 3
    assert STRENGTHS[0] == 0 and sum(s > 0 for s in STRENGTHS) >= 4
    for seed in SEEDS:
        mine = [p for p in points if p.seed == seed]
        assert sorted(p.strength for p in mine if p.kind == "topk") == sorted(STRENGTHS)
        assert {p.coefficient for p in mine if p.kind == "topk"} == {K}
        l1 = [p for p in mine if p.kind == "standard"]
        (weight,) = {p.coefficient for p in l1 if p.strength}
        plain = sorted(p.coefficient for p in l1 if not p.strength)
        assert len(plain) >= 3 and plain[0] < weight < plain[-1] and weight in plain


def test_the_last_token_of_each_entity_stands_for_it(acts):
    everything, last = acts["days"], last_of_entity(acts["days"])
    assert len(last.x) == 84 and last.in_entity.all()
    assert np.bincount(last.entity).tolist() == [12] * 7
    for prompt, position in zip(last.prompt, last.position, strict=True):
        mine = (everything.prompt == prompt) & everything.in_entity
        assert position == everything.position[mine].max()


@pytest.mark.parametrize(("kind", "coefficient"), [("topk", 8), ("standard", 1.0)])
def test_what_is_measured_has_decoder_rows_of_norm_one_and_the_same_reconstruction(
    acts, kind, coefficient, monkeypatch
):
    point = replace(TINY, kind=kind, coefficient=coefficient)
    kept, real = [], training.SAETrainer.fit
    monkeypatch.setattr(training.SAETrainer, "fit", lambda self: kept.append(real(self)) or kept[0])
    sae, x = sae_of(point, acts), acts["days"].x
    assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(sae.cfg.d_sae), atol=1e-5)
    assert torch.allclose(sae(x), kept[0](x), atol=1e-3)
    measured = measure_text(sae, point, x)
    assert measured["FVU"] == pytest.approx(fvu(sae, x))
    z = sae.encode(x)
    assert measured["L0"] == pytest.approx((z > 0).sum(1).double().mean().item())
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    batches = [rows for rows in order.split(64) if len(rows) == 64]
    apart = [separability(z[b], residual_groups(x[b], n_groups=8)).item() for b in batches]
    assert measured["separability"] == pytest.approx(sum(apart) / len(apart))
    scale = x.shape[1] ** 0.5 / x.norm(dim=1).mean()
    loss = (scale * (x - sae(x))).square().sum(1).mean()
    loss += (scale * z).sum(1).mean() * (kind == "standard")  # an L1 weight of 1
    assert measured["loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert measured["dead"] == pytest.approx(1 - (z > 0).any(0).double().mean().item())


def test_a_point_repeated_gives_the_same_numbers_also_rescaled_and_another_seed_others(acts):
    x, days = acts["days"].x, {"days": acts["days"]}
    sae, again, other = (sae_of(replace(TINY, seed=seed), acts) for seed in (0, 0, 1))
    first = measure_text(sae, TINY, x)
    assert measure_text(again, TINY, x) == first
    assert measure_text(other, TINY, x)["FVU"] != first["FVU"]
    before = measure(sae, TINY, x, days)
    with torch.no_grad():
        sae.W_enc *= 4.0
        sae.b_enc *= 4.0
        sae.W_dec /= 4.0
    after = measure(sae, TINY, x, days)
    for name in ("FVU", "L0", "dead", "separability"):
        assert after[name] == pytest.approx(before[name], rel=1e-4), name
    for name in ("AEDP", "AEDP clusters", "probing", "rank range", "rho*", "slope", "dimension"):
        pair = after["concepts"]["days"][name], before["concepts"]["days"][name]
        assert pair[0] == pytest.approx(pair[1], rel=1e-3, nan_ok=True), name


def planted(n_entities=4, n_frames=12, noise=0.1, extra=20, seed=0):
    """One latent an entity, and `extra` that are noise."""
    rng = np.random.default_rng(seed)
    entity = np.tile(np.arange(n_entities), n_frames)
    frame = np.repeat(np.arange(n_frames), n_entities)
    x = np.hstack([np.eye(n_entities)[entity], np.zeros((len(entity), extra))])
    return x + noise * rng.random(x.shape), entity, frame


def test_one_latent_an_entity_is_enough_where_there_is_one_and_not_where_two_share_it():
    x = np.array([[1.0, 0.0, 2.0], [3.0, 0.0, 2.0], [0.0, 6.0, 2.0]])
    assert mean_difference(x, np.array([False, False, True])) == pytest.approx([2, 6, 0])
    points, entity, frame = planted()
    assert sparse_probing_accuracy(points, entity, frame, k=1) == 1
    shared = points.copy()
    shared[:, 0] += shared[:, 1]  # fires for the first two entities alike, and the second is gone
    shared[:, 1] = 0
    assert 0.7 < sparse_probing_accuracy(shared, entity, frame, k=1) < 0.95


def test_latents_that_know_nothing_or_the_frame_alone_are_near_chance():
    """On seen frames the latter would name the entity; no frame is on both sides of a fold."""
    points, entity, frame = planted(n_frames=40)
    shuffled = np.random.default_rng(1).permutation(entity)
    assert abs(sparse_probing_accuracy(points, shuffled, frame, k=4) - 0.5) < 0.1
    rng = np.random.default_rng(0)
    entity = rng.integers(4, size=48)
    frame = np.arange(48) // 2
    points = np.eye(24)[frame] * (1 + entity[:, None])  # within its frame it gives the entity away
    assert sparse_probing_accuracy(points, entity, frame, k=24) < 0.65


def test_neither_scale_nor_order_of_latents_matters_and_what_cannot_be_probed_is_refused():
    points, entity, frame = planted(noise=1.0)
    value = sparse_probing_accuracy(points, entity, frame, k=3)
    assert sparse_probing_accuracy(1000 * points, entity, frame, k=3) == pytest.approx(value)
    order = np.random.default_rng(2).permutation(points.shape[1])
    assert sparse_probing_accuracy(points[:, order], entity, frame, k=3) == pytest.approx(value)
    assert value < 1
    for given in ((points, entity, frame % 3, 4), (points, 0 * entity, frame, 4),
                  (points, entity, frame, 25)):  # fmt: skip
        refused("probing needs", partial(sparse_probing_accuracy, k=given[3]), *given[:3])


CONCEPT = {
    "FVU": 0.3, "AEDP": 1.0, "AEDP clusters": 1.1, "probing": 0.5, "rank range": 0.2,
    "clusters": 4, "dimension": 8.0, "rho*": 1.1, "slope": -0.2,
}  # fmt: skip


def run(kind, strength, seed, l0, fvu, coefficient=1.0, **changed):
    concept = CONCEPT | changed
    text = {"FVU": fvu, "L0": l0, "dead": 0.01, "separability": 0.9, "loss": 100.0}
    return {
        "point": {"kind": kind, "coefficient": coefficient, "strength": strength, "seed": seed},
        "result": text | {"concepts": {"a": concept, "b": {**concept, "probing": 0.7}}},
        "seconds": 1.0,
    }


def line(l0, seed):
    """FVU of a baseline: a line in log L0, another one for each seed."""
    return 0.5 + 0.01 * seed - 0.08 * np.log(l0)


def grid_of(factor=0.9, l0=50.0, accuracy=(0.1, 0.12, 0.11)):
    """L1 runs whose FVU is `factor` of the baselines' line at their own L0; TopK that is equal."""
    points = []
    for seed in range(3):
        points += [run("standard", 0.0, seed, x, line(x, seed), x) for x in (80.0, 30.0, 45.0)]
        points.append(run("standard", 5.0, seed, l0, factor * line(l0, seed), AEDP=1.2))
        points.append(run("topk", 0.0, seed, 32.0, 0.2 + seed / 10))
        points.append(
            run("topk", 5.0, seed, 32.0, 0.2 + seed / 10, probing=0.5 + 2 * accuracy[seed])
        )
    return runs_table(points)


def effect_of(runs, kind, strength, outcome):
    """The effect on one kind, strength and outcome."""
    keys = ["kind", "strength", "outcome"]
    table = SeparabilityEffects(runs).effects.set_index(keys, verify_integrity=True)
    return table.loc[kind, strength, outcome]


def test_an_l1_run_is_compared_with_its_seeds_baselines_at_its_own_l0():
    (row,) = runs_table([run("topk", 0.0, 3, 32.0, 0.2)]).to_dict("records")
    assert row["probing"] == pytest.approx(0.6) and row["FVU"] == 0.2
    assert row["FVU content"] == pytest.approx(0.3)
    assert (row["kind"], row["seed"], row["L0"]) == ("topk", 3, 32.0)
    runs = grid_of()
    fvu = effect_of(runs, "standard", 5.0, "FVU")
    assert fvu["value"] == pytest.approx(-10) and fvu["n"] == 3 and fvu["outside"] == 0
    assert effect_of(runs, "standard", 5.0, "AEDP")["value"] == pytest.approx(20)
    assert effect_of(runs, "topk", 5.0, "probing")["value"] == pytest.approx(0.11)
    assert effect_of(runs, "topk", 5.0, "FVU")["value"] == 0
    assert set(SeparabilityEffects(runs).effects["outcome"]) == set(OUTCOMES)
    # Without matching a change of L0 alone would look like an effect.
    runs = grid_of(factor=1.0, l0=70.0)
    middle = runs.query("kind == 'standard' and coefficient == 45 and strength == 0")["FVU"]
    regularised = runs.query("kind == 'standard' and strength == 5")["FVU"]
    assert regularised.mean() < 0.9 * middle.mean()
    fvu = effect_of(runs, "standard", 5.0, "FVU")
    assert fvu["value"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("l0", "outside"), [(29.0, True), (81.0, True), (79.0, False)])
def test_an_l0_beyond_the_baselines_is_said_and_not_judged(l0, outside):
    found = SeparabilityEffects(grid_of(l0=l0))
    mine = found.changes[found.changes["kind"] == "standard"]
    assert mine["outside"].all() == outside == mine["outside"].any()
    assert mine[mine["outcome"] == "FVU"]["change"].to_numpy() == pytest.approx(-10)
    verdicts = {c.verdict for c in found.claims if "L1" in c.autoencoder}
    assert ("cannot be tested here" in verdicts) == outside
    runs = grid_of()  # and so is a TopK run of another L0
    runs.loc[(runs["kind"] == "topk") & (runs["strength"] > 0), "L0"] = 31.0
    assert SeparabilityEffects(runs).changes.query("kind == 'topk'")["outside"].all()


def test_the_interval_over_seeds_is_students():
    sample = np.array([0.4, 1.0, 0.7])
    found = seeds_estimate(sample)
    known = stats.ttest_1samp(sample, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((known.low, known.high))
    assert found.p == pytest.approx(stats.ttest_1samp(sample, 0).pvalue) and found.n == 3
    assert seeds_estimate(np.zeros(3)).p == 1 and seeds_estimate(np.ones(3)).p == 0


def test_verdicts_go_by_the_interval_and_the_side_and_words_and_table_say_the_same():
    def verdicts(**options):
        claims = SeparabilityEffects(grid_of(**options)).claims
        return {(c.id.rpartition("-")[2], c.autoencoder): c.verdict for c in claims}

    found = verdicts(factor=0.9)
    assert found["fvu", "L1-ReLU SAE"] == "holds" and found["separates", "L1-ReLU SAE"] == "holds"
    assert found["probing", "TopK SAE"] == "holds" and found["fvu", "TopK SAE"] == "does not hold"
    assert verdicts(factor=1.1)["fvu", "L1-ReLU SAE"] == "does not hold"
    scattered = verdicts(accuracy=(0.3, -0.1, 0.1))
    assert scattered["probing", "TopK SAE"] == "does not hold"
    found = SeparabilityEffects(grid_of(factor=1.1))
    line = next(x for x in found.answer.splitlines() if "L1-ReLU SAE: it lowers the FVU" in x)
    assert "does not hold in 1 of 1" in line and "opposite: 1)" in line and "+10 [" in line
    table = found.table.set_index(["SAE", "outcome"])
    assert table.loc[("L1-ReLU SAE", OUTCOMES["FVU"][0]), "strength 5"].startswith("+10 [")


def test_a_strength_below_zero_is_a_control_and_no_case_of_a_claim():
    runs = grid_of()
    below = runs[runs["strength"] > 0].assign(strength=-5.0)
    both = pd.concat([runs, below])
    cases = [{c.case for c in SeparabilityEffects(table).claims} for table in (both, runs)]
    assert cases[0] == cases[1] == {"TopK SAE (strength 5)", "L1-ReLU SAE (strength 5)"}
    assert effect_of(both, "standard", -5.0, "FVU")["value"] == pytest.approx(-10)


def test_a_run_is_held_against_its_baseline_on_the_loss_that_it_was_trained_on():
    points = [run("topk", s, seed, 32.0, 0.2) for seed in range(3) for s in (0.0, 10.0, 20.0)]
    runs = runs_table(points)
    gains = runs["strength"] == 10
    runs.loc[gains, "loss"] = [103.0, 103.1, 102.9]
    runs.loc[gains, "separability"] = 0.9 * np.e  # gains 10 at strength 10, and pays 3
    runs.loc[runs["strength"] == 20, "loss"] = [103.0, 103.1, 102.9]  # pays 3 for nothing
    ten, twenty = SeparabilityEffects(runs).own_loss.to_dict("records")
    assert ten["change"] == pytest.approx(-7) and ten["better"] == "regularised"
    assert twenty["change"] == pytest.approx(3) and twenty["better"] == "baseline"
    runs.loc[gains, "loss"] = [90.0, 130.0, 110.0]
    assert SeparabilityEffects(runs).own_loss["better"].tolist() == ["undecided", "baseline"]
