"""The command line: `saerepgeo run | sweep | collect | book | ...`; `saerepgeo -h` lists all.

Each command is declared once, above the function that does it, which loads what it needs.
"""

import argparse
import logging
import os
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.files import cache_dir, data_dir

# about, function, arguments, what is left when it is interrupted
_COMMANDS: dict[str, tuple[str, Any, tuple[Any, ...], str]] = {}


def _argument(*names: str, **options: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    return names, options


def _command(about: str, *arguments: Any, left: str = "nothing was written") -> Callable[..., Any]:
    """Make a function a command of its name; `left` is true at every moment of a Ctrl-C."""

    def register(function: Any) -> Any:
        return _COMMANDS.setdefault(function.__name__, (about, function, arguments, left))

    return register


def _training(args: Namespace) -> dict[str, Any]:
    """What every training is told: its folder of work, and its device."""
    from saerepgeo_lib.activations.models import best_device

    work = args.work or cache_dir() / "training"
    return {"work": work, "device": best_device(args.device)}


def _say(text: Any) -> None:
    sys.stdout.write(f"{text}\n")


_RUNS = _argument("-o", "--out", type=Path, default=Path("runs"), help="folder for results")
_FRESH = _argument("--fresh", action="store_true", help="execute even what is there")
_TRAINING = (
    _argument("--work", type=Path, help="folder for activations, checkpoints, single results"),
    _argument("--device", default="auto"),
)
_PARAMETER = _argument(
    "-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), dest="parameters",
    help="a parameter; may be repeated; lists as [0, 0.1, 1]",
)  # fmt: skip


@_command(
    "execute a notebook with parameters",
    _argument("notebook", help="name (stratified_manifold) or path"),
    _PARAMETER, _FRESH, _RUNS,
    _argument("--list", action="store_true", help="list the notebook's parameters and stop"),
    left="",  # what is kept of a run, its error says
)  # fmt: skip
def run(args: Namespace) -> None:
    from saerepgeo_lib.companion import notebooks, runner

    if args.list:
        for p in notebooks.read_parameters(notebooks.find_notebook(args.notebook)).values():
            _say(f"{p.name}: {p.type} = {p.default!r}\n    {p.description}")
        return
    given = [(name, value) for name, value in args.parameters]
    result = runner.run(
        args.notebook, given, out=args.out, fresh=args.fresh, progress=args.progress
    )
    _say(f"{result.notebook}{' (found, not run again)' if result.cached else ''}")
    _say(result.record)


@_command(
    "run notebooks over a grid of parameters (resumable)",
    _argument("grid", type=Path, help="a TOML file (see the README: A thousand runs)"),
    _argument("--workers", type=int, help="processes here (default: one per core)"),
    _argument("--scheduler", metavar="ADDRESS", help="use this Dask cluster instead"),
    _argument("--dry", action="store_true", help="say what there is to do, and stop"),
    _RUNS,
    left="finished runs are kept; the same command does the rest",
)
def sweep(args: Namespace) -> None:
    from saerepgeo_lib.companion.grid import read_grid

    grid, out = read_grid(args.grid), args.out  # mistakes are told before Dask is loaded
    from saerepgeo_lib.companion import sweep

    if args.dry:
        _say(f"{grid.n_runs} runs, {sweep.count_finished(grid, out=out)} finished in {out}")
        return
    outcome = sweep.sweep(
        grid, out=out, workers=args.workers, scheduler=args.scheduler, progress=args.progress
    )
    ends = f"{outcome.executed} executed, {outcome.found} found, {outcome.failed} failed"
    ends += f", {outcome.slow} not started" * bool(outcome.slow)
    _say(f"{outcome.total} runs in {out}: {ends}")
    if outcome.failed:
        _say("\n".join(f"  {failure}" for failure in outcome.failures))
        more = f"; the first {sweep.SHOWN} are shown" if outcome.failed > sweep.SHOWN else ""
        raise RuntimeError(
            f"{outcome.failed} of {outcome.total} runs failed{more}: the reasons are in "
            f"{out}/*.failed.json, and the same command tries these runs again"
        )
    if outcome.slow:
        raise RuntimeError(
            f"{outcome.slow} of {outcome.total} runs did not start: the machine is slow or busy. "
            "The same command tries them again: with fewer --workers, or with more time in the "
            "environment's SAEREPGEO_START_TIMEOUT (seconds)"
        )


@_command(
    "make one table of the claims of all runs",
    _argument("folder", type=Path, help="where the runs are"),
    _argument("-o", "--out", type=Path, default=Path("claims.parquet")),
)
def collect(args: Namespace) -> None:
    from saerepgeo_lib.companion.collect import collect

    table = collect(args.folder, args.out)
    _say(f"{args.out}: {table.rows} rows of {table.runs} runs")
    if table.alike:
        _say(
            f"{table.alike} of these runs repeat another with a changed library, data or package; "
            "the column 'written' tells them apart"
        )
    if table.broken:
        raise RuntimeError(f"{table.broken} broken records were left out (see above)")


@_command(
    "execute what changed and render the book",
    _FRESH,
    _argument("--zip", action="store_true", help="pack the built book into one ZIP too"),
    left="executed notebooks and the last whole book are kept; the same command goes on",
)
def book(args: Namespace) -> None:
    from saerepgeo_lib.companion.book import build, zip_book

    index = build(fresh=args.fresh, progress=args.progress)
    _say(index)
    if args.zip:
        _say(zip_book(index.parent, index.parent.parent / "saerepgeo-book.zip"))


@_command(
    "list and search the SAEs that SAELens knows",
    _argument("text", nargs="*", help="words of a release or id: topk 19"),
    _argument("--model", default="", help="only those of this model: gemma-2-2b"),
)
def saes(args: Namespace) -> None:
    from saerepgeo_lib.activations.saes import search_saes

    table = search_saes(model=args.model, text=" ".join(args.text))
    for preset, model, _, l0, reason in table.itertuples(index=False):
        text = f"{preset}\t{model}\t{'' if l0 != l0 else f'L0 {l0:g}'}"
        _say(f"{text}\tcannot be used: {reason}" if reason else text)
    if table.empty:
        raise UserError(f"no SAE of SAELens' registry has all of {args.text} in its name")


@_command(
    "train the shipped autoencoders (resumable)",
    _argument("names", nargs="*", help="which ones (default: all)"),
    _argument("--model", help="all of this embedded model: smollm2, minilm"),
    _argument("--out", type=Path, help="where weights go (default: data/saes)"),
    _argument("--text", type=Path, help="train on this text, one passage per line"),
    _argument("--wordnet", type=Path, help="folder of WordNet's data.noun"),
    _argument("--max-samples", type=int, help="stop early (a trial)"),
    *_TRAINING,
    left="whole files of activations, the last checkpoint and trained autoencoders are kept; the "
    "same command goes on from there",
)
def train(args: Namespace) -> None:
    from saerepgeo_lib.studies.corpus import WORDNET_DIR
    from saerepgeo_lib.studies.recipes import names_of
    from saerepgeo_lib.studies.training import train_shipped

    if args.out is None and (args.text is not None or args.max_samples is not None):
        raise UserError(
            "with --text or --max-samples name a folder with --out: "
            "without it the shipped autoencoders would be replaced"
        )
    if args.names and args.model:
        raise UserError("give names of autoencoders, or --model for all of one model, not both")
    train_shipped(
        args.names or names_of(args.model), out=args.out or data_dir() / "saes", text=args.text,
        wordnet=args.wordnet or WORDNET_DIR, max_samples=args.max_samples, **_training(args),
    )  # fmt: skip


@_command(
    "train the vision transformer and its SAEs",
    _argument("--seed", type=int, default=0),
    _argument("--out", type=Path, help="where weights go (default: data/vision)"),
    *_TRAINING,
    left="nothing of this training is kept; what stood in its folder stays",
)
def vision(args: Namespace) -> None:
    from saerepgeo_lib.studies.vision.training import VitRecipe, make

    if args.out is None and args.seed != VitRecipe().seed:
        raise UserError("with --seed name a folder with --out: else what is shipped is replaced")
    out = args.out or data_dir() / "vision"
    make(out, vit=VitRecipe(seed=args.seed), **_training(args))
    _say(out)


@_command(
    "train and measure the grid of a study (resumable)",
    _argument("name", help="which one; an unknown name lists them"),
    _argument("--out", type=Path, help="file of results (default: in data/studies)"),
    _argument("--check", type=int, metavar="N", help="only repeat point N, and compare"),
    *_TRAINING,
    left="results of finished points are kept; the same command does the rest",
)
def study(args: Namespace) -> None:
    from saerepgeo_lib.studies import study
    from saerepgeo_lib.studies.catalogue import find_study

    wanted, out = find_study(args.name), args.out or study.study_file(args.name)
    if args.check is None:
        if study.run_study(args.name, wanted, out=out, **_training(args)):
            _say(out)
        return
    apart = study.check_point(wanted, args.check, recorded=out, **_training(args))
    _say("\n".join(f"{difference:.2e}  {name}" for name, difference in apart.items()))
    if far := [name for name, difference in apart.items() if difference > study.TOLERANCE]:
        raise RuntimeError(f"more than {study.TOLERANCE:.0%} from the record: {', '.join(far)}")


@_command(
    "write each .ipynb from its .py",
    _argument("--check", action="store_true", help="only compare"),
    left="each notebook is whole, the old one or the new",
)
def notebooks(args: Namespace) -> None:
    from saerepgeo_lib.companion.notebooks import check_pairs, make_pairs

    if not args.check:
        _say("\n".join(map(str, make_pairs())))
    elif problems := check_pairs():
        raise UserError("; ".join(problems) + "; run 'saerepgeo notebooks'")


def main(argv: list[str] | None = None) -> int:
    """Run a command; 0 on success, 2 for a user's mistake, 1 for a fault, 130 if interrupted."""
    about = "Run the book's notebooks, build the book, train its autoencoders."
    parser = argparse.ArgumentParser(prog="saerepgeo", description=about)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (about, _, arguments, _) in _COMMANDS.items():
        command = commands.add_parser(name, help=about)
        for names, options in arguments:
            command.add_argument(*names, **options)
    args = parser.parse_args(argv, Namespace(progress="CI" not in os.environ))
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for name in ("papermill", "httpx", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("asyncio", "tornado.application"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # their tracebacks on Ctrl-C
    try:
        _COMMANDS[args.command][1](args)
        sys.stdout.flush()
        return 0
    except BrokenPipeError:  # the reader of our output (such as `head`) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except UserError as error:
        status, fault = 2, str(error)
    except KeyboardInterrupt as error:
        left = _COMMANDS[args.command][3]
        status, fault = 130, "; ".join(filter(None, (str(error) or "interrupted", left)))
        # Half-made objects (a progress bar) complain when they are deleted; this process ends.
        sys.unraisablehook = lambda _: None
    except (RuntimeError, OSError) as error:
        status, fault = 1, str(error)
    sys.stderr.write(f"saerepgeo: {fault}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
