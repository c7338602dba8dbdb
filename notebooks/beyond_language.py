# %% [markdown]
# # Beyond language · A vision transformer
#
# The paper speaks of representations, but looks at language alone. Would its claims say the same of a model that has never
# read a word? Here is a small transformer that reads handwritten digits, with autoencoders of its residual stream.
#
# On this page you will see
#
# - images as prompts, patches as tokens, classes as entities;
# - Cases 1 to 3 on them, by the very functions that the pages on language call;
# - what carries over from language, claim by claim, and what does not.
#
# **Whose is what?** The claims are the paper's, with their tags on the pages of the cases; asking them of vision, the model
# and the autoencoders are `[ours]`.

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

# %%
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import Markdown, display

import saerepgeo_lib as srg
from saerepgeo_lib.companion import Record, page_trust, read_claims, shipped_claims
from saerepgeo_lib.plots import (
    house_style,
    plot_differences,
    plot_doses,
    plot_optima,
    plot_profiles,
    plot_variability,
    with_intervals,
)
from saerepgeo_lib.rank import summarise, variability
from saerepgeo_lib.studies import (
    SteeringExperiment,
    cases_of,
    ceiling_text,
    geometry_agreement,
    geometry_claims,
    geometry_verdict_text,
    joined,
    nothing_learned,
    rank_claims,
    rank_verdict_text,
    read_study,
    reported_against_found,
    wide_table,
)
from saerepgeo_lib.studies.vision.carry_over import CarryOver
from saerepgeo_lib.studies.vision.cases import OverTrainings, accuracy_with, case3
from saerepgeo_lib.studies.vision.digits import digits, digits_concept, plot_patches
from saerepgeo_lib.studies.vision.training import load_vision, vision_cards

# %matplotlib inline
house_style()

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
weights: str = ""  # a folder that `saerepgeo vision --out` wrote; empty: what comes with the book
n_per_class: int = 12  # held-out images of each class
n_groups: int = 6  # groups of images; intervals leave out one at a time, at least 3
n_seeds: int = 10  # noise draws of Case 1, at least 2 (7 for a verdict)
n_random: int = 1  # draws of the random encoder of each SAE in Case 2
n_bootstrap: int = 1000  # resamples of the images in Case 3
seed: int = 0  # seed of every random draw of this page
judge_anyway: str = ""  # labels of SAEs judged in spite of their fit or hook, separated by commas
device: str = "auto"  # auto, cpu, cuda or mps

# %% [markdown]
# ## Images as prompts
#
# scikit-learn comes with images of digits {cite}`alpaydin1998`, 8 by 8 pixels in 17 shades. An image is cut into **patches** of 2 by 2 pixels. A patch is a
# *token*: its four shades, read as digits to the base 17, are the token's id, so an image can be written down as a prompt of
# 16 words, and nothing is lost. The class is the *entity* (as January is), and a class token in front, at which the model
# gives its answer, is the **entity token**: the task ties no other position to the class, and a stroke belongs to many digits.
# **Content tokens** are the class token and all patches with ink. Blank patches are left out, as function words are.

# %%
record = Record.start("beyond_language", globals())
with record.stage("load"):
    folder = Path(weights) if weights else None
    model, cards = load_vision(folder, device=record.device), vision_cards(folder)
record.numbers["model"] = model.describe()
split = digits(cards["model"]["recipe"]["seed"])

# %% mystnb={"image": {"alt": "One held-out image of each digit, 8 by 8 pixels, with the grid of its patches; patches with ink are tinted.", "classes": "dark-light"}, "figure": {"caption": "One held-out image of each class and its patches. Tinted patches hold ink and are content tokens.", "name": "patches"}}
shown = [int(np.flatnonzero(split.test_class == k)[0]) for k in range(10)]
plot_patches(split.test[shown], split.test_class[shown])

# %%
concept = digits_concept(split, n_per_class=n_per_class)
acts = model.activations(concept)
Markdown(
    f"A prompt, of the class {concept.prompts[0].entity}: `{concept.prompts[0].text}`. The concept has {len(concept.prompts)} "
    f"held-out images and {len(acts)} content tokens, {int(acts.in_entity.sum())} of them class tokens."
)

# %% [markdown]
# The place of a sentence frame is taken by the k-th image of every class; these are dealt to the groups that intervals leave out. This changes what an interval means. Sentences of a frame share
# their words, and leaving out frames says how much hangs on the wording, with the entities fixed. Images of a group share nothing; leaving one out is
# leaving out images, and says how much hangs on which images were drawn. Who wrote a digit is not known, so that images by one
# hand count as independent, and the held-out images are by the writers of the others.
#
# ## The model and its autoencoders
#
# The transformer is TransformerLens' own `HookedTransformer`: four blocks of 64 dimensions with the layer norm in front, attention in both
# directions, trained on the other images, each moved by at most one pixel at random. The autoencoders have eight latents a dimension and read the
# stream after the third block. How the model does on held-out images, and with a reconstruction put in the place of the content tokens' residual:

# %%
with record.stage("accuracy"):
    right = {"the model itself": accuracy_with(acts)}
    right |= {f"through {label}": accuracy_with(acts, sae) for label, sae in model.saes.items()}
held_out = cards["model"]["accuracy"]["test"]
record.numbers["accuracy"] = {"all held-out images": held_out}
record.tables["accuracy"] = pd.DataFrame(
    {
        "read": list(right),
        "accuracy": [v.mean() for v in right.values()],
        "images": len(concept.prompts),
    }
)
display(Markdown(f"On all {len(split.test)} held-out images: {held_out:.1%} in their class."))
record.tables["accuracy"].style.format({"accuracy": "{:.1%}"}).hide(axis="index")

# %%
fit = page_trust(record, [acts])
display(
    fit.table.style.format({"FVU": "{:.3f}", "L0": "{:.0f}"}).hide(axis="index"),
    Markdown(fit.text),
)

# %% [markdown]
# FVU is the fraction of variance unexplained on these tokens, L0 the mean number of active latents a token. Claims that rest on an SAE that does not fit
# these tokens are withheld ([Case 1](stratified_manifold.ipynb#how-well-do-the-autoencoders-fit-these-tokens) has the rule). Features that never fire on the training
# images:

# %%
dead = {label: card["fit"]["dead_share"] for label, card in cards.items() if label != "model"}
Markdown("; ".join(f"{label} {share:.1%}" for label, share in dead.items()) + ".")

# %% [markdown]
# ## Case 1: rank under noise
#
# Noise enters at the hook, in units of the residual's own spread; the latents of two tokens an image (class token and first patch with ink) make the
# tensor, and the relative rank of its feature unfolding is followed, beside the nulls ([Case 1](stratified_manifold.ipynb) explains each).

# %%
with record.stage("case 1"):
    profile = srg.rank_profile(acts, seeds=record.seeds)
    claims1 = fit.withheld(rank_claims([profile], sparse=model.sparse))
rule, mode, ranks = profile.rule, profile.mode, profile.ranks

# %% mystnb={"image": {"alt": "Rank against noise level for the residual stream, two sparse autoencoders, the dense one, random encoders and permuted latents, on a vision transformer.", "classes": "dark-light"}, "figure": {"caption": "Rank profiles in vision, as in Case 1. Lines: mean over seeds; bands: range; solid where the rank is certified.", "name": "vision-profiles"}}
plot_profiles({concept.name: ranks}, {concept.name: profile.certified}, rule=rule, mode=mode)

# %% mystnb={"image": {"alt": "Relative range of the rank profile by representation, one dot a seed, on a vision transformer.", "classes": "dark-light"}, "figure": {"caption": "How much each rank varies, one dot a seed.", "name": "vision-variability"}}
spread = {concept.name: variability(ranks, rule=rule)}
plot_variability(spread, mode=mode)

# %%
record.tables["ranks"] = summarise(ranks)
display(Markdown(rank_verdict_text(claims1)))

# %% [markdown]
# The residual stream has fewer dimensions than there are tokens, so its clean rank stands at its ceiling and leaves nothing to exceed:

# %%
Markdown(ceiling_text({concept.name: profile.sweep}, {concept.name: ranks}, rule=rule, mode=mode))

# %% [markdown]
# As in language, a varying rank is no sign of strata by itself: a claim stands only beside its nulls, and
# [the ablation](rank_rule_ablation.ipynb) says how little the inference is worth on planted data.
#
# ## Case 2: local and global
#
# Clusters of all content tokens are the local representations; the classes' means are the objects that every space has in common.

# %%
with record.stage("case 2"):
    geometry = srg.compare_geometry(acts, n_groups=n_groups, n_random=n_random, seed=seed)
    record.tables["structure"] = table = joined({concept.name: geometry.table})
shown = table[table["space"].isin(["residual", *model.saes])]
wide_table(shown).drop(columns="concept").style.hide(axis="index")

# %%
whole = geometry.table.set_index(["measure", "space"])["value"]
free = whole["unclustered"]
display(
    Markdown(
        f"Tokens without a cluster: {free['residual']:.0%} in the residual stream, "
        f"{', '.join(f'{free[label]:.0%} in the {label}' for label in model.sparse)}."
    )
)

# %% [markdown]
# Here vision is unlike language at the root. A word comes back in many sentences, and its tokens make a cluster; a patch hardly ever comes
# back. Strokes pass into each other, and density finds few pieces, other ones whenever some images are left out: hence the wide intervals of all that is counted by cluster.
# What is measured on the classes does not depend on clusters.

# %%
with record.stage("case 2, class tokens"):
    both = pd.concat([geometry.compared, geometry.entities.compared])
    compared = fit.withheld_outcomes(both)
record.tables["compared"] = compared
against = compared.query("kind == 'residual' and value == value")

# %% mystnb={"image": {"alt": "Six measures, SAE minus residual stream with intervals, for two SAEs on all content tokens and on class tokens alone, the claimed side shaded, on a vision transformer.", "classes": "dark-light"}, "figure": {"caption": "SAE minus residual stream in vision, with 95 % intervals over groups of images. Shaded: the side that the paper claims.", "name": "vision-differences"}}
plot_differences(against)

# %%
claims2 = fit.withheld(geometry_claims(compared))
Markdown(geometry_verdict_text(geometry_agreement(compared)))

# %% [markdown]
# ## Case 3: separability and reconstruction
#
# Clusters of the latents are pushed apart and together, and the error is read off. The control has nothing to have learned: the transformer
# with the weights that training starts from, and an SAE of random directions.

# %%
with record.stage("case 3"):
    tables, claims3 = case3(acts, n_groups=n_groups, n_bootstrap=n_bootstrap, seed=seed)
with record.stage("random pair"):
    random_acts = nothing_learned(acts, seed=seed).activations(concept)
    nothing = SteeringExperiment(cases_of([random_acts]), n_groups=n_groups).shrinkage
law = pd.concat([tables["shrinkage"], nothing], ignore_index=True)
record.tables |= tables | {"shrinkage": law}

# %% [markdown]
# First the **theorem of uniform scaling** ([Case 3](intervention.ipynb) proves it): the error is a parabola in the ratio of separability, and its lowest point
# rho\* lies above 1 exactly if the autoencoder shrinks its codes.

# %% mystnb={"image": {"alt": "The scaling at which the error is least, with intervals, for two SAEs, a dense autoencoder and a random pair, on a vision transformer.", "classes": "dark-light"}, "figure": {"caption": "The scaling at which the error is least, in vision, with 95 % intervals over groups of images.", "name": "vision-optima"}}
plot_optima(law).get_figure()

# %%
with_intervals(law, {"rho* outward": " outward", "slope": ""})[
    ["SAE", "rho* outward", "elasticity outward", "slope", "cosine"]
].style.format(precision=2).hide(axis="index")

# %% [markdown]
# *Slope* is measured along the gradient of AEDP, per cent of error per cent of separability; *elasticity outward* is what the theorem gives for clusters that
# move outward as they are. Then the **dose**: separability is set, and the error read off.

# %% mystnb={"image": {"alt": "Error against separability for two SAEs on a vision transformer: pushed along the gradient, and the least error found among valid codes.", "classes": "dark-light"}, "figure": {"caption": "The error at a set separability, in vision. Bands cover the choice of images.", "name": "vision-doses"}}
responses = tables["dose_response"]
plot_doses(responses, list(responses["path"].unique()))

# %%
with_intervals(tables["changed"].query("dose > 1"), {"change": ""})[
    ["SAE", "shrinkage", "dose", "change"]
].style.hide(axis="index")

# %% [markdown]
# The table changes the shrinkage and nothing else: *taken away*, the decoder is rescaled so that rho\* is 1; *planted*, so that it is 1.2. If shrinkage is the
# cause, the error must rise in the first case and fall in the second.
#
# ## What carries over
#
# Every finding above beside the same case in the shipped table of runs on language ([Many runs](compare_runs.ipynb)): nine concepts on
# the embedded MiniLM, whose tokens see the whole text as patches see the whole image; the same functions, the same kinds of autoencoder. A finding is decided in vision if its whole interval lies on one side of 0 (of a varying rank: of Case 1's bound),
# and in language if that is so for more than half of the concepts. *Same* and *opposite* compare the sides; where either is undecided, so is the comparison.

# %%
findings = [*claims1, *claims2, *fit.withheld(claims3)]
language = read_claims(shipped_claims()).query("preset == 'minilm'")
beside = CarryOver(findings, language)
record.claims += beside.claims
record.tables["beside_language"] = beside.table
record.tables["findings"] = pd.DataFrame([vars(claim) for claim in findings])
beside.counts.style.hide(axis="index")

# %% tags=["hide-input"]
Markdown(beside.text)

# %% [markdown]
# Finding by finding (*median*, *concepts* and the side *language* are those of the table of runs):

# %% tags=["hide-output"]
beside.table.style.format(precision=2, na_rep="–").hide(axis="index")

# %% [markdown]
# Language and vision differ here in more than the kind of data: the size of the model, the width of the residual stream, the task and the autoencoders'
# training differ too. The intervals differ too: there over sentence frames or noise, here over images or noise. A finding that differs cannot be laid to any one of them, and one that is
# the same may be so by chance. Not repeated here: free edits, random walks and the correlation over doses of Case 3, and its grouping by entities.
#
# ### Over trainings
#
# The page shows one training. The shipped study ran everything again with other seeds: another split, other weights, other autoencoders (`saerepgeo study
# vision`). Intervals on this page do not cover that; the spread of the dots below does.

# %%
trained = OverTrainings(read_study("vision"))
record.tables["trainings"] = over = trained.table
accuracies = [point["result"]["accuracy"]["test"] for point in trained.record["points"]]
turned = int(((over["positive"] > 0) & (over["positive"] < over["n"])).sum())
display(
    Markdown(
        f"{len(accuracies)} trainings, too few for a test; accuracy on held-out images {min(accuracies):.1%} to {max(accuracies):.1%}. "
        f"The sign of the statistic is not the same in all of them in {turned} of {len(over)} cases."
    )
)

# %% mystnb={"image": {"alt": "Of the shipped study: statistics of the repeated claims, one dot a training of the vision transformer and its autoencoders.", "classes": "dark-light"}, "figure": {"caption": "Seven of the claims (all are in the table below), one dot a training (logarithmic away from zero).", "name": "trainings"}}
trained.plot()

# %% tags=["hide-output"]
over.style.format(precision=3, na_rep="–").hide(axis="index")

# %% [markdown]
# ## Summary
#
# - The cases ask nothing of a model but a residual stream, tokens that count and groups to leave out: no line of theirs was changed for images.
# - Which tokens count is a choice, and in an image it is less clear than in a sentence which of them name the entity.
# - In the book's run and in every training of the shipped study, the classes' means at the class token lie *closer* together in the latents,
#   over the radius, than in the residual stream: distinctions are not amplified, as they are in the shipped runs on language.
# - That shrinkage decides carries over: in every training the error rises without it and falls with it. The slope itself changes its sign from
#   one training to another.
# - Read the table above claim by claim; agreement with language is agreement of two models, not of two kinds of data.
#
# ## Exercises
#
# 1. Train with another seed (`saerepgeo vision --seed 1 --out runs/vision1`) and set `weights` to that folder. Does a verdict change?
# 2. Why must blank patches be left out, rather than kept as tokens like any other?
# 3. What would an interval over writers need, and would it be wider?
#
# ```{dropdown} Solutions
# 1. Compare with the figure over trainings: verdicts whose dots lie on one side should stay.
# 2. They are many and nearly alike, position by position, so they would be the densest clusters: clusters would tell where there is no ink.
# 3. The writer of each image, to leave out one at a time. Wider, if images by one hand are alike: then there are fewer independent ones than images.
# ```

# %% [markdown]
# ## Reported against found here

# %% tags=["hide-input"]
reported_against_found(record.claims).style.hide(axis="index")

# %% [markdown]
# ## Time and memory

# %%
pd.DataFrame(record.stages).T.style.format(precision=1)

# %%
record.write()
