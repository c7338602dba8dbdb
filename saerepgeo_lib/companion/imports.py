"""Which of the library's files a Python file imports, in every form that an import can take."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.files import until_changed

LIBRARY = Path(__file__).resolve().parents[1]
_DOTTED = re.compile(r"\w+(\.\w+)+")


def imports_of(path: Path, *, library: Path = LIBRARY) -> set[Path]:
    """The library's files that stand in a file's imports, wherever these stand.

    Statements of either kind, relative ones, and names in quotes, such as `import_module` takes.
    A package counts with its `__init__.py`; a name that it lends from a module (as its
    `__init__.pyi` lists) with that module; the package imported whole, or for a name that is not
    listed, with all that it lists. Raises UserError for a file that is no Python.
    """
    files = {file for name in _names(path) for file in _files(name, path, library)}
    return files - {path.resolve()}


def all_imports_of(path: Path, *, library: Path = LIBRARY) -> set[Path]:
    """The library's files that a file imports, directly or through them."""
    reached: set[Path] = set()
    to_read = [path]
    while to_read:
        new = imports_of(to_read.pop(), library=library) - reached
        reached |= new
        to_read += new
    return reached


@until_changed
def _names(path: Path) -> frozenset[str]:
    """Dotted names that a file imports, or might: each that stands in quotes, too."""
    try:
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{path} is not Python: {error}") from error
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (f"{node.module}." if node.module else "")
            names |= {module + alias.name for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names |= {node.value} if _DOTTED.fullmatch(node.value) else set()
    return frozenset(names)


def _files(name: str, path: Path, library: Path) -> Iterator[Path]:
    """The library's files that importing a name reads, in the file at `path` if it is relative."""
    first, *rest = name.lstrip(".").split(".")
    level = len(name) - len(name.lstrip("."))
    if not level and first != library.name:
        return
    folder = path.resolve().parents[level - 1] if level else library
    parts = [first, *rest] if level else rest
    yield folder / "__init__.py"
    while parts and (folder / parts[0] / "__init__.py").is_file():
        folder /= parts.pop(0)
        yield folder / "__init__.py"
    stub = folder / "__init__.pyi"
    if parts and (folder / f"{parts[0]}.py").is_file():
        yield folder / f"{parts[0]}.py"
    elif stub.is_file():
        lent = _names(stub)
        listed = [full for full in lent if parts and full.rpartition(".")[2] == parts[0]]
        for full in listed or lent:
            yield from _files(full, stub, library)
