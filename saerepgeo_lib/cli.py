"""The command line: `saerepgeo run | book | saes | notebooks`."""

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

    book = commands.add_parser("book", help="execute what changed and render the book")
    book.add_argument("--fresh", action="store_true", help="execute every notebook again")

    saes = commands.add_parser("saes", help="train the shipped autoencoders (resumable)")
    saes.add_argument("names", nargs="*", help="which ones (default: all)")
    saes.add_argument("--out", type=Path, help="where weights go (default: data/saes)")
    saes.add_argument("--work", type=Path, default=None, help="activations and checkpoints")
    saes.add_argument(
        "--text", type=Path, default=None, help="train on this text, one passage a line"
    )
    saes.add_argument("--wordnet", type=Path, default=None, help="folder of WordNet's data.noun")
    saes.add_argument("--device", default="auto")
    saes.add_argument("--max-samples", type=int, default=None, help="stop early (a trial)")

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


def _book(args: argparse.Namespace) -> None:
    from saerepgeo_lib.book import build

    sys.stdout.write(f"{build(fresh=args.fresh, progress='CI' not in os.environ)}\n")


def _saes(args: argparse.Namespace) -> None:
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
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # its tracebacks on Ctrl-C
    commands = {"run": _run, "book": _book, "saes": _saes, "notebooks": _notebooks}
    try:
        commands[args.command](args)
    except UserError as error:
        sys.stderr.write(f"saerepgeo: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("saerepgeo: interrupted; finished parts are kept\n")
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
