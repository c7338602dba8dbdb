"""The command line: `saerepgeo run | sweep | collect | book | ...`; `saerepgeo -h` lists all."""

import argparse
import logging
import os
import sys
from pathlib import Path

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.files import cache_dir, data_dir


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="saerepgeo",
        description="Run the book's notebooks, build the book, train its autoencoders.",
    )
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser("run", help="execute a notebook with parameters")
    run.add_argument("notebook", help="name (stratified_manifold) or path")
    run.add_argument(
        "-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), dest="parameters",
        help="a parameter; may be repeated; lists as [0, 0.1, 1]",
    )  # fmt: skip
    run.add_argument("-o", "--out", type=Path, default=Path("runs"), help="folder for results")
    run.add_argument("--fresh", action="store_true", help="run even if the result is there")
    run.add_argument("--list", action="store_true", help="list the notebook's parameters and stop")

    sweep = commands.add_parser("sweep", help="run notebooks over a grid of parameters (resumable)")
    sweep.add_argument("grid", type=Path, help="a YAML file (see the README: A thousand runs)")
    sweep.add_argument("-o", "--out", type=Path, default=Path("runs"), help="folder for results")
    sweep.add_argument("--workers", type=int, help="processes here (default: one a core)")
    sweep.add_argument("--scheduler", metavar="ADDRESS", help="use this Dask cluster instead")
    sweep.add_argument("--dry", action="store_true", help="say what there is to do, and stop")

    collect = commands.add_parser("collect", help="make one table of the claims of all runs")
    collect.add_argument("folder", type=Path, help="where the runs are")
    collect.add_argument("-o", "--out", type=Path, default=Path("claims.parquet"))

    book = commands.add_parser("book", help="execute what changed and render the book")
    book.add_argument("--fresh", action="store_true", help="execute every notebook again")
    book.add_argument("--zip", action="store_true", help="pack the built book into one ZIP too")

    saes = commands.add_parser("saes", help="list and search the SAEs that SAELens knows")
    saes.add_argument("text", nargs="*", help="words of a release or id: topk 19")
    saes.add_argument("--model", default="", help="only those of this model: gemma-2-2b")

    train = commands.add_parser("train", help="train the shipped autoencoders (resumable)")
    train.add_argument("names", nargs="*", help="which ones (default: all)")
    train.add_argument("--out", type=Path, help="where weights go (default: data/saes)")
    train.add_argument("--work", type=Path, default=None, help="activations and checkpoints")
    train.add_argument(
        "--text", type=Path, default=None, help="train on this text, one passage a line"
    )
    train.add_argument("--wordnet", type=Path, default=None, help="folder of WordNet's data.noun")
    train.add_argument("--device", default="auto")
    train.add_argument("--max-samples", type=int, default=None, help="stop early (a trial)")

    vision = commands.add_parser("vision", help="train the vision transformer and its SAEs")
    vision.add_argument("--seed", type=int, default=0)
    vision.add_argument("--out", type=Path, help="where weights go (default: data/vision)")
    vision.add_argument("--work", type=Path, default=None, help="checkpoints")
    vision.add_argument("--device", default="auto")

    study = commands.add_parser("study", help="train and measure the grid of a study (resumable)")
    study.add_argument("name", help="which one; an unknown name lists them")
    study.add_argument("--out", type=Path, help="file of results (default: in data/studies)")
    study.add_argument("--work", type=Path, default=None, help="activations and single results")
    study.add_argument(
        "--check", type=int, metavar="N", help="only repeat point N of the results, and compare"
    )
    study.add_argument("--device", default="auto")

    pairs = commands.add_parser("notebooks", help="write each .ipynb from its .py")
    pairs.add_argument("--check", action="store_true", help="only compare")
    return parser


def _run(args: argparse.Namespace) -> None:
    from saerepgeo_lib.notebooks import find_notebook, read_parameters
    from saerepgeo_lib.runner import run

    if args.list:
        for p in read_parameters(find_notebook(args.notebook)).values():
            sys.stdout.write(f"{p.name}: {p.type} = {p.default!r}\n    {p.description}\n")
        return
    given = [(name, value) for name, value in args.parameters]
    result = run(
        args.notebook, given, out=args.out, fresh=args.fresh, progress="CI" not in os.environ
    )
    note = " (found, not run again)" if result.cached else ""
    sys.stdout.write(f"{result.notebook}{note}\n{result.record}\n")


def _sweep(args: argparse.Namespace) -> None:
    from saerepgeo_lib.grid import read_grid

    grid = read_grid(args.grid)  # mistakes are told before Dask is loaded
    from saerepgeo_lib.sweep import SHOWN, count_finished, describe, sweep

    if args.dry:
        done = count_finished(grid, out=args.out)
        sys.stdout.write(f"{grid.n_runs} runs, {done} finished in {args.out}\n")
        return
    outcome = sweep(
        grid, out=args.out, workers=args.workers, scheduler=args.scheduler,
        progress="CI" not in os.environ,
    )  # fmt: skip
    sys.stdout.write(
        f"{outcome.total} runs in {args.out}: {outcome.executed} executed, "
        f"{outcome.found} found, {outcome.failed} failed\n"
    )
    if outcome.failed:
        for failure in outcome.failures:
            sys.stdout.write(f"  {describe(failure)}\n")
        more = f"; the first {SHOWN} are shown" if outcome.failed > SHOWN else ""
        raise RuntimeError(
            f"{outcome.failed} of {outcome.total} runs failed{more}: the reasons are in "
            f"{args.out}/*.failed.json, and the same command tries these runs again"
        )


def _collect(args: argparse.Namespace) -> None:
    from saerepgeo_lib.collect import collect

    table = collect(args.folder, args.out)
    sys.stdout.write(f"{args.out}: {table.rows} rows of {table.runs} runs\n")
    if table.alike:
        sys.stdout.write(
            f"{table.alike} of these runs repeat another with a changed library, data or package; "
            "the column 'written' tells them apart\n"
        )
    if table.broken:
        raise RuntimeError(f"{table.broken} broken records were left out (see above)")


def _book(args: argparse.Namespace) -> None:
    from saerepgeo_lib.book import build
    from saerepgeo_lib.book_zip import zip_book

    index = build(fresh=args.fresh, progress="CI" not in os.environ)
    sys.stdout.write(f"{index}\n")
    if args.zip:
        packed = zip_book(index.parent, index.parent.parent / "saerepgeo-book.zip")
        sys.stdout.write(f"{packed}\n")


def _saes(args: argparse.Namespace) -> None:
    from saerepgeo_lib.registry import search_saes

    found = search_saes(model=args.model, text=" ".join(args.text))
    for preset, model, l0 in zip(found["preset"], found["model"], found["L0"], strict=True):
        sys.stdout.write(f"{preset}\t{model}\t{'' if l0 != l0 else f'L0 {l0:g}'}\n")
    if found.empty:
        raise UserError(f"no SAE of SAELens' registry has all of {args.text} in its name")


def _train(args: argparse.Namespace) -> None:
    from saerepgeo_lib.corpus import WORDNET_DIR
    from saerepgeo_lib.models import best_device
    from saerepgeo_lib.training import train_shipped

    if args.out is None and (args.text is not None or args.max_samples is not None):
        raise UserError(
            "with --text or --max-samples name a folder with --out: "
            "without it the shipped autoencoders would be replaced"
        )
    train_shipped(
        args.names,
        work=args.work or cache_dir() / "training",
        out=args.out or data_dir() / "saes",
        text=args.text,
        wordnet=args.wordnet or WORDNET_DIR,
        device=best_device(args.device),
        max_samples=args.max_samples,
    )


def _vision(args: argparse.Namespace) -> None:
    from saerepgeo_lib.models import best_device
    from saerepgeo_lib.vision_training import VitRecipe, make

    if args.out is None and args.seed != VitRecipe().seed:
        raise UserError("with --seed name a folder with --out: else what is shipped is replaced")
    out = args.out or data_dir() / "vision"
    work = args.work or cache_dir() / "training"
    make(out, vit=VitRecipe(seed=args.seed), work=work, device=best_device(args.device))
    sys.stdout.write(f"{out}\n")


def _study(args: argparse.Namespace) -> None:
    from saerepgeo_lib.models import best_device
    from saerepgeo_lib.study import TOLERANCE, check_point, find_study, run_study, study_file

    study = find_study(args.name)
    out = args.out or study_file(args.name)
    work = args.work or cache_dir() / "training"
    if args.check is not None:
        apart = check_point(
            study, args.check, recorded=out, work=work, device=best_device(args.device)
        )
        for name, difference in apart.items():
            sys.stdout.write(f"{difference:.2e}  {name}\n")
        if far := [name for name, difference in apart.items() if difference > TOLERANCE]:
            raise RuntimeError(f"more than {TOLERANCE:.0%} from the record: {', '.join(far)}")
    elif run_study(args.name, study, work=work, out=out, device=best_device(args.device)):
        sys.stdout.write(f"{out}\n")


def _notebooks(args: argparse.Namespace) -> None:
    from saerepgeo_lib.notebooks import check_pairs, make_pairs

    if not args.check:
        for path in make_pairs():
            sys.stdout.write(f"{path}\n")
    elif problems := check_pairs():
        raise UserError("; ".join(problems) + "; run 'saerepgeo notebooks'")


def main(argv: list[str] | None = None) -> int:
    """Run a command; 0 on success, 2 for a user's mistake, 1 for a fault, 130 if interrupted."""
    args = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for name in ("papermill", "httpx", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("asyncio", "tornado.application"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # their tracebacks on Ctrl-C
    commands = {
        "run": _run, "sweep": _sweep, "collect": _collect, "book": _book, "saes": _saes,
        "train": _train, "vision": _vision, "study": _study, "notebooks": _notebooks,
    }  # fmt: skip
    try:
        commands[args.command](args)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output (such as `head`) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except UserError as error:
        sys.stderr.write(f"saerepgeo: {error}\n")
        return 2
    except KeyboardInterrupt:
        kept = "what was there is as before"
        if args.command != "vision":
            kept = "finished parts are kept, the same command goes on"
        sys.stderr.write(f"saerepgeo: interrupted; {kept}\n")
        return 130
    except RuntimeError as error:
        sys.stderr.write(f"saerepgeo: {error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"saerepgeo: {error.strerror or error}: {error.filename or ''}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
