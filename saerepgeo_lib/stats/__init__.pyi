from .effect_sizes import variance_shares
from .estimates import auc, correlation_within, jackknife, mean_estimate

__all__ = ["auc", "correlation_within", "jackknife", "mean_estimate", "variance_shares"]
