import numpy as np
import pytest
import torch

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.latents import Codes
from saerepgeo_lib.residuals import Residuals
from saerepgeo_lib.tensors import (
    aligned_rows,
    difference,
    fold,
    latent_tensor,
    merged,
    modal_norms,
    modal_spectra,
    singular_values,
    sspd,
    unfold,
)

SHAPE = (4, 3, 5)


def tensor():
    return torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("mode", [1, 2, 3])
def test_unfoldings_agree_with_their_definition_and_round_trip(mode):
    z = tensor()
    unfolded = unfold(z, mode)
    others = [n for i, n in enumerate(SHAPE) if i != mode - 1]
    for index in np.ndindex(SHAPE):
        rest = [n for i, n in enumerate(index) if i != mode - 1]
        assert unfolded[index[mode - 1], rest[0] * others[1] + rest[1]] == z[index]
    assert torch.equal(fold(unfolded, mode, SHAPE), z)


def test_mode_0_and_4_do_not_exist():
    for mode in (0, 4):
        with pytest.raises(UserError, match="modes 1, 2 and 3"):
            unfold(tensor(), mode)


def test_the_sspd_matrix_is_symmetric_and_psd_with_squared_singular_values():
    m = unfold(tensor(), 1)
    g = sspd(m)
    torch.testing.assert_close(g, g.T)
    torch.testing.assert_close(
        torch.linalg.eigvalsh(g).flip(0), singular_values(m) ** 2, atol=1e-10, rtol=1e-10
    )


@pytest.mark.parametrize("shape", [(3, 40), (40, 3), (10, 11), (7, 7)])
def test_singular_values_equal_numpys_for_any_aspect(shape):
    m = torch.randn(shape, dtype=torch.float64)
    expected = np.linalg.svd(m.numpy(), compute_uv=False)
    np.testing.assert_allclose(singular_values(m).numpy(), expected, rtol=1e-12)


def test_singular_values_resolve_what_a_gram_matrix_loses():
    rng = np.random.default_rng(0)
    u, _ = np.linalg.qr(rng.normal(size=(30, 4)))
    v, _ = np.linalg.qr(rng.normal(size=(60, 4)))
    s = np.array([1, 1e-3, 1e-10, 1e-12])
    found = singular_values(torch.from_numpy(u * s @ v.T)).numpy()[:4]
    np.testing.assert_allclose(found, s, rtol=1e-3)


@pytest.mark.parametrize("share", [1, 0.5, 0.1, 0.02])  # of nonzeros: from dense to lone features
@pytest.mark.parametrize("n_features", [5, 12, 90])
def test_modal_spectra_and_norms_equal_those_of_the_unfoldings(n_features, share):
    generator = torch.Generator().manual_seed(n_features)
    values = torch.randn(12, n_features, dtype=torch.float64, generator=generator)
    values *= torch.rand(values.shape, generator=generator) <= share
    z = latent_tensor(values, 3)
    assert z.shape == (4, 3, n_features) and torch.equal(z[1, 2], values[5])
    for mode in (1, 2, 3):
        expected = np.linalg.svd(unfold(z, mode).numpy(), compute_uv=False)
        found = np.zeros_like(expected)
        spectrum = modal_spectra(values, 3)[mode]
        found[: len(spectrum)] = spectrum
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-13)
        assert modal_norms([values], 3)[mode] == pytest.approx(expected[0], rel=1e-12)


def test_lone_features_of_a_token_become_one_column():
    values = torch.tensor([[3.0, 4.0, 1.0, 0.0], [0.0, 0.0, 2.0, 0.0]])
    assert merged(values).tolist() == [[1.0, 5.0], [2.0, 0.0]]


def test_low_precision_codes_merge_as_exactly_as_others():
    values = torch.zeros(400, 6, dtype=torch.bfloat16)
    values[301, 0], values[301, 1], values[303, 2], values[5, 3] = 3, 4, 2, 1
    values[:, 4] = 1
    found = merged(values)
    exact = torch.zeros(400, 4, dtype=torch.float64)
    exact[:, 0], exact[5, 1], exact[301, 2], exact[303, 3] = 1, 1, 5, 2
    torch.testing.assert_close(found, exact)


def test_a_difference_of_codes_has_the_spectra_of_the_dense_one():
    a = Codes(torch.tensor([[1.0, 2.0], [3.0, 5.0]]), torch.tensor([0, 3]))
    b = Codes(torch.tensor([[5.0, 7.0], [0.0, 2.0]]), torch.tensor([3, 4]))
    expected = torch.tensor([[1.0, -3.0, -7.0], [3.0, 5.0, -2.0]], dtype=torch.float64)
    found = torch.cat(difference(a, b), 1)
    torch.testing.assert_close(found @ found.T, expected @ expected.T)


def test_planted_multilinear_ranks_are_found_and_bound_each_other():
    g = torch.Generator().manual_seed(1)
    core = torch.randn(2, 3, 4, generator=g, dtype=torch.float64)
    factors = [
        torch.randn(n, r, generator=g, dtype=torch.float64) for n, r in ((9, 2), (5, 3), (30, 4))
    ]
    z = torch.einsum("abc,pa,tb,fc->ptf", core, *factors)
    spectra = modal_spectra(z.flatten(0, 1), 5)
    r1, r2, r3 = (int((s > 1e-9 * s[0]).sum()) for s in spectra.values())
    assert (r1, r2, r3) == (2, 3, 4)
    assert r1 <= r2 * r3 and r2 <= r1 * r3 and r3 <= r1 * r2


def residuals(prompt, entity):
    n = len(prompt)
    return Residuals(torch.zeros(n, 2), torch.tensor(prompt), torch.arange(n), torch.tensor(entity))


def test_slots_begin_with_the_entity_s_last_token_and_end_with_the_shortest_prompt():
    r = residuals([0, 0, 0, 1, 1, 1, 1], [False, True, True, False, False, True, False])
    assert aligned_rows(r).tolist() == [[2, 0, 1], [5, 3, 4]]
    assert aligned_rows(r, max_slots=1).tolist() == [[2], [5]]
    plain = residuals([0, 0, 1, 1, 1], [False] * 5)
    assert aligned_rows(plain).tolist() == [[0, 1], [2, 3]]
    with pytest.raises(UserError, match="at least 1"):
        aligned_rows(plain, max_slots=0)
