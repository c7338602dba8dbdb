# %% [markdown]
# # Case 1 · Is the representation stratified?
#
# A sparse autoencoder (SAE) rewrites each vector of a language model's residual stream as a long, mostly empty list of *latents*. The paper's first
# claim is about the shape of the resulting cloud: add noise to the residual stream, watch the **rank** of matrices built from the latents, and if the
# rank varies, the representation is *stratified*: made of pieces of different dimension, not of one smooth sheet.
#
# **Whose is what?** The idea (noise, unfolded latent tensor, rank) is the paper's `[abstract]`; so are the noise levels `[authors' notes]`. The three
# modes side by side, the rank rules, the nulls, the certificate and the verdict's criteria are reconstructed or added here `[ours]`.

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
from functools import partial

import pandas as pd
from IPython.display import Markdown, display

import saerepgeo_lib as srg
from saerepgeo_lib import plots, studies
from saerepgeo_lib.activations import rms
from saerepgeo_lib.companion import Record, left_out_table, page_activations, page_model, page_trust
from saerepgeo_lib.plots.frames import frames, recompute
from saerepgeo_lib.rank import RESIDUAL, active_table
from saerepgeo_lib.studies import specifications

# %matplotlib inline
plots.house_style()

# %% [markdown]
# ## Parameters
#
# Change these and run again; `saerepgeo run stratified_manifold -p concept days` and plain `papermill -p concept days` do the same from a command line.

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
positions: str = "content"  # tokens looked at: content (all that count) or entity
max_slots: int = 2  # tokens a prompt in the tensor, the entity's first
noise_levels: list[float] = [0, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10]  # ascending from 0
noise_scaling: str = "relative"  # relative (times the residual's own spread) or absolute
n_seeds: int = 10  # draws of noise, random encoder and permutation; at least 2, 7 for a verdict
seed: int = 0  # first of the seeds
rank_rule: str = "relative"  # relative, exact, effective, participation or stable
rank_mode: int = 3  # unfolding that the verdict is about: 1 prompt, 2 token, 3 feature
tau: float = 0.01  # threshold of the relative rank, as a share of the largest singular value
judge_anyway: str = ""  # labels of SAEs judged in spite of their fit or hook, separated by commas
device: str = "auto"  # auto, cpu, cuda or mps

# %% [markdown]
# ## The answer in one minute

# %% tags=["hide-input"]
record = Record.start("stratified_manifold", globals())
with record.stage("specifications"):
    choices = specifications.specification_table(studies.read_study("specifications")["points"])
shares = specifications.specification_shares(choices)
record.tables["specifications"] = pd.concat(shares, names=["null", "choice"]).reset_index()
Markdown(specifications.specification_text(choices))

# %% tags=["hide-input"] mystnb={"image": {"alt": "In the shipped study: how each comparison comes out over all specifications, and for each choice of mean token, tensor, rank and noise, against four nulls. Hardly any choice makes the sparse autoencoder vary more than the residual stream, and few more than the dense autoencoder; against permuted latents and random encoders the outcome turns with the rank and the noise.", "classes": "dark-light"}, "figure": {"caption": "More than the residual stream an SAE's rank varies under hardly any choice; more than a random encoder's or than that of its permuted latents: that is decided by the analysis. Each bar: the shares of the answers with that choice.", "name": "specifications"}}
plots.plot_shares(shares)

# %% [markdown]
# *More* and *less* mean by over 5 % of the clean rank, with the whole 95 % interval over concepts; *no difference*, that the interval lies within
# that; *not estimable*, that all concepts give one value. The ways to ask: with the mean token or without; a tensor of two tokens per prompt (the
# entity's and one more), of the entities' tokens alone, or one matrix per entity; any of seven ranks; noise up to a fifth, one or ten times the signal.
#
# **Is the representation stratified?** No way of counting ranks can tell that ([ablation](rank_rule_ablation.ipynb)). A test that sees planted strata
# [leaves it undecided](local_dimension.ipynb) for text. The rest of this page follows *one* way in full: the mean token kept, two tokens per prompt,
# singular values above a hundredth of the largest, noise up to ten times the signal. It is closest to the abstract, not best: such noise drives every
# profile to its ceiling.
#
# ## From prompts to residual vectors
#
# A *concept* is a set of short prompts, such as *Heavy snow fell across the valley in January.* Only **content tokens** count: no padding or special
# token, no punctuation, no function word (those of the list `function_words`), no word of the templates, and nothing that the tokenizer does not
# know. Masked tokens are left out; they are never represented by zeros. The model reads each prompt **once**; noise is added later, at the hook.

# %%
model = page_model(record)
with record.stage("residuals"):
    acts = page_activations(record, model, positions=positions)
pd.DataFrame(
    {"prompts": len(a.concept.prompts), "entities": len(a.concept.entities), "content tokens": len(a)}
    for a in acts.values()
).set_index(pd.Index(acts))  # fmt: skip

# %% tags=["hide-output"]
left_out_table(record, acts.values())

# %% [markdown]
# ### How well do the autoencoders fit these tokens?
#
# An SAE that reconstructs these tokens badly says little about them. FVU is the fraction of variance unexplained, relative to the spread of the
# tokens in question (0 is perfect); L0 is the mean number of active latents a token. Entity tokens are the harder test: the days of the week lie
# close together, so the same error is a larger share of their small variance. An SAE whose FVU is 1 or more does no better than the tokens' mean, and
# tells nothing of them; if that is so of the entity's tokens, it tells nothing of the concept. Nor does an SAE that reads at another hook than it was
# trained at. Claims that rest on it are withheld, unless `judge_anyway` names it.

# %%
fit = page_trust(record, acts.values())
display(plots.shown(fit.table, fit.table.columns[:5], precision=2), Markdown(fit.text))

# %% [markdown]
# ## Noise, tensor, unfoldings, rank
#
# **Noise** enters the residual stream, $x_s = x + s\,\sigma\,\varepsilon$ with standard normal $\varepsilon$. Under the default *relative* scaling
# $\sigma$ is the root mean square of the centred residual vectors, so that at level $s = 1$ noise and signal are equally strong in every model. One
# draw of $\varepsilon$ per seed serves all levels: a profile changes because the level does, not because the dice were thrown again. Copies of a
# point get the same draw. In a causal model a word *before* the entity has the same vector in every prompt of its frame; independent noise would
# tell these copies apart, and the rank of any representation would rise for that reason alone.
#
# **The latent tensor** $Z$ has one entry for each prompt, token slot and feature. Slot 0 is the last token of the entity (*January*); the others are
# the prompt's next content tokens in reading order. All prompts are cut to the length of the shortest, and to `max_slots` (two by default, which
# keeps the page quick), so the tensor has no holes. Mode 2 then has two rows, and a rank of at most two: it is in the record only.
#
# **Unfolding** mode $n$ lays the tensor out as a matrix $Z_{(n)}$ whose rows are the prompts ($n=1$), the slots ($n=2$) or the features ($n=3$). The
# paper's symmetric positive semidefinite (SSPD) matrix is $G_n = Z_{(n)} Z_{(n)}^\top$. The abstract does not say which mode it means, so all three
# are shown. $G_n$ has the exact rank of $Z_{(n)}$, and its eigenvalues are the squared singular values; so we take the spectrum of $Z_{(n)}$ itself,
# since squaring loses half the digits, and every tolerance below refers to it (a share $\tau$ of the largest singular value is a share $\tau^2$ of
# the largest eigenvalue). All of it at a size that can be seen: [unfolding a tensor](unfolding_a_tensor.ipynb).
#
# **Rank** needs a tolerance. The default here counts singular values above a share $\tau$ of the largest. How far each rule may be trusted as an
# estimate of a rank is [calibrated](calibration.ipynb#rank-rules), and which of them tells stratified from smooth data was
# [tried on planted data](rank_rule_ablation.ipynb).

# %%
options = {"levels": noise_levels, "scaling": noise_scaling, "rule": rank_rule, "mode": rank_mode}
sizes = {"levels": noise_levels, "seeds": record.seeds, "max_slots": max_slots}
display(
    Markdown(studies.forecast_text(studies.forecast_profile(a, **sizes) for a in acts.values()))
)
with record.stage("sweep"):
    profiles = {name: srg.rank_profile(a, tau=tau, **options | sizes) for name, a in acts.items()}
record.tables["ranks"] = pd.concat(profile.table for profile in profiles.values())
first = next(iter(profiles.values()))
first

# %% [markdown]
# A detail worth knowing: should the tensor keep the features active at *any* level of the sweep, or only those active at *this* level? The spectrum
# does not care, since a feature that is zero everywhere adds a zero column. Only the counts differ:

# %%
sweeps = {name: profile.sweep for name, profile in profiles.items()}
record.tables["active"] = active_table(sweeps)
record.tables["active"].style.format(precision=0).hide(axis="index")

# %% [markdown]
# ## The spectrum as noise grows
#
# Each panel shows one representation of the first concept; each line is one noise level, from dark (none) to light (most). Below the dashed line the
# relative rank does not count.

# %% mystnb={"image": {"alt": "In the book's run: singular values of the feature unfolding on logarithmic axes, one panel a representation, one line a noise level. Noise lifts the tail of the spectrum across the threshold in the residual stream and in all three autoencoders; that of random encoders and of permuted latents lies above it almost wholly from the start.", "classes": "dark-light"}, "figure": {"caption": "Spectra of the chosen unfolding, mean over seeds.", "name": "spectra"}}
plots.plot_spectra(first.sweep, first.sweep.labels, mode=rank_mode, tau=tau)

# %% [markdown]
# ## Rank profiles, next to the nulls
#
# If a varying rank is to mean that a *learned sparse* code is stratified, then representations without one should not show it. The nulls are:
#
# - **residual**: the residual stream itself, without any encoder;
# - **dense AE**: an autoencoder of the same width, trained without sparsity;
# - **random**: an encoder with random directions, as many latents active a token as in the SAE;
# - **permuted**: the SAE's own latents, each feature shuffled over the tokens. Sparsity and magnitudes survive, all structure between features is
#   destroyed.
#
# A segment is drawn solid where the rank is *certified* (below).

# %% mystnb={"image": {"alt": "In the book's run: rank against noise level for each concept. The residual stream and the dense autoencoder start lowest and climb together, furthest and from about a tenth of the signal on; both sparse autoencoders start in between; random encoders start at their ceiling or close below; permuted latents, which hold no copies of a point, have a higher one.", "classes": "dark-light"}, "figure": {"caption": "Rank profiles in the mode that the verdict is about. Lines: mean over seeds; bands: range.", "name": "profiles"}}
ranks = {name: profile.ranks for name, profile in profiles.items()}
certified = {name: profile.certified for name, profile in profiles.items()}
plots.plot_profiles(ranks, certified, rule=rank_rule, mode=rank_mode)

# %% [markdown]
# The prompt mode (or, if the verdict is about that, the feature mode):

# %% mystnb={"image": {"alt": "In the book's run, prompt mode: the same order as in the feature mode, with every profile at its ceiling once noise is as strong as the signal; nulls with random weights or permuted latents are there from the start.", "classes": "dark-light"}, "figure": {"caption": "Rank profiles in the other mode that can vary.", "name": "profiles-second"}}
plots.plot_profiles(ranks, certified, rule=rank_rule, mode=3 if rank_mode == 1 else 1)

# %% [markdown]
# ### One level at a time
#
# Spectrum and rank are two views of the same thing. Move the level: where a spectrum crosses the dashed line, the relative rank is read off. With a
# kernel any other level is computed from noise to rank (two seeds).


# %% mystnb={"figure": {"caption": "The spectra at one noise level (thin: without noise), and where that level lies on the rank profile. First concept, mode of the verdict, means over seeds.", "name": "noise-slider"}}
def at_level(noise_level):
    two = {"seeds": [seed, seed + 1], "max_slots": max_slots, "levels": [0, noise_level]}
    return srg.rank_profile(acts[first.concept], tau=tau, **options | two).frame(1)


recompute(at_level, noise_level=(0.02, 5.0, 0.02))
frames(
    map(first.frame, range(len(noise_levels))), start=len(noise_levels) // 2 - 1,
    control=f"Noise level ({first.concept})",
    shows="Above, singular values on logarithmic axes, a line a representation; below, the rank profile.",
)  # fmt: skip

# %% [markdown]
# ## What can be certified
#
# Let noise change an unfolding by a matrix $E$. Weyl's inequality says that no singular value moves by more than the spectral norm $\|E\|_2$, which
# we measure. So the number of singular values above a threshold $\epsilon$ cannot have changed if $s_r > \epsilon + \|E\|_2$ and
# $s_{r+1} < \epsilon - \|E\|_2$. Where no such gap exists the rank *may* change, and how much it may is the shaded interval. A wide interval means
# that the profile's shape is not decided by the size of the perturbation alone. (Proof and examples: [noise and rank](noise_and_rank.ipynb).)

# %% mystnb={"image": {"alt": "In the book's run: the measured relative rank inside the interval that Weyl's inequality allows. Without noise the interval is a point; at the smallest level it is already many ranks wide, for every representation.", "classes": "dark-light"}, "figure": {"caption": "The measured rank (line) within the bounds that Weyl's inequality gives (shaded), first concept.", "name": "certificate"}}
plots.plot_certificate(first.certified, first.ranks, [RESIDUAL, *model.saes], mode=rank_mode)

# %% tags=["hide-input"]
sure = pd.concat(certified.values()).query("level > 0 and mode == @rank_mode")["certified"]
record.numbers["certified_share"] = float(sure.mean())
Markdown(
    f"Of the {len(sure)} profile points with noise in this mode, the certificate settles "
    f"{sure.sum()} ({sure.mean():.1%})."
)

# %% [markdown]
# ## How much does the rank vary?
#
# One number a profile: the **relative range**, largest minus smallest rank over the levels, divided by the clean rank.

# %% mystnb={"image": {"alt": "In the book's run: relative range of the rank profile, one dot a seed. The dense autoencoder varies most; the residual stream nearly as much; the sparse autoencoders less than half of that; random encoders and permuted latents hardly.", "classes": "dark-light"}, "figure": {"caption": "Relative range of the rank profile, one dot a seed.", "name": "variability"}}
variability = {name: profile.variability for name, profile in profiles.items()}
spread = {name: table[table["rule"] == rank_rule] for name, table in variability.items()}
plots.plot_variability(spread, mode=rank_mode)

# %% tags=["hide-input"]
Markdown(studies.ceiling_text(sweeps, ranks, rule=rank_rule, mode=rank_mode))

# %% [markdown]
# ## Verdict
#
# Two questions, asked of every SAE. Does the rank **vary**: is its relative range above 5 %, with 95 % confidence over the seeds? And is that
# **beyond the nulls**: is the difference to each null above zero, with the same confidence? A comparison **cannot be tested** where the null has no
# room to vary, because it starts at its own ceiling. The paper's inference from variability to stratification needs a varying rank and every null
# exceeded; it holds *in part* if all comparisons that can be tested hold. Intervals and p cover noise draws and nulls, not the choice of prompts.


# %%
def judged(acts, **sizes):
    found = [srg.rank_profile(a, tau=tau, **options | sizes) for a in acts]
    return studies.rank_claims(found, sparse=model.sparse)


with_massive = studies.with_massive([a for a in acts.values() if a.whole], partial(judged, **sizes))
claims = studies.rank_claims(profiles.values(), sparse=model.sparse)
record.claims += fit.withheld(claims, with_massive)
table = studies.claims_table(record.claims).drop(columns="statistic")
display(table.style.hide(axis="index"), Markdown(studies.rank_verdict_text(record.claims)))

# %% [markdown]
# ### Does the answer depend on the rank rule?
#
# The relative range by rule, mean over concepts and seeds, in the verdict's mode:

# %%
in_mode = pd.concat(variability.values()).query("mode == @rank_mode")
means = in_mode.pivot_table("variability", "label", "rule", sort=False).rename_axis(None, axis=1)
record.tables["by_rule"] = means.reset_index(names="representation")
record.tables["by_rule"].style.format(precision=2).hide(axis="index")

# %% [markdown]
# ### The entity's tokens alone
#
# The same sweep and criteria on the entity's last token only (one slot): what *January* is, without the words around it. To stay quick it uses the
# first seven seeds. (Skipped if the prompts name no entity, or if the page is about entity tokens anyway.)

# %%
with record.stage("entity tokens"):
    alone = [
        a.at("entity")
        for a in acts.values()
        if positions == "content" and len(a.concept.entities) > 1 and a.in_entity.any()
    ]
    few = partial(judged, seeds=record.seeds[:7], max_slots=1)
    with_massive = studies.with_massive([a for a in alone if a.whole], few)
    entity_claims = fit.withheld(few(alone), with_massive)
record.claims += entity_claims
Markdown(studies.rank_verdict_text(entity_claims) if entity_claims else "Skipped.")

# %% [markdown]
# ```{admonition} What a varying rank can and cannot show
# :class: important
# Even a rank that varies far beyond every null would not prove that the *data* are stratified. The matrices $\mathrm{diag}(1, t^2)$ form one smooth
# curve, and their rank drops at $t = 0$: a change of rank shows that a family of matrices crosses between strata of the cone of SSPD matrices, not
# that the points behind it lie on a stratified space ([the cone](cone_of_sspd_matrices.ipynb)). And a constant rank proves no manifold.
#
# Tried on planted data, the relative range of the relative rank puts a plain line or circle *above* strata of several dimensions: it measures how few
# dimensions the clean code uses ([ablation](rank_rule_ablation.ipynb)). So "holds" here could only have meant: varies more than every null. It could
# not have meant: is stratified. Nor is "does not hold" evidence *against* strata: in the book's ablation the criterion of this page does not say
# "holds" of planted strata either. It is a verdict on the inference from variation to strata.
#
# A test that does see planted strata of different dimension, and what it says of text, is on the page [Local dimension](local_dimension.ipynb).
# ```
#
# ## Summary
#
# - Noise with a density gives the residual stream full exact rank at every level above zero, so its exact rank says nothing about the level.
# - Whether the SAE's rank varies is one question; whether it varies *more than where nothing sparse was learned* is the one that matters.
#
# ## Exercises
#
# 1. Set `positions = "entity"` and `max_slots = 1`. Which mode becomes trivial, and why?
# 2. Set `rank_rule = "exact"`. Why do the SAEs' profiles become flat?
# 3. Set `noise_scaling = "absolute"`. For which level is the result that of relative noise 1?
#
# ```{dropdown} Solutions
# 1. Mode 2: with a single slot the unfolding has one row, so its rank is 1 for any nonzero tensor.
# 2. At most (prompts x slots) singular values exist; sparse codes of distinct tokens are almost always linearly independent, with no room to rise.
# 3. At the level that equals the root mean square of the centred residuals; the sweep's `sigma` in the record's numbers.
# ```

# %% [markdown]
# ## Reported against found here
#
# Ranges are over the cases of this run (concepts, autoencoders, controls); each stands in the record with interval, p and n.

# %% tags=["hide-input"]
record.numbers["sigma"] = {name: rms(a.x, massive="keep") for name, a in acts.items()}
record.numbers["tensor_shape"] = {name: list(sweep.tensor_shape) for name, sweep in sweeps.items()}
record.write()
display(plots.shown(studies.reported_against_found(record.claims)))
pd.DataFrame(record.stages).T.style.format(precision=1).set_caption("Time and memory")
