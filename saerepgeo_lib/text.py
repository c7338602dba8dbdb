"""Names that others chose, as plain text wherever they are shown: Markdown, HTML, short places."""

import html
import re
from typing import Any

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|$~&])")


def plain(text: str) -> str:
    """Text that Markdown leaves as it is, in a table's cell too."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """Text as a span of code in Markdown, between more backticks than it has in a row itself."""
    text = " ".join(text.split())
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    padding = " " * ("`" in text)
    return f"{fence}{padding}{text}{padding}{fence}"


def in_html(value: Any) -> Any:
    """A text without meaning to HTML; any other value as it is."""
    return html.escape(value) if isinstance(value, str) else value


def shortened(text: str, length: int) -> str:
    """Text on one line of at most `length` characters: beginning and end, if it is longer."""
    text = " ".join(text.split())
    end = (length - 1) // 2
    return text if len(text) <= length else f"{text[: length - 1 - end]}…{text[len(text) - end :]}"
