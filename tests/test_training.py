import numpy as np
import pytest
import torch
from sae_lens import SAE

from saerepgeo_lib import training
from saerepgeo_lib.corpus import Passage, embedded_passages, user_passages
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.prompts import load_concepts

METADATA = {"hook_name": "blocks.4.hook_out", "model_name": "test"}


def activations(n=4000, d=16):
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(24, d))
    codes = rng.random((n, 24)) * (rng.random((n, 24)) < 0.1)
    return [(codes @ directions * 4).astype(np.float16)]


def test_batches_are_fixed_by_seed_and_can_start_anywhere():
    data = activations(100)
    whole = training.ShuffledBatches(data, batch_size=30, seed=1)
    first = [next(whole) for _ in range(8)]
    late = training.ShuffledBatches(data, batch_size=30, seed=1, start=5)
    assert torch.equal(next(late), first[5])
    assert not torch.equal(first[0], first[3])  # a new epoch has a new order


@pytest.mark.parametrize(("kind", "coefficient"), [("topk", 4), ("standard", 1.0)])
def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path, kind, coefficient, interrupt_at
):
    recipe = training.Recipe("t", kind, coefficient, n_samples=64 * 1200, expansion=2,
                             batch_size=64)  # fmt: skip

    def run(folder):
        return training.train(recipe, activations(), metadata=METADATA, checkpoints=folder)

    whole = run(tmp_path / "a")
    with interrupt_at(900):
        run(tmp_path / "b")
    assert list((tmp_path / "b").glob("*/whole"))
    resumed = run(tmp_path / "b")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_what_is_saved_is_what_plain_saelens_loads_and_what_the_card_measures(tmp_path):
    recipe = training.Recipe("t", "topk", 4, n_samples=6400, expansion=2, batch_size=64)
    sae = training.train(recipe, activations(), metadata=METADATA, checkpoints=tmp_path / "c")
    measured = []
    card = training.save(
        sae,
        recipe,
        tmp_path / "out",
        corpus={"name": "test"},
        fit=lambda saved: measured.append(saved) or {"x": 1},
    )
    loaded = SAE.load_from_disk(tmp_path / "out")
    x = torch.from_numpy(activations(50)[0]).float()
    assert torch.equal(loaded.encode(x), measured[0].encode(x))
    assert loaded.dtype == torch.float32 and loaded.cfg.metadata.hook_name == METADATA["hook_name"]
    assert card["fit"] == {"x": 1}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "out"]


def test_a_user_s_text_is_read_by_line_and_held_out_by_its_own_text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n".join(["", *(f"line {i}" for i in range(2000))]))
    passages = user_passages(path)
    assert len(passages) == 2000 and passages[0] == Passage("line 0", "user")
    assert 0.005 < sum(p.held_out for p in passages) / 2000 < 0.04
    path.write_text("\n \n")
    with pytest.raises(UserError, match="no non-empty line"):
        user_passages(path)
    with pytest.raises(UserError, match="no WordNet database"):
        embedded_passages(n_frame_sentences=1, wordnet=tmp_path)


def test_activations_are_collected_once_and_resumed_by_chunk(tmp_path, minilm, monkeypatch):
    monkeypatch.setattr(training, "_CHUNK", 8)
    passages = [Passage(f"The number {i} stands here.", "a" if i % 2 else "b") for i in range(60)]
    hook = "blocks.4.hook_out"
    first = training.collect_activations(minilm, hook, passages, folder=tmp_path)
    n_tokens = sum(len(minilm.tokenizer(p.text)["input_ids"]) - 2 for p in passages)
    assert sum(len(a) for a in first.train) + len(first.held_out) == n_tokens
    assert len(first.held_out_source) == len(first.held_out)
    (tmp_path / "0001.npy").unlink()
    ran = []
    real = training._chunk_activations
    monkeypatch.setattr(training, "_chunk_activations", lambda *a: (ran.append(1), real(*a))[1])
    again = training.collect_activations(minilm, hook, passages, folder=tmp_path)
    assert len(ran) == 1
    assert all(np.array_equal(a, b) for a, b in zip(first.train, again.train, strict=True))


@pytest.mark.slow
def test_no_concept_prompt_is_in_the_corpus():
    if not training.WORDNET_DIR.is_dir():
        pytest.skip("needs Debian's wordnet-base")
    texts = {p.text for p in embedded_passages(n_frame_sentences=training.N_FRAME_SENTENCES)}
    assert len(texts) > 200_000
    assert not [p for c in load_concepts().values() for p in c.prompts if p.text in texts]
