"""Latents along a ray of noise, the noise sweep, its tables of ranks, and what is drawn of them."""

import threading
from dataclasses import replace
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import sae_lens
import torch
from matplotlib.figure import Figure
from refusals import refused
from sae_lens import StandardSAE, StandardSAEConfig
from sae_lens.saes.abstopk_sae import AbsTopKSAE, AbsTopKSAEConfig
from scipy.stats import chisquare

from saerepgeo_lib.activations.latents import Latents, encode
from saerepgeo_lib.activations.prompts import Concept, Prompt
from saerepgeo_lib.activations.residual_stream import draw_noise
from saerepgeo_lib.activations.token_activations import TokenActivations
from saerepgeo_lib.cores import workers
from saerepgeo_lib.plots.profiles import profile_panel
from saerepgeo_lib.rank import _noisy_latents, profiles
from saerepgeo_lib.rank._noisy_latents import NoisyLatents, largest, permuted_latents
from saerepgeo_lib.rank.noise_sweep import stream, sweep
from saerepgeo_lib.rank.rules import relative_rank
from saerepgeo_lib.rank.unfoldings import aligned_rows

LEVELS, SEEDS = (0.0, 0.1, 1.0), (3, 4, 5)


def activations(x=None, n_prompts=10, n_tokens=4, d=8):
    prompt = torch.arange(n_prompts).repeat_interleave(n_tokens)
    position = torch.arange(n_tokens).repeat(n_prompts)
    if x is None:
        x = torch.randn(len(prompt), d, generator=torch.Generator().manual_seed(0))
    return TokenActivations(x, prompt, position, position == 1)


def swept_with(sae, acts=None, **options):
    given = {"sparse": ["SAE"], "levels": LEVELS, "seeds": SEEDS, "max_slots": 3} | options
    return sweep(acts or activations(), {"SAE": sae}, **given)


@pytest.fixture
def swept(small_sae, two_threads):
    return swept_with(small_sae)


def test_the_sweep_and_its_ranks_hold_every_null_and_shape_and_are_the_same_again(swept, small_sae):
    assert swept.labels == ("residual", "SAE", "random SAE", "permuted SAE")
    assert swept.tensor_shape == (10, 3)
    for (_, mode), spectra in swept.spectra.items():
        assert spectra.shape == (3, 3, {1: 10, 2: 3, 3: 30}[mode])
    assert (swept.l0["random SAE"] <= 4).all()
    assert swept.l0["permuted SAE"] == pytest.approx(swept.l0["SAE"])
    assert profiles.rank_table(swept_with(small_sae)).equals(profiles.rank_table(swept))
    active = profiles.active_table({"c": swept})
    assert list(active["label"]) == ["residual", "SAE", "random SAE"]
    assert active["L0 no noise"].tolist() == [8, 4, 4] and set(active["tokens"]) == {30}
    for label in ("residual", "SAE"):  # zero noise is the same for every seed and noise is not
        spread = np.ptp(swept.spectra[label, 3], axis=1).max(axis=1)
        assert spread[0] == 0 and (spread[1:] > 0).all()
        assert (swept.shift[label, 3][0] == 0).all() and (swept.shift[label, 3][1:] > 0).all()
    ranks = profiles.rank_table(swept)
    assert set(ranks.query("rule == 'marchenko-pastur'")["label"]) == {"residual"}
    assert not (ranks["rule"] == "permutation").any()  # a rule for centred data
    centred = profiles.rank_table(swept_with(small_sae, centred=True))
    assert set(centred.query("rule == 'permutation'")["label"]) == {"SAE"}
    one = ranks.query("label == 'SAE' and mode == 3 and level == 1 and seed == 4")
    expected = relative_rank(swept.spectra["SAE", 3][2, 1], tau=profiles.TAU)
    row = one.set_index("rule").loc["relative"]
    assert (row["rank"], row["tolerance"]) == (expected.value, expected.tolerance)


def test_spectra_and_shapes_are_those_of_the_latents_by_brute_force(swept, small_sae):
    acts = activations()
    x = acts.x[aligned_rows(acts, max_slots=3)]
    most = 0
    for s, seed in enumerate(SEEDS):
        noise = swept.sigma * draw_noise(x.flatten(0, 1), stream(seed, "noise")).view_as(x)
        latents = [small_sae.encode(x + level * noise).detach().double() for level in LEVELS]
        most = max(most, int((torch.stack(latents) != 0).any(0).any(0).any(0).sum()))
        for i, z in enumerate(latents):
            for mode in (1, 2, 3):
                unfolded = z.movedim(mode - 1, 0).flatten(1).numpy()
                expected = np.linalg.svd(unfolded, compute_uv=False)
                k = min(swept.spectra["SAE", mode].shape[2], len(expected))
                np.testing.assert_allclose(
                    swept.spectra["SAE", mode][i, s, :k], expected[:k], atol=1e-6 * expected[0]
                )
    shapes = {1: (10, 3 * most), 2: (3, 10 * most), 3: (most, 30)}
    for mode, shape in shapes.items():
        assert swept.shapes["SAE", mode] == swept.shapes["permuted SAE", mode] == shape


def test_copies_of_a_point_stay_copies_and_do_not_raise_a_rank(small_sae):
    """As in two frames that begin alike, in a causal model: the first two words of each prompt."""
    x = activations().x.view(10, 4, 8).clone()
    x[:5, :2], x[5:, :2] = x[0, :2], x[5, :2]
    acts = activations(x.flatten(0, 1))
    noise = draw_noise(acts.x, stream(0, "noise")).view_as(x)
    assert (noise[:5, :2] == noise[0, :2]).all() and (noise[0, :2] != noise[5, :2]).any()
    assert len(noise[:, 2:].flatten(0, 1).unique(dim=0)) == 20
    assert (draw_noise(x[:, 2], stream(0, "noise"))  # without copies: as ever
            == torch.randn(10, 8, generator=stream(0, "noise"))).all()  # fmt: skip
    swept = swept_with(small_sae, acts, max_slots=2, levels=(0.0, 1.0, 10.0))
    slots = aligned_rows(acts, max_slots=2)
    assert slots[:, 0].tolist() == list(range(1, 40, 4))  # copies, too: the entity comes first
    points = len(acts.x[slots.flatten()].unique(dim=0))
    assert swept.distinct == {1: len(acts.x[slots].unique(dim=0)), 3: points} and points < 20
    for mode, ceiling in swept.distinct.items():
        bounds = profiles.ceilings(swept, mode=mode)
        assert bounds["residual"] == min(8, ceiling) and bounds["SAE"] == ceiling
        assert bounds["permuted SAE"] == min(swept.shapes["SAE", mode])
    exact = profiles.rank_table(swept).query("rule == 'exact' and label != 'permuted SAE'")
    for (label, mode), ranks in exact.groupby(["label", "mode"])["rank"]:
        assert ranks.max() <= profiles.ceilings(swept, mode=mode)[label]


def test_measured_ranks_lie_within_weyls_bounds_and_certified_ones_are_the_clean_rank(swept):
    ranks = profiles.rank_table(swept, tau=0.05)
    keys = ["label", "mode", "level", "seed"]
    certified = profiles.certified_table(swept, tau=0.05)
    both = ranks.query("rule == 'relative'").merge(certified, on=keys)
    assert len(both) == 4 * 3 * 3 * 3
    assert both["rank"].between(both["low"], both["high"]).all()
    clean = both.query("level == 0")[["label", "mode", "seed", "rank"]]
    sure = both[both["certified"]].merge(clean, on=["label", "mode", "seed"])
    assert len(sure) == both["certified"].sum() and (sure["rank_x"] == sure["rank_y"]).all()


def test_no_level_waits_for_numbers_from_the_device(small_sae, monkeypatch):
    """Levels are done in threads of their own; only the main one, which stores, may ask."""
    asked = set()

    def watched(ask, real):
        def noted(*args, **kwargs):
            asked.add((ask, threading.current_thread() is threading.main_thread()))
            return real(*args, **kwargs)

        return noted

    for ask in ("item", "tolist", "cpu", "__float__", "__int__", "__bool__"):
        monkeypatch.setattr(torch.Tensor, ask, watched(ask, getattr(torch.Tensor, ask)))
    swept_with(small_sae, seeds=[0])
    assert all(on_main for _, on_main in asked)
    assert {("item", True), ("cpu", True)} <= asked  # what is stored is asked for


def test_levels_and_seeds_are_checked(small_sae):
    for levels in ([0.1, 1], [0, 2, 1], [0], [0, float("nan")], [0, 0, 1], [0, 1e39]):
        refused("ascend from 0", swept_with, small_sae, levels=levels)
    refused("at least one seed", swept_with, small_sae, seeds=[])
    refused("sparse SAE", swept_with, small_sae, sparse=["SEA"])
    assert swept_with(small_sae, sparse=[], seeds=[1, 1]).seeds == (1,)


def test_variability_is_the_range_over_the_clean_rank():
    ranks = pd.DataFrame(
        {"label": "a", "mode": 3, "level": [0, 1, 2], "seed": 0, "rule": "relative",
         "rank": [10.0, 4.0, 12.0]}
    )  # fmt: skip
    assert profiles.variability(ranks, rule="relative")["variability"].tolist() == [0.8]
    every = profiles.variability(pd.concat([ranks, ranks.assign(rule="exact", rank=1.0)]))
    assert every.set_index("rule")["variability"].to_dict() == {"relative": 0.8, "exact": 0}
    refused("unknown rank rule", profiles.variability, ranks, rule="relativ")


def test_streams_of_one_seed_share_no_numbers_and_the_null_is_not_the_noise():
    draws = [torch.randn(500, generator=stream(3, p)) for p in ("noise", "encoder", "permutation")]
    correlation = np.corrcoef(torch.stack(draws).numpy())
    assert np.abs(correlation - np.eye(3)).max() < 0.2
    assert torch.equal(draws[0], torch.randn(500, generator=stream(3, "noise")))


def test_a_gap_in_the_spectrum_certifies_the_rank_and_is_drawn_solid():
    """Two strong directions and nothing else: rank 2 is certain until noise reaches the gap."""
    sae = StandardSAE(StandardSAEConfig(d_in=8, d_sae=8))
    basis = torch.linalg.qr(torch.randn(8, 2, generator=torch.Generator().manual_seed(1))).Q.T
    sheet = activations(activations().x[:, :2] @ basis * 10)
    swept = swept_with(sae, sheet, sparse=[], levels=(0, 1e-3, 10), scaling="absolute")
    certified = profiles.certified_table(swept, tau=0.1)
    table = certified.query("label == 'residual' and mode == 3")
    assert table.groupby("level")["certified"].all().tolist() == [True, True, False]
    assert set(table.query("level < 1")["low"]) == {2}
    assert table["high"].max() == 8  # 30 tokens in 8 dimensions: never beyond the shorter side
    ranks = profiles.rank_table(swept, tau=0.1).query("label == 'residual'")
    ax = profile_panel(Figure().subplots(), ranks, certified, rule="relative", mode=3)
    assert [line.get_linestyle() for line in ax.lines] == ["None", "-", "--"]


def test_planted_strata_show_in_the_rank_and_one_sheet_does_not():
    """Latents on two lines have rank 2; noise that switches features on adds strata, and rank."""
    sae = StandardSAE(StandardSAEConfig(d_in=8, d_sae=8))
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(8))
        sae.b_enc.fill_(-1.0)  # a feature is silent below 1
    lines = torch.zeros(40, 8)
    lines[::2, 0] = lines[1::2, 1] = torch.linspace(40, 60, 20)
    given = {"sparse": [], "levels": (0, 0.01, 2.0), "scaling": "absolute"}
    table = profiles.rank_table(swept_with(sae, activations(lines), **given), tau=1e-3)
    ranks = table.query("label == 'SAE' and rule == 'relative' and mode == 3").groupby("level")
    # below every threshold the strata stay
    assert ranks["rank"].unique().map(list).tolist() == [[2], [2], [8]]


STANDARD = sae_lens.StandardSAE, sae_lens.StandardSAEConfig
TOPK = sae_lens.TopKSAE, sae_lens.TopKSAEConfig
KINDS = {
    "standard": (*STANDARD, {}),
    "topk": (*TOPK, {"k": 7}),
    "rescaled topk": (*TOPK, {"k": 7, "rescale_acts_by_decoder_norm": True}),
    "jumprelu": (sae_lens.JumpReLUSAE, sae_lens.JumpReLUSAEConfig, {}),
    "gated": (sae_lens.GatedSAE, sae_lens.GatedSAEConfig, {}),
}
D, F, N = 12, 96, 20


def made(kind, normalisation="none", *, with_centre=True, dtype="float64"):
    make, config, more = KINDS[kind]
    torch.manual_seed(0)
    sae = make(
        config(d_in=D, d_sae=F, dtype=dtype, apply_b_dec_to_input=with_centre,
               normalize_activations=normalisation, **more)
    )  # fmt: skip
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
    return sae.eval()


def draw(dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, N, D, generator=generator, dtype=torch.float64).to(dtype) + 0.3


def dense(latents):
    out = latents.values.new_zeros(len(latents.values), F)
    out[:, latents.features] = latents.values
    return out


def agree(sae, x, noise, scales, *, affine=True, held=2**30, **tolerances):
    """Latents at all scales at once are those that the SAE encodes, in use on the same tokens."""
    with workers() as pool:
        noisy = NoisyLatents(sae, x, pool=pool, held=held)
        several = list(pool.map(noisy.along(noise), scales))
    assert (noisy._activate is not None) == affine
    for scale, latents in zip(scales, several, strict=True):
        with torch.no_grad():
            expected = sae.encode(x + scale * noise)
        assert torch.equal(dense(latents) != 0, expected != 0) and latents.values.any(0).all()
        torch.testing.assert_close(dense(latents), expected, **tolerances)
    return several


@pytest.mark.parametrize("normalisation", ["none", "layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("kind", KINDS)
def test_latents_along_noise_are_those_that_the_sae_encodes(kind, normalisation, monkeypatch):
    x, noise = draw()
    x.requires_grad_()
    monkeypatch.setattr(_noisy_latents, "IN_CACHE", 7 * F * 8)  # three batches of tokens
    monkeypatch.setattr(_noisy_latents, "_COLUMNS", F // 5)
    for with_centre in (True, False):
        sae = made(kind, normalisation, with_centre=with_centre)
        agree(sae, x, noise, (0.0, 0.02, 1.0, 10.0), rtol=1e-10, atol=1e-11)


def test_in_single_precision_they_agree_up_to_rounding_and_no_latent_gives_no_features():
    x, noise = draw(torch.float32)
    for kind in KINDS:
        agree(made(kind, dtype="float32"), x, noise, [0.5], rtol=1e-4, atol=1e-5)
    sae, (x, noise) = made("topk"), draw()
    with torch.no_grad():
        sae.b_enc.fill_(-1e6)
    (latents,) = agree(sae, x, noise, [0.5])
    assert latents.values.shape == (N, 0) and latents.l0 == 0


@pytest.mark.parametrize("why", ["own encode", "signed", "hook", "memory", "bfloat16"])
def test_what_is_not_affine_or_too_large_is_encoded_by_the_sae_itself(why):
    x, noise = draw(torch.float32)
    sae = made("standard", dtype="bfloat16" if why == "bfloat16" else "float32")
    if why == "own encode":  # a user's class
        encode_half = {"encode": lambda self, x: sae_lens.StandardSAE.encode(self, x) / 2}
        sae.__class__ = type("Halved", (sae_lens.StandardSAE,), encode_half)
    elif why == "signed":  # shares TopK's encode, and keeps negative latents
        torch.manual_seed(0)
        sae = AbsTopKSAE(AbsTopKSAEConfig(d_in=D, d_sae=F, k=7)).eval()
    elif why == "hook":
        sae.hook_sae_acts_pre.add_hook(lambda pre, hook: pre * 0.5)
    (latents,) = agree(sae, x, noise, [0.5], affine=False, held=1 if why == "memory" else 2**30)
    assert (latents.values < 0).any() == (why == "signed")


@pytest.mark.parametrize(("n", "k"), [(64 * 40, 8), (64 * 40, 11), (1000, 8), (64 * 16, 1)])
def test_the_largest_are_those_of_torch(n, k):
    x = torch.randn(50, n, generator=torch.Generator().manual_seed(2))
    x[:5] = x[:5].round()  # ties
    values, places = largest(x, k)
    expected = x.topk(k).values
    assert torch.equal(values.sort(descending=True).values, expected)
    assert torch.equal(x.gather(1, places), values)
    assert all(len(row.unique()) == k for row in places)


def null(latents, seed=0, width=32):
    generator = torch.Generator().manual_seed(seed)
    return permuted_latents(lambda scale: latents, latents.values[:, :1], width, generator)(0.0)


def test_each_feature_keeps_its_values_and_its_order_is_its_own(small_sae):
    latents = encode(small_sae, torch.randn(40, 8, generator=torch.Generator().manual_seed(0)))
    permuted = null(latents)
    assert torch.equal(permuted.values.sort(0).values, latents.values.sort(0).values)
    assert not torch.equal(permuted.values, latents.values)
    few = Latents(latents.values[:, 3:5], latents.features[3:5])
    assert torch.equal(null(few).values, permuted.values[:, 3:5])
    assert torch.equal(null(few, width=64).values, permuted.values[:, 3:5])
    none = Latents(latents.values[:, :0], latents.features[:0])
    assert null(none).values.shape == (40, 0)
    assert not torch.equal(null(latents, seed=1).values, permuted.values)
    for n in (0, 1):  # no and one token have one order
        latents = Latents(torch.ones(n, 3), torch.arange(3))
        assert torch.equal(null(latents).values, latents.values)


@pytest.mark.parametrize("seed", [0, 1, 2**62 - 1])
def test_every_order_is_as_likely_as_another(seed):
    width = 24_000
    latents = Latents(torch.arange(4.0)[:, None].expand(4, width), torch.arange(width))
    orders = null(latents, seed, width).values.T.long()
    kinds = {order: i for i, order in enumerate(permutations(range(4)))}
    counts = np.bincount([kinds[tuple(order)] for order in orders.tolist()], minlength=24)
    assert chisquare(counts).pvalue > 1e-3
    first, second = orders[:-1, 0], orders[1:, 0]  # neighbours are independent
    assert chisquare(np.bincount((4 * first + second).numpy(), minlength=16)).pvalue > 1e-3


@pytest.mark.gpu
def test_orders_are_the_same_on_a_gpu():
    latents = Latents(torch.rand(300, 60), torch.arange(0, 600, 10))
    there = Latents(latents.values.cuda(), latents.features.cuda())
    assert torch.equal(null(there, width=600).values.cpu(), null(latents, width=600).values)


def test_centred_spectra_are_those_without_the_mean_token_and_inputs_those_of_each_entity(
    small_sae,
):
    concept = Concept("c", tuple(Prompt(f"w {i} a b", entity=str(i % 2)) for i in range(10)))
    acts = replace(activations(5 + activations().x), concept=concept)
    given = {"levels": (0.0, 1.0), "seeds": [3], "max_slots": 2}
    for centred in (False, True):
        swept = swept_with(small_sae, acts, centred=centred, inputs=True, **given)
        x = acts.x[aligned_rows(acts, max_slots=2).flatten()]
        noise = swept.sigma * draw_noise(x, stream(3, "noise"))
        for i, level in enumerate(given["levels"]):
            z = small_sae.encode(x + level * noise).detach().double()
            whole = z - z.mean(0) if centred else z
            expected = torch.linalg.svdvals(whole)
            found = swept.spectra["SAE", 3][i, 0]
            np.testing.assert_allclose(found[:12], expected[:12], atol=1e-5 * expected[0])
            assert swept.inputs["SAE"].shape == (2, 1, 2, 5)
            for entity in (0, 1):
                own = z[0::2][entity::2]  # slot 0 of the prompts that name it
                own = torch.linalg.svdvals(own - own.mean(0) if centred else own)
                found = swept.inputs["SAE"][i, 0, entity]
                np.testing.assert_allclose(found, own, atol=1e-5 * own[0])
    clean = swept.inputs["SAE"][0, 0, 0]  # of five tokens without their mean
    assert clean[4] < 1e-5 * clean[0] < clean[3]


def test_a_large_mean_hides_the_rank_that_centring_shows(small_sae):
    """Finding of the review: uncentred, singular values are counted against the mean token's."""
    acts = activations(50 + activations().x)
    kept, centred = (swept_with(small_sae, acts, centred=c) for c in (False, True))
    of_kept, of_centred = (
        relative_rank(s.spectra["residual", 3][0, 0], tau=0.1).value for s in (kept, centred)
    )
    assert of_kept == 1 and of_centred == 8
