"""A corpus' activations at a hook: computed once, in resumable chunks, and read in batches."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from saerepgeo_lib import files
from saerepgeo_lib.activations.embedded import EMBEDDED
from saerepgeo_lib.activations.residual_stream import is_causal, is_massive, run_to_hook
from saerepgeo_lib.activations.tokens import encode_texts, pad
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.studies.corpus import Passage
from saerepgeo_lib.studies.recipes import HOOK

_CHUNK = 8192  # passages per file of activations


@dataclass(frozen=True)
class Activations:
    """Token activations, float16 on disk; `held_out_source[i]` names the corpus part of row i."""

    train: list[np.ndarray]
    held_out: Float[np.ndarray, "tokens d"]
    held_out_source: list[str]


def collect_activations(
    model: Any, hook: str, passages: list[Passage], *, folder: Path, batch_size: int = 128
) -> Activations:
    """Activations at `hook` of every token but the specials, one .npy per chunk of passages.

    A chunk that is there is not computed again: `folder` must be this corpus' and hook's own.
    Massive ones (`residual_stream.is_massive`, within a chunk) are not in what is returned.
    """
    train, held_out = ([p for p in passages if p.held_out == out] for out in (False, True))
    if not train or not held_out:
        raise UserError(
            f"{len(passages)} passages leave {len(train)} to train on and {len(held_out)} held "
            "out; give more text (a few hundred lines at least)"
        )
    chunks = [*(train[i : i + _CHUNK] for i in range(0, len(train), _CHUNK)), held_out]
    paths = [folder / f"{i:04d}.npy" for i in range(len(chunks))]
    for path, chunk in zip(paths, tqdm(chunks, desc="activations", unit="chunk"), strict=True):
        if not path.is_file():
            x = _chunk_activations(model, hook, chunk, batch_size)
            with files.atomic_path(path) as temporary:
                np.save(temporary, x)
    arrays = [np.load(path, mmap_mode="r") for path in paths]
    massive = [is_massive(torch.from_numpy(np.array(x)).float()).numpy() for x in arrays]
    kept = [x[~out] if out.any() else x for x, out in zip(arrays, massive, strict=True)]
    counts = [real.sum() for real in _tokens(model, held_out)[1]]
    sources = np.repeat([p.source for p in held_out], counts)[~massive[-1]].tolist()
    return Activations(kept[:-1], np.array(kept[-1]), sources)


def _tokens(model: Any, passages: list[Passage]) -> tuple[list[list[int]], list[np.ndarray]]:
    """Each passage's token ids, and which of them are no specials."""
    rows, offsets = encode_texts(
        model.tokenizer, [p.text for p in passages], max_length=128, causal=is_causal(model)
    )
    return rows, [np.array([end > start for start, end in row]) for row in offsets]


def _chunk_activations(
    model: Any, hook: str, passages: list[Passage], batch_size: int
) -> Float[np.ndarray, "tokens d"]:
    """Activations of the passages' tokens in reading order; passages of a length pass together."""
    rows, real = _tokens(model, passages)
    by_length = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    kept: dict[int, np.ndarray] = {}
    for start in range(0, len(rows), batch_size):
        chosen = by_length[start : start + batch_size]
        ids, attention = pad([rows[i] for i in chosen], 0)
        x = run_to_hook(model, ids, attention, hook).half().cpu().numpy()
        kept |= {i: row[: len(real[i])][real[i]] for row, i in zip(x, chosen, strict=True)}
    return np.concatenate([kept[i] for i in range(len(rows))])


def collect(
    model: Any, passages: list[Passage], *, work: Path, name: str = "minilm", hook: str = HOOK
) -> tuple[Path, Activations]:
    """The embedded model's activations at `hook`, and the folder in `work` for it and this text."""
    sha256, texts = EMBEDDED[name].sha256, [p.text for p in passages]
    folder = work / files.sha256_json([sha256, hook, _CHUNK, texts])[:16]
    return folder, collect_activations(model, hook, passages, folder=folder / "activations")


def shuffled_batches(
    arrays: Sequence[np.ndarray], *, batch_size: int, seed: int, start: int = 0
) -> Iterator[Tensor]:
    """Endless batches in float32, each epoch in an order that the seed and the epoch fix.

    Starts at batch number `start`, so a resumed run sees what an uninterrupted one would.
    """
    data = torch.cat([torch.from_numpy(np.array(a)) for a in arrays])
    per_epoch = len(data) // batch_size
    if not per_epoch:
        raise UserError(f"{len(data)} tokens do not fill one batch of {batch_size}")
    first_epoch, skipped = divmod(start, per_epoch)
    for epoch in itertools.count(first_epoch):
        generator = torch.Generator().manual_seed(seed * 10_007 + epoch)
        order = torch.randperm(len(data), generator=generator)[: per_epoch * batch_size]
        for rows in order.split(batch_size)[skipped if epoch == first_epoch else 0 :]:
            yield data[rows].float()
