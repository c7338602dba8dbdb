"""Case 2: local and global representations, on data with known answers and on tokens."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import pdist

from saerepgeo_lib import (
    calibration,
    clusters,
    points,
    presets,
    prompts,
    residuals,
    saes,
    structure,
    structure_table,
    structure_verdict,
    synthetic,
    tokens,
)
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.local_representations import cluster_authors, cluster_pca, space_of, stability
from saerepgeo_lib.noise_sweep import RESIDUAL
from saerepgeo_lib.points import NotEstimable
from saerepgeo_lib.statistics import jackknife
from saerepgeo_lib.subject import Subject

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
    table = structure.measure_spaces({"planted": space}, groups)
    full = table[table["left_out"] == -1].set_index("measure")["value"]
    assert full["Betti-0, HDBSCAN"] == full["Betti-0, H0"] == k
    known = calibration.calibrate_dimensions(
        dimensions=(d,), sizes=(100,), noises=(0,), ambients=(40,), replicates=30
    ).set_index("estimator")
    for name in calibration.DIMENSION_ESTIMATORS:  # the mean of k clusters, as calibrated
        error = 3 * d * known.loc[name, "spread"] * (1 / np.sqrt(k) + 1 / np.sqrt(30))
        assert full[f"avg. ID, {name}"] == pytest.approx(known.loc[name, "mean"], abs=error)
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


def test_jackknife_of_a_mean_is_students_interval_and_of_a_sum_nearly():
    x = np.random.default_rng(0).normal(size=12)
    without = np.array([np.delete(x, i).mean() for i in range(12)])
    found = jackknife(x.mean(), without)
    half = stats.t.ppf(0.975, 11) * stats.sem(x)
    assert (found.low, found.high) == (
        pytest.approx(x.mean() - half),
        pytest.approx(x.mean() + half),
    )
    assert found.p == pytest.approx(stats.ttest_1samp(x, 0).pvalue)
    total = jackknife(x.sum(), x.sum() - x)
    assert (total.high - total.value) / (12 * half) == pytest.approx(
        11 / 12
    )  # as the docstring says
    assert jackknife(-3 * x.mean(), -3 * without).p == pytest.approx(found.p)


def test_jackknife_covers_a_count_that_is_no_sum():
    """Distinct values in 12 groups of draws: the truth is its expectation."""
    rng = np.random.default_rng(0)
    samples = rng.integers(0, 60, (400, 12, 4))
    counts = np.array([len(np.unique(s)) for s in samples])
    hits = []
    for s, count in zip(samples[:200], counts, strict=False):
        left = [len(np.unique(np.delete(s, i, axis=0))) for i in range(12)]
        found = jackknife(float(count), np.array(left, dtype=float))
        hits.append(found.low <= counts.mean() <= found.high)
    assert np.mean(hits) >= 0.9


def test_replicates_that_do_not_vary_give_no_interval_and_bad_ones_are_refused():
    assert "all 5 replicates are equal" in str(jackknife(2.0, np.ones(5)))
    for bad in (np.ones(2), np.array([1.0, np.nan, 2.0])):
        with pytest.raises(UserError, match="finite"):
            jackknife(1.0, bad)


def samples(**by_space):
    """A table of one measure per direction: full value and replicates that differ a little."""
    rows = []
    for k, (space, value) in enumerate(by_space.items()):
        for _, measure, _ in structure_verdict.DIRECTIONS:
            for i in range(-1, 8):
                wobble = 0.01 * ((3 * i + k) % 5) if i >= 0 else 0.0
                rows.append((space.replace("_", " "), measure, i, value + wobble))
    return pd.DataFrame(rows, columns=["space", "measure", "left_out", "value"])


def test_verdicts_follow_sign_and_interval_and_learned_asks_every_control():
    table = samples(residual=5.0, SAE=7.0, dense_AE=5.5, random_SAE=9.0)
    compared = structure_verdict.compare_spaces(table, concept="c", sparse=["SAE"])
    outcome = compared.set_index(["measure", "kind"])["outcome"]
    claims = structure_verdict.judge(compared)
    verdict = {(c.id, c.statistic): c.verdict for c in claims}
    for claim, measure, sign in structure_verdict.DIRECTIONS:
        up = ("claimed", "opposite") if sign > 0 else ("opposite", "claimed")
        assert outcome[measure, "residual"] == outcome[measure, "dense"] == up[0]
        assert outcome[measure, "random"] == up[1]
        assert verdict[claim, measure] == ("holds" if sign > 0 else "does not hold")
        assert verdict["case2-learned", measure] == "does not hold"
    beyond = samples(residual=5.0, SAE=9.5, dense_AE=5.5, random_SAE=9.0)
    compared = structure_verdict.compare_spaces(beyond, concept="c", sparse=["SAE"])
    learned = {c.statistic: c for c in structure_verdict.judge(compared) if c.id == "case2-learned"}
    assert learned["AEDP of entities"].verdict == "holds"
    assert learned["AEDP of entities"].value == pytest.approx(0.5)  # the weakest control
    agreed = structure_verdict.agreement(compared).set_index("measure")
    up, down = agreed.loc["AEDP of entities"], agreed.loc["MSTW of entities"]
    assert (up["cases"], up["tested"], up["claimed"], up["opposite"], up["learned"]) == (
        1,
        1,
        1,
        0,
        1,
    )
    assert (down["claimed"], down["opposite"], down["learned"]) == (0, 1, 1)
    text = structure_verdict.verdict_text(structure_verdict.agreement(compared))
    assert "**Distinctions are amplified**" in text and "same direction: 1 of 1." in text


def test_what_is_undefined_constant_or_at_its_floor_cannot_be_tested():
    table = samples(residual=5.0, SAE=7.0)
    merged = table["measure"] == "homogeneity"
    undefined = table.copy()
    undefined.loc[merged & (table["left_out"] == 3), "value"] = np.nan
    constant = table.copy()
    constant.loc[merged, "value"] = 1.0
    floor = table.copy()
    floor.loc[merged & (table["space"] == "residual"), "value"] *= 0.001
    for case, reason in ((undefined, "undefined"), (constant, "equal"), (floor, "left to merge")):
        compared = structure_verdict.compare_spaces(case, concept="c", sparse=["SAE"])
        row = compared.set_index("measure").loc["homogeneity"]
        assert row["outcome"] == "cannot be tested" and reason in row["note"]
        verdicts = {c.statistic: c.verdict for c in structure_verdict.judge(compared)}
        assert verdicts["homogeneity"] == "cannot be tested here"
    assert isinstance(structure.estimate(undefined, "homogeneity", "SAE"), NotEstimable)
    with pytest.raises(UserError, match="at least 3 frames"):
        structure.measure_spaces(
            {"a": space_of(planted().points)},
            structure.Groups(np.zeros(320, dtype=int), np.arange(320) % 2),
        )


def test_draws_of_a_random_encoder_are_averaged_and_tables_name_why_an_interval_is_missing():
    a, b = planted(3, 30).points, planted(3, 30, seed=1).points
    groups = structure.Groups(np.repeat([0, 1, 2], 30), np.arange(90) % 4)
    one, two = (structure.measures(space_of(x), groups) for x in (a, b))
    spaces = {"random x #1": space_of(a), "random x #2": space_of(b)}
    table = structure.measure_spaces(spaces, groups)
    full = table[table["left_out"] == -1].set_index(["space", "measure"])["value"]
    for name in ("MSTW", "avg. ID, TwoNN", "AEDP of entities"):
        assert full["random x", name] == pytest.approx((one[name] + two[name]) / 2)
    written = structure.structure_table(table).set_index("measure")
    assert "all tokens only" in written.loc["Betti-0, H0", "note"]
    assert "equal" in written.loc["homogeneity", "note"]
    assert written.loc["MSTW", "low"] < written.loc["MSTW", "value"] < written.loc["MSTW", "high"]


def test_copies_of_a_code_stay_copies_in_principal_coordinates():
    rng = np.random.default_rng(0)
    codes = rng.random((60, 200)) * (rng.random((60, 200)) < 0.1)
    x = np.concatenate([codes, codes[:12]])
    space = space_of(x)
    assert len(points.distinct(space.full)) == 60
    np.testing.assert_array_equal(space.full[60:], space.full[:12])


@pytest.fixture(scope="module")
def days_concept():
    concept = prompts.load_concept("days")
    return dataclasses.replace(concept, prompts=concept.prompts[::2])


@pytest.fixture(scope="module")
def topk():
    source = presets.PRESETS["minilm"].saes
    return {label: saes.load_sae(s) for label, s in source.items() if "TopK" in label}


def measured(found, topk, concept):
    seen = structure_table.view_of(found, (), topk, list(topk), concept, n_random=1)
    return structure.measure_spaces(seen.spaces, seen.groups, n_groups=3)


def test_padding_and_masked_positions_change_no_number(minilm, topk, days_concept, monkeypatch):
    """Longer padding, arbitrary ids where no token is, arbitrary vectors where one is masked."""
    coded = tokens.tokenize(minilm.tokenizer, days_concept, n_ctx=minilm.cfg.n_ctx)
    rows, width = coded.ids.shape
    plain = measured(residuals.compute_residuals(minilm, coded, HOOK), topk, days_concept)

    generator = torch.Generator().manual_seed(0)
    junk = torch.randint(1000, 20000, (rows, width + 9), generator=generator)
    nothing = torch.zeros(rows, 9, dtype=torch.bool)
    wide = {name: torch.cat([getattr(coded, name), nothing], 1)
            for name in ("attention", "content", "entity")}  # fmt: skip
    ids = torch.where(wide["attention"], torch.nn.functional.pad(coded.ids, (0, 9)), junk)
    padded = tokens.Tokens(ids, **wide)
    pd.testing.assert_frame_equal(
        plain, measured(residuals.compute_residuals(minilm, padded, HOOK), topk, days_concept)
    )

    real = residuals.run_to_hook

    def garbled(model, ids, attention, hook):
        x = real(model, ids, attention, hook)
        counted = torch.zeros(x.shape[:2], dtype=torch.bool)
        for row, got in enumerate(ids):
            match = (coded.ids[:, : ids.shape[1]] == got).all(1).nonzero()[0, 0]
            counted[row] = coded.content[match, : ids.shape[1]]
        return torch.where(counted[..., None], x, torch.full_like(x, 1e6))

    monkeypatch.setattr(residuals, "run_to_hook", garbled)
    pd.testing.assert_frame_equal(
        plain, measured(residuals.compute_residuals(minilm, coded, HOOK), topk, days_concept)
    )


def test_another_batch_size_moves_numbers_by_rounding_only(minilm, topk, days_concept):
    coded = tokens.tokenize(minilm.tokenizer, days_concept, n_ctx=minilm.cfg.n_ctx)
    one, other = (
        measured(
            residuals.compute_residuals(minilm, coded, HOOK, batch_size=size), topk, days_concept
        )
        for size in (64, 5)
    )
    counts = one["measure"].str.startswith("Betti")
    assert one.loc[counts, "value"].equals(other.loc[counts, "value"])
    np.testing.assert_allclose(other["value"], one["value"], rtol=1e-3, equal_nan=True)


def test_a_view_knows_its_tokens(minilm, topk, days_concept):
    seen = structure_table.view(Subject(minilm, topk), days_concept, n_random=2)
    (label,) = topk
    assert list(seen.spaces) == [RESIDUAL, label, f"random {label} #1", f"random {label} #2"]
    assert list(seen.single) == [RESIDUAL, label, f"random {label} #1"]
    assert {w.lower() for w, own in zip(seen.words, seen.known, strict=True) if own} == {
        name.lower() for name in seen.entities
    }
    assert "[PAD]" not in seen.words and "[CLS]" not in seen.words
    assert seen.n_frames == len({p.frame for p in days_concept.prompts})
    words = structure_table.cluster_words(seen, cluster_pca(seen.spaces[RESIDUAL]))
    assert (words["tokens"] >= clusters.MIN_CLUSTER_SIZE).all()


@pytest.mark.slow
def test_one_call_gives_the_table_and_it_exports(tmp_path):
    table = structure_table.compare(["minilm"], ["days"], n_groups=3, n_random=1)
    assert list(table.columns) == ["preset", "concept", "measure", "space", "value", "low", "high",
                                   "n", "note"]  # fmt: skip
    table.to_csv(tmp_path / "t.csv", index=False)
    again = pd.read_csv(tmp_path / "t.csv", keep_default_na=True)
    np.testing.assert_allclose(again["value"], table["value"], equal_nan=True)
    wide = structure_table.wide(table)
    assert list(wide.columns[:4]) == ["preset", "concept", "measure", RESIDUAL]
    assert len(wide) == table["measure"].nunique()
    latex = wide.to_latex(index=False)
    assert latex.count("\\\\") >= len(wide) and "avg. ID, TwoNN" in latex


def test_parameters_that_cannot_be_used_are_refused():
    ok = {"concept": "days, months", "n_umap_concepts": 0, "min_cluster_size": 5, "n_groups": 3,
          "n_random": 1, "n_seeds": 2}  # fmt: skip
    structure_table.check_parameters(**ok)
    for name, bad in (("concept", " "), ("n_umap_concepts", -1), ("min_cluster_size", 1),
                      ("n_groups", 2), ("n_random", 0), ("n_seeds", 1)):  # fmt: skip
        with pytest.raises(UserError, match=name):
            structure_table.check_parameters(**{**ok, name: bad})
