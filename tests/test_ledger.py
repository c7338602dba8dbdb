"""The claims ledger: rows, words and links from small records with known findings."""

import copy
from pathlib import Path

import jupytext
import pytest
from small_pages import (
    CLAIMS,
    SMALL_PRESETS,
    finding,
    small_cells,
    small_page,
    small_record,
    small_sweep,
)

from saerepgeo_lib.activations.embedded import EMBEDDED
from saerepgeo_lib.companion import ledger as module
from saerepgeo_lib.companion.compare import read_claims, shipped_claims
from saerepgeo_lib.companion.ledger import found_in_words, ledger
from saerepgeo_lib.companion.pages import Page
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.studies.paper_claims import paper_claims

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def two_claims(monkeypatch):
    claims = copy.deepcopy(CLAIMS)
    monkeypatch.setattr(module, "paper_claims", lambda: claims)
    monkeypatch.setattr(module, "PRESETS", SMALL_PRESETS)
    return claims


@pytest.fixture
def text(two_claims):
    return ledger([small_page()], small_sweep())


def between(text, start, end):
    return text[text.index(start) + len(start) :].split(end)[0]


def test_the_summary_counts_verdicts_and_keeps_ours_apart(text):
    said = between(text, "### Said by the paper, or reported of it", "###")
    ours = between(text, "### Asked by this book", "##")
    found = "*A*: holds in 2 of 3; cannot be tested here in 1 of 3"
    assert f"| [It rises](#claim-up) | `[abstract]` | {found} |" in said
    assert "It is more" not in said
    assert "| [It is more](#claim-own) | `[ours]` | *A*: does not hold in 1 of 1 |" in ours
    assert "- **n and interval**: n counts hills\n- **Note**: Only once.\n" in text


def test_the_sweep_is_counted_apart_for_each_model_and_over_its_trainings(text):
    text = text.split("## Over 2 concepts and 2 models")[1]
    assert "*Its trainings agree* counts" in text
    alone = small_sweep().query("preset == 'tiny'")
    assert "trainings" not in ledger([small_page()], alone).split("## Over 2 concepts\n")[1]
    assert "on 2026-01-02 to 2026-01-05, by the code" in text and "5 runs on 2 concepts." in text
    assert "saerepgeo sweep data/sweeps/all_concepts.toml" in text
    small, large = text.split("### small\n\nPresets `tiny`, `tiny-seed1`.")[1].split("### large")
    found = (
        "*A*: holds in 3 of 6; does not hold in 1 of 6; cannot be tested here in 2 of 6 "
        "(the opposite in 1); its 2 trainings agree in 1 of 2 cases<br>"
        "*B\\_1*: does not hold in 1 of 1 (the opposite in 1)"
    )
    assert f"| [It rises](#claim-up) | `[abstract]` | {found} |" in small
    assert "It is more" not in small  # these runs did not ask
    assert "Preset `big`: one training of each autoencoder." in large
    found = "*A*: does not hold in 1 of 1 (the opposite in 1)"
    assert f"| [It rises](#claim-up) | `[abstract]` | {found} |" in large


def test_trainings_are_compared_where_a_claim_names_no_autoencoder(two_claims):
    two_claims["up"]["counted by"] = "condition"
    rows = small_sweep().query("preset != 'big'").assign(concept="months", tokens="content")
    rows = rows.iloc[[0, 7]]  # each training's weakest autoencoder
    assert found_in_words("up", rows.to_dict("records")) == (
        "*all together*: holds in 1 of 2; does not hold in 1 of 2 (the opposite in 1); "
        "its 2 trainings agree in 0 of 1 cases"
    )


def test_counts_stand_apart_for_each_label_and_say_what_is_the_opposite(two_claims):
    def claim(label, verdict, low=None, high=None, **case):
        return finding("up", "s", None, low, high, None, 3, verdict, autoencoder=label, **case)

    own, days = {"condition": "error own"}, {"concept": "days"}
    claims = [
        claim("A", "holds", 1, 2, concept="months", against="random B"), claim("B", "holds", **own),
        claim("A", "does not hold", -2, -1, **days), claim("A", "does not hold", -2, 1, **days),
        claim("A", "does not hold", **days), claim("", "holds"), claim("A", "holds", **own),
    ]  # fmt: skip
    assert found_in_words("up", claims).split("<br>") == [
        "*A*: holds in 2 of 5; does not hold in 3 of 5 (the opposite in 1)",
        "*B*: holds in 1 of 1", "*all together*: holds in 1 of 1",
    ]  # fmt: skip
    two_claims["up"]["counted by"] = "condition"
    assert "*error own*: holds in 2 of 2" in found_in_words("up", claims)
    del two_claims["up"]["counted by"]
    two_claims["up"]["direction"] = "below"
    assert "opposite" not in found_in_words("up", claims)
    claims[2] |= {"low": 1, "high": 2}
    assert "(the opposite in 1)" in found_in_words("up", claims)


def test_a_claim_has_a_row_a_finding_and_leads_to_its_place_record_and_command(text):
    text = between(text, "(claim-up)=", "## Case 2")
    assert "x\\* rises." in text and "**Reported**: rises" in text
    place = "(../notebooks/small.ipynb#why-a-verdict)"
    assert f"[A small page, *Why: a verdict?*]{place}" in text
    record = "([record of the run](path:../executed/small.record.json))"
    assert f"Rerun: `.venv/bin/saerepgeo run small` {record}" in text
    assert "preset `tiny`: holds in 2 of 3" in text
    tables = text.split(":::{table} ")[1:]
    assert [table.splitlines()[0] for table in tables] == ["slope", "rank"]
    assert tables[0].splitlines()[1:5] == [
        "| Case | Verdict | Value [95 % interval] | p | n |",
        "| --- | --- | --- | --- | --- |",
        "| months: A | holds | 0.123 \\[−0.5, 1.23e+03] | < 0.001 | 12 |",
        "| days: A minus B\\|C | cannot be tested here | – | – | 0 |",
    ]
    assert tables[1].splitlines()[1].startswith("| Case | Verdict | Value [least, largest] |")
    assert "| A | holds | −2 \\[−3, −1] | 0.25 | 5 |" in tables[1]


def test_a_value_without_an_interval_says_so_and_many_findings_are_folded(text):
    text = between(text, "(claim-own)=", "## Over")
    assert "| A | does not hold | 1 – | 0.031 | 4 |" in text
    assert "`[ours]` this book, not the paper" in text
    record = small_record()
    for n, is_folded in ((11, False), (1, True)):
        record["claims"] += record["claims"][-1:] * n
        text = ledger([small_page(record)], small_sweep())
        assert ("::::{dropdown} All 13 findings" in text) == is_folded


def test_findings_of_a_second_page_stand_in_the_claim_too():
    other = small_record()
    other["claims"] = other["claims"][-1:]
    text = ledger([small_page(), small_page(other, name="second")], small_sweep())
    assert "| [It is more](#claim-own) | `[ours]` | *A*: does not hold in 2 of 2 |" in text
    assert "`.venv/bin/saerepgeo run second`" in between(text, "(claim-own)=", "## Over")


def test_a_claim_without_its_finding_or_section_and_an_unknown_claim_are_no_book(two_claims):
    lacks, typo, cells, sweep = small_record(), small_record(), small_cells(), small_sweep()
    lacks["claims"].pop()
    typo["claims"][0]["id"] = "upp"
    cells[1].source = "## Verdict"
    missing = r"no heading 'Why: a verdict\?'; it has: .*'Verdict'"
    for pages, of, words in (
        ([small_page(lacks), small_page(name="second")], sweep,
         "'own' of .* no finding .* page 'small': let that"),
        ([small_page(typo)], sweep, "small: unknown claim 'upp'; did you mean 'up'"),
        ([small_page()], sweep.assign(id="gone"), "the sweep: unknown claim 'gone'"),
        ([small_page()], sweep.assign(model=None), "the sweep has runs without model; collect"),
        ([small_page(cells=cells)], sweep, missing),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            ledger(pages, of)
    two_claims["up"]["page"] = "smal"
    with pytest.raises(UserError, match=r"'up' in data/paper_claims.json: 'smal'; did you mean"):
        ledger([small_page()], sweep)


def test_the_books_claims_are_shown_where_they_say_and_the_shipped_sweep_is_of_them():
    names = {known["page"] for known in paper_claims().values()}
    cells = {name: jupytext.read(ROOT / "notebooks" / f"{name}.py").cells for name in names}
    for id, known in paper_claims().items():
        assert Page(known["page"], cells[known["page"]], {}, "").link(known["section"]), id
    table = read_claims(shipped_claims())
    assert set(table["id"]) <= set(paper_claims())
    assert set(table["model"]) == {EMBEDDED[name].name for name in ("minilm", "smollm2")}
    runs = table.groupby(["model", "preset", "notebook"])["run"].nunique()
    assert len(runs) == 12 and (runs == 9).all()
