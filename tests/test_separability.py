"""Case 3 composed: on the days, and the page end to end."""

import numpy as np
import pandas as pd
import pytest
import torch

from saerepgeo_lib import decoding, downstream, prompts, saes, scaling, separability, structure
from saerepgeo_lib.cli import main
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.files import read_json
from saerepgeo_lib.latents import encode
from saerepgeo_lib.local_representations import cluster_pca, space_of
from saerepgeo_lib.subject import Subject


@pytest.fixture(scope="module")
def topk():
    return {"TopK SAE": saes.load_sae("minilm-l4-topk")}


@pytest.fixture(scope="module")
def concept():
    return prompts.load_concept("days")


@pytest.fixture(scope="module")
def seen(minilm, topk, concept):
    return separability.see(Subject(minilm, topk), concept)


def test_local_representations_are_case_2s_clusters_or_the_entities(minilm, topk, concept, seen):
    sae = topk["TopK SAE"]
    setting = separability.setting(sae, seen)
    codes = encode(sae, seen.residuals.x)
    labels = cluster_pca(space_of(codes.values.double().numpy()))
    assert setting.labels.tolist() == labels.tolist()
    assert setting.mse == pytest.approx(decoding.own_mse(sae, seen.residuals.x, codes), rel=1e-5)
    alone = separability.see(Subject(minilm, topk), concept, grouping="entities")
    groups = separability.setting(sae, alone, grouping="entities")
    assert alone.residuals.entity.all() and len(groups.counts) == 7
    known = structure.groups_of(alone.residuals, concept).entity
    assert groups.labels.tolist() == known.tolist()


def test_shrinkage_is_that_of_the_laws_with_intervals_over_frames(topk, seen):
    setting = separability.setting(topk["TopK SAE"], seen)
    fold = seen.fold(4)
    assert set(fold) == {0, 1, 2, 3}
    row = separability.shrinkage(setting, fold)
    assert row["rho*"] == pytest.approx(scaling.uniform_scaling(setting).optimum)
    assert row["rho* outward"] == pytest.approx(scaling.arrangement_scaling(setting).optimum)
    assert row["low"] < row["rho*"] < row["high"] and row["n"] == 4
    assert row["slope"] == pytest.approx(row["elasticity outward"], rel=0.15)
    assert row["slope low"] < row["slope"] < row["slope high"] and row["slope n"] == 4
    assert 0.8 < row["cosine"] <= 1
    with pytest.raises(UserError, match="at least 3 frames"):
        separability.Seen(
            seen.tokens, seen.residuals, seen.hook, np.zeros(len(fold), dtype=int), seen.entity
        ).fold(12)


def test_downstream_effects_start_from_the_saes_own_reconstruction(minilm, topk, seen):
    sae = topk["TopK SAE"]
    setting = separability.setting(sae, seen)
    clean = downstream.outputs(minilm, seen.tokens, seen.hook, seen.residuals)
    zero = torch.zeros_like(setting.centroids)
    paths = [
        separability.Path(name, "free", shift, pd.DataFrame(), 1.0, 1.0)
        for name, shift in (
            ("push to x 1.5", 0.5 * scaling.outward(setting)),
            ("push to x 0.5", -0.5 * scaling.outward(setting)),
            ("nothing", zero),
        )
    ]
    found = separability.downstream_effects(
        minilm, sae, seen, setting, paths, clean, n_bootstrap=200
    ).set_index("path")
    x = seen.residuals.x
    own = downstream.outputs(
        minilm, seen.tokens, seen.hook, seen.residuals, sae.decode(sae.encode(x)).detach()
    )
    expected = downstream.effect(clean, own).mean().item()
    assert found.loc["as encoded", "effect"] == pytest.approx(expected, abs=1e-4)
    assert found.loc["nothing", "effect"] == pytest.approx(expected, abs=1e-4)
    assert found.loc["push to x 0.5", "effect"] < expected
    assert (found["low"] <= found["effect"]).all() and (found["effect"] <= found["high"]).all()
    text = separability.downstream_text(
        found.reset_index().assign(concept="days", SAE="TopK SAE"), "cosine"
    )
    assert f"as encoded {expected:.3f}" in text


def test_a_case_without_an_interval_says_so():
    rows = pd.DataFrame({"r": [1.0, 2.0], "r low": [0.5, np.nan], "r high": [1.5, np.nan]})
    shown = separability.with_intervals(rows, {"r": ""})["r"]
    assert shown.tolist() == ["1.00 [0.50, 1.50]", "2.00 (no interval)"]


def test_tables_name_their_cases_and_parameters_are_checked():
    table = separability.table({("a", "s"): {"x": 1}, ("b", "s"): {"x": 2}})
    assert table.to_dict("list") == {"concept": ["a", "b"], "SAE": ["s", "s"], "x": [1, 2]}
    assert separability.table({}).empty
    rows = pd.DataFrame({"r": [1.0], "low x": [0.5], "high x": [2.0], "s": [3.0], "s low": [2.0],
                         "s high": [4.0]})  # fmt: skip
    shown = separability.with_intervals(rows, {"r": " x", "s": ""}).iloc[0]
    assert shown["r"] == "1.00 [0.50, 2.00]" and shown["s"] == "3.00 [2.00, 4.00]"
    good = {
        "concept": "days", "grouping": "clusters", "min_cluster_size": 10, "mse_weight": 1.0,
        "step": 0.2, "n_steps": 80, "n_bootstrap": 100, "n_groups": 12, "n_walks": 5,
    }  # fmt: skip
    separability.check_parameters(**good)
    for name, value in (("concept", " , "), ("grouping", "words"), ("min_cluster_size", 1),
                        ("mse_weight", -1), ("mse_weight", float("nan")), ("step", 0),
                        ("step", float("nan")), ("n_steps", 1), ("n_bootstrap", 3),
                        ("n_groups", 2), ("n_walks", 0)):  # fmt: skip
        with pytest.raises(UserError, match=name):
            separability.check_parameters(**{**good, name: value})


@pytest.mark.slow
def test_the_page_runs_and_the_same_seed_gives_the_same_record(tmp_path):
    quick = ["-p", "concept", "days", "-p", "n_steps", "6", "-p", "n_bootstrap", "50",
             "-p", "n_walks", "2"]  # fmt: skip
    records = []
    for name in ("a", "b"):
        assert main(["run", "intervention", *quick, "-o", str(tmp_path / name)]) == 0
        (path,) = (tmp_path / name).glob("*/*.record.json")
        records.append(read_json(path))
    first, second = ({k: v for k, v in r.items() if k != "run"} for r in records)
    assert first == second
    assert {c["id"] for c in first["claims"]} == {
        "case3-separability-helps", "case3-own-effect", "case3-correlation", "case3-shrinks",
        "case3-explained", "case3-artefact"}  # fmt: skip
    assert {"shrinkage", "dose_response", "paths", "walks", "downstream", "shrinkage_changed",
            "random_pair"} <= set(first["tables"])  # fmt: skip
