"""Autoencoders at a hook, loaded: the shipped ones, and any that SAELens can load."""

import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError  # what torch raises when it refuses to run a file's code
from typing import Any

import pandas as pd
from sae_lens import SAE
from sae_lens.loading.pretrained_sae_loaders import (
    NAMED_PRETRAINED_SAE_LOADERS,
    get_conversion_loader_name,
    sae_lens_disk_loader,
)
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
from safetensors import SafetensorError
from transformer_lens.supported_models import MODEL_ALIASES

from saerepgeo_lib.activations.sae_config import (
    TOPK,
    check_config,
    check_k,
    check_kind,
    check_normalisation,
    for_saelens,
)
from saerepgeo_lib.activations.sae_files import (
    check_folder,
    check_shapes,
    folder_of,
    is_release,
)
from saerepgeo_lib.errors import UserError, choose, nearest

_OF_LAYERS = re.compile(r"attn|\batt\b|mlp|transcoder|\bclt\b|hook_z|lx(a|m|tc)_")
_FAULTS = (SafetensorError, UnpicklingError, RuntimeError, KeyError, ValueError, OSError, TypeError)


def load_sae(name: str | Path, *, device: str = "cpu") -> Any:
    """A SAELens SAE in float32, ready to encode.

    `name` is that of a shipped SAE; a folder in SAELens' format; "RELEASE:ID" of SAELens' registry,
    or "USER/REPOSITORY:PATH" on the Hugging Face hub. Weights with a card are checked against its
    SHA-256. Raises UserError for what cannot be had, or cannot encode the residual stream as it is.
    """
    if is_release(name):
        release, _, sae_id = str(name).partition(":")
        sae = _load_release(release, sae_id, device)
    else:
        sae = _load_folder(name, device)
    check_sae(sae, str(name))
    return sae.eval()


def check_label(label: str) -> None:
    """Refuse a label that means something else in tables of results."""
    if label.strip() in ("", "all", "residual"):
        raise UserError(
            f"an SAE cannot be labelled {label!r}: empty or 'all' is every SAE together, and "
            "'residual' the residual stream itself; give another label"
        )


def check_sae(sae: Any, label: str) -> None:
    """Refuse an SAE, named by `label`, that cannot encode the residual stream as it is.

    Its weights and buffers are finite and have the shapes that its configuration says.
    """
    check_label(label)
    cfg, weights = sae.cfg, {**dict(sae.named_parameters()), **dict(sae.named_buffers())}
    try:
        place = (cfg.metadata.hook_name, cfg.metadata.hook_head_index, cfg.reshape_activations)
        check_kind(str(cfg.architecture()), *place)
        check_normalisation(cfg.normalize_activations)
        if cfg.architecture() in TOPK:
            check_k(cfg.k, cfg.d_sae)
        check_shapes({name: tuple(w.shape) for name, w in weights.items()}, cfg.d_in, cfg.d_sae)
    except UserError as error:
        raise UserError(f"{label}: {error}") from None
    for name, weight in weights.items():
        ends = weight.detach().float().aminmax() if weight.numel() else (weight, weight)
        if not (ends[0].isfinite().all() and ends[1].isfinite().all()):
            n = int((~weight.isfinite()).sum())
            raise UserError(
                f"{label}: {n:,} of {weight.numel():,} numbers of {name} ({weight.dtype}) are NaN "
                "or infinite, and so would be what is computed from them; take a checkpoint from "
                "before the training diverged, or convert the original weights again, to float32"
            )


def _load_folder(name: str | Path, device: str) -> Any:
    check_folder(name)
    folder = folder_of(name)
    try:
        return SAE.load_from_disk(
            folder, device=device, dtype="float32", converter=_checking(sae_lens_disk_loader)
        )
    except _FAULTS as error:
        raise UserError(f"cannot load the SAE in {folder}: {_reason(error)}") from error


def _checking(read: Callable[..., Any]) -> Callable[..., Any]:
    """A loader of SAELens whose configuration is checked before SAELens fills its gaps."""

    def checked(*given: Any, **options: Any) -> Any:
        cfg, weights, *rest = read(*given, **options)
        check_config(cfg)
        check_shapes({name: w.shape for name, w in weights.items()}, cfg["d_in"], cfg["d_sae"])
        return for_saelens(cfg), weights, *rest

    return checked


def _reason(error: Exception) -> str:
    """An error of a library in one line."""
    if isinstance(error, KeyError):
        return f"its configuration has no {error}"
    return " ".join(str(error).split()) or type(error).__name__


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
            reader = _checking(NAMED_PRETRAINED_SAE_LOADERS[get_conversion_loader_name(release)])
            return SAE.from_pretrained(release, sae_id, device=device, converter=reader)
    except _FAULTS as error:
        where = f"SAE {sae_id!r} of release {release!r}"
        raise UserError(f"cannot load {where}: {_reason(error)}") from error


def named(sae: Any, field: str, advice: str = "set it") -> str:
    """A name in the SAE's metadata. Raises UserError if there is none."""
    if not (value := getattr(sae.cfg.metadata, field)):
        kind = field.removesuffix("_name")
        raise UserError(f"the SAE's metadata names no {kind} (cfg.metadata.{field}); {advice}")
    return str(value)


def _unusable(name: str, conversion: str | None) -> str:
    """Why the cases cannot use an SAE of the registry, by its names; empty if they can."""
    if conversion == "temporal":
        return "a TemporalSAE: encodes a token by those before it"
    return "not of the residual stream" if _OF_LAYERS.search(name) else ""


def search_saes(*, model: str = "", text: str = "") -> pd.DataFrame:
    """SAELens' registry, a row per SAE: columns preset ("RELEASE:ID"), model, repository, L0 (as
    published), unusable (why none of the cases can use it; empty if they can).

    `model` is a name on the hub, or what the registry calls it; `text` words of a release or id in
    any order. Raises UserError with the nearest models if none matches.
    """
    table = pd.DataFrame(
        {"preset": f"{release}:{sae_id}", "model": known.model, "repository": known.repo_id,
         "L0": known.expected_l0[sae_id] or None,
         "unusable": _unusable(f"{release}:{sae_id}:{path}", known.conversion_func)}
        for release, known in get_pretrained_saes_directory().items()
        for sae_id, path in known.saes_map.items()
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
