"""A vision transformer as a subject: images are prompts, patches tokens, and the cases run."""

import numpy as np
import pandas as pd
import pytest
import torch
from sae_lens import StandardSAE, StandardSAEConfig, TopKSAE, TopKSAEConfig
from torch.nn.functional import cross_entropy

from saerepgeo_lib import (
    carry_over,
    separability,
    structure_table,
    vision,
    vision_study,
    vision_training,
)
from saerepgeo_lib.claims import Claim
from saerepgeo_lib.compare import read_claims, shipped_claims
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.files import read_json
from saerepgeo_lib.prompts import Concept, Prompt
from saerepgeo_lib.residuals import compute_residuals, run_to_hook
from saerepgeo_lib.statistics import Estimate


def sae_of(kind, config, **options):
    """An untrained autoencoder at the hook, with weights from a seed."""
    torch.manual_seed(0)
    sae = kind(config(d_in=64, d_sae=96, **options))
    directions = torch.nn.functional.normalize(torch.randn(96, 64), dim=1)
    sae.load_state_dict(sae.state_dict() | {"W_enc": directions.T.clone(), "W_dec": directions})
    sae.cfg.metadata.hook_name, sae.cfg.metadata.prepend_bos = vision.HOOK, False
    return sae.eval()


@pytest.fixture(scope="module")
def subject():
    """A transformer with random weights and untrained autoencoders: structure, no skill."""
    saes = {
        "TopK SAE": sae_of(TopKSAE, TopKSAEConfig, k=6),
        "dense AE": sae_of(StandardSAE, StandardSAEConfig),
    }
    return vision.subject_of(vision.build_vit(), saes, ["dense AE"])


@pytest.fixture(scope="module")
def concept():
    return vision_training.held_out_concept(n_per_class=6)


def test_an_image_can_be_read_back_from_its_ids_pixel_by_pixel():
    images = np.random.default_rng(0).integers(0, 17, (5, 8, 8))
    ids = vision.patch_ids(images)
    assert ids.shape == (5, 17) and (ids[:, 0] == vision.CLASS_TOKEN).all()
    for image, row in zip(images, ids[:, 1:].tolist(), strict=True):
        for t, id in enumerate(row):
            i, j = 2 * (t // 4), 2 * (t % 4)
            shades = [int(c, 17) for c in vision.patch_word(id)]
            assert shades == [image[i, j], image[i, j + 1], image[i + 1, j], image[i + 1, j + 1]]


def test_writing_and_reading_an_image_are_inverse(concept):
    split = vision.digits()
    first = split.test[np.flatnonzero(split.test_class == 0)[0]]
    assert concept.prompts[0].entity == "0"
    assert vision.read_image(concept.prompts[0].text) == vision.patch_ids(first[None])[0].tolist()


@pytest.mark.parametrize("text", ["", "0000 " * 15, "0000 " * 15 + "000h", "0000 " * 15 + "000"])
def test_what_is_no_image_is_refused(text):
    with pytest.raises(UserError, match="16 patches of 4 digits to the base 17"):
        vision.read_image(text)


def test_groups_hold_one_image_of_each_class_and_no_image_twice(concept):
    assert concept.entities == tuple("0123456789")
    assert len({p.text for p in concept.prompts}) == len(concept.prompts) == 60
    groups = pd.DataFrame([(p.frame, p.entity) for p in concept.prompts])
    assert (groups.groupby(0)[1].nunique() == 10).all() and groups[0].nunique() == 6
    with pytest.raises(UserError, match="n_per_class is 99, but class"):
        vision_training.held_out_concept(n_per_class=99)


def test_held_out_images_are_not_among_those_trained_on():
    split = vision.digits(3)
    assert len(split.train) + len(split.test) == 1797
    train, test = ({image.tobytes() for image in part} for part in (split.train, split.test))
    assert not train & test
    assert np.bincount(split.test_class).min() >= 34  # by class


def test_a_patch_is_embedded_linearly_in_its_pixels_and_the_class_token_apart(subject):
    embed = subject.model.embed
    shades = torch.tensor([[3, 16, 0, 9]])
    id = vision.patch_ids(np.tile(shades.view(2, 2).numpy(), (1, 4, 4)))[:, :2]
    found = embed(id)[0]
    torch.testing.assert_close(found[1], shades[0] / 16 @ embed.W_E[1:])
    torch.testing.assert_close(found[0], embed.W_E[0])


def test_tokens_count_if_they_hold_ink_and_the_class_token_is_the_entity(subject, concept):
    tokens = subject.tokens(concept)
    assert tokens.ids.shape == (60, 17) and tokens.attention.all()
    assert tokens.entity[:, 0].all() and not tokens.entity[:, 1:].any()
    for prompt, content in zip(concept.prompts, tokens.content[:, 1:].tolist(), strict=True):
        assert content == [word != "0000" for word in prompt.text.split()]
    found = subject.residuals(tokens)
    assert found.x.shape == (int(tokens.content.sum()), 64) and found.entity.sum() == 60


def test_the_hook_catches_what_the_next_block_reads(subject, concept):
    tokens = subject.tokens(concept)
    caught = run_to_hook(subject.model, tokens.ids, tokens.attention, vision.HOOK)
    read = []
    with subject.model.hooks([("blocks.3.hook_resid_pre", lambda x, hook: read.append(x.clone()))]):
        whole = subject.model(tokens.ids)
    torch.testing.assert_close(caught, read[0], rtol=0, atol=0)
    torch.testing.assert_close(whole, subject.model(tokens.ids), rtol=0, atol=0)


def test_putting_the_residual_back_changes_nothing_and_putting_zeros_does(subject, concept):
    tokens = subject.tokens(concept)
    found = compute_residuals(subject.model, tokens, subject.hook)

    def with_(back):
        with (
            vision_study.replaced(subject.model, tokens, subject.hook, found, slice(0, 60), back),
            torch.no_grad(),
        ):
            return vision.classify(subject.model, tokens.ids)

    torch.testing.assert_close(with_(found.x), with_(None), rtol=1e-4, atol=1e-5)
    assert (with_(torch.zeros_like(found.x)) - with_(None)).abs().max() > 1e-2
    np.testing.assert_array_equal(
        vision_study.accuracy_with(subject, concept),
        vision_study.accuracy_with(subject, concept, torch.nn.Identity()),
    )


def test_attention_goes_both_ways(subject):
    """The last patch reaches the class token, which is read first."""
    a = torch.full((1, 17), 5)
    a[0, 0] = vision.CLASS_TOKEN
    b = a.clone()
    b[0, -1] = 70_000
    x, y = (
        run_to_hook(subject.model, ids, torch.ones_like(ids).bool(), vision.HOOK) for ids in (a, b)
    )
    assert (x[0, 0] - y[0, 0]).abs().max() > 1e-4


def test_random_weights_follow_their_seed_and_leave_the_generator_alone(subject):
    before = torch.get_rng_state()
    np.random.seed(5)  # noqa: NPY002
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    again, other = subject.random_model(0), subject.random_model(1)
    assert torch.equal(before, torch.get_rng_state())
    assert np.random.random() == expected  # noqa: NPY002
    own = dict(subject.model.named_parameters())
    assert all(torch.equal(w, own[name]) for name, w in again.named_parameters())
    assert not torch.equal(other.embed.W_E, own["embed.W_E"])


def test_shifts_move_by_at_most_one_pixel_and_one_of_them_by_none():
    image = np.zeros((1, 8, 8), int)
    image[0, 3, 4] = 7
    places = [tuple(np.argwhere(moved[0])[0]) for moved in vision_training.shifted(image)]
    assert sorted(places) == [(i, j) for i in (2, 3, 4) for j in (3, 4, 5)]


SHORT = vision_training.VitRecipe(epochs=8, batch_size=64)


def test_a_training_is_fixed_by_its_seed_and_lowers_the_loss():
    split = vision.digits()
    small = vision.Split(split.train[:256], split.train_class[:256], split.test, split.test_class)
    first, second = (vision_training.train_vit(SHORT, small) for _ in range(2))
    for (name, a), (_, b) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        assert torch.equal(a, b), name

    def loss(model):
        with torch.no_grad():
            logits = vision.classify(model, vision.patch_ids(small.train))
        return cross_entropy(logits, torch.from_numpy(small.train_class)).item()

    assert loss(first) < loss(vision.build_vit())


@pytest.fixture
def stored(tmp_path):
    split = vision.digits()
    model = vision.build_vit(random_state=4)
    vision_training.save_vit(model, SHORT, tmp_path, split)
    return tmp_path, model


def test_what_is_stored_comes_back_to_half_precision(stored):
    folder, model = stored
    back = dict(vision_training.load_vit(folder).named_parameters())
    for name, w in model.named_parameters():
        torch.testing.assert_close(back[name], w.half().float(), rtol=0, atol=0)
    card = read_json(folder / "card.json")
    split = vision.digits()
    test = vision.accuracy(vision_training.load_vit(folder), split.test, split.test_class)
    assert card["accuracy"]["test"] == test


def test_damaged_absent_and_foreign_weights_are_refused(stored, tmp_path):
    from safetensors.torch import save_file

    from saerepgeo_lib.files import sha256_file, write_json

    folder, _ = stored
    with pytest.raises(UserError, match="'saerepgeo vision --out"):
        vision_training.load_vit(tmp_path / "nowhere")
    weights = folder / vision_training.VIT_FILE
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="is not what its card describes: SHA-256"):
        vision_training.load_vit(folder)
    save_file({"embed.W_E": torch.zeros(5, 64)}, weights)
    write_json(folder / "card.json", {"sha256": sha256_file(weights)})
    with pytest.raises(UserError, match="cannot load the vision transformer"):
        vision_training.load_vit(folder)


def test_the_cases_run_on_a_vision_subject(subject, concept):
    """Their own functions, on 60 images; nothing is learned here, so no verdict is asked for."""
    sweep, _, claims = vision_study.case1(subject, concept, seeds=[0, 1])
    assert sweep.tensor_shape == (60, 2)
    assert {c.id for c in claims} == {"case1-rank-varies", "case1-beyond-nulls", "case1-stratified"}
    view = structure_table.view(subject, concept, n_random=1)
    assert view.words[0] == "[CLS]" and view.known.sum() == 60 and view.n_frames == 6
    options = {"concept": "digits", "sparse": subject.sparse, "n_groups": 3, "seed": 0}
    measured, _ = vision_study.case2(view, **options)
    whole = measured.query("left_out == -1").set_index(["measure", "space"])["value"]
    assert np.isfinite(whole["AEDP of entities"]).all()
    only = vision_study.entity_view(view)
    assert len(only.spaces["residual"].full) == 60 and only.known.all()
    seen = separability.see(subject, concept, grouping="entities")
    settings = {
        ("digits", label): separability.setting(sae, seen, grouping="entities")
        for label, sae in subject.autoencoders.items()
    }
    random_sae, random_seen = separability.see_nothing(
        subject, {"digits": concept}, l0=6, grouping="entities"
    )
    assert random_sae.cfg.d_sae == 96
    assert len(random_seen["digits"].residuals.x) == len(seen.residuals.x) == 60
    moved = vision_study.case3(
        settings, seen, sparse=subject.sparse, n_groups=3, n_bootstrap=40, n_steps=4
    )
    assert {c.id for c in carry_over.repeated(moved.claims)} == {
        "vision-separability-helps", "vision-own-effect", "vision-shrinks", "vision-explained"
    }  # fmt: skip
    doses = moved.responses.query("path == 'pushed, valid'")
    np.testing.assert_allclose(doses["AEDP"], doses["dose"], rtol=0.05)


def finding(subject, value, verdict, id="case1-rank-varies"):
    return Claim.of(id, subject, "range", Estimate(value, value - 1, value + 1, 0.5, 3), verdict)


def test_findings_stand_beside_those_on_language():
    columns = ["id", "subject", "statistic", "value", "low", "high", "verdict"]
    language = pd.DataFrame(
        [
            ("case1-rank-varies", "months: TopK SAE", "range", 1.0, 0.5, 1.5, "holds"),
            ("case1-rank-varies", "days: TopK SAE", "range", 3.0, 2.0, 4.0, "holds"),
            ("case1-rank-varies", "color: TopK SAE", "range", 0.1, 0.04, 0.2, "does not hold"),
            ("case1-rank-varies", "days (entity): TopK SAE", "range", -9.0, -9, -8, "x"),
            ("case1-rank-varies", "days: TopK SAE", "another", -90.0, -91, -89, "x"),
            ("case2-merging", "days: TopK SAE minus residual", "range", np.nan, 0, 0, "x"),
            ("case2-learned", "days: TopK SAE, merging, minus a", "range", -3.0, -4, -2, "x"),
            ("case2-learned", "months: TopK SAE, merging, minus b", "range", 2.0, 1, 3, "x"),
        ],
        columns=columns,
    )
    found = [
        finding("digits: TopK SAE", 1.1, "holds"),
        finding("digits: TopK SAE", 0.9, "does not hold"),  # from -.1: may lie below the bound
        finding("digits (entity): TopK SAE", 1.5, "holds"),
        finding("digits: TopK SAE", 5.0, "cannot be tested here"),
        finding("digits: TopK SAE minus residual", 3.0, "holds", "case2-merging"),
        finding("digits: TopK SAE, merging, minus c", 3.0, "holds", "case2-learned"),
        finding("digits: weakest", 3.0, "holds", "case1-stratified"),
    ]
    table = carry_over.beside_language(language, found)
    assert list(table["concepts"]) == [3, 3, 1, 3, 0, 2]
    assert list(table["language"]) == ["above", "above", "below", "above", "undecided", "undecided"]
    assert list(table["vision"]) == ["above", "undecided", "above", "undecided", "above", "above"]
    assert list(table["outcome"]) == ["same", "undecided", "opposite", *["undecided"] * 3]
    counts = carry_over.carried_over(table).set_index("claim").loc["case1-rank-varies"]
    assert dict(counts) == {"same": 1, "opposite": 1, "undecided": 2}
    text = carry_over.carry_over_text(table)
    assert "**1 the same way, 1 the opposite way**" in text
    assert "- Opposite: `case1-rank-varies`, TopK SAE, entity tokens (range): +1.50" in text
    dictated = table.assign(claim="case3-explained")
    assert carry_over.carry_over_text(dictated).startswith("Of 0 findings")


def test_the_shipped_table_of_language_has_the_claims_that_are_asked_again():
    language = read_claims(shipped_claims())
    for id in carry_over.REPEATED:
        told = language.loc[language["id"] == id, "subject"].map(carry_over._case)
        for sae in ("TopK SAE", "L1-ReLU SAE"):
            assert told.str.startswith(sae).any(), (id, sae)


def test_cases_over_trainings_leave_out_what_a_training_lacks():
    def point(seed, **values):
        rows = [
            {"id": k, "subject": "s", "statistic": "x", "verdict": verdict, "value": v}
            for k, (v, verdict) in values.items()
        ]
        return {"point": {"seed": seed}, "result": {"findings": rows}}

    record = {
        "points": [
            point(0, a=(1.0, "holds"), b=(None, "cannot be tested here")),
            point(1, a=(-1.0, "does not hold"), b=(2.0, "holds")),
            point(2, a=(3.0, "holds in part"), b=(-1.0, "does not hold"), c=(1.0, "holds")),
        ]
    }
    table = vision_study.over_trainings(vision_study.findings_of(record)).set_index("claim")
    assert list(table.index) == ["a", "b"]
    assert list(table.loc["a"])[2:] == [-1.0, 1.0, 3.0, 2, 3, 2]
    assert list(table.loc["b"])[2:] == [-1.0, 0.5, 2.0, 1, 2, 1]


def test_the_shipped_transformer_and_autoencoders_are_as_their_cards_say():
    """More than 95 % of the held-out images in their class, by the weights that come along."""
    subject, cards = vision_training.load_vision(), vision_training.cards()
    split = vision.digits(cards["model"]["recipe"]["seed"])
    found = vision.accuracy(subject.model, split.test, split.test_class)
    assert found > 0.95
    assert found == pytest.approx(cards["model"]["accuracy"]["test"], abs=1 / len(split.test))
    assert list(subject.autoencoders) == list(vision_training.SAES)
    assert subject.sparse == ["TopK SAE", "L1-ReLU SAE"] and subject.hook == vision.HOOK
    folder = vision_training.data_dir() / "vision"
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) < 1.5e6


def test_a_prompt_that_is_no_image_is_refused_by_the_subject(subject):
    with pytest.raises(UserError, match="got 3 words, among them 'Snow'"):
        subject.tokens(Concept("months", (Prompt("Snow in January"),)))


def test_a_new_training_replaces_the_whole_of_an_earlier_one_and_no_other_files(
    tmp_path, interrupt_at
):
    folder = tmp_path / "vision"
    (folder / "digits-l1").mkdir(parents=True)  # of an earlier training
    options = {"vit": SHORT, "n_samples": 4_096, "work": tmp_path / "work"}
    made = vision_training.make(folder, saes=["TopK SAE"], **options)
    assert list(made.autoencoders) == ["TopK SAE"]
    assert {path.name for path in folder.iterdir()} == {
        vision_training.VIT_FILE, vision_training.CARD_FILE, "digits-topk"
    }  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == {"vision", "work"}
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with interrupt_at(60):
        vision_training.make(folder, **options)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    with pytest.raises(UserError, match=r"other things \(vit.safetensors\)"):
        vision_training.make(folder / vision_training.VIT_FILE, **options)
    (folder / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match=r"other things \(thesis.tex\); name a new"):
        vision_training.make(folder, **options)
    assert (folder / "thesis.tex").read_text() == "mine" and (folder / "digits-topk").is_dir()


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_training_from_scratch_reaches_95_percent_on_held_out_images():
    split = vision.digits(1)
    model = vision_training.train_vit(vision_training.VitRecipe(seed=1), split)
    assert vision.accuracy(model, split.test, split.test_class) > 0.95
