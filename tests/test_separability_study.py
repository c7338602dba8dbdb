"""One point of the study: what it trains, what it measures, and that a repeat gives the same."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from saerepgeo_lib import training
from saerepgeo_lib.latents import fvu
from saerepgeo_lib.prompts import load_concept
from saerepgeo_lib.separability_study import (
    SEEDS,
    STRENGTHS,
    K,
    Point,
    demonstration,
    measure,
    measure_text,
    points,
    probed,
    trained,
)
from saerepgeo_lib.separability_training import residual_groups, separability

TINY = Point("standard", 1.0, 20.0, 0, n_groups=8, n_samples=64 * 300, expansion=2, batch_size=64)

pytestmark = pytest.mark.usefixtures("one_thread")  # beside other tests


@pytest.fixture(scope="module")
def found(minilm):
    return {name: probed(minilm, load_concept(name)) for name in ("days", "color")}


def text(found):
    return [found["color"].residuals.x.half().numpy()]


def result(point, found, folder):
    sae = trained(point, text(found), checkpoints=folder, device="cpu")
    return measure(sae, TINY, found["days"].residuals.x, {"days": found["days"]})


def test_the_grid_has_every_seed_at_every_strength_and_baselines_around_the_l1_weight():
    grid = points()
    assert len(set(grid)) == len(grid) and len(SEEDS) >= 3
    assert STRENGTHS[0] == 0 and sum(s > 0 for s in STRENGTHS) >= 4
    for seed in SEEDS:
        mine = [p for p in grid if p.seed == seed]
        assert sorted(p.strength for p in mine if p.kind == "topk") == sorted(STRENGTHS)
        assert {p.coefficient for p in mine if p.kind == "topk"} == {K}
        l1 = [p for p in mine if p.kind == "standard"]
        (weight,) = {p.coefficient for p in l1 if p.strength}
        plain = sorted(p.coefficient for p in l1 if not p.strength)
        assert len(plain) >= 3 and plain[0] < weight < plain[-1] and weight in plain


def test_the_last_token_of_each_entity_stands_for_it(found):
    named = found["days"].entities
    assert len(named.residuals.x) == 84 and named.residuals.entity.all()
    assert np.bincount(named.groups.entity).tolist() == [12] * 7
    for prompt, position in zip(named.residuals.prompt, named.residuals.position, strict=True):
        everything = found["days"].residuals
        mine = (everything.prompt == prompt) & everything.entity
        assert position == everything.position[mine].max()


@pytest.mark.parametrize(("kind", "coefficient"), [("topk", 8), ("standard", 1.0)])
def test_what_is_measured_has_decoder_rows_of_norm_one_and_the_same_reconstruction(
    tmp_path, found, kind, coefficient, monkeypatch
):
    point = replace(TINY, kind=kind, coefficient=coefficient)
    kept = []
    real = training.SAETrainer.fit
    monkeypatch.setattr(training.SAETrainer, "fit", lambda self: kept.append(real(self)) or kept[0])
    sae = trained(point, text(found), checkpoints=tmp_path / "c", device="cpu")
    x = found["days"].residuals.x
    assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(sae.cfg.d_sae), atol=1e-5)
    assert torch.allclose(sae(x), kept[0](x), atol=1e-3)
    measured = measure_text(sae, point, x)
    assert measured["FVU"] == pytest.approx(fvu(sae, x))
    z = sae.encode(x)
    assert measured["L0"] == pytest.approx((z > 0).sum(1).double().mean().item())
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    batches = [rows for rows in order.split(64) if len(rows) == 64]
    apart = [separability(z[b], residual_groups(x[b], n_groups=8)).item() for b in batches]
    assert measured["separability"] == pytest.approx(sum(apart) / len(apart))
    scale = x.shape[1] ** 0.5 / x.norm(dim=1).mean()
    loss = (scale * (x - sae(x))).square().sum(1).mean()
    loss += (scale * z).sum(1).mean() * (kind == "standard")  # an L1 weight of 1
    assert measured["loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert measured["dead"] == pytest.approx(1 - (z > 0).any(0).double().mean().item())


def test_a_rescaled_sae_measures_the_same(tmp_path, found):
    sae = trained(replace(TINY, n_samples=6400), text(found), checkpoints=tmp_path, device="cpu")
    days = {"days": found["days"]}
    x = found["days"].residuals.x
    before = measure(sae, TINY, x, days)
    with torch.no_grad():
        sae.W_enc *= 4.0
        sae.b_enc *= 4.0
        sae.W_dec /= 4.0
    after = measure(sae, TINY, x, days)
    for name in ("FVU", "L0", "dead", "separability"):
        assert after[name] == pytest.approx(before[name], rel=1e-4), name
    for name in ("AEDP", "AEDP clusters", "probing", "rank range", "rho*", "slope", "dimension"):
        pair = after["concepts"]["days"][name], before["concepts"]["days"][name]
        assert pair[0] == pytest.approx(pair[1], rel=1e-3, nan_ok=True), name


@pytest.mark.slow
def test_a_point_repeated_and_one_resumed_give_the_same_numbers(tmp_path, found, interrupt_at):
    first = result(TINY, found, tmp_path / "a")
    assert result(TINY, found, tmp_path / "b") == first
    with interrupt_at(250):
        result(TINY, found, tmp_path / "c")
    assert list((tmp_path / "c").glob("*/whole"))
    assert result(TINY, found, tmp_path / "c") == first
    other = result(replace(TINY, seed=1), found, tmp_path / "d")
    assert other["FVU"] != first["FVU"]


@pytest.mark.slow
def test_the_demonstration_trains_both_kinds_with_and_without_the_objective(found):
    table = demonstration(
        {"color": found["color"]}, {"days": found["days"]}, strength=30.0, n_samples=10_240,
        seed=0, device="cpu",
    )  # fmt: skip
    assert table[["kind", "strength"]].to_numpy().tolist() == [
        ["topk", 0.0], ["standard", 0.0], ["topk", 30.0], ["standard", 30.0]
    ]  # fmt: skip
    assert table[["FVU", "AEDP", "probing", "dead"]].notna().all().all()
