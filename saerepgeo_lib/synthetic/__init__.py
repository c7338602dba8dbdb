"""Ground truth of known answer, and the calibration of every estimator against it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
