"""Differences between the authors' public code and ours: known answers on planted codes."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from planted_codes import random_setting, simplex_setting

from saerepgeo_lib import differences, differences_verdict
from saerepgeo_lib.cli import main
from saerepgeo_lib.differences import CONTENT, EVERY, PADDED
from saerepgeo_lib.edits import PAPER_SCALES, edit, mse, standardised
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.files import data_dir, read_json
from saerepgeo_lib.noise_sweep import RESIDUAL
from saerepgeo_lib.prompts import load_concept
from saerepgeo_lib.tokens import tokenize


def test_walks_are_ratios_to_the_unedited_code():
    here = random_setting()
    found = differences.walks(here, n_walks=2, seed=3)
    raw = differences.random_walk.walks(here, n_walks=2, seed=3)
    np.testing.assert_allclose(found["own"] * here.mse, raw["own"])
    scored = mse(here, edit(here, torch.zeros_like(here.centroids)), "z-scored").item()
    np.testing.assert_allclose(found["z-scored"] * scored, raw["z-scored"])


def test_the_best_iterate_is_picked_for_each_error_on_its_own():
    walk = pd.DataFrame({
        "walk": 7, "iterate": [0, 1, 2, 3], "AEDP": [1.0, 1.1, 1.2, 1.3],
        "own": [1.1, 1.2, 1.4, 1.5], "z-scored": [0.9, 0.8, 0.6, 0.7],
    })  # fmt: skip
    found = differences.picked(walk).set_index("measure")
    assert found.loc["own", ["best", "last", "iterate", "AEDP"]].tolist() == [1.1, 1.5, 0, 1.0]
    assert found.loc["z-scored", ["best", "last", "iterate", "AEDP"]].tolist() == [0.6, 0.7, 2, 1.2]
    assert found.loc["own", "mean"] == pytest.approx(1.3)
    said = differences_verdict.said_of_picking(found.reset_index().assign(SAE="s"))
    assert said.changes and "s -40% z-scored, +10% its own" in said.text
    both = differences.picked(walk.assign(own=walk["z-scored"])).assign(SAE="s")
    assert not differences_verdict.said_of_picking(both).changes


def test_one_over_aedp_falls_where_the_true_distance_has_its_least_value():
    """Two arrangements that are the same simplex: d_GW is 0 at scale 1, and of shapes always."""
    here = simplex_setting(k=5)
    found = differences.distance_losses(here)
    np.testing.assert_allclose(found["AEDP"], PAPER_SCALES)
    np.testing.assert_allclose(found["1 / AEDP"] * found["AEDP"], 1)
    # All distances are 1 in units of AEDP, so the squared difference is (1 - rho)^2 off-diagonal.
    np.testing.assert_allclose(found["d_GW"], (1 - np.array(PAPER_SCALES)) ** 2 * 4 / 5, atol=1e-9)
    np.testing.assert_allclose(found["d_GW of shapes"], 0, atol=1e-9)
    ends = pd.DataFrame({"SAE": ["s"], "procedure": [differences.GW], "AEDP": [1.0]})
    said = differences_verdict.said_of_distance(found.assign(SAE="s"), ends)
    assert said.changes and "2 of 4 steps" in said.text


def test_shapes_do_not_know_the_scale_of_any_arrangement():
    found = differences.distance_losses(random_setting())["d_GW of shapes"]
    np.testing.assert_allclose(found, found[0], rtol=1e-6)
    assert found[0] > 1e-4


def test_gradients_lower_the_error_and_valid_ones_by_less():
    found = differences.gradients(random_setting(), n_steps=20).set_index(["procedure", "kind"])
    assert len(found) == 4
    assert found.loc[(differences.ERROR_ALONE, "free"), "own"] < 1
    assert found.loc[(differences.SEPARATE, "free"), "AEDP"] > 1


def test_standardised_errors_are_shares_of_the_variance():
    here = random_setting()
    found = differences.standardising(here)
    spread = (here.x - here.x.mean(0)).square().mean().item()
    assert found["own"] == pytest.approx(here.mse / spread)
    decoded, target = standardised(here, edit(here, torch.zeros_like(here.centroids)))
    error = (target - here.decoder.bias - decoded).square().mean()
    variance = (target - target.mean(0)).square().mean()
    assert found["z-scored"] == pytest.approx((error / variance).item())
    assert found["factor"] == pytest.approx(found["z-scored"] / found["own"])
    sizes = here.z.abs()
    assert found["below"] == pytest.approx((sizes[here.z != 0] < 0.01).double().mean().item())
    assert found["median"] == pytest.approx(sizes.flatten().median().item())


def test_free_edits_are_dense_and_negative_and_valid_ones_are_not():
    here = random_setting(k=4, per=6, width=24)
    # Sparser: each token keeps its three largest latents.
    kept = here.z >= here.z.topk(3, dim=1).values[:, -1:]
    sparse = type(here)(here.x, here.z * kept, here.features, here.decoder, here.labels)
    found = differences.validity(sparse, 1.2, seed=1).set_index("code")
    np.testing.assert_allclose(found["AEDP"], [1, 1.2, 1.2, 1.2], atol=5e-3)
    assert found.loc["as encoded", ["MSE", "L0", "negative"]].tolist() == pytest.approx([1, 3, 0])
    assert found.loc["free, random", "L0"] == 24 and found.loc["free, random", "negative"] > 0.2
    assert found.loc["free, gradient", "negative"] > 0
    assert found.loc["valid, gradient", "L0"] <= 3 and found.loc["valid, gradient", "negative"] == 0
    assert differences_verdict.said_of_validity(found.reset_index()).changes
    same = found.reset_index().assign(L0=3.0, negative=0.0)
    assert not differences_verdict.said_of_validity(same).changes


def test_unmasked_choices_hold_the_content_tokens_and_more(minilm):
    concept = load_concept("days")
    coded = tokenize(minilm.tokenizer, concept, n_ctx=minilm.cfg.n_ctx)
    found = differences.token_choices(minilm, coded, "blocks.4.hook_out")
    assert list(found) == [CONTENT, EVERY, PADDED]
    assert len(found[CONTENT].x) == int(coded.content.sum()) and found[CONTENT].content.all()
    assert len(found[EVERY].x) == int(coded.attention.sum())
    assert len(found[PADDED].x) == coded.ids.numel()
    for rows in found.values():
        torch.testing.assert_close(rows.x[rows.content], found[CONTENT].x)


def test_clusters_without_content_are_counted_and_the_others_compared():
    rng = np.random.default_rng(0)
    centres = 20 * np.eye(4, 6)
    cloud = np.repeat(centres, 15, axis=0) + 0.1 * rng.normal(size=(60, 6))
    content = np.repeat([True, True, True, False], 15)
    rows = differences.Rows
    t = torch.from_numpy
    choices = {
        CONTENT: rows(t(cloud[content]), t(content[content])),
        PADDED: rows(t(cloud), t(content)),
    }
    found = differences.clusterings(choices, {}, min_cluster_size=10).set_index("tokens")
    assert found["clusters"].to_dict() == {CONTENT: 3, PADDED: 4}
    assert found["without content"].to_dict() == {CONTENT: 0, PADDED: 1}
    np.testing.assert_allclose(found["agreement"], 1)
    assert (found["space"] == RESIDUAL).all() and found["rows"].tolist() == [45, 60]
    said = differences_verdict.said_of_masking(found.reset_index())
    assert said.changes and "grouped alike" in said.text
    alike = found.reset_index().assign(**{"without content": 0})
    assert not differences_verdict.said_of_masking(alike).changes
    apart = differences_verdict.said_of_masking(alike.assign(agreement=0.5))
    assert apart.changes and "grouped otherwise" in apart.text


def test_a_profile_saturates_where_it_reaches_95_per_cent():
    def table(ranks):
        rows = [("L", 3, level, seed, "relative", rank)
                for level, rank in zip((0, 0.1, 1, 10), ranks, strict=True)
                for seed in (0, 1)]  # fmt: skip
        return pd.DataFrame(rows, columns=["label", "mode", "level", "seed", "rule", "rank"])

    found = differences.saturation(
        {"relative": table([10, 50, 96, 100]), "absolute": table([10, 95, 100, 99])}
    ).set_index("noise")
    assert found["saturates at"].to_dict() == {"relative": 1, "absolute": 0.1}
    assert (found["clean"] == 10).all() and (found["range at level 0"] == 0).all()
    said = differences_verdict.said_of_scaling(found.reset_index(), 0.5)
    assert said.changes and "L 0.1 against 1" in said.text and "relative one of 2;" in said.text
    flat = differences.saturation({"relative": table([10] * 4), "absolute": table([10] * 4)})
    assert not differences_verdict.said_of_levels(flat).changes
    assert not differences_verdict.said_of_scaling(flat, 0.5).changes


def test_the_conclusion_names_both_kinds_and_the_table_is_whole():
    findings = [("A", differences_verdict.Finding("a grows", True)),
                ("B", differences_verdict.Finding("b stays", False))]  # fmt: skip
    text = differences_verdict.conclusion(findings)
    assert "run: A." in text and "do not: B." in text
    rows = [("A", "p", "c", "b"), ("C", "p", "c", "b")]
    lines = differences_verdict.overview(rows, findings, {"C": "why"}).splitlines()
    assert [line.count("|") for line in lines] == [6] * 4
    assert "a grows" in lines[2] and "not measured" in lines[3]
    with pytest.raises(KeyError):
        differences_verdict.overview([("D", "p", "c", "b")], findings, {})


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"concept": "months,days"}, "one concept"), ({"n_seeds": 1}, "n_seeds must be at least 2"),
     ({"dose": 1.0}, "above 1"), ({"dose": float("nan")}, "above 1")],
)  # fmt: skip
def test_parameters_are_checked(wrong, words):
    good = {"concept": "months", "min_cluster_size": 10, "mse_weight": 1.0, "n_steps": 4,
            "n_walks": 1, "n_seeds": 2, "dose": 1.2}  # fmt: skip
    differences.check_parameters(**good)
    with pytest.raises(UserError, match=words):
        differences.check_parameters(**{**good, **wrong})


@pytest.mark.slow
def test_the_page_runs_from_end_to_end(tmp_path):
    days = read_json(data_dir() / "concept_prompts.json")["days"]
    frames = list(dict.fromkeys(p["frame"] for p in days["prompts"]))[:5]
    days["prompts"] = [p for p in days["prompts"] if p["frame"] in frames]
    (tmp_path / "few.json").write_text(json.dumps({"days": days}))
    arguments = ["concept", "days", "prompts_file", str(tmp_path / "few.json"), "n_steps", "4",
                 "min_cluster_size", "4", "n_walks", "1"]  # fmt: skip
    pairs = [x for i in range(0, len(arguments), 2) for x in ("-p", *arguments[i : i + 2])]
    assert main(["run", "differences", *pairs, "-o", str(tmp_path / "out")]) == 0
    (path,) = (tmp_path / "out").glob("*/differences.record.json")
    record = read_json(path)
    findings = record["tables"]["findings"]
    assert len(findings["topic"]) == 8 and all(findings["text"])
    (page,) = (tmp_path / "out").glob("*/differences.ipynb")
    assert "these make a difference in this run: " in page.read_text()
