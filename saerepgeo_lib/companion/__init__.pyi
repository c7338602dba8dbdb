from .compare import (
    compared_by,
    findings,
    read_claims,
    read_costs,
    shipped_claims,
    verdict_counts,
)
from .page import (
    left_out_table,
    page_activations,
    page_model,
    page_trust,
)
from .records import (
    Record,
)

__all__ = [
    "Record",
    "compared_by",
    "findings",
    "left_out_table",
    "page_activations",
    "page_model",
    "page_trust",
    "read_claims",
    "read_costs",
    "shipped_claims",
    "verdict_counts",
]
