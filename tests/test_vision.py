"""A vision transformer as the model: images are prompts, patches tokens, and the cases run."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import different_weights
from refusals import refused
from sae_lens import StandardSAE, StandardSAEConfig, TopKSAE, TopKSAEConfig
from safetensors.torch import save_file
from small_pages import NO_CASE
from torch.nn.functional import cross_entropy

from saerepgeo_lib.activations.model_with_saes import ModelWithSAEs
from saerepgeo_lib.activations.prompts import Concept, Prompt
from saerepgeo_lib.activations.residual_stream import run_to_hook
from saerepgeo_lib.companion.compare import read_claims, shipped_claims
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.files import data_dir, read_json, sha256_file, write_json
from saerepgeo_lib.stats.claims import Claim
from saerepgeo_lib.stats.estimates import Estimate
from saerepgeo_lib.steering.downstream import replaced
from saerepgeo_lib.studies.case1_verdict import rank_claims
from saerepgeo_lib.studies.compare_geometry import compare_geometry
from saerepgeo_lib.studies.rank_profile import rank_profile
from saerepgeo_lib.studies.steering_experiment import (
    NOTHING,
    SteeringExperiment,
    cases_of,
    nothing_learned,
)
from saerepgeo_lib.studies.vision import cases, digits, training
from saerepgeo_lib.studies.vision.carry_over import REPEATED, CarryOver

pytestmark = pytest.mark.usefixtures("one_thread")  # beside other tests


@pytest.fixture(scope="module")
def model():
    """A transformer with random weights and untrained autoencoders: structure, no skill."""
    saes = {"TopK SAE": TopKSAE(TopKSAEConfig(d_in=64, d_sae=96, k=6)),
            "dense AE": StandardSAE(StandardSAEConfig(d_in=64, d_sae=96))}  # fmt: skip
    for sae in saes.values():
        torch.manual_seed(0)
        directions = torch.nn.functional.normalize(torch.randn(96, 64), dim=1)
        sae.load_state_dict(sae.state_dict() | {"W_enc": directions.T.clone(), "W_dec": directions})
        sae.cfg.metadata.hook_name, sae.cfg.metadata.prepend_bos = digits.HOOK, False
    return ModelWithSAEs(digits.build_vit(), saes, ("dense AE",), load=digits.build_vit)


SPLIT = digits.digits()
FEW = digits.Split(*(part[:80] for part in vars(SPLIT).values()))


@pytest.fixture(scope="module")
def acts(model):
    return model.activations(digits.digits_concept(SPLIT, n_per_class=6))


def test_an_image_can_be_read_back_from_its_ids_pixel_by_pixel():
    images = np.random.default_rng(0).integers(0, 17, (5, 8, 8))
    ids = digits.patch_ids(images)
    assert ids.shape == (5, 17) and (ids[:, 0] == digits.CLASS_TOKEN).all()
    for image, row in zip(images, ids[:, 1:].tolist(), strict=True):
        shades = [[int(c, 17) for c in digits.patch_word(id)] for id in row]
        assert shades == image.reshape(4, 2, 4, 2).swapaxes(1, 2).reshape(16, 4).tolist()


def test_groups_hold_one_written_image_of_each_class_and_no_image_twice(acts):
    prompts = acts.concept.prompts
    assert acts.concept.entities == tuple("0123456789")
    assert len({p.text for p in prompts}) == len(prompts) == 60
    groups = pd.DataFrame([(p.frame, p.entity) for p in prompts])
    assert (groups.groupby(0)[1].nunique() == 10).all() and groups[0].nunique() == 6
    first = SPLIT.test[np.flatnonzero(SPLIT.test_class == 0)[0]]
    assert prompts[0].entity == "0"
    assert digits.read_image(prompts[0].text) == digits.patch_ids(first[None])[0].tolist()
    refused("n_per_class is 99, but class", digits.digits_concept, SPLIT, n_per_class=99)
    for text in ("", "0000 " * 15, "0000 " * 15 + "000h", "0000 " * 15 + "000"):
        refused("16 patches of 4 digits to the base 17", digits.read_image, text)


def test_held_out_images_are_not_among_those_trained_on_and_shifts_move_by_at_most_a_pixel():
    split = digits.digits(3)
    assert len(split.train) + len(split.test) == 1797
    train, test = ({image.tobytes() for image in part} for part in (split.train, split.test))
    assert not train & test
    assert np.bincount(split.test_class).min() >= 34  # by class
    image = np.zeros((1, 8, 8), int)
    image[0, 3, 4] = 7
    places = [tuple(np.argwhere(moved[0])[0]) for moved in training.shifted(image)]
    assert sorted(places) == [(i, j) for i in (2, 3, 4) for j in (3, 4, 5)]


def test_a_patch_is_embedded_linearly_in_its_pixels_and_the_class_token_apart(model):
    embed = model.model.embed
    shades = torch.tensor([[3, 16, 0, 9]])
    id = digits.patch_ids(np.tile(shades.view(2, 2).numpy(), (1, 4, 4)))[:, :2]
    found = embed(id)[0]
    torch.testing.assert_close(found[1], shades[0] / 16 @ embed.W_E[1:])
    torch.testing.assert_close(found[0], embed.W_E[0])


def test_tokens_count_if_they_hold_ink_and_the_class_token_is_the_entity(model, acts):
    tokens = acts.tokens
    assert tokens.ids.shape == (60, 17) and tokens.attention.all()
    assert tokens.entity[:, 0].all() and not tokens.entity[:, 1:].any()
    for prompt, content in zip(acts.concept.prompts, tokens.content[:, 1:].tolist(), strict=True):
        assert content == [word != "0000" for word in prompt.text.split()]
    assert acts.x.shape == (int(tokens.content.sum()), 64) and acts.in_entity.sum() == 60
    assert acts.words[0] == "[CLS]" and len(np.unique(acts.frame)) == 6
    with pytest.raises(UserError, match="got 3 words, among them 'Snow'"):
        model.activations(Concept("months", (Prompt("Snow in January"),)))


def test_the_hook_catches_what_the_next_block_reads_from_both_sides(model, acts):
    vit, tokens, read = model.model, acts.tokens, []
    caught = run_to_hook(vit, tokens.ids, tokens.attention, digits.HOOK)
    with vit.hooks([("blocks.3.hook_resid_pre", lambda x, hook: read.append(x.clone()))]):
        whole = vit(tokens.ids)
    torch.testing.assert_close(caught, read[0], rtol=0, atol=0)
    torch.testing.assert_close(whole, vit(tokens.ids), rtol=0, atol=0)
    other = tokens.ids[:1].clone()
    other[0, -1] = 70_000  # the last patch reaches the class token, which is read first
    moved = run_to_hook(vit, other, tokens.attention[:1], digits.HOOK)
    assert (moved[0, 0] - caught[0, 0]).abs().max() > 1e-4


def test_putting_the_residual_back_changes_nothing_and_putting_zeros_does(acts):
    def with_(back):
        with replaced(acts, slice(0, 60), back), torch.no_grad():
            return digits.classify(acts.source.model, acts.tokens.ids)

    torch.testing.assert_close(with_(acts.x), with_(None), rtol=1e-4, atol=1e-5)
    assert (with_(torch.zeros_like(acts.x)) - with_(None)).abs().max() > 1e-2
    same = cases.accuracy_with(acts, torch.nn.Identity())
    np.testing.assert_array_equal(cases.accuracy_with(acts), same)


def test_random_weights_follow_their_seed_and_leave_the_generators_alone(model):
    before, state = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    again, other = model.random_model(0), model.random_model(1)
    assert torch.equal(before, torch.get_rng_state())
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    assert different_weights(again, model.model) == []
    assert "embed.W_E" in different_weights(other, model.model)


SHORT = training.VitRecipe(epochs=4, batch_size=20)


def test_a_training_is_fixed_by_its_seed_and_lowers_the_loss():
    first, second = (training.train_vit(SHORT, FEW) for _ in range(2))
    assert different_weights(first, second) == []

    def loss(vit):
        with torch.no_grad():
            logits = digits.classify(vit, digits.patch_ids(FEW.train))
        return cross_entropy(logits, torch.from_numpy(FEW.train_class)).item()

    assert loss(first) < loss(digits.build_vit())


def test_what_is_stored_comes_back_to_half_precision_and_nothing_else(tmp_path):
    vit = digits.build_vit(random_state=4)
    training.save_vit(vit, SHORT, tmp_path, FEW)
    back = training.load_vit(tmp_path)
    assert different_weights(vit.half().float(), back) == []
    reached = digits.accuracy(back, FEW.test, FEW.test_class)
    assert read_json(tmp_path / "card.json")["accuracy"]["test"] == reached
    refused("'saerepgeo vision --out", training.load_vit, tmp_path / "nowhere")
    weights = tmp_path / training.VIT_FILE
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    refused("is not what its card describes: SHA-256", training.load_vit, tmp_path)
    save_file({"embed.W_E": torch.zeros(5, 64)}, weights)
    write_json(tmp_path / "card.json", {"sha256": sha256_file(weights)})
    refused("cannot load the vision transformer", training.load_vit, tmp_path)


def test_the_cases_run_on_a_vision_model(acts):
    """Their own functions, on 30 or 60 images. Nothing is learned, so no verdict is asked."""
    small = acts.rows(acts.prompt < 30)
    profile = rank_profile(small, seeds=[0, 1])
    claims = rank_claims([profile], sparse=small.source.sparse)
    assert profile.sweep.tensor_shape == (30, 2)
    assert {c.id for c in claims} == {"case1-rank-varies", "case1-beyond-nulls", "case1-stratified"}
    geometry = compare_geometry(small, n_groups=3, n_random=1)
    means = geometry.table.query("measure == 'AEDP of entities'")["value"]
    assert len(means) == len(geometry.vectors) and np.isfinite(means).all()
    entity = small.at("entity")
    tables, claims = cases.case3(entity, n_groups=3, n_bootstrap=40, n_steps=4, grouping="entities")
    assert {c.id for c in CarryOver(claims, pd.DataFrame()).claims} == {
        "vision-separability-helps", "vision-own-effect", "vision-shrinks", "vision-explained"
    }  # fmt: skip
    doses = tables["dose_response"].query("path == 'pushed, valid'")
    np.testing.assert_allclose(doses["AEDP"], doses["dose"], rtol=0.05)
    assert set(tables["shrinkage"]["SAE"]) == set(acts.source.saes)
    control = cases_of([nothing_learned(acts).activations(acts.concept)])
    law = SteeringExperiment(control, n_groups=3).shrinkage
    assert law["SAE"].tolist() == [NOTHING] and np.isfinite(law["rho*"]).all()


def finding(value, verdict, id="case1-rank-varies", tokens="content", **case):
    found = Estimate(value, value - 1, value + 1, 0.5, 3)
    return Claim.of(
        id, found, verdict, statistic="range", concept="digits", tokens=tokens,
        autoencoder="TopK SAE", **case,
    )  # fmt: skip


def test_findings_stand_beside_those_on_language():
    columns = ["id", "concept", "tokens", "against", "statistic", "value", "low", "high", "verdict"]
    rows = """case1-rank-varies,months,content,,range,1.0,0.5,1.5,holds
        case1-rank-varies,days,content,,range,3.0,2.0,4.0,holds
        case1-rank-varies,color,content,,range,0.1,0.04,0.2,does not hold
        case1-rank-varies,days,entity,,range,-9.0,-9,-8,x
        case1-rank-varies,days,content,,another,-90.0,-91,-89,x
        case2-merging,days,content,residual,range,nan,0,0,x
        case2-learned,days,content,a,range,-3.0,-4,-2,x
        case2-learned,months,content,b,range,2.0,1,3,x"""
    language = pd.DataFrame([row.strip().split(",") for row in rows.splitlines()], columns=columns)
    language = language.astype(dict.fromkeys(["value", "low", "high"], float))
    language = language.assign(autoencoder="TopK SAE", condition="", dose=np.nan)
    found = [
        finding(1.1, "holds"),
        finding(0.9, "does not hold"),  # from -.1: may lie below the bound
        finding(1.5, "holds", tokens="entity"),
        finding(5.0, "cannot be tested here"),
        finding(3.0, "holds", "case2-merging", against="residual"),
        finding(3.0, "holds", "case2-learned", against="c"),
        finding(3.0, "holds", "case1-stratified"),
    ]
    beside = CarryOver(found, language)
    table = beside.table
    assert list(table["concepts"]) == [3, 3, 1, 3, 0, 2]
    assert list(table["language"]) == ["above", "above", "below", "above", "undecided", "undecided"]
    assert list(table["vision"]) == ["above", "undecided", "above", "undecided", "above", "above"]
    assert list(table["outcome"]) == ["same", "undecided", "opposite", *["undecided"] * 3]
    counts = beside.counts.set_index("claim").loc["case1-rank-varies"]
    assert dict(counts) == {"same": 1, "opposite": 1, "undecided": 2}
    assert "**1 the same way, 1 the opposite way**" in beside.text
    assert "- Opposite: `case1-rank-varies`, TopK SAE, entity tokens (range): +1.50" in beside.text
    dictated = [finding(1.0, "holds", "case3-explained")]
    assert CarryOver(dictated, language).text.startswith("Of 0 findings")
    shipped = read_claims(shipped_claims())  # has the claims that are asked again
    for id in REPEATED:
        told = set(shipped.loc[shipped["id"] == id, "autoencoder"])
        assert told >= {"TopK SAE", "L1-ReLU SAE"}, id


def test_cases_over_trainings_leave_out_what_a_training_lacks():
    trainings = [
        {"a": (1.0, "holds"), "b": (None, "cannot be tested here")},
        {"a": (-1.0, "does not hold"), "b": (2.0, "holds")},
        {"a": (3.0, "holds in part"), "b": (-1.0, "does not hold"), "c": (1.0, "holds")},
    ]
    points = [{"point": {"seed": seed}, "result": {"findings": [
        NO_CASE | {"id": id, "statistic": "x", "verdict": verdict, "value": value}
        for id, (value, verdict) in values.items()
    ]}} for seed, values in enumerate(trainings)]  # fmt: skip
    table = cases.OverTrainings({"points": points}).table.set_index("claim")
    assert list(table.index) == ["a", "b"]
    assert list(table.loc["a"])[2:] == [-1.0, 1.0, 3.0, 2, 3, 2]
    assert list(table.loc["b"])[2:] == [-1.0, 0.5, 2.0, 1, 2, 1]


def test_the_shipped_transformer_and_autoencoders_are_as_their_cards_say():
    """More than 95 % of the held-out images in their class, by the weights that come along."""
    model, cards = training.load_vision(), training.vision_cards()
    split = digits.digits(cards["model"]["recipe"]["seed"])
    found = digits.accuracy(model.model, split.test, split.test_class)
    assert found > 0.95
    assert found == pytest.approx(cards["model"]["accuracy"]["test"], abs=1 / len(split.test))
    assert list(model.saes) == list(training.SAES) == [name for name in cards if name != "model"]
    assert model.sparse == ["TopK SAE", "L1-ReLU SAE"] and model.hook == digits.HOOK
    acts = model.activations(Concept("test", digits.digits_concept(split, n_per_class=34).prompts))
    for label, sae in model.saes.items():
        expected = cards[label]["fit"]["fvu_content"]
        assert training.fvu(sae, acts.x) == pytest.approx(expected, rel=0.05)
    folder = data_dir() / "vision"
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) < 1.5e6


def test_a_new_training_replaces_the_whole_of_an_earlier_one_and_no_other_files(
    tmp_path, interrupt_at, monkeypatch
):
    monkeypatch.setattr(training, "digits", lambda seed: FEW)
    folder = tmp_path / "vision"
    (folder / "digits-l1").mkdir(parents=True)  # of an earlier training
    vit = training.VitRecipe(epochs=1)
    options = {"vit": vit, "n_samples": 4_096, "work": tmp_path / "work"}
    made = training.make(folder, saes=["TopK SAE"], **options)
    assert list(made.saes) == ["TopK SAE"]
    assert {path.name for path in folder.iterdir()} == {
        training.VIT_FILE, training.CARD_FILE, "digits-topk"
    }  # fmt: skip
    fit = training.vision_cards(folder)["TopK SAE"]["fit"]
    held_out = torch.from_numpy(training.stream_of(made.model, FEW.test)).float()
    content = held_out[digits.patch_ids(FEW.test) != digits.BLANK]
    expected = training.fvu(made.saes["TopK SAE"], content)
    assert fit["fvu_content"] == pytest.approx(expected, rel=1e-3) and fit["l0_content"] == 8
    assert {path.name for path in tmp_path.iterdir()} == {"vision", "work"}
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with interrupt_at(52):
        training.make(folder, **options)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    with pytest.raises(UserError, match=r"other things \(vit.safetensors\)"):
        training.make(folder / training.VIT_FILE, **options)
    (folder / "thesis.tex").write_text("mine")
    refused(r"other things \(thesis.tex\); name a new", training.make, folder, **options)
    assert (folder / "thesis.tex").read_text() == "mine" and (folder / "digits-topk").is_dir()


@pytest.mark.slow
def test_a_training_from_scratch_reaches_95_percent_on_held_out_images():
    split = digits.digits(1)
    vit = training.train_vit(training.VitRecipe(seed=1, epochs=20), split)
    assert digits.accuracy(vit, split.test, split.test_class) > 0.95
