"""What rests on an SAE that does not fit these tokens, or is read elsewhere, is withheld."""

import math
from dataclasses import replace

import pandas as pd
import pytest
import torch
from conftest import HOOK
from IPython.display import Markdown
from refusals import refused
from run_page import SMALL, few_days, in_a_file, run_page

from saerepgeo_lib.activations.latents import random_sae
from saerepgeo_lib.activations.model_with_saes import ModelWithSAEs
from saerepgeo_lib.activations.saes import load_sae
from saerepgeo_lib.companion.cli import main
from saerepgeo_lib.files import read_json
from saerepgeo_lib.stats.claims import Claim
from saerepgeo_lib.studies.compare_geometry import compare_geometry
from saerepgeo_lib.studies.dose_response import dose_response
from saerepgeo_lib.studies.rank_profile import rank_profile
from saerepgeo_lib.studies.trust import COLUMNS, Doubt, Trust, trust_in


@pytest.fixture(scope="module")
def good():
    return load_sae("minilm-l4-topk")


@pytest.fixture(scope="module")
def bad(good):
    return random_sae(good, l0=32, generator=torch.Generator().manual_seed(0))


def read(minilm, saes, hook="", **options):
    return ModelWithSAEs(minilm, saes, hook=hook, **options).activations(few_days())


def finding(concept="days", autoencoder="bad", tokens="content", id="case1-rank-varies"):
    return Claim(id, "r", 0.5, 0.1, 0.9, 0.01, 7, "holds", concept, tokens, autoencoder)


def row(fvu, tokens="content", reads=HOOK, concept="days", trained=HOOK):
    return dict(zip(COLUMNS, (concept, tokens, "A", fvu, 3.0, trained, reads), strict=True))


def test_an_sae_that_fits_worse_than_the_mean_is_not_judged(minilm, good, bad):
    acts = read(minilm, {"good": good, "bad": bad, "null": bad}, not_sparse=("null",))
    found = trust_in([acts])
    assert list(found.table.columns) == list(COLUMNS) and len(found.table) == 6
    fvu = found.table.set_index(["tokens", "autoencoder"])["FVU"]
    assert fvu["entity", "bad"] > 1 and fvu["entity", "good"] < 0.5
    (doubt, *more) = found.doubts  # the null is meant to fit badly
    assert {d.autoencoder for d in found.doubts} == {"bad"} and doubt.concept == "days"
    assert f"{fvu['entity', 'bad']:.2f} of their variance" in [doubt, *more][-1].reason
    claims = [finding(), finding(tokens="entity"), finding(autoencoder="good"),
              finding(autoencoder="null"), finding(concept="months"), finding(autoencoder=""),
              finding(concept="", autoencoder="bad"), finding(concept="", autoencoder="good"),
              finding(autoencoder="good", id="case1-stratified")]  # fmt: skip
    after = found.withheld(claims)
    untested = [c.verdict == "cannot be tested here" for c in after]
    assert untested == [True, True, False, False, False, True, True, False, True]
    for before, now in zip(claims, after, strict=True):
        if now.verdict == "holds":
            assert now == before
        else:
            assert math.isnan(now.value) and math.isnan(now.p) and "does not fit" in now.reason
    assert "**Withheld**" in found.text and 'judge_anyway = "bad"' in found.text
    asked = trust_in([acts], judge_anyway="bad, good")
    assert asked.withheld(claims) == claims
    assert "**Judged in spite of doubt**" in asked.text and "Withheld" not in asked.text
    refused("unknown SAE 'badd'; did you mean 'bad'", trust_in, [acts], judge_anyway="badd")


@pytest.mark.parametrize(
    ("rows", "withheld"),  # on content tokens, on entity tokens
    [([row(0.14)], (False, False)), ([row(0.99), row(0.99, "entity")], (False, False)),
     ([row(1.0)], (True, False)), ([row(0.1), row(1.2, "entity")], (True, True)),
     ([row(1.2), row(0.1, "entity")], (True, False)), ([row(math.nan)], (True, False)),
     ([row(0.1), row(math.nan, "entity")], (False, True)), ([row(math.inf)], (True, False)),
     ([row(0.1, reads="blocks.2.hook_out")], (True, True)),
     ([row(0.1, reads="blocks.4.hook_resid_post")], (False, False)),
     ([row(0.1, reads="blocks.5.hook_in")], (False, False)),
     ([row(0.1, trained="")], (False, False)), ([row(1.2, concept="months")], (False, False))],
)  # fmt: skip
def test_what_is_in_doubt(rows, withheld):
    found = Trust.of(rows, ["A"])
    claims = [finding(autoencoder="A", tokens=tokens) for tokens in ("content", "entity")]
    assert tuple(c.verdict != "holds" for c in found.withheld(claims)) == withheld
    assert any(d.reason[:14] in found.text for d in found.doubts) == bool(found.doubts)
    careful = any(0.15 < r["FVU"] < 1 for r in rows)
    assert ("Read with care" in found.text) == careful
    assert ("Every SAE explains at least 85 %" in found.text) == (not careful and not found.doubts)


def test_a_poor_fit_is_told_of_the_tokens_that_it_is_poor_on():
    rows = [row(0.16), row(0.12, "entity"), row(0.1, concept="months"),
            row(0.4, "entity", concept="months"), row(0.3, concept="color")]  # fmt: skip
    assert Trust.of(rows, ["A"]).poor.endswith(
        "A on content tokens of days, color (FVU 0.16 to 0.30); "
        "A on entity tokens of months (FVU 0.40)."
    )


def test_entities_that_other_prompts_do_not_change_are_not_judged(days):
    x, entities = days.x.clone(), [prompt.entity for prompt in days.concept.prompts]
    for name in days.concept.entities:
        mine = days.in_entity & torch.tensor([entities[p] == name for p in days.prompt.tolist()])
        x[mine] = x[mine][0]
    found = trust_in([replace(days, x=x, massive_tokens=None)])
    assert "7 different points, so there is 1 different context and not 12; put" in found.text
    assert found.reason(concept="days", autoencoder="any", tokens="entity")
    assert not found.reason(concept="days", autoencoder="any", tokens="content")
    assert not trust_in([days]).doubts


def test_a_doubt_of_no_sae_concerns_all():
    found = Trust(doubts=(Doubt("days", "", "", "One token is all of the variance."),))
    (claim,) = found.withheld([finding(autoencoder="any")])
    assert claim.reason == "One token is all of the variance." in found.text
    assert found.withheld([finding(concept="months")])[0].verdict == "holds"
    assert "judge_anyway" not in found.text


def test_the_table_of_case_2_loses_its_outcomes_and_keeps_its_numbers():
    doubt = Doubt("days", "bad", "entity", "It does not fit.")
    table = pd.DataFrame({
        "concept": "days", "SAE": ["bad", "bad", "good"], "tokens": ["entity", "content", "entity"],
        "outcome": "claimed", "note": "", "value": [1.0, 2.0, 3.0], "measure": "m",
        "kind": "residual",
    })  # fmt: skip
    after = Trust(doubts=(doubt,)).withheld_outcomes(table)
    assert list(after["outcome"]) == ["cannot be tested", "claimed", "claimed"]
    assert list(after["note"]) == ["It does not fit.", "", ""]
    assert after["value"].equals(table["value"]) and table["outcome"].eq("claimed").all()


def test_alike_tokens_leave_the_fit_undefined_and_doubt_says_so(minilm, good):
    acts = read(minilm, {"A": good})
    found = trust_in([replace(acts, x=acts.x[:1].expand(len(acts), -1))])
    assert found.table["FVU"].isna().all() and "undefined" in found.text
    assert found.withheld([finding(autoencoder="A")])[0].verdict == "cannot be tested here"


@pytest.mark.parametrize("hook", [HOOK, "blocks.2.hook_out"])
def test_the_three_results_say_the_doubt_when_they_are_shown(minilm, good, bad, hook):
    sae = bad if hook == HOOK else good
    acts = read(minilm, {"mine": sae}, hook=hook)
    word = "mine does not fit the entity tokens" if hook == HOOK else f"but reads at {hook}"
    options = {"doses": (1, 1.2), "n_bootstrap": 40, "n_steps": 2, "grouping": "entities"}
    shown = [
        repr(rank_profile(acts, levels=[0, 0.1], seeds=range(2))),
        repr(compare_geometry(acts, n_groups=3, n_random=1)),
        repr(dose_response(acts, **options)),
    ]
    for text in shown:
        assert word in text and "**" not in text
    counts = shown[1].partition("the paper claims: ")[2].partition(";")[0]
    assert counts.endswith(" cannot be tested") and "," not in counts
    fine = repr(rank_profile(read(minilm, {"mine": good}), levels=[0, 0.1], seeds=range(2)))
    assert "mine was" not in fine and "does not fit" not in fine


PAGES = SMALL | {
    "stratified_manifold": SMALL["stratified_manifold"] | {"n_seeds": 7},
    "intervention": SMALL["intervention"] | {"n_downstream": 0, "grouping": "entities"},
    "differences": {"n_steps": 2, "n_walks": 1, "min_cluster_size": 5},
}


@pytest.fixture
def folder(bad, tmp_path):
    """A folder with an SAE in which nothing was learned."""
    bad.save_model(tmp_path / "sae")
    return str(tmp_path / "sae")


def said_of_sae(record):
    """Verdicts of claims that rest on the SAE, pooled ones among them, and how reasons begin."""
    mine = [c for c in record["claims"] if c["autoencoder"] in ("TopK SAE", "")]
    return {(c["verdict"], c["reason"][:21]) for c in mine}


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_pages_withhold_what_rests_on_an_sae_that_learned_nothing(
    page, folder, tmp_path, unchecked
):
    given = PAGES[page] | in_a_file(few_days(), tmp_path) | {"preset": folder}
    shown, record = run_page(page, tmp_path, **given)
    assert record["tables"]["fit"]["autoencoder"][0] == "TopK SAE"
    if page == "differences":
        said = [one.data for one in shown if isinstance(one, Markdown)]  # in front, and at the end
        assert [text.startswith("**Withheld**") for text in said].count(True) == 2
        assert "changes" not in record["tables"]["findings"]
        return
    assert said_of_sae(record) == {("cannot be tested here", "TopK SAE does not fit")}
    if page == "representation_structure":
        _, asked = run_page(page, tmp_path, **given, judge_anyway="TopK SAE")
        assert ("does not hold", "") in said_of_sae(asked)


@pytest.mark.slow
def test_saes_that_read_elsewhere_are_not_judged_unless_they_are_named(tmp_path, capsys):
    given = in_a_file(few_days(), tmp_path) | SMALL["representation_structure"]
    words = [w for k, v in given.items() for w in ("-p", k, str(v))]
    one = ["-p", "hook", "blocks.2.hook_out", "-p", "judge_anyway", "TopK SAE",
           "-p", "preset", "minilm"]  # fmt: skip
    assert main(["run", "representation_structure", *words, *one, "-o", str(tmp_path / "o")]) == 0
    (path,) = (tmp_path / "o").glob("*/*.record.json")
    for claim in read_json(path)["claims"]:
        elsewhere = "trained at blocks.4.hook_out, but reads at blocks.2" in claim["reason"]
        assert elsewhere == (claim["autoencoder"] == "L1-ReLU SAE")
        assert claim["verdict"] == "cannot be tested here" or not elsewhere
    page = path.with_name("representation_structure.ipynb").read_text()
    assert "**Withheld**" in page and "**Judged in spite of doubt**" in page
