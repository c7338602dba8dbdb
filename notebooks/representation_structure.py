# %% [markdown]
# # Case 2 · Local and global representations, before and after sparse encoding
#
# Take the vectors of a concept's words: all tokens of sentences about months. They fall into *local representations*, clusters of
# similar vectors; the clusters' arrangement is the *global representation*. The paper says that sparse encoding changes both: it
# adds dimensions inside the pieces, merges similar features, and so sharpens distinctions.
#
# On this page you will see
#
# - the tokens of a concept in the residual stream and in the latents, on maps;
# - the circle on which months and days lie, and whether the latents keep it;
# - dimension, number, arrangement and content of the clusters, with intervals, in every space;
# - two controls that decide, a random encoder of equal L0 and a dense autoencoder, and a verdict on each direction.
#
# **Whose is what?** Local and global representations, and the directions, are the paper's `[abstract]` `[authors' notes]`; so is
# the pipeline with UMAP `[authors' code]`. The other pipeline, measures on corresponding objects, intervals, controls: `[ours]`.

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
import pandas as pd
from IPython.display import Markdown, display

import saerepgeo_lib as srg
from saerepgeo_lib import geometry, plots, studies
from saerepgeo_lib.companion import Record, left_out_table, page_activations, page_model, page_trust
from saerepgeo_lib.plots.frames import frames, recompute

# %matplotlib inline
plots.house_style()

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
preset: str = "smollm2"  # minilm, gpt2-small, pythia-70m, gemma-2-2b; your SAE: RELEASE:ID, folder
model_name: str = ""  # another model for that SAE (name on the hub, or folder); empty: its own
hook: str = ""  # where the SAE reads; empty: as its metadata says
dtype: str = "float32"  # of the model's weights: float32, bfloat16 or float16
concept: str = "months,days,elements"  # one concept, or several separated by commas
prompts_file: str = ""  # a concept file of your own (see data/README.md); empty: the shipped one
function_words: str = "english"  # function words that are masked: english, german, ..., or none
max_prompts: int = 0  # prompts per concept, drawn evenly over its entities; 0: all
massive: str = "leave out"  # tokens with massive activations: leave out, or keep
min_cluster_size: int = 10  # fewest tokens of a local representation
n_groups: int = 12  # groups of sentence frames; intervals leave out one at a time, at least 3
n_random: int = 2  # draws of the random encoder of each SAE
n_umap_concepts: int = 2  # how many concepts, from the first, also pass the authors' pipeline
n_seeds: int = 10  # UMAP seeds of the authors' pipeline, at least 2
seed: int = 0  # first of the seeds, and seed of every other draw
judge_anyway: str = ""  # labels of SAEs judged in spite of their fit or hook, separated by commas
device: str = "auto"  # auto, cpu, cuda or mps

# %% [markdown]
# ## From prompts to spaces
#
# As in [Case 1](stratified_manifold.ipynb), only **content tokens** count; padding, special tokens and function words are left
# out, never clustered. Each token is represented in several *spaces*: the residual stream, the latents of each autoencoder, and
# the latents of random encoders: random directions, a TopK activation with the L0 of the SAE, averaged over several draws.

# %% tags=["hide-input"]
record = Record.start("representation_structure", globals())
model = page_model(record)
with record.stage("residuals"):
    of = page_activations(record, model)
sizes = {"n_groups": n_groups, "n_random": n_random}
forecasts = (studies.forecast_comparison(a, **sizes) for a in of.values())
display(Markdown(studies.forecast_text(forecasts)))
options = {"min_cluster_size": min_cluster_size, "seed": seed}
with record.stage("spaces"):
    compared = {name: srg.compare_geometry(a, **sizes, **options) for name, a in of.items()}
first, sae, shown = next(iter(compared)), model.sparse[0], ["residual", *model.saes]
overview = {
    name: {"content tokens": len(case.acts), "entity tokens": int(case.acts.in_entity.sum()),
           "contexts": len(set(case.acts.context))}
    | {f"dims, {k}": space.reduced.shape[1] for k, space in case.spaces.items()}
    for name, case in compared.items()
}  # fmt: skip
pd.DataFrame.from_dict(overview, orient="index")

# %% [markdown]
# Do the SAEs fit these tokens ([the rule](stratified_manifold.ipynb#how-well-do-the-autoencoders-fit-these-tokens))? And which words are masked?

# %%
fit = page_trust(record, of.values())
display(Markdown(fit.text), left_out_table(record, of.values()))

# %% [markdown]
# ## Maps
#
# A map is a shadow; the measures below do not use it. Here are all tokens of a concept, in the residual stream and in the
# latents, on the two leading principal directions of each space, with the largest clusters in colour. Clusters are found by
# HDBSCAN in principal coordinates that keep the same 90 % of the variance in every space. With a kernel you set the least size.


# %% tags=["hide-input"] mystnb={"figure": {"caption": "Tokens of a concept and their largest clusters, in the residual stream and in the latents.", "name": "cluster-maps"}}
def clustered(concept, least_size):
    spaces = {k: compared[concept].spaces[k] for k in shown}
    labels = {k: geometry.cluster_pca(x, min_cluster_size=least_size) for k, x in spaces.items()}
    return plots.cluster_frame({k: x.full for k, x in spaces.items()}, labels, label=concept)


recompute(clustered, concept=list(compared), least_size=(3, 30, 1))
frames(
    (clustered(name, min_cluster_size) for name in compared),
    control="Concept",
    shows="A panel a space: tokens on two principal directions, the largest clusters in colour.",
    choice=True,
)

# %% [markdown]
# What do the clusters hold? The largest ones in the residual stream and in the first SAE, with the share of their tokens that
# belong to an entity and their commonest tokens:

# %%
acts, clusters = compared[first].acts, compared[first].clusters
for k in ("residual", sae):
    words = studies.cluster_words(acts, clusters[k])
    display(words.style.hide(axis="index").set_caption(k))

# %% tags=["hide-input"]
of_entities = pd.Series(acts.in_entity.cpu()).groupby(clusters["residual"]).mean()
share = float((of_entities.drop(-1, errors="ignore") > 0.5).mean())
record.numbers["share_of_entity_clusters"] = share
Markdown(
    f"Of the clusters in the residual stream, {share:.0%} consist mostly of entity tokens; "
    "the others of words of the sentences around them."
    if share == share
    else f"There is none: no {min_cluster_size} tokens of the residual stream form a cluster."
)

# %% [markdown]
# ### The circle of the months
#
# Months and days lie on circles in language models {cite}`engels2024`. Below, the tokens of each entity on the plane of the
# entities' means, joined in their given order. *Order* is 1 if the means run round a circle at equal steps, and near 0 if they do
# not; the p-value permutes the entities.

# %%
with record.stage("circles"):
    several = {k: c for k, c in compared.items() if len(c.acts.concept.entities) >= 6}
    circles = {
        (name, k): geometry.entity_circle(space.full, case.acts.entity, seed=seed)
        for name, case in several.items()
        for k, space in case.spaces.items()
    }

# %% mystnb={"image": {"alt": "In the book's run: months on the plane of their means. The line in calendar order is a ring in the residual stream, in the TopK SAE and in the dense autoencoder; in the L1 SAE it is a narrow loop.", "classes": "dark-light"}, "figure": {"caption": "The entities of the first concept on the plane of their means; colours and line follow their order.", "name": "circle-maps"}}
plots.plot_entities(
    {k: circles[first, k] for k in shown}, acts.at("entity").entity, acts.concept.entities
) if len(acts.concept.entities) >= 6 else Markdown("Skipped: fewer than six entities are named.")

# %%
record.tables["circles"] = ring = pd.DataFrame(
    [(*where, circle.order, circle.p) for where, circle in circles.items()],
    columns=["concept", "space", "order", "p"],
)
ring.style.format({"order": "{:.2f}", "p": "{:.3f}"}).hide(axis="index")

# %% [markdown]
# The order means something only where the entities have one: months and days do, elements by atomic number at best. The plane is
# fitted in each space anew: a high order says that *a* circle is there, not that it is the same plane.
#
# ## The table
#
# Every measure in every space, by the pipeline without UMAP. Lengths are divided by the radius of their space (the
# root-mean-square distance from the mean, in the table too: a raw length is the product). Intervals leave out one context
# at a time (the jackknife), which is a sentence frame, or several that a causal model cannot tell apart: they cover the choice of frames, not of entities. Where the replicates do not vary, or are refused,
# there is none, and the record says why.

# %%
with record.stage("measures"):
    table = studies.joined({name: case.table for name, case in compared.items()})
record.tables["structure"] = table
main = ["residual", *model.sparse]
studies.wide_table(table.query("concept == @first and space in @main")).style.hide(axis="index")

# %% [markdown]
# All concepts and spaces, the controls among them, without intervals:

# %% tags=["hide-output"]
wide = table.pivot_table("value", ["concept", "measure"], "space", sort=False)
wide = wide[table["space"].unique()].rename_axis(columns=None).reset_index()
wide.style.format(precision=2).hide(axis="index")

# %% [markdown]
# Read it with the [calibration](calibration.ipynb) beside it. Dimensions of small clusters are too low, by an amount that depends
# on size and noise (see *median size*), so only differences between spaces of like clusters say something; and where the two
# estimators differ by a factor of three, neither number is a dimension. MSTW over clusters grows with their number. HDBSCAN's
# count and H0's count answer two different questions.
#
# The whole table, for any preset and concepts, as pandas frames: long for CSV, wide for LaTeX.
#
# ```python
# model, names = srg.load("smollm2"), ("months", "days")
# tables = {name: srg.compare_geometry(model.activations(name)).table for name in names}
# table = studies.joined(tables).assign(preset="smollm2")
# table.to_csv("structure.csv"); studies.wide_table(table).to_latex("structure.tex")
# ```
#
# ## The authors' pipeline, over seeds
#
# Standardise, scale rows to length one, UMAP to 50 dimensions, HDBSCAN `[authors' code]`. UMAP draws random numbers: how much
# does the seed decide? *Stability* is the mean adjusted Rand index between the clusterings of two seeds (1: the same). The
# dimensions here are those of the UMAP coordinates, as in the authors' code; they tell about UMAP, which was asked for 50. Every
# seed runs on one core, so that it gives the same numbers each time (UMAP's parallel mode does not). Concepts of fewer than
# 60 tokens are left out: they cannot fill 50 dimensions.

# %%
with record.stage("authors' pipeline"):
    by_seed = {
        name: studies.authors_table(
            {k: case.vectors[k] for k in ("residual", sae)}, case.acts.entity,
            seeds=record.seeds, min_cluster_size=min_cluster_size,
        )
        for name, case in list(compared.items())[:n_umap_concepts]
        if len(case.acts) >= 60
    }  # fmt: skip
record.tables["authors"] = studies.joined(by_seed)
record.tables["authors"].style.format(precision=2).hide(axis="index")

# %% [markdown]
# ## The same objects in both spaces
#
# Procrustes disparity compares arrangements of *corresponding* objects: the entities' tokens, the entities' means, and clusters
# matched by the tokens that they share (never by their numbers). Small disparities come cheap in large spaces, so the p-value
# counts ([calibration](calibration.ipynb#procrustes)).

# %%
with record.stage("procrustes"):
    aligned = {name: studies.procrustes_table(case) for name, case in several.items()}
record.tables["procrustes"] = studies.joined(aligned)
record.tables["procrustes"].style.format(precision=3).hide(axis="index")

# %% [markdown]
# ## Verdict
#
# Five directions, each as the sign of a difference between an SAE's latents and the residual stream:
#
# | Claim | Measure | Claimed sign |
# |---|---|---|
# | local dimensionality rises `[abstract]` | average TwoNN and MLE dimension of the clusters | + |
# | substructure rises `[authors' notes]` | number of clusters | + |
# | the global structure is compressed `[authors' notes]` | spanning tree over the entities, over the radius | - |
# | similar features merge `[abstract]` | homogeneity: do clusters hold one entity each? | - |
# | distinctions are amplified `[abstract]` | mean distance of entities (AEDP), over the radius | + |
#
# A claim **holds** for a case (SAE and concept) if the difference has the claimed sign with its 95 % interval over frames and p
# at most 0.05. The translation into a measure is ours; the paper's own definitions of merging and distinction were not at hand.


# %% tags=["hide-input"]
def again(acts):
    return [srg.compare_geometry(a, **sizes, **options).compared for a in acts]


every = pd.concat(case.compared for case in compared.values())
with_massive = studies.with_massive([a for a in of.values() if a.whole], again)
differences = fit.withheld_outcomes(every, with_massive)
record.tables["compared"] = differences
record.claims += fit.withheld(studies.geometry_claims(differences))

# %% mystnb={"image": {"alt": "In the book's run: six measures, SAE minus residual stream with intervals by concept, for two SAEs, the claimed side shaded. Intervals of dimensions, cluster counts and homogeneity include zero or lie on the unclaimed side; those of the spanning tree over entities lie on the unclaimed side but for the L1 SAE on days; those of the mean distance of entities lie on the claimed side with the same exception.", "classes": "dark-light"}, "figure": {"caption": "SAE minus residual stream, with 95 % intervals over frames. Shaded: the side that the paper claims. In the book's run only the distances of entities lie there, but for the L1 SAE on days.", "name": "differences"}}
plots.plot_differences(differences.query("kind == 'residual'"))

# %%
record.tables["agreement"] = studies.geometry_agreement(differences)
Markdown(studies.geometry_verdict_text(record.tables["agreement"]))

# %% [markdown]
# Read the counts with care: cases share frames, model and encoders, so they are not independent, and nothing is corrected for
# their number. Two of the claims are near-opposites on one arrangement: if the entities' means move apart relative to the radius,
# their spanning tree grows as well, so "compressed" and "amplified" can hardly both hold. And the radius is that of all tokens,
# frame words included; on entity tokens alone (below) it is that of the entities.
#
# ### Is it learned sparsity?
#
# A change is due to *learned* sparsity if it goes beyond both controls in the same direction: beyond the random encoder of equal
# L0 (any sparse, wide code) and beyond the dense autoencoder (width and training). The last words of a line above count that,
# where anything was found. In numbers, all comparisons of the first SAE:

# %%
differences.query("SAE == @sae")[
    ["concept", "measure", "kind", "value", "low", "high", "outcome"]
].style.format(precision=2).hide(axis="index")

# %% [markdown]
# ## Entity tokens alone
#
# On all content tokens most clusters are frame words, and say little about the concept. Here is the same on the entities alone.

# %%
with record.stage("entity tokens"):
    alone = {
        name: case.entities
        for name, case in compared.items()
        if case.acts.in_entity.sum() >= 3 * min_cluster_size
    }
    tables = studies.joined({name: case.table for name, case in alone.items()})
record.tables["structure_entities"] = tables
if alone:
    with_massive = studies.with_massive([c.acts for c in alone.values() if c.acts.whole], again)
    every = pd.concat(case.compared for case in alone.values())
    differences = fit.withheld_outcomes(every, with_massive)
    record.tables["compared_entities"] = differences
    record.claims += fit.withheld(studies.geometry_claims(differences))
    words = studies.geometry_verdict_text(studies.geometry_agreement(differences))
Markdown(words if alone else "Skipped: too few entity tokens.")

# %% [markdown]
# ## Summary
#
# - Most local representations are words of the sentences; what holds for them need not hold for the concept.
# - A difference to the residual stream is not yet an effect of *learned* sparsity: look at both controls.
# - Cluster counts depend on the pipeline, on the least size of a cluster and, with UMAP, on the seed.
# - With one preset, agreement here is over SAEs and concepts, not over models.
#
# ## Exercises
#
# 1. Set `min_cluster_size = 5`. Which verdicts change for the days, and why?
# 2. Why is MSTW over *clusters* not comparable between spaces with different numbers of clusters?
# 3. Set `concept = "color"`. Is there a circle?
#
# ```{dropdown} Solutions
# 1. A frame word occurs once for each entity: seven times for the days, too few for a cluster of ten. With five, each
#    word after the entity can be a cluster of its own; in a causal model a word before it is one point in all prompts.
# 2. It has one edge fewer than there are clusters, so it grows with their number.
# 3. Order is by the list of entities, which is not one of hue; a circle in another order has a low *order* here.
# ```

# %% [markdown]
# ## Reported against found here
#
# Ranges are over the cases of this run (concepts, autoencoders, controls); each stands in the record with interval, p and n.

# %% tags=["hide-input"]
record.write()
display(plots.shown(studies.reported_against_found(record.claims)))
pd.DataFrame(record.stages).T.style.format(precision=1).set_caption("Time and memory")
