"""Separability of local representations as a training objective, in SAELens' own training classes.

A batch of residuals falls into groups without labels (k-means). The separability of the latents is
the mean distance between the groups' means over the root-mean-square radius of all codes:
what Cases 2 and 3 call AEDP, in units of the space's own size. Training adds
`- separability_coefficient * log(separability)` to the loss.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from sae_lens import (
    StandardSAEConfig,
    StandardTrainingSAE,
    StandardTrainingSAEConfig,
    TopKSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
    register_sae_training_class,
)
from sae_lens.saes.sae import TrainCoefficientConfig, TrainStepInput
from torch import Tensor
from torch.nn.functional import one_hot

from saerepgeo_lib.arrangements import aedp
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.training import Recipe, build_sae

N_GROUPS = 32
_LLOYD_STEPS = 3


@torch.no_grad()
def residual_groups(
    x: Float[Tensor, "tokens d"], *, n_groups: int = N_GROUPS, n_steps: int = _LLOYD_STEPS
) -> Int[Tensor, " tokens"]:
    """Groups of residuals by k-means: `n_steps` of Lloyd's from the first `n_groups` rows.

    A training batch is shuffled, so its first rows are a random draw that the seed fixes, in a
    resumed run as well. Sums are matrix products, which round the same on every call.
    """
    if len(x) < n_groups or n_groups < 2:
        raise UserError(f"{len(x)} tokens cannot fall into {n_groups} groups; give 2 or more groups"
                        " and at least a token for each")  # fmt: skip
    centres = x[:n_groups]
    for _ in range(n_steps):
        members = one_hot(torch.cdist(x, centres).argmin(1), n_groups).to(x)
        counts = members.sum(0)[:, None]
        centres = torch.where(counts > 0, members.T @ x / counts.clamp(min=1), centres)
    return torch.cdist(x, centres).argmin(1)


def separability(z: Float[Tensor, "tokens F"], labels: Int[Tensor, " tokens"]) -> Float[Tensor, ""]:
    """AEDP of the groups' means over the root-mean-square radius of the codes; differentiable.

    The same for c z as for z, and for any order of tokens or features. At most
    sqrt(2 k / (k - 1)) for k groups of one size: where each is one point, at equal distances.
    """
    _, position, counts = labels.unique(return_inverse=True, return_counts=True)
    means = one_hot(position).to(z).T @ z / counts[:, None]
    radius = (z - z.mean(0)).square().sum(1).mean().sqrt()
    return aedp(means) / radius


class _Separable:
    """Adds the objective to a training class of SAELens, for which it must stand in front.

    Latents count by what they add to the reconstruction, latent times norm of its decoder row, as
    in the L1 loss: else a latent could gain by growing while its decoder row shrinks.
    """

    def get_coefficients(self: Any) -> dict[str, Any]:
        return super().get_coefficients() | {  # type: ignore[misc]
            "separability": TrainCoefficientConfig(
                self.cfg.separability_coefficient, self.cfg.separability_warm_up_steps
            )
        }

    def calculate_aux_loss(
        self: Any, step_input: TrainStepInput, feature_acts: Tensor, hidden_pre: Tensor,
        sae_out: Tensor,
    ) -> dict[str, Tensor]:  # fmt: skip
        losses = super().calculate_aux_loss(  # type: ignore[misc]
            step_input, feature_acts, hidden_pre, sae_out
        )
        scaled = getattr(self.cfg, "rescale_acts_by_decoder_norm", False)
        with torch.autocast(feature_acts.device.type, enabled=False):  # distances in full precision
            full = torch.promote_types(feature_acts.dtype, torch.float32)
            labels = residual_groups(step_input.sae_in.to(full), n_groups=self.cfg.n_groups)
            z = feature_acts.to(full) * (1 if scaled else self.W_dec.norm(dim=1))
            apart = separability(z, labels)
        return losses | {
            "separability_loss": -step_input.coefficients["separability"] * apart.log()
        }


@dataclass
class _Objective:
    """The objective's weight, from which step on it is whole, and the groups of a batch."""

    separability_coefficient: float = 0.0
    separability_warm_up_steps: int = 0
    n_groups: int = N_GROUPS


@dataclass
class SeparableTopKTrainingSAEConfig(_Objective, TopKTrainingSAEConfig):  # type: ignore[misc]
    """TopK with the objective."""

    @classmethod
    def architecture(cls) -> str:
        return "separable_topk"

    def get_inference_config_class(self) -> type[TopKSAEConfig]:
        return TopKSAEConfig


@dataclass
class SeparableStandardTrainingSAEConfig(_Objective, StandardTrainingSAEConfig):  # type: ignore[misc]
    """L1-ReLU with the objective."""

    @classmethod
    def architecture(cls) -> str:
        return "separable_standard"

    def get_inference_config_class(self) -> type[StandardSAEConfig]:
        return StandardSAEConfig


class SeparableTopKTrainingSAE(_Separable, TopKTrainingSAE):  # type: ignore[misc]
    """Trains an ordinary TopK SAE: what `save_inference_model` writes is one."""


class SeparableStandardTrainingSAE(_Separable, StandardTrainingSAE):  # type: ignore[misc]
    """Trains an ordinary L1-ReLU SAE: what `save_inference_model` writes is one."""


_CLASSES: dict[str, tuple[Any, Any]] = {
    "topk": (SeparableTopKTrainingSAE, SeparableTopKTrainingSAEConfig),
    "standard": (SeparableStandardTrainingSAE, SeparableStandardTrainingSAEConfig),
}
for _sae, _config in _CLASSES.values():  # so that SAELens loads a checkpoint by its name
    register_sae_training_class(_config.architecture(), _sae, _config)


def build_separable(
    recipe: Recipe, *, strength: float, n_groups: int = N_GROUPS, **given: Any
) -> Any:
    """The untrained SAE of `training.build_sae`, with the objective of that strength.

    It is reached after a quarter of the steps: a scale-free objective has a gradient of 1 over the
    size of the codes, and these are small at first.
    """
    plain = build_sae(recipe, **given)
    sae_class, config_class = _CLASSES[recipe.kind]
    options = {name: getattr(plain.cfg, name) for name in plain.cfg.__dataclass_fields__}
    cfg = config_class(
        **options, separability_coefficient=strength, n_groups=n_groups,
        separability_warm_up_steps=recipe.n_samples // recipe.batch_size // 4,
    )  # fmt: skip
    torch.manual_seed(recipe.seed)
    return sae_class(cfg)
