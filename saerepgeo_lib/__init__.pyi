from .activations.model_with_saes import (
    ModelWithSAEs,
    load,
)
from .activations.prompts import (
    Concept,
    Prompt,
    load_concepts,
)
from .activations.saes import (
    search_saes,
)
from .activations.token_activations import (
    TokenActivations,
)
from .errors import (
    UserError,
)
from .stats.claims import (
    Claim,
)
from .stats.estimates import (
    Estimate,
    NotEstimable,
)
from .studies.compare_geometry import (
    GeometryComparison,
    compare_geometry,
)
from .studies.dose_response import (
    DoseResponse,
    dose_response,
)
from .studies.rank_profile import (
    RankProfile,
    rank_profile,
)

__all__ = [
    "Claim",
    "Concept",
    "DoseResponse",
    "Estimate",
    "GeometryComparison",
    "ModelWithSAEs",
    "NotEstimable",
    "Prompt",
    "RankProfile",
    "TokenActivations",
    "UserError",
    "compare_geometry",
    "dose_response",
    "load",
    "load_concepts",
    "rank_profile",
    "search_saes",
]
