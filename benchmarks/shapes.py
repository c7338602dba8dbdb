"""Models and SAEs of the true shapes with random weights, loaded as the library loads real ones.

Costs depend on shapes and hardly on weights, so nothing is downloaded. A checkpoint is made once
and kept in the cache folder; `models.load_model` and `ModelWithSAEs` then take it as any other.
"""

import dataclasses
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from sae_lens import TopKSAE, TopKSAEConfig
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from saerepgeo_lib.activations import prompts
from saerepgeo_lib.activations.model_with_saes import ModelWithSAEs
from saerepgeo_lib.activations.models import load_model
from saerepgeo_lib.files import cache_dir, sha256_json

LABEL = "TopK SAE"
_WORDS = 4_000  # entries that a tokenizer learns at most; the embeddings keep their true height


@dataclass(frozen=True)
class Shape:
    """Sizes of a model and of the SAE at its hook.

    `blocks_needed` blocks lie before the hook in the true model, `blocks_built` in the one that is
    built here (the hook is the output of the last of these), and `blocks_above` after it. A width
    is a number of components: `d_heads` is that of all queries of a block, `d_keys` that of its
    keys. `gated` says that a block has three MLP matrices instead of two.
    """

    name: str
    family: Literal["bert", "gpt2", "gemma2"]
    d_model: int
    d_mlp: int
    d_heads: int
    d_keys: int
    n_heads: int
    vocabulary: int
    blocks_needed: int
    blocks_built: int
    blocks_above: int
    n_features: int
    k: int
    gated: bool = False

    @property
    def hook(self) -> str:
        """Where the SAE reads, in the model that is built."""
        return f"blocks.{self.blocks_built - 1}.hook_out"

    @property
    def weights_a_block(self) -> int:
        """Entries of a block's matrices: products that one token takes in it."""
        attention = 2 * self.d_model * (self.d_heads + self.d_keys)
        return attention + (3 if self.gated else 2) * self.d_model * self.d_mlp

    @property
    def sae_bytes(self) -> int:
        """Memory of the SAE's encoder and decoder in float32."""
        return 2 * 4 * self.d_model * self.n_features

    @property
    def model_bytes(self) -> int:
        """Memory of the model's matrices in float32."""
        blocks = (self.blocks_built + self.blocks_above) * self.weights_a_block
        return 4 * (blocks + 2 * self.vocabulary * self.d_model)


MINILM = Shape(
    "minilm", "bert", d_model=384, d_mlp=1_536, d_heads=384, d_keys=384, n_heads=12,
    vocabulary=30_522, blocks_needed=5, blocks_built=5, blocks_above=1, n_features=3_072, k=32,
)  # fmt: skip
GPT2 = Shape(
    "gpt2-small", "gpt2", d_model=768, d_mlp=3_072, d_heads=768, d_keys=768, n_heads=12,
    vocabulary=50_257, blocks_needed=12, blocks_built=12, blocks_above=0, n_features=32_768, k=32,
)  # fmt: skip
# 2 of 20 blocks and few words: embeddings are looked up, and the unembedding never runs
GEMMA = Shape(
    "gemma-2-2b", "gemma2", d_model=2_304, d_mlp=9_216, d_heads=2_048, d_keys=1_024, n_heads=8,
    vocabulary=8_192, blocks_needed=20, blocks_built=2, blocks_above=0, n_features=65_536, k=32,
    gated=True,
)  # fmt: skip
SHAPES = {shape.name: shape for shape in (MINILM, GPT2, GEMMA)}


def build(shape: Shape, *, device: str = "cpu", cache: Path | None = None) -> ModelWithSAEs:
    """The model of this shape with a random TopK SAE at its hook."""
    folder = checkpoint(shape, cache_dir() / "benchmarks" if cache is None else cache)
    model = load_model(str(folder), device=device)
    return ModelWithSAEs(model, {LABEL: random_topk(shape, device=device)})


def random_topk(shape: Shape, *, device: str = "cpu", seed: int = 0) -> TopKSAE:
    """A TopK SAE of random unit-norm directions; the encoder is the decoder's transpose."""
    sae = TopKSAE(
        TopKSAEConfig(k=shape.k, d_in=shape.d_model, d_sae=shape.n_features, device=device)
    )
    sae.cfg.metadata.hook_name = shape.hook
    generator = torch.Generator(sae.W_dec.device).manual_seed(seed)
    with torch.no_grad():
        sae.W_dec.normal_(generator=generator)
        sae.W_dec /= sae.W_dec.norm(dim=1, keepdim=True)
        sae.W_enc.copy_(sae.W_dec.T)
        sae.b_dec.normal_(0, 0.01, generator=generator)
    return sae.requires_grad_(False).eval()


def checkpoint(shape: Shape, cache: Path) -> Path:
    """The folder of a random checkpoint in safetensors with its tokenizer, made if missing."""
    folder = cache / f"{shape.name}-{sha256_json(dataclasses.asdict(shape))[:12]}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=cache))
    tokenizer = _tokenizer(shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _model(shape, tokenizer).save_pretrained(made)
    tokenizer.save_pretrained(made)
    try:
        made.rename(folder)
    except OSError:  # another process was faster
        shutil.rmtree(made)
    return folder


def _model(shape: Shape, tokenizer: Any) -> Any:
    ends = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")
    }
    if shape.family == "gpt2":
        return transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                vocab_size=shape.vocabulary, n_embd=shape.d_model, n_inner=shape.d_mlp,
                n_layer=shape.blocks_built + shape.blocks_above, n_head=shape.n_heads, **ends,
            )
        )  # fmt: skip
    sizes = {
        "vocab_size": shape.vocabulary, "hidden_size": shape.d_model,
        "intermediate_size": shape.d_mlp, "num_attention_heads": shape.n_heads,
        "num_hidden_layers": shape.blocks_built + shape.blocks_above,
    }  # fmt: skip
    if shape.family == "bert":
        return transformers.BertModel(transformers.BertConfig(**sizes))
    head = shape.d_heads // shape.n_heads
    config = transformers.Gemma2Config(
        **sizes, head_dim=head, num_key_value_heads=shape.d_keys // head, **ends
    )
    return transformers.Gemma2ForCausalLM(config)


def _tokenizer(shape: Shape) -> Any:
    """A tokenizer of the family's kind that has learned the words of the nine concepts' prompts."""
    texts = [p.text for concept in prompts.load_concepts().values() for p in concept.prompts]
    size = min(_WORDS, shape.vocabulary)
    return _wordpiece(texts, size) if shape.family == "bert" else _byte_level(texts, size)


def _byte_level(texts: Iterable[str], size: int) -> Any:
    """A byte-level BPE that adds no specials of its own, as GPT-2's."""
    base = Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    base.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    base.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=size, special_tokens=[end], show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )  # fmt: skip
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=base, bos_token=end, eos_token=end, unk_token=end
    )


def _wordpiece(texts: Iterable[str], size: int) -> Any:
    """A WordPiece tokenizer that puts [CLS] and [SEP] around a text, as BERT's."""
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]",
               "sep_token": "[SEP]", "mask_token": "[MASK]"}  # fmt: skip
    base = Tokenizer(models.WordPiece(unk_token=special["unk_token"]))
    base.normalizer = normalizers.BertNormalizer()
    base.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = list(special.values())
    base.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=size, special_tokens=names, show_progress=False)
    )
    base.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(n, names.index(n)) for n in ("[CLS]", "[SEP]")]
    )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=base, **special)
