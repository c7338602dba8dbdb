"""The shipped autoencoders: trained with SAELens' own trainer, saved in its own format.

text -> activations at the hook (collected once, in resumable chunks) -> `SAETrainer` ->
float16 weights, configuration and a model card, all beside each other.
"""

import itertools
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from sae_lens import (
    SAE,
    StandardTrainingSAE,
    StandardTrainingSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
    __version__,
)
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.sae import SAEMetadata
from sae_lens.training.sae_trainer import SAETrainer
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from saerepgeo_lib.corpus import WORDNET_DIR, Passage, embedded_passages, user_passages
from saerepgeo_lib.errors import UserError, choose
from saerepgeo_lib.files import (
    atomic_folder,
    atomic_path,
    read_json,
    sha256_file,
    sha256_json,
    write_json,
)
from saerepgeo_lib.latents import fvu
from saerepgeo_lib.models import MINILM, MINILM_SHA256, load_model
from saerepgeo_lib.prompts import load_concepts
from saerepgeo_lib.residuals import Residuals, compute_residuals, run_to_hook
from saerepgeo_lib.saes import CARD_FILE, hook_of
from saerepgeo_lib.tokens import encode_texts, pad, tokenize

logger = logging.getLogger(__name__)

HOOK = "blocks.4.hook_out"
METADATA = {
    "model_name": MINILM,
    "hook_name": HOOK,
    "prepend_bos": False,
    "model_class_name": "TransformerBridge",
}
N_FRAME_SENTENCES = 150_000
CORPUS = {
    "name": "WordNet 3.0 glosses and examples, and sentences from frames over its lemmas",
    "licence": "WordNet 3.0 licence (permissive, with notice); frames: MIT, as this project",
}
_DEAD_SAMPLE = 1_000_000  # training tokens on which a feature must fire once not to be dead

_CHUNK = 8192  # passages a file of activations
_NORM_BATCHES = 50  # batches from which the trainer estimates the norm, before its first step


@dataclass(frozen=True)
class Recipe:
    """How one autoencoder is trained; `coefficient` is k for topk, the L1 weight else."""

    name: str
    kind: Literal["topk", "standard"]
    coefficient: float
    n_samples: int
    expansion: int = 8
    learning_rate: float = 4e-4
    batch_size: int = 4096
    seed: int = 0


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("minilm-l4-topk", "topk", 32, 10_000_000),
        Recipe("minilm-l4-l1", "standard", 2.3, 8_000_000),
        Recipe("minilm-l4-dense", "standard", 0.0, 2_000_000),
    )
}


@dataclass(frozen=True)
class Activations:
    """Token activations, float16 on disk; `source[i]` names the corpus part of row i."""

    train: list[np.ndarray]
    held_out: Float[np.ndarray, "tokens d"]
    held_out_source: list[str]


def collect_activations(
    model: Any,
    hook: str,
    passages: list[Passage],
    *,
    folder: Path,
    max_length: int = 128,
    batch_size: int = 128,
) -> Activations:
    """Activations at `hook` of every token but the specials, one .npy a chunk of passages.

    A chunk that is already there is not computed again, so an interrupted run goes on where
    it stopped. `folder` must be this corpus' and this hook's own.
    """
    ordered = sorted(passages, key=lambda p: p.held_out)
    n_train = sum(not p.held_out for p in ordered)
    if not 0 < n_train < len(ordered):
        raise UserError(
            f"{len(passages)} passages leave {n_train} to train on and "
            f"{len(passages) - n_train} held out; give more text (a few hundred lines at least)"
        )
    bounds = [*range(0, n_train, _CHUNK), n_train]
    spans = [*itertools.pairwise(bounds), (n_train, len(ordered))]
    paths, sources = [], []
    for i, (start, end) in enumerate(tqdm(spans, desc="activations", unit="chunk")):
        path = folder / f"{i:04d}.npy"
        paths.append(path)
        texts = [p.text for p in ordered[start:end]]
        rows, offsets = encode_texts(model.tokenizer, texts, max_length=max_length)
        if start == n_train:
            lengths = [sum(b > a for a, b in row) for row in offsets]
            named = zip(ordered[start:end], lengths, strict=True)
            sources = [p.source for p, n in named for _ in range(n)]
        if not path.is_file():
            x = _chunk_activations(model, hook, rows, offsets, batch_size)
            with atomic_path(path) as temporary:
                np.save(temporary, x)
    arrays = [np.load(path, mmap_mode="r") for path in paths]
    return Activations(arrays[:-1], np.array(arrays[-1]), sources)


def collect_minilm(
    model: Any, passages: list[Passage], *, work: Path, hook: str = HOOK
) -> tuple[Path, Activations]:
    """The embedded model's activations at `hook`, and the folder in `work` for it and this text."""
    key = sha256_json([MINILM_SHA256, hook, _CHUNK, [p.text for p in passages]])[:16]
    return work / key, collect_activations(model, hook, passages, folder=work / key / "activations")


def _chunk_activations(
    model: Any,
    hook: str,
    rows: list[list[int]],
    offsets: list[list[tuple[int, int]]],
    batch_size: int,
) -> Float[np.ndarray, "tokens d"]:
    by_length = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    kept: dict[int, np.ndarray] = {}
    for start in range(0, len(rows), batch_size):
        chosen = by_length[start : start + batch_size]
        ids, attention = pad([rows[i] for i in chosen], 0)
        x = run_to_hook(model, ids, attention, hook).half().cpu().numpy()
        for row, i in zip(x, chosen, strict=True):
            kept[i] = row[[t for t, (a, b) in enumerate(offsets[i]) if b > a]]
    return np.concatenate([kept[i] for i in range(len(rows))])


class ShuffledBatches(Iterator[Tensor]):
    """Endless batches, each epoch in an order that the seed and the epoch fix.

    Starts at batch number `start`, so a resumed run sees what an uninterrupted one would.
    """

    def __init__(self, arrays: list[np.ndarray], *, batch_size: int, seed: int, start: int = 0):
        self._data = torch.cat([torch.from_numpy(np.array(a)) for a in arrays])
        self._batch_size = batch_size
        self._per_epoch = len(self._data) // batch_size
        if not self._per_epoch:
            raise UserError(f"{len(self._data)} tokens do not fill one batch of {batch_size}")
        self._seed = seed
        self._step = start
        self._order: Tensor | None = None

    def __next__(self) -> Tensor:
        epoch, i = divmod(self._step, self._per_epoch)
        if self._order is None or i == 0:
            generator = torch.Generator().manual_seed(self._seed * 10_007 + epoch)
            self._order = torch.randperm(len(self._data), generator=generator)
        self._step += 1
        rows = self._order[i * self._batch_size : (i + 1) * self._batch_size]
        return self._data[rows].float()


def build_sae(recipe: Recipe, *, d_in: int, metadata: dict[str, Any], device: str) -> Any:
    """An untrained SAELens training SAE for the recipe."""
    common = {
        "d_in": d_in,
        "d_sae": recipe.expansion * d_in,
        "device": device,
        "normalize_activations": "expected_average_only_in",
        "metadata": SAEMetadata(**metadata),
    }
    torch.manual_seed(recipe.seed)
    if recipe.kind == "topk":
        return TopKTrainingSAE(TopKTrainingSAEConfig(k=int(recipe.coefficient), **common))
    warm_up = recipe.n_samples // recipe.batch_size // 20
    return StandardTrainingSAE(
        StandardTrainingSAEConfig(
            l1_coefficient=recipe.coefficient, l1_warm_up_steps=warm_up, **common
        )
    )


def train(
    recipe: Recipe,
    activations: list[np.ndarray],
    *,
    metadata: dict[str, Any],
    checkpoints: Path,
    device: str = "cpu",
    build: Callable[..., Any] = build_sae,
) -> Any:
    """Train with SAELens' `SAETrainer`, resuming from the newest whole checkpoint.

    `build` makes the untrained SAE; it takes what `build_sae` does.
    """
    torch.manual_seed(recipe.seed)
    n_steps = recipe.n_samples // recipe.batch_size
    cfg = SAETrainerConfig(
        total_training_samples=n_steps * recipe.batch_size,
        train_batch_size_samples=recipe.batch_size,
        lr=recipe.learning_rate,
        lr_end=recipe.learning_rate / 10,
        lr_warm_up_steps=min(200, n_steps // 10),
        lr_decay_steps=n_steps // 4,
        device=device,
        autocast=True,
        dead_feature_window=200,
        feature_sampling_window=10**9,  # its log needs wandb; the card measures instead
        n_checkpoints=max(1, n_steps // 500),
        checkpoint_path=str(checkpoints),
        n_batches_for_norm_estimate=_NORM_BATCHES,
    )
    sae = build(recipe, d_in=activations[0].shape[1], metadata=metadata, device=device)
    provider = ShuffledBatches(activations, batch_size=recipe.batch_size, seed=recipe.seed)
    trainer: SAETrainer[Any, Any] = SAETrainer(
        cfg=cfg, sae=sae, data_provider=provider, save_checkpoint_fn=_mark_whole
    )
    whole = sorted(checkpoints.glob("*/whole"), key=lambda p: int(p.parent.name))
    if whole:
        newest = whole[-1].parent
        sae.load_weights_from_checkpoint(newest)
        trainer.load_trainer_state(newest)
        done = trainer.n_training_samples
        trainer.checkpoint_thresholds = [n for n in trainer.checkpoint_thresholds if n > done]
        trainer.data_provider = ShuffledBatches(
            activations,
            batch_size=recipe.batch_size,
            seed=recipe.seed,
            start=_NORM_BATCHES + done // recipe.batch_size,
        )
        logger.info("%s: resuming at %d samples", recipe.name, done)
    return trainer.fit()


def measure(
    sae: Any, activations: Activations, concepts: dict[str, Residuals], *, device: str
) -> dict[str, Any]:
    """FVU on held-out text and on the concept prompts, mean L0, share of dead features."""
    sae = sae.to(device)
    held_out = torch.from_numpy(activations.held_out).float().to(device)
    source = np.array(activations.held_out_source)
    parts = {str(name): torch.from_numpy(source == name) for name in sorted(set(source))}
    fired, l0, seen = torch.zeros(sae.cfg.d_sae, dtype=torch.bool, device=device), 0.0, 0
    with torch.no_grad():
        for chunk in activations.train:
            x = torch.from_numpy(np.array(chunk)).float()[: _DEAD_SAMPLE - seen].to(device)
            for part in x.split(8192):
                fired |= (sae.encode(part) > 0).any(0)
            seen += len(x)
            if seen >= _DEAD_SAMPLE:
                break
        for part in held_out.split(8192):
            l0 += (sae.encode(part) > 0).sum().item()
    return {
        "fvu_held_out": fvu(sae, held_out),
        "fvu_held_out_by_source": {
            name: fvu(sae, held_out[rows.to(device)]) for name, rows in parts.items()
        },
        "fvu_content": {name: fvu(sae, r.x.to(device)) for name, r in concepts.items()},
        "fvu_entity": {name: fvu(sae, r.at("entity").x.to(device)) for name, r in concepts.items()},
        "l0_held_out": l0 / len(held_out),
        "dead_share": 1 - fired.float().mean().item(),
        "n_tokens_held_out": len(held_out),
        "n_tokens_for_dead_share": seen,
    }


def save(
    sae: Any,
    recipe: Recipe,
    folder: Path,
    *,
    corpus: dict[str, str],
    fit: Callable[[Any], dict[str, Any]],
) -> dict[str, Any]:
    """Save float16 weights and configuration in SAELens' format, and the card of what was saved.

    `fit` measures the SAE as it was read back from the saved files, rounding included.
    """
    with atomic_folder(folder) as new:
        weights, cfg_path = sae.save_inference_model(new)
        save_file({name: w.half().contiguous() for name, w in load_file(weights).items()}, weights)
        cfg = read_json(cfg_path)
        cfg.update(device="cpu", dtype="float32")
        write_json(cfg_path, cfg)
        card = {
            "name": recipe.name,
            "recipe": asdict(recipe),
            "trainer": f"sae-lens {__version__} SAETrainer, bfloat16 autocast",
            "hook": hook_of(sae),
            "corpus": corpus,
            "stored_dtype": "float16",
            "sha256": sha256_file(weights),
            "fit": fit(SAE.load_from_disk(new, dtype="float32").eval()),
        }
        write_json(new / CARD_FILE, card)
    return card


def train_shipped(
    names: Iterable[str] = (),
    *,
    work: Path,
    out: Path,
    text: Path | None = None,
    wordnet: Path = WORDNET_DIR,
    device: str = "cpu",
    max_samples: int | None = None,
) -> list[dict[str, Any]]:
    """Train the shipped autoencoders (all, or those named) into `out`, resuming in `work`."""
    chosen = [RECIPES[choose("recipe", name, RECIPES)] for name in names or RECIPES]
    if text is None:
        passages = embedded_passages(n_frame_sentences=N_FRAME_SENTENCES, wordnet=wordnet)
        corpus = CORPUS
    else:
        passages = user_passages(text)
        corpus = {"name": text.name, "sha256": sha256_file(text), "licence": "its owner's"}
    model = load_model("minilm", device=device)
    folder, activations = collect_minilm(model, passages, work=work)
    concepts = {
        name: compute_residuals(
            model, tokenize(model.tokenizer, concept, n_ctx=model.cfg.n_ctx), HOOK
        )
        for name, concept in load_concepts().items()
    }
    cards = []
    for recipe in chosen:
        if max_samples is not None:
            recipe = replace(recipe, n_samples=min(recipe.n_samples, max_samples))
        run = folder / f"{recipe.name}-{sha256_json(asdict(recipe))[:12]}"
        sae = train(recipe, activations.train, metadata=METADATA, checkpoints=run, device=device)
        cards.append(
            save(
                sae,
                recipe,
                out / recipe.name,
                corpus=corpus,
                fit=lambda saved: measure(saved, activations, concepts, device=device),
            )
        )
        logger.info("%s: %s", recipe.name, cards[-1]["fit"])
    return cards


def _mark_whole(checkpoint_path: Path | None) -> None:
    """Mark a checkpoint as completely written, and drop the older ones."""
    assert checkpoint_path is not None
    (checkpoint_path / "whole").touch()
    for other in checkpoint_path.parent.iterdir():
        if other != checkpoint_path:
            shutil.rmtree(other)
