"""Models of any architecture of transformers, small and with random weights, as folders."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

WIDTH, N_WORDS, HEADS, FEW = 32, 64, 4, 8
_SMALL = {  # by the names that configurations give to sizes
    2: "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers "
       "num_decoder_layers num_key_value_heads num_kv_heads num_experts_per_tok moe_k "
       "linear_num_key_heads index_n_heads o_groups",
    1: "n_group topk_group num_sparse_encoder_layers num_sparse_decoder_layers num_dense_layers "
       "first_k_dense_replace moe_num_shared_experts num_shared_experts n_shared_experts "
       "moe_layer_end_index num_mem_blocks num_logits_to_keep bos_token_id decoder_start_token_id",
    0: "pad_token_id num_kv_shared_layers",
    HEADS: "num_attention_heads n_head n_heads num_heads encoder_attention_heads attention_heads "
       "decoder_attention_heads num_experts num_local_experts n_routed_experts moe_num_experts "
       "rotary_dim time_step_rank adapter_rank linear_num_value_heads mamba_dt_rank laurel_rank",
    FEW: "head_dim kv_channels d_kv qk_rope_head_dim v_head_dim qk_nope_head_dim o_lora_rank "
       "index_head_dim mamba_n_heads mamba_d_head mamba_d_state mamba_chunk_size state_size "
       "ssm_state_size mamba_num_heads mamba_head_dim mamba_headdim n_mamba_heads patch_size "
       "linear_key_head_dim linear_value_head_dim query_pre_attn_scalar "
       "hidden_size_per_layer_input",
    16: "attention_head_dim kv_lora_rank q_lora_rank qk_head_dim index_topk window_size "
       "attention_window attention_window_size sliding_window image_size",
    WIDTH: "hidden_size d_model n_embd word_embed_proj_dim attention_hidden_size lru_width "
       "moe_intermediate_size shared_expert_intermediate_size moe_shared_expert_intermediate_size",
    N_WORDS: "vocab_size decoder_vocab_size vocab_size_per_layer_input intermediate_size ffn_dim "
       "encoder_ffn_dim decoder_ffn_dim d_ff ffn_hidden_size n_inner max_position_embeddings "
       "n_positions n_ctx max_seq_len context_length max_source_positions mamba_d_ssm "
       "original_max_position_embeddings max_encoder_position_embeddings "
       "max_decoder_position_embeddings",
}  # fmt: skip
_SIZES = {name: size for size, names in _SMALL.items() for name in names.split()}
_LATENT_ATTENTION = {"num_key_value_heads": HEADS}
_OTHERS: dict[str, dict[str, Any]] = {
    "Mamba2ForCausalLM": {"num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8},
    "BambaForCausalLM": {"attn_layer_indices": [1]},
    "GPTNeoForCausalLM": {"attention_types": [[["global", "local"], 1]]},
    "JambaForCausalLM": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "NemotronHForCausalLM": {"layers_block_type": ["linear_attention", "full_attention"]},
    "RecurrentGemmaForCausalLM": {"block_types": ["recurrent", "attention"]},
    "GraniteMoeHybridForCausalLM": {"layer_types": ["mamba", "attention"],
                                    "shared_intermediate_size": 32,
                                    "position_embedding_type": "rope"},
    "Lfm2MoeForCausalLM": {"layer_types": ["conv", "full_attention"]},
    "Gemma4ForCausalLM": {"per_layer_config": {}},
    **dict.fromkeys(("DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM", "Glm4MoeLiteForCausalLM",
                     "GlmMoeDsaForCausalLM", "YoutuForCausalLM"), _LATENT_ATTENTION),
}  # fmt: skip
_BY_LAYER = ("layer_types", "mlp_layer_types", "no_rope_layers", "full_attn_idxs",
             "num_attention_heads_per_layer")  # fmt: skip


def _small(kind: type, **others: Any) -> Any:
    """The configuration with small sizes, also of what it holds inside."""
    base = kind()
    values, aliases = base.to_dict(), getattr(kind, "attribute_map", {})
    given = {n: size for n, size in _SIZES.items() if n in values or n in aliases}
    given = {n: size for n, size in given.items() if aliases.get(n) not in given}
    for name, value in values.items():
        inner = base.__dict__.get(name)
        if isinstance(inner, transformers.PretrainedConfig):
            given[name] = _small(type(inner)).to_dict()
        elif name in _BY_LAYER and value:
            kinds = list(dict.fromkeys(value))
            given[name] = [HEADS] * 2 if "num_" in name else (kinds * 2)[:2]
    return kind(**given | others)


def put_tokenizer(folder: Path, **special: str) -> None:
    """A tokenizer of whole words, 44 of them, with these special tokens."""
    words = ["<pad>", "<s>", "</s>", "<unk>", "The", "snow", "melts", "in", "January", ".", ","]
    words += [f"word{i}" for i in range(33)]
    base = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    base.pre_tokenizer = pre_tokenizers.Whitespace()
    special = special or {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=base, unk_token="<unk>", **special
    ).save_pretrained(folder)


def put_tiny(folder: Path, name: str, *, noise: float = 0.1, **others: Any) -> Path:
    """A folder with a random model of two blocks of the architecture `name`, and a tokenizer.

    `others` are further values of the configuration; `noise` keeps weights from being all alike.
    """
    architecture = getattr(transformers, name)
    config = _small(architecture.config_class, **_OTHERS.get(name, {}) | others)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = architecture(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(noise * torch.randn_like(parameter))
    model.save_pretrained(folder)
    put_tokenizer(folder)
    return folder
