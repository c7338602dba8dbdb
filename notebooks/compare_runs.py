# %% [markdown]
# # Many runs · Which claims hold where?
#
# One run answers for a few concepts on one model. A *sweep* runs the cases over a grid (models, layers, concepts,
# seeds, noise laws), and this page puts the verdicts of all its runs side by side.
#
# On this page you will see
#
# - how to run a grid, on one machine or on a cluster, and to go on where it stopped;
# - each claim's verdicts, counted over all runs of a table;
# - one claim close up: its statistic with intervals, case by case.
#
# **Preset**: whatever the table holds. The book shows the table that it ships: both embedded models, the three cases, each of the nine
# concepts in a run of its own; on SmolLM2 for each of three trainings of its sparse autoencoders. Nothing is computed again.
#
# **Whose is what?** The claims' tags say it; comparing over runs is `[ours]`.

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
from IPython.display import Markdown

from saerepgeo_lib.companion import (
    Record,
    compared_by,
    findings,
    read_claims,
    shipped_claims,
    verdict_counts,
)
from saerepgeo_lib.plots import house_style, plot_findings, plot_verdicts
from saerepgeo_lib.studies import reported_claims

# %matplotlib inline
house_style()

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
table: str = ""  # a table made by `saerepgeo collect`; empty: the one that comes with the book
by: str = "preset"  # compare by preset, model, hook, concept or any parameter of the runs
claim: str = "case3-separability-helps"  # the claim that is shown close up

# %% [markdown]
# ## A grid of runs
#
# A grid is a TOML file. The shipped table came from this one:

# %% tags=["hide-input"]
source = shipped_claims().with_suffix(".toml")
Markdown(f"```toml\n{source.read_text()}```")

# %% [markdown]
# ```bash
# saerepgeo sweep grid.toml -o runs/mine            # on this machine's cores; the same command goes on
# saerepgeo sweep grid.toml -o runs/mine --scheduler tcp://head:8786     # on any Dask cluster
# saerepgeo collect runs/mine -o mine.parquet
# saerepgeo run compare_runs -p table mine.parquet
# ```
#
# Layers are an axis like any other, since an SAE brings its layer along: `preset: [pythia-70m-deduped-res-sm:blocks.1.hook_resid_post,
# pythia-70m-deduped-res-sm:blocks.3.hook_resid_post]`.
#
# ## What is in the table

# %% tags=["hide-input"]
record = Record.start("compare_runs", globals())
with record.stage("read"):
    claims = compared_by(read_claims(table or shipped_claims()), by)
claims.groupby(["notebook", by], sort=False).agg(
    runs=("run", "nunique"), concepts=("concept", "nunique"), findings=("id", "size"),
    made=("written", lambda days: days.max().date()),
    minutes=("seconds", lambda s: s.groupby(claims["run"]).first().sum() / 60),
).reset_index().style.format(precision=1).hide(axis="index")  # fmt: skip

# %% [markdown]
# ## Verdicts
#
# A bar is a claim; its parts are the shares of its verdicts over all cases (concepts, SAEs, controls) of all runs. Cases share
# models and prompts, so a share is a description of this table, not an estimate for models at large.

# %% mystnb={"image": {"alt": "Of the shipped table: stacked bars, one a claim, with the shares of the verdicts holds, holds in part, does not hold and cannot be tested here, and the number of findings.", "classes": "dark-light"}, "figure": {"caption": "Verdicts by claim; at the right the number of findings.", "name": "verdicts"}}
record.tables["verdicts"] = counts = verdict_counts(claims, by)
plot_verdicts(counts, by)

# %%
reported_claims().query("claim in @counts['claim'].values").style.hide(axis="index")

# %% [markdown]
# ## One claim close up
#
# Its statistic in every case, with the run's own 95 % interval; on which side of the line the claim lies, its page says.

# %% mystnb={"image": {"alt": "Of the shipped table: the elasticity of the reconstruction error along the gradient of separability, with intervals, by concept and SAE. For the L1-ReLU SAE it lies below zero for most concepts, for the TopK SAE near zero; in MiniLM it reaches further down than in SmolLM2.", "classes": "dark-light"}, "figure": {"caption": "The claim's statistic by concept, with 95 % intervals of the runs.", "name": "one-claim"}}
close = findings(claims, claim)
record.tables["close_up"] = close[[by, "concept", "case", "value", "low", "high", "verdict"]]
plot_findings(close, by)

# %% tags=["hide-output"]
close[[by, "concept", "case", "value", "low", "high", "n", "verdict"]].style.format(
    precision=3, na_rep="–"
).hide(axis="index")

# %% [markdown]
# ## Summary
#
# - A claim about sparse autoencoders needs more than one model, layer and concept; a grid is one file.
# - Count cases, but remember what they share.
#
# ## Exercises
#
# 1. Set `claim = "case2-distinction-up"`. Is there a concept that differs from the others?
# 2. Write a grid with two layers of Pythia-70M, and compare by `preset`.
#
# ```{dropdown} Solutions
# 1. Read it off the figure: intervals that do not overlap zero on the other side.
# 2. `notebook: intervention`, `grid: {preset: [...], concept: [months, days]}`, with the two SAEs above.
# ```

# %%
pd.DataFrame(record.stages).T.style.format(precision=1)

# %%
record.write()
