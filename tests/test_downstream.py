"""What is put back at the hook reaches the tokens meant, and nothing else."""

from types import SimpleNamespace

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformer_lens.model_bridge import TransformerBridge
from transformers.activations import NewGELUActivation

from saerepgeo_lib.activations.models import load_model
from saerepgeo_lib.activations.prompts import Concept, Prompt, load_concept
from saerepgeo_lib.activations.residual_stream import run_to_hook
from saerepgeo_lib.activations.token_activations import read_activations
from saerepgeo_lib.activations.tokens import tokenize
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.steering import downstream


def read(model, concept, hook):
    source = SimpleNamespace(model=model, hook=hook)
    tokens = tokenize(model.tokenizer, concept, n_ctx=model.cfg.n_ctx)
    return read_activations(model, tokens, hook, concept=concept, source=source)


@pytest.fixture(scope="module")
def days(minilm, one_thread):
    few = Concept("days", load_concept("days").prompts[:28])
    return read(minilm, few, "blocks.4.hook_out")


def test_the_same_residual_has_no_effect_zeros_have_one_and_a_change_its_own_prompts(days, minilm):
    clean = downstream.outputs(days)
    same = downstream.outputs(days, days.x, batch_size=9)
    torch.testing.assert_close(same, clean, rtol=1e-4, atol=1e-5)
    cosine = downstream.effect(clean, same)
    assert cosine.shape == (28,) and cosine.min() > 1 - 1e-5
    assert downstream.effect(clean, downstream.outputs(days, 0 * days.x)).max() < 0.9
    torch.testing.assert_close(downstream.outputs(days), clean)  # the hook is gone afterwards
    x = days.x.clone()
    x[days.prompt == 20] *= 0.5
    changed = (downstream.outputs(days, x) - clean).abs().amax(dim=1) > 1e-4
    assert changed.nonzero()[:, 0].tolist() == [20]
    ids, attention = days.tokens.ids[:5], days.tokens.attention[:5]  # a mean over the prompt's
    last = run_to_hook(minilm, ids, attention, "blocks.5.hook_out")
    for row, x, inside in zip(clean, last, attention, strict=False):
        torch.testing.assert_close(row, x[inside].mean(0), rtol=1e-3, atol=1e-4)


def test_a_replacement_of_another_shape_is_refused(days, unchecked):
    with pytest.raises(UserError, match="one row per token"):
        downstream.outputs(days, days.x[:3])


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    """A small GPT-2 with random weights, and its tokenizer, in a folder."""
    folder = tmp_path_factory.mktemp("gpt2")
    words = ["<s>", "the", "cat", "dog", "sat", "ran", "on", "mat", "home", "[UNK]"]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"bos_token": "<s>", "eos_token": "<s>", "unk_token": "[UNK]"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    torch.manual_seed(3)
    config = transformers.GPT2Config(
        vocab_size=len(words), n_embd=16, n_layer=2, n_head=2, n_positions=16, n_ctx=16,
        initializer_range=0.5,
    )  # fmt: skip
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, load_model(str(folder))


def test_the_fused_activation_is_the_same_function_up_to_rounding(causal):
    model = causal[1]
    assert not any(isinstance(part, NewGELUActivation) for part in model.modules())
    fused = next(part for name, part in model.named_modules() if name.endswith(".act"))
    x, reference = torch.linspace(-10, 10, 5_001), NewGELUActivation()
    torch.testing.assert_close(fused(x), reference(x), rtol=1e-5, atol=1e-6)
    assert (torch.nn.functional.gelu(x) - reference(x)).abs().max() > 1e-4  # the other GELU
    low = x.bfloat16()
    error = [(f(low).float() - reference(low.float())).abs().max() for f in (fused, reference)]
    assert error[0] <= error[1]  # in low precision it is the more exact one


def test_a_causal_model_is_judged_by_its_next_token_loss(causal):
    folder, model = causal
    assert downstream.effect_name(model) == downstream.NEXT_TOKEN
    concept = Concept("pets", (Prompt("the cat sat on the mat"), Prompt("dog ran home")))
    acts = read(model, concept, "blocks.0.hook_out")
    clean, tokens = downstream.outputs(acts), acts.tokens
    reference = transformers.GPT2LMHeadModel.from_pretrained(folder)
    for p, row in enumerate(clean):
        ids = tokens.ids[p][tokens.attention[p]][None]
        states = reference(ids, output_hidden_states=True).hidden_states[1][0]
        counted = states[tokens.content[p][tokens.attention[p]]]
        torch.testing.assert_close(acts.x[acts.prompt == p], counted, rtol=1e-5, atol=1e-5)
        assert row.item() == pytest.approx(reference(ids, labels=ids).loss.item(), rel=1e-3)
    same = downstream.outputs(acts, acts.x)
    torch.testing.assert_close(downstream.effect(clean, same), torch.zeros(2), atol=1e-5, rtol=0)
    moved = downstream.outputs(acts, -3 * acts.x)
    assert (downstream.effect(clean, moved).abs() > 0.01).any()


def test_random_weights_are_drawn_from_the_seed_and_leave_the_generator_alone(causal):
    folder, model = causal
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    one, same, other = (load_model(str(folder), random_state=s) for s in (0, 0, 1))
    assert torch.random.get_rng_state().equal(before)
    assert isinstance(one, TransformerBridge)
    name = next(n for n, p in model.named_parameters() if "mlp" in n and p.ndim == 2)
    weights = [dict(m.named_parameters())[name].flatten() for m in (one, same, other, model)]
    assert weights[0].equal(weights[1])
    for different in weights[2:]:
        assert abs(torch.corrcoef(torch.stack([weights[0], different]))[0, 1]) < 0.2
