"""SAEs as files: presets, shipped folders, and what files say before anything heavy is loaded."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saerepgeo_lib.errors import UserError, choose, nearest, quoted
from saerepgeo_lib.files import data_dir, read_as, read_json, sha256_file

WEIGHTS_FILE = "sae_weights.safetensors"
CONFIG_FILE = "cfg.json"
CARD_FILE = "card.json"
TOPK = ("topk", "abstopk")
ARCHITECTURES = ("standard", *TOPK, "jumprelu", "gated", "matching_pursuit")
_IN_TRAINING = ("batchtopk", "matryoshka_batchtopk")  # saved as JumpReLU when they are trained
_OUTSIDE = re.compile(r"attn|mlp|transcoder|hook_[zqkv]\b|hook_pattern|hook_normalized")
_STREAM = re.compile(r"blocks\.(\d+)\.(hook_out|hook_resid_post|hook_in|hook_resid_pre)")
_NORMALISATIONS = ("none", None, False, "layer_norm", "constant_norm_rescale")  # encode does these
_REMEDIES = {
    "covariance_whitening": "sae.fold_activation_whitening(mean, matrix, inverse)",
    "expected_average_only_in": "sae.fold_activation_norm_scaling_factor(factor)",
}


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
    and weights have the shapes that it says. Raises UserError else.
    """
    folder = folder_of(name)
    weights, card = folder / WEIGHTS_FILE, folder / CARD_FILE
    if not weights.is_file():
        raise UserError(f"no {WEIGHTS_FILE} in {folder}: not a folder in SAELens' format")
    if card.is_file():
        check_sha256(weights, card, "restore it with 'git checkout' or train it again")
    cfg = read_as("JSON", folder / CONFIG_FILE, json.loads)
    try:
        check_config(cfg)
        check_normalisation(cfg.get("normalize_activations"))
        check_shapes(shapes_in(weights), cfg["d_in"], cfg["d_sae"])
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


def metadata_of(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration says of model, hook and BOS, under today's names.

    SAELens before version 6 wrote these beside the sizes, and the hook as `hook_point`.
    """
    old = {"hook_name": cfg["hook_point"]} if cfg.get("hook_point") else {}
    return {**old, **(cfg.get("metadata") or cfg)}


def check_config(cfg: Any) -> None:
    """Refuse a configuration that leaves out, or contradicts, what decides the latents.

    SAELens fills such gaps with defaults (k = 100) or takes ReLU for an activation function that it
    does not have, and says nothing. Raises UserError with the place in cfg.json and the remedy.
    """
    if not isinstance(cfg, dict):
        raise UserError(f"{CONFIG_FILE} must be an object, got {quoted(cfg)}")
    if not isinstance(cfg.get("metadata", {}), dict | None):
        raise UserError(
            f"metadata in {CONFIG_FILE} must be an object, got {quoted(cfg['metadata'])}"
        )
    for name in ("d_in", "d_sae"):
        _whole(
            name, cfg.get(name), "the number of dimensions that the SAE reads, or of its latents"
        )
    is_old(cfg)  # refuses a version that is none
    architecture, metadata = cfg.get("architecture") or "standard", metadata_of(cfg)
    place = (metadata.get("hook_name"), metadata.get("hook_head_index"))
    check_kind(architecture, *place, cfg.get("reshape_activations"))
    choose("architecture", architecture, ARCHITECTURES)
    _check_activation(cfg, architecture)


def check_kind(architecture: str, hook: Any, head: Any, reshape: Any) -> None:
    """Refuse what does not reconstruct the residual stream that it reads, token by token.

    `hook` is the hook's name, `head` the index of an attention head.
    """
    if architecture == "temporal":
        raise UserError(
            "a TemporalSAE encodes a token by those before it, not by its residual vector alone; "
            "choose an SAE that encodes each token for itself"
        )
    if architecture in _IN_TRAINING:
        raise UserError(
            f"{architecture!r} is an SAE in training, whose latents depend on the batch; save what "
            "it has learned with sae.save_inference_model(folder), as JumpReLU"
        )
    part = is_outside(str(hook))
    if "transcoder" in architecture or part or head is not None or reshape not in (None, "none"):
        raise UserError(
            f"a {architecture} at {hook!r} does not reconstruct "
            "what it reads in the residual stream; choose an SAE of the residual stream"
        )


def is_outside(hook: str) -> bool:
    """Whether a hook lies inside an attention or MLP layer, and not in the residual stream."""
    return bool(_OUTSIDE.search(hook))


def same_place(one: str, other: str) -> bool:
    """Whether two names of hooks mean the same place of the residual stream.

    `blocks.3.hook_out` is `blocks.3.hook_resid_post`, and what the next block reads.
    """

    def place(hook: str) -> str:
        if not (found := _STREAM.fullmatch(hook)):
            return hook
        return f"before block {int(found[1]) + (found[2] in ('hook_out', 'hook_resid_post'))}"

    return place(one) == place(other)


def check_normalisation(name: Any) -> None:
    """Refuse activations normalised by statistics of the training that the SAE does not carry."""
    name = "expected_average_only_in" if name is True else name  # as SAELens before version 6
    if name not in _NORMALISATIONS:
        known = ", ".join(str(n) for n in _NORMALISATIONS if isinstance(n, str))
        fold = _REMEDIES.get(name)
        raise UserError(
            f"the SAE was trained on normalised activations ({name}), and by how much is not "
            f"known; fold that into the weights first, with {fold}, and save it to a folder"
            if fold
            else f"normalize_activations is {quoted(name)}, which is not known; known: {known}"
        )


def _check_activation(cfg: Mapping[str, Any], architecture: str) -> None:
    """The activation function that is written down is what SAELens will take, with its k."""
    given = {cfg[key] for key in ("activation_fn_str", "activation_fn") if cfg.get(key)}
    options, takes_k = cfg.get("activation_fn_kwargs") or {}, architecture in TOPK
    if unknown := given - {"relu", "topk"}:
        raise UserError(
            f"the activation function {sorted(unknown)[0]!r} is not known to this version of "
            "SAELens, which would take ReLU instead; load an SAE with relu, topk or jumprelu"
        )
    if options.get("signed"):
        raise UserError("TopK with signed latents would lose its negative ones; save as abstopk")
    if "topk" in given and not takes_k:
        if architecture != "standard" or not is_old(cfg):
            raise UserError(
                f"architecture {architecture!r} contradicts the activation function 'topk'; "
                'write "architecture": "topk" and "k"'
            )
        if "k" not in options:
            raise UserError(
                "the activation function is topk, but no k is given, and SAELens would take ReLU; "
                'write "activation_fn_kwargs": {"k": ...} with the k of the training'
            )
    if takes_k or "topk" in given:
        both = {str(name["k"]): name["k"] for name in (options, cfg) if "k" in name}
        if not both:
            raise UserError(
                f"an SAE of architecture {architecture!r} needs k, the number of active latents "
                f'per token (SAELens would take 100); write "k" into {CONFIG_FILE}'
            )
        for k in both.values():
            check_k(k, cfg["d_sae"])
        if len(both) > 1:
            raise UserError(f"{CONFIG_FILE} gives k twice, as {' and '.join(both)}; leave one")


def is_old(cfg: Mapping[str, Any]) -> bool:
    """Whether a configuration is of SAELens before version 6, which had no metadata in it."""
    metadata = cfg.get("metadata") or {}
    stated = cfg.get("sae_lens_version") or metadata.get("sae_lens_version")
    if not (major := re.match(r"\d+", str(stated or 6 * bool(metadata)))):
        raise UserError(f"sae_lens_version {quoted(stated)} is no version number")
    return int(major.group()) < 6


def for_saelens(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """A checked configuration as SAELens reads it without tripping, and without filling gaps.

    Nulls are left out; metadata get a version, without which SAELens drops them; and where the use
    of a BOS token is not stated, it stays unknown.
    """
    empty = ("metadata", "hook_name", "hook_point", "activation_fn_kwargs", "architecture",
             "normalize_activations", "reshape_activations")  # fmt: skip
    kept = {name: v for name, v in cfg.items() if v or name not in empty}
    if is_old(cfg):
        return {"prepend_bos": None} | kept
    if "metadata" in kept:
        kept["metadata"] = {"sae_lens_version": "6.0.0"} | kept["metadata"]
    return kept


def check_k(k: Any, d_sae: int) -> None:
    """Refuse a number of active latents per token that is none."""
    _whole("k", k, "the number of active latents per token", most=d_sae)


def _whole(name: str, value: Any, meaning: str, *, most: int | None = None) -> None:
    if type(value) is not int or value < 1 or (most is not None and value > most):
        limit = f"from 1 to d_sae = {most}" if most is not None else "of at least 1"
        raise UserError(f"{name} ({meaning}) must be a whole number {limit}, got {quoted(value)}")


def check_shapes(shapes: Mapping[str, tuple[int, ...]], d_in: int, d_sae: int) -> None:
    """Refuse weights whose shapes contradict the configuration, or among which the decoder lacks.

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
        return {k: tuple(v["shape"]) for k, v in header.items() if k != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path.name} is no safetensors file that can be read: {error}") from None
