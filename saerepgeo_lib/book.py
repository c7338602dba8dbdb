"""The book: executed notebooks and prose, staged and rendered by Jupyter Book."""

import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import yaml

from saerepgeo_lib.compare import read_claims, shipped_claims
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.figure_index import figure_index
from saerepgeo_lib.glossary import write_script
from saerepgeo_lib.ledger import ledger
from saerepgeo_lib.notebooks import check_pairs, other_addresses
from saerepgeo_lib.page_header import page_header, with_header
from saerepgeo_lib.pages import Page, read_page
from saerepgeo_lib.repository import Repository, find_repository
from saerepgeo_lib.runner import Run, run

logger = logging.getLogger(__name__)

# What a browser fetches by itself; links that a reader may follow are no matter.
_LOADED = re.compile(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=\"(https?://[^\"]*)\"")

ROOT = Path(__file__).resolve().parent.parent
GENERATED = ("book/claims", "book/figures")  # pages made from the records at each build


def build(*, root: Path = ROOT, fresh: bool = False, progress: bool = True) -> Path:
    """Execute what changed, stage, render with warnings as errors; the path of index.html.

    Raises UserError if a pair has drifted, NotebookError if a notebook fails (nothing is
    rendered then), and UserError with Jupyter Book's last lines if rendering fails.
    """
    if problems := check_pairs(root / "notebooks"):
        raise UserError("notebook pairs: " + "; ".join(problems) + "; run 'saerepgeo notebooks'")
    if others := other_addresses(root / "notebooks"):
        logger.warning(
            "no Colab buttons: these notebooks would fetch another repository than this clone's: "
            "%s; run 'saerepgeo notebooks', and commit what it writes",
            ", ".join(others),
        )
    stage = root / "_build" / "stage"
    shutil.rmtree(stage, ignore_errors=True)
    (stage / "executed").mkdir(parents=True)
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    pages = _pages(toc)
    for page in pages:
        if page.startswith("notebooks/"):
            result = run(
                str(root / f"{page}.py"), [], out=root / "_build" / "executed",
                fresh=fresh, progress=progress,
            )  # fmt: skip
            _copy_executed(result, stage / "executed")
            logger.info("%s: %s", page, "unchanged" if result.cached else "executed")
    stage_book(root, stage, pages)
    return _render(stage, pages, root)


def _render(stage: Path, pages: list[str], root: Path) -> Path:
    """Render the stage; whatever stops this, the last good book stays in its place."""
    html = root / "_build" / "html"
    last = html.with_name("html.last")
    if html.is_dir():
        shutil.rmtree(last, ignore_errors=True)
        html.rename(last)  # what it left must not stay in the new one
    try:
        _run_jupyter_book(stage, root)
        _check_html(html, pages)
    except BaseException:
        shutil.rmtree(html, ignore_errors=True)
        if last.is_dir():
            last.rename(html)
        raise
    shutil.rmtree(last, ignore_errors=True)
    return html / "index.html"


def _run_jupyter_book(stage: Path, root: Path) -> None:
    command = [
        sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", str(stage),
        "--path-output", str(root), "--all", "-W", "-n", "--keep-going", "-q",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-25:])
        raise UserError(f"Jupyter Book refused to build:\n{tail}")


def _check_html(html: Path, pages: list[str]) -> None:
    """Refuse a built book that lacks a page, or of which a page would load from elsewhere."""
    missing = [page for page in pages if not (html / f"{page}.html").is_file()]
    if missing:
        raise UserError(f"pages missing from the built book: {', '.join(missing)}")
    foreign = {
        address
        for page in html.rglob("*.html")
        for address in _LOADED.findall(page.read_text(encoding="utf-8"))
    }
    if foreign:
        raise UserError(f"pages would load foreign addresses: {', '.join(sorted(foreign))}")


def _copy_executed(result: Run, folder: Path) -> None:
    """An executed notebook and its record, as readers fetch them."""
    shutil.copy(result.notebook, folder)
    shutil.copy(result.record, folder)


def stage_book(root: Path, stage: Path, pages: list[str]) -> None:
    """Everything that Jupyter Book renders, from `root` and the notebooks in `stage/executed`.

    Notebooks get a header; the pages in GENERATED are made from the records.
    """
    notebooks = [page for page in pages if page.startswith("notebooks/")]
    shown = [
        read_page(stage / "executed" / f"{Path(page).name}.ipynb", root / f"{page}.py")
        for page in notebooks
    ]
    (stage / "notebooks").mkdir()
    for page in shown:
        _write_with_header(page, stage, find_repository(root))
    shutil.copytree(root / "book", stage / "book")
    terms = stage / "book" / "assets" / "glossary_terms.js"
    write_script(stage / "book" / "glossary.md", terms)
    claims = ledger(shown, read_claims(shipped_claims()))
    for name, text in zip(GENERATED, (claims, figure_index(shown)), strict=True):
        (stage / f"{name}.md").write_text(text, encoding="utf-8")
    shutil.copy(root / "_toc.yml", stage)
    _write_config(root, stage)


def _write_with_header(page: Page, stage: Path, repository: Repository | None) -> None:
    notebook = nbformat.read(stage / "executed" / f"{page.name}.ipynb", as_version=4)
    first = notebook.cells[0]
    first.source = with_header(first.source, page_header(page, repository))
    nbformat.write(notebook, stage / "notebooks" / f"{page.name}.ipynb")


def _pages(toc: dict[str, Any]) -> list[str]:
    pages = [toc["root"]]
    for part in toc.get("parts", [toc]):
        for chapter in part["chapters"]:
            pages.append(chapter["file"])
            pages += [section["file"] for section in chapter.get("sections", [])]
    return pages


def _write_config(root: Path, stage: Path) -> None:
    """The book's configuration; buttons only where there is a repository to point at."""
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    repository = find_repository(root)
    if repository is not None and not other_addresses(root / "notebooks"):
        config["repository"] = {"url": repository.url, "branch": repository.branch}
        config["launch_buttons"] = {"colab_url": "https://colab.research.google.com"}
        config["html"]["use_repository_button"] = True
    (stage / "_config.yml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
