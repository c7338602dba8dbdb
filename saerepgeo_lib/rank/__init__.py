"""Case 1: ranks of the unfolded latent tensor as noise enters the residual stream."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
