"""An executed notebook as a page of the book: its headings, its record, the command for it."""

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.notebooks import read_parameters
from saerepgeo_lib.record_files import RECORD_END, read_record

_FENCED = re.compile(r"^(`{3,}|~{3,}).*?^\1", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(#{1,3}) +(.+?) *$", re.MULTILINE)  # as deep as pages have anchors
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|$~])")


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
        return [found[2] for text in texts for found in _HEADING.finditer(text)]

    @property
    def title(self) -> str:
        """The page's first heading."""
        if not self.headings:
            raise UserError(f"notebook {self.name!r} has no title: begin it with '# Title'")
        return self.headings[0]

    def link(self, section: str) -> str:
        """Address of a section, as pages in `book/` write it; a UserError if there is none."""
        if section not in self.headings:
            raise UserError(
                f"notebook {self.name!r} has no heading {section!r}; it has: "
                + ", ".join(map(repr, self.headings))
            )
        slug = re.sub(r"[^\w\- ]", "", section.lower().replace(" ", "-"))  # as MyST makes it
        return f"../notebooks/{self.name}.ipynb#{slug}"

    @property
    def downloads(self) -> dict[str, str]:
        """Links to the executed notebook and its record, from pages in a folder of the stage."""
        executed = f"path:../executed/{self.name}"  # `path:` links to the file, not to a page
        return {"notebook": f"{executed}.ipynb", "record": f"{executed}{RECORD_END}"}


def read_page(executed: Path, source: Path) -> Page:
    """The page of an executed notebook (its record lies beside it), made from `source`."""
    record = read_record(executed.with_name(f"{executed.stem}{RECORD_END}"))
    cells = nbformat.read(executed, as_version=4).cells
    return Page(executed.stem, cells, record, rerun_command(source, record["parameters"]))


def rerun_command(source: Path, values: dict[str, Any]) -> str:
    """The command that makes a run again; only the parameters that are not default."""
    words = [".venv/bin/saerepgeo", "run", source.stem]
    for name, declared in read_parameters(source).items():
        if name in values and values[name] != declared.default:
            value = values[name]
            words += ["-p", name, value if isinstance(value, str) else json.dumps(value)]
    return shlex.join(words)


def plain(text: str) -> str:
    """Text that Markdown leaves as it is, in a table's cell too."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
