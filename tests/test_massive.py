"""Rows that would decide every mean: found, named, left out, and nothing else moves."""

from dataclasses import replace

import hub
import numpy as np
import pytest
import torch
from run_page import SMALL, few_days, in_a_file, run_page
from sae_lens import TopKSAE, TopKSAEConfig
from safetensors.torch import load_file, save_file

import saerepgeo_lib as srg
from saerepgeo_lib.activations.latents import fit_on, fvu
from saerepgeo_lib.activations.models import load_model
from saerepgeo_lib.activations.residual_stream import add_noise, is_massive, rms, times_median
from saerepgeo_lib.activations.token_activations import TokenActivations
from saerepgeo_lib.companion.cli import main
from saerepgeo_lib.files import read_json
from saerepgeo_lib.rank.unfoldings import aligned_rows
from saerepgeo_lib.stats.claims import Claim
from saerepgeo_lib.studies.trust import Trust, trust_in, with_massive

HOOK = "blocks.0.hook_out"  # behind one block, whose norms do not see the length of an embedding
CASES = {
    "stratified_manifold": SMALL["stratified_manifold"] | {"n_seeds": 7},
    "representation_structure": SMALL["representation_structure"],
    "intervention": SMALL["intervention"] | {"n_downstream": 0, "grouping": "entities"},
}
ISSUE = (406, 64, range(7), 640.0)  # rows, width, which rows, by how much one component


def rows(n, d, massive=(), by=0.0, seed=0):
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    x[list(massive), min(3, d - 1)] += by
    return x


def few_close_many_copies():
    x = rows(40, 16)
    x[:30] = x[0]
    return x


@pytest.mark.parametrize(
    ("n", "d", "massive", "by"),
    [ISSUE, (60, 384, [5], 400.0), (406, 8, range(0, 80, 2), -90.0), (12, 16, [3], 1e4)],
)
def test_scale_noise_and_fit_are_those_of_the_typical_rows(small_sae, n, d, massive, by):
    x, generator = rows(n, d, massive, by), torch.Generator()
    out = is_massive(x)
    assert out.nonzero()[:, 0].tolist() == list(massive)
    alone = x[~out]
    assert rms(x) == pytest.approx(rms(alone), rel=1e-9) and rms(x) == pytest.approx(1, rel=0.12)
    assert rms(x, massive="keep") > 2 * rms(x)
    noisy = add_noise(x, 0.5, scaling="relative", generator=generator.manual_seed(1))
    assert (noisy - x).std().item() == pytest.approx(0.5 * rms(alone), rel=0.1)
    if d == 8:
        assert fit_on(small_sae, x) == pytest.approx(fit_on(small_sae, alone), rel=1e-6)
        assert fvu(small_sae, x, massive="keep") != pytest.approx(fvu(small_sae, alone), rel=0.1)


@pytest.mark.parametrize(
    "x",
    [
        *(rows(n, d, seed=s) / torch.arange(1, d + 1) for n in (5, 10, 20) for d in (8, 64)
          for s in range(4)),
        rows(300, 384) / torch.arange(1, 385) ** 0.5 + 1e4,
        rows(9, 16, [4], 0.0)[:4],
        rows(200, 16, range(60), 1e3),  # three in ten are no exceptions, but a part of the data
        rows(20, 16, range(10), 1e3),
        torch.ones(30, 4), torch.zeros(1, 4), torch.zeros(0, 4), few_close_many_copies(),
    ],
)  # fmt: skip
def test_what_is_not_massive_is_not_called_so(x):
    assert not is_massive(x).any() and torch.isfinite(times_median(x)).all()


@pytest.fixture(scope="module")
def months():
    whole = srg.load("minilm").activations("months")
    return whole.rows(whole.prompt < 60)


def planted(acts, row, factor=60.0):
    """The same with a massive token in row `row`, and the activations without that token."""
    x = acts.x.clone()
    x[row] *= factor
    fresh = replace(acts, x=x, massive_tokens=None)
    others = torch.arange(len(acts)) != row
    return fresh, acts.rows(others)


def test_left_out_named_kept_and_no_part_of_the_mask(months, unchecked):
    frame = int((~months.in_entity).nonzero()[-1])
    acts, others = planted(months, frame)
    assert torch.equal(acts.x, others.x) and len(acts.whole) == len(months)
    (named,) = acts.massive_tokens.to_dict("records")
    prompt, position = int(months.prompt[frame]), int(months.position[frame])
    assert named["prompt"] == months.concept.prompts[prompt].text and named["entity"] == ""
    assert named["token"] == months.words[frame] and named["position"] == position
    assert 20 < named["times the median"] < 1000 and "1 massive one" in repr(acts)
    assert not acts.tokens.content[prompt, position] and months.tokens.content[prompt, position]
    kept = replace(months, x=acts.whole.x, massive="keep", massive_tokens=None)
    assert len(kept) == len(months) and kept.whole is None and len(kept.massive_tokens) == 1
    assert acts.at("entity").whole is not None and len(acts.massive_tokens) == 1
    with pytest.raises(srg.UserError, match=r"massive activations 'drop'; did you|valid"):
        replace(months, massive="drop", massive_tokens=None)
    plain = TokenActivations(acts.whole.x, months.prompt, months.position, months.in_entity)
    assert plain.massive_tokens["prompt"].tolist() == [str(prompt)]  # without a concept: its number


def test_a_token_that_is_massive_among_those_of_entities_only_is_left_out_and_named():
    x, entity = rows(400, 64), torch.arange(400) % 8 == 0
    x[entity] *= 0.05
    x[80] *= 20  # as long as any token of another kind
    assert not is_massive(x).any()
    acts = TokenActivations(x, torch.arange(400) // 8, torch.arange(400) % 8, entity)
    assert acts.massive_tokens["prompt"].tolist() == ["10"] and len(acts) == 399
    assert acts.massive_tokens["times the median"].item() == pytest.approx(20, rel=0.3)
    others = x[entity & (torch.arange(400) != 80)]
    assert torch.equal(acts.at("entity").x, others)
    assert torch.equal(acts.at("entity").whole.x, x[entity]) and len(acts.whole) == 400
    assert "1 of 400 tokens of these have massive" in trust_in([acts]).text
    x[88:240:8] *= 20  # with it 20 of 50
    crowd = TokenActivations(x, acts.whole.prompt, acts.whole.position, entity)
    assert crowd.whole is None
    assert "20 of 50 entity tokens of these lie more" in trust_in([crowd]).text


def test_an_entity_that_lost_all_its_tokens_is_named_and_none_is_said(months):
    first = (months.entity == 0).nonzero()[0]
    x = months.x.clone()
    x[first] *= 60
    acts = replace(months, x=x, massive_tokens=None)
    assert acts.lost_entities == ("January",)
    slots = aligned_rows(acts, max_slots=2)
    assert len(slots) == 60 - len(first) and acts.in_entity[slots[:, 0]].all()
    x = rows(40, 8)
    entity = torch.arange(40) % 8 == 0
    x[entity] += 1e3
    none_left = TokenActivations(x, torch.arange(40) // 8, torch.arange(40) % 8, entity)
    with pytest.raises(srg.UserError, match="every token of an entity has massive"):
        none_left.at("entity")
    with pytest.raises(srg.UserError, match="every prompt lost"):
        aligned_rows(none_left)


def test_one_massive_token_moves_nothing_in_the_three_cases(months):
    """Its prompt has tokens enough, so that even the tensor is that of the others."""
    longest = int(np.bincount(months.prompt).argmax())
    row = int(((months.prompt == longest) & ~months.in_entity).nonzero()[-1])
    acts, others = planted(months, row)
    small = {"levels": [0, 1], "seeds": [0]}
    a, b = (srg.rank_profile(each, **small) for each in (acts, others))
    assert a.sweep.sigma == pytest.approx(b.sweep.sigma, rel=0.01) and a.ranks.equals(b.ranks)
    a, b = (srg.compare_geometry(each, n_groups=3, n_random=1) for each in (acts, others))
    np.testing.assert_allclose(a.table["value"], b.table["value"], rtol=0.01)
    small = {"doses": [1, 1.2], "paths": ["pushed, valid"], "n_groups": 3, "n_bootstrap": 40,
             "grouping": "entities"}  # fmt: skip
    a, b = (srg.dose_response(each, **small) for each in (acts, others))
    np.testing.assert_allclose(a.table["MSE"], b.table["MSE"], rtol=0.01)
    np.testing.assert_allclose(a.shrinkage["rho*"], b.shrinkage["rho*"], rtol=0.01)


def finding(verdict, **case):
    return Claim(
        "case1-rank-varies", "r", 0.5, 0.1, 0.9, 0.01, 7, verdict, "days", "content", **case
    )


@pytest.mark.parametrize(
    ("verdict", "other", "turns"),
    [("holds", "does not hold", True), ("holds", "holds", False), ("holds in part", "holds", True),
     ("cannot be tested here", "holds", False), ("holds", "cannot be tested here", False)],
)  # fmt: skip
def test_a_verdict_that_turns_with_massive_tokens_is_withheld(verdict, other, turns):
    mine, not_compared = finding(verdict, autoencoder="A"), finding("holds", autoencoder="B")
    kept, also = Trust().withheld([mine, not_compared], [finding(other, autoencoder="A")])
    assert also == not_compared and (kept == mine) != turns
    assert not turns or "with them the verdict is another" in kept.reason
    overall = replace(mine, id="case1-stratified", verdict="holds")
    weakest_elsewhere = replace(overall, autoencoder="B", verdict="does not hold")
    assert Trust().withheld([overall], [weakest_elsewhere])[0].reason


def test_the_second_computation_is_made_only_where_it_can_say_something(months):
    row = int((~months.in_entity).nonzero()[-1])
    acts, asked = planted(months, row)[0], []
    assert with_massive([months], asked.append) == [] == asked
    assert with_massive([months, acts], lambda all: map(len, all)) == [len(months)] * 2

    def refuse(_):
        raise srg.UserError("fewer than 2 clusters")

    assert with_massive([acts], refuse) == []
    said = trust_in([acts]).text
    assert f"1 of {len(months)} tokens of months have massive" in said and "left out" in said
    assert "They are kept" in trust_in([acts.whole]).text
    x = months.x.clone()
    x[::3] += 1e3
    crowd = replace(months, x=x, massive_tokens=None)
    assert crowd.whole is None and "too many to be exceptions" in trust_in([crowd]).text
    both, entity = crowd.x.clone(), int(months.in_entity.nonzero()[0])  # and one among entities
    both[months.in_entity] = months.x[months.in_entity]
    both[entity] += 2e3
    some = replace(months, x=both, massive_tokens=None)
    said = trust_in([some]).text
    assert some.whole is not None and "too many to be exceptions" in said and "left out" in said
    # without the 23, two of 77 lie beyond the limit
    lengths = [*torch.linspace(0.9, 1.1, 75).tolist(), 5.1, 5.1, *[99.0] * 23]
    x, row = torch.diag(torch.tensor(lengths)), torch.arange(100)  # each in its own direction
    left = srg.TokenActivations(x, row, torch.zeros(100).long(), row < 9)
    assert len(left) == 77 and (times_median(left.x) > 5).sum() == 2
    assert "too many" not in trust_in([left]).text
    assert "massive" not in trust_in([months]).text


@pytest.fixture(scope="module")
def massive_word(tmp_path_factory):
    """A tiny model in which one word's embedding is massive, and an SAE that fits the others."""
    folder = tmp_path_factory.mktemp("massive")
    model = hub.put_model(folder, "openai-community/gpt2")
    concept, (weights,) = few_days(), model.glob("*.safetensors")
    plain = srg.ModelWithSAEs(load_model(str(model)), {"mine": _sae(model)}).activations(concept)
    row = int((~plain.in_entity).nonzero()[0])
    word = int(plain.tokens.ids[plain.prompt[row], plain.position[row]])
    tensors = load_file(weights)
    tensors["transformer.wte.weight"][word] *= 300
    save_file(tensors, weights, metadata={"format": "pt"})
    _sae(model).save_model(folder / "sae")
    others = plain.tokens.ids[plain.prompt, plain.position] != word
    given = in_a_file(concept, folder) | {"preset": str(folder / "sae")}
    return given, plain.words[row], int((~others).sum()), rms(plain.x[others])


def _sae(model):
    torch.manual_seed(0)
    sae = TopKSAE(TopKSAEConfig(k=3 * hub.WIDTH // 4, d_in=hub.WIDTH, d_sae=2 * hub.WIDTH))
    with torch.no_grad():  # x = relu(x) - relu(-x)
        sae.W_enc.copy_(torch.cat([torch.eye(hub.WIDTH), -torch.eye(hub.WIDTH)], 1))
        sae.W_dec.copy_(sae.W_enc.T)
    sae.cfg.metadata.hook_name, sae.cfg.metadata.model_name = HOOK, str(model)
    return sae


@pytest.mark.slow
def test_a_run_names_the_tokens_and_its_scale_is_that_of_the_others(massive_word, tmp_path):
    given, word, n, sigma = massive_word
    given = given | CASES["stratified_manifold"]
    words = [w for k, v in given.items() for w in ("-p", k, str(v))]
    assert main(["run", "stratified_manifold", *words, "-o", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*/*.record.json")
    record = read_json(path)
    assert record["numbers"]["sigma"]["days"] == pytest.approx(sigma, rel=0.01)
    assert record["tables"]["massive"]["token"] == [word] * n
    assert "They are left out" in path.with_name("stratified_manifold.ipynb").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("page", CASES)
def test_pages_compare_verdicts_with_those_that_massive_tokens_give(
    page, massive_word, tmp_path, unchecked
):
    given, word, n, _ = massive_word
    (_, out), (_, kept) = (
        run_page(page, tmp_path, **given, **CASES[page], massive=massive)
        for massive in ("leave out", "keep")
    )
    for record in (out, kept):
        assert record["tables"]["massive"]["token"] == [word] * n
    if page == "stratified_manifold":
        assert kept["numbers"]["sigma"]["days"] > 5 * out["numbers"]["sigma"]["days"]
    places = [
        {tuple(str(c[k]) for k in ("id", "statistic", "tokens", "autoencoder", "against",
                                   "condition", "dose")): c for c in record["claims"]}
        for record in (out, kept)
    ]  # fmt: skip
    turned = [c for c in out["claims"] if "massive activations decide" in c["reason"]]
    for place, claim in places[0].items():
        if claim["verdict"] != "cannot be tested here" and place in places[1]:
            assert places[1][place]["verdict"] in (claim["verdict"], "cannot be tested here")
    assert all(c["verdict"] == "cannot be tested here" for c in turned)
