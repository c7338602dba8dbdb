"""Notebooks: the pairs of `.py` source and `.ipynb`, and their typed parameters."""

import ast
import contextlib
import itertools
import re
from pathlib import Path
from typing import Any

import jupytext

from saerepgeo_lib.companion.colab import with_set_up_cell
from saerepgeo_lib.companion.parameters import Parameter, parse_value, refuse_secret
from saerepgeo_lib.companion.repository import find_repository
from saerepgeo_lib.errors import UserError, choose, nearest
from saerepgeo_lib.files import until_changed, write_text

NOTEBOOK_DIR = Path(__file__).resolve().parents[2] / "notebooks"
_KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


def find_notebook(name: str) -> Path:
    """The `.py` source of a notebook, given its name or the path of either of the pair."""
    path = Path(name)
    if path.suffix not in (".py", ".ipynb"):
        valid = {p.stem: p for p in sorted(NOTEBOOK_DIR.glob("*.py"))}
        return valid[choose("notebook", name, valid)]
    source = path.with_suffix(".py")
    with contextlib.suppress(OSError):  # a name too long for any file
        if source.is_file():
            return source
    raise UserError(f"no notebook source at {source}")


@until_changed
def read_parameters(source: Path) -> dict[str, Parameter]:
    """The parameters of a notebook, in order. The cell is parsed, never executed."""
    try:
        cells = jupytext.read(source).cells
    except (ValueError, OSError) as error:
        raise UserError(f"cannot read {source}: {error}") from error
    tagged = [c.source for c in cells if "parameters" in c.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise UserError(f"{source} has {len(tagged)} cells tagged 'parameters', expected 1")
    parameters = {}
    try:
        for node in ast.parse(tagged[0]).body:
            if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
                raise ValueError(f"line {node.lineno} is another")
            lines = tagged[0].splitlines()[node.lineno - 1 : node.end_lineno]
            comments = re.findall(r"#\s*(.*)", "\n".join(lines))
            parameters[node.target.id] = Parameter(
                node.target.id, ast.unparse(node.annotation),
                ast.literal_eval(node.value) if node.value is not None else None,
                comments[-1].strip() if comments else "",
            )  # fmt: skip
    except (SyntaxError, ValueError) as error:
        raise UserError(
            f"{source}: parameters are lines 'name: type = literal  # description'; {error}"
        ) from None
    return parameters


def parse_parameters(source: Path, given: list[tuple[str, str]]) -> dict[str, Any]:
    """Values for a notebook's parameters from texts, checked against their declared types.

    Refuses unknown names (with the nearest valid ones), wrong types, a name given twice, and
    anything that looks like a secret: parameters are printed in the executed notebook.
    """
    declared = read_parameters(source)
    values: dict[str, Any] = {}
    for name, text in given:
        refuse_secret(name, text)
        if name not in declared:
            raise UserError(f"{source.stem} has no parameter {name!r}; {nearest(name, declared)}")
        if name in values:
            raise UserError(f"parameter {name!r} is given twice")
        values[name] = parse_value(declared[name], text)
    return values


def number_cells(notebook: Any) -> None:
    """Give each cell its number as its id, so that the same notebook is the same file."""
    for i, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{i}"


@until_changed
def as_ipynb(source: Path) -> str:
    """The text of the `.ipynb` of a source, without outputs."""
    notebook = jupytext.read(source)
    notebook.metadata["kernelspec"] = _KERNEL
    # jupytext.toml says it, and jupytext writes it in an order that changes from process to process
    notebook.metadata.get("jupytext", {}).pop("cell_metadata_filter", None)
    number_cells(notebook)
    return jupytext.writes(notebook, fmt="ipynb")


def make_pairs(folder: Path = NOTEBOOK_DIR) -> list[Path]:
    """Write each `.ipynb` from its `.py`, whose set-up cell is renewed before that.

    The cell then has the address of the repository if one is known, else the one that it had.
    """
    sources = sorted(folder.glob("*.py"))
    for source in sources:
        if not _is_of_this_repository(source):
            write_text(source, _with_present_address(source))
        write_text(source.with_suffix(".ipynb"), as_ipynb(source) + "\n")
    return [source.with_suffix(".ipynb") for source in sources]


def other_addresses(folder: Path = NOTEBOOK_DIR) -> list[str]:
    """Notebooks whose set-up cell fetches another repository than the one this clone is of."""
    return [p.stem for p in sorted(folder.glob("*.py")) if not _is_of_this_repository(p)]


def _is_of_this_repository(source: Path) -> bool:
    return _with_present_address(source) == source.read_text(encoding="utf-8")


def _with_present_address(source: Path) -> str:
    repository = find_repository(source.resolve().parents[1])
    address = (repository.url, repository.branch) if repository else None
    return with_set_up_cell(source.read_text(encoding="utf-8"), address)


def check_pairs(folder: Path = NOTEBOOK_DIR) -> list[str]:
    """Differences between each `.ipynb` and its `.py`, by content; empty if none.

    A set-up cell must be the library's, with whatever address: a fork's clone passes as well.
    """
    sources, pairs = ({p.stem: p for p in sorted(folder.glob(f"*.{e}"))} for e in ("py", "ipynb"))
    texts = {path: path.read_text(encoding="utf-8") for path in sources.values()}
    problems = [
        f"{path.name} has a set-up cell that is not the library's"
        for path, text in texts.items()
        if with_set_up_cell(text) != text
    ]
    problems += [f"{name}.ipynb has no source {name}.py" for name in pairs if name not in sources]
    problems += [f"{name}.ipynb is missing" for name in sources if name not in pairs]
    for name in sorted(sources.keys() & pairs.keys()):
        both = itertools.zip_longest(_content(sources[name]), _content(pairs[name]))
        if differing := [i for i, (wanted, present) in enumerate(both) if wanted != present]:
            problems.append(f"{name}.ipynb differs from {name}.py, first in cell {differing[0]}")
    return problems


def _content(notebook: Path) -> list[Any]:
    """What a pair has in common; a source has no outputs."""
    cells = jupytext.read(notebook).cells
    return [(c.cell_type, c.source, dict(c.metadata), c.get("outputs", [])) for c in cells]
