"""How each shipped autoencoder is trained, and SAELens' configuration of such a training."""

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from sae_lens import (
    BatchTopKTrainingSAEConfig,
    GatedTrainingSAEConfig,
    JumpReLUTrainingSAEConfig,
    MatryoshkaBatchTopKTrainingSAEConfig,
    StandardTrainingSAEConfig,
    TopKTrainingSAEConfig,
)
from sae_lens.saes.sae import SAEMetadata

from saerepgeo_lib.activations.embedded import EMBEDDED
from saerepgeo_lib.errors import choose

Kind = Literal["topk", "batchtopk", "matryoshka", "jumprelu", "gated", "standard"]
Frozen = Literal["", "decoder", "soft decoder", "encoder"]
HOOK = "blocks.4.hook_out"
_LEVELS = (16, 4, 1)  # of a Matryoshka SAE: the width over these


@dataclass(frozen=True)
class Recipe:
    """How one autoencoder is trained, `expansion` times as wide as the residual stream.

    `coefficient` is the number of latents per token for topk, batchtopk and matryoshka, the one
    aimed at for jumprelu, and the weight of the L1 penalty else (0: a dense autoencoder). With
    `centre`, b_dec begins at the mean of the activations; else at 0. What is `frozen` stays as it
    was drawn, or ("soft decoder") near it: a null.
    """

    name: str
    kind: Kind
    coefficient: float
    n_samples: int
    expansion: float = 8
    learning_rate: float = 4e-4
    batch_size: int = 4096
    seed: int = 0
    model: str = "minilm"
    hook: str = HOOK
    centre: bool = False
    frozen: Frozen = ""

    def __post_init__(self) -> None:
        choose("kind of autoencoder", self.kind, get_args(Kind))
        choose("frozen part", self.frozen, get_args(Frozen))

    @property
    def metadata(self) -> dict[str, Any]:
        """What the SAE says of its model and hook."""
        return {
            "model_name": EMBEDDED[self.model].name, "hook_name": self.hook,
            "prepend_bos": EMBEDDED[self.model].bos, "model_class_name": "TransformerBridge",
        }  # fmt: skip


def seeds_of(recipe: Recipe, n: int) -> list[Recipe]:
    """The recipe with the training seeds 0 to n - 1; all but the first have the seed's name too."""
    others = (replace(recipe, name=f"{recipe.name}-seed{i}", seed=i) for i in range(1, n))
    return [recipe, *others]


def _smollm2(kind: str, trained_as: Kind, coefficient: float, n_samples: int = 2_000_000) -> Recipe:
    return Recipe(
        f"smollm2-b10-{kind}", trained_as, coefficient, n_samples, expansion=3.5,
        learning_rate=2e-3, batch_size=1024, model="smollm2", hook="blocks.10.hook_out",
        centre=True,
    )  # fmt: skip


_SHIPPED = (
    Recipe("minilm-l4-topk", "topk", 32, 10_000_000),
    Recipe("minilm-l4-l1", "standard", 2.3, 8_000_000),
    Recipe("minilm-l4-dense", "standard", 0.0, 2_000_000),
    *seeds_of(_smollm2("topk", "topk", 32), 3),
    *seeds_of(_smollm2("l1", "standard", 1.5), 3),
    _smollm2("dense", "standard", 0.0, 1_000_000),
    _smollm2("batchtopk", "batchtopk", 32),
    _smollm2("gated", "gated", 1.2),
    _smollm2("matryoshka", "matryoshka", 32),
    _smollm2("jumprelu", "jumprelu", 32),
)
RECIPES = {recipe.name: recipe for recipe in _SHIPPED}


def names_of(model: str | None) -> list[str]:
    """The names of all recipes, or of those for one embedded model."""
    if model is not None:
        choose("embedded model", model, EMBEDDED)
    return [name for name, recipe in RECIPES.items() if model in (None, recipe.model)]


def sae_config(recipe: Recipe, *, d_in: int, metadata: dict[str, Any], device: str) -> Any:
    """SAELens' configuration of the recipe's training."""
    width = int(recipe.expansion * d_in)
    common: dict[str, Any] = {
        "d_in": d_in, "d_sae": width, "device": device, "metadata": SAEMetadata(**metadata),
        "normalize_activations": "expected_average_only_in",
    }  # fmt: skip
    warm_up = recipe.n_samples // recipe.batch_size // 20
    if recipe.kind == "topk":
        return TopKTrainingSAEConfig(k=int(recipe.coefficient), **common)
    if recipe.kind == "batchtopk":
        return BatchTopKTrainingSAEConfig(k=recipe.coefficient, **common)
    if recipe.kind == "matryoshka":
        widths = [width // level for level in _LEVELS]
        return MatryoshkaBatchTopKTrainingSAEConfig(
            k=recipe.coefficient, matryoshka_widths=widths, **common
        )
    if recipe.kind == "jumprelu":  # SAELens' defaults leave hundreds of latents active by then
        return JumpReLUTrainingSAEConfig(
            jumprelu_sparsity_loss_mode="quadratic", target_l0=recipe.coefficient,
            l0_coefficient=0.2, l0_warm_up_steps=warm_up, jumprelu_init_threshold=0.1,
            jumprelu_bandwidth=2.0, jumprelu_ste_to_input=True, pre_act_loss_coefficient=3e-4,
            **common,
        )  # fmt: skip
    penalised = GatedTrainingSAEConfig if recipe.kind == "gated" else StandardTrainingSAEConfig
    return penalised(l1_coefficient=recipe.coefficient, l1_warm_up_steps=warm_up, **common)
