# %% [markdown]
# # Sparse against dense · Does sparsity make the rank vary?
#
# [Case 1](stratified_manifold.ipynb) asks whether a *varying rank* is a mark of sparse codes, on one autoencoder of each
# kind. One of each leaves open whether another layer, or another training, would answer otherwise. Here the
# question is asked of a grid of trainings.
#
# On this page you will see
#
# - sparse and dense autoencoders, trained alike at three layers with three seeds each;
# - how their rank variability is distributed, next to random encoders and the residual stream;
# - effect sizes with intervals over concepts, and how much concepts, layers and seeds contribute;
# - what this leaves of the reading of Case 1's claim.
#
# **What runs here?** The trainings took place before: their results come with the book, as a *study*. A smaller
# version is computed live below. **Whose is what?** All `[ours]`; noise levels are the paper's
# `[authors' notes]`, rank rules and nulls those of Case 1.

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

import pandas as pd
from IPython.display import Markdown

import saerepgeo_lib as srg
from saerepgeo_lib import studies
from saerepgeo_lib.companion import Record, page_activations, page_model
from saerepgeo_lib.plots import house_style
from saerepgeo_lib.stats import variance_shares

# %matplotlib inline
house_style()

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
results: str = ""  # results of `saerepgeo study sparse-dense`; empty: those that come with the book
rank_rule: str = "relative"  # relative or effective
rank_mode: int = 3  # unfolding that the verdict is about: 1 prompt, 3 feature
preset: str = "smollm2"  # of the live check: or minilm, ...; your SAE: RELEASE:ID, or a folder
concept: str = "months,days,color,planets"  # concepts of the live check
n_seeds: int = 3  # noise draws and random encoders of the live check
seed: int = 0  # first of its seeds, and seed of the resampling
device: str = "auto"  # auto, cpu, cuda or mps

# %%
record = Record.start("sparse_against_dense", globals())

# %% [markdown]
# ## The grid
#
# At each of three blocks of MiniLM, three kinds of autoencoder are trained with three seeds: **TopK**, **L1-ReLU**, and a
# **dense** one, which is the L1 recipe with the penalty at zero. All else is shared: text, order of the text, width, steps,
# learning rate, and (seed by seed) noise. Each is then put through Case 1's noise sweep on seven concepts, beside its **random encoder** of
# equal L0, and the **residual stream**.

# %%
with record.stage("read the study"):
    study = studies.read_study(Path(results) if results else "sparse-dense")
    comparison = studies.SparseDense(study["points"], rank_rule, rank_mode, random_state=seed)

# %% tags=["hide-input"]
recipe = study["points"][0]["point"]["recipe"]
minutes = sum(point["seconds"] for point in study["points"]) / 60
Markdown(
    f"{len(study['points'])} trainings of {recipe['n_samples']:,} tokens each, width "
    f"{recipe['expansion']} times the model's, batches of {recipe['batch_size']}, learning rate "
    f"{recipe['learning_rate']:g}; {minutes:.0f} minutes in all "
    f"({study['made with']['device']}, torch {study['made with']['torch']}). "
    f"Concepts: {', '.join(comparison.table['concept'].unique())}."
)

# %% [markdown]
# One command makes all of it again, on CPU or GPU, and goes on where it stopped:
#
# ```bash
# saerepgeo study sparse-dense --out mine.json        # needs WordNet: Debian's wordnet-base
# saerepgeo run sparse_against_dense -p results mine.json
# ```
#
# ### Do they fit?
#
# FVU and L0 on held-out text and on the concepts' content tokens; means over seeds.

# %%
record.tables["fit"] = fit = comparison.fit
fit.style.format(precision=3).format(precision=1, subset=["L0"]).hide(axis="index")

# %% tags=["hide-input"]
content = fit.groupby("autoencoder", sort=False)["FVU content"].mean()
Markdown(
    "**Read this beside every figure.** These are short trainings. On the concepts' tokens the unexplained share of the "
    f"variance is {', '.join(f'{value:.3f} ({kind})' for kind, value in content.items())}. So sparse and dense differ in "
    "*how well* they fit, too, as they do at any budget: sparsity costs fit. The kinds are not matched in it, nor are the "
    "two sparse kinds matched in L0.\n\n" + comparison.trust.doubted
)

# %% [markdown]
# ## Distributions
#
# The **relative range** of a rank profile is its largest minus its smallest rank over the noise levels, over the clean rank; as in
# Case 1. One dot is one concept and one seed.

# %% mystnb={"image": {"alt": "In the shipped record: relative range by representation, one panel a block. In every block the dense autoencoder lies far to the right of the sparse ones and of the residual stream; random encoders of the sparse kinds lie near zero, below the trained ones.", "classes": "dark-light"}, "figure": {"caption": "Relative range of the rank profile by kind and block; a dot a concept and seed, bars at the medians. Open markers: random encoders.", "name": "distributions"}}
comparison.plot_distributions()

# %% [markdown]
# The *random dense AE* needs a word. A random encoder keeps the largest pre-activations, and of random ones only about half are
# positive: it cannot be as dense as a trained dense autoencoder. Its L0 is the largest it can have.
#
# ## Effect sizes
#
# **Cliff's delta** is the chance that a value of one side lies above one of the other, minus the reverse: 1 always above, -1
# always below. It is taken within each layer and averaged. Beside it stands the plain mean difference of the paired
# cells (same concept, layer and seed).
#
# Concepts are what we would generalise over, and seeds are trainings. So the 95 % interval resamples concepts and, in every
# layer, seeds; the layers stay as they are. Its percentiles are widened for the small number of concepts {cite}`owen2007,hesterberg2015`.
# The p-value is exact for these trainings: the two sides trade places in whole concepts, in all ways. If all concepts share an effect of
# the training, it rejects too often for other trainings ([calibration](calibration.ipynb#false-positives)).

# %%
with record.stage("effects"):
    record.tables["effects"] = comparison.effects
comparison.effects.style.format(precision=3).hide(axis="index")

# %% mystnb={"image": {"alt": "In the shipped record: Cliff's delta and mean difference with intervals. Against the dense autoencoder the sparse ones lie far below zero, for both rank rules; against their random encoders above it.", "classes": "dark-light"}, "figure": {"caption": "Effect sizes with 95 % intervals in the prompt and feature modes; broad bars span the effects by seed. A comparison that cannot be tested has no mark.", "name": "effects"}}
comparison.plot_effects()

# %% [markdown]
# A bootstrap has no width where every value of one side lies beyond every value of the other: then read the interval of
# the mean difference. Mode 2 has two slots, so its rank has no room to vary; it is in the results, and in no figure.
#
# ### What contributes: concept, layer or seed?
#
# Shares of the total sum of squares. *Seed* is what one training has in common over concepts, *rest* what is left.

# %%
ranges = {label: comparison.values(label) for label in comparison.labels}
record.tables["shares"] = shares = pd.DataFrame(
    {"representation": label, "mean": values.mean(), **variance_shares(values)}
    for label, values in ranges.items()
    if values.min() < values.max()
)
shares.style.format(precision=2).hide(axis="index")

# %% tags=["hide-input"]
trained = shares[shares["representation"].isin(fit["autoencoder"])]
Markdown(
    f"In the trained autoencoders, seeds account for {trained['seed'].min():.1%} to {trained['seed'].max():.1%} of the "
    f"variance, concepts for {trained['concept'].min():.0%} to {trained['concept'].max():.0%}, layers for "
    f"{trained['layer'].min():.0%} to {trained['layer'].max():.0%}. A training's seed covers its initial weights, the order "
    "of the text, and the noise."
)

# %% [markdown]
# ## Where the profile starts
#
# No rank exceeds its ceiling, the shorter side of the unfolding (or the number of distinct points in it, if there are copies). A profile that climbs from its clean rank $r_0$ to its
# ceiling $c$ has the relative range $c / r_0 - 1$, however it climbs: the line in this figure. (A profile that first falls lies above it,
# one that stops short of its ceiling below.)

# %% mystnb={"image": {"alt": "In the shipped record: relative range against the clean rank over its ceiling, with the curve of a profile that climbs to its ceiling. The points lie on the curve or close to it, the dense autoencoder at its upper left end, random encoders of the sparse kinds at its lower right.", "classes": "dark-light"}, "figure": {"caption": "Relative range against where the profile starts; a dot a concept, layer and seed. Line: from the start to the ceiling.", "name": "starts"}}
comparison.plot_starts().get_figure()

# %%
record.tables["starts"] = starts = comparison.starts
starts.style.format(precision=3, na_rep="–").hide(axis="index")

# %%
rho = float(comparison.shown["share"].corr(comparison.shown["variability"], method="spearman"))
record.numbers["spearman_range_with_start"] = rho
Markdown(
    f"Over all {len(comparison.shown)} profiles the Spearman correlation of the relative range with the clean share of the "
    f"ceiling is **{rho:+.3f}**. "
    + ("So the differences above are differences of the *clean* rank: noise hardly adds to the order."
       if rho < -0.9 else "So the clean rank orders the profiles only in part.")
)  # fmt: skip

# %% [markdown]
# ## Live: the book's own autoencoders
#
# The study's autoencoders are short-trained ones of MiniLM. Those that ship with the book were trained on several times as many tokens, and
# SmolLM2's belong to another model, too. One training of each kind is looked at, so they carry no verdict here; but the order of the kinds can
# be compared. The next cell runs Case 1's sweep on them.
#
# It also asks a second question. The relative rank counts from the *largest* singular value, and codes are not negative: what all tokens
# have in common can fill the first direction. If the dense code had a low clean rank for that reason alone, the order of the kinds should turn when
# the first singular value is left out.

# %%
model = page_model(record)
with record.stage("live sweep"):
    acts = list(page_activations(record, model).values())
    profiles = [
        srg.rank_profile(a, seeds=record.seeds, rule=rank_rule, mode=rank_mode) for a in acts
    ]
live_fit = studies.trust_in(acts)
Markdown(live_fit.doubted or live_fit.text)


# %%
def with_and_without_first(profile):
    clean = profile.ranks.query("rule == 'stable' and level == 0 and mode == @rank_mode")
    stable_rank = clean.groupby("label", sort=False)["rank"].first()  # energy / that of the first
    columns = {"range": profile.ranges, "without first": profile.without_first.ranges}
    table = pd.DataFrame(columns | {"first": 1 / stable_rank}).rename_axis("representation")
    return table.reset_index().assign(concept=profile.concept)


record.tables["live"] = live = pd.concat(map(with_and_without_first, profiles), ignore_index=True)
live.style.format(precision=2).hide(axis="index")

# %% tags=["hide-input"]
wide = live.pivot(index="representation", columns="concept")
lines = []
for column, what in (("range", "as it is"), ("without first", "without the first direction")):
    values, dense = wide[column], model.not_sparse
    sparse = values.loc[[*model.sparse]]
    above = (sparse.to_numpy() > values.loc[[f"random {label}" for label in sparse.index]]).sum()
    below = (sparse < values.loc[[*dense]].min()).sum()
    means = values.mean(axis=1)[[*model.sparse, *dense]]
    lines.append(
        f"- **{what}**: {', '.join(f'{mean:.2f} ({label})' for label, mean in means.items())}; a sparse one varies "
        + (f"less than the dense one in {below.sum()} of {sparse.size} cases, " if dense else "")
        + f"more than its random encoder in {above.sum()} of {sparse.size}."
    )
first = wide["first"].mean(axis=1)[[*model.sparse, *dense]]
lines += [
    "",
    f"Share of the energy in the first direction: {', '.join(f'{share:.0%} ({label})' for label, share in first.items())}.",
]
Markdown("\n".join(["Mean relative range", "", *lines]))

# %% [markdown]
# ## Verdict
#
# **More variable than dense** holds for a sparse kind if the effect lies above zero: the 95 % interval beyond it, and p at most
# 0.05. **Beyond random** asks the same against the random encoder of equal L0. Concepts on which the other side stands at its
# ceiling without noise are left out, as in Case 1; with fewer than six left it cannot be tested.

# %%
record.claims += comparison.claims
table = studies.claims_table(record.claims).drop(columns="claim")
table["statistic"] = table["statistic"].str.replace(f", mode {rank_mode}", "")
table.style.hide(axis="index")

# %%
Markdown(comparison.text)

# %% [markdown]
# ```{admonition} What carries over to Case 1's claim
# :class: important
# Case 1's claim reads a varying rank as the mark of a *stratified, sparse* code. Two things would have to be so: sparse
# codes vary more than dense ones, and more than sparse codes in which nothing was learned.
#
# Where the first does not hold, variation is no mark of sparsity: an autoencoder without any has more of it. Where the second holds,
# training does leave a trace in the rank, but a trace that lies in the clean spectrum: learned codes
# use fewer directions than random ones do. Neither is evidence *against* strata, since the
# [ablation](rank_rule_ablation.ipynb) found that variation orders data by how few dimensions they use, stratified or not.
#
# And how *far* sparse and dense lie apart depends on the rule. The relative rank counts from the largest singular value. In the book's
# run much of the dense code's energy lies in one direction that its tokens share, and without that direction the gap shrinks to a fraction (live, above).
# So the sizes here are sizes of this score; they are no measure of how stratified anything is.
# ```
#
# **Limits.** One small model, one corpus, short trainings, one L0 a kind, seven concepts that share their sentence frames. The interval covers other concepts like
# these and other seeds; it does not cover other models, widths or penalties. Kinds differ in fit as well as in sparsity. Nothing is corrected for
# the number of comparisons.
#
# ## Summary
#
# - Sparse and dense autoencoders were trained alike, several layers and seeds each, and put through the same noise.
# - How much the rank varies is decided by where it starts: by the clean spectrum.
# - A comparison with a dense autoencoder asks *is it sparsity?*; one with a random encoder asks *is it learned?* The
#   verdict above answers each.
#
# ## Exercises
#
# 1. Set `rank_rule = "effective"`. Which verdicts change, and why might a rule without a threshold agree?
# 2. Why is the interval of Cliff's delta of no use when all values of one side are larger?
# 3. Train the grid with twice the text (`saerepgeo_lib/studies/sparse_dense.py`, `recipe`). What do you expect of the clean rank of a sparse
#    autoencoder?
#
# ```{dropdown} Solutions
# 1. See the table of effects, which has both rules: both see how evenly the clean spectrum is spread.
# 2. Every resample then has the same delta. The bootstrap says nothing of how near the two sides are; the mean difference does.
# 3. There is no answer in the book: it is an open question. The live check, with longer training, is one case.
# ```

# %% [markdown]
# ## Reported against found here
#
# Ranges are over the cases of this run; each stands in the record with interval, p and n.

# %% tags=["hide-input"]
studies.reported_against_found(record.claims).style.hide(axis="index")

# %% [markdown]
# ## Time and memory

# %%
record.write()
pd.DataFrame(record.stages).T.style.format(precision=1)
