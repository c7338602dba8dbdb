"""Imports run downward, from room to room and from module to module."""

import subprocess
import sys
from graphlib import CycleError, TopologicalSorter

import pytest

from saerepgeo_lib.companion.imports import LIBRARY, imports_of

ROOMS = ("stats", "activations", "rank", "geometry", "steering", "synthetic", "plots", "studies",
         "companion")  # fmt: skip
HEAVY = ("transformer_lens", "transformers", "sklearn", "sae_lens")


def floor_of(path, library):
    """The number of a file's room; what lies beside the rooms is below them, `__init__` above."""
    first = path.relative_to(library).parts[0]
    return ROOMS.index(first) if first in ROOMS else len(ROOMS) if first == "__init__.py" else -1


def faults(library):
    """Imports that lead upward, and a cycle of modules if there is one."""
    files = sorted(library.rglob("*.py"))
    # a package's own file lists what the package lends, so it stands above its modules
    graph = {f: {g for g in imports_of(f, library=library) if g.name != "__init__.py"}
             for f in files}  # fmt: skip
    found = [f"{f.relative_to(library)} imports {g.relative_to(library)}"
             for f, reached in graph.items() for g in sorted(reached)
             if floor_of(g, library) > floor_of(f, library)]  # fmt: skip
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found.append(f"a cycle: {[f.stem for f in error.args[1]]}")
    return found


def test_imports_run_downward_and_in_no_cycle():
    assert faults(LIBRARY) == []


@pytest.fixture
def small(tmp_path):
    """A library with two modules in the lower room and one in the upper."""
    library = tmp_path / "saerepgeo_lib"
    for name in ("__init__", "errors", "rank/__init__", "rank/a", "rank/b", "studies/__init__",
                 "studies/c"):  # fmt: skip
        (library / name).parent.mkdir(parents=True, exist_ok=True)
        (library / f"{name}.py").write_text("")
    (library / "studies" / "__init__.pyi").write_text("from .c import made\n")
    (library / "studies" / "c.py").write_text("from saerepgeo_lib.rank import a")
    return library


FORMS = (
    "from saerepgeo_lib.{0} import {1}",
    "from saerepgeo_lib.{0}.{1} import anything",
    "import saerepgeo_lib.{0}.{1}",
    "import saerepgeo_lib.{0}.{1} as other",
    "def f():\n    from ..{0} import {1}",
    "from ..{0}.{1} import anything",
    "import importlib\nx = importlib.import_module('saerepgeo_lib.{0}.{1}')",
    "x = __import__('saerepgeo_lib.{0}.{1}')",
    "STUDIES = {{'one': 'saerepgeo_lib.{0}.{1}'}}",
)


def test_every_form_of_import_is_seen(small):
    a, b, c = (small / name for name in ("rank/a.py", "rank/b.py", "studies/c.py"))
    for form in FORMS:
        c.write_text("from saerepgeo_lib.rank import a")
        a.write_text(form.format("rank", "b"))
        assert faults(small) == []
        a.write_text(form.format("studies", "c"))
        assert faults(small)[0] == "rank/a.py imports studies/c.py"
        c.write_text("")
        a.write_text(form.format("rank", "b"))
        b.write_text(form.format("rank", "a"))
        assert [fault.partition(":")[0] for fault in faults(small)] == ["a cycle"], form
        b.write_text("")
    # what a room lends counts as the module it comes from
    for line in ("from saerepgeo_lib.studies import made", "import saerepgeo_lib.studies",
                 "from saerepgeo_lib.studies import other"):  # fmt: skip
        (small / "errors.py").write_text(line)
        assert faults(small) == ["errors.py imports studies/c.py"]


LOADED = """
import importlib, sys
for module in sys.argv[1:]:
    importlib.import_module(module)
print(*{name.split('.')[0] for name in sys.modules})
"""


@pytest.mark.parametrize(
    ("rooms", "heavy"), [(("rank", "stats"), HEAVY), (("geometry", "synthetic"), HEAVY[:2])]
)
def test_the_mathematics_loads_no_model_library(rooms, heavy):
    modules = [f"saerepgeo_lib.{room}.{file.stem}" for room in rooms
               for file in (LIBRARY / room).glob("*.py")]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *modules], capture_output=True, text=True, check=True
    )
    assert not set(done.stdout.split()) & set(heavy)
