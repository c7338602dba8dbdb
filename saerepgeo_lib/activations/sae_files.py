"""SAEs as files: presets, shipped folders, and what files say before anything heavy is loaded."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saerepgeo_lib.activations.sae_config import (
    CONFIG_FILE,
    check_config,
    check_normalisation,
    is_outside,
    metadata_of,
)
from saerepgeo_lib.errors import UserError, choose, nearest
from saerepgeo_lib.files import data_dir, read_json, sha256_file

WEIGHTS_FILE = "sae_weights.safetensors"
CARD_FILE = "card.json"


@dataclass(frozen=True)
class Preset:
    """A model (see `load_model`) and its SAEs by label (see `load_sae`), all at one hook.

    `not_sparse` are labels of nulls, such as a dense autoencoder.
    """

    model: str
    saes: dict[str, str]
    not_sparse: tuple[str, ...] = ()


PRESETS = {
    **{
        f"smollm2{seed}": Preset("smollm2", {
            "TopK SAE": f"smollm2-b10-topk{seed}", "L1-ReLU SAE": f"smollm2-b10-l1{seed}",
            "dense AE": "smollm2-b10-dense",
        }, not_sparse=("dense AE",))
        for seed in ("", "-seed1", "-seed2")  # trained again, from other weights and batches
    },
    "minilm": Preset("minilm", {
        "TopK SAE": "minilm-l4-topk", "L1-ReLU SAE": "minilm-l4-l1", "dense AE": "minilm-l4-dense",
    }, not_sparse=("dense AE",)),
    "gpt2-small": Preset("openai-community/gpt2", {
        "TopK SAE": "gpt2-small-resid-post-v5-32k:blocks.11.hook_resid_post"}),
    "pythia-70m": Preset("EleutherAI/pythia-70m-deduped", {
        "L1-ReLU SAE": "pythia-70m-deduped-res-sm:blocks.5.hook_resid_post"}),
    "gemma-2-2b": Preset("google/gemma-2-2b", {
        "TopK SAE": "sae_bench_gemma-2-2b_topk_width-2pow16_date-1109:"
                    "blocks.19.hook_resid_post__trainer_0"}),
}  # fmt: skip


def shipped_saes() -> dict[str, Path]:
    """Folders of the shipped autoencoders by name."""
    cards = sorted(data_dir().glob(f"saes/*/{CARD_FILE}"))
    return {card.parent.name: card.parent for card in cards}


def is_release(name: str | Path) -> bool:
    """Whether a name is "RELEASE:ID", and no folder."""
    return all(str(name).partition(":")) and not Path(name).is_dir()


def check_preset(preset: str, *, model_name: str = "", hook: str = "") -> None:
    """Refuse what `model_with_saes.load` would refuse, so far as files on this machine tell."""
    if is_outside(hook):
        raise UserError(f"{hook!r} lies inside a layer; name a hook of the residual stream")
    if preset in PRESETS:
        for name in PRESETS[preset].saes.values():
            if not is_release(name):
                check_folder(name)
    elif Path(preset).is_dir():
        metadata = metadata_of(check_folder(preset))
        for field, given in (("model_name", model_name), ("hook_name", hook)):
            if not (given or metadata.get(field)):
                kind = field.removesuffix("_name")
                option = "hook" if kind == "hook" else field
                raise UserError(f"the SAE in {preset} names no {kind}; give {option}")
    elif not is_release(preset):
        raise UserError(
            f"unknown preset {preset!r}; {nearest(preset, PRESETS)}; or name your own SAE as "
            "RELEASE:ID ('saerepgeo saes' lists them), or a folder that holds one"
        )


def check_folder(name: str | Path) -> dict[str, Any]:
    """The configuration of the SAE in a folder (or a shipped one, by name), checked from files.

    Weights with a card have its SHA-256, the configuration says all that decides what is computed,
    and weights have the shapes that it says. Raises UserError otherwise.
    """
    folder = folder_of(name)
    weights, card = folder / WEIGHTS_FILE, folder / CARD_FILE
    if not weights.is_file():
        raise UserError(f"no {WEIGHTS_FILE} in {folder}: not a folder in SAELens' format")
    if card.is_file():
        check_sha256(weights, card, "restore it with 'git checkout' or train it again")
    cfg = read_json(folder / CONFIG_FILE)
    try:
        check_config(cfg)
        check_normalisation(cfg.get("normalize_activations"))
        shapes = shapes_in(weights)
        check_shapes(shapes, cfg["d_in"], cfg["d_sae"])
        is_jumprelu = cfg.get("architecture") == "jumprelu"
        if "threshold" not in shapes and is_jumprelu:
            raise UserError("a JumpReLU SAE needs a threshold, and there is none among the weights")
        if "threshold" in shapes and not is_jumprelu:
            raise UserError(
                f"there is a threshold among the weights, which an SAE of architecture "
                f"{cfg.get('architecture') or 'standard'!r} does not use; write "
                f'"architecture": "jumprelu" into {CONFIG_FILE}, or leave the threshold out'
            )
    except UserError as error:
        raise UserError(f"cannot load the SAE in {folder}: {error}") from None
    return dict(cfg)


def folder_of(name: str | Path) -> Path:
    """A folder itself, or that of a shipped SAE. Raises UserError if there is none."""
    if (folder := Path(name)).is_dir():
        return folder
    shipped = shipped_saes()
    return shipped[choose("shipped SAE (or folder)", str(name), shipped)]


def check_sha256(weights: Path, card: Path, advice: str) -> None:
    """Refuse weights that are not those of their card."""
    expected, actual = read_json(card)["sha256"], sha256_file(weights)
    if actual != expected:
        raise UserError(
            f"{weights} is not what its card describes: SHA-256 is {actual}, expected {expected}; "
            f"{advice}"
        )


def check_shapes(shapes: Mapping[str, tuple[int, ...]], d_in: int, d_sae: int) -> None:
    """Refuse weights whose shapes contradict the configuration, or that lack the decoder.

    `shapes` are those of the weights by name.
    """
    known = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    known |= dict.fromkeys(("b_enc", "threshold", "b_gate", "b_mag", "r_mag"), (d_sae,))
    if "W_dec" not in shapes:
        raise UserError(f"there is no W_dec among the weights ({', '.join(sorted(shapes))})")
    for name, shape in shapes.items():
        if name in known and tuple(shape) != known[name]:
            sizes, expected = (" x ".join(map(str, s)) for s in (shape, known[name]))
            raise UserError(
                f"{name} is {sizes}, but by {CONFIG_FILE} (d_in {d_in}, d_sae {d_sae}) it is "
                f"{expected}: weights and configuration belong to different SAEs"
            )


def shapes_in(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the weights in a safetensors file, from its header."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(size, path.stat().st_size)))
        header.pop("__metadata__", None)
        ends = 8 + size + max((v["data_offsets"][1] for v in header.values()), default=0)
        if ends != (held := path.stat().st_size):
            raise UserError(f"{path.name} is cut short, or changed: {held} bytes, expected {ends}")
        return {name: tuple(v["shape"]) for name, v in header.items()}
    except UserError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path.name} is no safetensors file that can be read: {error}") from None
