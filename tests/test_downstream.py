"""What is put back at the hook reaches the tokens meant, and nothing else."""

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformer_lens.model_bridge import TransformerBridge
from transformers.activations import NewGELUActivation

from saerepgeo_lib import downstream, prompts, residuals, tokens
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.models import load_model

HOOK = "blocks.4.hook_out"


@pytest.fixture(scope="module")
def concept():
    return prompts.load_concept("days")


@pytest.fixture(scope="module")
def coded(minilm, concept):
    return tokens.tokenize(minilm.tokenizer, concept, n_ctx=minilm.cfg.n_ctx)


def test_the_same_residual_has_no_effect_and_zeros_have_one(minilm, coded, days):
    clean = downstream.outputs(minilm, coded, HOOK, days)
    same = downstream.outputs(minilm, coded, HOOK, days, days.x, batch_size=20)
    torch.testing.assert_close(same, clean, rtol=1e-4, atol=1e-5)
    cosine = downstream.effect(clean, same)
    assert cosine.shape == (84,) and cosine.min() > 1 - 1e-5
    zeroed = downstream.effect(clean, downstream.outputs(minilm, coded, HOOK, days, 0 * days.x))
    assert zeroed.max() < 0.9
    # the hook is gone afterwards
    torch.testing.assert_close(downstream.outputs(minilm, coded, HOOK, days), clean)


def test_an_edit_of_one_prompt_changes_this_prompt_only(minilm, coded, days):
    clean = downstream.outputs(minilm, coded, HOOK, days, batch_size=30)
    x = days.x.clone()
    x[days.prompt == 40] *= 0.5
    moved = downstream.outputs(minilm, coded, HOOK, days, x, batch_size=30)
    changed = (moved - clean).abs().amax(dim=1) > 1e-4
    assert changed.nonzero()[:, 0].tolist() == [40]


def test_embeddings_are_the_mean_over_the_prompts_tokens(minilm, coded, days):
    last = residuals.run_to_hook(minilm, coded.ids[:5], coded.attention[:5], "blocks.5.hook_out")
    found = downstream.outputs(minilm, coded, HOOK, days)[:5]
    for row, x, inside in zip(found, last, coded.attention, strict=False):
        torch.testing.assert_close(row, x[inside].mean(0), rtol=1e-3, atol=1e-4)


def test_a_replacement_of_another_shape_is_refused(minilm, coded, days, unchecked):
    with pytest.raises(UserError, match="one row a token"):
        downstream.outputs(minilm, coded, HOOK, days, days.x[:3])


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    """A small GPT-2 with random weights, and its tokenizer, in a folder."""
    folder = tmp_path_factory.mktemp("gpt2")
    words = ["<s>", "the", "cat", "dog", "sat", "ran", "on", "mat", "home", "[UNK]"]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="<s>", unk_token="[UNK]"
    )
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(words), n_embd=16, n_layer=2, n_head=2, n_positions=16, n_ctx=16,
        initializer_range=0.5,
    )  # fmt: skip
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_the_fused_activation_is_the_same_function_up_to_rounding(causal):
    model = load_model(str(causal))
    fused = next(part for name, part in model.named_modules() if name.endswith(".act"))
    x, reference = torch.linspace(-10, 10, 5_001), NewGELUActivation()
    torch.testing.assert_close(fused(x), reference(x), rtol=1e-5, atol=1e-6)
    assert (torch.nn.functional.gelu(x) - reference(x)).abs().max() > 1e-4  # the other GELU
    low = x.bfloat16()
    error = [(f(low).float() - reference(low.float())).abs().max() for f in (fused, reference)]
    assert error[0] <= error[1]  # in low precision it is the more exact one


def test_a_causal_model_is_judged_by_its_next_token_loss(causal):
    model = load_model(str(causal))
    assert not any(isinstance(part, NewGELUActivation) for part in model.modules())
    assert downstream.effect_name(model) == downstream.NEXT_TOKEN
    concept = prompts.Concept(
        "pets", tuple(prompts.Prompt(t) for t in ("the cat sat on the mat", "dog ran home"))
    )
    coded = tokens.tokenize(model.tokenizer, concept, n_ctx=16)
    found = residuals.compute_residuals(model, coded, "blocks.0.hook_out")
    clean = downstream.outputs(model, coded, "blocks.0.hook_out", found)
    reference = transformers.GPT2LMHeadModel.from_pretrained(causal)
    place = 0
    for row, ids, inside, content in zip(
        clean, coded.ids, coded.attention, coded.content, strict=True
    ):
        own = ids[inside][None]
        states = reference(own, output_hidden_states=True).hidden_states[1][0]
        counted = states[content[inside]]
        mine = found.x[place : place + len(counted)]
        torch.testing.assert_close(mine, counted, rtol=1e-5, atol=1e-5)
        place += len(counted)
        assert row.item() == pytest.approx(reference(own, labels=own).loss.item(), rel=1e-3)
    same = downstream.outputs(model, coded, "blocks.0.hook_out", found, found.x)
    torch.testing.assert_close(downstream.effect(clean, same), torch.zeros(2), atol=1e-5, rtol=0)
    moved = downstream.outputs(model, coded, "blocks.0.hook_out", found, -3 * found.x)
    assert (downstream.effect(clean, moved).abs() > 0.01).any()


def test_random_weights_are_drawn_from_the_seed_and_leave_the_generator_alone(minilm):
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    one, same, other = (load_model("minilm", random_state=s) for s in (0, 0, 1))
    assert torch.random.get_rng_state().equal(before)
    name = "bert.encoder.layer.0._original_component.attention._original_component.self.query."
    weights = [dict(m.named_parameters())[name + "_original_component.weight"]
               for m in (one, same, other, minilm)]  # fmt: skip
    assert isinstance(one, TransformerBridge)
    assert weights[0].equal(weights[1]) and not weights[0].equal(weights[2])
    assert not weights[0].equal(weights[3])
    both = torch.stack([weights[0].flatten(), weights[2].flatten()])
    assert abs(torch.corrcoef(both)[0, 1]) < 0.02
