"""Steering clustered latents: what it touches, its measures, gradients and theorems."""

from dataclasses import replace

import numpy as np
import pytest
import sae_lens
import torch
from planted_latents import double_sae, random_latents, simplex_latents
from refusals import refused
from scipy.optimize import minimize_scalar
from scipy.spatial.distance import pdist
from scipy.stats import zscore

from saerepgeo_lib.activations import saes
from saerepgeo_lib.activations.latents import encode
from saerepgeo_lib.geometry.arrangements import aedp, gw_cost, gw_coupling
from saerepgeo_lib.steering import latents as steering
from saerepgeo_lib.steering import scaling
from saerepgeo_lib.steering.downstream import to_residual
from saerepgeo_lib.steering.latents import ClusteredLatents, before_denormalising, steer, unsteered
from saerepgeo_lib.steering.optimise import push
from saerepgeo_lib.steering.scaling import outward, steepest

KINDS = ("free", "valid")
SAES = {
    "standard": ("Standard", {}),
    "topk": ("TopK", {"k": 5}),
    "topk by norm": ("TopK", {"k": 5, "rescale_acts_by_decoder_norm": True}),
    "jumprelu": ("JumpReLU", {}),
    "gated": ("Gated", {}),
}


def made(kind, **options):
    """An SAE of SAELens, its weights drawn."""
    config = getattr(sae_lens, f"{kind}SAEConfig")(d_in=8, d_sae=24, **options)
    sae = getattr(sae_lens, f"{kind}SAE")(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in sae.named_parameters():
            if name != "threshold":
                weight.copy_(torch.randn(weight.shape, generator=generator))
    return sae.eval()


def drawn(*shape, seed=1, **options):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **options)


@pytest.mark.parametrize("normalise", ["none", "layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("name", SAES)
def test_the_affine_map_is_saelens_decode_in_its_own_normalisation(name, normalise):
    kind, options = SAES[name]
    sae, x = made(kind, normalize_activations=normalise, **options), drawn(20, 8) * 3 + 1
    attributes = dict(vars(sae))
    latents = ClusteredLatents.of(sae, x, np.arange(20) % 2)
    reconstruction = latents.decoded + latents.decoder.bias
    whole = sae.decode(sae.encode(x))
    torch.testing.assert_close(to_residual(sae, x, reconstruction), whole, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(latents.x - latents.error, reconstruction)
    if normalise == "none":
        assert latents.mse == pytest.approx((x - whole).square().mean().item(), rel=1e-4)
    ones = steering.before_denormalising(sae).decode(torch.ones(1, 24))[0] - latents.decoder.bias
    torch.testing.assert_close(latents.decoder.total, ones.double(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sae.decode(sae.encode(x)), whole)  # the SAE is left as it was
    changed = {k for k, v in vars(sae).items() if attributes.get(k) is not v}
    assert changed <= {"ln_mu", "ln_std", "x_norm_coeff"}  # what SAELens keeps of the last input


def vectors_of(latents, size=0.7):
    return size * drawn(*latents.centroids.shape, seed=5, dtype=torch.float64)


def by_hand(latents, vectors, kind):
    """The steered latents, token by token."""
    z, labels = latents.z.numpy(), latents.labels.numpy()
    out = z.copy()
    for i, k in enumerate(labels):
        if k < 0:
            continue
        out[i] = z[i] + vectors[k].numpy()
        if kind == "valid":
            used = (z[labels == k] != 0).any(axis=0)
            out[i] = np.where(used, np.maximum(out[i], 0), 0)
            keep = np.argsort(-out[i], kind="stable")[: (z[i] != 0).sum()]
            out[i] = np.where(np.isin(np.arange(len(out[i])), keep), out[i], 0)
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_latents_aedp_and_mse_by_brute_force_and_by_saelens(kind):
    latents = random_latents()
    vectors = vectors_of(latents)
    steered, expected = steer(latents, vectors, kind), by_hand(latents, vectors, kind)
    np.testing.assert_allclose(steered.latents().numpy(), expected, atol=1e-12)
    assert steered.l0 == pytest.approx((expected != 0).sum(1).mean())
    labels = latents.labels.numpy()
    centroids = np.stack([expected[labels == k].mean(axis=0) for k in range(4)])
    assert aedp(steered.centroids).item() == pytest.approx(pdist(centroids).mean())
    decoded = double_sae(latents).decode(torch.from_numpy(expected))
    error = (latents.x - decoded).square().mean().item()
    assert steered.mse().item() == pytest.approx(error, rel=1e-9)
    single = steer(latents.single, vectors.float(), kind).mse()
    assert single.item() == pytest.approx(error, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_no_steering_changes_nothing_and_subsets_keep_features(kind):
    latents = random_latents()
    none = unsteered(latents, kind)
    torch.testing.assert_close(none.latents(), latents.z)
    assert none.mse().item() == pytest.approx(latents.mse)
    assert aedp(none.centroids).item() == pytest.approx(latents.aedp)
    keep = (latents.labels != 1).numpy()  # subsets keep features and renumber clusters
    subset = latents.rows(keep)
    assert subset.labels.unique().tolist() == [-1, 0, 1, 2]
    torch.testing.assert_close(subset.centroids, latents.centroids[[0, 2, 3]])
    assert subset.mse == pytest.approx(latents.error[keep].square().mean().item())


def test_valid_latents_are_nonnegative_no_denser_and_on_the_clusters_features():
    latents = random_latents()
    for size in (0.1, 1, 10):
        z = steer(latents, vectors_of(latents, size), "valid").latents()
        assert (z >= 0).all() and ((z != 0).sum(1) <= (latents.z != 0).sum(1)).all()
        used = latents.used[latents.labels.clamp_min(0)] | (latents.labels < 0)[:, None]
        assert (used | (z == 0)).all()
    assert not (steer(latents, vectors_of(latents, 1)).latents() >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_z_scored_error_is_that_of_standardised_dense_latents(kind):
    latents = random_latents()
    vectors = vectors_of(latents)
    z = np.pad(by_hand(latents, vectors, kind), ((0, 0), (0, 4)))  # 4 features never active
    weight = np.concatenate([latents.decoder.weight.numpy(), np.ones((4, 5))])
    decoder = replace(latents.decoder, total=torch.from_numpy(weight.sum(0)), width=16)
    wide = ClusteredLatents(latents.x, latents.z, latents.features, decoder, latents.labels)
    rebuilt = zscore(z, axis=1, ddof=1) @ weight + latents.decoder.bias.numpy()
    expected = np.square(zscore(latents.x.numpy(), axis=1, ddof=1) - rebuilt).mean()
    assert steer(wide, vectors, kind).mse("z-scored").item() == pytest.approx(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_by_finite_differences_and_through_saelens_decode(kind):
    latents = random_latents(per=3, width=8)
    vectors = vectors_of(latents).requires_grad_()
    target = latents.means(latents.x)
    coupling = gw_coupling(target, (latents.centroids + vectors).detach())
    measures = {
        "error": lambda steered: steered.mse(),
        "z-scored error": lambda steered: steered.mse("z-scored"),
        "separability": lambda steered: aedp(steered.centroids).log(),
        "Gromov-Wasserstein": lambda steered: gw_cost(target, steered.centroids, coupling),
    }
    for measure in measures.values():
        function = lambda v, measure=measure: measure(steer(latents, v, kind))  # noqa: E731
        assert torch.autograd.gradcheck(function, (vectors,), eps=1e-7, atol=1e-5)
    steered = steer(latents, vectors, kind)
    (gradient,) = torch.autograd.grad(steered.mse(), vectors, retain_graph=True)
    error = latents.x - double_sae(latents).decode(steered.latents())
    (expected,) = torch.autograd.grad(error.square().mean(), vectors)
    torch.testing.assert_close(gradient, expected)


def test_steepest_is_the_slope_of_the_error_along_a_small_push():
    latents = random_latents()
    slope, cosine = steepest(latents)
    step = push(latents, 1.002, n_steps=1)
    assert np.log(step.mse) / np.log(step.aedp) == pytest.approx(slope, rel=0.05)
    # one step of the flow goes along the gradient
    expected = torch.cosine_similarity(step.vectors.flatten(), outward(latents).flatten(), dim=0)
    assert cosine == pytest.approx(expected.item(), abs=1e-3) and cosine > 0


def test_users_mistakes_are_named(small_sae, unchecked):
    x = drawn(12, 8)
    refused("one per token", ClusteredLatents.of, small_sae, x, np.zeros(3, dtype=int))
    refused(
        "at least 2 clusters, got 1", ClusteredLatents.of, small_sae, x, np.zeros(12, dtype=int)
    )
    refused("at least 2 clusters, got 0", ClusteredLatents.of, small_sae, x, np.full(12, -1))
    latents = ClusteredLatents.of(small_sae, x, np.array([7] * 5 + [3] * 5 + [-1] * 2))
    assert latents.labels.tolist() == [1] * 5 + [0] * 5 + [-1] * 2
    assert encode(small_sae, x).features.equal(latents.features)
    refused("unknown kind of steering", steer, latents, latents.centroids, "half")
    sae = made("Standard")
    decode = sae.decode
    sae.decode = lambda z: decode(z) ** 2
    refused("not an affine map", steering.decoder_on, sae, torch.arange(6))
    negative = random_latents(nonnegative=False)
    refused("nonnegative", steer, negative, negative.centroids, "valid")


RATIOS = (0.3, 0.8, 1.0, 1.2, 2.5)


def measured(sae, latents, ratio):
    """AEDP and MSE of latents scaled about their mean, by SAELens' decode."""
    z = torch.lerp(latents.z.mean(0), latents.z, ratio)
    dense = torch.zeros(len(z), sae.cfg.d_sae, dtype=sae.W_dec.dtype)
    dense[:, latents.features] = z.to(dense)
    with torch.no_grad():
        error = latents.x - before_denormalising(sae).decode(dense).double()
    return aedp(latents.means(z)).item(), error.square().mean().item()


def check_law(latents, sae):
    law = scaling.uniform_scaling(latents)
    for ratio in RATIOS:
        separability, error = measured(sae, latents, ratio)
        assert separability == pytest.approx(ratio * latents.aedp, rel=1e-9)
        assert law.mse(ratio) == pytest.approx(error, rel=1e-6)


def test_the_closed_form_is_the_measured_error_to_a_millionth():
    for seed in range(3):
        latents = random_latents(seed=seed)
        sae = double_sae(latents)
        check_law(latents, sae)
        best = minimize_scalar(lambda r: measured(sae, latents, r)[1], bounds=(0, 5))  # noqa: B023
        assert scaling.uniform_scaling(latents).optimum == pytest.approx(best.x, abs=1e-3)
        law, outward = scaling.arrangement_scaling(latents), scaling.outward(latents)
        for ratio in RATIOS:
            steered = steer(latents, (ratio - 1) * outward)
            assert aedp(steered.centroids).item() == pytest.approx(ratio * latents.aedp, rel=1e-9)
            assert law.mse(ratio) == pytest.approx(steered.mse().item(), rel=1e-6)


@pytest.mark.parametrize("name", ["minilm-l4-topk", "minilm-l4-l1"])
def test_the_closed_form_holds_for_shipped_saes(name):
    sae = saes.load_sae(name)
    x = torch.randn(60, 384, generator=torch.Generator().manual_seed(0)) * 0.5
    latents = ClusteredLatents.of(sae, x, np.arange(60) % 5)
    check_law(latents, sae.double())  # the closed form is in double precision; so is this decode


def test_the_optimum_is_the_planted_shrinkage_and_its_sign_is_that_of_the_effect():
    for shrinkage in (0.5, 0.8, 1.0, 1.25):
        latents = simplex_latents(shrinkage=shrinkage)
        uniform, law = scaling.uniform_scaling(latents), scaling.arrangement_scaling(latents)
        for one in (uniform, law):
            assert one.optimum == pytest.approx(1 / shrinkage)
            assert np.sign(round(one.elasticity, 9)) == np.sign(round(1 - one.optimum, 9))
            slope = np.log(one.mse(1.0001) / one.mse(1)) / np.log(1.0001)
            assert one.elasticity == pytest.approx(slope, abs=2e-2)
        row = scaling.shrinkage(latents, np.arange(40) % 4)
        assert row["gain"] == pytest.approx(1 - law.floor / latents.mse if shrinkage < 1 else 0)
        ends = row["helps up to"]
        assert ends == pytest.approx(max(1, 2 / shrinkage - 1))
        if shrinkage < 1:
            assert law.mse(ends) == pytest.approx(latents.mse)
            assert law.mse(ends - 0.01) < latents.mse < law.mse(ends + 0.01)
        for optimum in (1.0, 1.2):
            corrected = scaling.with_optimum(latents, optimum)
            assert scaling.uniform_scaling(corrected).optimum == pytest.approx(optimum)
            assert corrected.aedp == latents.aedp
        assert scaling.with_optimum(latents, 1.0).mse == pytest.approx(uniform.floor)


def test_the_least_error_of_free_steering_is_that_of_least_squares_from_a_bound_on():
    for width in (3, 12):  # fewer features than dimensions, and more
        latents = random_latents(width=width)
        error, labels = latents.error.numpy().copy(), latents.labels.numpy()
        weight = latents.decoder.weight.numpy()
        for inside in (labels == k for k in range(4)):
            stacked = np.tile(weight.T, (inside.sum(), 1))
            step = np.linalg.lstsq(stacked, error[inside].ravel(), rcond=None)[0]
            error[inside] -= step @ weight
        assert scaling.least_mse(latents) == pytest.approx(np.square(error).mean())
    # And every separability from the bound on has it.
    latents = random_latents()
    bound, least = scaling.free_from(latents), scaling.least_mse(latents)
    vectors = scaling.removing_error(latents)
    unseen = torch.eye(12, dtype=torch.float64) - latents.decoder.weight @ latents.inverse
    assert torch.linalg.matrix_rank(unseen) == 12 - 5
    # the centroids agree where nothing is seen
    steered = steer(latents, vectors - latents.centroids @ unseen)
    assert steered.mse().item() == pytest.approx(least)
    assert aedp(steered.centroids).item() / latents.aedp == pytest.approx(bound)
    generator = torch.Generator().manual_seed(0)
    for size in (0.1, 1, 10, 100):
        noise = torch.randn(vectors.shape, generator=generator, dtype=torch.float64)
        steered = steer(latents, vectors + size * noise @ unseen)
        assert steered.mse().item() == pytest.approx(least)
        assert aedp(steered.centroids).item() / latents.aedp >= bound
    assert scaling.free_from(random_latents(width=5)) == float("inf")


def test_intervals_leave_out_one_group_at_a_time_and_need_two_clusters_in_each_rest():
    latents, fold = random_latents(loose=0), np.tile(np.arange(6), 4)
    row = scaling.shrinkage(latents, fold)
    assert row["rho*"] == pytest.approx(scaling.uniform_scaling(latents).optimum)
    assert row["n"] == 6
    parts = [latents.rows(fold != g) for g in range(6)]
    for name, bounds, null, statistic in (
        ("rho*", "{}", 1, lambda part: scaling.uniform_scaling(part).optimum),
        ("rho* outward", "{} outward", 1, lambda part: scaling.arrangement_scaling(part).optimum),
        ("slope", "slope {}", 0, lambda part: scaling.steepest(part.single)[0]),
    ):
        replicates = [statistic(part) for part in parts]
        error = np.sqrt(5 / 6 * np.square(replicates - np.mean(replicates)).sum())
        low, high, p = (row[bounds.format(end)] for end in ("low", "high", "p"))
        half = 2.5706 * error  # Student's t, 5 degrees of freedom
        assert (row[name] - low, high - row[name]) == pytest.approx((half, half), rel=1e-3)
        assert (p < 0.05) == (abs(row[name] - null) > half)
    # No interval where one group holds all clusters but one.
    latents = random_latents(k=2, loose=0)
    holds_all = np.where(latents.labels == 0, 0, 1 + np.arange(12) % 2)
    assert np.isfinite(scaling.shrinkage(latents, np.arange(12) % 3)["low"])
    row = scaling.shrinkage(latents, holds_all)
    assert row["rho*"] == scaling.uniform_scaling(latents).optimum
    assert np.isnan([row["low"], row["slope high"], row["p"]]).all() and row["n"] == 0
