"""Notebooks: the pairs of `.py` source and `.ipynb`, and their typed parameters."""

import ast
import contextlib
import itertools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jupytext

from saerepgeo_lib.colab import read_set_up_cell, set_up_cell
from saerepgeo_lib.errors import UserError, nearest
from saerepgeo_lib.files import write_text
from saerepgeo_lib.parameters import Parameter, parse_value, refuse_secret
from saerepgeo_lib.repository import Repository, find_repository

NOTEBOOK_DIR = Path(__file__).resolve().parent.parent / "notebooks"


def find_notebook(name: str) -> Path:
    """The `.py` source of a notebook, given its name or the path of either of the pair."""
    path = Path(name)
    if path.suffix in (".py", ".ipynb"):
        source = path.with_suffix(".py")
        with contextlib.suppress(OSError):  # a name too long for any file
            if source.is_file():
                return source
        raise UserError(f"no notebook source at {source}")
    valid = {p.stem: p for p in sorted(NOTEBOOK_DIR.glob("*.py"))}
    if name not in valid:
        raise UserError(f"unknown notebook {name!r}; {nearest(name, valid)}")
    return valid[name]


def read_parameters(source: Path) -> dict[str, Parameter]:
    """The parameters of a notebook, in order. The cell is parsed, never executed."""
    try:
        cells = jupytext.read(source).cells
    except (ValueError, OSError) as error:
        raise UserError(f"cannot read {source}: {error}") from error
    tagged = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise UserError(f"{source} has {len(tagged)} cells tagged 'parameters', expected 1")
    code = tagged[0].source
    lines = code.splitlines()
    expected = f"{source}: parameters are lines 'name: type = literal  # description'"
    out = {}
    try:
        nodes = ast.parse(code).body
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{expected}; {error}") from None
    for node in nodes:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            raise UserError(expected)
        comments = re.findall(r"#\s*(.*)", "\n".join(lines[node.lineno - 1 : node.end_lineno]))
        try:
            default = ast.literal_eval(node.value) if node.value is not None else None
        except ValueError:
            raise UserError(f"{expected}; {node.target.id!r} has no literal") from None
        out[node.target.id] = Parameter(
            node.target.id,
            ast.unparse(node.annotation),
            default,
            comments[-1].strip() if comments else "",
        )
    return out


def parse_parameters(source: Path, given: list[tuple[str, str]]) -> dict[str, Any]:
    """Values for a notebook's parameters from texts, checked against their declared types.

    Refuses unknown names (with the nearest valid ones), wrong types, a name given twice, and
    anything that looks like a secret: parameters are printed in the executed notebook.
    """
    declared = read_parameters(source)
    out: dict[str, Any] = {}
    for name, text in given:
        refuse_secret(name, text)
        if name not in declared:
            raise UserError(f"{source.stem} has no parameter {name!r}; {nearest(name, declared)}")
        if name in out:
            raise UserError(f"parameter {name!r} is given twice")
        out[name] = parse_value(declared[name], text)
    return out


def check_pairs(folder: Path = NOTEBOOK_DIR) -> list[str]:
    """Differences between each `.ipynb` and its `.py`, by content; empty if none.

    A set-up cell must be the library's, with whatever address: a fork's clone passes as well.
    """
    problems = []
    sources = {p.stem: p for p in sorted(folder.glob("*.py"))}
    for name, source in sources.items():
        text = source.read_text(encoding="utf-8")
        if _with_set_up(text, None) != text:
            problems.append(f"{name}.py has a set-up cell that is not the library's")
    for orphan in sorted({p.stem for p in folder.glob("*.ipynb")} - set(sources)):
        problems.append(f"{orphan}.ipynb has no source {orphan}.py")
    for name, source in sources.items():
        pair = source.with_suffix(".ipynb")
        if not pair.is_file():
            problems.append(f"{name}.ipynb is missing")
            continue
        notebook = jupytext.read(pair)
        if any(cell.get("outputs") for cell in notebook.cells):
            problems.append(f"{name}.ipynb has outputs")
        wanted, found = _content(jupytext.read(source)), _content(notebook)
        if wanted != found:
            both = itertools.zip_longest(wanted, found)
            first = next(i for i, (a, b) in enumerate(both) if a != b)
            problems.append(f"{name}.ipynb differs from {name}.py, first in cell {first}")
    return problems


def _content(notebook: Any) -> list[tuple[str, str, dict[str, Any]]]:
    """What a pair has in common: type, source and the kept metadata of each cell."""
    kept = ("tags", "mystnb")
    return [
        (cell.cell_type, cell.source, {k: cell.metadata[k] for k in kept if k in cell.metadata})
        for cell in notebook.cells
    ]


def make_pairs(folder: Path = NOTEBOOK_DIR) -> list[Path]:
    """Write each `.ipynb` from its `.py` (that way only), keeping the ids of unchanged cells.

    Before that the set-up cell of each `.py` is renewed, with the address of the repository if
    one is known, else with the address that it has.
    """
    repository = find_repository(folder.resolve().parent)
    made = []
    for source in sorted(folder.glob("*.py")):
        text = source.read_text(encoding="utf-8")
        if (renewed := _with_set_up(text, repository)) != text:
            write_text(source, renewed)
        command = [sys.executable, "-m", "jupytext", "--quiet", "--to", "ipynb", "--update"]
        subprocess.run([*command, "--set-kernel", "python3", str(source)], check=True)
        made.append(source.with_suffix(".ipynb"))
    return made


def other_addresses(folder: Path = NOTEBOOK_DIR) -> list[str]:
    """Notebooks whose set-up cell fetches another repository than the one this clone is of."""
    repository = find_repository(folder.resolve().parent)
    texts = {p.stem: p.read_text(encoding="utf-8") for p in sorted(folder.glob("*.py"))}
    return [name for name, text in texts.items() if _with_set_up(text, repository) != text]


def _with_set_up(text: str, repository: Repository | None) -> str:
    """The text of a `.py` with its set-up cell, if it has one, as the library writes it."""
    cells = re.split(r"^(?=# %%)", text, flags=re.MULTILINE)
    for i, cell in enumerate(cells):
        written = read_set_up_cell(cell)
        if written is not None:
            url, branch = (repository.url, repository.branch) if repository else written
            cells[i] = f'# %% tags=["remove-cell"]\n{set_up_cell(url, branch)}\n\n'
            break
    return "".join(cells)
