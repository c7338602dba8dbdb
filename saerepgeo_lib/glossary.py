"""The glossary's definitions as a script, so that pages can show them without a server."""

import json
import re
from pathlib import Path

from saerepgeo_lib.errors import UserError

_BLOCK = re.compile(r"^```\{glossary\}\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def read_terms(text: str) -> dict[str, str]:
    """Terms and definitions of a page's `{glossary}` blocks (Markdown), in order.

    A term stands alone on its line, its definition below it, indented. Raises UserError for a term
    without a definition, or one that comes twice.
    """
    terms: dict[str, str] = {}
    for block in _BLOCK.findall(text):
        for entry in block.strip().split("\n\n"):
            term, *lines = entry.splitlines()
            definition = " ".join(line.strip() for line in lines)
            if not definition:
                raise UserError(f"the glossary does not define {term!r}")
            if term in terms:
                raise UserError(f"the glossary defines {term!r} twice")
            terms[term] = definition
    return terms


def write_script(page: Path, script: Path) -> None:
    """Write the terms of the glossary page as a script that sets `companionTerms`."""
    terms = read_terms(page.read_text(encoding="utf-8"))
    script.write_text(f"const companionTerms = {json.dumps(terms)};\n", encoding="utf-8")
