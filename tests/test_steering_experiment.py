"""Case 3 composed, on part of the days, and its public call."""

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pandas as pd
import pytest
import torch
from planted_latents import random_latents
from refusals import refused

import saerepgeo_lib as srg
from saerepgeo_lib.activations import saes
from saerepgeo_lib.activations.latents import encode
from saerepgeo_lib.activations.token_activations import TokenActivations
from saerepgeo_lib.geometry.clusters import cluster_pca
from saerepgeo_lib.geometry.points import principal_coordinates
from saerepgeo_lib.steering import downstream, scaling
from saerepgeo_lib.steering.dose_response import LEAST, PUSH, UNIFORM
from saerepgeo_lib.steering.optimise import Path
from saerepgeo_lib.studies import steering_experiment as experiment
from saerepgeo_lib.studies.case3_verdict import downstream_text, judge_steering
from saerepgeo_lib.studies.steering_experiment import NOTHING, SteeringExperiment, cases_of

TOPK = "TopK SAE"


@pytest.fixture(scope="module")
def acts(minilm, one_thread):
    """Half of the days' sentences, as a model with one SAE reads them."""
    model = srg.ModelWithSAEs(minilm, {TOPK: saes.load_sae("minilm-l4-topk")})
    days = srg.load_concepts()["days"]
    return model.activations(replace(days, prompts=days.prompts[:42]))


@pytest.fixture(scope="module")
def case(acts):
    return cases_of([acts])["days", TOPK]


def planted(**options):
    """Two planted cases: 27 tokens of 9 prompts, which have 3 frames."""
    prompts = tuple(srg.Prompt(f"{i}", frame=f"{i % 3}", entity="e") for i in range(9))
    places = torch.arange(27)
    acts = TokenActivations(torch.zeros(27, 5), places % 9, places // 9, places < 0,
                            concept=srg.Concept("planted", prompts))  # fmt: skip
    cases = {("planted", label): experiment.Case(acts, None, random_latents(seed=seed))
             for seed, label in enumerate(("SAE", NOTHING))}  # fmt: skip
    return SteeringExperiment(cases, n_groups=3, n_steps=3, n_bootstrap=40, n_walks=1, **options)


def test_local_representations_are_case_2s_clusters_or_the_entities(acts, case, caplog, unchecked):
    sae = acts.source.saes[TOPK]
    z = encode(sae, acts.x).values.double().numpy()
    assert case.latents.labels.tolist() == cluster_pca(principal_coordinates(z)).tolist()
    error = (acts.x - sae.decode(sae.encode(acts.x))).square().mean().item()
    assert case.latents.mse == pytest.approx(error, rel=1e-5)
    by_entity = cases_of([acts], grouping="entities")["days", TOPK]
    assert by_entity.acts.in_entity.all()
    assert by_entity.latents.labels.tolist() == by_entity.acts.entity.tolist()
    # Only the control may have no clusters.
    refused("unknown grouping", cases_of, [acts], grouping="words")
    few = acts.rows(acts.prompt < 2)
    refused("at least 2 clusters", cases_of, [few])
    assert cases_of([few], saes={NOTHING: acts.source.saes[TOPK]}) == {}
    assert "days, random SAE, random model is left out: an arrangement needs" in caplog.text


def test_shrinkage_is_that_of_the_laws_with_intervals_over_frames(acts, case):
    fold = acts.folds(4)
    assert set(fold) == {0, 1, 2, 3}
    (row,) = SteeringExperiment({("days", TOPK): case}, n_groups=4).shrinkage.to_dict("records")
    assert (row["concept"], row["SAE"], row["n"], row["slope n"]) == ("days", TOPK, 4, 4)
    assert row["rho*"] == scaling.uniform_scaling(case.latents).optimum
    assert row["rho* outward"] == scaling.arrangement_scaling(case.latents).optimum
    assert row["low"] < row["rho*"] < row["high"]
    assert row["slope"] == pytest.approx(row["elasticity outward"], abs=0.02)
    assert row["slope low"] < row["slope"] < row["slope high"] and 0.8 < row["cosine"] <= 1
    refused("at least 3 frames", acts.rows(torch.from_numpy(acts.frame < 2)).folds, 12)


def test_downstream_effects_start_from_the_saes_own_reconstruction(acts, case):
    out = scaling.outward(case.latents)
    paths = [Path(name, "free", length * out, pd.DataFrame(), 1.0, 1.0)
             for name, length in (("nothing", 0.0), ("push to x 0.5", -0.5))]  # fmt: skip
    table = downstream.effects(case.sae, acts, case.latents, paths, n_bootstrap=200)
    rows = table.set_index("path")
    whole = downstream.outputs(acts, case.sae.decode(case.sae.encode(acts.x)).detach())
    expected = downstream.effect(downstream.outputs(acts), whole).mean().item()
    np.testing.assert_allclose(rows["effect"][:2], expected, atol=1e-4)
    assert rows.loc["push to x 0.5", "effect"] < expected
    assert (rows["low"] <= rows["effect"]).all() and (rows["effect"] <= rows["high"]).all()
    quick = SteeringExperiment({("days", TOPK): case}, n_steps=2, n_bootstrap=40)
    assert list(quick.downstream(1)["path"]) == ["as encoded", *experiment.DOWNSTREAM]
    assert quick.downstream(0).empty
    text = downstream_text(table.assign(concept="days", SAE=TOPK), "cosine")
    assert f"- days, {TOPK}, cosine: as encoded {expected:.3f}" in text


def test_every_table_and_finding_comes_again_from_the_same_seed():
    judged = [PUSH["valid"], LEAST["free"], LEAST["valid"]]
    one, same, other = (planted(dose_paths=judged, seed=seed) for seed in (1, 1, 2))
    for name in ("shrinkage", "paths", "dose_response", "shrinkage_changed", "correlations",
                 "walks", "random_pair"):  # fmt: skip
        table = getattr(one, name)
        assert len(table) and (name == "random_pair" or {"concept", "SAE"} <= set(table.columns))
        pd.testing.assert_frame_equal(table, getattr(same, name), check_exact=True)
    assert not one.walks["AEDP"].equals(other.walks["AEDP"])
    assert set(one.responses["SAE"]) == {"SAE"} < set(one.dose_response["SAE"])
    claims = judge_steering(one, tokens="entity")
    assert claims == judge_steering(same, tokens="entity")
    assert {c.tokens for c in claims} == {"entity"} and {c.id for c in claims} == {
        "case3-separability-helps", "case3-own-effect", "case3-correlation", "case3-shrinks",
        "case3-explained", "case3-artefact"}  # fmt: skip


def test_the_changed_shrinkage_starts_from_the_original_and_follows_the_paths_asked_for():
    whole = planted()
    reconstructed = whole._reconstructed["planted", "SAE"]
    assert any(path is reconstructed for path in whole.trajectories["planted", "SAE"])
    changed = whole.shrinkage_changed.groupby("shrinkage")["path"].unique().map(list)
    pushed, least = PUSH["valid"], LEAST["valid"]
    assert changed.to_dict() == {experiment.TAKEN: [pushed, least], experiment.PLANTED: [pushed]}
    few = planted(dose_paths=[pushed])
    assert set(few.shrinkage_changed["path"]) == set(few.dose_response["path"]) == {pushed}
    row = few.responses.query("dose == 1.2").iloc[0]
    says = f"SAE: AEDP x {row['AEDP']:.2f}, MSE x {row['MSE']:.3f}"
    assert few.frame("planted", 1.2).says == says


def test_nothing_is_learned_in_the_control(acts):
    learned = srg.load("minilm").activations(acts.concept).at("entity")
    control = experiment.nothing_learned(learned, seed=1)
    (sae,) = control.saes.values()
    assert list(control.saes) == [NOTHING] and sae.cfg.d_sae == acts.source.saes[TOPK].cfg.d_sae
    assert not sae.b_dec.any()
    ours, theirs = (dict(m.model.named_parameters()) for m in (control, acts.source))
    name = next(n for n in ours if n.endswith("query._original_component.weight"))
    assert not torch.allclose(ours[name], theirs[name])


def test_one_call_gives_the_dose_response_of_a_concept(acts, case):
    options = {"doses": (1.0, 1.2), "paths": [PUSH["valid"], UNIFORM], "n_groups": 4}
    result = srg.dose_response(acts, n_bootstrap=40, **options)
    rows = result.table[result.table["dose"] == 1.2]
    assert list(rows["path"]) == options["paths"] and set(result.table["SAE"]) == {TOPK}
    law = scaling.uniform_scaling(case.latents)
    assert rows["MSE"].iloc[1] == pytest.approx(law.mse(1.2) / law.mse(1))
    assert repr(result) == (
        "DoseResponse of days: pushed, valid to 1.2 times the separability, the error is "
        f"{rows['MSE'].iloc[0]:.2f} (TopK SAE) of what it was\n"
        f"rho*, above 1 where the SAE shrinks: {law.optimum:.2f} (TopK SAE); FVU up to 0.33"
    )
    for path, title in ((None, PUSH["valid"]), (UNIFORM, UNIFORM)):
        ax = result.plot(path=path)
        assert result.plot(ax, path=path) is ax
        assert ax.get_title(loc="left") == f"days: {title}"
        drawn = result.table.loc[result.table["path"] == title, "MSE"]
        np.testing.assert_array_equal(ax.lines[0].get_ydata(), drawn)
    refused("unknown path", result.plot, path="pushed")
    with pytest.raises(FrozenInstanceError):
        result.concept = "months"
    refused(r"saes=\{label: SAE\}", srg.dose_response, replace(acts, source=None))
