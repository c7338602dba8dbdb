from .latents import fit_on
from .prompts import names_in
from .residual_stream import rms

__all__ = ["fit_on", "names_in", "rms"]
