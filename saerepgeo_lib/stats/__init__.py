"""Estimates with intervals and p-values, effect sizes, and claims as typed values."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
