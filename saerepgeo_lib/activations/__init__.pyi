from .latents import fit_on
from .residual_stream import rms

__all__ = ["fit_on", "rms"]
