"""Autoencoders at a hook: shipped ones verified by hash, and any that SAELens can load."""

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # what torch raises when it refuses to run a file's code
from typing import Any

import pandas as pd
from sae_lens import SAE, TranscoderConfig
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
from safetensors import SafetensorError
from transformer_lens.supported_models import MODEL_ALIASES

from saerepgeo_lib.errors import UserError, choose, nearest
from saerepgeo_lib.files import data_dir, read_json, sha256_file

WEIGHTS_FILE = "sae_weights.safetensors"
CARD_FILE = "card.json"
_NORMALISATIONS = ("none", None, "layer_norm", "constant_norm_rescale")  # what encode does itself
_FAULTS = (SafetensorError, UnpicklingError, RuntimeError, KeyError, ValueError, OSError)


@dataclass(frozen=True)
class Preset:
    """A model (see `load_model`) and its SAEs by label (see `load_sae`), all at one hook.

    `not_sparse` are labels of nulls, such as a dense autoencoder.
    """

    model: str
    saes: dict[str, str]
    not_sparse: tuple[str, ...] = ()


PRESETS = {
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


def load_sae(name: str | Path, *, device: str = "cpu") -> Any:
    """A SAELens SAE in float32, ready to encode.

    `name` is that of a shipped SAE; a folder in SAELens' format; "RELEASE:ID" of SAELens' registry,
    or "USER/REPOSITORY:PATH" on the Hugging Face hub. Weights with a card are checked against its
    SHA-256. Raises UserError for what cannot be had, or cannot encode the residual stream as it is.
    """
    release, _, sae_id = str(name).partition(":")
    if release and sae_id and not Path(name).is_dir():
        sae = _load_release(release, sae_id, device)
    else:
        sae = _load_folder(name, device)
    cfg = sae.cfg
    one_head = cfg.metadata.hook_head_index is not None or cfg.reshape_activations != "none"
    if isinstance(cfg, TranscoderConfig) or one_head:
        raise UserError(
            f"a {cfg.architecture()} at {cfg.metadata.hook_name!r} does not reconstruct "
            "what it reads in the residual stream; choose an SAE of the residual stream"
        )
    if cfg.normalize_activations not in _NORMALISATIONS:
        raise UserError(
            f"the SAE was trained on normalised activations ({cfg.normalize_activations}), and "
            "by how much is not known; fold that into the weights first, for example with "
            "sae.fold_activation_norm_scaling_factor, and save it to a folder"
        )
    return sae.eval()


def _load_folder(name: str | Path, device: str) -> Any:
    folder = Path(name)
    if not folder.is_dir():
        shipped = shipped_saes()
        folder = shipped[choose("shipped SAE (or folder)", str(name), shipped)]
    weights, card = folder / WEIGHTS_FILE, folder / CARD_FILE
    if not weights.is_file():
        raise UserError(f"no {WEIGHTS_FILE} in {folder}: not a folder in SAELens' format")
    if card.is_file():
        check_sha256(weights, card, "restore it with 'git checkout' or train it again")
    try:
        return SAE.load_from_disk(folder, device=device, dtype="float32")
    except _FAULTS as error:
        raise UserError(f"cannot load the SAE in {folder}: {error}") from error


def check_sha256(weights: Path, card: Path, advice: str) -> None:
    """Refuse weights that are not those of their card."""
    expected, actual = read_json(card)["sha256"], sha256_file(weights)
    if actual != expected:
        raise UserError(
            f"{weights} is not what its card describes: SHA-256 is {actual}, expected {expected}; "
            f"{advice}"
        )


def _load_release(release: str, sae_id: str, device: str) -> Any:
    if os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"):
        raise UserError(
            "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set, with which a file may run code; unset it"
        )
    if "/" not in release:  # else a repository on the hub
        registry = get_pretrained_saes_directory()
        known = registry[choose("release of SAELens", release, registry)]
        choose(f"SAE of {release}", sae_id, known.saes_map)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return SAE.from_pretrained(release, sae_id, device=device)
    except _FAULTS as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"cannot load SAE {sae_id!r} of release {release!r}: {reason}") from error


def named(sae: Any, field: str, advice: str = "set it") -> str:
    """A name in the SAE's metadata. Raises UserError if there is none."""
    if not (value := getattr(sae.cfg.metadata, field)):
        kind = field.removesuffix("_name")
        raise UserError(f"the SAE's metadata names no {kind} (cfg.metadata.{field}); {advice}")
    return str(value)


def search_saes(*, model: str = "", text: str = "") -> pd.DataFrame:
    """SAELens' registry, a row per SAE: columns preset ("RELEASE:ID"), model, repository, L0 (as
    published).

    `model` is a name on the hub, or what the registry calls it; `text` words of a release or id in
    any order. Raises UserError with the nearest models if none matches.
    """
    table = pd.DataFrame(
        {"preset": f"{release}:{sae_id}", "model": known.model, "repository": known.repo_id,
         "L0": known.expected_l0[sae_id] or None}
        for release, known in get_pretrained_saes_directory().items() for sae_id in known.saes_map
    )  # fmt: skip
    if model:
        official = {alias: name for name, aliases in MODEL_ALIASES.items() for alias in aliases}

        def plain(name: str) -> str:  # without the owner: registries write it in several ways
            return official.get(name, name).rpartition("/")[2].lower()

        wanted = table["model"].map(plain) == plain(model)
        if not wanted.any():
            names = table["model"].unique()
            raise UserError(f"SAELens knows no SAE of {model!r}; {nearest(model, names)}")
        table = table[wanted]
    for word in text.split():
        table = table[table["preset"].str.contains(word, case=False, regex=False)]
    return table.reset_index(drop=True)
