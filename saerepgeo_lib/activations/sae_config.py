"""What an SAE's configuration says, leaves out, or contradicts (SAELens' cfg.json)."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from saerepgeo_lib.errors import UserError, choose, quoted

CONFIG_FILE = "cfg.json"
TOPK = ("topk", "abstopk")
ARCHITECTURES = ("standard", *TOPK, "jumprelu", "gated", "matching_pursuit")
_IN_TRAINING = ("batchtopk", "matryoshka_batchtopk")  # saved as JumpReLU when they are trained
_TEXT, _YES, _OBJECT = (str, "a text"), (bool, "true or false"), (dict, "an object")
_TYPES: dict[str, tuple[Any, str]] = {
    **dict.fromkeys(("architecture", "hook_name", "hook_point", "model_name"), _TEXT),
    **dict.fromkeys(("activation_fn", "activation_fn_str", "reshape_activations"), _TEXT),
    **dict.fromkeys(("prepend_bos", "apply_b_dec_to_input", "rescale_acts_by_decoder_norm"), _YES),
    **dict.fromkeys(("metadata", "activation_fn_kwargs", "model_from_pretrained_kwargs"), _OBJECT),
    "normalize_activations": (str | bool, "a text"),
}
_OF_OLD_FILES = {"hook_point", "activation_fn_str"}
_SAID_BESIDE = ("hook_name", "hook_head_index", "model_name", "prepend_bos")
_OUTSIDE = re.compile(r"attn|mlp|transcoder|hook_[zqkv]\b|hook_pattern|hook_normalized|\bln\w*\.")
_STREAM = re.compile(r"blocks\.(\d+)\.(hook_out|hook_resid_post|hook_in|hook_resid_pre)")
_NORMALISATIONS = ("none", None, False, "layer_norm", "constant_norm_rescale")  # encode does these
_REMEDIES = {
    "covariance_whitening": "sae.fold_activation_whitening(mean, matrix, inverse)",
    "expected_average_only_in": "sae.fold_activation_norm_scaling_factor(factor)",
}


def metadata_of(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration says of model, hook and BOS, under today's names.

    SAELens before version 6 wrote these beside the sizes, and the hook as `hook_point`.
    """
    old = {"hook_name": cfg["hook_point"]} if cfg.get("hook_point") else {}
    beside = {name: cfg[name] for name in _SAID_BESIDE if cfg.get(name) is not None}
    return {**old, **beside, **(cfg.get("metadata") or cfg)}


def check_config(cfg: Any) -> None:
    """Refuse a configuration that leaves out, or contradicts, what decides the latents.

    SAELens fills such gaps with defaults (k = 100) or takes ReLU for an activation function that it
    does not have, and says nothing. Raises UserError with the place in cfg.json and the remedy.
    """
    if not isinstance(cfg, dict):
        raise UserError(f"{CONFIG_FILE} must be an object, got {quoted(cfg)}")
    for where in (cfg, cfg.get("metadata")):
        _check_types(where)
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
    if not is_old(cfg) or not cfg.keys() & _OF_OLD_FILES:
        _check_stated(cfg, architecture)


def _check_stated(cfg: Mapping[str, Any], architecture: str) -> None:
    """Refuse what leaves out an option that decides the latents and that SAELens 6 writes down:
    `rescale_acts_by_decoder_norm` since 6.14, which brought it. Normalisation may be null: none.
    """
    options = {
        "apply_b_dec_to_input": ("whether b_dec is subtracted from the input", "true", _YES[1])
    }
    version = re.match(r"(\d+)\.(\d+)", str(_stated_version(cfg) or ""))
    if architecture in TOPK and not (version and tuple(map(int, version.groups())) < (6, 14)):
        options["rescale_acts_by_decoder_norm"] = (
            "whether pre-activations are weighted by the norms of the decoder's rows", "false",
            _YES[1],
        )  # fmt: skip
    if not is_old(cfg):
        options["architecture"] = (
            "of which architecture the SAE is", "'standard'", _any_of(ARCHITECTURES)
        )  # fmt: skip
        if "normalize_activations" not in cfg:
            options["normalize_activations"] = (
                "how activations were normalised", "'none'", _any_of(_NORMALISATIONS)
            )  # fmt: skip
    for name, (meaning, default, values) in options.items():
        if cfg.get(name) is None:
            raise UserError(
                f"{CONFIG_FILE} does not say {meaning}, and SAELens would take {default}; "
                f'write "{name}": {values}, as in the training'
            )


def _any_of(names: Sequence[Any]) -> str:
    """The names among some values, as they are written in a file."""
    *others, last = (f'"{name}"' for name in names if isinstance(name, str))
    return f"{', '.join(others)} or {last}"


def _check_types(values: Any) -> None:
    """Refuse what is given as another kind of value than SAELens takes, and silently misreads."""
    for name, value in (values or {}).items():
        kind, words = _TYPES.get(name, (object, ""))
        if value is not None and not isinstance(value, kind):
            raise UserError(f"{name} in {CONFIG_FILE} must be {words}, got {quoted(value)}")


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
    both = {str(name["k"]): name["k"] for name in (options, cfg) if "k" in name}
    if both and not (takes_k or "topk" in given):
        raise UserError(
            f"{CONFIG_FILE} gives k = {' and '.join(both)}, but its architecture "
            f"{architecture!r} takes none, and SAELens would drop it; write "
            '"architecture": "topk", or leave k out'
        )
    if takes_k or "topk" in given:
        if not both:
            raise UserError(
                f"an SAE of architecture {architecture!r} needs k, the number of active latents "
                f'per token (SAELens would take 100); write "k" into {CONFIG_FILE}'
            )
        for k in both.values():
            check_k(k, cfg["d_sae"])
        if len(both) > 1:
            raise UserError(f"{CONFIG_FILE} gives k twice, as {' and '.join(both)}; leave one")


def _stated_version(cfg: Mapping[str, Any]) -> Any:
    return cfg.get("sae_lens_version") or (cfg.get("metadata") or {}).get("sae_lens_version")


def is_old(cfg: Mapping[str, Any]) -> bool:
    """Whether a configuration is of SAELens before version 6, which had no metadata in it."""
    stated = _stated_version(cfg)
    if not (major := re.match(r"\d+", str(stated or 6 * bool(cfg.get("metadata"))))):
        raise UserError(f"sae_lens_version {quoted(stated)} is no version number")
    return int(major.group()) < 6


def for_saelens(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """A checked configuration as SAELens reads it without tripping, and without filling gaps.

    Nulls are left out; k stands where SAELens reads it; metadata get what stands beside them, and a
    version, without which SAELens drops them; and where the use of a BOS token is not stated, it
    stays unknown.
    """
    empty = ("metadata", "hook_name", "hook_point", "activation_fn_kwargs", "architecture",
             "normalize_activations", "reshape_activations")  # fmt: skip
    kept = {name: v for name, v in cfg.items() if v or (name not in empty and v is not None)}
    if kept.get("architecture") in TOPK:
        kept["k"] = kept.get("k", (cfg.get("activation_fn_kwargs") or {}).get("k"))
    if is_old(cfg):
        return {"prepend_bos": None} | kept
    if "metadata" in kept:
        kept["metadata"] = {"sae_lens_version": "6.0.0"} | metadata_of(kept)
    return kept


def check_k(k: Any, d_sae: int) -> None:
    """Refuse a number of active latents per token that is none."""
    _whole("k", k, "the number of active latents per token", most=d_sae)


def _whole(name: str, value: Any, meaning: str, *, most: int | None = None) -> None:
    if type(value) is not int or value < 1 or (most is not None and value > most):
        limit = f"from 1 to d_sae = {most}" if most is not None else "of at least 1"
        raise UserError(f"{name} ({meaning}) must be a whole number {limit}, got {quoted(value)}")
