"""The glossary: what is defined, and how it reaches the pages."""

import json
import re
from pathlib import Path

import pytest

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.glossary import read_terms, write_script

PAGE = Path(__file__).resolve().parent.parent / "book" / "glossary.md"


def test_terms_and_definitions_are_read(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        '# G\n\n```{glossary}\none\n  A first\n  line.\n\ntwo words\n  "B"\n```\ntext\n'
    )
    assert read_terms(page.read_text()) == {"one": "A first line.", "two words": '"B"'}
    write_script(page, tmp_path / "terms.js")
    (found,) = re.findall(r"const companionTerms = (.*);\n", (tmp_path / "terms.js").read_text())
    assert json.loads(found) == read_terms(page.read_text())


@pytest.mark.parametrize(
    ("text", "reason"), [("one\n", "does not define 'one'"), ("a\n  x\n\na\n  y\n", "'a' twice")]
)
def test_a_faulty_glossary_is_refused(text, reason):
    with pytest.raises(UserError, match=reason):
        read_terms(f"```{{glossary}}\n{text}```\n")


def test_definitions_are_plain_text_that_a_tooltip_can_hold():
    terms = read_terms(PAGE.read_text(encoding="utf-8"))
    assert {"stratified", "AEDP", "rho*", "record"} <= set(terms)
    for definition in terms.values():
        assert not re.search(r"[`$\[\]{}]", definition) and len(definition) < 250
        assert definition.endswith(".")
