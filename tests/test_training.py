"""Training, and the separability objective: its closed form, and what must not change it."""

import importlib.util
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from conftest import different_weights, mixed_directions
from refusals import refused
from sae_lens import SAE, StandardSAE, TopKSAE, TopKTrainingSAE, TrainingSAE, registry
from sae_lens.saes.sae import TrainStepInput
from scipy.spatial.distance import pdist

from saerepgeo_lib.activations.models import seeded
from saerepgeo_lib.activations.prompts import load_concepts
from saerepgeo_lib.companion.cli import main
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.files import data_dir, read_json
from saerepgeo_lib.studies import activation_store, training
from saerepgeo_lib.studies.corpus import Passage, embedded_passages, user_passages
from saerepgeo_lib.studies.recipes import HOOK, RECIPES, Recipe, names_of, sae_config
from saerepgeo_lib.studies.separability import objective
from saerepgeo_lib.studies.separability.objective import (
    residual_groups,
    separability,
    separable_classes,
    separable_config,
)
from saerepgeo_lib.studies.texts import N_FRAME_SENTENCES

METADATA = {"hook_name": "blocks.4.hook_out", "model_name": "test"}

pytestmark = pytest.mark.usefixtures("one_thread")  # beside other tests


KINDS = [("topk", 4), ("standard", 1.0)]


def recipe(kind, coefficient, n_steps, rate=4e-4):
    return Recipe("t", kind, coefficient, 64 * n_steps, 2, rate, batch_size=64)


def test_batches_are_fixed_by_seed_and_can_start_anywhere():
    def batches(start=0, size=30):
        return activation_store.shuffled_batches(
            mixed_directions(100), batch_size=size, seed=1, start=start
        )

    first = [batch for batch, _ in zip(batches(), range(8), strict=False)]
    assert torch.equal(next(batches(5)), first[5])
    assert not torch.equal(first[0], first[3])  # a new epoch has a new order
    refused("100 tokens do not fill one batch of 101", next, batches(size=101))


SEPARABLE = {"configure": partial(separable_config, strength=10.0, n_groups=8)}


@pytest.mark.parametrize(
    ("kind", "coefficient", "options"),
    [
        ("topk", 4, {}),
        ("topk", 4, {"frozen": "soft decoder", "centre": True}),
        ("batchtopk", 4, {}),
        ("matryoshka", 4, {}),
        ("jumprelu", 4, {}),
        ("gated", 1.0, {}),
        ("standard", 1.0, {}),
        ("standard", 1.0, SEPARABLE),
    ],
)
def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path, kind, coefficient, options, interrupt_at, monkeypatch
):
    monkeypatch.setattr(training, "_CHECKPOINT_STEPS", 40)
    more = {key: options[key] for key in ("frozen", "centre") if key in options}
    given = replace(recipe(kind, coefficient, 100), **more)
    options = {key: value for key, value in options.items() if key not in more}

    def run(folder):
        state, fixed = torch.get_rng_state(), {"metadata": METADATA, "checkpoints": folder}
        sae = training.train(given, mixed_directions(), **fixed, **options)
        assert torch.equal(state, torch.get_rng_state())
        return sae

    with interrupt_at(130):  # 50 are for the norm; after the last of two checkpoints
        run(tmp_path / "b")
    assert len(list((tmp_path / "b").iterdir())) == len(list((tmp_path / "b").glob("*/whole"))) == 1
    assert different_weights(run(tmp_path / "a"), run(tmp_path / "b")) == []


def test_recipes_are_taken_by_name_or_by_model_and_say_what_they_do_not_know(capsys, unchecked):
    smollm2 = names_of("smollm2")
    assert smollm2 and all(RECIPES[name].model == "smollm2" for name in smollm2)
    assert {*smollm2, *names_of("minilm")} == {*names_of(None)} == {*RECIPES}
    assert main(["train", smollm2[0], "--model", "minilm"]) == 2
    assert main(["train", "--model", "smollm"]) == 2
    said = capsys.readouterr().err
    assert "not both" in said and "did you mean 'smollm2'" in said
    refused("did you mean 'topk'", Recipe, "t", "topkk", 4, 64)
    refused("frozen part 'decoders'", Recipe, "t", "topk", 4, 64, frozen="decoders")


def test_a_centred_training_begins_at_the_mean_of_what_it_reads(tmp_path):
    (x,) = mixed_directions()
    x = x + np.float16(3)
    given = replace(recipe("topk", 4, 1, rate=1e-9), centre=True)
    sae = training.train(given, [x[:1000], x[1000:]], metadata=METADATA, checkpoints=tmp_path)
    assert sae.b_dec.detach().numpy() == pytest.approx(x.astype(float).mean(0), rel=0.03)


@pytest.mark.parametrize("frozen", ["", "decoder", "soft decoder", "encoder"])
def test_what_is_frozen_stays_or_stays_near_and_the_rest_learns(tmp_path, frozen):
    given = replace(recipe("topk", 4, 300, rate=2e-2), frozen=frozen)
    with seeded(given.seed):
        cfg = sae_config(given, d_in=16, metadata=METADATA, device="cpu")
        first = TopKTrainingSAE(cfg)
    fixed = {"metadata": METADATA, "checkpoints": tmp_path}
    sae = training.train(given, mixed_directions(), **fixed)
    decoder = torch.cosine_similarity(sae.W_dec, first.W_dec, dim=1)
    encoder = torch.cosine_similarity(sae.W_enc, first.W_enc, dim=0)
    stays = {"decoder": decoder.min() > 1 - 1e-5, "encoder": encoder.min() > 1 - 1e-5}
    assert stays == {part: part == frozen for part in stays}
    assert (decoder.min() > 0.8 - 1e-5) == ("decoder" in frozen)
    assert frozen != "soft decoder" or (decoder < 0.8 + 1e-3).any()  # some came to the edge


def test_what_is_saved_is_what_plain_saelens_loads_and_what_the_card_measures(tmp_path):
    given, (x,) = recipe("topk", 4, 60), mixed_directions()
    sae = training.train(given, [x], metadata=METADATA, checkpoints=tmp_path / "c")
    held_out, measured = x[:300].astype(np.float32), []

    def fit(saved):
        measured.append(saved)
        parts = activation_store.Activations(
            [x[:1000], x[1000:1500]], held_out, ["a"] * 100 + ["b"] * 200
        )
        return training.measure(saved, parts, {}, device="cpu")

    card = training.save(sae, given, tmp_path / "out", corpus={"name": "test"}, fit=fit)
    loaded = SAE.load_from_disk(tmp_path / "out")
    z = loaded.encode(torch.from_numpy(held_out))
    assert torch.equal(z, measured[0].encode(torch.from_numpy(held_out)))
    assert loaded.dtype == torch.float32 and loaded.cfg.metadata.hook_name == METADATA["hook_name"]
    assert card["hook"] == METADATA["hook_name"]
    assert card["fit"]["l0_held_out"] == pytest.approx((z > 0).sum().item() / 300)
    seen = loaded.encode(torch.from_numpy(x[:1500]).float())
    assert card["fit"]["dead_share"] == pytest.approx(1 - (seen > 0).any(0).float().mean().item())
    assert set(card["fit"]["fvu_held_out_by_source"]) == {"a", "b"}
    assert card["fit"]["n_tokens_for_dead_share"] == 1500
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "out"]


def test_a_user_s_text_is_read_by_line_and_held_out_by_its_own_text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n".join(["", *(f"line {i}" for i in range(2000))]))
    passages = user_passages(path)
    assert len(passages) == 2000 and passages[0] == Passage("line 0", "user")
    assert 0.005 < sum(p.held_out for p in passages) / 2000 < 0.04
    path.write_text("\n \n")
    refused("no non-empty line", user_passages, path)
    refused("no WordNet database", embedded_passages, n_frame_sentences=1, wordnet=tmp_path)


def test_activations_are_collected_once_and_resumed_by_chunk(tmp_path, minilm, monkeypatch):
    monkeypatch.setattr(activation_store, "_CHUNK", 8)
    passages = [Passage(f"The number {i} stands here.", "a" if i % 2 else "b") for i in range(60)]
    first = activation_store.collect_activations(minilm, HOOK, passages, folder=tmp_path)
    n_tokens = sum(len(minilm.tokenizer(p.text)["input_ids"]) - 2 for p in passages)
    assert sum(len(a) for a in first.train) + len(first.held_out) == n_tokens
    assert len(first.held_out_source) == len(first.held_out)
    (tmp_path / "0001.npy").unlink()
    ran, real = [], activation_store._chunk_activations
    monkeypatch.setattr(
        activation_store, "_chunk_activations", lambda *a: (ran.append(1), real(*a))[1]
    )
    again = activation_store.collect_activations(minilm, HOOK, passages, folder=tmp_path)
    assert len(ran) == 1
    assert all(np.array_equal(a, b) for a, b in zip(first.train, again.train, strict=True))
    with pytest.raises(UserError, match="give more text"):
        activation_store.collect_activations(minilm, HOOK, passages[:1], folder=tmp_path)


@pytest.mark.slow
def test_no_concept_prompt_is_in_the_corpus():
    if not training.WORDNET_DIR.is_dir():
        pytest.skip("needs Debian's wordnet-base")
    texts = {p.text for p in embedded_passages(n_frame_sentences=N_FRAME_SENTENCES)}
    texts |= {text for path in (data_dir() / "samples").glob("*.json") for text in read_json(path)}
    assert len(texts) > 200_000
    assert not [p for c in load_concepts().values() for p in c.prompts if p.text in texts]


def latents(n=60, width=12, k=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, width, generator=generator, dtype=torch.float64).relu()
    return z, torch.randint(k, (n,), generator=generator)


def build(kind, coefficient, strength):
    cfg = separable_config(
        recipe(kind, coefficient, 120), strength=strength, n_groups=8, d_in=16, metadata=METADATA,
        device="cpu",
    )  # fmt: skip
    torch.manual_seed(0)
    return separable_classes(kind)[0](cfg)


def test_separability_is_mean_distance_over_radius_by_hand_and_by_brute_force():
    one_hot = torch.eye(4, dtype=torch.float64).repeat(5, 1)  # four points at distance sqrt 2
    found = separability(one_hot, torch.arange(4).repeat(5))
    assert found.item() == pytest.approx(np.sqrt(2 * 4 / 3))
    z, labels = latents()
    means = np.stack([z[labels == c].mean(0) for c in range(5)])
    radius = np.sqrt(np.square(z - z.mean(0)).sum(1).mean())
    assert separability(z, labels).item() == pytest.approx(pdist(means).mean() / radius)


def test_separability_does_not_change_with_scale_place_or_order():
    z, labels = latents()
    value = separability(z, labels)
    features, rows = torch.randperm(12), torch.randperm(60)
    rename = torch.tensor([7, 3, 9, 0, 4])
    for other, named in [
        (37.0 * z, labels), (z + 5, labels), (z[:, features], labels), (z[rows], labels[rows]),
        (z, rename[labels]),
    ]:  # fmt: skip
        assert separability(other, named).item() == pytest.approx(value.item(), rel=1e-12)
    assert separability(z, labels[rows]).item() != pytest.approx(value.item(), rel=1e-3)


def test_the_gradient_of_separability_is_that_of_finite_differences():
    z, labels = latents(n=20, width=6)
    z = (z + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: separability(x, labels).log(), z, eps=1e-6)


def test_groups_are_kmeans_fixed_by_the_order_and_carry_no_gradient():
    generator = torch.Generator().manual_seed(1)
    centres = 20 * torch.randn(6, 5, generator=generator)
    planted = torch.arange(6).repeat(40)
    x = centres[planted] + torch.randn(240, 5, generator=generator)
    found = residual_groups(x.requires_grad_(), n_groups=6)
    assert not found.requires_grad
    assert (found.reshape(40, 6) == found[:6]).all() and len(found[:6].unique()) == 6
    assert torch.equal(found, residual_groups(x, n_groups=6))
    refused("cannot fall into 8 groups", residual_groups, x[:7], n_groups=8)


@pytest.mark.parametrize(("kind", "coefficient"), KINDS)
def test_a_latent_gains_nothing_by_growing_while_its_decoder_row_shrinks(kind, coefficient):
    sae = build(kind, coefficient, 1.0)
    x = torch.from_numpy(mixed_directions(200)[0]).float()
    given = TrainStepInput(x, {"l1": 0.0, "separability": 1.0}, None, 0, False)
    before = sae.training_forward_pass(given).losses
    factor = torch.linspace(0.5, 2, sae.cfg.d_sae)
    with torch.no_grad():
        sae.W_enc *= factor
        sae.b_enc *= factor
        sae.W_dec /= factor[:, None]
    after = sae.training_forward_pass(given).losses
    for name in ("mse_loss", "separability_loss"):
        assert after[name].item() == pytest.approx(before[name].item(), rel=1e-5) != 0
    z = sae.encode(x) * (1 if kind == "topk" else sae.W_dec.norm(dim=1))
    expected = -separability(z, residual_groups(x, n_groups=8)).log().item()
    assert after["separability_loss"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("given", [recipe("topk", 4, 60, 4e-3), recipe("standard", 1.0, 100, 2e-3)])
def test_strength_separates_groups_and_none_is_saelens_own_training_to_the_last_bit(
    tmp_path, given
):
    plain = training.train(given, mixed_directions(), metadata=METADATA, checkpoints=tmp_path / "p")
    x = torch.from_numpy(mixed_directions(400)[0]).float()
    labels = residual_groups(x, n_groups=8)
    reached = []
    for strength in (-30.0, 0.0, 30.0):
        fixed = {"metadata": METADATA, "checkpoints": tmp_path / str(strength)}
        configure = partial(separable_config, strength=strength, n_groups=8)
        sae = training.train(given, mixed_directions(), **fixed, configure=configure)
        if strength == 0:
            assert type(sae) is not type(plain) and different_weights(sae, plain) == []
        sae.fold_W_dec_norm()
        reached.append(separability(sae.encode(x), labels).item())
    assert reached == sorted(reached) and len(set(reached)) == 3


@pytest.mark.parametrize(("kind", "coefficient"), KINDS)
def test_saelens_loads_its_checkpoint_and_an_ordinary_sae_from_what_it_saves(
    tmp_path, kind, coefficient
):
    sae = build(kind, coefficient, 2.5)
    with torch.no_grad():
        sae.W_dec *= torch.linspace(0.5, 2, sae.cfg.d_sae)[:, None]
    x = torch.from_numpy(mixed_directions(50)[0]).float()
    sae.save_model(tmp_path / "checkpoint")
    again = TrainingSAE.load_from_disk(tmp_path / "checkpoint")
    assert type(again) is type(sae)
    assert (again.cfg.separability_coefficient, again.cfg.n_groups) == (2.5, 8)
    assert torch.equal(again.encode(x), sae.encode(x))
    sae.save_inference_model(tmp_path / "inference")
    plain = SAE.load_from_disk(tmp_path / "inference")
    assert type(plain) is {"topk": TopKSAE, "standard": StandardSAE}[kind]
    assert plain.cfg.metadata.training_architecture_details["separability_coefficient"] == 2.5
    assert torch.allclose(plain(x), sae(x), atol=1e-5)


def test_the_classes_are_registered_by_a_training_and_not_by_an_import(monkeypatch):
    plain = {k: v for k, v in registry.SAE_TRAINING_CLASS_REGISTRY.items() if "separable" not in k}
    monkeypatch.setattr(registry, "SAE_TRAINING_CLASS_REGISTRY", dict(plain))
    spec = importlib.util.spec_from_file_location("fresh", objective.__file__)
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    assert plain == registry.SAE_TRAINING_CLASS_REGISTRY
    assert fresh.separable_classes("topk") == fresh.separable_classes("topk")
    assert set(registry.SAE_TRAINING_CLASS_REGISTRY) - set(plain) == {"separable_topk"}
