from .downstream import (
    effect_name,
)
from .latents import (
    ClusteredLatents,
    steer,
)
from .optimise import (
    intervene,
)
from .random_walk import (
    medians,
    within_walks,
)
from .scaling import (
    shrinkage,
)

__all__ = [
    "ClusteredLatents",
    "effect_name",
    "intervene",
    "medians",
    "shrinkage",
    "steer",
    "within_walks",
]
