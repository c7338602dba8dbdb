"""The vision transformer and its autoencoders: trained in minutes, stored beside their cards."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from saerepgeo_lib.activations.latents import fvu
from saerepgeo_lib.activations.model_with_saes import ModelWithSAEs
from saerepgeo_lib.activations.residual_stream import run_to_hook
from saerepgeo_lib.activations.sae_files import CARD_FILE, check_sha256
from saerepgeo_lib.activations.saes import load_sae
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.files import atomic_folder, data_dir, read_json, sha256_file, write_json
from saerepgeo_lib.studies.recipes import Recipe
from saerepgeo_lib.studies.training import fired, save, train
from saerepgeo_lib.studies.vision.digits import (
    BLANK,
    HOOK,
    SIDE,
    Images,
    Split,
    accuracy,
    build_vit,
    classify,
    digits,
    patch_ids,
)

VIT_FILE = "vit.safetensors"
DATA = {
    "name": "the digits of scikit-learn (UCI Optical Recognition of Handwritten Digits, test part)",
    "licence": "CC BY 4.0",
}
METADATA = {"model_name": "digits-vit", "hook_name": HOOK, "prepend_bos": False,
            "model_class_name": "HookedTransformer"}  # fmt: skip
_SHARED: dict[str, Any] = {"learning_rate": 2e-3, "batch_size": 2048, "model": "digits-vit",
                           "hook": HOOK}  # fmt: skip
SAES = {
    "TopK SAE": Recipe("digits-topk", "topk", 8, 2_500_000, **_SHARED),
    "L1-ReLU SAE": Recipe("digits-l1", "standard", 1.5, 2_500_000, **_SHARED),
    "dense AE": Recipe("digits-dense", "standard", 0.0, 500_000, **_SHARED),
}


@dataclass(frozen=True)
class VitRecipe:
    """How the transformer is trained; `seed` is that of split, weights, batches and shifts."""

    seed: int = 0
    epochs: int = 40
    batch_size: int = 128
    learning_rate: float = 2e-3  # the highest, reached after a tenth of the steps
    weight_decay: float = 0.05


def shifted(images: Images) -> list[Images]:
    """The images moved by at most one pixel up, down and sideways: nine versions, blank edges."""
    framed = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    return [framed[:, i : i + SIDE, j : j + SIDE] for i in range(3) for j in range(3)]


def train_vit(recipe: VitRecipe, split: Split, *, device: str = "cpu") -> Any:
    """AdamW on the cross-entropy of the classes; each image in a drawn version each time."""
    model = build_vit(random_state=recipe.seed, device=device).train()
    generator = torch.Generator().manual_seed(recipe.seed)
    versions = torch.stack([patch_ids(images) for images in shifted(split.train)])
    classes = torch.from_numpy(split.train_class).to(device)
    n_steps = recipe.epochs * -(-len(classes) // recipe.batch_size)
    rate = recipe.learning_rate
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, n_steps, pct_start=0.1)
    for _ in tqdm(range(recipe.epochs), desc="vision transformer", unit="epoch", leave=False):
        for rows in torch.randperm(len(classes), generator=generator).split(recipe.batch_size):
            drawn = torch.randint(len(versions), (len(rows),), generator=generator)
            loss = cross_entropy(classify(model, versions[drawn, rows]), classes[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return model.eval()


def stream_of(model: Any, images: Images) -> Float[np.ndarray, "images positions d"]:
    """The residual stream at the hook, float16: all 17 positions of all images."""
    ids = patch_ids(images)
    parts = [run_to_hook(model, part, torch.ones_like(part) > 0, HOOK) for part in ids.split(512)]
    stream: np.ndarray = torch.cat(parts).half().cpu().numpy()
    return stream


def save_vit(model: Any, recipe: VitRecipe, folder: Path, split: Split) -> None:
    """Weights in float16, and a card of what was saved, rounding included."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: w.detach().half().cpu().contiguous() for name, w in model.named_parameters()}
    save_file(weights, folder / VIT_FILE)
    card = {"name": "digits-vit", "recipe": asdict(recipe), "data": DATA, "stored_dtype": "float16",
            "sha256": sha256_file(folder / VIT_FILE)}  # fmt: skip
    write_json(folder / CARD_FILE, card)
    saved = load_vit(folder)
    reached = {"train": accuracy(saved, split.train, split.train_class),
               "test": accuracy(saved, split.test, split.test_class)}  # fmt: skip
    write_json(folder / CARD_FILE, card | {"accuracy": reached})


def load_vit(folder: Path, *, device: str = "cpu") -> Any:
    """The transformer that `save_vit` stored, in float32.

    Raises UserError for no or other weights than the card's, or those of another shape of model.
    """
    path, model = folder / VIT_FILE, build_vit(device=device)
    if not path.is_file():
        raise UserError(f"no {VIT_FILE} in {folder}; 'saerepgeo vision --out {folder}' makes it")
    advice = "restore it with 'git checkout', or train it again with 'saerepgeo vision'"
    check_sha256(path, folder / CARD_FILE, advice)
    parameters = dict(model.named_parameters())
    masks = {name: w for name, w in model.state_dict().items() if name not in parameters}
    try:
        model.load_state_dict({name: w.float() for name, w in load_file(path).items()} | masks)
    except (SafetensorError, RuntimeError) as error:
        raise UserError(f"cannot load the vision transformer in {folder}: {error}") from error
    return model


def make(
    folder: Path, *, vit: VitRecipe | None = None, saes: Sequence[str] = tuple(SAES),
    n_samples: int | None = None, work: Path, device: str = "cpu",
) -> ModelWithSAEs:  # fmt: skip
    """Train a transformer and autoencoders with its seed into `folder`, and load what was saved.

    The autoencoders read training images in all their versions, at every position; `n_samples`
    stops them early (a trial). Fit is measured on held-out images. An earlier training in `folder`
    is replaced once the new one is whole. Raises UserError for other files there, before it trains.
    """
    vit = vit or VitRecipe()
    split = digits(vit.seed)
    _refuse_others(folder)
    with atomic_folder(folder) as new:  # so that none holds parts of two trainings
        save_vit(train_vit(vit, split, device=device), vit, new, split)
        model = load_vit(new, device=device)
        stream = stream_of(model, np.concatenate(shifted(split.train))).reshape(-1, 64)
        held_out = torch.from_numpy(stream_of(model, split.test)).float()
        content, class_tokens = held_out[patch_ids(split.test) != BLANK], held_out[:, 0]
        seen = torch.from_numpy(stream[:: max(1, len(stream) // 50_000)]).float()

        def fit(sae: Any) -> dict[str, float]:
            return {
                "fvu_content": fvu(sae, content),
                "fvu_entity": fvu(sae, class_tokens),
                "l0_content": fired(sae, content)[1],
                "dead_share": 1 - fired(sae, seen)[0].double().mean().item(),
            }

        for label in saes:
            samples = n_samples or SAES[label].n_samples
            recipe = replace(SAES[label], seed=vit.seed, n_samples=samples)
            checkpoints = work / f"{recipe.name}-{vit.seed}"
            shutil.rmtree(checkpoints, ignore_errors=True)  # of another transformer, perhaps
            sae = train(recipe, [stream], metadata=METADATA, checkpoints=checkpoints, device=device)
            save(sae, recipe, new / recipe.name, corpus=DATA, fit=fit)
        _refuse_others(folder)  # training took minutes
    return load_vision(folder, device=device)


def _refuse_others(folder: Path) -> None:
    """Raise UserError if there is anything but a training of this module at `folder`."""
    ours = {VIT_FILE, CARD_FILE} | {recipe.name for recipe in SAES.values()}
    others = [folder.name] if folder.is_file() else []
    if folder.is_dir():
        others = sorted({path.name for path in folder.iterdir()} - ours)
    if others:
        raise UserError(
            f"{folder} would be replaced as a whole, and holds other things ({others[0]}); "
            "name a new folder"
        )


def load_vision(folder: Path | None = None, *, device: str = "cpu") -> ModelWithSAEs:
    """The shipped vision transformer with its autoencoders, or those that `make` put elsewhere."""
    parts = _parts(folder)
    model = load_vit(parts.pop("model"), device=device)
    saes = {label: load_sae(part, device=device) for label, part in parts.items()}
    not_sparse = tuple(label for label in ("dense AE",) if label in saes)
    return ModelWithSAEs(model, saes, not_sparse, load=partial(build_vit, device=device))


def vision_cards(folder: Path | None = None) -> dict[str, Any]:
    """The cards of a transformer ("model") and of its autoencoders by label."""
    return {label: read_json(part / CARD_FILE) for label, part in _parts(folder).items()}


def _parts(folder: Path | None) -> dict[str, Path]:
    """The folders of a transformer ("model") and of its autoencoders by label."""
    folder = folder or data_dir() / "vision"
    saes = {label: folder / recipe.name for label, recipe in SAES.items()}
    return {"model": folder, **{label: part for label, part in saes.items() if part.is_dir()}}
