from .ablation_verdict import (
    judge_rank_rule,
)
from .case1_verdict import (
    ceiling_text,
    claims_table,
    rank_claims,
    rank_verdict_text,
)
from .case2_table import (
    authors_table,
    cluster_words,
    procrustes_table,
)
from .case2_verdict import (
    geometry_agreement,
    geometry_claims,
    geometry_verdict_text,
)
from .compare_geometry import forecast_comparison
from .forecast import forecast_text
from .paper_claims import (
    reported_against_found,
    reported_claims,
)
from .rank_profile import forecast_profile
from .sparse_dense_results import (
    SparseDense,
)
from .steering_experiment import (
    SteeringExperiment,
    cases_of,
    forecast_cases,
    nothing_learned,
)
from .study import (
    read_study,
)
from .tables import (
    joined,
    wide_table,
)
from .trust import (
    trust_in,
    with_massive,
)

__all__ = [
    "SparseDense",
    "SteeringExperiment",
    "authors_table",
    "cases_of",
    "ceiling_text",
    "claims_table",
    "cluster_words",
    "forecast_cases",
    "forecast_comparison",
    "forecast_profile",
    "forecast_text",
    "geometry_agreement",
    "geometry_claims",
    "geometry_verdict_text",
    "joined",
    "judge_rank_rule",
    "nothing_learned",
    "procrustes_table",
    "rank_claims",
    "rank_verdict_text",
    "read_study",
    "reported_against_found",
    "reported_claims",
    "trust_in",
    "wide_table",
    "with_massive",
]
