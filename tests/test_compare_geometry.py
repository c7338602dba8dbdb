"""Case 2 composed: spaces, comparison and verdict, on planted tables and on a concept's tokens."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from run_page import few_days

from saerepgeo_lib.activations import residual_stream as residuals
from saerepgeo_lib.activations import saes
from saerepgeo_lib.activations.model_with_saes import ModelWithSAEs
from saerepgeo_lib.activations.prompts import Concept, Prompt
from saerepgeo_lib.activations.token_activations import TokenActivations, read_activations
from saerepgeo_lib.activations.tokens import Tokens
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.plots.forests import plot_differences
from saerepgeo_lib.studies import case2_table, tables
from saerepgeo_lib.studies import case2_verdict as verdict
from saerepgeo_lib.studies.case2_verdict import DIRECTIONS, compare_spaces
from saerepgeo_lib.studies.compare_geometry import GeometryComparison, compare_geometry
from saerepgeo_lib.synthetic import data as synthetic


def activations(piece, frame):
    """Tokens without vectors, a prompt per token; `piece` is each one's entity."""
    n = len(piece)
    each = zip(piece, frame, strict=True)
    concept = Concept("c", tuple(Prompt("e f", entity=f"e{e}", frame=f"f{f}") for e, f in each))
    rows = torch.arange(n)
    source = SimpleNamespace(sparse=["SAE"], saes={})
    return TokenActivations(torch.zeros(n, 1), rows, 0 * rows, rows > 0, concept, source=source)


ACTS = activations([0, 1, 2], [0, 1, 2])


def samples(**by_space):
    """A table of one measure per direction: full value and replicates that differ a little."""
    rows = []
    for k, (space, value) in enumerate(by_space.items()):
        for _, measure, _ in DIRECTIONS:
            for i in range(-1, 8):
                wobble = 0.01 * ((3 * i + k) % 5) if i >= 0 else 0.0
                rows.append((space.replace("_", " "), measure, i, value + wobble))
    return pd.DataFrame(rows, columns=["space", "measure", "left_out", "value"])


def test_verdicts_follow_sign_and_interval_and_learned_asks_every_control():
    table = samples(residual=5.0, SAE=7.0, dense_AE=5.5, random_SAE=9.0)
    compared = compare_spaces(table, ACTS)
    assert set(compared["concept"]) == {"c"} and set(compared["tokens"]) == {"content"}
    outcome = compared.set_index(["measure", "kind"])["outcome"]
    verdicts = {(c.id, c.statistic): c.verdict for c in verdict.geometry_claims(compared)}
    for claim, measure, sign in DIRECTIONS:
        up = ("claimed", "opposite") if sign > 0 else ("opposite", "claimed")
        assert outcome[measure, "residual"] == outcome[measure, "dense"] == up[0]
        assert outcome[measure, "random"] == up[1]
        assert verdicts[claim, measure] == ("holds" if sign > 0 else "does not hold")
        assert verdicts["case2-learned", measure] == "does not hold"
    beyond = samples(residual=5.0, SAE=9.5, dense_AE=5.5, random_SAE=9.0)
    compared = compare_spaces(beyond, ACTS)
    learned = {c.statistic: c for c in verdict.geometry_claims(compared) if c.id == "case2-learned"}
    assert learned["AEDP of entities"].verdict == "holds"
    assert learned["AEDP of entities"].value == pytest.approx(0.5)  # the weakest control
    assert learned["AEDP of entities"].against == "random SAE"
    counts = ["cases", "tested", "claimed", "opposite", "learned"]
    agreed = verdict.geometry_agreement(compared).set_index("measure")[counts]
    assert agreed.loc["AEDP of entities"].tolist() == [1, 1, 1, 0, 1]
    assert agreed.loc["MSTW of entities"].tolist() == [1, 1, 0, 1, 1]
    text = verdict.geometry_verdict_text(verdict.geometry_agreement(compared))
    assert "**Distinctions are amplified**" in text and "same direction: 1 of 1." in text


def test_what_is_undefined_constant_or_at_its_floor_cannot_be_tested():
    table = samples(residual=5.0, SAE=7.0)
    merged = table["measure"] == "homogeneity"
    undefined, constant, floor = table.copy(), table.copy(), table.copy()
    undefined.loc[merged & (table["left_out"] == 3), "value"] = np.nan
    constant.loc[merged, "value"] = 1.0
    floor.loc[merged & (table["space"] == "residual"), "value"] *= 0.001
    for case, reason in ((undefined, "undefined"), (constant, "equal"), (floor, "left to merge")):
        compared = compare_spaces(case, ACTS)
        row = compared.set_index("measure").loc["homogeneity"]
        assert row["outcome"] == "cannot be tested" and reason in row["note"]
        verdicts = {c.statistic: c.verdict for c in verdict.geometry_claims(compared)}
        assert verdicts["homogeneity"] == "cannot be tested here"
        tested = verdict.geometry_agreement(compared).set_index("measure")["tested"]
        assert (tested["homogeneity"], tested["avg. ID, MLE"]) == (0, 1)


def test_procrustes_of_a_turned_space_is_0_and_of_an_unrelated_one_is_no_match(monkeypatch):
    cloud = synthetic.pieces(6, 20, 3, ambient=40, separation=6.0, random_state=0)
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(40, 40)))[0]
    vectors = {"residual": cloud.points, "turned": cloud.points @ turn * 3,
               "noise": rng.normal(size=(120, 40)), "noise #2": cloud.points}  # fmt: skip
    acts = activations(cloud.piece, np.arange(120) % 4)
    case = GeometryComparison(acts, vectors, acts.frame, {"min_cluster_size": 10, "seed": 0})
    table = case2_table.procrustes_table(case).set_index("space")
    assert list(table.index) == ["turned", "noise"]  # and no second draw
    assert table.loc["turned", ["tokens", "entities", "clusters"]].astype(float).max() < 1e-9
    assert table.loc["turned", "matched"] == 6
    assert table.loc["noise", "tokens"] > 0.5 and table.loc["noise", "p"] > 0.01
    # the authors' pipeline is measured over its seeds
    cloud = synthetic.pieces(4, 20, 3, ambient=10, separation=6.0, random_state=0)
    runs = [(cloud.points, cloud.piece // k) for k in (1, 2)]
    monkeypatch.setattr(case2_table.clusters, "cluster_authors", lambda *given, **options: runs)
    row = case2_table.authors_table({"x": cloud.points}, cloud.piece, seeds=[0, 1]).iloc[0]
    assert (row["clusters"], row["fewest"], row["most"], row["seeds"]) == (3, 2, 4, 2)
    assert row["homogeneity"] == pytest.approx((1 + 0.5) / 2) and 0 < row["stability"] < 1


@pytest.fixture(scope="module")
def case(minilm):
    sae = saes.load_sae("minilm-l4-topk")
    acts = ModelWithSAEs(minilm, {"TopK SAE": sae}).activations(few_days())
    return compare_geometry(acts, n_groups=3, n_random=1, min_cluster_size=5)


def test_one_call_compares_every_space_and_says_what_was_found(case):
    label, concept = "TopK SAE", case.acts.concept
    assert list(case.vectors) == ["residual", label, f"random {label} #1"]
    assert list(case.table.columns) == ["measure", "space", "value", "low", "high", "n", "note"]
    assert set(case.table["space"]) == {"residual", label, f"random {label}"}
    assert set(case.compared["kind"]) == {"residual", "random"}
    n = case.compared.query("kind == 'residual'")["outcome"].value_counts()
    assert repr(case) == (
        f"GeometryComparison of days: {len(case.acts)} tokens in 3 spaces\nSAE minus residual "
        "stream, by the signs that the paper claims: "
        f"{', '.join(f'{count} {name}' for name, count in n.items())}; FVU up to 0.30"
    )
    ax = Figure().subplots()
    assert case.plot(ax) is ax and ax.get_title(loc="left") == "AEDP of entities"
    assert case.plot(measure="homogeneity").get_xlabel() == "SAE minus residual"
    with pytest.raises(UserError, match="unknown measure 'AEDP'"):
        case.plot(measure="AEDP")
    with pytest.raises(UserError, match="come without SAEs"):
        compare_geometry(replace(case.acts, source=None))
    short = replace(concept, prompts=concept.prompts[:2])
    two = replace(case.acts.rows(case.acts.prompt < 2), concept=short)
    with pytest.raises(UserError, match="at least 3 frames"):
        compare_geometry(two)
    words = zip(case.acts.words, case.acts.in_entity.tolist(), strict=True)
    assert {w.lower() for w, inside in words if inside} == {e.lower() for e in concept.entities}
    draws = compare_geometry(case.acts, n_groups=3, n_random=2, seed=5)
    assert list(draws.spaces) == ["residual", label, f"random {label} #1"]
    drawn = f"random {label} #1"
    assert not np.array_equal(draws.vectors[drawn], case.vectors[drawn])


def test_entities_alone_are_measured_in_their_own_coordinates(case):
    entities = case.entities
    assert len(entities.acts) == len(entities.fold) == int(case.acts.in_entity.sum())
    assert (entities.acts.entity >= 0).all()
    assert all(len(x) == len(entities.acts) for x in entities.vectors.values())
    np.testing.assert_allclose(entities.spaces["residual"].full.mean(0), 0, atol=1e-9)
    assert set(entities.compared["tokens"]) == {"entity"}
    both = pd.concat([case.compared, entities.compared]).query("kind == 'residual'")
    panels = plot_differences(both).axes
    assert [ax.get_title(loc="left") for ax in panels] == [m for _, m, _ in DIRECTIONS]
    assert [t.get_text() for t in panels[0].get_yticklabels()] == ["days", "days (entity)"]


def test_tables_are_joined_widened_and_exported(case, tmp_path):
    table = tables.joined({"days": case.table, "again": case.table})
    assert list(table.columns) == ["concept", *case.table.columns]
    table = table.assign(preset="minilm")
    table.to_csv(tmp_path / "t.csv", index=False)
    again = pd.read_csv(tmp_path / "t.csv", keep_default_na=True)
    np.testing.assert_allclose(again["value"], table["value"], equal_nan=True)
    wide = tables.wide_table(table)
    assert list(wide.columns[:4]) == ["preset", "concept", "measure", "residual"]
    assert len(wide) == 2 * table["measure"].nunique()
    row = case.table.query("measure == 'radius' and space == 'residual'").iloc[0]
    cell = wide.query("measure == 'radius'")["residual"].iloc[0]
    assert cell == f"{row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
    assert " [" not in wide.query("measure == 'AGD'")["residual"].iloc[0]
    latex = wide.to_latex(index=False)
    assert latex.count("\\\\") >= len(wide) and "avg. ID, TwoNN" in latex
    words = case2_table.cluster_words(case.acts, case.clusters["residual"])
    assert (words["tokens"] >= 5).all() and words["tokens"].is_monotonic_decreasing
    assert "[PAD]" not in " ".join(words["commonest"])


def samples_of(case, coded, **options):
    model, concept = case.acts.source, case.acts.concept
    acts = read_activations(
        model.model, coded, model.hook, concept=concept, source=model, **options
    )
    return compare_geometry(acts, n_groups=3, n_random=1, min_cluster_size=5).samples


def test_padding_and_masked_positions_change_no_number(case, monkeypatch):
    """Longer padding, arbitrary ids where no token is, arbitrary vectors where one is masked."""
    coded = case.acts.tokens
    generator = torch.Generator().manual_seed(0)
    longer = {name: torch.nn.functional.pad(getattr(coded, name), (0, 9))
              for name in ("ids", "attention", "content", "entity")}  # fmt: skip
    junk = torch.randint(1000, 20000, longer["ids"].shape, generator=generator)
    longer["ids"] = torch.where(longer["attention"], longer["ids"], junk)
    pd.testing.assert_frame_equal(samples_of(case, Tokens(**longer)), case.samples)

    real = residuals.run_to_hook

    def garbled(model, ids, attention, hook):
        x = real(model, ids, attention, hook)
        counted = torch.zeros(x.shape[:2], dtype=torch.bool)
        for row, got in enumerate(ids):
            match = (coded.ids[:, : ids.shape[1]] == got).all(1).nonzero()[0, 0]
            counted[row] = coded.content[match, : ids.shape[1]]
        return torch.where(counted[..., None], x, torch.full_like(x, 1e6))

    monkeypatch.setattr(residuals, "run_to_hook", garbled)
    pd.testing.assert_frame_equal(samples_of(case, coded), case.samples)


def test_another_batch_size_moves_numbers_by_rounding_only(case):
    other = samples_of(case, case.acts.tokens, batch_size=5)
    counts = other["measure"].str.startswith("Betti")
    assert other.loc[counts, "value"].equals(case.samples.loc[counts, "value"])
    np.testing.assert_allclose(other["value"], case.samples["value"], rtol=1e-3, equal_nan=True)
