"""The latent tensor, its unfoldings, their SSPD matrices and singular values."""

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.latents import Codes
from saerepgeo_lib.residuals import Residuals, batches_of, float64

MODES = {1: "prompt", 2: "token", 3: "feature"}
_ROWS = 64  # tokens that are counted at once


def aligned_rows(residuals: Residuals, *, max_slots: int | None = None) -> Int[Tensor, "P T"]:
    """Rows of `residuals` that fill the tensor's prompt and token modes without a hole.

    Slot 0 is the last token of the prompt's entity (if it has one); then come the prompt's
    other content tokens in reading order. Every prompt is cut to the length of the shortest,
    and to `max_slots`, so no masked or missing token is ever represented by zeros.
    """
    if max_slots is not None and max_slots < 1:
        raise UserError(f"max_slots must be at least 1, got {max_slots}")
    orders = []
    for p in residuals.prompt.unique():
        rows = (residuals.prompt == p).nonzero()[:, 0]
        entity = rows[residuals.entity[rows]]
        if len(entity):
            rows = torch.cat([entity[-1:], rows[rows != entity[-1]]])
        orders.append(rows)
    n_slots = min(len(rows) for rows in orders)
    n_slots = n_slots if max_slots is None else min(n_slots, max_slots)
    return torch.stack([rows[:n_slots] for rows in orders])


def unfold(tensor: Float[Tensor, "P T F"], mode: int) -> Float[Tensor, "n rest"]:
    """Mode-n unfolding Z_(n), n = 1, 2, 3: mode n as rows, the others (in order) as columns."""
    if mode not in MODES:
        raise UserError(f"a third-order tensor has modes 1, 2 and 3, got {mode}")
    return tensor.movedim(mode - 1, 0).flatten(1)


def fold(
    matrix: Float[Tensor, "n rest"], mode: int, shape: tuple[int, int, int]
) -> Float[Tensor, "P T F"]:
    """Inverse of `unfold` for a tensor of `shape`."""
    rest = [n for i, n in enumerate(shape) if i != mode - 1]
    return matrix.unflatten(1, rest).movedim(0, mode - 1)


def sspd(matrix: Float[Tensor, "n rest"]) -> Float[Tensor, "n n"]:
    """The symmetric positive semidefinite matrix M M^T of an unfolding."""
    return matrix @ matrix.T


def singular_values(matrix: Float[Tensor, "m n"]) -> Float[Tensor, " k"]:
    """All min(m, n) singular values in float64, descending.

    Of the matrix itself, never from a Gram matrix: squaring loses half of the digits. A
    matrix much longer than wide is first reduced by QR to a square one, which has the same
    singular values; so the cost is that of the shorter side.
    """
    a = float64(matrix)
    if a.shape[0] < a.shape[1]:
        a = a.T
    if a.shape[0] > 1.2 * a.shape[1]:
        a = torch.linalg.qr(a, mode="r").R
    values: Tensor = torch.linalg.svdvals(a)
    return values


def latent_tensor(values: Float[Tensor, "tokens F"], n_slots: int) -> Float[Tensor, "P T F"]:
    """Rows ordered prompt after prompt, `n_slots` each, as the tensor Z."""
    return rearrange(values, "(prompt token) feature -> prompt token feature", token=n_slots)


def merged(
    values: Float[Tensor, "tokens F"], among: Bool[Tensor, " F"] | None = None
) -> Float[Tensor, "tokens columns"]:
    """The features (`among` a choice) with parallel ones merged: those in use at one token only.

    A rotation among parallel features leaves all three spectra as they are. Most features of sparse
    codes are such ones, so few columns are left.
    """
    n_used, token = torch.zeros(2, values.shape[1], device=values.device)
    for rows in batches_of(len(values), _ROWS):
        used = (values[rows] != 0).float()
        n_used += used.sum(0)
        place = torch.arange(rows.start, rows.stop, device=used.device)
        token += (used * place[:, None]).sum(0)
    if among is not None:
        n_used *= among
    lone = n_used == 1  # there, `token` is the one that uses the feature, and the sum its value
    own = float64(values.sum(0)[lone]).square()
    own = own.new_zeros(len(values)).index_add(0, token[lone].long().to(own.device), own).sqrt()
    several, own_columns = (n_used > 1).nonzero()[:, 0], torch.diag(own)[:, own > 0]
    out = own.new_empty(len(values), len(several) + own_columns.shape[1])
    out[:, : len(several)] = values.index_select(1, several)
    out[:, len(several) :] = own_columns
    return out


def difference(a: Codes, b: Codes) -> list[Float[Tensor, "tokens _"]]:
    """`a - b` up to a rotation of its features, in blocks: those in both, then others `merged`.

    Side by side they have the singular values of `a - b` in every mode, in fewer columns.
    """
    in_a, in_b = torch.isin(a.features, b.features), torch.isin(b.features, a.features)
    left, right = (
        float64(codes.values.index_select(1, shared.nonzero()[:, 0]))
        for codes, shared in ((a, in_a), (b, in_b))
    )
    return [left - right, merged(a.values, ~in_a), merged(b.values, ~in_b)]


def modal_spectra(
    values: Float[Tensor, "tokens F"], n_slots: int
) -> dict[int, Float[Tensor, " k"]]:
    """Singular values of the three unfoldings of the tensor with these rows, by mode.

    Many features are first merged and rotated into as many as there are tokens (Z = core x_3 Q with
    orthonormal Q from one QR), which leaves all three spectra as they are; so no decomposition but
    that QR is larger than tokens x tokens.
    """
    z = merged(values)
    if z.shape[1] > z.shape[0]:
        z = torch.linalg.qr(z.T, mode="r").R.T
    tensor = latent_tensor(z, n_slots)
    return {mode: singular_values(unfold(tensor, mode)) for mode in MODES}


def modal_norms(
    blocks: Sequence[Float[Tensor, "tokens _"]], n_slots: int
) -> dict[int, Float[Tensor, ""]]:
    """Spectral norms of the three unfoldings, by mode; the features come in blocks.

    From the tokens' Gram matrix, whose blocks sum to the Gram matrices of modes 1 and 2; the
    largest eigenvalue loses no digits to squaring.
    """
    whole = torch.stack([z @ z.T for z in map(float64, blocks)]).sum(0)
    gram = rearrange(whole, "(p t) (q u) -> p t q u", t=n_slots, u=n_slots)
    grams = {
        1: gram.diagonal(dim1=1, dim2=3).sum(-1),
        2: gram.diagonal(dim1=0, dim2=2).sum(-1),
        3: rearrange(gram, "p t q u -> (p t) (q u)"),
    }
    return {mode: torch.linalg.eigvalsh(g)[-1].clamp(min=0).sqrt() for mode, g in grams.items()}
