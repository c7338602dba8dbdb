"""A hub cache as `huggingface_hub` lays it out, with small random checkpoints in true formats."""

import json
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from saerepgeo_lib.activations import prompts

COMMIT = "0" * 40
WIDTH = 32
_SIZES = {
    "openai-community/gpt2": (transformers.GPT2Config, 12),
    "EleutherAI/pythia-70m-deduped": (transformers.GPTNeoXConfig, 6),
    "google/gemma-2-2b": (transformers.Gemma2Config, 20),
}


def use_cache(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, for this process and those that it starts; there is no network."""
    patch.setenv("HF_HOME", str(folder))
    patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder / "hub"))
    return folder / "hub"


def snapshot(cache: Path, repo: str) -> Path:
    """The folder of a repository's one snapshot, made if it is not there."""
    root = cache / f"models--{repo.replace('/', '--')}"
    folder = root / "snapshots" / COMMIT
    folder.mkdir(parents=True, exist_ok=True)
    (root / "refs").mkdir(exist_ok=True)
    (root / "refs" / "main").write_text(COMMIT)
    return folder


def put_model(cache: Path, repo: str) -> Path:
    """A random checkpoint of that repository's architecture, of 32 dimensions, with a tokenizer."""
    config, layers = _SIZES[repo]
    tokenizer = _gemmas_tokenizer() if config is transformers.Gemma2Config else _gpts_tokenizer()
    shared = {
        "vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    sizes = {
        "hidden_size": WIDTH, "num_hidden_layers": layers, "num_attention_heads": 4,
        "intermediate_size": 64, "max_position_embeddings": 64,
    }  # fmt: skip
    if config is transformers.GPT2Config:
        sizes = {"n_embd": WIDTH, "n_layer": layers, "n_head": 4, "n_positions": 64, "n_ctx": 64}
    if config is transformers.Gemma2Config:
        sizes |= {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 64}
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config(**shared, **sizes))
    with torch.no_grad():  # the initial weights leave residuals that hardly differ
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    folder = snapshot(cache, repo)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _trained(base: Tokenizer, special: list[str], **options: Any) -> Tokenizer:
    """With a vocabulary of 600, learned from the months' and the days' prompts."""
    texts = [p.text for name in ("months", "days") for p in prompts.load_concept(name).prompts]
    base.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, show_progress=False, **options
    ))  # fmt: skip
    return base


def _gpts_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A byte-level BPE that adds no BOS and pads with nothing, as GPT-2's."""
    base, end = Tokenizer(models.BPE()), "<|endoftext|>"
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    base.decoder = decoders.ByteLevel()
    _trained(base, [end], initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=base, bos_token=end, eos_token=end, unk_token=end
    )


def _gemmas_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A BPE that writes spaces as "▁", adds BOS itself, and has a BOS, EOS and pad of its own."""
    base, special = Tokenizer(models.BPE(unk_token="<unk>")), ["<pad>", "<eos>", "<bos>", "<unk>"]
    base.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    base.decoder = decoders.Metaspace(prepend_scheme="never")
    _trained(base, special).post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", special.index("<bos>"))]
    )
    names = ("pad_token", "eos_token", "bos_token", "unk_token")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=base, **dict(zip(names, special, strict=True))
    )


# model, repository and folder of the SAE, its hook, and what SAELens' configuration says of it
_SAELENS = {
    "gpt2-small": (
        "openai-community/gpt2", "jbloom/GPT2-Small-OAI-v5-32k-resid-post-SAEs",
        "v5_32k_layer_11.pt", "blocks.11.hook_resid_post",
        {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 8},
         "normalize_activations": "layer_norm", "model_name": "gpt2-small"},
    ),
    "pythia-70m": (
        "EleutherAI/pythia-70m-deduped", "ctigges/pythia-70m-deduped__res-sm_processed",
        "5-res-sm", "blocks.5.hook_resid_post", {"activation_fn_str": "relu"},
    ),
}  # fmt: skip


def put_preset(cache: Path, name: str, **metadata: Any) -> None:
    """The model and the SAE of one of the paper's presets, the SAE in its release's true format.

    `metadata` is added to the configuration of SAEs in SAELens' format.
    """
    if name == "gemma-2-2b":
        assert not metadata, "dictionary_learning's format has no such metadata"
        _put_gemma(cache)
        return
    model, repo, place, hook, config = _SAELENS[name]
    put_model(cache, model)
    folder = snapshot(cache, repo) / place
    folder.mkdir(parents=True)
    config = {  # before version 6: no architecture, old names of keys
        "d_in": WIDTH, "d_sae": 4 * WIDTH, "hook_point": hook, "dtype": "torch.float32",
        "device": "cuda", "context_size": 64, "dataset_path": "Skylion007/openwebtext",
        "model_name": model.rpartition("/")[2], **config, **metadata,
    }  # fmt: skip
    (folder / "cfg.json").write_text(json.dumps(config))
    enc, dec, bias = _weights()
    weights = {"W_enc": enc, "W_dec": dec, "b_enc": bias, "b_dec": 0.1 * torch.ones(WIDTH)}
    save_file(weights, folder / "sae_weights.safetensors")


def _weights() -> tuple[torch.Tensor, ...]:
    """Encoder, decoder (the encoder's transpose) and the encoder's bias."""
    generator = torch.Generator().manual_seed(1)
    directions = torch.randn(4 * WIDTH, WIDTH, generator=generator)
    directions /= directions.norm(dim=1, keepdim=True)
    return directions.T.contiguous(), directions, -0.5 * torch.ones(4 * WIDTH)


def _put_gemma(cache: Path) -> None:
    put_model(cache, "google/gemma-2-2b")
    repo = snapshot(cache, "canrager/saebench_gemma-2-2b_width-2pow16_date-1109")
    folder = repo / "gemma-2-2b_topk_width-2pow16_date-1109" / "resid_post_layer_19" / "trainer_0"
    enc, dec, bias = _weights()
    state = {
        "b_dec": torch.zeros(WIDTH), "k": torch.tensor(8), "threshold": torch.tensor(0.1),
        "decoder.weight": dec.T, "encoder.weight": enc.T, "encoder.bias": bias,
    }  # fmt: skip
    _put_dictionary(folder, "AutoEncoderTopK", "google/gemma-2-2b", 19, state, k=8)


def put_gated(cache: Path) -> str:
    """A gated SAE of SAEBench on Pythia-70M; how parameters name it."""
    put_model(cache, "EleutherAI/pythia-70m-deduped")
    folder = snapshot(cache, "canrager/lm_sae") / "pythia70m_sweep_gated_ctx128_0730"
    folder = folder / "resid_post_layer_3" / "trainer_0"
    enc, dec, bias = _weights()
    state = {
        "decoder_bias": torch.zeros(WIDTH), "encoder.weight": enc.T, "decoder.weight": dec.T,
        "r_mag": torch.zeros(4 * WIDTH), "gate_bias": bias, "mag_bias": 0.5 * bias,
    }  # fmt: skip
    _put_dictionary(folder, "GatedAutoEncoder", "EleutherAI/pythia-70m-deduped", 3, state)
    return "sae_bench_pythia70m_sweep_gated_ctx128_0730:blocks.3.hook_resid_post__trainer_0"


def _put_dictionary(
    folder: Path, kind: str, model: str, layer: int, state: dict[str, Any], **trainer: Any
) -> None:
    """The format of the library dictionary_learning, of which SAEBench's SAEs are."""
    folder.mkdir(parents=True)
    trainer |= {"dict_class": kind, "activation_dim": WIDTH, "dict_size": 4 * WIDTH,
                "layer": layer, "lm_name": model}  # fmt: skip
    (folder / "config.json").write_text(
        json.dumps({"trainer": trainer, "buffer": {"ctx_len": 64, "d_submodule": WIDTH}})
    )
    torch.save(state, folder / "ae.pt")


def put_gemma_scope(cache: Path) -> tuple[str, dict[str, np.ndarray]]:
    """A JumpReLU SAE of Gemma Scope (its loader fixes the sizes); its name and its arrays."""
    place = "embedding/width_4k/average_l0_6"
    folder = snapshot(cache, "google/gemma-scope-2b-pt-res") / place
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    arrays = {
        "w_enc": rng.standard_normal((2304, 4096), dtype=np.float32),
        "w_dec": rng.standard_normal((4096, 2304), dtype=np.float32),
        "b_enc": rng.standard_normal(4096, dtype=np.float32),
        "b_dec": rng.standard_normal(2304, dtype=np.float32),
        "threshold": np.full(4096, 0.5, dtype=np.float32),
    }
    np.savez(folder / "params.npz", **arrays)
    return f"gemma-scope-2b-pt-res:{place}", arrays
