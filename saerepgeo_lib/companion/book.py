"""The book: executed notebooks and prose, staged and rendered by Jupyter Book."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import nbformat
import psutil
import yaml
from joblib import Parallel, cpu_count, delayed
from sphinx_external_toc.parsing import parse_toc_yaml
from tqdm.auto import tqdm

from saerepgeo_lib.companion.compare import read_claims, shipped_claims
from saerepgeo_lib.companion.ledger import found_on, ledger
from saerepgeo_lib.companion.notebooks import check_pairs, other_addresses
from saerepgeo_lib.companion.pages import figure_index, read_page, read_terms, render
from saerepgeo_lib.companion.repository import find_repository
from saerepgeo_lib.companion.runner import Run, run
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.files import atomic_folder, atomic_path

logger = logging.getLogger(__name__)

# What a browser fetches by itself; links that a reader may follow are no matter.
_LOADED = re.compile(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=\"(https?://[^\"]*)\"")

ROOT = Path(__file__).resolve().parents[2]
GENERATED = ("book/claims", "book/figures")  # pages made from the records at each build
_GB_PER_NOTEBOOK = 6


def build(*, root: Path = ROOT, fresh: bool = False, progress: bool = True) -> Path:
    """Execute what changed, stage, render with warnings as errors; the path of index.html.

    Raises UserError if a pair has drifted, NotebookError if a notebook fails (nothing is
    rendered then), and UserError with Jupyter Book's last lines if rendering fails.
    """
    if problems := check_pairs(root / "notebooks"):
        raise UserError("notebook pairs: " + "; ".join(problems) + "; run 'saerepgeo notebooks'")
    stage = root / "_build" / "stage"
    shutil.rmtree(stage, ignore_errors=True)
    (stage / "executed").mkdir(parents=True)
    pages = list(parse_toc_yaml(root / "_toc.yml"))
    sources = [root / f"{page}.py" for page in pages if page.startswith("notebooks/")]
    for result in execute(sources, root / "_build" / "executed", fresh=fresh, progress=progress):
        shutil.copy(result.notebook, stage / "executed")  # as readers fetch them
        shutil.copy(result.record, stage / "executed")
    stage_book(root, stage, pages)
    return render_book(stage, pages, root)


def execute(
    sources: list[Path], out: Path, *, fresh: bool = False, progress: bool = True
) -> list[Run]:
    """Execute the notebooks whose run is not finished in `out`, two at a time where memory allows.

    If one fails, its error is raised and nothing else goes on; what is finished is kept. Each
    kernel may use all cores, since a sum over another number of threads is rounded otherwise; but
    threads that wait sleep, since beside another kernel spinning ones take ten times as long.
    """
    n, results = n_at_once(), []
    if n > 1:
        for name, value in {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_THREAD_TIMEOUT": "4"}.items():
            os.environ.setdefault(name, value)
    options = {"out": out, "fresh": fresh, "progress": progress and n == 1}
    work = Parallel(n, "threading", "generator", pre_dispatch="n_jobs", batch_size=1)
    runs = work(delayed(_run)(source, **options) for source in sources)
    for done in tqdm(runs, total=len(sources), unit="notebook", disable=not progress or n == 1):
        state = "unchanged" if done.cached else "executed"
        logger.info("notebooks/%s: %s", done.notebook.stem, state)
        results.append(done)
    return results


def n_at_once() -> int:
    """How many notebooks run side by side: two where there are the cores and the memory."""
    fit = int(psutil.virtual_memory().available / (_GB_PER_NOTEBOOK * 1e9))
    return max(1, min(2, cpu_count(), fit))


def _run(source: Path, **options: Any) -> Run:
    try:
        return run(str(source), [], **options)
    except UserError as error:
        raise UserError(f"notebooks/{source.stem}: {error}") from error


def stage_book(root: Path, stage: Path, pages: list[str]) -> None:
    """Everything that Jupyter Book renders, from `root` and the notebooks in `stage/executed`.

    Notebooks get a header; the pages in GENERATED are made from the records, and the glossary's
    terms become a script too, so that pages can show them without a server.
    """
    repository = find_repository(root)
    executed, notebooks = stage / "executed", root / "notebooks"
    names = [Path(page).name for page in pages if page.startswith("notebooks/")]
    shown = [read_page(executed / f"{name}.ipynb", notebooks / f"{name}.py") for name in names]
    (stage / "notebooks").mkdir()
    for page in shown:
        notebook = nbformat.read(executed / f"{page.name}.ipynb", as_version=4)
        title, _, rest = notebook.cells[0].source.partition("\n")
        header = render("header", page=page, repository=repository, claims=found_on(page))
        notebook.cells[0].source = f"{title}\n\n{header}{rest}"
        nbformat.write(notebook, stage / "notebooks" / f"{page.name}.ipynb")
    shutil.copytree(root / "book", stage / "book")
    terms = read_terms((root / "book" / "glossary.md").read_text(encoding="utf-8"))
    texts = {
        "book/claims.md": ledger(shown, read_claims(shipped_claims())),
        "book/figures.md": figure_index(shown),
        "book/assets/glossary_terms.js": f"const companionTerms = {json.dumps(terms)};\n",
        "_config.yml": yaml.safe_dump(book_config(root), sort_keys=False),
        "_toc.yml": (root / "_toc.yml").read_text(encoding="utf-8"),
    }
    for name, text in texts.items():
        (stage / name).write_text(text, encoding="utf-8")


def book_config(root: Path) -> dict[str, Any]:
    """Jupyter Book's configuration; buttons only where the set-up cells name this repository."""
    repository = find_repository(root)
    config: dict[str, Any] = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    if others := other_addresses(root / "notebooks"):
        logger.warning(
            "no Colab buttons: these notebooks would fetch another repository than this clone's: "
            "%s; run 'saerepgeo notebooks', and commit what it writes", ", ".join(others),
        )  # fmt: skip
    elif repository is not None:
        config["repository"] = {"url": repository.url, "branch": repository.branch}
        config["launch_buttons"] = {"colab_url": "https://colab.research.google.com"}
        config["html"]["use_repository_button"] = True
    return config


def render_book(stage: Path, pages: list[str], root: Path) -> Path:
    """Render the stage; whatever stops this, the last good book stays in its place."""
    command = [
        sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", str(stage),
        "--all", "-W", "-n", "--keep-going", "-q",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-25:])
        raise UserError(f"Jupyter Book refused to build:\n{tail}")
    built, html = stage / "_build" / "html", root / "_build" / "html"
    _check_html(built, pages)
    with atomic_folder(html) as new:
        shutil.copytree(built, new, dirs_exist_ok=True)
    return html / "index.html"


def _check_html(html: Path, pages: list[str]) -> None:
    """Refuse a built book that lacks a page, or of which a page would load from elsewhere."""
    missing = [page for page in pages if not (html / f"{page}.html").is_file()]
    if missing:
        raise UserError(f"pages missing from the built book: {', '.join(missing)}")
    texts = (page.read_text(encoding="utf-8") for page in html.rglob("*.html"))
    if foreign := {address for text in texts for address in _LOADED.findall(text)}:
        raise UserError(f"pages would load foreign addresses: {', '.join(sorted(foreign))}")


def zip_book(html: Path, out: Path) -> Path:
    """Pack the folder `html` into `out`, atomically: the same bytes for the same pages.

    Hidden files are left out. Unpacked, `saerepgeo-book/index.html` opens from disk.
    """
    with atomic_path(out) as temporary, zipfile.ZipFile(temporary, "w") as packed:
        for path in sorted(path for path in html.rglob("[!.]*") if path.is_file()):
            name = f"saerepgeo-book/{path.relative_to(html).as_posix()}"
            entry = zipfile.ZipInfo(name)  # of a fixed time, the format's earliest
            entry.external_attr = 0o644 << 16
            packed.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return out
