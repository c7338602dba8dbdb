"""The ablation of the rank rule: its planted data, and that its scores mean what they say."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from saerepgeo_lib.activations.residual_stream import rms
from saerepgeo_lib.plots.calibration import plot_rocs
from saerepgeo_lib.rank.noise_sweep import RESIDUAL
from saerepgeo_lib.studies import ablation_verdict
from saerepgeo_lib.synthetic import ablation, data

COLUMNS = ["shape", "contrast", "draw", "representation", "score", "value"]


@pytest.fixture(scope="module")
def like():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(200, 48, generator=generator) * torch.linspace(3, 0.1, 48) + 5


def test_the_flat_twin_has_the_spectrum_of_the_strata_and_the_curved_one_is_an_ellipsoid():
    cloud = data.strata((1, 3), 30, 12, curved=False, random_state=0)
    twin = ablation.covariance_twin(cloud.points, curved=False, rng=np.random.default_rng(1))
    np.testing.assert_allclose(np.cov(twin.T), np.cov(cloud.points.T), atol=1e-12)
    np.testing.assert_allclose(twin.mean(0), cloud.points.mean(0), atol=1e-12)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50_000, 3)) @ rng.normal(size=(3, 6)) + 2
    twin = ablation.covariance_twin(x, curved=True, rng=rng)
    np.testing.assert_allclose(np.cov(twin.T), np.cov(x.T), atol=0.02 * np.cov(x.T).max())
    inside = twin - x.mean(0)
    radius = np.einsum("ni,ij,nj->n", inside, np.linalg.pinv(np.cov(x.T), rcond=1e-9), inside)
    np.testing.assert_allclose(radius, 3, rtol=1e-3)  # (x - m)^T C^+ (x - m) = r on the ellipsoid


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
    kinds = {(s.shape, s.contrast, s.draw) for s in sets}
    assert len(sets) == len(kinds) == 2 * 2 * (1 + len(ablation.CONTRASTS))
    assert {len(s.points) for s in sets} == {48}
    assert all((s.contrast == "") == (len(set(s.dimension)) > 1) for s in sets)
    thin = [s for s in sets if s.contrast == "lowest dimension" and s.shape == "linear"]
    assert all(np.linalg.matrix_rank(s.points) == 1 for s in thin)
    assert len({s.seed for s in sets}) == len(sets)  # no two sets share noise or encoders
    shapes = [next(s.points for s in sets if s.shape == shape) for shape in ablation.SHAPES]
    rows = [np.sort(x[:12] @ x[:12].T, axis=None) for x in shapes]
    assert not np.allclose(*rows)
    again = ablation.planted_sets(draws=2, n=48)
    assert all(np.array_equal(a.points, b.points) for a, b in zip(sets, again, strict=True))


def test_scores_of_the_residual_stream_by_hand(like):
    """Rank 2 data in 48 dimensions: noise fills the 40 points' rank up from 2."""
    x = ablation.placement(like)(np.random.default_rng(0).normal(size=(40, 2)))
    encoders = {RESIDUAL: lambda z: z - like.mean(0)}
    found = ablation.scores(x, encoders, permuted=[RESIDUAL], levels=(0, 1.0))
    assert found[RESIDUAL, "clean relative rank"] == 2
    assert found[RESIDUAL, "relative 0.01 range"] == (40 - 2) / 2
    assert {name for _, name in found} == set(ablation.SCORES)
    without = {name for _, name in ablation.scores(x, encoders, levels=(0, 1.0))}
    assert set(ablation.SCORES) - without == {"permutation range"}
    # permuted spectra are those of shuffled columns
    z = torch.randn(12, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    null = data.permuted_spectra(lambda: ablation._shuffled(z, generator))
    assert null.shape == (19, 12)
    np.testing.assert_allclose(np.square(null).sum(1), z.square().sum().item())  # keeps every entry
    assert len({row.tobytes() for row in null.round(9)}) > 1
    shuffled = ablation._shuffled(z, generator)
    assert torch.equal(shuffled.sort(0).values, z.sort(0).values)  # order is all that moves
    (one,) = data.permuted_spectra(lambda: shuffled, draws=1)
    np.testing.assert_allclose(one[:5], torch.linalg.svdvals(shuffled))


def test_auc_and_worst_table_by_hand():
    least = dict(zip(("", *ablation.CONTRASTS), (5, 1, 5, 8), strict=True))
    rows = [(shape, contrast, draw, "SAE", "MLE spread", float(value + draw + shift))
            for shape, shift in (("linear", 0), ("curved", 10))
            for contrast, value in least.items() for draw in range(2)]  # fmt: skip
    table = pd.DataFrame(rows, columns=COLUMNS)
    aucs = ablation.auc_table(table)
    linear = aucs[aucs["shape"] == "linear"].set_index("contrast")["auc"]
    assert linear.tolist() == [1, 0.5, 0]
    worst = ablation.worst_aucs(aucs, ["SAE"]).iloc[0]
    assert [worst[c] for c in (*ablation.CONTRASTS, "worst")] == [1, 0.5, 0, 0]
    assert worst["low"] == aucs.query("shape != 'both'")["low"].min()
    claims = ablation_verdict.judge_rank_rule(aucs, "MLE spread", ["SAE"])
    assert [c.value for c in claims] == [1, 0.5, 0]  # compared within each shape
    assert [c.verdict for c in claims][1:] == ["does not hold"] * 2
    figure = plot_rocs(table, "SAE", ["MLE spread"])
    areas = [np.trapezoid(*ax.lines[0].get_data()[::-1]) for ax in figure.axes]
    np.testing.assert_allclose(areas, np.repeat([1, 0.5, 0], 2))


def test_the_verdict_on_planted_data_asks_every_null():
    rng = np.random.default_rng(0)
    gains = {("SAE", ""): 5, ("SAE", "same covariance"): 5, ("dense AE", "same covariance"): 9}
    rows = [
        ("linear", contrast, draw, label, "stable range",
         rng.normal() + gains.get((label, contrast), 0))
        for contrast in ("", "same covariance") for draw in range(8)
        for label in (RESIDUAL, "dense AE", "SAE", "random SAE")
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=COLUMNS)
    found = ablation.verdicts(table, "stable range", ["SAE"]).set_index("data")
    assert found["beyond all"].to_dict() == {"strata": "yes", "same covariance": "no"}
    assert found.loc["same covariance", "minus dense"] < 0 < found.loc["strata", "minus dense"]


def test_score_table_runs_every_representation_and_is_reproducible(like, small_sae):
    sets = ablation.planted_sets(draws=2, n=40, dimensions=(1, 2))
    sets = [replace(s, points=s.points[:, :8]) for s in sets if s.draw == 0]
    given = {"small": small_sae}
    first, again = (
        ablation.score_table(sets, like[:, :8], given, sparse=["small"], levels=(0, 1))
        for _ in range(2)
    )
    pd.testing.assert_frame_equal(first, again)
    assert set(first["representation"]) == {RESIDUAL, "small", "random small"}
    assert np.isfinite(first["value"]).all()
