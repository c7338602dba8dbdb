"""What a model brings along is not believed: its weights, its tokenizer, its activations."""

import json

import pytest
import torch
import transformers
from refusals import refused
from sae_lens import TopKSAE, TopKSAEConfig
from safetensors.torch import load_file, save_file
from tiny_models import N_WORDS, WIDTH, put_tiny, put_tokenizer
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.model_bridge import TransformerBridge

from saerepgeo_lib.activations.bridges import Stream, unhooked
from saerepgeo_lib.activations.model_with_saes import ModelWithSAEs
from saerepgeo_lib.activations.models import load_model
from saerepgeo_lib.activations.prompts import Concept, Prompt
from saerepgeo_lib.activations.residual_stream import is_causal, run_to_hook
from saerepgeo_lib.activations.token_activations import read_concept
from saerepgeo_lib.companion.cli import main
from saerepgeo_lib.errors import UserError

HOOK = "blocks.0.hook_out"
SNOW = Concept("snow", (Prompt("In 2023 the snow melts."), Prompt("The year 1999, and 20234.")))
KNOWN = Concept("known", (Prompt("snow melts word1 word2"), Prompt("January word3")))
pytestmark = pytest.mark.usefixtures("unchecked")


def changed(folder, ending, change):
    """The folder with one of its weights changed."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    (name,) = (name for name in weights if name.endswith(ending))
    weights[name] = change(weights[name])
    save_file(weights, path, {"format": "pt"})
    return folder


def first(value):
    """A change of a weight's first value."""

    def change(weight):
        weight.view(-1)[0] = value
        return weight

    return change  # fmt: skip


@pytest.mark.parametrize(("ending", "value", "dtype", "words"), [
    ("0.self_attn.q_proj.weight", float("nan"), "float32",
     "1 of 1,024 values of .*layers.0.self_attn.q_proj.weight are NaN or infinite in float32;"),
    ("model.norm.weight", float("-inf"), "bfloat16",
     "1 of 32 values of .* model.norm.weight .* in bfloat16; load .* 'float32'"),
    ("embed_tokens.weight", 1e5, "float16",
     "1 of 2,048 .*embed_tokens.weight .* in float16, .* 'bfloat16'"),
])  # fmt: skip
def test_weights_that_are_not_finite_are_refused(ending, value, dtype, words, tmp_path):
    folder = changed(put_tiny(tmp_path, "LlamaForCausalLM"), ending, first(value))
    refused(words, load_model, str(folder), dtype=dtype)


def test_a_file_that_is_cut_short_is_refused(tmp_path):
    weights = put_tiny(tmp_path, "LlamaForCausalLM") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:9_000])
    refused("cannot load the model .*: Error while deserializing", load_model, str(tmp_path))


@pytest.mark.parametrize(("kind", "lost", "words"), [
    ("LlamaForCausalLM", "0.mlp.up_proj.weight", "lack 1 .* model.layers.0.mlp.up_proj.weight; do"),
    ("LlamaForCausalLM", "1.", "lack 9 .* random: model.layers.1.*, ...; .* as a LlamaForCausalLM"),
    ("LlamaForCausalLM", "lm_head", "lack 1 .* random: lm_head.weight"),
    ("BertForMaskedLM", "LayerNorm", "random: bert.embeddings.LayerNorm.bias"),
    ("BertForMaskedLM", "cls.", None), ("GPT2LMHeadModel", "lm_head", None),  # head, tied weights
])  # fmt: skip
def test_weights_that_the_files_lack_are_refused_unless_nothing_rests_on_them(
    kind, lost, words, tmp_path
):
    path = put_tiny(tmp_path, kind) / "model.safetensors"
    kept = {name: weight for name, weight in load_file(path).items() if lost not in name}
    save_file(kept, path, {"format": "pt"})
    if words:
        refused(words, load_model, str(tmp_path))
    else:
        load_model(str(tmp_path))


def test_a_switch_of_the_configuration_that_the_bridge_does_not_know_is_refused(tmp_path):
    put_tiny(tmp_path, "GPT2LMHeadModel", scale_attn_weights=False)
    refused("GPT2LMHeadModel is not the model's", load_model, str(tmp_path))


def test_an_overflow_in_float16_says_how_many_rows_and_what_to_do(tmp_path, capsys, small_sae):
    """Each weight is one that float16 holds, what a block makes of them is not."""
    folder = put_tiny(tmp_path / "m", "LlamaForCausalLM")
    changed(folder, "0.mlp.up_proj.weight", lambda w: w * 1e3)
    model = load_model(str(folder), dtype="float16")
    down, _ = (w for name, w in model.original_model.named_parameters() if "down_proj" in name)
    down.data *= 5e4  # behind the check of the model, as the words of a concept may lie
    words = r"\d of 6 rows of the residual stream at blocks.0.hook_out are NaN or infinite in " \
            "float16, .* 'float32' or 'bfloat16'"  # fmt: skip
    refused(words, read_concept, model, KNOWN, HOOK)
    changed(folder, "0.mlp.down_proj.weight", lambda w: w * 5e4)
    words = "after block 0 is NaN or infinite for each of 12 tokens in float16, .* 'float32'"
    refused(words, load_model, str(folder), dtype="float16")
    assert len(read_concept(load_model(str(folder)), KNOWN, HOOK)) == 6
    small = type(small_sae)(type(small_sae.cfg)(k=4, d_in=WIDTH, d_sae=64))
    torch.nn.init.normal_(small.W_enc)
    small.cfg.metadata.hook_name, small.cfg.metadata.model_name = HOOK, str(folder)
    small.save_model(tmp_path / "sae")
    prompts = tmp_path / "known.json"
    prompts.write_text(json.dumps({"known": [prompt.text for prompt in KNOWN.prompts]}))
    given = (("preset", str(tmp_path / "sae")), ("dtype", "float16"), ("concept", "known"),
             ("prompts_file", str(prompts)))  # fmt: skip
    flags = [text for pair in given for text in ("-p", *pair)]
    assert main(["run", "stratified_manifold", *flags, "-o", str(tmp_path / "out")]) != 0
    told = capsys.readouterr().err
    assert "the residual stream after block 0" in told, told
    assert "'bfloat16'" in told


def byte_level(*special, digits=False):
    """A byte-level tokenizer that learned the concept's words whole; with `digits` it then splits
    numbers into groups of three.
    """
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    base = Tokenizer(models.BPE())
    base.pre_tokenizer, base.decoder = level, decoders.ByteLevel()
    base.train_from_iterator([p.text for p in SNOW.prompts] * 3, trainers.BpeTrainer(
        vocab_size=400, special_tokens=list(special), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))  # fmt: skip
    if digits:
        base.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), "isolated"), level]
        )
    return base


def with_tokenizer(folder, tokenizer, rows=None, **config):
    """A Llama whose embedding has `rows` rows (default: one a token), and this tokenizer."""
    n = rows or tokenizer.get_vocab_size()
    none = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    ids = {key: config.pop(key) for key in none if key in config}
    put_tiny(folder, "LlamaForCausalLM", vocab_size=n, **none | ids)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return str(folder)


def test_a_tokenizer_that_reads_otherwise_than_its_file_is_refused_with_the_word(tmp_path):
    fast, digits = {"tokenizer_class": "PreTrainedTokenizerFast"}, byte_level(digits=True)
    name = with_tokenizer(tmp_path, digits, tokenizer_class="GPT2Tokenizer")
    model = load_model(name)
    words = r"In 2023.*first at '2023': Ġ2023\|.* instead of Ġ\|202\|3.*PreTrainedTokenizerFast"
    refused(words, read_concept, model, SNOW, HOOK, prepend_bos=False)
    plain = Concept("plain", (Prompt("In the year the snow melts."),))
    assert len(read_concept(model, plain, HOOK, prepend_bos=False))  # no number, no difference
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(fast))  # as the message says
    assert len(read_concept(load_model(name), SNOW, HOOK, prepend_bos=False))
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.json").write_text(json.dumps(digits.get_vocab()))
    (tmp_path / "merges.txt").write_text("\n".join(
        " ".join(pair) for pair in json.loads(digits.to_str())["model"]["merges"]))  # fmt: skip
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    assert len(read_concept(load_model(name), SNOW, HOOK, prepend_bos=False))  # nothing to compare


@pytest.mark.parametrize(("special", "given", "bos"), [
    ((), {}, None),  # nothing is made up, also where the embedding has rows to spare
    ((), {"rows": 512}, None),
    ((), {"rows": 512, "tokenizer_class": "GPT2Tokenizer"}, None),  # the class's own defaults
    (("</s>",), {"eos_token": "</s>"}, None),
    (("</s>",), {"eos_token": "</s>", "bos_token_id": 0}, "</s>"),
    (("</s>",), {"eos_token": "</s>", "bos_token_id": 1}, None),  # an ordinary token
    (("<s>",), {"bos_token": "<s>"}, "<s>"),
    (("</s>",), {"eos_token": "</s>", "bos_token": "</s>"}, "</s>"),
])  # fmt: skip
def test_no_special_token_is_made_up(special, given, bos, tmp_path, caplog):
    given = {"tokenizer_class": "PreTrainedTokenizerFast"} | given
    model = load_model(with_tokenizer(tmp_path, byte_level(*special), **given))
    assert model.tokenizer.bos_token == bos and model.tokenizer.pad_token is None
    announced = bos is not None and "bos_token" not in given
    assert ("is taken for it" in caplog.text) == announced
    if bos is None:
        words = "the tokenizer has none: name it as bos_token"
        return refused(words, read_concept, model, SNOW, HOOK)
    tokens = read_concept(model, SNOW, HOOK).tokens
    assert tokens.ids[:, 0].eq(model.tokenizer.convert_tokens_to_ids(bos)).all()


@pytest.mark.parametrize("rows", [3, 20])
def test_ids_beyond_the_embedding_are_refused_before_the_model_runs(rows, tmp_path):
    put_tiny(tmp_path, "LlamaForCausalLM", vocab_size=rows)
    words = rf"the token id \d+, but the model's embedding has {rows} rows, 0 to {rows - 1}"
    with pytest.raises(UserError, match=words):
        read_concept(load_model(str(tmp_path)), Concept("c", (Prompt("snow word20"),)), HOOK)


def test_a_padding_token_without_a_row_does_no_harm(tmp_path):
    """It was added to the tokenizer, and the embedding was never made larger."""
    name = str(put_tiny(tmp_path, "LlamaForCausalLM"))
    concept = Concept("c", (Prompt("snow melts"), Prompt("snow melts in January , word1 word2")))
    before = read_concept(load_model(name), concept, HOOK)
    tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    tokenizer.add_tokens([f"more{i}" for i in range(N_WORDS)])
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(name)
    assert torch.equal(read_concept(load_model(name), concept, HOOK).x, before.x)


@pytest.mark.parametrize(("name", "others", "causal"), [
    ("BertLMHeadModel", {}, False),
    ("Gemma3ForCausalLM", {"use_bidirectional_attention": True}, False),
    ("Gemma3ForCausalLM", {}, True),
])  # fmt: skip
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_whether_later_tokens_are_seen_is_found_by_trying(name, others, causal, dtype, tmp_path):
    model = load_model(str(put_tiny(tmp_path, name, **others)), dtype=dtype)
    assert is_causal(model) is causal


def test_rounding_is_not_taken_for_sight_of_later_tokens():
    """In bfloat16 a pass over fewer tokens rounds otherwise: SmolLM2 differs by 0.0088."""
    x = torch.ones(12, 4)

    def told(dtype, *, cut, changed):
        return Stream(torch.arange(12), {0: x}, {0: x[:7] * (1 + cut)}, {0: x * (1 + changed)}
                      ).is_causal(dtype)  # fmt: skip

    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert told(dtype, cut=0.0088, changed=0) and not told(dtype, cut=0, changed=0.2)
    words = "cannot be told .* change a vector by 0.005 .* rounding in bfloat16; load .* 'float32'"
    refused(words, told, torch.bfloat16, cut=0, changed=0.005)
    assert not told(torch.float32, cut=0, changed=0.005)


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("kind", ["WordLevel", "Unigram"])
def test_an_unknown_word_is_known_as_such_where_only_the_vocabulary_says_so(
    kind, declared, tmp_path
):
    words = ["[UNK]", "<s>", "The", "snow", "melts", "January"]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(
        models.WordLevel(vocabulary, unk_token="[UNK]") if kind == "WordLevel"
        else models.Unigram([(word, -float(i)) for word, i in vocabulary.items()], unk_id=0)
    )  # fmt: skip
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>"}
    config |= {"unk_token": "[UNK]"} if declared else {}
    model = load_model(with_tokenizer(tmp_path, tokenizer, **config))
    acts = read_concept(model, Concept("c", (Prompt("The harbour melts", "melts"),)), HOOK)
    assert len(acts) == 1 and acts.tokens.left_out["unknown to the tokenizer"] == {"harbour": 1}
    strange = Concept("c", (Prompt("The snow melts in Oulu", "Oulu"),))
    refused("does not know the entity 'Oulu'", read_concept, model, strange, HOOK)


@pytest.fixture
def sae():
    """An SAE of the small models' width, with random weights."""
    made = TopKSAE(TopKSAEConfig(k=4, d_in=WIDTH, d_sae=2 * WIDTH))
    torch.nn.init.normal_(made.W_enc)
    made.cfg.metadata.hook_name = "blocks.1.hook_resid_mid"
    return made


@pytest.mark.parametrize(("name", "adds", "others"), [
    ("LlamaForCausalLM", "model.layers.1.self_attn", {}),
    ("GPT2LMHeadModel", "transformer.h.1.attn", {}),
    ("GPTNeoXForCausalLM", "gpt_neox.layers.1.attention", {"use_parallel_residual": False}),
    ("Gemma2ForCausalLM", "model.layers.1.post_attention_layernorm", {}),
    ("Olmo2ForCausalLM", "model.layers.1.post_attention_layernorm", {}),
])  # fmt: skip
def test_the_middle_of_a_block_is_its_input_and_what_its_attention_adds(
    name, adds, others, sae, tmp_path
):
    model = ModelWithSAEs(load_model(str(put_tiny(tmp_path, name, **others))), {"mine": sae})
    ids, added = torch.arange(2, 12)[None], []
    before, middle = (
        run_to_hook(model.model, ids, ids > 0, hook) for hook in ("blocks.1.hook_in", model.hook)
    )
    with unhooked(model.model) as inner, torch.no_grad():
        inner.get_submodule(adds).register_forward_hook(lambda part, given, x: added.append(x))
        inner(input_ids=ids)
    (x,) = added
    x = x[0] if isinstance(x, tuple) else x
    torch.testing.assert_close(middle, before + x, atol=1e-4, rtol=1e-4)


def test_what_comes_behind_the_mlp_is_not_taken_for_the_middle_of_a_block(sae, tmp_path):
    model = load_model(str(put_tiny(tmp_path, "BertForMaskedLM")))
    words = "what TransformerLens calls blocks.1.hook_resid_mid is not .* such as blocks.1.hook_out"
    refused(words, ModelWithSAEs, model, {"mine": sae})
    assert ModelWithSAEs(model, {"mine": sae}, hook="blocks.1.hook_out")


def test_a_model_of_another_class_has_its_weights_and_tokenizer_checked(sae, tmp_path):
    """TransformerLens takes an existing token for the BOS that the tokenizer does not have."""
    put_tokenizer(tmp_path, pad_token="<pad>")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    config = HookedTransformerConfig(
        n_layers=2, d_model=WIDTH, n_ctx=64, d_head=8, d_vocab=N_WORDS, act_fn="gelu", seed=0
    )  # fmt: skip
    own = HookedTransformer(config, tokenizer=tokenizer)
    assert own.tokenizer.bos_token is not None
    model = ModelWithSAEs(own, {"mine": sae})
    refused("the tokenizer has none: name it as bos_token", model.activations, KNOWN)
    sae.cfg.metadata.prepend_bos = False
    acts = ModelWithSAEs(own, {"mine": sae}).activations(KNOWN)
    assert len(acts) == 6 and acts.position.tolist() == [0, 1, 2, 3, 0, 1]
    own.W_E.data[5, 3] = torch.nan
    words = "1 of 2,048 values of the model's weight embed.W_E are NaN or infinite in float32;"
    refused(words, ModelWithSAEs, own, {"mine": sae})


def test_a_bridge_of_the_users_is_held_against_transformers_too(tmp_path):
    def own(name, **special):
        folder = put_tiny(tmp_path / name, name)
        if special:
            put_tokenizer(folder, **special)
        return TransformerBridge.boot_transformers(str(folder), device="cpu")

    for load in (None, load_model):
        model = own("CohereForCausalLM")
        refused("is not the model's", ModelWithSAEs, model, {"mine": None}, load=load)
    model = own("LlamaForCausalLM", eos_token="</s>")
    assert model.tokenizer.bos_token == "</s>"
    with pytest.raises(AttributeError):  # what is no SAE comes after the model
        ModelWithSAEs(model, {"mine": None})
    assert model.tokenizer.bos_token is None
