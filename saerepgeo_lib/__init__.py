"""Geometry of sparse-autoencoder representations: the library under the book.

    import saerepgeo_lib as srg

    acts = srg.load("minilm").activations("months")
    srg.rank_profile(acts)        # Case 1: ranks of the latent tensor as noise enters
    srg.compare_geometry(acts)    # Case 2: local and global structure, residual against latents
    srg.dose_response(acts)       # Case 3: the error at a set separability

Its rooms, from the ground up; each imports only from those before it:

stats        estimates, intervals, tests, effect sizes; claims as typed values
activations  concept prompts -> tokens -> model -> residual stream -> SAE -> latents
rank         noise sweep, unfoldings, spectra, rank rules (Case 1)
geometry     clusters, intrinsic dimension, arrangements of centroids (Case 2)
steering     steering of clusters by gradients, dose response, shrinkage (Case 3)
synthetic    ground truth of known answer, and calibration against it
plots        a style and a few panels, from which the figures are made
studies      what single pages need: verdicts on the paper's claims, trainings, vision, differences
companion    running (papermill, records, sweeps) and publishing (pages, ledger, book, command line)

`errors`, `files`, `text` and `cores` serve all. Public is what this package and its rooms list in
their `__init__.pyi`; names are loaded when they are first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
