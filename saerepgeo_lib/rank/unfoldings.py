"""The latent tensor, its unfoldings, their SSPD matrices and singular values."""

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from saerepgeo_lib.activations.latents import Latents
from saerepgeo_lib.activations.residual_stream import float64
from saerepgeo_lib.activations.token_activations import TokenActivations
from saerepgeo_lib.errors import UserError

MODES = {1: "prompt", 2: "token", 3: "feature"}
GRAM_TOKENS = 3_000  # up to which a Gram matrix of tokens is made


def aligned_rows(acts: TokenActivations, *, max_slots: int | None = None) -> Int[Tensor, "P T"]:
    """Rows of `acts` that fill the tensor's prompt and token modes without a hole.

    Slot 0 is the last token of the prompt's entity (if it has one); then come its other content
    tokens in reading order. Every prompt is cut to the length of the shortest, and to `max_slots`.
    Where tokens with massive activations were left out, so is a prompt that lost one of its entity,
    or became shorter than those that lost none. Raises UserError if no prompt remains.
    """
    if max_slots is not None and max_slots < 1:
        raise UserError(f"max_slots must be at least 1, got {max_slots}")
    orders, before = [], acts if acts.whole is None else acts.whole
    for p in acts.prompt.unique():
        rows, full = ((part.prompt == p).nonzero()[:, 0] for part in (acts, before))
        entity = rows[acts.in_entity[rows]]
        lost = len(full) - len(rows), int(before.in_entity[full].sum()) - len(entity)
        order = torch.cat([entity[-1:], rows[~torch.isin(rows, entity[-1:])]])
        orders.append((order, *lost))
    n_slots = min([len(rows) for rows, lost, _ in orders if not lost] or [1])
    kept = [rows for rows, _, of_entity in orders if len(rows) >= n_slots and not of_entity]
    if not kept:
        raise UserError(
            "every prompt lost its entity's token, as it has massive activations; read at another "
            "hook, or keep such tokens: massive='keep'"
        )
    return torch.stack([rows[:n_slots][:max_slots] for rows in kept])


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

    Never from a Gram matrix: squaring loses half of the digits. A matrix much longer than wide is
    first reduced by QR to a square one with the same singular values.
    """
    a = float64(matrix)
    a = a.T if a.shape[0] < a.shape[1] else a
    if a.shape[0] > 1.2 * a.shape[1]:
        a = torch.linalg.qr(a, mode="r").R
    values: Tensor = torch.linalg.svdvals(a)
    return values


def modal_spectra(
    values: Float[Tensor, "tokens F"], n_slots: int
) -> dict[int, Float[Tensor, " k"]]:
    """Singular values by mode of the three unfoldings of the tensor with these rows, prompt after
    prompt, `n_slots` each.

    Many features are first merged and rotated into as many as there are tokens (by one QR), which
    leaves all three spectra as they are.
    """
    z = merged(values)
    if z.shape[1] > z.shape[0]:
        z = torch.linalg.qr(z.T, mode="r").R.T
    tensor = z.unflatten(0, (-1, n_slots))
    return {mode: singular_values(unfold(tensor, mode)) for mode in MODES}


def merged(values: Float[Tensor, "tokens F"]) -> Float[Tensor, "tokens columns"]:
    """The features, those merged that are in use at the same single token: most sparse ones.

    They are parallel, so a rotation among them leaves all three spectra as they are.
    """
    n_used = (values != 0).sum(0)
    lengths = float64(values[:, n_used == 1]).square().sum(1).sqrt()
    several = float64(values[:, n_used > 1])
    return torch.cat([several, torch.diag(lengths)[:, lengths > 0]], 1)


def difference(a: Latents, b: Latents) -> Float[Tensor, "tokens features"]:
    """`a - b` in double precision, on the features that either has."""
    features = torch.cat([a.features, b.features]).unique()
    out = float64(a.values).new_zeros(len(a.values), len(features))
    out[:, torch.searchsorted(features, a.features)] = float64(a.values)
    out[:, torch.searchsorted(features, b.features)] -= float64(b.values)
    return out


def modal_norms(values: Float[Tensor, "tokens F"], n_slots: int) -> dict[int, Float[Tensor, ""]]:
    """Spectral norms by mode of the unfoldings of a tensor with rows as in `modal_spectra`, from
    the tokens' Gram matrix: the largest eigenvalue loses no digits to squaring. For more than
    `GRAM_TOKENS` tokens by Lanczos, in memory and time that grow with the tensor only.
    """
    z = float64(values)
    if len(z) > GRAM_TOKENS:
        return {mode: spectral_norm(unfold(z.unflatten(0, (-1, n_slots)), mode)) for mode in MODES}
    gram = rearrange(z @ z.T, "(p t) (q u) -> p t q u", t=n_slots, u=n_slots)
    grams = (
        gram.diagonal(dim1=1, dim2=3).sum(-1),
        gram.diagonal(dim1=0, dim2=2).sum(-1),
        rearrange(gram, "p t q u -> (p t) (q u)"),
    )
    norms = [torch.linalg.eigvalsh(g)[-1].clamp(min=0).sqrt() for g in grams]
    return dict(zip(MODES, norms, strict=True))


def spectral_norm(matrix: Float[Tensor, "m n"]) -> Float[Tensor, ""]:
    """The largest singular value, by ARPACK's Lanczos steps from a fixed start, on the CPU."""
    from scipy.sparse.linalg import svds

    side = min(matrix.shape)
    if side < 3 or not matrix.any():  # too small for steps
        return torch.linalg.matrix_norm(matrix, 2)
    start = np.sin(np.arange(1, side + 1))  # any fixed vector
    largest = svds(matrix.cpu().numpy(), k=1, v0=start, return_singular_vectors=False)
    return matrix.new_tensor(largest[0])
