from .ablation_verdict import (
    judge_rank_rule,
)
from .case1_verdict import (
    ceiling_text,
    claims_table,
    rank_claims,
    rank_verdict_text,
    skewness,
)
from .case2_table import (
    authors_table,
    cluster_words,
    joined_tables,
    procrustes_table,
    wide_table,
)
from .case2_verdict import (
    geometry_agreement,
    geometry_claims,
    geometry_verdict_text,
)
from .case3_verdict import (
    downstream_text,
    judge_steering,
    objective_counts,
    steering_answer,
    steering_answer_text,
)
from .differences import (
    clusterings,
    noise_differences,
    plot_procedures,
    steering_differences,
    token_choices,
)
from .differences_verdict import (
    difference_findings,
)
from .paper_claims import (
    reported_against_found,
    reported_claims,
)
from .separability.effects import (
    SeparabilityEffects,
    runs_table,
)
from .separability.trainings import (
    small_version,
)
from .sparse_dense_results import (
    SparseDense,
)
from .steering_experiment import (
    NOTHING,
    SteeringExperiment,
    cases_of,
    nothing_learned,
)
from .study import (
    read_study,
    study_file,
)
from .trust import (
    trust_in,
)
from .vision.carry_over import (
    CarryOver,
)
from .vision.cases import (
    OverTrainings,
    accuracy_with,
    case3,
)
from .vision.digits import (
    digits,
    digits_concept,
    plot_patches,
)
from .vision.training import (
    load_vision,
    vision_cards,
)

__all__ = [
    "NOTHING",
    "CarryOver",
    "OverTrainings",
    "SeparabilityEffects",
    "SparseDense",
    "SteeringExperiment",
    "accuracy_with",
    "authors_table",
    "case3",
    "cases_of",
    "ceiling_text",
    "claims_table",
    "cluster_words",
    "clusterings",
    "difference_findings",
    "digits",
    "digits_concept",
    "downstream_text",
    "geometry_agreement",
    "geometry_claims",
    "geometry_verdict_text",
    "joined_tables",
    "judge_rank_rule",
    "judge_steering",
    "load_vision",
    "noise_differences",
    "nothing_learned",
    "objective_counts",
    "plot_patches",
    "plot_procedures",
    "procrustes_table",
    "rank_claims",
    "rank_verdict_text",
    "read_study",
    "reported_against_found",
    "reported_claims",
    "runs_table",
    "skewness",
    "small_version",
    "steering_answer",
    "steering_answer_text",
    "steering_differences",
    "study_file",
    "token_choices",
    "trust_in",
    "vision_cards",
    "wide_table",
]
