"""Differences between the authors' public code and ours: known answers on planted latents."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from planted_latents import random_latents, simplex_latents
from run_page import few_days

from saerepgeo_lib.activations import saes
from saerepgeo_lib.activations.model_with_saes import ModelWithSAEs
from saerepgeo_lib.activations.token_activations import TokenActivations
from saerepgeo_lib.activations.tokens import Tokens
from saerepgeo_lib.steering.latents import PAPER_SCALES, unsteered
from saerepgeo_lib.studies import differences
from saerepgeo_lib.studies import differences_verdict as verdict
from saerepgeo_lib.studies.differences import CONTENT, EVERY, PADDED


def test_walks_are_ratios_to_the_unedited_latents_and_each_error_picks_its_own_best_iterate():
    latents = random_latents()
    walks = differences.walks(latents, n_walks=2, seed=3)
    raw = differences.random_walk.walks(latents, n_walks=2, seed=3)
    np.testing.assert_allclose(walks["own"] * latents.mse, raw["own"])
    scored = unsteered(latents).mse("z-scored").item()
    np.testing.assert_allclose(walks["z-scored"] * scored, raw["z-scored"])
    walk = pd.DataFrame({
        "SAE": "s", "walk": 7, "iterate": [0, 1, 2, 3], "AEDP": [1.0, 1.1, 1.2, 1.3],
        "own": [1.1, 1.2, 1.4, 1.5], "z-scored": [0.9, 0.8, 0.6, 0.7],
    })  # fmt: skip
    picked = differences.picked(walk)
    by_measure = picked.set_index("measure")[["best", "last", "iterate", "AEDP", "mean"]]
    assert by_measure.loc["own"].tolist() == pytest.approx([1.1, 1.5, 0, 1.0, 1.3])
    assert by_measure.loc["z-scored"].tolist() == pytest.approx([0.6, 0.7, 2, 1.2, 0.75])
    said = verdict.said_of_picking(picked)
    assert said.changes and "s -40% z-scored, +10% its own" in said.text
    both = differences.picked(walk.assign(own=walk["z-scored"]))
    assert not verdict.said_of_picking(both).changes


def test_one_over_aedp_falls_where_the_true_distance_has_its_least_value():
    """Two arrangements that are the same simplex: d_GW is 0 at scale 1, and of shapes always."""
    losses = differences.distance_losses(simplex_latents(k=5))
    np.testing.assert_allclose(losses["AEDP"], PAPER_SCALES)
    np.testing.assert_allclose(losses["1 / AEDP"] * losses["AEDP"], 1)
    # All distances are 1 in units of AEDP, so the squared difference is (1 - rho)^2 off-diagonal.
    np.testing.assert_allclose(losses["d_GW"], (1 - np.array(PAPER_SCALES)) ** 2 * 4 / 5, atol=1e-9)
    np.testing.assert_allclose(losses["d_GW of shapes"], 0, atol=1e-9)
    ends = pd.DataFrame({"SAE": ["s"], "procedure": [differences.GW], "AEDP": [1.0]})
    said = verdict.said_of_distance(losses.assign(SAE="s"), ends)
    assert said.changes and "2 of 4 steps" in said.text
    shapes = differences.distance_losses(random_latents())["d_GW of shapes"]
    np.testing.assert_allclose(shapes, shapes[0], rtol=1e-6)  # which know no scale
    assert shapes[0] > 1e-4


def test_gradients_lower_the_errors_that_are_shares_of_the_variance():
    latents = random_latents()
    ends = differences.gradients(latents, n_steps=12).set_index(["procedure", "kind"])
    assert len(ends) == 4
    assert ends.loc[(differences.ERROR_ALONE, "free"), "own"] < 1
    assert ends.loc[(differences.SEPARATE, "free"), "AEDP"] > 1
    errors = differences.standardising(latents)
    spread = (latents.x - latents.x.mean(0)).square().mean().item()
    assert errors["own"] == pytest.approx(latents.mse / spread)
    decoded, target = unsteered(latents).standardised()
    error = (target - latents.decoder.bias - decoded).square().mean()
    variance = (target - target.mean(0)).square().mean()
    assert errors["z-scored"] == pytest.approx((error / variance).item())
    assert errors["factor"] == pytest.approx(errors["z-scored"] / errors["own"])
    sizes = latents.z.abs()
    assert errors["below"] == pytest.approx((sizes[latents.z != 0] < 0.01).double().mean().item())
    assert errors["median"] == pytest.approx(sizes.flatten().median().item())


def test_free_edits_are_dense_and_negative_and_valid_ones_are_not():
    latents = random_latents(k=4, per=6, width=24)
    # Sparser: each token keeps its three largest latents.
    kept = latents.z >= latents.z.topk(3, dim=1).values[:, -1:]
    sparse = replace(latents, z=latents.z * kept)
    table = differences.validity(sparse, 1.2, seed=1)
    codes = table.set_index("code")
    np.testing.assert_allclose(codes["AEDP"], [1, 1.2, 1.2, 1.2], atol=5e-3)
    assert codes.loc["as encoded", ["MSE", "L0", "negative"]].tolist() == pytest.approx([1, 3, 0])
    assert codes.loc["free, random", "L0"] == 24 and codes.loc["free, random", "negative"] > 0.2
    assert codes.loc["free, gradient", "negative"] > 0
    assert codes.loc["valid, gradient", "L0"] <= 3 and codes.loc["valid, gradient", "negative"] == 0
    assert verdict.said_of_validity(table).changes
    assert not verdict.said_of_validity(table.assign(L0=3.0, negative=0.0)).changes


def test_clusters_without_content_are_counted_and_the_others_compared():
    rng = np.random.default_rng(0)
    cloud = np.repeat(20 * np.eye(4, 6), 15, axis=0) + 0.1 * rng.normal(size=(60, 6))
    content = torch.tensor([True, True, True, False]).repeat_interleave(15)[:, None]
    tokens = Tokens(torch.zeros(60, 1, dtype=torch.long), content, content, content & False)
    rows = torch.arange(60)
    known = {"tokens": tokens, "source": SimpleNamespace(sparse=[], saes={})}
    every = TokenActivations(torch.from_numpy(cloud), rows, 0 * rows, content[:, 0], **known)
    choices = {CONTENT: every.rows(content[:, 0]), PADDED: every}
    table = differences.clusterings(choices, min_cluster_size=10)
    assert table["clusters"].tolist() == [3, 4] and table["without content"].tolist() == [0, 1]
    np.testing.assert_allclose(table["agreement"], 1)
    assert set(table["space"]) == {"residual"} and table["rows"].tolist() == [45, 60]
    said = verdict.said_of_masking(table)
    assert said.changes and "grouped alike" in said.text
    alike = table.assign(**{"without content": 0})
    assert not verdict.said_of_masking(alike).changes
    apart = verdict.said_of_masking(alike.assign(agreement=0.5))
    assert apart.changes and "grouped otherwise" in apart.text


def test_a_profile_saturates_where_it_reaches_95_per_cent():
    def table(ranks):
        rows = [("L", 3, level, seed, "relative", rank)
                for level, rank in zip((0, 0.1, 1, 10), ranks, strict=True)
                for seed in (0, 1)]  # fmt: skip
        return pd.DataFrame(rows, columns=["label", "mode", "level", "seed", "rule", "rank"])

    grows = {"relative": table([10, 50, 96, 100]), "absolute": table([10, 95, 100, 99])}
    saturation = differences.saturation(grows)
    assert saturation["saturates at"].tolist() == [1, 0.1]
    assert (saturation["clean"] == 10).all() and (saturation["range at level 0"] == 0).all()
    said = verdict.said_of_scaling(saturation, 0.5)
    assert said.changes and "L 0.1 against 1" in said.text and "relative one of 2;" in said.text
    flat = differences.saturation({"relative": table([10] * 4), "absolute": table([10] * 4)})
    assert not verdict.said_of_levels(flat).changes
    assert not verdict.said_of_scaling(flat, 0.5).changes


def test_everything_is_measured_on_tokens_of_a_model_and_said_in_one_table(minilm):
    sae = saes.load_sae("minilm-l4-topk")
    acts = ModelWithSAEs(minilm, {"TopK SAE": sae}).activations(few_days())
    choices = differences.token_choices(acts)
    assert list(choices) == [CONTENT, EVERY, PADDED]
    content, attention = acts.tokens.content, acts.tokens.attention
    sizes = [int(content.sum()), int(attention.sum()), attention.numel()]
    assert [len(chosen) for chosen in choices.values()] == sizes
    for chosen in choices.values():
        inside = content[chosen.prompt, chosen.position]
        torch.testing.assert_close(chosen.x[inside], choices[CONTENT].x)
    tables = differences.steering_differences(
        acts, min_cluster_size=4, mse_weight=1.0, n_steps=2, n_walks=1, dose=1.2, seed=0
    )
    tables["clusters"] = differences.clusterings(choices, min_cluster_size=4)
    tables["saturation"], spread = differences.noise_differences(acts, seeds=[0])
    assert [len(tables[name]) for name in ("walks", "picked", "gradients")] == [10, 2, 4]
    assert len(tables["clusters"]) == 6 and len(tables["saturation"]) == 4
    assert (tables["codes"][["concept", "SAE"]] == ("days", "TopK SAE")).all(axis=None)
    findings = verdict.difference_findings(tables, spread)
    assert len(findings) == 8 and all(finding.text for finding in findings)
    figure = differences.plot_procedures(tables["walks"], tables["gradients"])
    assert [ax.get_title() for ax in figure.axes] == [
        "TopK SAE: its own error", "TopK SAE: z-scored error"
    ]  # fmt: skip
