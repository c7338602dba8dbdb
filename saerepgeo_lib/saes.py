"""Autoencoders at a hook: shipped ones verified by hash, any of SAELens', and a random null."""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError  # what torch raises when it refuses to run a file's code
from typing import Any

import torch
from sae_lens import SAE, TopKSAE, TopKSAEConfig, TranscoderConfig
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
from safetensors import SafetensorError

from saerepgeo_lib.errors import UserError, choose
from saerepgeo_lib.files import data_dir, read_json, sha256_file
from saerepgeo_lib.presets import SaeSource

WEIGHTS_FILE = "sae_weights.safetensors"
CARD_FILE = "card.json"
_NORMALISATIONS = ("none", None, "layer_norm", "constant_norm_rescale")  # what encode does itself
_KINDS = {"standard": "L1-ReLU", "topk": "TopK", "jumprelu": "JumpReLU", "gated": "gated"}


def shipped_saes() -> dict[str, Path]:
    """Folders of the shipped autoencoders by name."""
    return {
        path.parent.name: path.parent for path in sorted(data_dir().glob(f"saes/*/{CARD_FILE}"))
    }


def read_card(name: str) -> dict[str, Any]:
    """The model card of a shipped autoencoder: recipe, corpus, fit, hash of the weights."""
    saes = shipped_saes()
    card: dict[str, Any] = read_json(saes[choose("shipped SAE", name, saes)] / CARD_FILE)
    return card


def load_sae(source: SaeSource | str | Path, *, device: str = "cpu") -> Any:
    """A SAELens SAE in float32, ready to encode.

    `source` is a preset's SaeSource, the name of a shipped SAE, or a folder in SAELens'
    on-disk format. Shipped weights are checked against the SHA-256 of their card. Raises
    UserError for unknown names, damaged or swapped weights, or no network.
    """
    if isinstance(source, SaeSource) and source.release is not None:
        return _usable(_load_release(source.release, str(source.sae_id), device))
    name = source.shipped if isinstance(source, SaeSource) else source
    folder = Path(str(name))
    if not folder.is_dir():
        saes = shipped_saes()
        folder = saes[choose("shipped SAE (or folder)", str(name), saes)]
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        raise UserError(f"no {WEIGHTS_FILE} in {folder}: not a folder in SAELens' format")
    if (folder / CARD_FILE).is_file():
        expected, found = read_json(folder / CARD_FILE)["sha256"], sha256_file(weights)
        if found != expected:
            raise UserError(
                f"{weights} is not what its card describes: SHA-256 is {found}, expected "
                f"{expected}; restore it with 'git checkout' or train it again with 'make saes'"
            )
    try:
        sae = SAE.load_from_disk(folder, device=device, dtype="float32")
    except (SafetensorError, RuntimeError, KeyError, ValueError, OSError) as error:
        raise UserError(f"cannot load the SAE in {folder}: {error}") from error
    return _usable(sae)


def _usable(sae: Any) -> Any:
    """The SAE, if it can encode residual vectors as they are."""
    one_head = sae.cfg.metadata.hook_head_index is not None or sae.cfg.reshape_activations != "none"
    if isinstance(sae.cfg, TranscoderConfig) or one_head:
        raise UserError(
            f"a {sae.cfg.architecture()} at {sae.cfg.metadata.hook_name!r} does not reconstruct "
            "what it reads in the residual stream; choose an SAE of the residual stream"
        )
    if sae.cfg.normalize_activations not in _NORMALISATIONS:
        raise UserError(
            f"the SAE was trained on normalised activations ({sae.cfg.normalize_activations}), and "
            "by how much is not known; fold that into the weights first, for example with "
            "sae.fold_activation_norm_scaling_factor, and save it to a folder"
        )
    return sae.eval()


def _load_release(release: str, sae_id: str, device: str) -> Any:
    if os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"):
        raise UserError(
            "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set, with which a file may run code; unset it"
        )
    registry = get_pretrained_saes_directory()
    if "/" not in release:  # else a repository on the hub
        choose("release of SAELens", release, registry)
        choose(f"SAE of {release}", sae_id, registry[release].saes_map)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return SAE.from_pretrained(release, sae_id, device=device)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, UnpicklingError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"cannot load SAE {sae_id!r} of release {release!r}: {reason}") from error


def hook_of(sae: Any) -> str:
    """The hook that the SAE was trained at, from its own metadata."""
    hook = sae.cfg.metadata.hook_name
    if not hook:
        raise UserError("the SAE's metadata names no hook (cfg.metadata.hook_name); set it")
    return str(hook)


def common_hook(saes: Mapping[str, Any]) -> str:
    """The one hook of several SAEs; they must have been trained at the same."""
    hooks = {label: hook_of(sae) for label, sae in saes.items()}
    if len(set(hooks.values())) != 1:
        raise UserError(f"the SAEs must share one hook, but they were trained at {hooks}")
    return next(iter(hooks.values()))


def kind_of(sae: Any) -> str:
    """A label from the SAE's architecture, such as "TopK SAE"."""
    name = str(sae.cfg.architecture())
    return f"{_KINDS.get(name, name)} SAE"


def trained_model(sae: Any) -> str:
    """The model that the SAE was trained on, from its own metadata."""
    name = sae.cfg.metadata.model_name
    if not name:
        raise UserError(
            "the SAE's metadata names no model (cfg.metadata.model_name); give model_name"
        )
    return str(name)


def trained_processing(saes: Mapping[str, Any]) -> dict[str, Any]:
    """How the model's weights were processed before training (model_from_pretrained_kwargs)."""
    found = [dict(sae.cfg.metadata.model_from_pretrained_kwargs or {}) for sae in saes.values()]
    if any(other != found[0] for other in found):
        raise UserError(f"the SAEs were trained on differently processed models: {found}")
    return found[0]


def wants_bos(saes: Mapping[str, Any]) -> bool:
    """Whether the SAEs were trained on prompts with a BOS token (SAELens' default: yes)."""
    wants = {sae.cfg.metadata.prepend_bos is not False for sae in saes.values()}
    if len(wants) != 1:
        raise UserError("some of the SAEs were trained with a BOS token in front, some without")
    return wants.pop()


def check_fit(sae: Any, d_model: int, label: str) -> None:
    """Refuse an SAE whose input width is not the model's."""
    if sae.cfg.d_in != d_model:
        raise UserError(
            f"{label} reads {sae.cfg.d_in} dimensions, but the model's residual stream has "
            f"{d_model}: it was trained on another model"
        )


def random_sae(
    reference: Any, *, l0: int, generator: torch.Generator, keep_centre: bool = True
) -> TopKSAE:
    """A null: a TopK SAE with random unit-norm weights and the reference's width and centre.

    Nothing in it is learned but the centre b_dec (0 without `keep_centre`); exactly `l0` latents
    of each code may be active. The decoder is the encoder's transpose.
    """
    d_in, d_sae = reference.cfg.d_in, reference.cfg.d_sae
    if not 1 <= l0 <= d_sae:
        raise UserError(f"l0 must lie between 1 and the width {d_sae}, got {l0}")
    directions = torch.randn(d_sae, d_in, generator=generator)
    directions /= directions.norm(dim=1, keepdim=True)
    metadata = reference.cfg.metadata
    sae = TopKSAE(
        TopKSAEConfig(
            k=l0,
            d_in=d_in,
            d_sae=d_sae,
            apply_b_dec_to_input=True,
            normalize_activations=reference.cfg.normalize_activations,
            metadata=metadata,
        )
    )
    state = {
        "W_enc": directions.T.contiguous(),
        "W_dec": directions,
        "b_enc": torch.zeros(d_sae),
        "b_dec": reference.b_dec.detach().float().cpu() * keep_centre,
    }
    sae.load_state_dict(state)
    return sae.to(reference.b_dec.device).eval()
