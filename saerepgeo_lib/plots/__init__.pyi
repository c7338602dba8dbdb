from .calibration import (
    plot_bias,
    plot_planted,
    plot_rocs,
)
from .cone import (
    cone_frame,
    plot_caveat,
    plot_cone_distance,
    plot_cone_path,
)
from .forests import (
    plot_aucs,
    plot_differences,
    plot_false_positives,
    plot_findings,
    plot_optima,
    plot_scores,
    plot_shares,
    plot_verdicts,
)
from .interventions import (
    plot_doses,
    plot_walks,
    shown,
    with_intervals,
)
from .noise import (
    plot_against_edge,
    plot_code_ranks,
    plot_margins,
    plot_weyl,
)
from .panels import (
    profile,
)
from .profiles import (
    plot_certificate,
    plot_profiles,
    plot_spectra,
    plot_variability,
)
from .structure import (
    cluster_frame,
    plot_entities,
)
from .style import (
    house_style,
    looks_of,
)
from .unfolding import (
    plot_grams,
    plot_masked,
    plot_mode_ranks,
    plot_precision,
    plot_unfoldings,
)

__all__ = [
    "cluster_frame",
    "cone_frame",
    "house_style",
    "looks_of",
    "plot_against_edge",
    "plot_aucs",
    "plot_bias",
    "plot_caveat",
    "plot_certificate",
    "plot_code_ranks",
    "plot_cone_distance",
    "plot_cone_path",
    "plot_differences",
    "plot_doses",
    "plot_entities",
    "plot_false_positives",
    "plot_findings",
    "plot_grams",
    "plot_margins",
    "plot_masked",
    "plot_mode_ranks",
    "plot_optima",
    "plot_planted",
    "plot_precision",
    "plot_profiles",
    "plot_rocs",
    "plot_scores",
    "plot_shares",
    "plot_spectra",
    "plot_unfoldings",
    "plot_variability",
    "plot_verdicts",
    "plot_walks",
    "plot_weyl",
    "profile",
    "shown",
    "with_intervals",
]
