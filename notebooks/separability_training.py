# %% [markdown]
# # Beyond the paper · Separability as a training objective
#
# [Case 3](intervention.ipynb) moves the codes of a trained SAE. If separability *causes* reconstruction, there is a plainer use
# for it: ask for it **while the SAE is trained**. Does the SAE get better, at what cost, and at what?
#
# On this page you will see
#
# - an objective that cannot be won by rescaling, and needs no labels;
# - the same SAEs trained with and without it, TopK and L1-ReLU, compared at the same L0;
# - what it does to fit, dead latents, sparse probes and a statistic of each Case, with intervals over seeds;
# - the same in small, trained while the page runs.
#
# **Whose is what?** That separability causes reconstruction is the paper's `[abstract]`. Objective, training, comparison and verdicts
# are `[ours]`.

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
from IPython.display import Markdown, display

import saerepgeo_lib as srg
from saerepgeo_lib.companion.records import Record
from saerepgeo_lib.plots import house_style
from saerepgeo_lib.studies import read_study, reported_against_found
from saerepgeo_lib.studies.separability.effects import SeparabilityEffects, runs_table
from saerepgeo_lib.studies.separability.trainings import small_version

# %matplotlib inline
house_style()

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
results: str = ""  # results of the study; empty: those that come with the book
live_strength: float = 10.0  # of the objective, in the small version that is trained here
live_samples: int = 60_000  # tokens that each of its SAEs is trained on
seed: int = 0  # seed of the small version
device: str = "auto"  # auto, cpu, cuda or mps

# %% tags=["hide-input"]
record = Record.start("separability_training", globals())
with record.stage("read"):
    shipped = read_study(Path(results) if results else "separability")
points = shipped["points"]

# %% [markdown]
# ## The objective
#
# A batch of residuals $x_1 \dots x_n$ is split into groups without labels: k-means on the residuals, a few steps of
# Lloyd's from the batch's first rows. Let $c_k$ be the mean *code* of group $k$, $K$ the number of groups, and $R$ the root-mean-square
# distance of the codes from their mean. Training minimises
#
# $$\mathrm{MSE} + \text{(the SAE's own losses)} - \lambda \log S, \qquad
# S = \frac{1}{R}\,\frac{2}{K (K - 1)} \sum_{k < l} \lVert c_k - c_l \rVert .$$
#
# $S$ is AEDP, the paper's separability, over the size of the space; $\lambda$ is called *strength* below. Four choices, each with its reason:
#
# - **Groups of residuals, not of codes.** The groups are then given to the SAE; it cannot win by making its own codes fall apart
#   into groups that suit it. They are a stand-in for local representations that costs no labels.
# - **Divided by $R$.** AEDP alone grows when all codes grow, and the decoder can shrink in turn, with the same reconstruction.
#   $S$ does not change with $z \to c z$.
# - **Latents count by what they add to the reconstruction**: latent times norm of its decoder row, as in SAELens' L1 loss. Else a
#   single latent could gain, in $S$ too, by growing while its decoder row shrinks.
# - **The logarithm**, as in Case 3's objective: a per cent more counts the same everywhere. Like that of any scale-free objective its gradient goes
#   as one over the size of the codes, which are small at first; so the strength grows over the first quarter of the steps.
#
# What a strength is worth: the MSE here is summed over the dimensions of inputs that are scaled to a norm of about
# $\sqrt{d}$, so that a strength of $d$ would pay for an FVU of about 1 with one unit of $\log S$. All pairs of groups count alike, large or small.
#
# $S$ has a ceiling, $\sqrt{2K/(K-1)}$ for groups of one size, reached where each group is a single point and all are equally far apart. What lies inside
# a group must be given up on the way there, or drowned by differences between groups that the decoder does not see
# ([Case 3's second theorem](intervention.ipynb#a-second-theorem-directions-that-the-decoder-does-not-see)): that is where a price may come from. Nothing here needs code of its own in the trainer:
# two subclasses of SAELens' training classes add the term, and what they save are ordinary TopK and L1-ReLU SAEs.
#
# ## The trainings
#
# All SAEs read block 4 of MiniLM and are trained on the same tokens, part of the corpus of the [book's own SAEs](../book/whose_is_what.md), briefly: these
# are small SAEs, compared with each other and not with the shipped ones.

# %% tags=["hide-input"]
runs = runs_table(points)
record.tables["runs"] = runs
strengths = sorted(set(runs["strength"]))
one = points[0]["point"]
display(
    Markdown(
        f"{len(runs)} trainings of {one['n_samples']:,} samples, {one['expansion'] * 384:,} latents, batches of {one['batch_size']:,} in "
        f"{one['n_groups']} groups; seeds {', '.join(map(str, sorted(set(runs['seed']))))}; strengths "
        f"{', '.join(f'{s:g}' for s in strengths)}. Made with torch {shipped['made with']['torch']} and SAELens {shipped['made with']['sae_lens']}."
    )
)

# %% [markdown]
# Strengths, budget and groups were set in a few pilot runs, before the grid: the largest strength was to move the objective visibly. A first grid was stopped and
# thrown away, for its strength was at its full height from the first step. The negative strength pulls groups together, a control for the direction.
#
# **At the same L0.** A TopK SAE has the L0 that is set. An L1 SAE has the one that comes out, and FVU falls as L0 rises; so the
# L1 baseline is trained at several weights per seed, to bracket the L0 of every strength, and each outcome of a regularised SAE is compared with the baselines' *at its own L0*, interpolated
# in log L0 within the same seed. Everything is paired by seed: same initial weights, same batches.

# %%
spread = runs.groupby(["kind", "coefficient", "strength"])[
    ["L0", "FVU", "dead", "separability", "AEDP", "probing"]
].mean()
spread.reset_index().style.format(precision=3).format(
    "{:g}", subset=["coefficient", "strength"]
).hide(axis="index")

# %%
found = SeparabilityEffects(runs)
record.tables |= {"changes": found.changes, "effects": found.effects}
record.claims += found.claims

# %% [markdown]
# ## The answer in one minute
#
# Measured on held-out text and on the prompts of months, days and elements, none of whose sentence frames was trained on. *Beyond chance*: the 95 % interval over seeds lies
# on one side of 0.

# %% tags=["hide-input"]
display(Markdown(found.trust.doubted + found.answer))

# %% [markdown]
# **How much is that worth?** An interval from three seeds is wide (Student's factor is above 4, where many seeds would have about 2), and its verdicts are read off
# several cases without correction. "Does not hold" can mean that there is no effect, or one that three seeds cannot see: the intervals say how large it
# might be. They cover initial weights and the order of batches; text, prompts and grid are fixed.
#
# ## Does training reach what it is asked for?
#
# A verdict on *separability* needs SAEs that are good at what they were trained for. So hold each regularised SAE against its **own** loss, on held-out text: error (for
# L1-ReLU with the L1 term) minus strength times the logarithm of separability. The baseline of the same weight and seed has a value of that loss too, though it never saw it.
# Where the change is *above* 0, the baseline is the better solution: the optimiser has not found what the objective has to offer, which is seen through one small batch of groups at a time.
# A higher FVU is then the price of *this training*, and no evidence that separability itself costs reconstruction.

# %%
record.tables["own loss"] = own = found.own_loss
own.style.format(precision=2).format("{:g}", subset=["strength", "n"]).hide(axis="index")

# %% tags=["hide-input"]
asked = own[own["strength"] > 0]
worse = int((asked["better"] == "baseline").sum())
display(
    Markdown(
        f"Change in % of the baseline's loss. The baseline is the better solution, beyond chance, in {worse} of {len(asked)} cases; the "
        f"regularised SAE in {int((asked['better'] == 'regularised').sum())}. "
        + (
            "**So the verdicts above are on these short trainings, and leave open what a well optimised objective would do.**"
            if worse
            else ""
        )
    )
)

# %% [markdown]
# ## Reconstruction against separability
#
# First the separability that was asked for, of groups of unseen text; then that of the entities, which nobody asked for. Down and to the right is what
# "separability helps" would look like; up and to the right is a price; up and to the left means that what was asked for is not what the measure sees.

# %% mystnb={"image": {"alt": "Change of held-out FVU against change of separability, both in per cent of the baseline at equal L0; above that of groups of unseen text, below that of the entities; a column for TopK and one for L1-ReLU; small marks are seeds, large ones means with 95 % intervals, joined in order of strength from the baseline at the origin. In the shipped record all paths run up: to the right for groups, to the left for entities.", "classes": "dark-light"}, "figure": {"caption": "FVU against separability, as changes against the baseline of the same seed at equal L0. Above: of groups of held-out residuals, the objective itself. Below: of the entities.", "name": "pareto"}}
found.plot_pareto()

# %% [markdown]
# ## Every outcome
#
# *Separability of groups* is the objective itself, on held-out text; *of clusters* the same of HDBSCAN's clusters of the codes, the local
# representations of the Cases (with other codes there are other clusters); *of entities* is the AEDP of [Case 2](representation_structure.ipynb), over the radius of all content
# tokens. An entity's group of residuals may well hold other entities too: then the objective draws these together. *Probing accuracy*: how well a single latent, chosen on the training
# folds by its difference of means, tells an entity's last token from the others' (balanced accuracy, mean over entities; chance is one half); no sentence frame is on both sides of
# a fold. *Dead share*: latents that never fire on the held-out tokens. *Rank range* is Case 1's (feature mode, relative rank), *dimension* Case 2's
# (TwoNN, mean over the clusters of content tokens), *rho\** and *slope* are Case 3's: the scaling at which the error is least, and
# per cent of error per cent of separability at the codes as they are (entities' tokens).

# %% mystnb={"image": {"alt": "A panel an outcome: its change by strength, for TopK and L1-ReLU, with 95 % intervals over seeds and a line at zero. In the shipped record the separability of groups and the FVU rise with strength, the separability of entities falls, and probing accuracy stays within its intervals of zero.", "classes": "dark-light"}, "figure": {"caption": "Change of every outcome by strength of the objective, against the baseline at equal L0. Points: seeds; bars: 95 % intervals over them.", "name": "outcomes"}}
found.plot_outcomes()

# %%
found.table.style.hide(axis="index")

# %% tags=["hide-input"]
compared = found.changes.drop_duplicates(["kind", "strength", "seed"])
beyond = compared[compared["outside"]]
record.numbers["outside"] = len(beyond)
display(
    Markdown(
        f"Runs whose L0 lies outside that of their baselines, so that these are continued along a line: {len(beyond)} of "
        f"{len(compared)}. A claim on such a strength is not tested."
    )
)

# %% [markdown]
# ## A small version, trained now
#
# The same classes, objective and measures on text that comes with the book: trained on the tokens of the prompts about six concepts, measured on
# those about three others. It is a **demonstration**: few tokens, one seed, no matching of L0, and no verdict.

# %%
with record.stage("residuals"):
    model = srg.load("minilm", device=record.device)
    prompted = {name: model.activations(c) for name, c in srg.load_concepts().items()}
held_out = {name: prompted.pop(name) for name in ("months", "days", "elements")}

# %%
with record.stage("live"):
    live = small_version(
        prompted, held_out, strength=live_strength, n_samples=live_samples, seed=seed,
        device=record.device,
    )  # fmt: skip
record.tables["live"] = live
live.style.format(precision=3).format("{:g}", subset=["strength"]).hide(axis="index")

# %% [markdown]
# ## Again, and with other points
#
# `saerepgeo study separability` trains what has no result yet and writes the file that this page reads; it can be stopped and started at any time, twice at once too.
# `saerepgeo study separability --check 7` trains one point of the file again, and says how far each number is from the recorded
# one. (On another processor, or a GPU, rounding differs, and training makes the difference larger.)
#
# ## Summary
#
# - Separability can be asked for without labels, in units that no rescaling wins.
# - Before asking what an objective does, ask whether training reached it.
# - Whether an objective moves what it names, and whether it moves what it was meant for, are two questions; the answers above are given apart.
# - Comparing SAEs needs the same L0: a change of FVU that comes with a change of L0 cannot be laid to the objective.
#
# ## Exercises
#
# 1. Leave out both the division by $R$ and the weights by decoder norms. How does a TopK SAE win, and how does an L1-ReLU SAE?
# 2. Why are the groups those of residuals, not those of codes?
# 3. Which share of the way to the ceiling of $S$ do the baselines go? Take $K$ and $S$ from the tables.
#
# ```{dropdown} Solutions
# 1. Both scale all latents up and the decoder down, and reconstruct as before. TopK pays nothing for it. Nor does L1-ReLU here: SAELens' penalty
#    weighs latents by the norms of their decoder rows, so that it does not see the change. A penalty on latents as they are would.
# 2. Groups of codes change with the codes: the SAE could move tokens between groups, and so change what it is asked, instead of
#    moving groups apart.
# 3. $K$ stands under *The trainings*, $S$ in the table below it. Divide *separability* by $\sqrt{2K/(K-1)}$; the groups are not of one size, so this is a guide and no bound.
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
