"""Files that are never half-written: atomic writes, locks, hashes, the data and cache folders."""

import functools
import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from saerepgeo_lib.errors import UserError

logger = logging.getLogger(__name__)
T = TypeVar("T")


def data_dir() -> Path:
    """`$SAEREPGEO_DATA`, else `data/` in the installed package, else that of the clone."""
    package = Path(__file__).resolve().parent
    installed = package / "data"
    default = installed if installed.is_dir() else package.parent / "data"
    folder = Path(os.environ.get("SAEREPGEO_DATA", default))
    if not folder.is_dir():
        raise UserError(f"no data folder at {folder}: set SAEREPGEO_DATA to that of a clone")
    return folder


def cache_dir() -> Path:
    """`$SAEREPGEO_CACHE`, else `$XDG_CACHE_HOME/saerepgeo`, else `~/.cache/saerepgeo`."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "saerepgeo"
    return Path(os.environ.get("SAEREPGEO_CACHE", default))


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Hexadecimal SHA-256 of a JSON value, independent of the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def until_changed(function: Callable[[Path], T]) -> Callable[[Path], T]:
    """A function of a file that is asked again only when the file's size or times have changed."""
    kept = functools.lru_cache(maxsize=1024)(lambda path, *state: function(path))

    def asked(path: Path) -> T:
        stat = path.stat()
        return kept(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)

    return asked


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; that file takes `path`'s place only on success.

    On an error (a full disk, Ctrl-C) the new file is removed and `path` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}{path.suffix}")
    try:
        yield new
        new.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        new.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside `folder`; it takes `folder`'s place only on success.

    On an error the new folder is removed and `folder` stays as it was. What stood there is moved
    aside first; if a crash leaves it there, the next call puts it back before anything else.
    """
    folder = folder.resolve()
    _put_back(folder)
    new = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.part")
    new.mkdir(parents=True)
    try:
        yield new
        if folder.exists():
            folder.rename(folder.with_name(f".{folder.name}.old"))
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        _put_back(folder)


def clear_up(folder: Path) -> None:
    """Put back or remove what an `atomic_folder(folder)` that was killed left beside it."""
    _put_back(folder)
    for part in folder.parent.glob(f".{folder.name}.*.part"):
        shutil.rmtree(part, ignore_errors=True)


def _put_back(folder: Path) -> None:
    """Return to its place what was moved aside, or remove it if a new folder stands there."""
    aside = folder.with_name(f".{folder.name}.old")
    if aside.exists() and not folder.exists():
        aside.rename(folder)
    shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def held_lock(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock file `path`; yield whether it is held (always, if told to wait for it).

    The system frees the lock of a process that dies. The file is removed while it is held:
    whoever waits for it then finds it gone, and locks a new one.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            yield False
            return
        logger.info("waiting for another process that holds %s", path)
        lock.acquire(poll_interval=0.2)
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)
        lock.release()


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic_path(path) as new:
        new.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON (no NaN), atomically."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_as(kind: str, path: Path, parse: Callable[[str], T]) -> T:
    """What `parse` makes of a file's text; a UserError names file and reason if it cannot."""
    try:
        return parse(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"no such file: {path}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not in UTF-8 ({error.reason}); save it in that form") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not {kind} that can be read: {error}") from None


def read_json(path: Path) -> Any:
    """Read strict JSON: no key twice in one object, no NaN, no text that is not Unicode."""

    def parse(text: str) -> Any:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
        if "\\ud" in text.lower():  # perhaps half a character, which cannot be encoded
            json.dumps(value, ensure_ascii=False).encode()
        return value

    return read_as("JSON", path, parse)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number; write null")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):  # json would silently keep the last
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} occurs twice in one object")
    return dict(pairs)
