"""Case 2: local and global representations, on data with known answers and on tokens."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.distance import pdist

from saerepgeo_lib import (
    clusters,
    local_representations,
    prompts,
    residuals,
    structure,
    structure_table,
    synthetic,
    tokens,
)
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.local_representations import cluster_authors, cluster_pca, space_of, stability
from saerepgeo_lib.noise_sweep import RESIDUAL
from saerepgeo_lib.points import NotEstimable
from saerepgeo_lib.statistics import subsampled

HOOK = "blocks.4.hook_out"


def planted(k=4, n=80, d=3, apart=6.0, seed=0):
    return synthetic.pieces(k, n, d, ambient=40, separation=apart, random_state=seed)


def test_principal_coordinates_keep_all_distances_and_the_share_of_variance():
    for shape in ((30, 8), (8, 30)):
        x = np.random.default_rng(0).normal(size=shape) * np.logspace(0, -1, shape[1]) + 4
        space = space_of(x, variance=0.8)
        np.testing.assert_allclose(pdist(space.full), pdist(x), rtol=1e-6)
        energy = np.square(space.full).sum(0)
        share = np.cumsum(energy) / energy.sum()
        c = space.reduced.shape[1]
        assert share[c - 1] >= 0.8 and (c == 1 or share[c - 2] < 0.8)
        turned = x @ np.linalg.qr(np.random.default_rng(1).normal(size=(shape[1],) * 2))[0]
        np.testing.assert_allclose(pdist(space_of(turned, variance=0.8).reduced),
                                   pdist(space.reduced), rtol=1e-6)  # fmt: skip
    with pytest.raises(UserError, match="all the same"):
        space_of(np.ones((5, 3)))
    with pytest.raises(UserError, match="NaN"):
        space_of(np.full((5, 3), np.nan))


@pytest.mark.parametrize(("k", "d"), [(3, 2), (5, 3)])
def test_the_whole_pipeline_returns_planted_components_and_dimensions(k, d):
    cloud = planted(k, 100, d)
    space = space_of(cloud.points)
    groups = structure.Groups(cloud.piece, np.arange(len(cloud.piece)) % 6)
    table = structure.measure_spaces({"planted": space}, groups, n_subsamples=4)
    full = table[table["subsample"] == -1].set_index("measure")["value"]
    assert full["Betti-0, HDBSCAN"] == full["Betti-0, H0"] == k
    assert full["avg. ID, TwoNN"] == pytest.approx(d, rel=0.15)  # calibrated: n = 100, no noise
    assert full["avg. ID, MLE"] == pytest.approx(d, rel=0.2)
    assert full["homogeneity"] == full["completeness"] == full["AMI"] == 1
    assert full["not estimable"] == 0
    radius = np.sqrt(np.square(space.full).sum(1).mean())
    assert full["MSTW of entities"] == pytest.approx((k - 1) * 6 / radius, rel=0.05)
    assert full["AEDP of entities"] == pytest.approx(6 / radius, rel=0.05)


@pytest.mark.slow
def test_the_authors_pipeline_finds_planted_pieces_and_repeats_itself():
    cloud = planted(4, 30)
    first, again = (cluster_authors(cloud.points, [3, 5]) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert one.points.shape == (120, 50)
        np.testing.assert_array_equal(one.points, other.points)
        assert clusters.n_clusters(one.labels) == 4
    assert not np.array_equal(first[0].points, first[1].points)
    assert stability([run.labels for run in first]) > 0.9
    found = structure.seeds_table({"planted": first}, cloud.piece).iloc[0]
    assert (found["fewest"], found["most"], found["seeds"]) == (4, 4, 2)
    with pytest.raises(UserError, match="at least 60 tokens"):
        cluster_authors(cloud.points[:50], [0])


def test_stability_is_1_for_renamed_clusters_and_near_0_for_unrelated_ones():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 4, 400)
    assert stability([a, 3 - a]) == pytest.approx(1)
    assert abs(stability([a, rng.integers(0, 4, 400), rng.integers(0, 4, 400)])) < 0.02
    with pytest.raises(UserError, match="at least two"):
        stability([a])


def test_local_measures_by_hand():
    x = np.concatenate([np.arange(10.0), np.arange(100.0, 110)])[:, None] * [1.0, 0.0]
    labels = np.repeat([0, 1], 10)
    entity = np.array([0] * 5 + [1] * 5 + [2] * 5 + [-1] * 5)
    found = structure.local_measures(x, labels, entity)
    radius = np.sqrt(np.square(x[:, 0] - x[:, 0].mean()).mean())
    assert found["MSTW"] == pytest.approx(100 / radius)
    # clusters {0, 1} and {2}: H(entity) = log 3, H(entity | cluster) = 2/3 log 2
    assert found["homogeneity"] == pytest.approx(1 - (2 / 3 * np.log(2)) / np.log(3))
    assert found["completeness"] == pytest.approx(1)
    assert (found["Betti-0, HDBSCAN"], found["unclustered"]) == (2, 0)
    none = structure.local_measures(x, np.full(20, -1), entity)
    assert none["Betti-0, HDBSCAN"] == 0 and none["unclustered"] == 1
    assert np.isnan(none["avg. ID, TwoNN"]) and np.isnan(none["homogeneity"])
    few = structure.local_measures(x, np.where(np.arange(20) < 3, 0, labels + 1), entity)
    assert few["not estimable"] == 1  # a cluster of three points is refused and counted


def test_scale_and_rotation_change_no_measure():
    cloud = planted(3, 30)
    groups = structure.Groups(cloud.piece, np.zeros(len(cloud.piece), dtype=int))
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(40, 40)))[0]
    one, other = (structure.measures(space_of(x), groups)
                  for x in (cloud.points, 9 * cloud.points @ turn + 1))  # fmt: skip
    assert other.pop("radius") == pytest.approx(9 * one.pop("radius"))
    for name, value in one.items():
        assert other[name] == pytest.approx(value, rel=1e-6), name


def test_clusters_are_matched_by_their_tokens_not_by_their_numbers():
    a = np.array([0, 0, 0, 1, 1, 1, 2, 2, -1])
    b = np.array([5, 5, 3, 3, 3, 3, 9, -1, 9])
    assert structure.match_clusters(a, b) == [(0, 5), (1, 3), (2, 9)]
    assert structure.match_clusters(a, np.full(9, -1)) == []


def test_procrustes_of_a_turned_space_is_0_and_of_an_unrelated_one_is_no_match():
    cloud = planted(6, 20)
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(40, 40)))[0]
    spaces = {RESIDUAL: space_of(cloud.points), "turned": space_of(cloud.points @ turn * 3),
              "noise": space_of(rng.normal(size=(120, 40)))}  # fmt: skip
    groups = structure.Groups(cloud.piece, np.zeros(120, dtype=int))
    found = structure.procrustes_table(spaces, groups).set_index("space")
    assert found.loc["turned", ["tokens", "entities", "clusters"]].astype(float).max() < 1e-9
    assert found.loc["turned", "matched"] == 6
    assert found.loc["noise", "tokens"] > 0.5 and found.loc["noise", "p"] > 0.01


def test_a_circle_in_order_is_recognised_in_both_senses_and_a_shuffled_one_is_not():
    angle = 2 * np.pi * np.arange(12) / 12
    ring = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    entity = np.arange(12).repeat(5)
    noise = 0.1 * np.random.default_rng(0).normal(size=(60, 3))
    for means in (ring, ring[::-1], ring @ np.diag([1, -1, 1]) + 7):
        found = structure.entity_circle(means[entity] + noise, entity)
        assert found.order > 0.98 and found.p <= 0.01
    shuffled = ring[[0, 6, 3, 9, 1, 7, 4, 10, 2, 8, 5, 11]]
    found = structure.entity_circle(shuffled[entity] + noise, entity)
    assert found.order < 0.6 and found.p > 0.05
    with pytest.raises(UserError, match="at least 4"):
        structure.entity_circle(ring[:3], np.arange(3))


def test_the_interval_of_subsamples_covers_a_mean_and_knows_its_formula():
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(300):
        x = rng.normal(size=12)
        halves = np.array([x[rng.permutation(12)[4:]].mean() for _ in range(10)])
        found = subsampled(x.mean(), halves, n=12, deleted=4)
        hits.append(found.low <= 0 <= found.high)
    assert 0.9 <= np.mean(hits) <= 0.99
    exact = subsampled(3.0, np.array([1.0, 2.0, 3.0]), n=12, deleted=4)
    assert exact.high - exact.value == pytest.approx(4.302653 * np.sqrt(2 * 1.0))
    assert subsampled(2.0, np.ones(5), n=9, deleted=3).p == 0  # no variation: certain
    assert subsampled(0.0, np.ones(5), n=9, deleted=3).p == 1
    for bad in (np.ones(2), np.array([1.0, np.nan, 2.0])):
        with pytest.raises(UserError, match="finite"):
            subsampled(1.0, bad, n=12, deleted=4)
    with pytest.raises(UserError, match="deleted"):
        subsampled(1.0, np.ones(5), n=4, deleted=4)


def samples(**by_space):
    """A table of one measure per direction: full value and replicates that differ a little."""
    rows = []
    for space, value in by_space.items():
        for measure, _ in structure.DIRECTIONS.values():
            for i in range(-1, 8):
                rows.append((space.replace("_", " "), measure, i, value + 0.01 * i * (i % 3)))
    return pd.DataFrame(rows, columns=["space", "measure", "subsample", "value"])


def test_verdicts_follow_sign_and_interval():
    table = samples(residual=5.0, SAE=7.0, dense_AE=5.0, random_SAE=9.0)
    table.loc[table["space"] == "SAE", "value"] += (
        0.02 * table.loc[table["space"] == "SAE", "subsample"]
    )
    claims = structure.judge(table, concept="c", sparse=["SAE"], n_frames=12)
    verdict = {(c.id, c.statistic, c.subject.partition(" minus ")[2]): c.verdict for c in claims}
    for claim, (measure, sign) in structure.DIRECTIONS.items():
        assert verdict[claim, measure, RESIDUAL] == ("holds" if sign > 0 else "does not hold")
        assert verdict["case2-learned", measure, "random SAE"] == (
            "does not hold" if sign > 0 else "holds"
        )
    agreed = structure.agreement(claims).set_index(["claim", "against"])
    up = agreed.loc[("case2-dimension-up", "residual")]
    assert (up["cases"], up["claimed sign"], up["beyond chance"]) == (1, 1, 1)
    merged = agreed.loc[("case2-merging", "residual")]
    assert (merged["beyond chance"], merged["opposite beyond chance"]) == (0, 1)
    text = structure_table.verdict_text(structure.agreement(claims))
    assert "**Local dimensionality rises**" in text and "0 of 1 exceed the random encoder" in text
    drawn = structure_table.differences(claims, RESIDUAL)
    assert drawn["value"].round(6).tolist() == [2.0 - 0.02] * 5  # at all tokens


def test_an_undefined_measure_cannot_be_tested():
    table = samples(residual=5.0, SAE=7.0)
    table.loc[(table["measure"] == "homogeneity") & (table["subsample"] == 3), "value"] = np.nan
    claims = structure.judge(table, concept="c", sparse=["SAE"], n_frames=12)
    by_id = {c.id: c.verdict for c in claims}
    assert by_id["case2-merging"] == "cannot be tested here"
    assert isinstance(structure.estimate(table, "homogeneity", "SAE", n_frames=12), NotEstimable)
    with pytest.raises(UserError, match="at least 3 frames"):
        structure.measure_spaces(
            {"a": space_of(planted().points)},
            structure.Groups(np.zeros(320, dtype=int), np.arange(320) % 2),
        )


@pytest.fixture(scope="module")
def days_concept():
    concept = prompts.load_concept("days")
    return dataclasses.replace(concept, prompts=concept.prompts[::2])


def measured(model, sae, concept, coded, batch_size):
    found = residuals.compute_residuals(model, coded, HOOK, batch_size=batch_size)
    groups = structure.Groups(np.where(found.entity, 1, -1), (found.prompt.numpy() % 6).astype(int))
    spaces = {RESIDUAL: space_of(found.x.double().numpy())}
    return structure.measure_spaces(spaces, groups, n_subsamples=3)


def test_padding_batches_and_masked_positions_change_no_number(minilm, small_sae, days_concept):
    """Longer padding, other batches, and arbitrary ids where there is no token."""
    coded = tokens.tokenize(minilm.tokenizer, days_concept, n_ctx=minilm.cfg.n_ctx)
    rows, width = coded.ids.shape
    generator = torch.Generator().manual_seed(0)
    junk = torch.randint(1000, 20000, (rows, width + 9), generator=generator)
    wide = {
        name: torch.cat([getattr(coded, name), torch.zeros(rows, 9, dtype=torch.bool)], 1)
        for name in ("attention", "content", "entity")
    }
    ids = torch.cat([coded.ids, torch.zeros(rows, 9, dtype=coded.ids.dtype)], 1)
    ids = torch.where(wide["attention"], ids, junk)
    other = tokens.Tokens(ids, **wide)
    plain = measured(minilm, small_sae, days_concept, coded, 64)
    same_batches = measured(minilm, small_sae, days_concept, other, 64)
    pd.testing.assert_frame_equal(plain, same_batches)  # identical, bit for bit
    small_batches = measured(minilm, small_sae, days_concept, other, 5)
    counts = plain["measure"].str.startswith("Betti")
    assert plain.loc[counts, "value"].equals(small_batches.loc[counts, "value"])
    np.testing.assert_allclose(small_batches["value"], plain["value"], rtol=1e-3, equal_nan=True)


def test_a_view_knows_its_tokens(minilm, days_concept):
    from saerepgeo_lib import presets, saes

    source = presets.get_preset("minilm").saes
    loaded = {label: saes.load_sae(s) for label, s in source.items() if "TopK" in label}
    seen = structure_table.view(minilm, loaded, list(loaded), days_concept)
    assert list(seen.spaces) == [RESIDUAL, *loaded, *(f"random {x}" for x in loaded)]
    assert {w.lower() for w, own in zip(seen.words, seen.known, strict=True) if own} == {
        name.lower() for name in seen.entities
    }
    assert "[PAD]" not in seen.words and "[CLS]" not in seen.words
    assert seen.n_frames == len({p.frame for p in days_concept.prompts})
    words = structure_table.cluster_words(seen, cluster_pca(seen.spaces[RESIDUAL]))
    assert (words["tokens"] >= clusters.MIN_CLUSTER_SIZE).all()
    assert local_representations.VARIANCE == 0.9


def test_parameters_that_cannot_be_used_are_refused():
    ok = {"concept": "days, months", "umap_concepts": "days", "min_cluster_size": 5,
          "n_subsamples": 3, "n_seeds": 2}  # fmt: skip
    structure_table.check_parameters(**ok)
    for name, bad in (("concept", " "), ("umap_concepts", "color"), ("min_cluster_size", 1),
                      ("n_subsamples", 2), ("n_seeds", 1)):  # fmt: skip
        with pytest.raises(UserError, match=name):
            structure_table.check_parameters(**{**ok, name: bad})
