"""Anyone's model and SAE: true file formats through the true loaders, without a network."""

import hub
import huggingface_hub.constants
import numpy as np
import pytest
import torch
from sae_lens import SAE, HookedSAETransformer
from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge
from scipy.spatial.distance import pdist

from saerepgeo_lib import models, prompts, residuals, saes
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.latents import as_points
from saerepgeo_lib.points import distinct
from saerepgeo_lib.presets import PRESETS, SaeSource
from saerepgeo_lib.registry import search_saes
from saerepgeo_lib.residuals import compute_residuals
from saerepgeo_lib.subject import Subject, load_subject

PAPER = ("gpt2-small", "pythia-70m", "gemma-2-2b")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty hub cache, for this process and those that it starts; there is no network."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    return tmp_path / "hf" / "hub"


@pytest.fixture(scope="module")
def days():
    return prompts.load_concept("days")


def latents_of(hooked, sae, hook, ids, attention):
    """What SAELens' own hooked model computes with the SAE attached."""
    _, found = hooked.run_with_cache_with_saes(
        ids, saes=[sae], attention_mask=attention.long(), return_cache_object=True
    )
    return found[hook]


@pytest.mark.parametrize("preset", PAPER)
def test_copies_of_a_context_are_one_point_whatever_the_batch(preset, cache, days):
    """Before a frame's entity a causal model sees the same tokens in every prompt of the frame."""
    hub.put_preset(cache, preset)
    subject = load_subject(preset)
    (sae,) = subject.autoencoders.values()
    coded = subject.tokens(days)
    contexts = {tuple(coded.ids[p, : t + 1].tolist()) for p, t in coded.content.nonzero().tolist()}
    codes = []
    for batch_size in (7, 64):
        found = compute_residuals(subject.model, coded, subject.hook, batch_size=batch_size)
        assert len(distinct(found.x.numpy())) == len(contexts) < len(found.x)
        assert len(distinct(as_points(sae, found.x))) <= len(contexts)
        codes.append(as_points(sae, found.x))
    apart, first = pdist(codes[0]), pdist(codes[1])
    np.testing.assert_array_equal(apart == 0, first == 0)


def test_a_causal_model_reads_no_further_than_the_last_token_that_counts(cache, days, monkeypatch):
    hub.put_preset(cache, "gpt2-small")
    subject = load_subject("gpt2-small")
    coded = subject.tokens(days)
    read, run = [], residuals.run_to_hook
    monkeypatch.setattr(
        residuals,
        "run_to_hook",
        lambda m, ids, *rest: read.append(ids.shape[1]) or run(m, ids, *rest),
    )
    found = compute_residuals(subject.model, coded, subject.hook, batch_size=7)
    last = (coded.content * torch.arange(coded.ids.shape[1])).amax(1)
    assert read == sorted(read) and max(read) == last.max() + 1 < coded.ids.shape[1]
    whole = run(subject.model, coded.ids, coded.attention, subject.hook)[coded.content]
    torch.testing.assert_close(found.x, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("preset", PAPER)
def test_the_sae_sees_what_saelens_own_hooked_model_shows_it(preset, cache, days):
    hub.put_preset(cache, preset)
    subject = load_subject(preset)
    coded = subject.tokens(days)
    assert coded.ids[:, 0].eq(subject.model.tokenizer.bos_token_id).all()
    assert coded.ids[:, 1].ne(subject.model.tokenizer.bos_token_id).all()
    found = subject.residuals(coded)
    (sae,) = subject.autoencoders.values()
    z = sae.encode(found.x)

    hooked = SAETransformerBridge.boot_transformers(PRESETS[preset].model, device="cpu")
    for row, prompt, inside in zip(coded.ids[:9], days.prompts, coded.attention, strict=False):
        theirs = hooked.to_tokens(prompt.text, prepend_bos=True)[0]
        assert row[inside].tolist() == theirs.tolist()
    hook = hooked.get_sae_hook_name(sae)
    expected = latents_of(hooked, sae, hook, coded.ids, coded.attention)[coded.content]
    assert (expected > 0).any(1).all() and expected.std(0).max() > 0.1
    torch.testing.assert_close(z, expected, rtol=1e-3, atol=1e-4)


def test_the_processing_that_the_metadata_names_is_applied(cache, days):
    hub.put_preset(
        cache, "pythia-70m", model_from_pretrained_kwargs={"center_writing_weights": True}
    )
    subject = load_subject("pythia-70m")
    coded = subject.tokens(days)
    x = subject.residuals(coded).x
    (sae,) = subject.autoencoders.values()
    hooked = HookedSAETransformer.from_pretrained_no_processing(
        "pythia-70m-deduped", device="cpu", center_writing_weights=True
    )
    expected = latents_of(
        hooked, sae, f"{sae.cfg.metadata.hook_name}.hook_sae_acts_post", coded.ids, coded.attention
    )
    torch.testing.assert_close(sae.encode(x), expected[coded.content], rtol=1e-3, atol=1e-4)
    plain = models.load_model("EleutherAI/pythia-70m-deduped")
    raw = Subject(plain, subject.autoencoders).residuals(coded).x
    torch.testing.assert_close(x, raw - raw.mean(1, keepdim=True), rtol=1e-3, atol=1e-4)
    assert (x - raw).abs().max() > 0.1


def test_processing_that_is_not_known_is_refused(cache):
    hub.put_preset(cache, "pythia-70m", model_from_pretrained_kwargs={"fold_everything": True})
    with pytest.raises(UserError, match=r"'fold_everything'.*known: .*fold_ln"):
        load_subject("pythia-70m")


def test_bos_is_left_out_where_the_metadata_says_so(cache, days):
    hub.put_preset(cache, "gpt2-small", prepend_bos=False)
    subject = load_subject("gpt2-small")
    assert not subject.tokens(days).ids[:, 0].eq(subject.model.tokenizer.bos_token_id).any()


def test_an_sae_of_ones_own_by_release_and_by_folder(cache, tmp_path, days, caplog):
    name = hub.put_gated(cache)
    subject = load_subject(name)
    assert list(subject.autoencoders) == subject.sparse == ["gated SAE"]
    assert subject.hook == "blocks.3.hook_resid_post"
    sae = subject.autoencoders["gated SAE"]
    sae.save_model(tmp_path / "mine")
    again = load_subject(str(tmp_path / "mine"))
    x = subject.residuals(subject.tokens(days)).x
    torch.testing.assert_close(again.autoencoders["gated SAE"].encode(x), sae.encode(x))
    with caplog.at_level("WARNING"):
        elsewhere = load_subject(name, hook="blocks.1.hook_out", dtype="bfloat16")
    assert "trained at blocks.3.hook_resid_post, but reads at blocks.1.hook_out" in caplog.text
    assert elsewhere.describe()["hook"] == "blocks.1.hook_out"
    assert elsewhere.hook == "blocks.1.hook_out"
    assert next(elsewhere.model.parameters()).dtype == torch.bfloat16
    other = elsewhere.residuals(elsewhere.tokens(days)).x
    assert other.dtype == torch.float32 and (other - x).abs().max() > 0.1


def test_a_gated_code_is_what_the_format_means(cache):
    release, _, sae_id = hub.put_gated(cache).partition(":")
    sae = saes.load_sae(SaeSource(release=release, sae_id=sae_id))
    x = torch.randn(50, hub.WIDTH)
    gate = x @ sae.W_enc + sae.b_gate
    expected = (gate > 0) * (x @ (sae.W_enc * sae.r_mag.exp()) + sae.b_mag).relu()
    torch.testing.assert_close(sae.encode(x), expected)
    assert 0 < (expected > 0).float().mean() < 1


def test_a_jumprelu_sae_of_gemma_scope(cache):
    name, arrays = hub.put_gemma_scope(cache)
    release, _, sae_id = name.partition(":")
    sae = saes.load_sae(SaeSource(release=release, sae_id=sae_id))
    assert saes.kind_of(sae) == "JumpReLU SAE"
    x = 10 * torch.randn(4, 2304)
    pre = x @ torch.from_numpy(arrays["w_enc"]) / 2304**0.5 + torch.from_numpy(arrays["b_enc"])
    torch.testing.assert_close(sae.encode(x), pre * (pre > 0.5), rtol=1e-4, atol=1e-3)
    with pytest.raises(UserError, match="reads 2304 dimensions"):
        saes.check_fit(sae, 768, "mine")


def test_an_sae_of_attention_heads_is_refused(small_sae, tmp_path):
    small_sae.cfg.reshape_activations = "hook_z"
    small_sae.cfg.metadata.hook_name = "blocks.4.attn.hook_z"
    small_sae.save_model(tmp_path)
    with pytest.raises(UserError, match="choose an SAE of the residual stream"):
        saes.load_sae(tmp_path)


def test_an_sae_that_wants_unknown_rescaling_is_refused(small_sae, tmp_path):
    small_sae.cfg.normalize_activations = "expected_average_only_in"
    small_sae.save_model(tmp_path)
    with pytest.raises(UserError, match=r"expected_average_only_in.*fold"):
        saes.load_sae(tmp_path)


def test_no_pickle_is_ever_loaded(cache, monkeypatch):
    """An `ae.pt` that would run code is refused."""
    hub.put_preset(cache, "gemma-2-2b")
    (path,) = cache.rglob("ae.pt")

    class Payload:
        def __reduce__(self):
            return (path.with_suffix(".ran").touch, ())

    torch.save({"encoder.weight": Payload()}, path)
    with pytest.raises(UserError, match="cannot load SAE"):
        load_subject("gemma-2-2b")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(UserError, match="unset it"):
        load_subject("gemma-2-2b")
    assert not path.with_suffix(".ran").exists()


def test_ones_own_objects_go_straight_in(minilm, days):
    sae = SAE.load_from_disk(saes.shipped_saes()["minilm-l4-topk"])
    subject = Subject(minilm, {"mine": sae})
    assert subject.sparse == ["mine"] and subject.hook == "blocks.4.hook_out"
    assert subject.describe()["model"] == models.MINILM  # not the folder it was found in
    assert subject.residuals(subject.tokens(days)).x.shape[1] == 384
    with pytest.raises(UserError, match="give Subject a `load`"):
        subject.random_model(0)
    with pytest.raises(UserError, match="at least one autoencoder"):
        Subject(minilm, {})


def test_an_sae_of_ones_own_on_minilm_finds_the_embedded_model(days):
    """Its metadata has the name on the hub; another revision has to come from there."""
    folder = saes.shipped_saes()["minilm-l4-topk"]
    subject = load_subject(str(folder), device="cpu")
    assert subject.describe()["model"] == models.MINILM
    expected = load_subject("minilm", device="cpu")
    found, known = (s.residuals(s.tokens(days)).x for s in (subject, expected))
    torch.testing.assert_close(found, known, rtol=0, atol=0)
    with pytest.raises(UserError, match="no network and nothing cached"):
        models.load_model(models.MINILM, processing={"revision": "another"})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("gpt2-smal", "did you mean 'gpt2-small'"),
        (":blocks.3", "RELEASE:ID"),
        ("custom", "RELEASE:ID"),
        ("pythia-70m-deduped-res-smm:blocks.5.hook_resid_post", "did you mean"),
        ("pythia-70m-deduped-res-sm:blocks.9.hook_resid_post", "did you mean"),
    ],
)
def test_what_is_no_subject_is_refused_with_what_is(given, message, cache):
    with pytest.raises(UserError, match=message):
        load_subject(given)


def test_saes_without_a_model_name_ask_for_it(small_sae, tmp_path):
    small_sae.save_model(tmp_path)
    with pytest.raises(UserError, match="give model_name"):
        load_subject(str(tmp_path))


def test_the_registry_is_searched():
    paper = PRESETS["gemma-2-2b"].saes["TopK SAE"]
    found = search_saes(model="google/gemma-2-2b", text="topk 2pow16 blocks.19 trainer_0")
    assert f"{paper.release}:{paper.sae_id}" in set(found["preset"])
    assert set(found["model"]) == {"gemma-2-2b"}
    gpt2 = [search_saes(model=name) for name in ("gpt2-small", "gpt2", "openai-community/gpt2")]
    assert len(gpt2[0]) > 100 and gpt2[0].equals(gpt2[1]) and gpt2[0].equals(gpt2[2])
    assert search_saes(text="no such thing").empty
    with pytest.raises(UserError, match="'gemma-2-9b'"):
        search_saes(model="gemma-2-8b")
