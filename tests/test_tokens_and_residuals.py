import pytest
import torch
from conftest import HOOK

from saerepgeo_lib import residuals
from saerepgeo_lib import stratification as case1
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.latents import fvu
from saerepgeo_lib.models import best_device
from saerepgeo_lib.noise_sweep import sweep
from saerepgeo_lib.prompts import Concept, Prompt, load_concept
from saerepgeo_lib.residuals import add_noise, compute_residuals, rms, run_to_hook
from saerepgeo_lib.saes import random_sae
from saerepgeo_lib.tokens import tokenize


def coded(minilm, *prompts, template=()):
    concept = Concept("c", tuple(prompts), frozenset(template))
    return tokenize(minilm.tokenizer, concept, n_ctx=minilm.cfg.n_ctx)


def content_words(minilm, tokens):
    return [
        minilm.tokenizer.convert_ids_to_tokens(i[m])
        for i, m in zip(tokens.ids, tokens.content, strict=True)
    ]


def test_content_leaves_out_specials_padding_punctuation_function_and_template_words(minilm):
    tokens = coded(
        minilm,
        Prompt("The shop opens in March, next month.", "March"),
        Prompt("Snow."),
        template=["month"],
    )
    assert content_words(minilm, tokens) == [["shop", "opens", "march"], ["snow"]]


def test_an_entity_counts_even_if_it_is_a_function_word(minilm):
    tokens = coded(minilm, Prompt("Write A here now", "A"))
    assert content_words(minilm, tokens) == [["write", "a"]]
    assert tokens.entity.sum() == 1
    assert (tokens.entity & ~tokens.content).sum() == 0


def test_prompts_too_long_or_with_nothing_left_are_refused(minilm):
    with pytest.raises(UserError, match="prompt 1: 602 tokens exceed"):
        coded(minilm, Prompt("snow"), Prompt("snow " * 600))
    with pytest.raises(UserError, match="prompt 0: only function words"):
        coded(minilm, Prompt("the of and."))


def test_a_prompt_has_the_same_residual_alone_and_in_a_padded_batch(minilm):
    long = Prompt("Heavy snow fell across the quiet valley in January and again in cold February.")
    short = Prompt("Snow melts.")
    together = compute_residuals(minilm, coded(minilm, short, long), HOOK)
    alone = compute_residuals(minilm, coded(minilm, short), HOOK)
    torch.testing.assert_close(together.x[together.prompt == 0], alone.x, atol=1e-4, rtol=1e-4)


def test_masked_tokens_never_reach_a_result(minilm, days, monkeypatch):
    concept = load_concept("days")
    tokens = tokenize(minilm.tokenizer, concept, n_ctx=minilm.cfg.n_ctx)

    def poison(model, ids, attention, hook):
        """What the real model gives, but for the masked positions."""
        x = run_to_hook(model, ids, attention, hook)
        same = (ids[:, None] == tokens.ids[:, : ids.shape[1]]).all(2)
        x[~tokens.content[same.int().argmax(1), : ids.shape[1]]] = float("nan")
        assert torch.isnan(x).any()
        return x

    monkeypatch.setattr(residuals, "run_to_hook", poison)
    poisoned = compute_residuals(minilm, tokens, HOOK)
    assert torch.equal(poisoned.x, days.x)
    sae = random_sae_for(minilm)
    runs = [
        case1.rank_table(sweep(r, {"a": sae}, sparse=["a"], levels=[0, 1], seeds=[0, 1]))
        for r in (poisoned, days)
    ]
    assert runs[0].equals(runs[1])


def random_sae_for(minilm, l0=8):
    from sae_lens import TopKSAE, TopKSAEConfig

    return random_sae(
        TopKSAE(TopKSAEConfig(d_in=384, d_sae=512)), l0=l0, generator=torch.Generator()
    )


@pytest.mark.parametrize("hook", ["blocks.5.hook_out", "blocks.2.hook_mlp_out"])
def test_the_forward_pass_ends_at_the_hook_and_gives_what_a_whole_one_does(minilm, hook):
    tokens, fired = coded(minilm, Prompt("Snow melts."), Prompt("snow")), []
    ends = [(lambda name: name.endswith("_out"), lambda x, hook: fired.append(hook))]
    with minilm.hooks(ends):
        x = run_to_hook(minilm, tokens.ids, tokens.attention, hook)
    assert fired.index(minilm.hook_dict[hook]) == len(fired) - 1
    with torch.no_grad():
        _, whole = minilm.run_with_cache(tokens.ids, attention_mask=tokens.attention.long())
    assert torch.equal(x, whole[hook])
    fired.clear()
    minilm(tokens.ids, attention_mask=tokens.attention.long())
    assert not fired


def test_a_missing_hook_names_the_nearest(minilm):
    tokens = coded(minilm, Prompt("snow"))
    with pytest.raises(UserError, match=r"no hook 'blocks.4.hook_outt'.*'blocks.4.hook_out'"):
        compute_residuals(minilm, tokens, "blocks.4.hook_outt")
    with pytest.raises(UserError, match="has 6 blocks, 0 to 5"):
        compute_residuals(minilm, tokens, "blocks.11.hook_out")
    with pytest.raises(UserError, match=r"'blocks.5.attn.hook_result' is switched off: .*"):
        compute_residuals(minilm, tokens, "blocks.5.attn.hook_result")


def test_noise_has_the_asked_size_and_comes_from_its_generator():
    x = torch.randn(400, 64, generator=torch.Generator().manual_seed(0)) * 3 + 7
    noisy = [
        add_noise(x, 0.5, scaling="relative", generator=torch.Generator().manual_seed(s))
        for s in (1, 1, 2)
    ]
    assert torch.equal(noisy[0], noisy[1]) and not torch.equal(noisy[0], noisy[2])
    assert (noisy[0] - x).std().item() == pytest.approx(0.5 * rms(x), rel=0.02)
    assert rms(x) == pytest.approx(3, rel=0.02)
    assert rms(x + 100) == pytest.approx(rms(x), rel=1e-5)
    absolute = add_noise(x, 0.5, scaling="absolute", generator=torch.Generator().manual_seed(1))
    assert (absolute - x).std().item() == pytest.approx(0.5, rel=0.02)
    clean = add_noise(x, 0, scaling="absolute", generator=torch.Generator())
    assert torch.equal(clean, x)
    with pytest.raises(UserError, match="finite number >= 0"):
        add_noise(x, -1, scaling="absolute", generator=torch.Generator())


def test_entity_positions_need_entities(minilm, days):
    entity = days.at("entity")
    assert len(entity.x) == len(load_concept("days").prompts)
    plain = compute_residuals(minilm, coded(minilm, Prompt("snow")), HOOK)
    with pytest.raises(UserError, match="carry an entity"):
        plain.at("entity")


def test_an_unusable_device_is_refused():
    assert best_device("cpu") == "cpu"
    with pytest.raises(UserError, match="try 'auto' or 'cpu'"):
        best_device("gpu9")


def test_the_fit_of_tokens_that_do_not_vary_is_refused(minilm):
    same = torch.ones(3, 384)
    with pytest.raises(UserError, match="do not vary"):
        fvu(random_sae_for(minilm), same)
