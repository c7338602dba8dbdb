# %% [markdown]
# # Noise and rank
#
# Case 1 adds noise to the residual stream and watches a rank. What would a rank do under noise
# in any case? This page separates what is a theorem from what needs data. You will see
#
# - why the exact rank of a noisy residual says nothing about the noise level, and where a rank is certified;
# - noise-aware ranks that find a planted rank in a residual, and fail after an encoder;
# - what ReLU, TopK and JumpReLU do to a rank, and the margin within which a code keeps its active features;
# - where a small noise can make a rank **drop**, and where it cannot.
#
# The encoders are those of SAELens with small random weights, written out in a few lines of torch.
#
# **Whose is what?** Observing the rank under noise is the paper's `[abstract]`. The rank rules are
# {cite}`gavish2014,roy2007,marchenko1967`, the encoders {cite}`gao2024scaling,rajamanoharan2024`; their use here,
# the margins and the table at the end are `[ours]`.

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
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown, display
from numpy.linalg import matrix_rank, norm

from saerepgeo_lib import plots, synthetic
from saerepgeo_lib.companion import Record
from saerepgeo_lib.rank import weyl_bounds
from saerepgeo_lib.synthetic import noise_aware_ranks, random_encoders, rank_of, spectrum

# %matplotlib inline
plots.house_style()

# %% tags=["parameters"]
seed: int = 0  # seed of every random draw
planted_rank: int = 5  # rank of the residual-like matrix in the recovery experiment, 1 to 6
width: int = 64  # latents of the small random encoders, at least 32
n_draws: int = 200  # noise draws a check, at least 50

# %%
record = Record.start("noise_and_rank", globals())
rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
normal = partial(torch.randn, generator=generator, dtype=torch.float64)

# %% [markdown]
# ## Exact rank is full at every noise level
#
# > **Statement 1.** Let $A$ be any $m \times n$ matrix and let $E$ have a density (as independent
# > normal entries do). For every $s > 0$, $A + sE$ has rank $\min(m, n)$ with probability one.
#
# *Proof.* Take the $k \times k$ minor of some $k = \min(m, n)$ rows and columns. Its determinant is a polynomial in
# the entries of $E$, and not the zero polynomial, since the product of diagonal entries has coefficient $s^k$. The
# zero set of a nonzero polynomial has Lebesgue measure zero (in one variable it is finite; Fubini does the rest), so
# $E$ falls on it with probability zero. $\square$
#
# We plant rank 3 in a $20 \times 12$ matrix, and add noise from a ten-billionth upwards.

# %%
a, e = normal(20, 3) @ normal(3, 12), normal(20, 12)
exact = {level: matrix_rank(a + level * e) for level in (0, 1e-10, 1e-6, 1e-2, 1)}
assert exact.pop(0) == 3 and set(exact.values()) == {12}

# %% [markdown]
# The exact rank jumps at the first step and then never moves again: it carries no information on the noise level. A
# varying profile can only come from a rank with a tolerance, from finite precision, or from the encoder's thresholds.
#
# ## How far can singular values move?
#
# > **Statement 2.** (Weyl.) $|s_i(A + E) - s_i(A)| \le \|E\|_2$ for every $i$. So the number of singular values above
# > $\epsilon$ is certainly $r$ after the noise if $s_r(A) > \epsilon + \|E\|_2$ and $s_{r+1}(A) < \epsilon - \|E\|_2$.
#
# *Proof.* $s_i(A)$ is the distance from $A$ to the matrices of rank below $i$
# ([Eckart and Young](cone_of_sspd_matrices.ipynb)). A distance to a fixed set changes by no
# more than the point moves. $\square$ (See {cite}`weyl1912,horn2013`.)
#
# We give a matrix the singular values 8, 6 and 4, put the threshold at 1.5, and raise the noise.

# %% mystnb={"image": {"alt": "In the book's run, above: four singular values against the noise level, each inside a band that widens linearly; the fourth starts at zero and crosses the threshold late. Below: the number of values above the threshold is certified as 3 for small noise; then the certified interval widens while the measured count stays at 3 for longer, and rises.", "classes": "dark-light"}, "figure": {"caption": "Weyl's bounds (shaded) and the rank that they certify. Thick: certified. Dashed: measured, not certified.", "name": "weyl"}}
left, right = torch.linalg.qr(normal(40, 3)).Q, torch.linalg.qr(normal(12, 3)).Q
a = left * torch.tensor([8.0, 6.0, 4.0], dtype=torch.float64) @ right.T
e = normal(40, 12)
e /= spectrum(e)[0]
levels, threshold = np.linspace(0, 4, 81), 1.5
spectra = np.array([spectrum(a + level * e) for level in levels])
bounds = np.array([weyl_bounds(spectra[0], s, threshold=(threshold, threshold)) for s in levels])
counts, sure = (spectra > threshold).sum(axis=1), bounds[:, 0] == bounds[:, 1]
assert (np.abs(spectra - spectra[0]) <= levels[:, None] + 1e-12).all()
assert (bounds[:, 0] <= counts).all() and (counts <= bounds[:, 1]).all()
assert (counts[sure] == 3).all()
plots.plot_weyl(levels, spectra, threshold, bounds)

# %%
sure_to = record.numbers["certified_up_to"] = float(levels[sure].max())
changed_at = levels[counts != 3].min() if (counts != 3).any() else np.inf
assert sure_to < changed_at
Markdown(
    f"Certified up to a noise norm of {sure_to:.2f}. The count first differs from 3 at "
    f"{changed_at:.2f}: the certificate is safe, and cautious."
)

# %% [markdown]
# ## Ranks that know about noise
#
# White noise of standard deviation $\sigma$ in an $m \times n$ matrix has its largest singular value near
# $\sigma(\sqrt m + \sqrt n)$, the Marchenko-Pastur edge. Counting what lies above the edge, or above Gavish and
# Donoho's slightly higher threshold, finds a planted rank when the noise is **white and additive**. We plant a low
# rank in 400 tokens of 32 dimensions, and for comparison plant nothing.

# %%
n_tokens, d, sigma = 400, 32, 0.5
signal = normal(n_tokens, planted_rank) @ normal(planted_rank, d) / planted_rank**0.5
planted = {"nothing planted": torch.zeros_like(signal), "planted": signal}
noise = sigma * normal(n_tokens, d)
record.tables["recovered"] = recovered = pd.DataFrame(
    {"noise std": std, "residual": name, **noise_aware_ranks(x + std / sigma * noise, std),
     "exact": matrix_rank(x + std / sigma * noise)}
    for std in (0.05, 0.25, 0.5, 1.0) for name, x in planted.items()
)  # fmt: skip
with_signal = recovered.query("residual == 'planted' and `noise std` <= @sigma")
without = recovered.query("residual != 'planted'")
assert (with_signal.filter(like="Gavish") == planted_rank).all(axis=None)
assert (without["Gavish-Donoho"] == 0).all() and (recovered["exact"] == d).all()
assert ((with_signal["Marchenko-Pastur"] - planted_rank).abs() <= 1).all()
recovered.style.format({"noise std": "{:.2f}"}).hide(axis="index")

# %% [markdown]
# Gavish and Donoho's ranks find what was planted, and nothing where there is nothing. The Marchenko-Pastur edge is
# the limit for large matrices, without a safety distance, so its count can be one too high. (One noise draw, scaled,
# serves all levels.) The exact rank is full everywhere, as Statement 1 says.
#
# ### After an encoder the premise fails
#
# We now encode the same noisy tokens with random SAEs of width $8d$, and ask the same rules, giving them the true
# root mean square of the noise that arrived in the codes, $z(x + \varepsilon) - z(x)$. Already the
# **pre-activations** $x W + b$ break the premise when there are more latents than dimensions: their noise
# $\varepsilon W$ is additive, but lives in the $d$ directions of $W$, so it is not white.

# %%
encoders = random_encoders(d, 8 * d, k=16, threshold=1.0, generator=generator)
represented = {
    "residual": lambda x: x, "pre-activations": encoders["ReLU"].pre_activations,
    "ReLU codes": encoders["ReLU"], "TopK codes": encoders["TopK"],
}  # fmt: skip
rows, over_edge = [], {label: {} for label in represented}
for (label, represent), (name, x) in product(represented.items(), planted.items()):
    measured, over_edge[label][name] = synthetic.noise_behind(represent, x, noise)
    rows.append({"representation": label, "residual": name, **measured})
measured = pd.DataFrame(rows)
record.tables["encoded"] = encoded = measured.iloc[:, :5]
by_label = encoded.pivot(index="representation", columns="residual", values="Gavish-Donoho")
assert by_label.loc["residual"].to_dict() == {"nothing planted": 0, "planted": planted_rank}
assert (by_label.drop("residual")["nothing planted"] >= 1).all()
assert (by_label.drop("residual")["planted"] != planted_rank).all()
encoded.style.hide(axis="index")

# %% mystnb={"image": {"alt": "In the book's run: four panels of leading singular values divided by the white-noise edge. Residual: without a planted signal all lie below the edge or on it, with one as many as planted stand clear above it. Pre-activations, ReLU codes and TopK codes: many values lie above the edge even where nothing was planted.", "classes": "dark-light"}, "figure": {"caption": "The white-noise edge (dashed) separates signal from noise in the residual, and in nothing that comes after.", "name": "white-noise-edge"}}
plots.plot_against_edge(over_edge, shown=60)

# %% [markdown]
# Where nothing was planted, everything above the edge is a false alarm, and after the encoder there are many. (With the
# std unknown, the yardstick is the median singular value. For the pre-activations that is a rounding error, since most
# of theirs are zero; so the rule counts rounding errors too.) The noise there is neither white nor additive: its size
# depends on the signal, since a latent that is off shrugs off small noise, and it is concentrated in few directions.

# %%
premises = measured[measured["residual"] == "planted"].set_index("representation").iloc[:, 4:]
ratio = premises["noise std where clean value > 0"] / premises["elsewhere"]
assert (abs(ratio[["residual", "pre-activations"]] - 1) < 0.1).all()
assert (ratio[["ReLU codes", "TopK codes"]] > 1.2).all()
assert premises.iloc[0, 2] < 1.1 and (premises.iloc[1:, 2] > 1.2).all()
record.tables["premises"] = premises.reset_index(names="representation")
premises.style.format(precision=2)

# %% [markdown]
# ## What encoders do to a rank
#
# > **Statement 3.** For $n$ tokens in $d$ dimensions, (i) pre-activations have rank at most $d + 1$. (ii) Tokens
# > whose codes have one and the same set of active features have codes of rank at most $d + 1$, for ReLU, TopK and
# > JumpReLU alike. (iii) Over several active sets the rank can be as large as the number of tokens or features.
#
# *Proof.* (i) $XW + \mathbf 1 b^\top$ is a sum of a matrix of rank at most $d$ and one of rank
# at most 1. (ii) On one active set a code is the pre-activation with fixed columns set to
# zero, and deleting columns does not raise a rank. (iii) By example: below. $\square$
#
# Three dimensions, a random encoder, more and more random tokens:

# %% mystnb={"image": {"alt": "In the book's run: exact rank against the number of tokens in three dimensions. Pre-activations stop at rank 4. Codes of the random ReLU, TopK and JumpReLU encoders climb far beyond, ReLU along the number of tokens for longest.", "classes": "dark-light"}, "figure": {"caption": "Rank of codes of tokens in three dimensions. The encoders are random: nothing was learned.", "name": "code-ranks"}}
small = random_encoders(3, width, k=4, threshold=1.0, generator=generator)
tokens = normal(2 * width, 3)
token_counts = np.unique(np.geomspace(2, len(tokens), 16).astype(int))
pre = small["ReLU"].pre_activations(tokens)
codes = {"pre-activations": pre} | {kind: encode(tokens) for kind, encode in small.items()}
code_ranks = {k: np.array([matrix_rank(z[:n]) for n in token_counts]) for k, z in codes.items()}
top = record.numbers["largest_code_rank"] = {k: int(r.max()) for k, r in code_ranks.items()}
assert top["pre-activations"] == 4 < min(top["TopK"], top["JumpReLU"]) and top["ReLU"] == width
display(plots.plot_code_ranks(token_counts, code_ranks).figure)

# %%
Markdown(f"Largest ranks: {', '.join(f'{kind} {rank}' for kind, rank in top.items())}.")

# %% [markdown]
# A rank of codes above that of the residual is thus no sign of learning, which is why Case 1 has a random encoder
# among its nulls.
#
# ## The margin of a code
#
# Around each token that is not exactly at a threshold or a tie there is a ball in which its active set cannot change.
# Write $p_j = w_j \cdot x + b_j$ for pre-activations.
#
# > **Statement 4.** (i) ReLU and JumpReLU with thresholds $\theta_j \ge 0$ keep their active set under any
# > step $|\delta| < \min_j |p_j - \theta_j| / |w_j|$. (ii) Let the $k$ largest pre-activations, the
# > set $A$, be positive. TopK keeps its active set under any step
# >
# > $$|\delta| < \min\Big( \min_{i \in A,\, j \notin A} \frac{p_i - p_j}{|w_i - w_j|},\;
# >   \min_{i \in A} \frac{p_i}{|w_i|} \Big).$$
# >
# > Both radii are the largest possible. A cheaper lower bound for TopK, with sorted
# > $p_{(1)} \ge p_{(2)} \ge \dots$, is $\min\big(\tfrac12 (p_{(k)} - p_{(k+1)}),\, p_{(k)}\big) / \max_j |w_j|$.
#
# *Proof.* $p_j(x + \delta) - p_j(x) = w_j \cdot \delta$. A latent switches only where $p_j = \theta_j$, a
# hyperplane at distance $|p_j - \theta_j| / |w_j|$. A TopK code changes its set only where $p_i = p_j$ for
# some $i \in A$, $j \notin A$, at distance $(p_i - p_j) / |w_i - w_j|$, or where an active $p_i$ reaches
# 0. Stepping across the nearest of these hyperplanes changes the set, so no larger
# radius works. The cheap bound: $p_i - p_j \ge p_{(k)} - p_{(k+1)}$ and
# $|w_i - w_j| \le 2 \max_j |w_j|$. $\square$
#
# `synthetic.step_to_threshold` and `synthetic.step_to_tie` return the shortest such steps. We go almost there,
# and just beyond.

# %%
w, p = small["ReLU"].weight.numpy(), pre.numpy()
to_zero, to_threshold = (synthetic.step_to_threshold(p, w, threshold=at) for at in (0, 1))
steps = {"ReLU": to_zero, "TopK": synthetic.step_to_tie(p, w, k=4), "JumpReLU": to_threshold}
for kind, step in steps.items():
    assert not small[kind].switches(tokens, 0.999 * step).any()
    assert small[kind].switches(tokens, 1.001 * step).all()
margins = {kind: norm(step, axis=1) for kind, step in steps.items()}
fourth, fifth = np.sort(p, axis=1)[:, [-4, -5]].T
cheap = np.minimum((fourth - fifth) / 2, fourth) / norm(w, axis=0).max()
assert (cheap <= margins["TopK"] + 1e-12).all()

# %% [markdown]
# Along the shortest step the set changes exactly at the margin; random steps need to be longer:

# %% mystnb={"image": {"alt": "In the book's run: share of random steps that change the active set against their length in margins, for ReLU, TopK and JumpReLU. It is zero up to one margin and rises steadily beyond.", "classes": "dark-light"}, "figure": {"caption": "Within its margin a code keeps its active features, whatever the direction of the noise.", "name": "code-margins"}}
factors = np.array([0.25, 0.5, 0.999, 1.5, 2, 4, 8, 16])
directions = rng.standard_normal((n_draws, *tokens.shape))
directions /= norm(directions, axis=2, keepdims=True)
changed = {kind: np.zeros(len(factors)) for kind in margins}
for kind, (i, factor) in product(margins, enumerate(factors)):
    by = (factor * margins[kind][:, None] * u for u in directions)
    changed[kind][i] = np.mean([small[kind].switches(tokens, step) for step in by])
assert all((share[factors < 1] == 0).all() and share[-1] > 0 for share in changed.values())
display(plots.plot_margins(factors, changed).figure)

# %% [markdown]
# Inside the ball the encoder is affine (Statement 3), so codes of any number of tokens there have
# rank at most $d + 1$. We check it for every encoder around the token with the widest margin.

# %%
for kind, margin in margins.items():
    centre = int(margin.argmax())
    ball = tokens[centre] + 0.99 * margin[centre] * torch.as_tensor(directions[:, centre])
    assert matrix_rank(small[kind](ball)) <= 3 + 1
record.tables["margins"] = table = pd.DataFrame(margins)
table.agg(["min", "median", "max"]).style.format("{:.2g}")

# %% [markdown]
# ## On the tie
#
# > **Statement 5.** Let an encoder $z$ be Lipschitz with constant $L$ (ReLU: $L = \|W\|_2$), and let the codes $z(X)$
# > have rank $r$. Noise with $\|E\|_F < s_r(z(X)) / L$ cannot lower the rank. TopK and JumpReLU have no such
# > constant: at ties and thresholds an arbitrarily small noise can lower a rank whose singular values are all large.
#
# *Proof.* $\|z(X+E) - z(X)\|_2 \le \|z(X+E) - z(X)\|_F \le L \|E\|_F < s_r$, and rank is lower semicontinuous (see [the cone](cone_of_sspd_matrices.ipynb)).
# The second part by example. $\square$
#
# Two latents, of which TopK keeps one. We choose two tokens by their pre-activations, $(2 + \delta, 2)$ and
# $(2, 2 + \delta)$ with $\delta = 10^{-9}$: on two sides of a tie. For JumpReLU with threshold 1 a single token,
# $(1 + \delta, -1)$, will do.

# %%
pair = random_encoders(3, 2, k=1, threshold=1.0, generator=generator)
top_k, jump, delta = pair["TopK"], pair["JumpReLU"], 1e-9
at_tie = top_k.inputs_with(torch.tensor([[2 + delta, 2], [2, 2 + delta]], dtype=torch.float64))
at_threshold = jump.inputs_with(torch.tensor([[1 + delta, -1]], dtype=torch.float64))
on_tie = spectrum(top_k(at_tie))
assert np.allclose(on_tie, [2, 2]) and np.allclose(spectrum(jump(at_threshold)), [1])
Markdown(
    f"The two tokens lie {norm(at_tie[0] - at_tie[1]):.1e} apart, yet the singular values of their "
    f"TopK codes are {on_tie[0]:.2f} and {on_tie[1]:.2f}: rank 2, and far from rank 1."
)

# %% [markdown]
# ## Where can small noise lower a rank?
#
# Now the whole list, each line with many noise draws: how often did the rank fall, and how often rise? First the exact
# rank. The residual has rank 2 in three dimensions; to give the codes a rank that could rise, some tokens occur twice.
# Then the exact rank on the tie and on the threshold, under a noise of a hundred-millionth. And ranks with a tolerance:
# the soft ranks get a generic matrix and noise of two sizes, the relative rank singular values just above and just
# below its threshold $\tau s_1$. Continuity shows in the size of the change: a hundred times less with such noise.

# %%
flat = tokens[:20] @ torch.diag(torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64))
twice, lipschitz = tokens[:10].repeat(2, 1), spectrum(w)[0]
least = {k: spectrum(z(twice))[rank_of(z(twice)) - 1] for k, z in small.items()}
safe = min(margins["TopK"][:10].min(), least["TopK"] / lipschitz)
changes = partial(synthetic.rank_changes, draw=normal, n_draws=n_draws)
lines = {
    "exact, residual": changes(flat, 0.99 * spectrum(flat)[1]),
    "exact, ReLU codes": changes(twice, 0.99 * least["ReLU"] / lipschitz, encode=small["ReLU"]),
    "exact, TopK codes, within margins": changes(twice, 0.99 * safe, encode=small["TopK"]),
    "exact, TopK codes, on a tie": changes(at_tie, 1e-8, encode=top_k),
    "exact, JumpReLU code, on a threshold": changes(at_threshold, 1e-8, encode=jump),
}
generic, soft = normal(20, 6), ("effective", "participation", "stable")
for rule, size in product(soft, (1e-2, 1e-4)):
    lines[f"{rule}, noise {size:g}"] = changes(generic, size, rule=rule)
edge = torch.diag(torch.tensor([1, 0.01 * (1 + 1e-12), 0.01 * (1 - 1e-12)], dtype=torch.float64))
lines["relative, at its threshold"] = changes(edge, 1e-8, rule="relative")

# %%
table = pd.DataFrame(lines).T
fell, rose, change = table["fell"], table["rose"], table["largest change"]
safe, on_edge, tolerant = fell.index[:3], fell.index[3:5], fell.index[5:]
assert (fell[safe] == 0).all() and (rose[safe] > 0.9).all() and (fell[on_edge] > 0.2).all()
assert (fell[tolerant] > 0).all() and (rose[tolerant] > 0).all()
for rule in soft:
    assert change[f"{rule}, noise 0.0001"] < 0.05 * change[f"{rule}, noise 0.01"] < 0.05
    assert np.isclose(rank_of(1e-9 * generic, rule), rank_of(generic, rule))
    assert rank_of(0 * generic, rule) == 0
record.tables["small_noise"] = table.reset_index(names="rank")
table.style.format("{:.2g}")

# %% [markdown]
# | Rank | Small noise can lower it? | Reason |
# |---|---|---|
# | exact, of a map of the tokens with Lipschitz constant $L$ (residual, pre-activations, ReLU codes) | no | Statement 5: for noise below $s_r / L$ the rank can only stay or rise. With a density, the residual's rises to full (Statement 1). |
# | exact, TopK or JumpReLU, each token within its margin | no, if the noise is below $s_r / \lVert W \rVert_2$ too | Within the margins the encoder is affine with slope at most $\lVert W \rVert_2$, so the line above applies. |
# | exact, TopK on a tie or JumpReLU on a threshold | **yes** | The code jumps by a fixed amount however small the noise; a jump can make two codes parallel, or one zero. |
# | effective, participation, stable | yes, a little, and raise it | They are continuous functions of the singular values away from the zero matrix (sums and ratios with positive denominators, and $p \log p \to 0$); singular values move by at most $\lVert E \rVert_2$. At the zero matrix they are not continuous: $\epsilon A$ has the rank of $A$ for every $\epsilon > 0$. |
# | relative | yes, by whole steps, and raise it | It counts $s_i > \tau s_1$; a value that sits at $\tau s_1$ crosses either way. Statement 2 with $\epsilon$ between $\tau(s_1 - \lVert E \rVert_2)$ and $\tau(s_1 + \lVert E \rVert_2)$ says where it cannot. |
#
# The last sentence of the fourth line was checked too. A warning about "exact" on a computer: it is a relative rank
# with a very small $\tau$, and so inherits the last line at that scale. And *small* has a size in every line. A large
# noise can lower any rank: it may push all tokens into one cell of the encoder.
#
# ## Summary
#
# - Noise with a density makes every matrix of full exact rank at once. The level does not show.
# - Weyl's inequality certifies a rank where there is a gap, and only there.
# - Noise-aware ranks belong to the residual stream. With more latents than dimensions their premise fails
#   for the pre-activations already, and for codes in two ways.
# - ReLU, TopK and JumpReLU raise a rank far beyond $d + 1$ with random weights, by switching between active sets.
# - A small noise lowers an exact rank only across ties and thresholds. Ranks with a tolerance move both ways.
#
# These facts decide what a profile of [Case 1](stratified_manifold.ipynb) can mean.
#
# ## Exercises
#
# 1. Noise is added to a single coordinate of the residual only. Does Statement 1 hold?
# 2. Where is the ReLU code's active set most fragile: at large or at small pre-activations? Does a switch change it much?
# 3. A TopK code has a tie exactly at $x$. Why does adding Gaussian noise of any size give a fair-looking coin, and what
#    does that mean for a rank profile at level zero?
#
# ```{dropdown} Solutions
# 1. No: $E$ then has no density on the $m \times n$ matrices. The rank grows by at most one.
# 2. At pre-activations near zero, since the margin is $|p_j|/|w_j|$. A ReLU switch there changes the code by
#    less than the noise times $|w_j|$: the code is continuous. A JumpReLU switch changes it by the threshold.
# 3. As long as no third latent interferes, only the sign of $(w_i - w_j) \cdot \delta$ matters, and it is symmetric
#    whatever the size of $\delta$. The limit of the profile as the level tends to zero need not be its value at zero.
# ```

# %%
record.write()
