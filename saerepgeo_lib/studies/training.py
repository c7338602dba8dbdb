"""Autoencoders trained with SAELens' own trainer, and saved in its own format.

activations at the hook (`activation_store`) -> `SAETrainer` -> float16 weights, configuration and a
model card, all beside each other.
"""

import itertools
import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from sae_lens import SAE, __version__
from sae_lens.config import SAETrainerConfig
from sae_lens.registry import get_sae_training_class
from sae_lens.training.sae_trainer import SAETrainer
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize

from saerepgeo_lib import files
from saerepgeo_lib.activations.latents import fvu
from saerepgeo_lib.activations.models import load_model, seeded
from saerepgeo_lib.activations.prompts import load_concepts
from saerepgeo_lib.activations.residual_stream import is_causal
from saerepgeo_lib.activations.sae_files import CARD_FILE
from saerepgeo_lib.activations.saes import named
from saerepgeo_lib.activations.token_activations import TokenActivations, read_concept
from saerepgeo_lib.cores import one_thread
from saerepgeo_lib.errors import choose
from saerepgeo_lib.studies.activation_store import Activations, collect, shuffled_batches
from saerepgeo_lib.studies.corpus import WORDNET_DIR, Passage, user_passages
from saerepgeo_lib.studies.recipes import RECIPES, Recipe, sae_config
from saerepgeo_lib.studies.text_loss import loss_recovered
from saerepgeo_lib.studies.texts import CORPORA, corpus_of

logger = logging.getLogger(__name__)

_DEAD_SAMPLE = 1_000_000  # training tokens on which a feature must fire once not to be dead
_CHECKPOINT_STEPS = 500
_SOFT = 0.8  # least cosine of a softly frozen decoder with what it was
_N_LOSS = 200  # held-out passages on which the next-token loss is measured
_NORM_BATCHES = 50  # batches from which the trainer estimates the norm, before its first step


def train(
    recipe: Recipe, activations: list[np.ndarray], *, checkpoints: Path,
    metadata: dict[str, Any] | None = None, device: str = "cpu",
    configure: Callable[..., Any] = sae_config,
) -> Any:  # fmt: skip
    """Train with SAELens' `SAETrainer`, resuming from the newest whole checkpoint.

    `configure` takes what `sae_config` does, and gives a config whose class SAELens knows;
    `metadata` is the recipe's own unless others are given.
    """
    metadata = recipe.metadata if metadata is None else metadata
    n_steps = recipe.n_samples // recipe.batch_size
    trainer_config = SAETrainerConfig(
        total_training_samples=n_steps * recipe.batch_size,
        train_batch_size_samples=recipe.batch_size, lr=recipe.learning_rate,
        lr_end=recipe.learning_rate / 10, lr_warm_up_steps=min(200, n_steps // 10),
        lr_decay_steps=n_steps // 4, device=device, autocast=True, dead_feature_window=200,
        feature_sampling_window=10**9,  # its log needs wandb; the card measures instead
        n_checkpoints=max(1, n_steps // _CHECKPOINT_STEPS), checkpoint_path=str(checkpoints),
        n_batches_for_norm_estimate=_NORM_BATCHES,
    )  # fmt: skip
    cfg = configure(recipe, d_in=activations[0].shape[1], metadata=metadata, device=device)
    with seeded(recipe.seed, device=device):
        sae = get_sae_training_class(cfg.architecture())[0](cfg)
    if recipe.centre:
        sae.b_dec.data.copy_(_scaled_mean(activations))
    trainer: SAETrainer[Any, Any] = SAETrainer(
        cfg=trainer_config, sae=sae, data_provider=iter(()), save_checkpoint_fn=_mark_whole
    )
    _freeze(sae, recipe.frozen, trainer.optimizer)
    start = 0
    if whole := max(checkpoints.glob("*/whole"), key=lambda p: int(p.parent.name), default=None):
        sae.load_weights_from_checkpoint(whole.parent)
        trainer.load_trainer_state(whole.parent)
        done = trainer.n_training_samples
        trainer.checkpoint_thresholds = [n for n in trainer.checkpoint_thresholds if n > done]
        start = _NORM_BATCHES + done // recipe.batch_size
        logger.info("%s: resuming at %d samples", recipe.name, done)
    trainer.data_provider = shuffled_batches(
        activations, batch_size=recipe.batch_size, seed=recipe.seed, start=start
    )
    return trainer.fit()


def _scaled_mean(arrays: Sequence[np.ndarray]) -> Float[Tensor, " d"]:
    """The mean activation where rows have the mean norm sqrt(d), as the trainer scales them."""
    means = [np.mean(a, axis=0, dtype=np.float64) for a in arrays]
    norms = [np.linalg.norm(np.asarray(a, dtype=np.float32), axis=1).mean() for a in arrays]
    weights = [len(a) for a in arrays]
    mean, norm = np.average(means, axis=0, weights=weights), np.average(norms, weights=weights)
    return torch.from_numpy(mean * len(mean) ** 0.5 / norm).float()


def _freeze(sae: Any, frozen: str, optimizer: torch.optim.Optimizer) -> None:
    """Keep a part of an SAE as it is, or ("soft decoder") its decoder's rows near where they are:
    after every step at a cosine of at least 0.8 with what they were (Korznikov et al. 2602.14111).
    """
    if frozen == "encoder":
        sae.W_enc.requires_grad_(False)
        sae.b_enc.requires_grad_(False)
    if frozen == "decoder":
        sae.W_dec.requires_grad_(False)
    if frozen != "soft decoder":
        return
    weights, least = sae.W_dec, _SOFT
    first = normalize(weights.detach().clone(), dim=1)

    @torch.no_grad()
    def bring_back(*_: Any) -> None:
        norm = weights.norm(dim=1, keepdim=True)
        along = (weights * first).sum(1, keepdim=True)
        across = normalize(weights - along * first, dim=1)
        edge = norm * (least * first + (1 - least**2) ** 0.5 * across)
        weights.copy_(torch.where(along < least * norm, edge, weights))

    optimizer.register_step_post_hook(bring_back)


def _mark_whole(checkpoint_path: Path | None) -> None:
    """Mark a checkpoint as completely written, and drop the older ones."""
    assert checkpoint_path is not None
    (checkpoint_path / "whole").touch()
    for other in checkpoint_path.parent.iterdir():
        if other != checkpoint_path:
            shutil.rmtree(other)


def trained(
    recipe: Recipe, activations: list[np.ndarray], *, device: str = "cpu", **options: Any
) -> Any:
    """The inference SAE of a short training (`train`) on one thread, without its checkpoints."""
    with tempfile.TemporaryDirectory() as folder, one_thread():
        sae = train(recipe, activations, checkpoints=Path(folder), device=device, **options)
    return read_back(sae, device=device)


def read_back(sae: Any, *, device: str = "cpu") -> Any:
    """The inference SAE of a training, as SAELens saves it and loads it again."""
    with tempfile.TemporaryDirectory() as folder:
        sae.save_inference_model(folder)
        return SAE.load_from_disk(folder, device=device, dtype="float32").eval()


@torch.no_grad()
def fired(sae: Any, x: Float[Tensor, "tokens d"]) -> tuple[Bool[Tensor, " F"], float]:
    """Which latents are active on any of these tokens, and how many are on average (L0)."""
    ever, total = torch.zeros(sae.cfg.d_sae, dtype=torch.bool, device=x.device), 0
    for rows in x.split(8192):
        active = sae.encode(rows) != 0
        ever |= active.any(0)
        total += int(active.sum())
    return ever, total / len(x)


def measure(
    sae: Any, activations: Activations, concepts: dict[str, TokenActivations], *, device: str,
    loss: Callable[[Any], dict[str, float]] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """FVU on held-out text and on the concept prompts, mean L0, dead share, and the `loss`."""
    sae = sae.to(device)
    ever, n_seen = torch.zeros(sae.cfg.d_sae, dtype=torch.bool, device=device), 0
    for chunk in activations.train:
        if n_seen < _DEAD_SAMPLE:
            x = torch.from_numpy(np.array(chunk[: _DEAD_SAMPLE - n_seen])).float().to(device)
            ever, n_seen = ever | fired(sae, x)[0], n_seen + len(x)
    held_out = torch.from_numpy(activations.held_out).float().to(device)
    source = np.array(activations.held_out_source)
    by_source = {str(s): held_out[torch.from_numpy(source == s)] for s in np.unique(source)}
    return {
        "fvu_held_out": fvu(sae, held_out),
        "fvu_held_out_by_source": {name: fvu(sae, x) for name, x in by_source.items()},
        "fvu_content": {name: fvu(sae, r.x.to(device)) for name, r in concepts.items()},
        "fvu_entity": {name: fvu(sae, r.at("entity").x.to(device)) for name, r in concepts.items()},
        "l0_held_out": fired(sae, held_out)[1],
        "dead_share": 1 - ever.float().mean().item(),
        "n_tokens_held_out": len(held_out),
        "n_tokens_for_dead_share": n_seen,
        **({"next_token": loss(sae)} if loss else {}),
    }


def loss_on(
    model: Any, hook: str, passages: list[Passage], activations: Activations
) -> Callable[[Any], dict[str, float]]:
    """`loss_recovered` on held-out passages."""
    texts = [p.text for p in passages if p.held_out][:_N_LOSS]
    mean = torch.from_numpy(activations.held_out.mean(0, dtype=np.float64)).float()
    return loss_recovered(model, hook, texts, mean)


def save(
    sae: Any, recipe: Recipe, folder: Path, *, corpus: dict[str, Any],
    fit: Callable[[Any], dict[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    """Save float16 weights and configuration in SAELens' format, and the card of what was saved.

    `fit` measures the SAE as it was read back from the saved files, rounding included.
    """
    with files.atomic_folder(folder) as new:
        weights, cfg_path = sae.save_inference_model(new)
        save_file({name: w.half().contiguous() for name, w in load_file(weights).items()}, weights)
        config = files.read_json(cfg_path) | {"device": "cpu", "dtype": "float32"}
        files.write_json(cfg_path, config)
        card = {
            "name": recipe.name, "recipe": asdict(recipe),
            "trainer": f"sae-lens {__version__} SAETrainer, bfloat16 autocast",
            "hook": named(sae, "hook_name"), "corpus": corpus, "stored_dtype": "float16",
            "sha256": files.sha256_file(weights),
            "fit": fit(SAE.load_from_disk(new, dtype="float32").eval()),
        }  # fmt: skip
        files.write_json(new / CARD_FILE, card)
    return card


def train_shipped(
    names: Iterable[str] = (), *, work: Path, out: Path, text: Path | None = None,
    wordnet: Path = WORDNET_DIR, device: str = "cpu", max_samples: int | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Train the shipped autoencoders (all, or those named) into `out`, resuming in `work`."""
    chosen = [RECIPES[choose("recipe", name, RECIPES)] for name in names or RECIPES]
    cards = []
    for (name, hook), recipes in itertools.groupby(chosen, lambda r: (r.model, r.hook)):
        model = load_model(name, device=device)
        if text is None:
            corpus, passages = CORPORA[name], corpus_of(name, model, wordnet=wordnet)
        else:
            passages = user_passages(text)
            licence = {"licence": "its owner's", "sha256": files.sha256_file(text)}
            corpus = {"name": text.name, **licence}
        corpus = corpus | {"passages": dict(Counter(p.source for p in passages))}
        folder, activations = collect(model, passages, work=work, name=name, hook=hook)
        concepts = {c: read_concept(model, concept, hook) for c, concept in load_concepts().items()}
        loss = loss_on(model, hook, passages, activations) if is_causal(model) else None
        for recipe in recipes:
            if max_samples is not None:
                recipe = replace(recipe, n_samples=min(recipe.n_samples, max_samples))
            config = sae_config(recipe, d_in=model.cfg.d_model, metadata={}, device=device)
            key = files.sha256_json([asdict(recipe), config.to_dict(), __version__])
            run = folder / f"{recipe.name}-{key[:12]}"
            sae = train(recipe, activations.train, checkpoints=run, device=device)
            told: dict[str, Any] = {"concepts": concepts, "device": device, "loss": loss}
            fit = partial(measure, activations=activations, **told)
            cards.append(save(sae, recipe, out / recipe.name, corpus=corpus, fit=fit))
            logger.info("%s: %s", recipe.name, cards[-1]["fit"])
    return cards
