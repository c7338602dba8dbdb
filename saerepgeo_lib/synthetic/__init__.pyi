from .ablation import auc_table, placement, planted_sets, score_table, verdicts, worst_aucs
from .calibration import (
    calibrate,
    smallest_trusted,
    trusted,
)
from .error_rates import (
    false_positives,
    interval_coverage,
    null_walks,
)
from .theory import (
    cone_coordinates,
    cone_path,
    factor_jacobian,
    noise_aware_ranks,
    noise_behind,
    random_encoders,
    rank_changes,
    rank_of,
    spectrum,
    step_to_threshold,
    step_to_tie,
)

__all__ = [
    "auc_table",
    "calibrate",
    "cone_coordinates",
    "cone_path",
    "factor_jacobian",
    "false_positives",
    "interval_coverage",
    "noise_aware_ranks",
    "noise_behind",
    "null_walks",
    "placement",
    "planted_sets",
    "random_encoders",
    "rank_changes",
    "rank_of",
    "score_table",
    "smallest_trusted",
    "spectrum",
    "step_to_threshold",
    "step_to_tie",
    "trusted",
    "verdicts",
    "worst_aucs",
]
