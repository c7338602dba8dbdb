"""The ablation's verdict: does the variability of the rank tell strata from smooth data?"""

from collections.abc import Sequence

import pandas as pd

from saerepgeo_lib.stats.claims import Claim
from saerepgeo_lib.stats.estimates import Estimate


def judge_rank_rule(aucs: pd.DataFrame, score: str, representations: Sequence[str]) -> list[Claim]:
    """Does a score tell strata from smooth data? One finding per representation and contrast.

    It holds if the mean AUC of both shapes lies above 0.5 with its 95 % interval.
    """
    chosen = aucs[(aucs["score"] == score) & (aucs["shape"] == "both")]
    return [
        Claim.of(
            "rank-detects-strata",
            Estimate(row["auc"], row["low"], row["high"], row["p"], row["n"]),
            "holds" if row["low"] > 0.5 else "does not hold",
            statistic=f"AUC of the {score}",
            autoencoder=row["representation"],
            against=f"smooth data of the {row['contrast']}",
        )
        for row in chosen[chosen["representation"].isin(representations)].to_dict("records")
    ]
