import threading

import numpy as np
import pandas as pd
import pytest
import torch

from saerepgeo_lib import stratification as case1
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.noise_sweep import stream, sweep
from saerepgeo_lib.ranks import relative_rank
from saerepgeo_lib.residuals import Residuals, draw_noise
from saerepgeo_lib.tensors import aligned_rows

LEVELS = (0.0, 0.1, 1.0)
SEEDS = (3, 4, 5)


def vectors(n_prompts=10, n_tokens=4, d=8):
    prompt = torch.arange(n_prompts).repeat_interleave(n_tokens)
    position = torch.arange(n_tokens).repeat(n_prompts)
    x = torch.randn(len(prompt), d, generator=torch.Generator().manual_seed(0))
    return Residuals(x, prompt, position, position == 1)


@pytest.fixture
def swept(small_sae, two_threads):
    return sweep(
        vectors(), {"SAE": small_sae}, sparse=["SAE"], levels=LEVELS, seeds=SEEDS, max_slots=3
    )


def test_the_sweep_holds_every_null_and_shape(swept):
    assert swept.labels == ("residual", "SAE", "random SAE", "permuted SAE")
    assert swept.tensor_shape == (10, 3)
    for (_, mode), spectra in swept.spectra.items():
        assert spectra.shape == (3, 3, {1: 10, 2: 3, 3: 30}[mode])
    assert (swept.l0["random SAE"] <= 4).all()
    assert swept.l0["permuted SAE"] == pytest.approx(swept.l0["SAE"])


def test_shapes_count_the_features_that_were_active_at_any_level(swept, small_sae):
    r = vectors()
    x = r.x[aligned_rows(r, max_slots=3)].flatten(0, 1)
    most = 0
    for seed in SEEDS:
        noise = swept.sigma * draw_noise(x, stream(seed, "noise"))
        codes = torch.cat([small_sae.encode(x + level * noise) for level in LEVELS])
        most = max(most, int((codes != 0).any(0).sum()))
    for label in ("SAE", "permuted SAE"):
        assert [swept.shapes[label, mode] for mode in (1, 2, 3)] == [
            (10, 3 * most), (3, 10 * most), (most, 30),
        ]  # fmt: skip


def test_spectra_are_those_of_the_clean_codes_by_brute_force(swept, small_sae):
    r = vectors()
    z = small_sae.encode(r.x[aligned_rows(r, max_slots=3)]).detach().double().numpy()
    for mode in (1, 2, 3):
        unfolded = np.moveaxis(z, mode - 1, 0).reshape(z.shape[mode - 1], -1)
        expected = np.linalg.svd(unfolded, compute_uv=False)
        found = swept.spectra["SAE", mode][0]
        k = min(found.shape[1], len(expected))
        for seed in range(3):
            np.testing.assert_allclose(found[seed, :k], expected[:k], atol=1e-6 * expected[0])


def test_zero_noise_is_the_same_for_every_seed_and_noise_is_not(swept):
    for label in ("residual", "SAE"):
        spectra = swept.spectra[label, 3]
        assert np.ptp(spectra[0], axis=0).max() == 0
        assert np.ptp(spectra[1], axis=0).max() > 0
        assert (swept.shift[label, 3][0] == 0).all() and (swept.shift[label, 3][1:] > 0).all()


def test_measured_ranks_lie_within_weyls_bounds_and_certified_ones_are_the_clean_rank(swept):
    ranks = case1.rank_table(swept, tau=0.05).query("rule == 'relative'")
    both = ranks.merge(
        case1.certified_table(swept, tau=0.05), on=["label", "mode", "level", "seed"]
    )
    assert len(both) == 4 * 3 * 3 * 3
    assert (both["low"] <= both["rank"]).all() and (both["rank"] <= both["high"]).all()
    clean = both[both["level"] == 0].set_index(["label", "mode", "seed"])["rank"]
    sure = both[both["certified"]]
    index = pd.MultiIndex.from_frame(sure[["label", "mode", "seed"]])
    assert (sure["rank"].to_numpy() == clean[index].to_numpy()).all()


def test_noise_aware_rules_are_for_the_residual_and_permutation_ranks_for_saes(swept):
    ranks = case1.rank_table(swept)
    assert set(ranks.query("rule == 'marchenko-pastur'")["label"]) == {"residual"}
    assert set(ranks.query("rule == 'permutation'")["label"]) == {"SAE"}
    one = ranks.query("label == 'SAE' and mode == 3 and level == 1 and seed == 4")
    expected = relative_rank(swept.spectra["SAE", 3][2, 1], tau=case1.TAU)
    assert one.set_index("rule").loc["relative", "rank"] == expected.value
    assert one.set_index("rule").loc["relative", "tolerance"] == expected.tolerance


def test_the_same_seed_gives_the_same_ranks(swept, small_sae):
    again = sweep(
        vectors(), {"SAE": small_sae}, sparse=["SAE"], levels=LEVELS, seeds=SEEDS, max_slots=3
    )
    assert case1.rank_table(again).equals(case1.rank_table(swept))


@pytest.mark.parametrize("ask", ["item", "tolist", "cpu", "__float__", "__int__", "__bool__"])
def test_no_level_waits_for_numbers_from_the_device(small_sae, monkeypatch, ask):
    """Levels are done in threads of their own; only the main one, which stores, may ask."""
    real, asked = getattr(torch.Tensor, ask), []

    def watched(*args, **kwargs):
        asked.append(threading.current_thread() is threading.main_thread())
        return real(*args, **kwargs)

    monkeypatch.setattr(torch.Tensor, ask, watched)
    sweep(vectors(), {"SAE": small_sae}, sparse=["SAE"], levels=LEVELS, seeds=[0], max_slots=3)
    assert all(asked)
    assert asked or ask not in ("item", "cpu")  # what is stored is asked for


def test_levels_and_seeds_are_checked(small_sae):
    for levels in ([0.1, 1], [0, 2, 1], [0], [0, float("nan")], [0, 0, 1]):
        with pytest.raises(UserError, match="ascend from 0"):
            sweep(vectors(), {"SAE": small_sae}, sparse=[], levels=levels)
    with pytest.raises(UserError, match="at least one seed"):
        sweep(vectors(), {"SAE": small_sae}, sparse=[], seeds=[])
    assert sweep(vectors(), {"SAE": small_sae}, sparse=[], seeds=[1, 1]).seeds == (1,)
    with pytest.raises(UserError, match="sparse SAE"):
        sweep(vectors(), {"SAE": small_sae}, sparse=["SEA"])


CEILING = 100


def profiles(n_seeds=7, **by_label):
    """Ranks that go from `clean` up by a relative range that differs a little between seeds."""
    rows = []
    for label, (clean, spread) in by_label.items():
        for seed in range(n_seeds):
            top = clean * (1 + spread * (1 + 0.01 * seed))
            for level, rank in ((0.0, clean), (1.0, top)):
                rows.append((label.replace("_", " "), 3, level, seed, "relative", rank, 0.0))
    columns = ["label", "mode", "level", "seed", "rule", "rank", "tolerance"]
    return pd.DataFrame(rows, columns=columns)


def judged(table, sparse=("SAE",)):
    labels = dict.fromkeys(table["label"], CEILING)
    claims = case1.judge(table, labels, concept="c", rule="relative", mode=3, sparse=sparse)
    return {c.subject.removeprefix("c: "): c.verdict for c in claims}, claims


def test_variability_is_the_range_over_the_clean_rank():
    ranks = pd.DataFrame(
        {"label": "a", "mode": 3, "level": [0, 1, 2], "seed": 0, "rule": "relative",
         "rank": [10.0, 4.0, 12.0]}
    )  # fmt: skip
    assert case1.variability(ranks, rule="relative")["variability"].tolist() == [0.8]
    with pytest.raises(UserError, match="unknown rank rule"):
        case1.variability(ranks, rule="relativ")


@pytest.mark.parametrize(
    ("sae", "null", "n_seeds", "beyond", "overall"),
    [
        ((50, 0.5), (50, 0.1), 7, "holds", "holds"),
        ((50, 0.5), (50, 0.9), 7, "does not hold", "does not hold"),
        ((50, 0.01), (50, 0.0), 7, "holds", "does not hold"),  # below 5 %: it does not vary
        ((50, 0.5), (100, 0.0), 7, "cannot be tested here", "cannot be tested here"),
        ((90, 0.1), (20, 3.0), 7, "does not hold", "does not hold"),
        ((50, 0.5), (50, 0.1), 6, "cannot be tested here", "cannot be tested here"),
    ],
)
def test_the_verdict_follows_from_the_numbers(sae, null, n_seeds, beyond, overall):
    verdicts, claims = judged(profiles(n_seeds, SAE=sae, residual=null))
    assert verdicts["SAE minus residual"] == beyond
    assert claims[-1].verdict == overall
    seeds = 1 + 0.01 * np.arange(n_seeds)
    assert claims[-1].value == pytest.approx((sae[1] - null[1]) * seeds.mean())


def test_an_sae_is_judged_by_its_own_nulls_and_in_part_where_some_cannot_be_tested():
    table = profiles(
        SAE=(50, 0.5), other=(50, 0.6), residual=(50, 0.1), permuted_SAE=(100, 0.0),
        permuted_other=(100, 0.0), random_SAE=(50, 0.2), random_other=(50, 0.2),
    )  # fmt: skip
    verdicts, claims = judged(table, sparse=("SAE", "other"))
    assert verdicts == {
        "SAE": "holds", "other": "holds",
        "SAE minus residual": "holds", "other minus residual": "holds",
        "SAE minus permuted SAE": "cannot be tested here",
        "other minus permuted other": "cannot be tested here",
        "SAE minus random SAE": "holds", "other minus random other": "holds",
        "weakest difference, SAE minus random SAE": "holds in part",
    }  # fmt: skip
    text = case1.verdict_text(claims)
    assert "**c: holds in part.**" in text and "n = 7 seeds" in text


def test_parameters_are_checked_before_anything_runs():
    good = {
        "positions": "content", "noise_levels": [0, 1], "noise_scaling": "relative", "n_seeds": 2,
        "rank_rule": "relative", "rank_mode": 3, "tau": 0.01, "concepts": "days",
    }  # fmt: skip
    case1.check_parameters(**good)
    bad = {
        "positions": "contents", "noise_levels": [1, 0], "noise_scaling": "relatve", "n_seeds": 1,
        "rank_rule": "permutation", "rank_mode": 4, "tau": 1.0, "concepts": " , ",
    }  # fmt: skip
    for name, value in bad.items():
        with pytest.raises(UserError):
            case1.check_parameters(**{**good, name: value})


def test_streams_of_one_seed_share_no_numbers_and_the_null_is_not_the_noise():
    from saerepgeo_lib.noise_sweep import stream

    draws = [torch.randn(500, generator=stream(3, p)) for p in ("noise", "encoder", "permutation")]
    correlation = np.corrcoef(torch.stack(draws).numpy())
    assert np.abs(correlation - np.eye(3)).max() < 0.2
    assert torch.equal(draws[0], torch.randn(500, generator=stream(3, "noise")))


def test_a_gap_in_the_spectrum_certifies_the_rank_under_small_noise():
    """Two strong directions and nothing else: rank 2 is certain until noise reaches the gap."""
    from sae_lens import StandardSAE, StandardSAEConfig

    sae = StandardSAE(StandardSAEConfig(d_in=8, d_sae=8))
    basis = torch.linalg.qr(torch.randn(8, 2, generator=torch.Generator().manual_seed(1))).Q.T
    flat = vectors()
    sheet = Residuals(flat.x[:, :2] @ basis * 10, flat.prompt, flat.position, flat.entity)
    swept = sweep(sheet, {"SAE": sae}, sparse=[], levels=(0, 1e-3, 10), scaling="absolute",
                  seeds=(0, 1), max_slots=3)  # fmt: skip
    table = case1.certified_table(swept, tau=0.1).query("label == 'residual' and mode == 3")
    by_level = table.groupby("level")["certified"].all()
    assert by_level.tolist() == [True, True, False]
    assert set(table.query("level < 1")["low"]) == {2}


def test_bounds_never_exceed_the_shorter_side(small_sae):
    swept = sweep(vectors(n_prompts=20), {"SAE": small_sae}, sparse=[], levels=(0, 5),
                  seeds=(0, 1), max_slots=3)  # fmt: skip
    table = case1.certified_table(swept).query("label == 'residual' and mode == 3")
    assert table["high"].max() == 8  # 60 tokens in 8 dimensions


def test_planted_strata_show_in_the_rank_and_one_sheet_does_not():
    """Codes on two lines have rank 2; noise that switches features on adds strata, and rank."""
    from sae_lens import StandardSAE, StandardSAEConfig

    sae = StandardSAE(StandardSAEConfig(d_in=8, d_sae=8))
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(8))
        sae.b_enc.fill_(-1.0)  # a feature is silent below 1
    flat = vectors()
    lines = torch.zeros_like(flat.x)
    lines[::2, 0] = lines[1::2, 1] = 50.0
    planted = Residuals(lines, flat.prompt, flat.position, flat.entity)

    def ranks(noise):
        swept = sweep(planted, {"SAE": sae}, sparse=[], levels=(0, noise), scaling="absolute",
                      seeds=(0, 1), max_slots=3)  # fmt: skip
        table = case1.rank_table(swept, tau=1e-3).query("rule == 'relative' and mode == 3")
        return table[table["label"] == "SAE"].groupby("level")["rank"].mean().tolist()

    assert ranks(0.01) == [2, 2]  # below every threshold: the strata stay
    clean, noisy = ranks(2.0)
    assert clean == 2 and noisy > 4
