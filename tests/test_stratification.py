import numpy as np
import pandas as pd
import pytest
import torch

from saerepgeo_lib import stratification as case1
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.latents import encode
from saerepgeo_lib.noise_sweep import _permute, sweep
from saerepgeo_lib.ranks import relative_rank
from saerepgeo_lib.residuals import Residuals
from saerepgeo_lib.tensors import aligned_rows

LEVELS = (0.0, 0.1, 1.0)
SEEDS = (3, 4, 5)


def vectors(n_prompts=10, n_tokens=4, d=8):
    prompt = torch.arange(n_prompts).repeat_interleave(n_tokens)
    position = torch.arange(n_tokens).repeat(n_prompts)
    x = torch.randn(len(prompt), d, generator=torch.Generator().manual_seed(0))
    return Residuals(x, prompt, position, position == 1)


@pytest.fixture
def swept(small_sae):
    return sweep(
        vectors(), {"SAE": small_sae}, sparse=["SAE"], levels=LEVELS, seeds=SEEDS, max_slots=3
    )


def test_the_sweep_holds_every_null_and_shape(swept):
    assert swept.labels == ("residual", "SAE", "random encoder", "permuted SAE")
    assert swept.tensor_shape == (10, 3)
    for (_, mode), spectra in swept.spectra.items():
        assert spectra.shape == (3, 3, {1: 10, 2: 3, 3: 30}[mode])
    assert (swept.l0["random encoder"] == 4).all()
    assert swept.l0["permuted SAE"] == pytest.approx(swept.l0["SAE"])


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


def test_permuting_keeps_each_feature_s_values_and_breaks_its_rows(small_sae):
    codes = encode(small_sae, vectors().x)
    (null,) = _permute([codes], seed=0)
    assert torch.equal(null.values.sort(0).values, codes.values.sort(0).values)
    assert not torch.equal(null.values, codes.values)


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
    assert sure["level"].max() >= 0


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


def test_levels_and_seeds_are_checked(small_sae):
    for levels in ([0.1, 1], [0, 2, 1], [0], [0, float("nan")], [0, 0, 1]):
        with pytest.raises(UserError, match="ascend from 0"):
            sweep(vectors(), {"SAE": small_sae}, sparse=[], levels=levels)
    with pytest.raises(UserError, match="two different seeds"):
        sweep(vectors(), {"SAE": small_sae}, sparse=[], seeds=[1, 1])
    with pytest.raises(UserError, match="sparse SAE"):
        sweep(vectors(), {"SAE": small_sae}, sparse=["SEA"])


def spread(**by_label):
    rows = [(label, 3, seed, v) for label, vs in by_label.items() for seed, v in enumerate(vs)]
    return pd.DataFrame(rows, columns=["label", "mode", "seed", "variability"])


def verdicts(table):
    claims = case1.judge(table, concept="c", rule="relative", mode=3, sparse=["SAE"])
    return {c.subject.removeprefix("c: "): c.verdict for c in claims}, claims[-1]


def test_variability_is_the_range_over_the_clean_rank():
    ranks = pd.DataFrame(
        {"label": "a", "mode": 3, "level": [0, 1, 2], "seed": 0, "rule": "relative",
         "rank": [10.0, 4.0, 12.0]}
    )  # fmt: skip
    assert case1.variability(ranks, rule="relative")["variability"].tolist() == [0.8]
    with pytest.raises(UserError, match="unknown rank rule"):
        case1.variability(ranks, rule="relativ")


@pytest.mark.parametrize(
    ("sae", "null", "verdict"),
    [
        ([0.50, 0.51, 0.52], [0.1, 0.1, 0.1], "holds"),
        ([0.50, 0.51, 0.52], [0.9, 0.9, 0.9], "does not hold"),
        ([0.01, 0.01, 0.01], [0.0, 0.0, 0.0], "does not hold"),
        ([0.50, 0.10, 0.90], [0.4, 0.5, 0.3], "does not hold"),
    ],
)
def test_the_verdict_follows_from_the_numbers(sae, null, verdict):
    _, summary = verdicts(spread(SAE=sae, residual=null))
    assert summary.verdict == verdict
    assert summary.value == pytest.approx(np.mean(np.subtract(sae, null)))


def test_some_nulls_exceeded_is_holds_in_part_and_other_saes_permutations_are_no_null():
    table = spread(SAE=[0.5, 0.6, 0.5], residual=[2, 2, 2], **{
        "permuted SAE": [0, 0, 0], "permuted other": [9, 9, 9]})  # fmt: skip
    by_subject, summary = verdicts(table)
    assert summary.verdict == "holds in part"
    assert by_subject == {
        "SAE": "holds",
        "SAE minus residual": "does not hold",
        "SAE minus permuted SAE": "holds",
        "weakest difference, SAE minus residual": "holds in part",
    }
    text = case1.verdict_text(
        case1.judge(table, concept="c", rule="relative", mode=3, sparse=["SAE"])
    )
    assert "**c: holds in part.**" in text and "n = 3 seeds" in text


def test_a_union_of_strata_shows_and_a_flat_sheet_does_not():
    """Planted answer: an encoder that is linear on a sheet keeps its rank; TopK does not."""
    from sae_lens import StandardSAE, StandardSAEConfig

    basis = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
    flat = vectors()
    coefficients = torch.randn(len(flat.x), 2, generator=torch.Generator().manual_seed(2))
    sheet = Residuals(coefficients @ basis + 50 * torch.ones(8), flat.prompt, flat.position,
                      flat.entity)  # fmt: skip
    linear = StandardSAE(StandardSAEConfig(d_in=8, d_sae=8))
    with torch.no_grad():
        linear.W_enc.copy_(torch.eye(8))  # all pre-activations positive: affine, never clipped
    swept = sweep(sheet, {"linear": linear}, sparse=["linear"], levels=(0, 1e-4),
                        scaling="absolute", seeds=(0, 1), max_slots=3)  # fmt: skip
    ranks = case1.rank_table(swept, tau=1e-4).query("rule == 'relative' and mode == 3")
    by_label = ranks[ranks["label"] == "linear"]["rank"]
    assert set(by_label) == {3}  # two directions of the sheet and its offset
