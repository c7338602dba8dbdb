"""Separability of local representations as a training objective, in SAELens' own training classes.

A batch of residuals falls into groups without labels (k-means). The separability of the latents is
the mean distance between the groups' means over the root-mean-square radius of all latents:
what Cases 2 and 3 call AEDP, in units of the space's own size. Training adds
`- separability_coefficient * log(separability)` to the loss.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from sae_lens import register_sae_training_class
from sae_lens.registry import get_sae_class, get_sae_training_class
from sae_lens.saes.sae import TrainCoefficientConfig, TrainStepInput
from torch import Tensor
from torch.nn.functional import one_hot

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.geometry.arrangements import aedp
from saerepgeo_lib.studies.recipes import Recipe, sae_config

N_GROUPS = 32


@torch.no_grad()
def residual_groups(
    x: Float[Tensor, "tokens d"], *, n_groups: int = N_GROUPS, n_steps: int = 3
) -> Int[Tensor, " tokens"]:
    """Groups of residuals by k-means: `n_steps` of Lloyd's from the first `n_groups` rows.

    The first rows of a shuffled batch are a random draw that the seed fixes. Sums are matrix
    products, which round the same on every call.
    """
    if len(x) < n_groups or n_groups < 2:
        raise UserError(
            f"{len(x)} tokens cannot fall into {n_groups} groups; give 2 or more groups and at "
            "least a token for each"
        )
    centres = x[:n_groups]
    for _ in range(n_steps):
        members = one_hot(torch.cdist(x, centres).argmin(1), n_groups).to(x)
        counts = members.sum(0)[:, None]
        centres = torch.where(counts > 0, members.T @ x / counts.clamp(min=1), centres)
    return torch.cdist(x, centres).argmin(1)


def separability(z: Float[Tensor, "tokens F"], labels: Int[Tensor, " tokens"]) -> Float[Tensor, ""]:
    """AEDP of the groups' means over the root-mean-square radius of the latents; differentiable.

    The same for c z as for z, and for any order of tokens or features. At most
    sqrt(2 k / (k - 1)) for k groups of one size: where each is one point, at equal distances.
    """
    _, position, counts = labels.unique(return_inverse=True, return_counts=True)
    means = one_hot(position).to(z).T @ z / counts[:, None]
    radius = (z - z.mean(0)).square().sum(1).mean().sqrt()
    return aedp(means) / radius


@cache
def separable_classes(kind: str) -> tuple[Any, Any]:
    """SAELens' training SAE of a kind ("topk", "standard") with the objective, and its config.

    Both are registered with SAELens on the first call, so that it loads checkpoints by their name;
    `save_inference_model` writes an ordinary SAE. Latents count by what they add to the
    reconstruction, latent times norm of its decoder row, as in the L1 loss: else a latent could
    gain by growing while its decoder row shrinks.
    """
    plain, plain_config = get_sae_training_class(kind)

    @dataclass
    class Config(plain_config):  # type: ignore[misc]
        """The objective's weight, the step from which on it is whole, and the groups per batch."""

        separability_coefficient: float = 0.0
        separability_warm_up_steps: int = 0
        n_groups: int = N_GROUPS

        @classmethod
        def architecture(cls) -> str:
            return f"separable_{kind}"

        def get_inference_config_class(self) -> Any:
            return get_sae_class(kind)[1]

    class Separable(plain):  # type: ignore[misc]
        def get_coefficients(self) -> dict[str, Any]:
            whole_at = self.cfg.separability_warm_up_steps
            added = TrainCoefficientConfig(self.cfg.separability_coefficient, whole_at)
            return super().get_coefficients() | {"separability": added}

        def calculate_aux_loss(
            self, step_input: TrainStepInput, feature_acts: Tensor, hidden_pre: Tensor,
            sae_out: Tensor,
        ) -> dict[str, Tensor]:  # fmt: skip
            losses = super().calculate_aux_loss(step_input, feature_acts, hidden_pre, sae_out)
            scaled = getattr(self.cfg, "rescale_acts_by_decoder_norm", False)
            with torch.autocast(feature_acts.device.type, enabled=False):  # distances in full
                full = torch.promote_types(feature_acts.dtype, torch.float32)
                labels = residual_groups(step_input.sae_in.to(full), n_groups=self.cfg.n_groups)
                z = feature_acts.to(full) * (1 if scaled else self.W_dec.norm(dim=1))
                gain = step_input.coefficients["separability"] * separability(z, labels).log()
            return losses | {"separability_loss": -gain}

    register_sae_training_class(Config.architecture(), Separable, Config)
    return Separable, Config


def separable_config(
    recipe: Recipe, *, strength: float, n_groups: int = N_GROUPS, **given: Any
) -> Any:
    """The configuration of `training.sae_config`, with the objective of that strength.

    The strength is reached after a quarter of the steps: a scale-free objective has a gradient of 1
    over the size of the latents, and these are small at first.
    """
    plain = sae_config(recipe, **given)
    options = {name: getattr(plain, name) for name in plain.__dataclass_fields__}
    return separable_classes(recipe.kind)[1](
        **options, separability_coefficient=strength, n_groups=n_groups,
        separability_warm_up_steps=recipe.n_samples // recipe.batch_size // 4,
    )  # fmt: skip
