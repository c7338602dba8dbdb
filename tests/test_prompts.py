import json

import pytest

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.files import data_dir
from saerepgeo_lib.prompts import Prompt, load_concept, load_concepts

MEMBERS = {
    "months": 12, "days": 7, "elements": 18, "color": 7, "planets": 8,
    "number": 21, "alphabet": 26, "constellations": 12,
}  # fmt: skip


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


def test_plain_form(tmp_path):
    concept = load_concept("tools", write(tmp_path, {"tools": ["A saw.", "A hammer."]}))
    assert concept.prompts == (Prompt("A saw."), Prompt("A hammer."))
    assert concept.entities == ()


def test_an_entity_is_found_as_a_whole_word_or_where_its_frame_says():
    assert Prompt("An A in Ann", entity="A").entity_span == (3, 4)
    assert Prompt("May may", entity="may", frame="May {}").entity_span == (4, 7)


OBJECT = {"text": "On Monday.", "entity": "Monday"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{not json", ["not JSON", "line 1"]),
        ('{"days": ["x"], "days": ["y"]}', ["'days' occurs twice"]),
        ([], ["expected an object", "a list"]),
        ({}, ["expected an object"]),
        ({"days": []}, ["'days'", "no prompts"]),
        ({"days": "Monday"}, ["'days'", "expected a list", "a string"]),
        ({"days": ["On Monday.", 3]}, ["'days'", "prompt 1", "int"]),
        ({"days": ["On Monday.", " "]}, ["prompt 1", "empty"]),
        ({"days": ["On Monday.", "On Monday."]}, ["prompt 1", "duplicate of prompt 0"]),
        ({"days": [{**OBJECT, "entitty": "x"}]}, ["prompt 0", "'entitty'", "'entity'"]),
        ({"days": {"prompts": ["x"], "template_word": []}}, ["template_word", "template_words"]),
        ({"days": [{"text": "On Monday.", "entity": "Sunday"}]}, ["prompt 0", "absent"]),
        ({"days": [{**OBJECT, "frame": "At {}."}]}, ["prompt 0", "frame"]),
        ({"days": [{"text": "On Monday.", "frame": "On {}."}]}, ["frame but no entity"]),
        ({"days": [OBJECT, "On Sunday."]}, ["every prompt or no prompt"]),
        ({"days": [{"entity": "Monday"}]}, ["prompt 0", "no 'text'"]),
        ({"days": {"prompts": ["x"], "template_words": [1]}}, ["template_words"]),
    ],
)
def test_malformed_files_are_refused_with_place_and_reason(tmp_path, content, words):
    with pytest.raises(UserError) as caught:
        load_concepts(write(tmp_path, content))
    for word in words:
        assert word in str(caught.value)


def test_an_unknown_concept_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'months'"):
        load_concept("month")
