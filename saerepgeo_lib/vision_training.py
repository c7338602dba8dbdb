"""The vision transformer and its autoencoders: trained in minutes, stored beside their cards."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from saerepgeo_lib import training
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.files import atomic_folder, data_dir, read_json, sha256_file, write_json
from saerepgeo_lib.latents import encode, fvu
from saerepgeo_lib.residuals import Residuals, run_to_hook
from saerepgeo_lib.saes import CARD_FILE, load_sae
from saerepgeo_lib.subject import Subject
from saerepgeo_lib.vision import (
    BLANK,
    HOOK,
    SIDE,
    Images,
    Split,
    accuracy,
    build_vit,
    classify,
    concept_of,
    digits,
    patch_ids,
    subject_of,
)

VIT_FILE = "vit.safetensors"
DATA = {
    "name": "the digits of scikit-learn (UCI Optical Recognition of Handwritten Digits, test part)",
    "licence": "CC BY 4.0",
}
_KINDS: tuple[tuple[str, str, Literal["topk", "standard"], float, int], ...] = (
    ("TopK SAE", "topk", "topk", 8, 2_500_000),
    ("L1-ReLU SAE", "l1", "standard", 1.5, 2_500_000),
    ("dense AE", "dense", "standard", 0.0, 500_000),
)
SAES = {
    label: training.Recipe(
        f"digits-{name}", kind, coefficient, n, learning_rate=2e-3, batch_size=2048
    )
    for label, name, kind, coefficient, n in _KINDS
}
NOT_SPARSE = ("dense AE",)


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
    n = len(classes)
    n_steps = recipe.epochs * -(-n // recipe.batch_size)
    rate = recipe.learning_rate
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, n_steps, pct_start=0.1)
    for _ in tqdm(range(recipe.epochs), desc="vision transformer", unit="epoch", leave=False):
        for rows in torch.randperm(n, generator=generator).split(recipe.batch_size):
            drawn = torch.randint(len(versions), (len(rows),), generator=generator)
            loss = cross_entropy(classify(model, versions[drawn, rows]), classes[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return model.eval()


def stream_of(model: Any, images: Images) -> Float[np.ndarray, "tokens d"]:
    """The residual stream at the hook, float16: all 17 positions of all images."""
    ids = patch_ids(images)
    parts = [
        run_to_hook(model, part, torch.ones_like(part).bool(), HOOK) for part in ids.split(512)
    ]
    found: np.ndarray = torch.cat(parts).flatten(0, 1).half().cpu().numpy()
    return found


def save_vit(model: Any, recipe: VitRecipe, folder: Path, split: Split) -> None:
    """Weights in float16, and a card of what was saved, rounding included."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: w.detach().half().cpu().contiguous() for name, w in model.named_parameters()}
    save_file(weights, folder / VIT_FILE)
    card = {"name": "digits-vit", "recipe": asdict(recipe), "data": DATA, "stored_dtype": "float16",
            "sha256": sha256_file(folder / VIT_FILE)}  # fmt: skip
    write_json(folder / CARD_FILE, card)
    saved = load_vit(folder)
    found = {
        "train": accuracy(saved, split.train, split.train_class),
        "test": accuracy(saved, split.test, split.test_class),
    }
    write_json(folder / CARD_FILE, card | {"accuracy": found})


def load_vit(folder: Path, *, device: str = "cpu") -> Any:
    """The transformer that `save_vit` stored, in float32.

    Raises UserError for no or other weights than the card's, or those of another shape of model.
    """
    path = folder / VIT_FILE
    if not path.is_file():
        raise UserError(f"no {VIT_FILE} in {folder}; 'saerepgeo vision --out {folder}' makes it")
    expected, found = read_json(folder / CARD_FILE)["sha256"], sha256_file(path)
    if found != expected:
        raise UserError(
            f"{path} is not what its card describes: SHA-256 is {found}, expected {expected}; "
            "restore it with 'git checkout', or train it again with 'saerepgeo vision'"
        )
    model = build_vit(device=device)
    try:
        weights = {name: w.float() for name, w in load_file(path).items()}
        own = dict(model.named_parameters())
        if set(weights) != set(own):
            raise KeyError(f"parameters {sorted(set(weights) ^ set(own))}")
        model.load_state_dict(weights, strict=False)  # its masks are no parameters
    except (SafetensorError, RuntimeError, KeyError) as error:
        raise UserError(f"cannot load the vision transformer in {folder}: {error}") from error
    return model


def _fit(sae: Any, patches: Residuals, fitted: np.ndarray) -> dict[str, float]:
    """FVU, L0 and share of dead features, on held-out images and (dead) on training images."""
    seen = torch.from_numpy(fitted).float()
    return {
        "fvu_content": fvu(sae, patches.x),
        "fvu_entity": fvu(sae, patches.at("entity").x),
        "l0_content": encode(sae, patches.x).l0,
        "dead_share": 1 - len(encode(sae, seen).features) / sae.cfg.d_sae,
    }


def make(
    folder: Path,
    *,
    vit: VitRecipe | None = None,
    saes: Sequence[str] = tuple(SAES),
    n_samples: int | None = None,
    work: Path,
    device: str = "cpu",
) -> Subject:
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
        stream = stream_of(model, np.concatenate(shifted(split.train)))
        metadata = {"model_name": "digits-vit", "hook_name": HOOK, "prepend_bos": False,
                    "model_class_name": "HookedTransformer"}  # fmt: skip
        ids = patch_ids(split.test)
        x = torch.from_numpy(stream_of(model, split.test)).float().unflatten(0, ids.shape)
        prompt, position = (ids != BLANK).nonzero(as_tuple=True)
        patches = Residuals(x[ids != BLANK], prompt, position, position == 0)
        for label in saes:
            samples = n_samples or SAES[label].n_samples
            recipe = replace(SAES[label], seed=vit.seed, n_samples=samples)
            checkpoints = work / f"{recipe.name}-{vit.seed}"
            shutil.rmtree(checkpoints, ignore_errors=True)  # of another transformer, perhaps
            sae = training.train(
                recipe, [stream], metadata=metadata, checkpoints=checkpoints, device=device
            )
            training.save(
                sae, recipe, new / recipe.name, corpus=DATA,
                fit=lambda saved: _fit(saved, patches, stream[:: max(1, len(stream) // 50_000)]),
            )  # fmt: skip
        _refuse_others(folder)  # training took minutes
    return load_vision(folder, device=device)


def _refuse_others(folder: Path) -> None:
    """Raise UserError if there is anything but a training of this module at `folder`."""
    own = {VIT_FILE, CARD_FILE} | {recipe.name for recipe in SAES.values()}
    others = [folder.name] if folder.is_file() else []
    if folder.is_dir():
        others = sorted({path.name for path in folder.iterdir()} - own)
    if others:
        raise UserError(
            f"{folder} would be replaced as a whole, and holds other things ({others[0]}); "
            "name a new folder"
        )


def load_vision(folder: Path | None = None, *, device: str = "cpu") -> Subject:
    """The shipped vision transformer with its autoencoders, or those that `make` put elsewhere."""
    folder = folder or data_dir() / "vision"
    model = load_vit(folder, device=device)
    found = {
        label: load_sae(folder / recipe.name, device=device)
        for label, recipe in SAES.items()
        if (folder / recipe.name).is_dir()
    }
    return subject_of(model, found, [label for label in NOT_SPARSE if label in found])


def cards(folder: Path | None = None) -> dict[str, Any]:
    """The cards of a transformer ("model") and of its autoencoders by label."""
    folder = folder or data_dir() / "vision"
    parts = {label: folder / r.name for label, r in SAES.items() if (folder / r.name).is_dir()}
    return {label: read_json(at / CARD_FILE) for label, at in {"model": folder, **parts}.items()}


def held_out_concept(seed: int = 0, *, n_per_class: int = 12) -> Any:
    """Held-out digits of a split as a concept."""
    split = digits(seed)
    return concept_of(split.test, split.test_class, n_per_class=n_per_class)
