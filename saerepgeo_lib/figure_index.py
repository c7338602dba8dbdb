"""The index of figures: figure, page, record, and the command that makes it again."""

import re
from collections.abc import Iterator, Sequence

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.pages import Page

_SENTENCE = re.compile(r".+?[.!?](?=\s|$)", re.DOTALL)
_FRAMES = re.compile(r"<\w+ class=\"frames\"")  # HTML with a control that needs no kernel

_INTRODUCTION = """# Figures

Every figure of the pages that compute, in the book's order: what it shows, the record of the run
that drew it, and the command that draws it again, with other parameters if you like.
"""


def figure_index(pages: Sequence[Page]) -> str:
    """The page on all figures: those with a `name` in their cell's `mystnb.figure`.

    Raises UserError for a name used twice.
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
            mark = " (with a control)" if interactive else ""
            lines.append(f"- [{first_sentence(caption)}](#{name}){mark}\n")
        if lines:
            parts.append(
                f"## {page.title}\n\n[The page](../notebooks/{page.name}.ipynb) · "
                f"[record]({page.downloads['record']}) · rerun: `{page.command}`\n\n"
                + "".join(lines)
            )
    return "\n".join(parts)


def first_sentence(text: str) -> str:
    """The first sentence of a caption; all of it if it has no end."""
    text = " ".join(text.split())
    found = _SENTENCE.match(text)
    return found[0] if found else text


def _figures(page: Page) -> Iterator[tuple[str, str, bool]]:
    """Name, caption and whether it has a control, of each figure that was drawn, in order."""
    for cell in page.cells:
        named = cell.metadata.get("mystnb", {}).get("figure", {})
        if "name" not in named:
            continue
        outputs = [output.get("data", {}) for output in cell.get("outputs", [])]
        interactive = any(_FRAMES.search(data.get("text/html", "")) for data in outputs)
        if interactive or any(kind.startswith("image/") for data in outputs for kind in data):
            yield named["name"], named.get("caption", named["name"]), interactive
