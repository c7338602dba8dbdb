"""Case 3: steering of clusters by gradients, dose response, shrinkage."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
