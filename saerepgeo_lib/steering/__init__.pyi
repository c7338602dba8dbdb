from .downstream import effect_name
from .latents import PAPER_SCALES, ClusteredLatents, steer
from .optimise import intervene
from .random_walk import medians, within_walks
from .scaling import least_mse, shrinkage, uniform_scaling

__all__ = [
    "PAPER_SCALES",
    "ClusteredLatents",
    "effect_name",
    "intervene",
    "least_mse",
    "medians",
    "shrinkage",
    "steer",
    "uniform_scaling",
    "within_walks",
]
