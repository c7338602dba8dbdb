"""Files that are never half-written: atomic writes, locks, hashes, the data and cache folders."""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from saerepgeo_lib.errors import UserError

logger = logging.getLogger(__name__)

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def data_dir() -> Path:
    """The folder `data/` beside the package, or `$SAEREPGEO_DATA` if that is set."""
    folder = Path(os.environ.get("SAEREPGEO_DATA", Path(__file__).resolve().parent.parent / "data"))
    if not folder.is_dir():
        raise UserError(
            f"no data folder at {folder}: run from a clone of the repository, "
            "or set SAEREPGEO_DATA to its data/ folder"
        )
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


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes `path`'s place only on success.

    A reader sees the old file or the whole new one. On an error (a full disk, Ctrl-C) the
    temporary file is removed and `path` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside `folder`; it takes `folder`'s place only on success.

    On an error the new folder is removed and `folder` stays as it was. What stood there is moved
    aside, and removed last; if a crash between the moves leaves it there, the next call puts it
    back before anything else.
    """
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    old = folder.with_name(f".{folder.name}.old")
    if old.exists() and not folder.exists():
        old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    new = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    new.chmod(0o777 & ~_umask())
    try:
        yield new
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if old.exists() and not folder.exists():
            old.rename(folder)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


@contextlib.contextmanager
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
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON (no NaN), atomically."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; a UserError names the file, the line and the reason if it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
        if _SURROGATE.search(text):  # else what was decoded can be encoded
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except _DuplicateKey as error:
        raise UserError(f"{path}: the key {error.args[0]!r} occurs twice in one object") from None
    except FileNotFoundError:
        raise UserError(f"no such file: {path}") from None
    except (OSError, UnicodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is not JSON: line {error.lineno}, column {error.colno}: {error.msg}"
        ) from error
    except RecursionError:
        raise UserError(f"{path} is not JSON that can be read: nested too deeply") from None
    except ValueError as error:  # NaN, or a number of thousands of digits
        raise UserError(f"{path} is not JSON that can be read: {error}") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number; write null")


class _DuplicateKey(Exception):
    """A key that occurs twice; json would silently keep the last."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in pairs:
        if key in out:
            raise _DuplicateKey(key)
        out[key] = value
    return out
