"""Words of the world: what a word is in any script, which words do not count, and whose entity."""

import json
import re
import unicodedata
from types import SimpleNamespace

import pytest
import torch
from conftest import HOOK
from refusals import refused
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import saerepgeo_lib as srg
from saerepgeo_lib.activations.models import load_model
from saerepgeo_lib.activations.prompts import Concept, Prompt, load_concept, load_concepts
from saerepgeo_lib.activations.saes import load_sae
from saerepgeo_lib.activations.token_activations import left_out_words, read_concept
from saerepgeo_lib.activations.tokens import UNKNOWN, encode_texts, tokenize
from saerepgeo_lib.activations.words import clean, function_words, languages, place_of, words_in
from saerepgeo_lib.companion.cli import main
from saerepgeo_lib.files import read_json

NFD, ZERO_WIDTH = "re\u0301sume\u0301", "\u200b"


@pytest.mark.parametrize(("text", "language", "counts"), [
    ("isn't John's", "english", "John"),
    ("I don`t, you couldn´t, they hadn′t slept", "english", "slept"),
    ("They’ll say it isnʼt O’Brien’s", "english", "say O Brien"),
    (f"The {NFD} lay there", "english", "résumé lay"),
    ("May one to twelve of the first seven and second systems fire thirteen", "english",
     "May one twelve first seven second systems fire thirteen"),
    ("'Vitamin D', he said: snake_case, 5%!", "english", "Vitamin D said snake case 5"),
    ("L’hiver et l'e\u0301te\u0301 qu'il n'aime pas", "french", "hiver été aime"),
    ("Die Straße ist weiß", "german", "Straße weiß"),
    ("हिन्दी में जनवरी", "english", "हिन्दी में जनवरी"),
    ("يَنايِرُ بارِدٌ", "english", "يَنايِرُ بارِدٌ"),
    ("می‌خواهم", "english", "می‌خواهم"),
    ("เดือนมกราคม หนาว", "english", "เดือนมกราคม หนาว"),
    ("11月 the 很冷。", "english", "11 月 很冷"),
    ("❤️ 🎉 — __ \u0301", "english", ""),
    ("the of", "none", "the of"),
])  # fmt: skip
def test_words_of_any_script_and_apostrophes_that_are_part_of_them(text, language, counts):
    text = clean(text)
    words = words_in(text, {"function word": function_words(language)})
    assert " ".join(text[a:b] for a, b, why in words if not why) == counts


def test_a_word_is_masked_wherever_it_occurs_in_a_script_that_writes_words_together():
    found = [
        (word.start, word.left_out) for word in words_in("这个月份很冷", {"t": ["月份", "月"]})
    ]
    assert found == [(0, ""), (2, "t"), (4, "")]


COUNTING = {  # months, days, seasons, numbers, ordinals and other words of content
    "english": "january february march april may june july august september october november "
    "december monday tuesday wednesday thursday friday saturday sunday spring summer autumn winter "
    "zero one two three four five six seven eight nine ten eleven twelve thirteen twenty hundred "
    "first second third fourth fifth last fire system mine bill cry describe move side found",
    "french": "janvier mars mai été hiver deux trois quatre cinq six sept huit neuf dix premier",
    "german": "märz mai sommer eins zwei drei vier sechs sieben acht neun zehn erste weg",
    "italian": "marzo maggio estate due tre quattro cinque sei sette otto nove dieci primo",
    "spanish": "enero marzo verano uno dos tres seis siete ocho nueve diez once doce primero",
    "portuguese": "março maio verão dois três quatro seis sete oito nove dez primeiro",
    "russian": "март май лето один два три шесть семь восемь девять десять первый",
    "dutch": "maart mei zomer twee drie vier vijf zes zeven acht negen tien eerste",
    "danish": "marts maj sommer to tre fire seks syv otte ni ti anden", "finnish": "kuusi toinen",
    "norwegian": "mars mai to tre fire seks sju åtte ni ti første", "swedish": "mars maj sju nio",
}  # fmt: skip


@pytest.mark.parametrize("language", sorted(COUNTING))
def test_lists_are_of_function_words(language):
    words = function_words(language)
    assert len(words) > 80 and not words & set(COUNTING[language].split())
    assert set(COUNTING) == {*languages()} - {"none"}
    refused("unknown list of function words 'klingon'", function_words, "klingon")


@pytest.mark.parametrize(("text", "entity", "place"), [
    ("The Market is open.", "Mar", None), ("Remarkable March", "March", (11, 16)),
    ("John's hat", "John", (0, 4)), ("isn't the letter t", "t", (17, 18)),
    ("L'hiver", "hiver", (2, 7)), ("May2023", "May", None), ("May-day", "May", (0, 3)),
    ("in 11月", "1月", None), ("十一月很冷", "一月", (1, 3)), ("เดือน", "เด", None),
    ("1월은 춥다", "1월", (0, 2)), ("e\u0302x", "e", None), ("हिन्दी", "हि", None),
    ("3.14 begins with 3", "3", (17, 18)), ("only 3.14", "3", None),
    ("of 2,000 one, 2", "2", (14, 15)), ("user_id, id", "id", (9, 11)), ("-5 or 5", "5", (6, 7)),
    ("Count 1,2,3 now", "2", (8, 9)), ("on 1.1.2024", "1", (3, 4)), ("x 2٫5 or 2", "2", (9, 10)),
    ("2,000", "000", None), ("at 3.", "3", (3, 4)), ("twenty-one cats, one", "one", (17, 20)),
    ("e\u2011mail or mail", "mail", (10, 14)),
])  # fmt: skip
def test_an_entity_is_whole_words_or_any_part_where_words_are_written_together(text, entity, place):
    assert place_of(clean(text), entity) == place


def entities(*given, frame="On {} it rains."):
    return [{"text": frame.replace("{}", e), "entity": e} for e in given]


@pytest.mark.parametrize(("prompts", "words"), [
    ([{"text": "The Market is open.", "entity": "Mar"}], ["prompts[0]", "'Mar'", "word or number"]),
    ([{"text": "The Market.", "entity": "Mar", "frame": "The {}ket."}], ["whole word"]),
    ([*entities("May", "May ")], ["prompts[1]", "duplicate"]),
    ([*entities("January", "january")], ["'January' and 'january'", "same way"]),
    ([*entities("New York"), *entities("New\u00a0York", frame="In {} it rains.")],
     ["case, spaces"]),
    ([*entities("Valentine's Day", "Valentine’s Day")], ["duplicate"]),
    ([*entities("twenty-one"), *entities("twenty\u2011one", frame="At {}.")], ["hyphens; write"]),
    ([{"text": "In New\u00a0York.", "entity": "New York"}], ["form of a space"]),
    ([{"text": "It’s John’s.", "entity": "John's"}], ["form of a space, an apostrophe"]),
    ([*entities("May", "May Day"), {"text": "May Day is near.", "entity": "May"}],
     ["prompts[2]", "stands inside 'May Day'"]),
    ([{"text": "十一月冷", "entity": "一月"}, {"text": "十一月热", "entity": "十一月"}],
     ["inside '十一月'"]),
    (["A hammer.", "A  hammer."], ["prompts[1]: duplicate of prompt 0"]),
    (["A hammer.", "A\u00a0hammer. "], ["duplicate"]),
    (["A ham\u00admer.", "A hammer."], ["duplicate"]),
    (["A hammer.", "\u200fA hammer.\u200e"], ["duplicate"]),
    ([f"A {NFD}.", "A résumé."], ["duplicate"]),
    (["می‌روم", "میروم"], ["duplicate"]),
    ([ZERO_WIDTH], ["prompts[0]", "empty"]),
])  # fmt: skip
def test_parts_of_words_and_texts_that_look_alike_are_refused(tmp_path, prompts, words):
    path = tmp_path / "concepts.json"
    path.write_text(json.dumps({"c": prompts}))
    with pytest.raises(srg.UserError) as told:
        load_concepts(path)
    assert not [word for word in words if word not in str(told.value)]
    path.write_text(json.dumps({"Möbel": ["A."], unicodedata.normalize("NFD", "Möbel"): ["B."]}))
    refused("look alike; rename one", load_concepts, path)
    path.write_text(json.dumps({unicodedata.normalize("NFD", "Möbel"): ["A saw."]}), "utf-8-sig")
    assert load_concept("Möbel", path).name == "Möbel" == unicodedata.normalize("NFC", "Möbel")
    path.write_text('{"c": ["A saw."]}', "utf-16")
    refused("not in UTF-8 .*; save it in that form", load_concepts, path)
    path.write_text(json.dumps({"c": {"prompts": ["A saw."], "template_words": ["a saw"]}}))
    refused("'a saw' is not one word", load_concepts, path)


FRAMES = {  # of five scripts; three entities each
    "latin": (("février", "août", "décembre"),
              ("Le café est fermé en {}.", "Il a neigé dès {}.", "{} est passé, l’hôtel aussi.")),
    "hindi": (("जनवरी", "मार्च", "दिसंबर"), ("{} में ठंड थी।", "दुकान {} में खुली।", "हम {} तक रुके।")),
    "thai": (("มกราคม", "เมษายน", "ธันวาคม"), ("เดือน{}หนาวมาก", "ร้านปิดใน{}", "ฝนตกหลัง{}")),
    "arabic": (("يَنايِر", "مارِس", "أُكتوبَر"),
               ("كانَ {} بارِدًا.", "سافَرنا في {}.", "بَعدَ {} نَزَلَ المَطَر.")),
    "chinese": (("一月", "五月", "十月"), ("{}天气很冷。", "我们在{}出发。", "商店{}关门。")),
}  # fmt: skip


@pytest.fixture
def concept_file(tmp_path):
    """A file with a concept in each of the five scripts, Latin in decomposed form."""
    content = {
        name: [{"text": unicodedata.normalize("NFD", frame.replace("{}", e)),
                "entity": unicodedata.normalize("NFD", e),
                "frame": unicodedata.normalize("NFD", frame)}
               for frame in frames for e in members]
        for name, (members, frames) in FRAMES.items()
    }  # fmt: skip
    path = tmp_path / "scripts.json"
    path.write_text(json.dumps(content))
    return path


def byte_level(trim=True):
    """GPT-2's kind of tokenizer without merges: a token a byte."""
    alphabet = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<|endoftext|>"]
    base = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    base.post_processor = processors.ByteLevel(trim_offsets=trim)
    end = alphabet[-1]
    return PreTrainedTokenizerFast(
        tokenizer_object=base, bos_token=end, eos_token=end, unk_token=end
    )


def byte_fallback():
    """Llama's kind: spaces are written "▁", and what is unknown as bytes."""
    known = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", *"abcdefgh"]
    base = Tokenizer(models.BPE({c: i for i, c in enumerate(known)}, [], byte_fallback=True,
                                unk_token="<unk>"))  # fmt: skip
    base.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=base, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.mark.parametrize("tokenizer", [byte_level(), byte_level(trim=False), byte_fallback()])
def test_every_piece_of_a_character_counts_in_a_byte_level_tokenizer(tokenizer):
    """As many tokens as the words that count have bytes."""
    thai, latin = "เดือนมกราคม หนาว", "an isn't John's <|endoftext|> bad é"
    for text, entity, counts in ((thai, "มกราคม", thai.replace(" ", "")),
                                 (f"the {NFD}.", None, "résumé"),
                                 (latin, None, "Johnendoftextbadé")):  # fmt: skip
        tokens = tokenize(tokenizer, Concept("c", (Prompt(text, entity),)), n_ctx=512)
        special = tokenizer.bos_token == "<|endoftext|>" and "<|" in text
        expected = counts.replace("endoftext", "") if special else counts
        assert tokens.content.sum() == len(expected.encode())
        assert tokens.entity.sum() == len((entity or "").encode())
    assert set(tokens.left_out["function word"]) == {"an", "isn't", "s"}
    assert ("<|endoftext|>" in tokens.left_out[UNKNOWN]) == special


def test_special_tokens_are_put_in_front_as_the_sae_was_trained_and_by_nobody_else():
    """Not by a CLS token that a causal model's tokenizer has, nor by the prompts."""
    tokenizer, concept = byte_fallback(), Concept("c", (Prompt("a bad cab", "cab"),))
    tokenizer.cls_token = "<s>"

    def first(**options):
        ids = tokenize(tokenizer, concept, n_ctx=512, **options).ids[0]
        return tokenizer.convert_ids_to_tokens(ids)[0]

    assert first(causal=True, prepend_bos=True) == "<s>" != first(causal=True, prepend_bos=False)
    for text in ("<s>a bad cab", " <s>a bad cab"):
        twice = Concept("c", (Prompt(text, "cab"),))
        refused("begins with the special token '<s>'; leave it out", tokenize, tokenizer, twice,
                n_ctx=512, causal=True)  # fmt: skip
    slow = SimpleNamespace(is_fast=False)
    refused("cannot tell which characters", encode_texts, slow, ["a"])


def test_what_the_tokenizer_does_not_know_never_counts_and_is_told(minilm):
    prompts = Prompt("Snow fell on หิมะ, in May.", "May"), Prompt("The ice of may.", "may")
    acts = read_concept(minilm, Concept("c", prompts[:1], frozenset({"fell"})), HOOK)
    assert acts.tokens.left_out == {
        "function word": {"on": 1, "in": 1}, "template word": {"fell": 1}, UNKNOWN: {"หิมะ": 1}
    }  # fmt: skip
    assert minilm.tokenizer.convert_ids_to_tokens(acts.tokens.ids[acts.tokens.content]) == [
        "snow", "may"]  # fmt: skip
    table = left_out_words([acts]).set_index("left out as")
    assert table.loc["function word", ["concept", "words", "which"]].tolist() == [
        "c", 2, "on (1), in (1)"]  # fmt: skip

    def read(*prompts):
        return read_concept(minilm, Concept("c", prompts), HOOK)

    refused("does not know the entity 'มกราคม'", read, Prompt("In มกราคม it rains.", "มกราคม"))
    refused("words that the tokenizer does not know", read, Prompt("หิมะ"))
    chinese = read(Prompt("一月天气很冷。", "一月")).tokens  # each character is a token
    assert set(chinese.left_out[UNKNOWN]) == {"气", "很", "冷"} and chinese.content.sum() == 3
    refused("is the same as 'A saw.'", read, Prompt("A saw."), Prompt("a SAW."))
    refused("'May' and 'may'", read, *prompts)
    assert len(read_concept(minilm, Concept("c", (Prompt("the ice"),)), HOOK,
                            function_words="none")) == 2  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A GPT-2 of 8 dimensions with a byte-level tokenizer, and an SAE for it."""
    folder, tokenizer = tmp_path_factory.mktemp("tiny"), byte_level()
    torch.manual_seed(0)
    sizes = {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 256, "n_ctx": 256}
    model = GPT2LMHeadModel(GPT2Config(
        vocab_size=len(tokenizer), bos_token_id=256, eos_token_id=256, **sizes))  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_model(str(folder))


@pytest.mark.parametrize(
    "name", ["tiny", "minilm", pytest.param("smollm2", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("script", sorted(FRAMES))
def test_five_scripts_go_through_case_1_or_are_refused_with_a_sentence(
    script, name, concept_file, small_sae, request
):
    """The sentence encoder knows no Thai; the rest it reads, and byte-level models all."""
    sae = {"tiny": None, "minilm": "minilm-l4-topk", "smollm2": "smollm2-b10-topk"}[name]
    saes = {"TopK": load_sae(sae) if sae else small_sae}
    hook = "blocks.10.hook_out" if name == "smollm2" else "blocks.1.hook_out"
    pair = srg.ModelWithSAEs(request.getfixturevalue(name), saes, hook=hook)
    concept = load_concept(script, concept_file)
    if (name, script) == ("minilm", "thai"):
        refused("does not know the entity", pair.activations, concept)
        return
    acts = pair.activations(concept, function_words="french" if script == "latin" else "none")
    profile = srg.rank_profile(acts, levels=[0, 0.1], seeds=[0, 1], max_slots=1)
    assert torch.isfinite(acts.x).all() and len(acts.concept.entities) == 3
    clean_rank = profile.table.query("label == 'residual' and level == 0 and rule == 'exact'")
    assert profile.table["mean"].notna().all() and clean_rank["mean"].max() > 1
    assert set(acts.prompt[acts.in_entity].tolist()) == set(range(len(concept.prompts)))


@pytest.mark.slow
def test_a_page_shows_what_it_masks_and_says_what_it_cannot_read(concept_file, tmp_path, capsys):
    def run(concept, language):
        given = {"preset": "minilm", "prompts_file": concept_file, "concept": concept,
                 "function_words": language, "noise_levels": "[0, 1]", "n_seeds": "2",
                 "max_slots": "1"}  # fmt: skip
        words = [word for name, value in given.items() for word in ("-p", name, str(value))]
        return main(["run", "stratified_manifold", *words, "-o", str(tmp_path / "o")])

    assert run("latin", "french") == 0
    (path,) = (tmp_path / "o").glob("*/*.record.json")
    left_out = read_json(path)["tables"]["left_out"]
    assert left_out["left out as"] == ["function word", "template word", UNKNOWN]
    assert re.search(r"\best \(6\).*\bl \(3\)", left_out["which"][0])
    assert run("thai", "none") == 2
    assert "does not know the entity 'มกราคม'" in capsys.readouterr().err
    assert run("latin", "klingon") == 2
    assert "function_words must be none, or a language with a list" in capsys.readouterr().err
