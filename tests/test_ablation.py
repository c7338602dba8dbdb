"""The ablation of the rank rule: its planted data, and that its scores mean what they say."""

import numpy as np
import pandas as pd
import pytest
import torch

from saerepgeo_lib import ablation
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.noise_sweep import RESIDUAL
from saerepgeo_lib.residuals import rms


@pytest.fixture(scope="module")
def like():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(200, 48, generator=generator) * torch.linspace(3, 0.1, 48) + 5


@pytest.mark.parametrize("curved", [False, True])
def test_the_covariance_twin_has_the_covariance(curved):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50_000, 3)) @ rng.normal(size=(3, 6)) + 2
    twin = ablation.covariance_twin(x, curved=curved, rng=rng)
    np.testing.assert_allclose(np.cov(twin.T), np.cov(x.T), atol=0.05 * np.cov(x.T).max())
    np.testing.assert_allclose(twin.mean(0), x.mean(0), atol=0.1)
    assert np.linalg.matrix_rank(twin - x.mean(0), tol=1e-6) == 3
    if curved:  # on the ellipsoid (x - m)^T C^+ (x - m) = r
        radius = np.einsum(
            "ni,ij,nj->n", twin - x.mean(0), np.linalg.pinv(np.cov(x.T)), twin - x.mean(0)
        )
        np.testing.assert_allclose(radius, 3, rtol=1e-3)


def test_placement_keeps_shape_and_takes_mean_and_spread_of_the_residuals(like):
    points = np.random.default_rng(1).normal(size=(60, 10)) + 3
    x = ablation.placement(like)(points)
    torch.testing.assert_close(x.mean(0), like.mean(0), atol=1e-4, rtol=1e-4)
    assert rms(x) == pytest.approx(rms(like), rel=1e-5)
    before, after = torch.pdist(torch.from_numpy(points)), torch.pdist(x.double())
    ratio = after / before
    assert ratio.std() / ratio.mean() < 1e-5


def test_each_draw_has_strata_and_one_twin_a_contrast():
    sets = ablation.planted_sets(draws=2, n=48)
    kinds = [(s.shape, s.contrast, s.draw) for s in sets]
    assert len(kinds) == len(set(kinds)) == 2 * 2 * (1 + len(ablation.CONTRASTS))
    assert {len(s.points) for s in sets} == {48}
    for s in sets:
        assert (s.contrast == "") == (len(set(s.dimension)) > 1)
    thin = [s for s in sets if s.contrast == "lowest dimension" and s.shape == "linear"]
    assert all(np.linalg.matrix_rank(s.points) == 1 for s in thin)
    again = ablation.planted_sets(draws=2, n=48)
    assert all(np.array_equal(a.points, b.points) for a, b in zip(sets, again, strict=True))


def test_scores_of_the_residual_stream_by_hand(like):
    """Rank 2 data in 48 dimensions: noise fills the 40 points' rank up from 2."""
    x = ablation.placement(like)(np.random.default_rng(0).normal(size=(40, 2)))
    found = ablation.scores(x, {RESIDUAL: lambda z: z - like.mean(0)}, levels=(0, 1.0))
    assert found[RESIDUAL, "clean relative rank"] == 2
    assert found[RESIDUAL, "relative 0.01 range"] == (40 - 2) / 2
    assert {name for _, name in found} == set(ablation.SCORES)


def test_auc_and_worst_table_by_hand():
    rows = []
    for shape, shift in (("linear", 0), ("curved", 10)):
        for contrast, values in {
            "": (5, 6),
            "same covariance": (1, 2),
            "same mean dimension": (5, 6),
            "lowest dimension": (8, 9),
        }.items():
            rows += [(shape, contrast, i, "SAE", "MLE spread", float(v + shift))
                     for i, v in enumerate(values)]  # fmt: skip
    columns = ["shape", "contrast", "draw", "representation", "score", "value"]
    table = pd.DataFrame(rows, columns=columns)
    aucs = ablation.auc_table(table)
    linear = aucs[aucs["shape"] == "linear"].set_index("contrast")["auc"]
    assert linear.tolist() == [1, 0.5, 0]
    worst = ablation.worst_aucs(aucs, ["SAE"]).iloc[0]
    assert [worst[c] for c in (*ablation.CONTRASTS, "worst")] == [1, 0.5, 0, 0]
    claims = ablation.judge(aucs, "MLE spread", ["SAE"])
    assert [c.value for c in claims] == [0.75, 0.5, 0.25]  # both shapes pooled
    assert {c.verdict for c in claims} == {"does not hold"}
    roc = ablation.roc_table(table, ["SAE"], ["MLE spread"]).query("contrast == 'same covariance'")
    assert np.trapezoid(roc["true"], roc["false"]) == pytest.approx(0.75)


def test_score_table_runs_every_representation_and_is_reproducible(like, small_sae):
    like8 = like[:, :8]
    saes = {"small": small_sae}
    sets = [s for s in ablation.planted_sets(draws=2, n=40, dimensions=(1, 2)) if s.draw == 0]
    sets = [ablation.Planted(s.shape, s.contrast, s.draw, s.points[:, :8], s.dimension)
            for s in sets]  # fmt: skip
    first = ablation.score_table(sets, like8, saes, sparse=["small"], levels=(0, 1))
    again = ablation.score_table(sets, like8, saes, sparse=["small"], levels=(0, 1))
    pd.testing.assert_frame_equal(first, again)
    assert set(first["representation"]) == {RESIDUAL, "small", "random small"}
    assert np.isfinite(first["value"]).all()


def test_parameters_that_cannot_be_used_are_refused():
    with pytest.raises(UserError, match="draws"):
        ablation.check_parameters(draws=1, n_points=96, score="MLE spread")
    with pytest.raises(UserError, match="n_points"):
        ablation.check_parameters(draws=2, n_points=8, score="MLE spread")
    with pytest.raises(UserError, match="did you mean 'MLE spread'"):
        ablation.check_parameters(draws=2, n_points=96, score="MLE spred")
