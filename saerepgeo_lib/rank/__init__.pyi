from .noise_sweep import (
    RESIDUAL,
)
from .profiles import (
    active_table,
    summarise,
    variability,
)
from .rules import (
    RULES,
    relative_rank,
    weyl_bounds,
)
from .unfoldings import (
    MODES,
    fold,
    sspd,
    unfold,
)

__all__ = [
    "MODES",
    "RESIDUAL",
    "RULES",
    "active_table",
    "fold",
    "relative_rank",
    "sspd",
    "summarise",
    "unfold",
    "variability",
    "weyl_bounds",
]
