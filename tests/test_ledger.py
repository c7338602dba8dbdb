"""The claims ledger: rows, words and links from small records with known findings."""

import copy
from pathlib import Path

import jupytext
import pytest
from small_pages import CLAIMS, small_cells, small_page, small_record, small_sweep

from saerepgeo_lib import ledger as module
from saerepgeo_lib.claims import paper_claims
from saerepgeo_lib.compare import read_claims, shipped_claims
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.ledger import found_in_words, ledger
from saerepgeo_lib.models import MINILM
from saerepgeo_lib.pages import Page, read_page, rerun_command

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def two_claims(monkeypatch):
    claims = copy.deepcopy(CLAIMS)
    monkeypatch.setattr(module, "paper_claims", lambda: claims)
    return claims


def between(text, start, end):
    return text[text.index(start) + len(start) :].split(end)[0]


def test_the_summary_counts_verdicts_and_keeps_ours_apart():
    text = ledger([small_page()], small_sweep())
    said = between(text, "### Said by the paper, or reported of it", "###")
    ours = between(text, "### Asked by this book", "##")
    found = "*A*: holds in 2 of 3; cannot be tested here in 1 of 3"
    assert (
        f"| [It rises](#claim-up) | `[abstract]` | {found} |" in said and "It is more" not in said
    )
    assert "| [It is more](#claim-own) | `[ours]` | *A*: does not hold in 1 of 1 |" in ours
    assert "- **n and interval**: n counts hills\n- **Note**: Only once.\n" in text


def test_counts_stand_apart_for_each_label_and_say_what_is_the_opposite(two_claims):
    def claim(subject, verdict, low=None, high=None):
        return {"id": "up", "subject": subject, "verdict": verdict, "low": low, "high": high}

    claims = [
        claim("months: A minus random B", "holds", 1, 2), claim("B: error own", "holds"),
        claim("days: A", "does not hold", -2, -1), claim("days: A", "does not hold", -2, 1),
        claim("days: A", "does not hold"), claim("all", "holds"), claim("A: error own", "holds"),
    ]  # fmt: skip
    parts = found_in_words("up", claims, ["B", "A"]).split("<br>")
    assert parts == [
        "*A*: holds in 1 of 4; does not hold in 3 of 4 (the opposite in 1)",
        "*error own*: holds in 2 of 2", "*all together*: holds in 1 of 1",
    ]  # fmt: skip
    two_claims["up"]["direction"] = "below"
    assert "opposite" not in found_in_words("up", claims, ["A"])
    claims[2] |= {"low": 1, "high": 2}
    assert "(the opposite in 1)" in found_in_words("up", claims, ["A"])


def test_a_claim_has_a_row_a_finding_and_leads_to_its_place_record_and_command():
    text = between(ledger([small_page()], small_sweep()), "(claim-up)=", "## Case 2")
    assert "x\\* rises." in text and "**Reported**: rises" in text
    place = "(../notebooks/small.ipynb#why-a-verdict)"
    assert f"[A small page, *Why: a verdict?*]{place}" in text
    assert (
        "Rerun: `.venv/bin/saerepgeo run small` ([record of the run](path:../executed/small.record"
        in text
    )
    assert "preset `tiny`: holds in 2 of 3" in text
    tables = text.split(":::{table} ")[1:]
    assert [table.splitlines()[0] for table in tables] == ["slope", "rank"]
    assert tables[0].splitlines()[1:5] == [
        "| Case | Verdict | Value [95 % interval] | p | n |",
        "| --- | --- | --- | --- | --- |",
        "| months: A | holds | 0.123 \\[−0.5, 1.23e+03] | < 0.001 | 12 |",
        "| days: A\\|B | cannot be tested here | – | – | 0 |",
    ]
    assert tables[1].splitlines()[1].startswith("| Case | Verdict | Value [least, largest] |")
    assert "| A | holds | −2 \\[−3, −1] | 0.25 | 5 |" in tables[1]


def test_a_value_without_an_interval_says_so():
    text = between(ledger([small_page()], small_sweep()), "(claim-own)=", "## Over")
    assert "| A | does not hold | 1 – | 0.031 | 4 |" in text
    assert "`[ours]` this book, not the paper" in text


def test_many_findings_are_folded():
    record = small_record()
    record["claims"] += record["claims"][-1:] * 11
    assert "dropdown" not in ledger([small_page(record)], small_sweep())
    record["claims"] += record["claims"][-1:]
    assert "::::{dropdown} All 13 findings" in ledger([small_page(record)], small_sweep())


def test_the_sweep_is_counted_apart():
    text = ledger([small_page()], small_sweep()).split("## Over 2 concepts")[1]
    assert "on 2026-01-02 to 2026-01-05, by the code" in text
    assert "2 runs on 2 concepts, preset `tiny`" in text
    assert "saerepgeo sweep data/sweeps/all_concepts.yml" in text
    found = "*A*: holds in 2 of 2<br>*B\\_1*: does not hold in 1 of 1 (the opposite in 1)"
    assert f"| [It rises](#claim-up) | `[abstract]` | {found} |" in text
    assert "| [It is more](#claim-own) | `[ours]` | not in these runs |" in text


def test_findings_of_a_second_page_stand_in_the_claim_too():
    other = small_record()
    other["claims"] = other["claims"][-1:]
    pages = [small_page(), small_page(other, name="second")]
    text = ledger(pages, small_sweep())
    assert "| [It is more](#claim-own) | `[ours]` | *A*: does not hold in 2 of 2 |" in text
    assert "`.venv/bin/saerepgeo run second`" in between(text, "(claim-own)=", "## Over")


def test_a_claim_without_a_record_is_no_book():
    record = small_record()
    record["claims"] = record["claims"][:-1]
    with pytest.raises(UserError, match=r"'own' of .* no finding .* page 'small': let that"):
        ledger([small_page(record)], small_sweep())


def test_a_finding_on_no_known_claim_is_refused_in_records_and_in_the_sweep():
    record = small_record()
    record["claims"][0]["id"] = "upp"
    with pytest.raises(UserError, match=r"small: unknown claim 'upp'; did you mean 'up'"):
        ledger([small_page(record)], small_sweep())
    with pytest.raises(UserError, match="the sweep: unknown claim 'gone'"):
        ledger([small_page()], small_sweep().assign(id="gone"))


def test_a_section_that_is_not_there_is_no_book(two_claims):
    cells = small_cells()
    cells[1].source = "## Verdict"
    with pytest.raises(UserError, match=r"no heading 'Why: a verdict\?'; it has: .*'Verdict'"):
        ledger([small_page(cells=cells)], small_sweep())
    two_claims["up"]["page"] = "smal"
    with pytest.raises(UserError, match=r"'up' in data/paper_claims.json: 'smal'; did you mean"):
        ledger([small_page()], small_sweep())


def test_a_claims_own_page_must_have_found_something_on_it():
    other = small_record()
    record = small_record()
    record["claims"] = record["claims"][:-1]
    with pytest.raises(UserError, match=r"'own' of .* no finding in .* page 'small'"):
        ledger([small_page(record), small_page(other, name="second")], small_sweep())


def test_headings_are_not_looked_for_in_code():
    assert small_page().headings == ["A small page", "Verdict", "Why: a verdict?"]


def test_the_command_names_only_what_is_not_default(tmp_path):
    source = tmp_path / "page.py"
    source.write_text(
        "# %% [markdown]\n# # Page\n\n# %% tags=['parameters']\nn: int = 3  # a\n"
        "x: float = 1  # b\nname: str = 'a b'  # c\nlevels: list[float] = [0]  # d\n"
    )
    values = {"n": 3, "x": 1.0, "name": "a b", "levels": [0.0]}
    assert rerun_command(source, values) == ".venv/bin/saerepgeo run page"
    changed = values | {"n": 4, "name": "two words", "levels": [0, 0.5]}
    assert rerun_command(source, changed) == (
        ".venv/bin/saerepgeo run page -p n 4 -p name 'two words' -p levels '[0, 0.5]'"
    )


def test_a_notebook_without_its_record_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_page(tmp_path / "page.ipynb", tmp_path / "page.py")


def test_the_books_claims_are_shown_where_they_say():
    for id, known in paper_claims().items():
        source = ROOT / "notebooks" / f"{known['page']}.py"
        page = Page(known["page"], jupytext.read(source).cells, {}, "")
        assert page.link(known["section"]), id


def test_the_shipped_sweep_is_of_known_claims():
    table = read_claims(shipped_claims())
    assert set(table["id"]) <= set(paper_claims())
    assert set(table["model"]) == {MINILM}
