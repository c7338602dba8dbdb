"""Notebooks: the pairs of `.py` source and `.ipynb`, and their typed parameters."""

import ast
import itertools
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jupytext
import yaml

from saerepgeo_lib.errors import UserError, nearest

NOTEBOOK_DIR = Path(__file__).resolve().parent.parent / "notebooks"
_SECRET_NAME = re.compile(r"token|secret|passw|credential|api_?key|private_?key", re.IGNORECASE)
_SECRET_VALUE = re.compile(r"\b(hf|sk|ghp|gho|github_pat|xox[bap])[_-][A-Za-z0-9_-]{16,}")


@dataclass(frozen=True)
class Parameter:
    """One line of a notebook's parameters cell: `name: type = default  # description`."""

    name: str
    type: str
    default: Any
    description: str


def find_notebook(name: str) -> Path:
    """The `.py` source of a notebook, given its name or the path of either of the pair."""
    path = Path(name)
    if path.suffix in (".py", ".ipynb"):
        source = path.with_suffix(".py")
        if source.is_file():
            return source
        raise UserError(f"no notebook source at {source}")
    valid = {p.stem: p for p in sorted(NOTEBOOK_DIR.glob("*.py"))}
    if name not in valid:
        raise UserError(f"unknown notebook {name!r}; {nearest(name, valid)}")
    return valid[name]


def read_parameters(source: Path) -> dict[str, Parameter]:
    """The parameters of a notebook, in order. The cell is parsed, never executed."""
    cells = jupytext.read(source).cells
    tagged = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise UserError(f"{source} has {len(tagged)} cells tagged 'parameters', expected 1")
    code = tagged[0].source
    lines = code.splitlines()
    out = {}
    for node in ast.parse(code).body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            raise UserError(f"{source}: parameters are lines 'name: type = literal  # description'")
        comments = "\n".join(lines[node.lineno - 1 : node.end_lineno]).rpartition("#")
        out[node.target.id] = Parameter(
            node.target.id,
            ast.unparse(node.annotation),
            ast.literal_eval(node.value) if node.value is not None else None,
            comments[2].strip() if comments[1] else "",
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
        if _SECRET_NAME.search(name) or _SECRET_VALUE.search(text):
            raise UserError(
                f"parameter {name!r} looks like a secret, and parameters are printed in the "
                "notebook; put it into the environment instead (for example HF_TOKEN)"
            )
        if name not in declared:
            raise UserError(f"{source.stem} has no parameter {name!r}; {nearest(name, declared)}")
        if name in out:
            raise UserError(f"parameter {name!r} is given twice")
        out[name] = _parse_value(declared[name], text)
    return out


def _parse_value(parameter: Parameter, text: str) -> Any:
    if parameter.type == "str":
        return text
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    if _is_type(value, parameter.type):
        return _as_type(value, parameter.type)
    raise UserError(
        f"parameter {parameter.name!r} is a {parameter.type} ({parameter.description}), "
        f"for example {json.dumps(parameter.default)}; got {text!r}"
    )


def _is_type(value: Any, kind: str) -> bool:
    if kind.startswith("list["):
        return isinstance(value, list) and all(_is_type(v, kind[5:-1]) for v in value)
    if kind == "float":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    return {"bool": bool, "str": str}[kind] is type(value)


def _as_type(value: Any, kind: str) -> Any:
    if kind.startswith("list["):
        return [_as_type(v, kind[5:-1]) for v in value]
    return float(value) if kind == "float" else value


def check_pairs(folder: Path = NOTEBOOK_DIR) -> list[str]:
    """Differences between each `.ipynb` and its `.py`, by content; empty if none."""
    problems = []
    sources = {p.stem: p for p in sorted(folder.glob("*.py"))}
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
    """Write each `.ipynb` from its `.py` (that way only), keeping the ids of unchanged cells."""
    made = []
    for source in sorted(folder.glob("*.py")):
        command = [sys.executable, "-m", "jupytext", "--quiet", "--to", "ipynb", "--update"]
        subprocess.run([*command, "--set-kernel", "python3", str(source)], check=True)
        made.append(source.with_suffix(".ipynb"))
    return made
