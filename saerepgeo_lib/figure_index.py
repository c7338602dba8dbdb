"""The index of figures: figure, page, record, and the command that makes it again."""

import re
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.pages import Page, plain

_SENTENCE = re.compile(r".+?[.!?](?=\s|$)", re.DOTALL)

_INTRODUCTION = """# Figures

Every figure of the pages that compute, in the book's order: what it shows, the record of the run
that drew it, and the command that draws it again, with other parameters if you like.
"""


def figure_index(pages: Sequence[Page]) -> str:
    """The page on all figures: those with a `name` in their cell's `mystnb.figure`, and those that
    stand in HTML as `<figure class="frames" id=...>`. Raises UserError for a name used twice.
    """
    parts, owner = [_INTRODUCTION], dict[str, str]()
    for page in pages:
        lines = []
        for name, caption, interactive in _figures(page):
            if name in owner:
                raise UserError(
                    f"the figure name {name!r} is used in {owner[name]!r} and in {page.name!r}; "
                    "a name must be unique in the book"
                )
            owner[name] = page.name
            lines.append(_entry(page, name, caption, interactive))
        if lines:
            parts.append(
                f"## {page.title}\n\n[The page](../notebooks/{page.name}.ipynb) · "
                f"[record]({page.downloads['record']}) · "
                f"rerun: `{page.command}`\n\n" + "".join(lines)
            )
    return "\n".join(parts)


def first_sentence(text: str) -> str:
    """The first sentence of a caption; all of it if it has no end."""
    text = " ".join(text.split())
    found = _SENTENCE.match(text)
    return found[0] if found else text


def _entry(page: Page, name: str, caption: str, interactive: bool) -> str:
    if not interactive:
        return f"- [{first_sentence(caption)}](#{name})\n"
    # Markdown cannot link into HTML that it does not know.
    said = plain(first_sentence(caption) or name)
    return f'- <a href="../notebooks/{page.name}.html#{name}">{said}</a> (interactive)\n'


def _figures(page: Page) -> Iterator[tuple[str, str, bool]]:
    """Name, caption and whether it is interactive, of each figure in order."""
    for cell in page.cells:
        outputs = [o.get("data", {}) for o in cell.get("outputs", [])]
        for data in outputs:
            reader = _FrameReader()
            reader.feed(data.get("text/html", ""))
            yield from ((name, caption, True) for name, caption in reader.found.items())
        named = cell.metadata.get("mystnb", {}).get("figure", {})
        if "name" in named and any(kind.startswith("image/") for d in outputs for kind in d):
            yield named["name"], named.get("caption", named["name"]), False


class _FrameReader(HTMLParser):
    """Collects id and caption of each `<figure class="frames" id=...>`."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self._figure = ""
        self._in_caption = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "figure" and "frames" in (given.get("class") or "").split() and given.get("id"):
            self._figure = given["id"] or ""
            self.found[self._figure] = ""
        self._in_caption = self._in_caption or tag == "figcaption"

    def handle_endtag(self, tag: str) -> None:
        if tag == "figure":
            self._figure = ""
        elif tag == "figcaption":
            self._in_caption = False

    def handle_data(self, data: str) -> None:
        if self._figure and self._in_caption:
            self.found[self._figure] += data
