import numpy as np
import pytest
import torch
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import pdist, squareform

from saerepgeo_lib import synthetic
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.points import rms_radius
from saerepgeo_lib.tensors import unfold


@pytest.mark.parametrize("ranks", [(1, 1, 1), (2, 3, 4), (2, 2, 4)])
def test_a_low_rank_tensor_has_its_multilinear_ranks(ranks):
    z = torch.from_numpy(synthetic.low_rank_tensor((6, 7, 8), ranks, random_state=0))
    assert tuple(int(torch.linalg.matrix_rank(unfold(z, mode))) for mode in (1, 2, 3)) == ranks


def test_impossible_multilinear_ranks_are_refused():
    with pytest.raises(UserError, match=r"mode 3 cannot have rank 5.*product of the other two.* 4"):
        synthetic.low_rank_tensor((6, 7, 8), (2, 2, 5), random_state=0)


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


def test_a_swiss_roll_is_a_rolled_sheet():
    x = synthetic.swiss_roll(2000, random_state=0).points
    spread = np.linalg.svd(x - x.mean(0), compute_uv=False)
    assert x.shape == (2000, 3) and spread[2] > 0.1 * spread[0]  # it does fill three dimensions


def test_the_cone_is_uniform_by_area():
    z = synthetic.cone(20_000, random_state=0).points[:, 2]
    assert np.mean(z**2) == pytest.approx(1 / 2, abs=0.01)  # the area below z grows as z^2


def test_the_lollipop_is_a_disc_on_a_stick():
    cloud = synthetic.lollipop(101, random_state=0)
    disc, stick = cloud.points[cloud.dimension == 2], cloud.points[cloud.dimension == 1]
    assert (len(disc), len(stick)) == (51, 50)
    assert (np.hypot(*disc.T) <= 1).all()
    assert (stick[:, 1] == 0).all() and stick[:, 0].min() >= 1 and stick[:, 0].max() <= 3


@pytest.mark.parametrize("make", [synthetic.linear_strata, synthetic.curved_strata])
def test_strata_have_their_dimensions_and_meet_at_the_origin(make):
    cloud = make((1, 3), 40, 10, random_state=0)
    for piece, d in enumerate((1, 3)):
        x = cloud.points[cloud.piece == piece]
        assert set(cloud.dimension[cloud.piece == piece]) == {d}
        curved = make is synthetic.curved_strata
        assert np.linalg.matrix_rank(x) == d + curved
        if curved:  # |x|^2 = 2 <x, centre>: spheres of radius 1 through the origin
            centre = np.linalg.lstsq(2 * x, np.square(x).sum(1), rcond=None)[0]
            np.testing.assert_allclose(np.linalg.norm(x - centre, axis=1), 1)
    with pytest.raises(UserError, match="needs"):
        make((1, 30), 5, 10, random_state=0)


def test_pieces_are_as_many_components_as_planted():
    cloud = synthetic.pieces(4, 100, 2, ambient=6, separation=4, random_state=0)
    near = squareform(pdist(cloud.points)) < 1.9  # the gap is 2, a ball's inner gaps are smaller
    assert connected_components(near)[0] == 4
    with pytest.raises(UserError, match="more than 2 dimensions"):
        synthetic.pieces(4, 5, 2, ambient=2, separation=4, random_state=0)


def test_embedding_is_an_isometry_and_noise_has_the_size_asked_for():
    cloud = synthetic.torus(300, random_state=0)
    x = synthetic.embed(cloud, 40, random_state=1)
    np.testing.assert_allclose(pdist(x), pdist(cloud.points))
    noise = synthetic.embed(cloud, 40, noise=0.3, random_state=1) - x
    size = np.sqrt(np.square(noise).sum(1).mean())
    assert size == pytest.approx(0.3 * rms_radius(cloud.points), rel=0.05)
    with pytest.raises(UserError, match="needs 3 dimensions"):
        synthetic.embed(cloud, 2, random_state=0)


def test_planted_codes_keep_to_their_supports_and_span_them():
    planted = synthetic.planted_codes([3, 5], 60, 20, random_state=0)
    assert not (planted.supports[0] & planted.supports[1]).any()
    for group, size in enumerate((3, 5)):
        codes = planted.codes[planted.group == group]
        assert (codes >= 0).all() and not codes[:, ~planted.supports[group]].any()
        assert int(torch.linalg.matrix_rank(codes)) == size
    state = torch.random.get_rng_state()
    again = synthetic.planted_codes([3, 5], 60, 20, random_state=0)
    assert torch.equal(planted.codes, again.codes)
    assert torch.equal(state, torch.random.get_rng_state())  # torch's global stream is untouched
    with pytest.raises(UserError, match="exceed"):
        synthetic.planted_codes([30], 5, 20, random_state=0)


def test_unknown_or_impossible_arrangements_are_refused():
    with pytest.raises(UserError, match="did you mean 'circle'"):
        synthetic.arrangement("cirkle", 5)
    with pytest.raises(UserError, match="k >= 2"):
        synthetic.arrangement("line", 1)
