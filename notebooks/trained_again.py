# %% [markdown]
# # Trained again · Which autoencoders shrink, and what is learned?
#
# One training of one autoencoder proves little: another seed, another kind or another layer may say otherwise. This page judges
# two statements of [Case 2](representation_structure.ipynb) and [Case 3](intervention.ipynb) over many trainings on one causal language
# model, SmolLM2, and against **nulls that were trained** without what should matter: sparsity, a decoder or an encoder that learns, or a model that did.
#
# **Predict first.** Six kinds of sparse autoencoder (SAE) differ in how they keep latents few. Which of them make their codes too short?
#
# **Whose is what?** That separability helps, and that distinctions grow, is the paper's `[abstract]`. The nulls are the literature's: a
# frozen decoder or encoder {cite}`korznikov2026`, and a model with random weights {cite}`heap2025`. The comparison is `[ours]`.

# %% tags=["remove-cell"]
# On Colab this cell installs the project; anywhere else it does nothing.
import os
import runpy
import subprocess

REPOSITORY, BRANCH = "", "main"  # both are written by `saerepgeo notebooks`
if "COLAB_RELEASE_TAG" in os.environ:
    assert REPOSITORY, "set REPOSITORY and BRANCH above: the git repository of this notebook"
    if not os.path.exists("companion"):
        subprocess.check_call(f"git clone -q --depth 1 -b {BRANCH} {REPOSITORY} companion".split())
    runpy.run_path("companion/saerepgeo_lib/companion/colab.py", run_name="__main__")

# %% tags=["hide-input"]
from pathlib import Path

import pandas as pd
from IPython.display import Markdown

from saerepgeo_lib.companion import Record
from saerepgeo_lib.plots import house_style
from saerepgeo_lib.plots.trainings import plot_by_label, plot_by_sparsity, plot_curve
from saerepgeo_lib.studies import read_study
from saerepgeo_lib.studies.trainings import (
    MATCHED,
    by_concept,
    fits,
    pooled,
    pooled_gain,
    savings,
    trainings_answer,
    trainings_table,
)

# %matplotlib inline
house_style()

# %% tags=["parameters"]
results: str = ""  # results of `saerepgeo study smollm2`; empty: those that come with the book

# %% tags=["hide-input"]
record = Record.start("trained_again", globals())
with record.stage("read the study"):
    study = read_study(Path(results) if results else "smollm2")
    trainings = trainings_table(study["points"])
    concepts = by_concept(trainings)
compared, first = trainings[trainings["group"] != ""], trainings["seed"] == 0
record.tables["trainings"] = trainings.drop(columns="cases")
record.tables |= {name: pooled(concepts, name) for name in ("shrinkage", "distinction")}
record.tables["gain"] = pooled_gain(concepts)
counted = f"{concepts['concept'].nunique()} concepts and {concepts['seed'].nunique()} trainings"

# %% [markdown]
# ## The answer

# %% tags=["hide-input"]
Markdown(trainings_answer(trainings, concepts))

# %% [markdown]
# ## Which autoencoders shrink?
#
# [Case 3](intervention.ipynb) shows by a theorem that more separable codes reconstruct better exactly if the autoencoder *shrinks*: if
# rho\*, the factor by which its codes should be longer, is above 1. Here is rho\* on held-out text, for every training.

# %% tags=["hide-input"] mystnb={"image": {"alt": "In the shipped study: rho* minus 1 on held-out text, three trainings of each kind. The L1-ReLU SAE lies far to the right of all other sparse autoencoders, which lie at zero or, for the Matryoshka SAE, a little to the left. The nulls lie close to zero; with a frozen encoder a little to the right.", "classes": "dark-light"}, "figure": {"caption": "On held-out text only L1-ReLU SAEs shrink clearly. How much longer the codes should be (left of 0: shorter), one mark per training; the three trainings of a kind hardly differ. Bars: 95 % intervals over stretches of text.", "name": "trained-shrinkage"}}
plot_by_label(compared, "rho* minus 1 on held-out text", repeat=0.18)

# %% [markdown]
# Why the L1 penalty? It asks a price for the length of every latent, so the optimum is a little short {cite}`rajamanoharan2024gated`. TopK and its
# relatives count latents and leave their length free; a gated SAE learns which are active apart from how long they are. If that is the
# reason, a higher price must shrink more. It does, in each of three blocks:

# %% tags=["hide-input"] mystnb={"image": {"alt": "In the shipped study: rho* minus 1 against the number of active latents, for blocks 3, 10 and 20. For L1-ReLU SAEs it falls from the sparsest to the densest in every block; for TopK SAEs it is about zero.", "classes": "dark-light"}, "figure": {"caption": "The sparser an L1 SAE was made, the more it shrinks; a TopK SAE does not.", "name": "trained-sparsity"}}
plot_by_sparsity(trainings[first & trainings["name"].isin(["grid", "topk", "l1"])])

# %% [markdown]
# ## What does more separability save?
#
# The tokens of a concept's entities (January, February, ...) are the local representations here. If each entity's codes are moved
# outward as they are, so that all entities lie further apart, how much of the error can be saved at best?

# %% tags=["hide-input"]
savings(concepts).style.hide(axis="index").set_caption(
    f"Means over {counted}, with 95 % intervals over both. A saving cannot be negative: "
    "it counts as 0 where codes are not too short"
)

# %% [markdown]
# ## Are distinctions learned?
#
# Case 2 asks whether entities lie further apart among the latents. Distances need a unit, and here it is the radius of the *same*
# tokens in the same space. So what is compared is shape, not size.

# %% tags=["hide-input"] mystnb={"image": {"alt": "In the shipped study: the average distance of entities in the latents over that in the residual stream, minus one, with intervals over concepts and trainings. TopK, L1-ReLU and BatchTopK SAEs lie right of zero, JumpReLU a little left. Most nulls lie left of zero, those on a random model furthest; two dense bottlenecks lie slightly to the right.", "classes": "dark-light"}, "figure": {"caption": "Three kinds of SAE draw entities apart, and half of the nulls draw them together; but two dense bottlenecks draw them apart as well. 95 % intervals over concepts and trainings.", "name": "trained-distinction"}}
plot_by_label(record.tables["distinction"], "distance of entities, latents against residual stream")

# %% tags=["hide-input"]
against = record.tables["against bottleneck"] = pooled(concepts, "distinction", minus=MATCHED)
against = against[against["group"] == "sparse autoencoders"]
against[["label", "value", "low", "high"]].style.format(
    "{:+.1%}", subset=["value", "low", "high"]
).hide(axis="index").set_caption(
    f"Distance of entities in SAEs minus that in a {MATCHED}, with 95 % intervals"
)

# %% [markdown]
# A *dense bottleneck* has fewer units than the model has dimensions, and no sparsity. It drops directions of little variance, much as
# principal components do. That it draws entities apart too says that a part of the rise needs no sparsity.
#
# ## How good are these autoencoders?

# %% tags=["hide-input"]
record.tables["fits"] = fits(compared)
record.tables["fits"].style.format(
    {"FVU": "{:.2f}", "L0": "{:.0f}", "dead": "{:.1%}", "loss recovered": "{:.1%}"}, na_rep="–"
).hide(axis="index").set_caption(
    "Means over the trainings of a kind, on held-out text; of dead latents, on training text"
)

# %% [markdown]
# *FVU* is the share of variance that is lost. *Loss recovered*: with the mean token in the place of the residual stream, the model's
# next-token loss rises; this is the share of that rise which the reconstruction avoids. What would more training bring?

# %% tags=["hide-input"] mystnb={"image": {"alt": "In the shipped study: the share of variance that a TopK SAE loses falls with training samples, fast at first and then ever more slowly; with four times the text it is hardly less.", "classes": "dark-light"}, "figure": {"caption": "The error falls ever more slowly with samples, and more text changes it hardly. TopK SAE, block 10.", "name": "trained-curve"}}
plot_curve(trainings[first & trainings["name"].isin(["curve", "topk"])]).get_figure()

# %% [markdown]
# ## How it was made
#
# The trainings ran side by side on one GPU. The recipes are those of the SAEs that come with the book, but for the dense one, which sees
# as many samples here as the others. This makes them again (on a CPU it takes hours, and can be stopped at any time):
#
# ```bash
# saerepgeo study smollm2 --device cuda --out mine.json        # needs WordNet: Debian's wordnet-base
# saerepgeo run trained_again -p results mine.json
# ```
#
# **Limits.** One model, and three trainings a kind. Intervals in the tables and in the third figure let concepts and trainings vary at once;
# they are not corrected for the number of rows. Only the recipes of TopK and L1-ReLU were tuned with care: most latents of the JumpReLU SAE are dead.
#
# ## Exercises
#
# 1. Multiply the codes of an L1 SAE by its rho\*. Is it then as good as a TopK SAE with as many active latents?
# 2. On a random model nothing about months could be learned. Why can entities be told apart there at all?
#
# ```{dropdown} Solutions
# 1. No. On held-out text that saves only a few percent of its error, and the TopK SAE with about as many active latents is ahead by more.
# 2. A random model still gives every token an embedding of its own. So names that differ in a token differ from the start.
# ```

# %% tags=["hide-input"]
record.write()
pd.DataFrame(record.stages).T.style.format(precision=1)
