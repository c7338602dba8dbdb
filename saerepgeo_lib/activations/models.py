"""Language models: found, verified and loaded as TransformerLens bridges."""

import subprocess
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from huggingface_hub.errors import GatedRepoError
from safetensors import SafetensorError
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.activations import ACT2FN, NewGELUActivation

from saerepgeo_lib.activations.bridges import (
    FAULTS,
    Stream,
    check_stream,
    check_weights,
    true_stream,
)
from saerepgeo_lib.activations.embedded import find
from saerepgeo_lib.activations.tokenizers import forget_invented_tokens
from saerepgeo_lib.errors import UserError, choose

DTYPES = ("float32", "bfloat16", "float16")
# What an SAE's `model_from_pretrained_kwargs` may ask for: of loading, and of the weights.
_BOOT = ("revision", "checkpoint_index", "checkpoint_value")
_FOLD = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases",
         "refactor_factored_attn_matrices")  # fmt: skip
_IGNORED = ("dtype", "torch_dtype", "n_devices", "device", "device_map")


def best_device(device: str = "auto") -> str:
    """`device` itself, or for "auto" the accelerator of this machine (cuda, mps), else cpu."""
    if device == "auto":
        accelerator = torch.accelerator.current_accelerator()
        return accelerator.type if accelerator and torch.accelerator.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"device {device!r} cannot be used here ({reason}); try 'auto' or 'cpu'"
        ) from error
    return device


@contextmanager
def seeded(seed: int, *, device: str = "cpu") -> Iterator[None]:
    """Torch's global generator starts from `seed` inside, and is afterwards as it was before."""
    with torch.random.fork_rng([device] if device.startswith("cuda") else []):
        torch.manual_seed(seed)
        yield


def load_model(
    name: str = "minilm", *, device: str = "cpu", dtype: str = "float32",
    processing: Mapping[str, Any] | None = None, random_state: int | None = None,
) -> TransformerBridge:  # fmt: skip
    """Load a model for reading its residual stream.

    `name` is that of an embedded model ("smollm2", "minilm"), a folder, or a name on the Hugging
    Face hub. The weights are left as they are, unless `processing` (an SAE's
    `model_from_pretrained_kwargs`) asks for a revision, or for folding or centring as
    TransformerLens does it. With a `random_state` they are drawn as for training: a control. Raises
    UserError if the model cannot be had.
    """
    given = processing or {}
    if unknown := set(given) - {*_BOOT, *_FOLD, *_IGNORED}:
        raise UserError(
            f"the SAE was trained on a model loaded with {sorted(unknown)}, which are not known "
            f"here; known: {', '.join((*_BOOT, *_FOLD))}"
        )
    boot = {key: value for key, value in given.items() if key in _BOOT}
    boot["dtype"] = getattr(torch, choose("dtype", dtype, DTYPES))
    fold = {key: bool(given.get(key)) for key in _FOLD}
    embedded = find(name, boot.get("revision"))
    source = str(embedded.folder()) if embedded else name
    try:
        drawn = nullcontext() if random_state is None else seeded(random_state, device=device)
        with warnings.catch_warnings(), drawn:
            warnings.simplefilter("ignore")
            with _no_installs(), _none_missing():
                model = TransformerBridge.boot_transformers(
                    source, device=device, load_weights=random_state is None, **boot
                )
            model.to(device, print_details=False)  # drawn weights are not there yet
            true = trusted(model, revision=boot.get("revision"))
            if any(fold.values()):
                model.enable_compatibility_mode(disable_warnings=True, **fold)
    except UserError:
        raise
    except (*FAULTS, SafetensorError, OSError, ImportError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        reason = reason.partition(" Available architectures")[0]  # all 150 of them
        advice = f" ({_advice(name, error)})" if isinstance(error, OSError) else ""
        raise UserError(f"cannot load the model {name!r}: {reason}{advice}") from error
    for module in list(model.modules()):  # one operation for eight: the same up to rounding
        for child_name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, child_name, ACT2FN["gelu_pytorch_tanh"])
    if embedded:
        model.cfg.model_name = embedded.name  # a record tells what model it is, not where it lay
    model.eval()
    check_stream(model, true, centred=fold["center_writing_weights"])
    model.is_checked = True
    return model


def check_model(model: Any) -> None:
    """As for a model that `load_model` loads, for one of the user's: its weights, its tokenizer,
    and a bridge's residual stream. Processed weights change the stream on purpose and cannot be
    checked, and a `HookedTransformer` has nothing of transformers in it to be compared with.
    """
    if getattr(model, "is_checked", False):  # it is one of `load_model`
        return
    if not isinstance(model, TransformerBridge):
        check_weights(model)
        forget_invented_tokens(model.tokenizer, n_rows=model.cfg.d_vocab)
        return
    true = trusted(model)
    if not model.compatibility_mode:
        check_stream(model, true)


def trusted(model: TransformerBridge, *, revision: str | None = None) -> Stream:
    """The true residual stream of a few tokens, for a model with finite weights.

    The tokenizer loses what TransformerLens made up, and `attention_dir` is set to what was found.
    """
    model.eval()
    check_weights(model.original_model)
    if isinstance(model.tokenizer, PreTrainedTokenizerBase):
        model.tokenizer.init_kwargs.setdefault("revision", revision)
        config = model.original_model.config.get_text_config()
        forget_invented_tokens(
            model.tokenizer, n_rows=model.cfg.d_vocab, bos_id=getattr(config, "bos_token_id", None)
        )
    true = true_stream(model)
    causal = true.is_causal(model.cfg.dtype)
    model.cfg.attention_dir = "causal" if causal else "bidirectional"
    return true


@contextmanager
def _no_installs() -> Iterator[None]:
    """TransformerLens installs torchvision, and with it another torch, to load the processor of
    pictures; the text part of a model needs none.
    """
    real = subprocess.check_call

    def refuse(*given: Any, **options: Any) -> int:
        raise OSError("nothing is installed while a model is loaded")

    subprocess.check_call = refuse
    try:
        yield
    finally:
        subprocess.check_call = real


@contextmanager
def _none_missing() -> Iterator[None]:
    """Weights that a model's files lack are drawn at random by transformers, which only warns. They
    are refused, except those of a masked language model's head, on which nothing rests here.
    """
    real = PreTrainedModel.__dict__["from_pretrained"]

    def complete(cls: type, *given: Any, **options: Any) -> Any:
        model, found = real.__func__(cls, *given, **options, output_loading_info=True)
        read = f"{model.base_model_prefix}." if "MaskedLM" in cls.__name__ else ""
        if missing := sorted(name for name in found["missing_keys"] if name.startswith(read)):
            raise UserError(
                f"the model's files lack {len(missing)} of its weights, which would be random: "
                f"{', '.join(missing[:3])}{', ...' * (len(missing) > 3)}; download or save the "
                f"model again, whole and as a {cls.__name__}"
            )
        return model

    PreTrainedModel.from_pretrained = classmethod(complete)  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        PreTrainedModel.from_pretrained = real  # type: ignore[method-assign]


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
