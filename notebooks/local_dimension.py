# %% [markdown]
# # Local dimension · A test that sees strata
#
# A *stratified* space is made of smooth pieces that may have different dimensions. No rank rule can see such pieces, says
# the [ablation](rank_rule_ablation.ipynb). This page has a test that can: it asks whether the **local dimension** differs from
# place to place. Planted data show what the test sees; then it is asked of running text.
#
# **Whose is what?** The question is the paper's `[abstract]`. The spread of local dimension is `[ours]`; the growth of volume
# follows Robinson, Dey and Chiang {cite}`robinson2025`.

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

import numpy as np
import pandas as pd
from IPython.display import Markdown

from saerepgeo_lib.companion import Record, page_model, page_trust
from saerepgeo_lib.geometry.local_dimension import dimension_spread
from saerepgeo_lib.plots import house_style
from saerepgeo_lib.plots.calibration import plot_planted_excess, plot_text_dimension
from saerepgeo_lib.studies import read_study
from saerepgeo_lib.studies.local_dimension import dimension_answer, text_dimension
from saerepgeo_lib.studies.stratification import planted_rates, planted_table
from saerepgeo_lib.studies.texts import running_text
from saerepgeo_lib.synthetic.families import planted

# %matplotlib inline
house_style()

# %% tags=["parameters"]
preset: str = "smollm2"  # minilm, gpt2-small, pythia-70m, gemma-2-2b; your SAE: RELEASE:ID, folder
model_name: str = ""  # another model for that SAE (name on the hub, or folder); empty: its own
hook: str = ""  # where the SAE reads; empty: as its metadata says
dtype: str = "float32"  # of the model's weights: float32, bfloat16 or float16
n_texts: int = 330  # of the 768 texts that come with the book; 10,000 of their tokens count
n_neighbours: int = 20  # of a neighbourhood; the calibration was made with 20
results: str = ""  # results of `saerepgeo study stratification`; empty: those of the book
seed: int = 0  # seed of every random draw
device: str = "auto"  # auto, cpu, cuda or mps

# %% tags=["hide-input"]
record = Record.start("local_dimension", globals())
with record.stage("read the study"):
    study = read_study(Path(results) if results else "stratification")
    judged = planted_table(study["points"])
    record.tables["rates"] = rates = planted_rates(judged)
model = page_model(record)
with record.stage("residuals"):
    acts = model.activations(running_text(n_texts))
trust = page_trust(record, [acts])
with record.stage("local dimension"):
    found = text_dimension(acts, n_neighbours=n_neighbours, seed=seed)
record.tables["text"] = found

# %% [markdown]
# ## The answer

# %% tags=["hide-input"]
largest = judged[(judged["n"] == judged["n"].max()) & (judged["noise"] == 0)]
raw = largest[largest["space"] == "raw"]
Markdown(f"{dimension_answer(raw, found)}\n\n{trust.doubted}")

# %% [markdown]
# ## The idea: count neighbours
#
# Around a point of a curve, twice the radius holds twice as many points; on a surface four times, in $d$ dimensions
# $2^d$ times. So the distances $T_1 < T_2 < \dots$ to the neighbours tell the dimension, as TwoNN {cite}`facco2017` does from the first two.
# For evenly spread points the spacings
#
# $$ s_j = j \, \log \frac{T_{j+1}}{T_j}, \qquad j = 1, \dots, k - 1 $$
#
# are independent exponential variables of mean $1/d$ {cite}`levina2004`. The test is made of this:
#
# 1. Choose neighbourhoods of $k$ points that share no point.
# 2. Estimate the dimension of each, and take the variance of its logarithm over all of them.
# 3. Do the same on a **null** whose pieces all have one shape: Gaussian points with the same centres, sizes and radii, and one spectrum.
# 4. The **excess spread** is the root of the variance of the data minus that of the null (negative if the null varies more). It is 0
#    for one dimension, and $\tfrac12 \log 2$, about a third, for dimensions 2 and 4 in equal parts.
#
# From 0.2 on (dimensions that differ by a fifth, up and down) the page says *several dimensions*, if the whole 95 % interval lies there. It
# says *one dimension* if the interval lies below, and else *undecided*. The interval resamples neighbourhoods.

# %% tags=["hide-input"]
rows = []
for family in ("sphere", "flats 2, 4", "flats 1, 2, 4, 8"):
    spread = dimension_spread(planted(family, 3200, random_state=seed).points, random_state=seed)
    low, middle, high = np.quantile(spread.dimension, (0.1, 0.5, 0.9))
    rows.append({"planted": family, "low": low, "median": middle, "high": high,
                 "excess spread": spread.excess.value, "verdict": spread.verdict})  # fmt: skip
record.tables["examples"] = pd.DataFrame(rows)
record.tables["examples"].style.format(precision=2).hide(axis="index").set_caption(
    "Local dimensions of planted data; a tenth of the neighbourhoods lies below low, a tenth above high"
)

# %% [markdown]
# ## What does the test see?
#
# A test is worth what it says where the answer is known. The shipped study (`saerepgeo study stratification`) plants families of data
# and judges fresh draws of each: as they are, and **behind sparse autoencoders that were trained on such data**. Some families are
# ours; the threshold was set on them. The *external* ones took no part in that: they are manifolds that others made for comparing
# estimators of dimension {cite}`hein2005,campadelli2015`, alone and joined.

# %% tags=["hide-input"] mystnb={"image": {"alt": "In the shipped study: the excess spread of every draw by family, as it is. Smooth families and those whose pieces meet but have one dimension lie around zero; families of several dimensions lie to the right.", "classes": "dark-light"}, "figure": {"caption": "Excess spread of planted families, a dot a draw. Open: made by others. Blue: pieces of one dimension that meet, which this test cannot see.", "name": "planted-spread"}}
plot_planted_excess(raw).get_figure()

# %% tags=["hide-input"]
verdicts = ["several dimensions", "one dimension", "undecided"]
shown = rates[(rates["n"] == rates["n"].max()) & (rates["noise"] == 0)]
shown[["space", "origin", "truth", *verdicts, "AUC", "low", "high"]].style.format(
    precision=2, na_rep=""
).hide(axis="index").set_caption("Shares of draws by verdict; AUC of the excess over families")

# %% [markdown]
# **What it does not see, and what deceives it.**
#
# - *Noise.* It fills all dimensions at short distances, so it hides thin strata. Where density is uneven it does worse: it reaches further
#   where points are rare, and so *makes* local dimensions differ on one smooth surface.
# - *Clusters.* With many small pieces apart, a neighbourhood ends at a gap, and both the data and the null vary by much. Strata among such
#   pieces stay undecided ("clusters 2, 4, 8").
# - *Pieces of one dimension that meet* (a cone, a pinched torus, squares that cross) change the local dimension at a few points only.

# %% tags=["hide-input"]
harder = judged[judged["space"].eq("raw") & judged["noise"].gt(0) & judged["truth"].ne("singular")]
harder = harder.assign(called=harder["verdict"].eq("several dimensions"),
                       column=harder["noise"].map("noise {:g}".format))  # fmt: skip
harder.pivot_table("called", ["truth", "origin"], "column").rename_axis(
    columns=None
).reset_index().style.format(precision=2).hide(axis="index").set_caption(
    "Share of draws that are said to have several dimensions, by noise in radii of the data"
)

# %% [markdown]
# ## Running text
#
# The text is what SmolLM2 wrote itself (`data/samples`); its content tokens are looked at, in the residual stream, in the latents of the
# sparse autoencoders, and in those of a random encoder. A *token type* is an entry of the vocabulary. Against **one piece** the question
# is whether the cloud is one smooth piece. Tokens of one type lie close together, and such clusters alone make local dimension
# differ, so the second null has **a piece for each token type**.

# %% tags=["hide-input"] mystnb={"image": {"alt": "The excess spread of log dimension with 95 % intervals, against one smooth piece and against equal pieces in the places of the token types, for the residual stream, the sparse autoencoders and a random encoder.", "classes": "dark-light"}, "figure": {"caption": "How much more local dimension varies over running text than over the null.", "name": "text-spread"}}
plot_text_dimension(found)

# %% tags=["hide-input"]
found[
    [
        "representation",
        "null",
        "median dimension",
        "of the null",
        "value",
        "low",
        "high",
        "n",
        "verdict",
    ]
].style.format(precision=2, na_rep="–").format(precision=0, subset=["n"], na_rep="–").hide(
    axis="index"
)

# %% [markdown]
# ### The growth of volume around single tokens
#
# Robinson, Dey and Chiang test each token: around a point of a manifold, the number of neighbours grows as *one* power of the
# radius; in a fibre bundle the power may fall with the radius, but never rise. They find that many tokens of embedding matrices reject
# both. The table has the share of tokens that reject (each within its 40 nearest neighbours), beside the share in each null.

# %% tags=["hide-input"]
growth = found[
    [
        "representation",
        "null",
        "no manifold",
        "no manifold, null",
        "no fibre bundle",
        "no fibre bundle, null",
    ]
]
growth.style.format("{:.1%}", subset=list(growth.columns[2:]), na_rep="–").hide(axis="index")

# %% [markdown]
# Where equal clusters reject a manifold as often as text does, the rejections are no sign of strata of different dimension. They are
# a sign of clusters.
#
# **Limits.** One text, one layer of one model, one training of each autoencoder; to be quick, fewer centres and null draws than in the study. Neighbourhoods may share a token type, so their intervals are
# somewhat too narrow. Text has uneven density, which the nulls do not have. Of the planted families only "clusters" resemble text, and among them
# this test has no power. So nothing here is a verdict on the paper's claim; Case 1's stands.
#
# ## Exercises
#
# 1. Set `preset = "minilm"`. Does an encoder's text look more like one piece?
# 2. Why would the test call equal clusters stratified, if its null were a single Gaussian?
#
# ```{dropdown} Solutions
# 1. Read it off the figure: compare the first rows of both runs.
# 2. A neighbourhood that reaches beyond its cluster meets a gap, so the count grows slowly and then fast. Its estimated dimension
#    depends on where the gap lies, which differs between clusters.
# ```

# %% tags=["hide-input"]
record.write()
pd.DataFrame(record.stages).T.style.format(precision=1)
