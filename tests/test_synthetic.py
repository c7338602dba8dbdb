"""Planted data, the mathematics of the theory pages, and that these load no model library."""

import ast
import itertools
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import sae_lens
import torch
from refusals import refused
from sae_lens.synthetic import ActivationGenerator
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import pdist, squareform

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.geometry.points import rms_radius
from saerepgeo_lib.synthetic import data as synthetic
from saerepgeo_lib.synthetic import theory

EQUATIONS = {
    "circle": lambda x: np.hypot(*x.T) - 1,
    "sphere": lambda x: np.linalg.norm(x, axis=1) - 1,
    "torus": lambda x: np.hypot(np.hypot(x[:, 0], x[:, 1]) - 1, x[:, 2]) - 0.25,
    "cone": lambda x: np.hypot(x[:, 0], x[:, 1]) - x[:, 2],
}


@pytest.mark.parametrize("name", EQUATIONS)
def test_manifolds_satisfy_their_equations(name):
    cloud = synthetic.MANIFOLDS[name](50, random_state=0)
    np.testing.assert_allclose(EQUATIONS[name](cloud.points), 0, atol=1e-9)
    assert set(cloud.dimension) == {1 if name == "circle" else 2}


def test_a_swiss_roll_is_rolled_a_cone_uniform_and_a_lollipop_a_disc_on_a_stick():
    x = synthetic.MANIFOLDS["Swiss roll"](2000, random_state=0).points
    spread = np.linalg.svd(x - x.mean(0), compute_uv=False)
    assert x.shape == (2000, 3) and spread[2] > 0.1 * spread[0]  # it does fill three dimensions
    z = synthetic.cone(20_000, random_state=0).points[:, 2]
    assert np.mean(z**2) == pytest.approx(1 / 2, abs=0.01)  # the area below z grows as z^2
    cloud = synthetic.lollipop(101, random_state=0)
    disc, stick = cloud.points[cloud.dimension == 2], cloud.points[cloud.dimension == 1]
    assert (len(disc), len(stick)) == (51, 50)
    assert (np.hypot(*disc.T) <= 1).all()
    assert (stick[:, 1] == 0).all() and stick[:, 0].min() >= 1 and stick[:, 0].max() <= 3


@pytest.mark.parametrize("curved", [False, True])
def test_strata_have_their_dimensions_and_meet_at_the_origin(curved):
    cloud = synthetic.strata((1, 3), 40, 10, curved=curved, random_state=0)
    for piece, d in enumerate((1, 3)):
        x = cloud.points[cloud.piece == piece]
        assert set(cloud.dimension[cloud.piece == piece]) == {d}
        assert np.linalg.matrix_rank(x) == d + curved
        if curved:  # |x|^2 = 2 <x, centre>: spheres of radius 1 through the origin
            centre = np.linalg.lstsq(2 * x, np.square(x).sum(1), rcond=None)[0]
            np.testing.assert_allclose(np.linalg.norm(x - centre, axis=1), 1)
    with pytest.raises(UserError, match=r"need 3[01] dimensions"):
        synthetic.strata((1, 30), 5, 10, curved=curved, random_state=0)


def test_pieces_are_as_many_components_as_planted():
    cloud = synthetic.pieces(4, 100, 2, ambient=6, separation=4, random_state=0)
    near = squareform(pdist(cloud.points)) < 1.9  # the gap is 2, a ball's inner gaps are smaller
    assert connected_components(near)[0] == 4
    with pytest.raises(UserError, match="more than 2 dimensions"):
        synthetic.pieces(4, 5, 2, ambient=2, separation=4, random_state=0)


def test_embedding_is_an_isometry_and_noise_has_the_size_asked_for():
    cloud = synthetic.MANIFOLDS["torus"](300, random_state=0)
    x = synthetic.embed(cloud, 40, random_state=1)
    np.testing.assert_allclose(pdist(x), pdist(cloud.points))
    noise = synthetic.embed(cloud, 40, noise=0.3, random_state=1) - x
    size = np.sqrt(np.square(noise).sum(1).mean())
    assert size == pytest.approx(0.3 * rms_radius(cloud.points), rel=0.05)
    refused("need 3 dimensions", synthetic.embed, cloud, 2, random_state=0)


def test_planted_latents_span_their_support_and_are_those_of_saelens():
    latents = synthetic.planted_latents(5, 60, 20, random_state=3)
    support = latents.any(0)
    assert support.sum() == 5 == int(torch.linalg.matrix_rank(latents)) and (latents >= 0).all()
    generator = ActivationGenerator(20, 0.5, std_firing_magnitudes=0.25)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        theirs = generator.sample(60)
    assert torch.equal(latents, theirs * support)
    state = torch.random.get_rng_state()
    assert torch.equal(latents, synthetic.planted_latents(5, 60, 20, random_state=3))
    assert torch.equal(state, torch.random.get_rng_state())  # torch's global stream is untouched
    refused("exceeds", synthetic.planted_latents, 30, 5, 20, random_state=0)
    refused("did you mean 'circle'", synthetic.arrangement, "cirkle", 5)
    refused("k >= 2", synthetic.arrangement, "line", 1)


NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
PAGES = ("cone_of_sspd_matrices", "unfolding_a_tensor", "noise_and_rank", "calibration")


def test_pages_of_theory_load_no_model_library():
    """Their own imports, and every name that they use of a room."""
    lines = []
    for page in PAGES:
        tree = ast.parse((NOTEBOOKS / f"{page}.py").read_text())
        lines += [ast.unparse(x) for x in tree.body if isinstance(x, ast.Import | ast.ImportFrom)]
        lines += [ast.unparse(x) for x in ast.walk(tree) if isinstance(x, ast.Attribute)
                  and getattr(x.value, "id", "") in ("plots", "synthetic", "srg")]  # fmt: skip
    code = "\n".join([*lines, "import sys", "print(*{name.split('.')[0] for name in sys.modules})"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"sae_lens", "transformer_lens", "transformers"} & set(done.stdout.split())


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def encoders(d=4, n_features=12, k=3, threshold=0.4):
    generator = torch.Generator().manual_seed(0)
    return theory.random_encoders(d, n_features, k=k, threshold=threshold, generator=generator)


def inputs(n, d=4):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_rank_and_spectrum_of_known_matrices(rng):
    planted = torch.from_numpy(rng.standard_normal((9, 3)) @ rng.standard_normal((3, 6)))
    assert theory.rank_of(planted) == theory.rank_of(planted.T) == 3
    for diagonal, rank in (([1.0, 1e-12], 2), ([1.0, 1e-17], 1), ([0.0, 0.0], 0)):
        assert theory.rank_of(torch.diag(torch.tensor(diagonal).double())) == rank
    assert np.allclose(theory.spectrum(np.diag([2.0, -3.0])), [3, 2])
    assert theory.rank_of(torch.eye(4), "participation") == pytest.approx(4)
    refused("did you mean 'stable'", theory.rank_of, planted, "stabel")


def test_the_jacobian_is_the_derivative_of_m_m_transposed(rng):
    m, h = rng.standard_normal((2, 4, 3))
    upper = np.triu_indices(4)
    jacobian = theory.factor_jacobian(m)
    step = 1e-6
    difference = ((m + step * h) @ (m + step * h).T - (m - step * h) @ (m - step * h).T)[upper]
    assert np.allclose(jacobian @ h.ravel(), difference / (2 * step), atol=1e-8)
    skew = h[:3] - h[:3].T
    assert np.allclose(jacobian @ (m @ skew).ravel(), 0)
    assert np.linalg.matrix_rank(jacobian) == 4 * 3 - 3  # n r - r (r - 1) / 2


def test_cone_coordinates_keep_distances_and_show_the_eigenvalues_and_the_path_visits_all(rng):
    a = rng.standard_normal((20, 2, 2))
    a = a + a.transpose(0, 2, 1)
    points = theory.cone_coordinates(a)
    assert np.allclose(pdist(points), pdist(a.reshape(20, 4)))
    least = (points[:, 2] - np.linalg.norm(points[:, :2], axis=1)) / np.sqrt(2)
    assert np.allclose(least, np.linalg.eigvalsh(a)[:, 0])
    refused("symmetric", theory.cone_coordinates, np.array([[[1.0, 2.0], [0.0, 1.0]]]))
    path = theory.cone_path(np.linspace(0, 4, 4001))
    assert np.linalg.eigvalsh(path).min() > -1e-12
    assert np.linalg.norm(np.diff(path, axis=0), axis=(1, 2)).max() < 5e-3
    places = theory.cone_path(np.array([0, 0.9, 1.0, 2.0, 3.0, 3.1, 4]))
    assert np.linalg.matrix_rank(places).tolist() == [2, 2, 1, 1, 0, 2, 2]


def test_encoders_are_those_of_saelens():
    d, n_features, k, threshold = 32, 256, 16, 1.0
    ours = encoders(d, n_features, k, threshold)
    size = {"d_in": d, "d_sae": n_features, "dtype": "float64"}
    theirs = {
        "ReLU": sae_lens.StandardSAE(sae_lens.StandardSAEConfig(**size)),
        "TopK": sae_lens.TopKSAE(sae_lens.TopKSAEConfig(k=k, **size)),
        "JumpReLU": sae_lens.JumpReLUSAE(sae_lens.JumpReLUSAEConfig(**size)),
    }
    x = 2 * inputs(400, d)
    for kind, sae in theirs.items():
        weight, bias = ours[kind].weight, ours[kind].bias
        state = {"W_enc": weight, "W_dec": weight.T.contiguous(), "b_enc": bias,
                 "b_dec": torch.zeros(d, dtype=torch.float64)}  # fmt: skip
        if "threshold" in sae.state_dict():
            state["threshold"] = torch.full((n_features,), threshold, dtype=torch.float64)
        sae.load_state_dict(state)
        assert torch.equal(ours[kind](x), sae.encode(x))
        assert torch.equal(ours[kind].pre_activations(x), sae.process_sae_in(x) @ weight + bias)
    assert (ours["TopK"](x) > 0).sum(1).max() == k
    narrow, wanted = encoders(4, 3)["ReLU"], inputs(5, 3)
    assert torch.allclose(narrow.pre_activations(narrow.inputs_with(wanted)), wanted)


def test_a_threshold_step_by_hand():
    # p = (3, 1) with |w| = (2, 5): the second latent is nearest to 0, at distance 1 / 5.
    pre, w = np.array([[3.0, 1.0]]), np.diag([2.0, 5.0])
    assert np.allclose(theory.step_to_threshold(pre, w), [[0, -0.2]])
    # With threshold 2.9 the first is, at distance 0.05.
    step = theory.step_to_threshold(pre, w, threshold=np.array([2.9, 3.0]))
    assert np.allclose(step, [[-0.05, 0]])


@pytest.mark.parametrize("kind", ["ReLU", "TopK", "JumpReLU"])
def test_margins_are_tight_and_no_direction_beats_them(kind):
    encoder, x = encoders()[kind], inputs(40)
    pre, w = encoder.pre_activations(x), encoder.weight.numpy()
    if kind == "TopK":
        x, pre = (rows[(pre > 0).sum(1) >= 3] for rows in (x, pre))
        step = theory.step_to_tie(pre.numpy(), w, k=3)
    else:
        threshold = 0.4 if kind == "JumpReLU" else 0.0
        step = theory.step_to_threshold(pre.numpy(), w, threshold=threshold)
    assert len(x) > 10
    assert not encoder.switches(x, 0.9999 * step).any()
    assert encoder.switches(x, 1.0001 * step).all()
    margin = np.linalg.norm(step, axis=1, keepdims=True)
    for direction in np.random.default_rng(2).standard_normal((200, 4)):
        by = 0.9999 * margin * direction / np.linalg.norm(direction)
        assert not encoder.switches(x, by).any()


def test_the_tie_margin_agrees_with_all_pairs_by_brute_force(rng):
    w, pre = rng.standard_normal((5, 7)), rng.uniform(0.5, 3, (10, 7))
    for p, step in zip(pre, theory.step_to_tie(pre, w, k=2), strict=True):
        inside = set(np.argsort(p)[-2:])
        distances = [p[i] / np.linalg.norm(w[:, i]) for i in inside]
        for i, j in itertools.product(inside, set(range(7)) - inside):
            distances.append((p[i] - p[j]) / np.linalg.norm(w[:, i] - w[:, j]))
        assert np.isclose(np.linalg.norm(step), min(distances))
    # Latents without a tie margin are refused.
    w = rng.standard_normal((3, 4))
    pre = np.array([[3.0, 2.0, -1.0, -2.0]])
    for k in (0, 4):
        refused("between 1 and 3", theory.step_to_tie, pre, w, k=k)
    refused("fewer than k = 3", theory.step_to_tie, pre, w, k=3)
    w[:, 2] = w[:, 0]
    refused("share their encoder", theory.step_to_tie, pre, w, k=1)


def test_noise_behind_a_linear_map_is_that_map_of_the_noise():
    x, noise = inputs(60), 0.1 * inputs(61)[1:]
    measured, over_edge = theory.noise_behind(lambda z: 3 * z, x, noise)
    std = float((3 * noise).square().mean().sqrt())
    edge = std * (np.sqrt(60) + 2)
    assert np.allclose(over_edge, theory.spectrum(3 * (x + noise)) / edge)
    largest = measured.pop("largest s / edge of white noise")
    assert largest == pytest.approx(theory.spectrum(3 * noise)[0] / edge)
    for name, where in (("noise std where clean value > 0", x > 0), ("elsewhere", x <= 0)):
        assert measured.pop(name) == pytest.approx(float((3 * noise)[where].std()))
    assert measured == theory.noise_aware_ranks(3 * (x + noise), std)
    assert measured["Gavish-Donoho"] == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nothing = theory.noise_behind(lambda z: z, torch.zeros_like(x), noise)[0]
    assert np.isnan(nothing["noise std where clean value > 0"]) and nothing["elsewhere"] > 0


def test_changes_of_rank_under_noise_by_hand():
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = torch.diag(torch.tensor([1.0, 1, 0, 0], dtype=torch.float64))
    change = theory.rank_changes(x, 0.5, n_draws=20, draw=draw)
    assert change == {"noise": 0.5, "fell": 0, "rose": 1, "largest change": 2}
    change = theory.rank_changes(x, 0.5, n_draws=20, draw=draw, encode=torch.zeros_like)
    assert change["fell"] == change["rose"] == change["largest change"] == 0
    x[1, 1] = 0.01  # on the threshold of the relative rank
    change = theory.rank_changes(x, 1e-6, rule="relative", n_draws=60, draw=draw)
    assert change["rose"] > 0.2 and change["fell"] == 0 and change["largest change"] == 1
