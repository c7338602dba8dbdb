"""Prompts, the tokens of them that count, and the residual stream at these."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import HOOK
from refusals import refused
from tiny_models import put_tiny

from saerepgeo_lib.activations import residual_stream
from saerepgeo_lib.activations.latents import fvu
from saerepgeo_lib.activations.models import best_device, load_model
from saerepgeo_lib.activations.prompts import Concept, Prompt, load_concept, load_concepts
from saerepgeo_lib.activations.residual_stream import add_noise, rms, run_to_hook
from saerepgeo_lib.activations.token_activations import TokenActivations, read_concept
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.files import data_dir
from saerepgeo_lib.studies.trust import trust_in

MEMBERS = {
    "months": 12, "days": 7, "elements": 18, "color": 7, "planets": 8,
    "number": 21, "alphabet": 26, "constellations": 12,
}  # fmt: skip


OBJECT = {"text": "On Monday.", "entity": "Monday"}


def write(tmp_path, content):
    path = tmp_path / "concepts.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_the_nine_concepts_have_all_members_in_twelve_frames_each():
    concepts = load_concepts()
    found = {name: len(c.entities) for name, c in concepts.items()}
    assert found.pop("phonetic_symbol") >= 28
    assert found == MEMBERS
    for concept in concepts.values():
        frames = {p.frame for p in concept.prompts}
        assert len(frames) >= 12
        assert len(concept.prompts) == len(frames) * len(concept.entities)
        assert concept.template_words


def test_no_frame_of_a_prompt_is_a_training_frame():
    training = json.loads((data_dir() / "training_frames.json").read_text())

    def skeleton(frame):
        return tuple(w for w in frame.replace("/", " ").split() if "{" not in w)

    trained = {skeleton(f) for frames in training.values() for f in frames}
    tested = {skeleton(p.frame) for c in load_concepts().values() for p in c.prompts}
    assert trained.isdisjoint(tested)


def test_plain_and_full_form_and_an_entitys_place(tmp_path):
    full = {"prompts": [OBJECT], "template_words": ["On"]}
    path = write(tmp_path, {"tools": ["A saw.", "A hammer."], "days": full})
    plain = load_concept("tools", path)
    assert plain.prompts == (Prompt("A saw."), Prompt("A hammer.")) and plain.entities == ()
    assert load_concept("days", path).template_words == {"on"}
    refused("did you mean 'tools'", load_concept, "tool", path)
    assert Prompt("An A in Ann", entity="A").entity_span == (3, 4)
    assert Prompt("May may", entity="may", frame="May {}").entity_span == (4, 7)


@pytest.mark.parametrize(("content", "words"), [
    ("{not json", ["not JSON", "line 1"]),
    ('{"days": ["x"], "days": ["y"]}', ["'days' occurs twice"]),
    ([], ["expected an object", "got []"]),
    ({}, ["expected an object"]),
    ({"days": []}, ["days: ", "no prompts"]),
    ({"days": "Monday"}, ["days.prompts: ", "list", "'Monday'"]),
    ({"days": ["On Monday.", 3]}, ["days.prompts[1]", "string, got 3"]),
    ({"days": ["On Monday.", " "]}, ["prompts[1]", "empty"]),
    ({"days": ["On Monday.", "On Monday."]}, ["prompts[1]", "duplicate of prompt 0"]),
    ({"days": [{**OBJECT, "entitty": "x"}]}, ["prompts[0]", "'entitty'", "'entity'"]),
    ({"days": {"prompts": ["x"], "template_word": []}}, ["template_word", "template_words"]),
    ({"days": [{"text": "On Monday.", "entity": "Sunday"}]}, ["prompts[0]", "absent"]),
    ({"days": [{**OBJECT, "frame": "At {}."}]}, ["prompts[0]", "frame"]),
    ({"days": [{"text": "On Monday.", "frame": "On {}."}]}, ["frame but no entity"]),
    ({"days": [{"text": "On Monday.", "entity": None}]}, ["prompts[0]", "null is no value"]),
    ({"days": [OBJECT, "On Sunday."]}, ["every prompt or no prompt"]),
    ({"days": [{"entity": "Monday"}]}, ["prompts[0].text", "required"]),
    ({"days": {"prompts": ["x"], "template_words": [1]}}, ["template_words[0]", "got 1"]),
])  # fmt: skip
def test_malformed_files_are_refused_with_place_and_reason(tmp_path, content, words):
    with pytest.raises(UserError) as caught:
        load_concepts(write(tmp_path, content))
    assert not [word for word in words if word not in str(caught.value)]


def concept_of(*prompts, template=()):
    return Concept("c", tuple(prompts), frozenset(template))


def content_words(minilm, *prompts, **options):
    tokens = read_concept(minilm, concept_of(*prompts, **options), HOOK).tokens
    assert not (tokens.entity & ~tokens.content).any()
    rows = zip(tokens.ids, tokens.content, strict=True)
    return [minilm.tokenizer.convert_ids_to_tokens(ids[kept]) for ids, kept in rows]


def test_content_leaves_out_specials_padding_punctuation_function_and_template_words(minilm):
    march = Prompt("The shop opens in March, not this month.", "March")
    words = content_words(minilm, march, Prompt("Snow."), template=["month"])
    assert words == [["shop", "opens", "march"], ["snow"]]
    # An entity counts even if it is a function word.
    assert content_words(minilm, Prompt("Write A here now", "A")) == [["write", "a"]]
    with pytest.raises(UserError, match="prompt 1: 602 tokens exceed"):
        content_words(minilm, Prompt("snow"), Prompt("snow " * 600))
    refused("prompt 0: only function words", content_words, minilm, Prompt("the of and."))


def test_a_prompt_has_the_same_residual_alone_and_in_a_padded_batch(minilm):
    long = Prompt("Heavy snow fell across the quiet valley in January and again in cold February.")
    short = Prompt("Snow melts.")
    together = read_concept(minilm, concept_of(short, long), HOOK)
    alone = read_concept(minilm, concept_of(short), HOOK)
    torch.testing.assert_close(together.x[together.prompt == 0], alone.x, atol=1e-4, rtol=1e-4)


def test_masked_tokens_never_reach_a_result(minilm, days, monkeypatch):
    """All that is computed later starts from these activations."""

    def poison(model, ids, attention, hook):
        """What the real model gives, but for the masked positions."""
        x = run_to_hook(model, ids, attention, hook)
        same = (ids[:, None] == days.tokens.ids[:, : ids.shape[1]]).all(2)
        x[~days.tokens.content[same.int().argmax(1), : ids.shape[1]]] = float("nan")
        assert torch.isnan(x).any()
        return x

    monkeypatch.setattr(residual_stream, "run_to_hook", poison)
    poisoned = read_concept(minilm, days.concept, HOOK)
    assert torch.equal(poisoned.x, days.x)
    for name in ("prompt", "position", "in_entity"):
        assert torch.equal(getattr(poisoned, name), getattr(days, name))


@pytest.mark.parametrize("hook", ["blocks.5.hook_out", "blocks.2.hook_mlp_out"])
def test_the_forward_pass_ends_at_the_hook_and_gives_what_a_whole_one_does(minilm, hook):
    tokens = read_concept(minilm, concept_of(Prompt("Snow melts."), Prompt("snow")), HOOK).tokens
    fired = []
    ends = [(lambda name: name.endswith("_out"), lambda x, hook: fired.append(hook))]
    with minilm.hooks(ends):
        x = run_to_hook(minilm, tokens.ids, tokens.attention, hook)
    assert fired.index(minilm.hook_dict[hook]) == len(fired) - 1
    fired.clear()
    with torch.no_grad():
        _, whole = minilm.run_with_cache(tokens.ids, attention_mask=tokens.attention.long())
    assert torch.equal(x, whole[hook]) and not fired


def test_a_hook_that_was_left_on_the_model_is_refused(minilm):
    concept = concept_of(Prompt("Snow melts."))
    halved = "blocks.3.attn.hook_out", lambda x, hook: x * 0.5
    before = read_concept(minilm, concept, HOOK).x
    minilm.add_hook(*halved)
    try:
        words = r"hook at 'blocks.3.\S+' that was left .* model.reset_hooks\("
        refused(words, read_concept, minilm, concept, HOOK)
    finally:
        minilm.reset_hooks(including_permanent=True)
    assert torch.equal(read_concept(minilm, concept, HOOK).x, before)
    with minilm.hooks([halved]):  # on purpose
        assert not torch.equal(read_concept(minilm, concept, HOOK).x, before)


def test_a_missing_hook_names_the_nearest(minilm):
    for hook, words in {
        "blocks.4.hook_outt": r"no hook 'blocks.4.hook_outt'.*'blocks.4.hook_out'",
        "blocks.11.hook_out": "has 6 blocks, 0 to 5",
        "blocks.5.attn.hook_result": r"'blocks.5.attn.hook_result' is switched off: .*",
    }.items():
        refused(words, read_concept, minilm, concept_of(Prompt("snow")), hook)


def test_noise_has_the_asked_size_and_comes_from_its_generator():
    x = torch.randn(400, 64, generator=torch.Generator().manual_seed(0)) * 3 + 7

    def noisy(level, scaling, seed):
        generator = torch.Generator().manual_seed(seed)
        return add_noise(x, level, scaling=scaling, generator=generator)

    relative = noisy(0.5, "relative", 1)
    assert torch.equal(relative, noisy(0.5, "relative", 1))
    assert not torch.equal(relative, noisy(0.5, "relative", 2))
    assert (relative - x).std().item() == pytest.approx(0.5 * rms(x), rel=0.02)
    assert rms(x) == pytest.approx(3, rel=0.02)
    assert rms(x + 100) == pytest.approx(rms(x), rel=1e-5)
    assert (noisy(0.5, "absolute", 1) - x).std().item() == pytest.approx(0.5, rel=0.02)
    assert torch.equal(noisy(0, "absolute", 0), x)
    refused("finite number >= 0", noisy, -1, "absolute", 0)


def test_activations_know_the_entity_and_frame_of_each_token(days):
    concept = load_concept("days")
    entity = days.at("entity")
    assert len(entity) == len(concept.prompts) and entity.by_position == {"entity": entity}
    assert list(days.by_position) == ["content", "entity"]
    frames = list(dict.fromkeys(prompt.frame for prompt in concept.prompts))
    for acts in (days, entity):
        for p, number, frame in zip(acts.prompt.tolist(), acts.entity, acts.frame, strict=True):
            prompt = concept.prompts[p]
            assert number == -1 or concept.entities[number] == prompt.entity
            assert frames[frame] == prompt.frame
        assert (acts.entity[acts.in_entity] >= 0).all() and (acts.folds(4) == acts.frame % 4).all()
    assert (days.entity[~days.in_entity] == -1).all()


def test_an_entity_without_a_frame_has_the_one_that_its_text_shows(days):
    """In whatever order the prompts stand, so that an interval does not depend on it."""
    prompts = [replace(prompt, frame=None) for prompt in days.concept.prompts]
    bare = replace(days, concept=replace(days.concept, prompts=tuple(prompts)))
    assert (bare.frame == days.frame).all() and (bare.folds(4) == days.folds(4)).all()
    assert Prompt("The Sun, a sun", "sun").context == "The Sun, a {}"
    assert Prompt("{} on Mars", "Mars").context == "{} on {}"
    assert Prompt("No entity").context == "No entity"


def test_frames_that_begin_alike_are_one_context_of_a_causal_model(tmp_path):
    """What stands before an entity is all that it has seen; the words after it are not."""
    begun = ("The {} {}.", "A {} {}.", "{} {}.")
    entities, ends = ("snow", "January", "word1", "word2"), ("melts", "in", "word3")

    def acts_of(model, *starts):
        frames = [start.format("{}", end) for start in starts for end in ends]
        prompts = [Prompt(f.format(e), e, f) for f in frames for e in entities]
        return read_concept(model, Concept("tools", tuple(prompts)), "blocks.1.hook_out")

    model = load_model(str(put_tiny(tmp_path / "causal", "LlamaForCausalLM")))
    for acts in (acts_of(model, *begun), acts_of(model, *begun).at("entity")):
        assert (acts.context == acts.frame // 3).all() and len(np.unique(acts.frame)) == 9
        assert (acts.folds(12) == acts.context).all() and (acts.folds(4) == acts.context).all()
        assert "36 entity tokens of tools are 12 different points" in acts.shared_contexts
    few = acts_of(model, *begun[:2])
    words = (
        "at least 3 frames, got 2. The 24 entity tokens of tools are 8 different points, so there "
        "are 2 different contexts and not 6; put different words before the entity."
    )
    refused(words, few.at("entity").folds, 12)
    (doubt,) = trust_in([few], saes={}).doubts
    assert doubt.reason in words and doubt.tokens == "entity"
    assert not trust_in([acts_of(model, *begun)], saes={}).doubts
    both = load_model(str(put_tiny(tmp_path / "both", "BertForMaskedLM")))
    seen = acts_of(both, *begun[:2])
    assert (seen.context == seen.frame).all() and not seen.shared_contexts


def test_what_is_not_known_or_does_not_vary_is_refused(minilm, days, small_sae):
    plain = read_concept(minilm, concept_of(Prompt("Snow, ice."), Prompt("Ice.")), HOOK)
    assert plain.frame.tolist() == [0, 0, 1] and plain.entity.tolist() == [-1] * 3
    refused("carry an entity", plain.at, "entity")
    refused("at least 3 frames, got 2", plain.folds, 6)
    with pytest.raises(UserError, match="a concept's prompts only"):
        TokenActivations(days.x, days.prompt, days.position, days.in_entity).entity  # noqa: B018
    assert best_device("cpu") == "cpu"
    refused("try 'auto' or 'cpu'", best_device, "gpu9")
    refused("do not vary", fvu, small_sae, torch.ones(3, 8))


def test_drawn_prompts_are_balanced_over_entities_in_order_and_the_same_again():
    days = load_concept("days")
    for n in (1, 7, 30, 60):
        few = days.drawn(n, seed=3)
        counts = [[p.entity for p in few.prompts].count(entity) for entity in days.entities]
        assert sum(counts) == n and max(counts) - min(counts) <= 1
        places = [days.prompts.index(prompt) for prompt in few.prompts]
        assert places == sorted(places) and few == days.drawn(n, seed=3)
        assert n == 1 or few != days.drawn(n, seed=4)
    assert days.drawn(0) is days and days.drawn(10**6) is days
    refused("at least 1, or 0 for all, got -1", days.drawn, -1)
    plain = Concept("plain", tuple(Prompt(f"Sentence {i}.") for i in range(9)))
    assert len(plain.drawn(4).prompts) == 4
    rare = Concept("rare", (*days.prompts[:50], Prompt("Pluto is far.", "Pluto")))
    assert rare.drawn(20).prompts[-1].entity == "Pluto"


def test_dropout_has_no_part_in_what_is_read_and_the_model_is_left_as_it_was(minilm):
    concept = Concept("c", (Prompt("Snow fell in May.", "May"),))
    x = read_concept(minilm, concept, HOOK).x
    try:
        minilm.train()
        assert torch.equal(read_concept(minilm, concept, HOOK).x, x)
        assert minilm.training and all(module.training for module in minilm.modules())
    finally:
        minilm.eval()


def test_activations_of_ones_own_are_finite():
    x, rows = torch.ones(4, 3), torch.arange(4)
    x[1, 2] = float("nan")
    refused("1 of 4 rows of these activations are NaN", TokenActivations, x, rows, rows, rows > 2)
