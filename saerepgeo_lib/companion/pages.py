"""Executed notebooks as pages of the book, and what the book adds to them, as Markdown."""

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from jinja2 import Environment, PackageLoader, StrictUndefined

from saerepgeo_lib.companion.notebooks import read_parameters
from saerepgeo_lib.companion.records import RECORD_END, read_record
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.stats.claims import case_in_words
from saerepgeo_lib.text import code, plain

_FENCED = re.compile(r"^(`{3,}|~{3,}).*?^\1", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(#{1,3}) +(.+?) *$", re.MULTILINE)  # as deep as pages have anchors
_SENTENCE = re.compile(r".+?([.!?](?=\s)|$)")
_FRAMES = re.compile(r"<\w+ class=\"frames\"")  # HTML with a control that needs no kernel
_GLOSSARY = re.compile(r"^```\{glossary\}\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Page:
    """A page: name of the notebook, its cells, its record, and the command that reruns it."""

    name: str
    cells: list[Any]
    record: dict[str, Any]
    command: str

    @property
    def headings(self) -> list[str]:
        """The page's headings of the first three levels, its title first."""
        texts = [_FENCED.sub("", c.source) for c in self.cells if c.cell_type == "markdown"]
        if found := [heading[2] for text in texts for heading in _HEADING.finditer(text)]:
            return found
        raise UserError(f"notebook {self.name!r} has no title: begin it with '# Title'")

    def link(self, section: str) -> str:
        """Address of a section, as pages in `book/` write it; a UserError if there is none."""
        if section not in self.headings:
            known = ", ".join(map(repr, self.headings))
            raise UserError(f"notebook {self.name!r} has no heading {section!r}; it has: {known}")
        slug = re.sub(r"[^\w\- ]", "", section.lower().replace(" ", "-"))  # as MyST makes it
        return f"../notebooks/{self.name}.ipynb#{slug}"


def read_page(executed: Path, source: Path) -> Page:
    """The page of an executed notebook (its record lies beside it), made from `source`."""
    record = read_record(executed.with_name(f"{executed.stem}{RECORD_END}"))
    cells = nbformat.read(executed, as_version=4).cells
    return Page(executed.stem, cells, record, rerun_command(source, record["parameters"]))


def rerun_command(source: Path, values: dict[str, Any]) -> str:
    """The command that makes a run again; only the parameters that are not default."""
    words = [".venv/bin/saerepgeo", "run", source.stem]
    for name, declared in read_parameters(source).items():
        if (value := values.get(name, declared.default)) != declared.default:
            words += ["-p", name, value if isinstance(value, str) else json.dumps(value)]
    return shlex.join(words)


_TEMPLATES = Environment(
    loader=PackageLoader("saerepgeo_lib.companion"), undefined=StrictUndefined, trim_blocks=True,
    lstrip_blocks=True, keep_trailing_newline=True,
)  # fmt: skip
_TEMPLATES.filters |= {"plain": plain, "code": code, "case": case_in_words}


def render(template: str, **values: Any) -> str:
    """Markdown from one of the `templates/`, by its name without the ending."""
    return _TEMPLATES.get_template(f"{template}.md.jinja").render(values)


def figure_index(pages: Sequence[Page]) -> str:
    """The page on all figures that were drawn and have a `name` in their cell's `mystnb.figure`."""
    drawn = [(page, figures) for page in pages if (figures := list(_figures(page)))]
    owner: dict[str, str] = {}
    for page, name in ((page, figure["name"]) for page, figures in drawn for figure in figures):
        if name in owner:
            places = f"is used in {owner[name]!r} and in {page.name!r}"
            raise UserError(f"the figure name {name!r} {places}; it must be unique in the book")
        owner[name] = page.name
    return render("figures", pages=drawn)


def _figures(page: Page) -> Iterator[dict[str, Any]]:
    """Name, first sentence of the caption, and whether there is a control, of each figure drawn."""
    for cell in page.cells:
        figure = cell.metadata.get("mystnb", {}).get("figure", {})
        outputs = [output.get("data", {}) for output in cell.get("outputs", [])]
        moves = any(_FRAMES.search(data.get("text/html", "")) for data in outputs)
        is_drawn = moves or any(kind.startswith("image/") for data in outputs for kind in data)
        if "name" in figure and is_drawn:
            caption = " ".join(figure.get("caption", figure["name"]).split())
            sentence = _SENTENCE.match(caption)
            yield figure | {"caption": sentence[0] if sentence else "", "moves": moves}


def read_terms(glossary: str) -> dict[str, str]:
    """Terms and definitions of a page's `{glossary}` blocks (Markdown), in order.

    A term stands alone on its line, its definition below it, indented. Raises UserError for a term
    without a definition, or one that comes twice.
    """
    terms: dict[str, str] = {}
    for entry in "\n".join(_GLOSSARY.findall(glossary)).strip().split("\n\n"):
        term, *lines = entry.split("\n")
        if not lines:
            raise UserError(f"the glossary does not define {term!r}")
        if term in terms:
            raise UserError(f"the glossary defines {term!r} twice")
        terms[term] = " ".join(line.strip() for line in lines)
    return terms
