"""What the files of an SAE leave out or contradict is refused, before anything heavy is loaded."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import HOOK
from refusals import refused
from safetensors.torch import load_file, save_file

from saerepgeo_lib.activations import sae_config, sae_files
from saerepgeo_lib.activations.model_with_saes import ModelWithSAEs, load
from saerepgeo_lib.activations.saes import check_sae, load_sae, search_saes

OLD = {"d_in": 8, "d_sae": 32, "hook_point": HOOK, "dtype": "float32", "model_name": "minilm"}
TOPK = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}}
V6 = {"d_in": 8, "d_sae": 32, "metadata": {"sae_lens_version": "6.1.0", "hook_name": HOOK},
      "apply_b_dec_to_input": True, "normalize_activations": "none"}  # fmt: skip
K = {"architecture": "topk", "k": 4, "rescale_acts_by_decoder_norm": False}


def at(hook, **more):
    return V6 | K | {"metadata": V6["metadata"] | {"hook_name": hook}} | more


def without(name):
    return {key: value for key, value in (V6 | K).items() if key != name}


@pytest.fixture
def folder(small_sae, tmp_path):
    """A folder with the weights of a TopK SAE, 8 -> 32."""
    small_sae.save_model(tmp_path)
    return tmp_path


def write(folder, cfg):
    (folder / sae_files.CONFIG_FILE).write_text(json.dumps(cfg))
    return folder


REFUSED = [
    (OLD | {"activation_fn_str": "topk"}, "topk, but no k is given, and SAELens would take ReLU"),
    (OLD | TOPK | {"activation_fn_kwargs": None}, "no k is given"),
    (OLD | TOPK | {"activation_fn_kwargs": {}, "k": 4}, "no k is given"),
    (OLD | TOPK | {"architecture": "gated"}, "'gated' contradicts the activation function 'topk'"),
    (OLD | TOPK | {"architecture": "topk", "k": 5}, "gives k twice, as 4 and 5"),
    (OLD | {"activation_fn_kwargs": {"k": 4, "signed": True}, "activation_fn": "topk"}, "abstopk"),
    (OLD | {"activation_fn_str": "tanh-relu"}, "'tanh-relu' is not known.*ReLU instead"),
    (OLD | {"activation_fn": "gelu"}, "'gelu' is not known"),
    (V6 | {"architecture": "standard", "activation_fn": "topk", "k": 4}, "contradicts"),
    (OLD | {"activation_fn_kwargs": {"k": 4}}, "k = 4, but its architecture 'standard' takes none"),
    (V6 | {"architecture": "jumprelu", "k": 4}, "k = 4, but its architecture 'jumprelu' takes"),
    (V6 | {"architecture": "topk"}, "'topk' needs k.*SAELens would take 100"),
    (V6 | {"architecture": "abstopk"}, "'abstopk' needs k"),
    (V6 | {"architecture": "batchtopk"}, "in training.*save_inference_model"),
    (V6 | {"architecture": "topkk", "k": 4}, "did you mean 'topk'"),
    (V6 | {"architecture": "temporal"}, "encodes a token by those before it"),
    (V6 | {"architecture": "jumprelu_transcoder"}, "choose an SAE of the residual stream"),
    (V6 | K | {"k": 0}, r"k \(.*from 1 to d_sae = 32, got 0"),
    (V6 | K | {"k": 33}, "from 1 to d_sae = 32, got 33"),
    (V6 | K | {"k": 4.0}, "whole number.*got 4.0"),
    (V6 | K | {"k": None}, "whole number.*got None"),
    (V6 | K | {"k": True}, "got True"),
    (V6 | K | {"d_sae": "32"}, "d_sae.*whole number of at least 1, got '32'"),
    (V6 | K | {"d_in": -8}, "d_in.*got -8"),
    ({"d_in": 8} | K, "d_sae.*got None"),
    (V6 | K | {"d_sae": 64}, r"W_dec is 32 x 8, but by cfg.json \(d_in 8, d_sae 64\) it is 64 x 8"),
    (V6 | K | {"d_in": 32, "d_sae": 8}, "belong to different SAEs"),
    (V6 | K | {"metadata": [1]}, r"metadata in cfg.json must be an object, got \[1\]"),
    (V6 | K | {"sae_lens_version": "latest"}, "'latest' is no version number"),
    ([V6], "cfg.json must be an object"),
    (OLD | TOPK | {"activation_fn_kwargs": "k=4"}, "activation_fn_kwargs in .* must be an object"),
    (OLD | {"activation_fn_str": ["topk"]}, "activation_fn_str in cfg.json must be a text"),
    (OLD | {"activation_fn_str": "TopK"}, "'TopK' is not known"),
    (V6 | K | {"architecture": 5}, "architecture in cfg.json must be a text, got 5"),
    (V6 | K | {"apply_b_dec_to_input": "false"}, "must be true or false, got 'false'"),
    (V6 | K | {"apply_b_dec_to_input": None}, "does not say whether b_dec is subtracted"),
    ({"d_in": 8, "d_sae": 32} | K, "does not say whether b_dec is subtracted"),
    (V6, 'of which architecture .* "architecture": "standard", .* or "matching_pursuit", as'),
    (without("normalize_activations"), "does not say how activations were normalised, and SAELens "
     """would take 'none'; write "normalize_activations": "none", "layer_norm" or "constant_no"""),
    (V6 | K | {"rescale_acts_by_decoder_norm": None, "metadata": {"sae_lens_version": "6.20.0"}},
     "weighted by the norms .* take false; write"),
    (V6 | K | {"metadata": {"prepend_bos": "no"}}, "prepend_bos.*true or false, got 'no'"),
    (V6 | K | {"metadata": {"hook_name": 4}}, "hook_name in cfg.json must be a text"),
    (V6 | K | {"normalize_activations": ["none"]}, "normalize_activations.*must be a text"),
    (V6 | {"architecture": "jumprelu"}, "needs a threshold, and there is none"),
    *((at(hook), "choose an SAE of the residual stream")
      for hook in ("blocks.1.mlp.hook_post", "blocks.1.hook_mlp_out", "blocks.1.hook_attn_out",
                   "blocks.1.attn.hook_z", "blocks.1.ln2.hook_normalized",
                   "blocks.1.ln2.hook_out", "blocks.1.ln1.hook_in", "ln_final.hook_out")),
    (OLD | TOPK | {"hook_point": "blocks.1.attn.hook_z"}, "choose an SAE of the residual stream"),
    (at(HOOK, reshape_activations="hook_z"), "choose an SAE of the residual stream"),
    (V6 | K | {"normalize_activations": "covariance_whitening"}, r"fold_activation_whitening\("),
    (V6 | K | {"normalize_activations": "expected_average_only_in"}, "norm_scaling_factor"),
    (OLD | TOPK | {"normalize_activations": True}, "norm_scaling_factor"),
    (V6 | K | {"normalize_activations": "unit"}, "'unit', which is not known; known: none, layer"),
]  # fmt: skip


@pytest.mark.parametrize(("cfg", "message"), REFUSED)
def test_a_configuration_that_hides_something_is_refused(cfg, message, folder):
    write(folder, cfg)
    refused(f"{folder}.*{message}", sae_files.check_folder, folder)
    refused(message, load_sae, folder)


@pytest.mark.parametrize(
    ("cfg", "hook", "bos"),
    [(OLD | TOPK, HOOK, None), (OLD | TOPK | {"architecture": "topk"}, HOOK, None),
     (OLD | K | {"activation_fn_str": "topk", "prepend_bos": False}, HOOK, False),
     (V6 | K | {"metadata": None}, None, None), (V6 | {"architecture": "topk", "k": 4}, HOOK, None),
     (V6 | K | {"metadata": {"hook_name": HOOK, "prepend_bos": True}}, HOOK, True),
     (V6 | K | {"normalize_activations": None, "activation_fn_kwargs": None}, HOOK, None),
     (V6 | {k: v for k, v in K.items() if k != "k"} | TOPK, HOOK, None),  # SAELens reads k = 100
     (V6 | K | {"metadata": {"prepend_bos": True}, "hook_name": HOOK}, HOOK, True)],
)  # fmt: skip
def test_every_way_to_say_the_same_sae_gives_its_latents(cfg, hook, bos, folder, small_sae):
    x = torch.randn(5, 8)
    sae = load_sae(write(folder, cfg))
    assert torch.equal(sae.encode(x), small_sae.encode(x)) and sae.cfg.k == 4
    assert (sae.cfg.metadata.hook_name, sae.cfg.metadata.prepend_bos) == (hook, bos)


def test_a_setting_that_is_false_stays_false():
    kept = sae_config.for_saelens(V6 | K | {"apply_b_dec_to_input": False})
    assert kept["apply_b_dec_to_input"] is False


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["W_dec", "W_enc", "b_enc", "b_dec"])
def test_weights_that_are_no_numbers_are_refused_from_a_file_and_as_an_object(
    name, value, folder, small_sae, minilm
):
    weights = load_file(folder / sae_files.WEIGHTS_FILE)
    weights[name].view(-1)[:2] = value
    save_file(weights, folder / sae_files.WEIGHTS_FILE)
    message = rf"2 of {weights[name].numel()} numbers of {name} \(torch.float32\) are NaN or inf"
    refused(f"{folder}: {message}", load_sae, folder)
    with torch.no_grad():
        getattr(small_sae, name).view(-1)[:2] = value
    refused(f"mine: {message}", ModelWithSAEs, minilm, {"mine": small_sae})


def test_a_buffer_is_asked_too_and_half_precision_that_overflowed(small_sae):
    small_sae.register_buffer("scale", torch.tensor([1.0, float("nan")]))
    refused("1 of 2 numbers of scale", check_sae, small_sae, "mine")
    del small_sae.scale
    small_sae.W_enc.data = (1e5 * small_sae.W_enc.data).half()
    refused(r"numbers of W_enc \(torch.float16\)", check_sae, small_sae, "mine")
    small_sae.cfg.k = 64
    refused("mine: k .*from 1 to d_sae = 32", check_sae, small_sae, "mine")


def test_an_sae_without_metadata_is_used_where_model_and_hook_are_given(tmp_path, caplog):
    shipped = sae_files.shipped_saes()["minilm-l4-topk"]
    cfg = json.loads((shipped / sae_files.CONFIG_FILE).read_text()) | {"metadata": None}
    write(tmp_path, cfg)
    (tmp_path / sae_files.WEIGHTS_FILE).symlink_to(shipped / sae_files.WEIGHTS_FILE)
    refused("names no model; give model_name", load, str(tmp_path))
    refused("names no hook; give hook", load, str(tmp_path), model_name="minilm")
    refused("inside a layer", load, str(tmp_path), model_name="minilm", hook="blocks.4.attn.hook_z")
    model = load(str(tmp_path), model_name="minilm", hook=HOOK)
    assert (model.hook, model.prepend_bos) == (HOOK, True)
    assert "does not say whether texts began with a BOS token" in caplog.text
    assert model.describe()["autoencoders"]["TopK SAE"]["trained at"] is None


def test_files_are_checked_without_what_is_heavy(folder):
    (folder / sae_files.WEIGHTS_FILE).write_bytes(b"\x05\0\0\0\0\0\0\0nonsense")
    code = (
        "import sys\nfrom saerepgeo_lib.activations import sae_files\n"
        "try: sae_files.check_preset(sys.argv[1], model_name='m', hook='h')\n"
        "except ValueError as error: print(error)\n"
        "print({'torch', 'sae_lens', 'pandas', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(write(folder, V6 | K))], capture_output=True, text=True,
        cwd=Path(__file__).parent.parent, check=True,
    )  # fmt: skip
    assert "sae_weights.safetensors is no safetensors file" in done.stdout
    assert done.stdout.endswith("set()\n")


@pytest.mark.parametrize(("kind", "cfg"), [("topk", V6 | K), ("standard", OLD)])
def test_a_threshold_that_nothing_would_use_is_refused(kind, cfg, folder):
    weights = load_file(folder / sae_files.WEIGHTS_FILE) | {"threshold": torch.ones(32)}
    save_file(weights, folder / sae_files.WEIGHTS_FILE)
    words = f"a threshold .* of architecture '{kind}' does not use; write .architecture.: .jump"
    refused(words, sae_files.check_folder, write(folder, cfg))


def test_weights_that_were_cut_short_are_told_from_their_header(folder):
    weights = folder / sae_files.WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-8])
    refused("cut short, or changed: .* bytes, expected", sae_files.check_folder, folder)


def test_hooks_of_one_place():
    for one, other, same in (
        ("blocks.3.hook_out", "blocks.3.hook_resid_post", True),
        ("blocks.3.hook_resid_post", "blocks.4.hook_resid_pre", True),
        ("blocks.3.hook_in", "blocks.4.hook_in", False),
        ("blocks.3.hook_out", "blocks.13.hook_out", False), ("hook_embed", "hook_embed", True),
    ):  # fmt: skip
        assert sae_config.same_place(one, other) == same


def test_the_list_of_saes_says_which_cannot_be_used():
    table = search_saes().set_index("preset")["unusable"]
    for preset, word in (
        ("temporal-sae-gemma-2-2b:blocks.12.hook_resid_post", "TemporalSAE"),
        ("gpt2-small-hook-z-kk:blocks.0.hook_z", "residual stream"),
        ("llama_scope_lxm_8x:l0m_8x", "residual stream"),
        ("gemma-scope-2-4b-pt-att-all:layer_0_width_16k_l0_big", "residual stream"),
        ("gemma-scope-2b-pt-transcoders:layer_0/width_16k/average_l0_76", "residual stream"),
    ):
        assert word in table[preset]
    usable = table[table == ""].index
    for presets in sae_files.PRESETS.values():
        assert {name for name in presets.saes.values() if ":" in name} <= set(usable)
    assert (
        "llama_scope_lxr_8x:l0r_8x" in usable
        and "gpt2-small-res-jb:blocks.0.hook_resid_pre" in usable
    )
