# %% [markdown]
# # Unfolding a tensor
#
# The latents of a concept form a tensor: prompts, tokens, features. A rank is a property of
# matrices. This page shows, on a tensor small enough to read, how the one becomes the other.
#
# On this page you will see
#
# - a tensor of 24 numbers, its three unfoldings, and where one entry goes;
# - the SSPD matrix of each unfolding, and what its entries mean;
# - how the three mode ranks bound each other, with proofs and a check on random tensors;
# - why this book takes singular values and not eigenvalues, and why masked tokens are left out.
#
# **Whose is what?** That a latent tensor is unfolded and the rank of an SSPD matrix observed is the
# paper's `[abstract]`. Which mode it means is not said there; all three are shown `[ours]`.
# Unfoldings and their ranks are standard {cite}`kolda2009,delathauwer2000`. Leaving out masked
# tokens is `[ours]`.

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
import numpy as np
import pandas as pd
import tensorly as tl
import torch
from IPython.display import Markdown, display
from numpy.linalg import matrix_rank, svdvals
from sklearn.cluster import DBSCAN
from tensorly.random import random_tucker

from saerepgeo_lib import plots
from saerepgeo_lib.companion import Record
from saerepgeo_lib.plots import house_style
from saerepgeo_lib.rank import MODES, RULES, fold, relative_rank, sspd, unfold

# %matplotlib inline
house_style()

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
seed: int = 0  # seed of every random draw
n_draws: int = 300  # random tensors in the check of the inequalities, at least 50
n_masked: int = 8  # zero rows put in for masked tokens, at least 4

# %%
record = Record.start("unfolding_a_tensor", globals())
rng = np.random.default_rng(seed)

# %% [markdown]
# ## A tensor that can be read
#
# Three prompts, two tokens each, four features: $Z \in \mathbb R^{3 \times 2 \times 4}$, made up
# by hand. Half of the entries are zero and none is negative, as in a code. The nonzero entries are
# all different, so the eye can follow them; one, $Z_{1,0,3}$, is framed. (Indices
# start at 0, as in the code; modes are counted from 1, as in the literature.)

# %%
codes = torch.tensor(
    [
        [[5, 0, 2, 0], [0, 3, 12, 1]],
        [[6, 0, 0, 4], [0, 7, 0, 0]],
        [[0, 8, 9, 0], [10, 0, 0, 11]],
    ],
    dtype=torch.float64,
)
followed = (1, 0, 3)

# %% mystnb={"image": {"alt": "Three blocks, one for each prompt, in three colours. Each has two rows for tokens and four columns for features. In prompt 1, token 0, feature 3 the entry 4 is framed.", "classes": "dark-light"}, "figure": {"caption": "The tensor, prompt by prompt. Colour: prompt. Frame: the entry that we follow.", "name": "small-tensor"}}
plots.plot_unfoldings(codes.numpy(), followed, unfolded=False)

# %% [markdown]
# ## Three unfoldings
#
# > **Definition.** The mode-$n$ unfolding $Z_{(n)}$ has mode $n$ as its rows and all pairs of
# > the two other indices, in order, as its columns. For a tensor of shape $P \times T \times F$:
# >
# > $$(Z_{(1)})_{p,\,(t,f)} = (Z_{(2)})_{t,\,(p,f)} = (Z_{(3)})_{f,\,(p,t)} = Z_{p,t,f}.$$
#
# > **Statement 1.** Each unfolding holds every entry exactly once. So it can be folded back, and
# > all three have the same Frobenius norm.
#
# *Proof.* $(p, t, f) \mapsto (p, (t, f))$ is a bijection of index sets, and likewise for the
# other modes. $\square$
#
# The order of the columns is a convention, and books differ. Ours (the last index runs
# fastest) is that of tensorly. No rank or singular value depends on it, since permuting columns
# leaves $Z_{(n)} Z_{(n)}^\top$ as it is.

# %%
unfolded = {mode: unfold(codes, mode) for mode in MODES}
for mode, matrix in unfolded.items():
    assert torch.equal(fold(matrix, mode, tuple(codes.shape)), codes)
    assert torch.isclose(matrix.norm(), codes.norm())
    assert np.array_equal(matrix.numpy(), tl.unfold(codes.numpy(), mode - 1))

# %% [markdown]
# To follow entries, the figure unfolds two more tensors in the same way: one that holds the number of the
# prompt in every entry, and one that marks the framed entry.

# %% mystnb={"image": {"alt": "The same 24 entries as three matrices: 3 by 8, 2 by 12 and 4 by 6. In the first each row has one prompt's colour; in the two others the colours stand in blocks of columns. The framed 4 appears once in each.", "classes": "dark-light"}, "figure": {"caption": "Three unfoldings of one tensor. Colour: the prompt that an entry came from. Frame: the entry that we follow.", "name": "unfoldings"}}
plots.plot_unfoldings(codes.numpy(), followed)

# %% [markdown]
# ## Their SSPD matrices
#
# > **Statement 2.** $G_n = Z_{(n)} Z_{(n)}^\top$ is symmetric positive semidefinite, has the rank of
# > $Z_{(n)}$, and its eigenvalues are the squared singular values of $Z_{(n)}$. All three have the
# > same trace, $\|Z\|_F^2$.
#
# *Proof.* $v^\top G_n v = |Z_{(n)}^\top v|^2 \ge 0$, which is zero exactly when
# $Z_{(n)}^\top v = 0$; so both have the same kernel. With $Z_{(n)} = U S V^\top$,
# $G_n = U S^2 U^\top$. The trace is the sum of the squares of all entries. $\square$
#
# Read their entries: $(G_1)_{pq}$ compares the codes of prompts $p$ and $q$, $(G_2)_{tu}$ compares
# token slots, and $(G_3)_{fg}$ says how strongly features $f$ and $g$ fire on the same tokens.

# %%
grams = {mode: sspd(matrix) for mode, matrix in unfolded.items()}
for mode, gram in grams.items():
    s = svdvals(unfolded[mode])
    assert torch.equal(gram, gram.T) and torch.isclose(gram.trace(), codes.square().sum())
    assert np.allclose(torch.linalg.eigvalsh(gram).numpy()[::-1], s**2)
    assert matrix_rank(gram) == matrix_rank(unfolded[mode])

# %% mystnb={"image": {"alt": "Three symmetric matrices with their numbers: 3 by 3 for prompts, 2 by 2 for tokens, 4 by 4 for features. The diagonals are largest; features that never fire together have a zero.", "classes": "dark-light"}, "figure": {"caption": "The three SSPD matrices of one tensor: similarity of prompts, of token slots, and of features.", "name": "grams"}}
plots.plot_grams({f"$G_{m}$ ({what}s)": grams[m].numpy() for m, what in MODES.items()})

# %%
mode_ranks = {mode: int(matrix_rank(matrix)) for mode, matrix in unfolded.items()}
record.numbers["mode_ranks_of_the_small_tensor"] = list(mode_ranks.values())
display(
    Markdown(
        "Ranks of the three unfoldings: "
        + ", ".join(f"{r} (mode {m})" for m, r in mode_ranks.items())
        + ". They answer three different questions about the same 24 numbers."
    )
)

# %% [markdown]
# ## The mode ranks bound each other
#
# Write $r_n$ for the rank of $Z_{(n)}$, and call a feature *active* if it is nonzero somewhere.
#
# > **Statement 3.** $r_1 \le r_2 r_3$, and the same with the modes permuted.
#
# *Proof.* Let the columns of $U_2$ and $U_3$ be orthonormal bases of the column spaces of $Z_{(2)}$ and $Z_{(3)}$.
# Projecting modes 2 and 3 onto them changes nothing, so $Z_{p,t,f} = \sum_{a,b} C_{p,a,b} (U_2)_{t,a} (U_3)_{f,b}$ for
# some tensor $C$ of shape $P \times r_2 \times r_3$. In matrices,
# $Z_{(1)} = C_{(1)} (U_2 \otimes U_3)^\top$, and $C_{(1)}$ has $r_2 r_3$ columns. $\square$
#
# > **Statement 4.** $r_1 \le P$, $r_2 \le T$, and $r_3 \le \min(PT, \text{number of active features})$.
#
# *Proof.* A rank is at most the number of rows and of columns; rows of $Z_{(3)}$ that are zero
# do not count. $\square$
#
# Statement 4 matters in Case 1: with $P$ prompts and $T$ slots the feature rank can never exceed
# $PT$, however many thousand features an SAE has. A profile that starts there has no room to
# rise.
#
# We draw tensors with planted ranks by tensorly's `random_tucker`, some of which ask for more than
# Statement 3 allows, zero some features, and compare.

# %%
size = (6, 5, 7)
sampler = np.random.RandomState(seed)  # tensorly's random functions take this kind
asked, measured = [], []
for _ in range(n_draws):
    wanted = tuple(int(rng.integers(1, side + 1)) for side in size)
    tensor = random_tucker(size, wanted, full=True, random_state=sampler)
    tensor[:, :, : rng.integers(0, 3)] = 0
    active = int((tensor != 0).any(axis=(0, 1)).sum())
    asked.append((*wanted, active))
    measured.append([matrix_rank(tl.unfold(tensor, mode)) for mode in range(3)])
asked, measured = np.array(asked), np.array(measured)

# %%
for mode in range(3):
    others = np.delete(measured, mode, axis=1).prod(axis=1)
    assert (measured[:, mode] <= others).all() and (measured[:, mode] <= asked[:, mode]).all()
assert (measured[:, 2] <= np.minimum(size[0] * size[1], asked[:, 3])).all()
refused = (measured < asked[:, :3]).any(axis=1)
assert refused.any() and not refused.all()
record.numbers["share_with_lower_rank_than_asked"] = float(refused.mean())

# %% mystnb={"image": {"alt": "Mode rank against the product of the two other mode ranks for random tensors. All points lie on or below the diagonal, and many lie exactly on it, in each of the three modes.", "classes": "dark-light"}, "figure": {"caption": "Each tensor gives three points, one a mode. The area of a point counts tensors. None is above the diagonal, and the bound is attained.", "name": "mode-rank-inequality"}}
display(plots.plot_mode_ranks(measured).figure)

# %% [markdown]
# ### Three different ranks
#
# Matrices have one rank, since rows and columns agree. A tensor may have three. We plant 2, 3 and
# 5, which Statement 3 allows because $5 \le 2 \cdot 3$.

# %%
planted = random_tucker((6, 7, 8), [2, 3, 5], full=True, orthogonal=True, random_state=seed)
three = [int(matrix_rank(tl.unfold(planted, mode))) for mode in range(3)]
assert three == [2, 3, 5]
display(Markdown(f"Measured mode ranks: {three[0]}, {three[1]} and {three[2]}."))

# %% [markdown]
# So "the rank of the latent tensor" is incomplete without its mode. The
# abstract does not say which it is, and [Case 1](stratified_manifold.ipynb) shows all three.
#
# ## Singular values, not eigenvalues
#
# $G_n$ has the same rank as $Z_{(n)}$ on paper. In a computer it has fewer digits.
#
# > **Statement 5.** Let $u$ be the unit roundoff. A backward stable SVD of $Z_{(n)}$ returns each $s_i$ with
# > an error of order $u\, s_1$. The eigenvalues of the computed $G_n$ have an error of order
# > $u\, s_1^2$; so as $s_i^2$ they are lost, and the rank with them, once
# > $s_i$ falls below about $\sqrt u\, s_1$.
#
# *Proof.* The SVD returns the exact singular values of $Z_{(n)} + E$ with
# $\|E\|_2$ of order $u\, s_1$ {cite}`golub2013`, and by Weyl's inequality no singular value moves by more
# than $\|E\|_2$. The rounded $G_n$ is $G_n + E'$ with $\|E'\|_2$ of order $u \|G_n\|_2 = u\, s_1^2$, and Weyl
# applies to its eigenvalues. (The orders hide factors that depend on the size alone.) $\square$
#
# We plant singular values from $1$ down to $10^{-12}$ and ask both ways, in both precisions.

# %%
true = 10.0 ** -np.arange(13)
left = np.linalg.qr(rng.standard_normal((30, len(true)))).Q
right = np.linalg.qr(rng.standard_normal((40, len(true)))).Q
exact = torch.as_tensor(left * true @ right.T)


# %%
def both_ways(matrix: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    eigenvalues = torch.linalg.eigvalsh(sspd(matrix)).abs()
    from_gram = eigenvalues.sqrt().sort(descending=True).values
    return torch.linalg.svdvals(matrix).numpy(), from_gram.numpy()


precisions = {"float64": both_ways(exact), "float32": both_ways(exact.float())}

# %% mystnb={"image": {"alt": "Planted singular values from 1 to 1e-12 on a logarithmic axis, in float64 and float32. In float64 the singular values of the unfolding follow the planted line to its end, the roots of the Gram matrix' eigenvalues leave it near 1e-8. In float32 the two leave it near 1e-7 and 1e-4.", "classes": "dark-light"}, "figure": {"caption": "The same matrix, two ways to its spectrum. Squaring halves the number of digits.", "name": "gram-precision"}}
k = len(true)
plots.plot_precision(true, {name: (s[:k], g[:k]) for name, (s, g) in precisions.items()})

# %% [markdown]
# The rank that each finds, if we count values above a threshold that lies between the two
# floors:

# %%
thresholds = {"float64": 3e-11, "float32": 3e-6}
counted = pd.DataFrame(
    {
        name: {
            "threshold": thresholds[name],
            "true rank": int((true > thresholds[name]).sum()),
            "from the unfolding": int(relative_rank(direct, tau=thresholds[name]).value),
            "from eigenvalues of G": int(relative_rank(gram, tau=thresholds[name]).value),
        }
        for name, (direct, gram) in precisions.items()
    }
).T  # fmt: skip
record.tables["precision"] = counted
assert (counted["from the unfolding"] == counted["true rank"]).all()
assert (counted["from eigenvalues of G"] > counted["true rank"]).all()
counted.style.format(precision=0).format("{:.0e}", subset=["threshold"])

# %% [markdown]
# The Gram matrix invents rank out of rounding errors. Below its floor the eigenvalues are such errors, of
# either sign (we took absolute values), and their roots lie above the threshold: even those whose
# true value is zero.
#
# ## Masked tokens are left out, not set to zero
#
# Prompts have different lengths, and some tokens do not count (padding, function words). It is
# tempting to keep their rows and fill them with zeros.
#
# > **Statement 6.** Zero rows added to a matrix of codes change none of its nonzero singular values,
# > hence no rank rule that ignores the shape. But $z$ of them beside $m$ others shrink the mean by the factor
# > $m/(m+z)$, so they change the spectrum after centring, unless the mean is zero; and for $z \ge 2$ they lie at
# > distance zero from each other, the densest cluster there can be.
#
# *Proof.* For $\tilde Z = \begin{pmatrix} Z \\ 0 \end{pmatrix}$, $\tilde Z^\top \tilde Z = Z^\top Z$. The sum of
# the rows is the same and their number is not. Identical rows lie at distance zero. $\square$
#
# Two clusters on a line make the point: uncentred and centred, with and without zero rows.

# %%
centres = np.array([[3.0, 1.0], [1.5, 2.5]])
tokens = np.vstack([c + 0.15 * rng.standard_normal((20, 2)) for c in centres])
zeroed = np.vstack([tokens, np.zeros((n_masked, 2))])
assert np.allclose(svdvals(tokens), svdvals(zeroed))
assert np.allclose(zeroed.mean(0), tokens.mean(0) * len(tokens) / len(zeroed))

# %%
clouds = {"tokens that count": tokens, "with zero rows": zeroed}
spectra = {name: svdvals(cloud - cloud.mean(0)) for name, cloud in clouds.items()}
soft = {name: RULES["participation"](s, (len(s), 2)).value for name, s in spectra.items()}
clusters = {name: DBSCAN(eps=0.6, min_samples=3).fit_predict(x) for name, x in clouds.items()}
assert [len(set(labels)) for labels in clusters.values()] == [2, 3]
assert soft["with zero rows"] > soft["tokens that count"] + 0.2

# %% mystnb={"image": {"alt": "Left: two clusters of tokens with their mean between them. Right: the same with zero rows: a third cluster at the origin, and a mean pulled towards it.", "classes": "dark-light"}, "figure": {"caption": "Zero rows change no singular value, but they pull the mean and form a cluster of their own.", "name": "masked-tokens"}}
plots.plot_masked(clouds, clusters)

# %%
record.numbers["participation_ratio_centred"] = soft
display(
    Markdown(
        "Participation ratio of the centred codes: "
        + ", ".join(f"{value:.2f} ({name})" for name, value in soft.items())
        + ". Nothing was added but the word *absent*, written as zero."
    )
)

# %% [markdown]
# ### A zero is not "absent"
#
# In a tensor the damage reaches even the uncentred rank. Take two prompts that say the same,
# with codes $u$ then $v$, where the second stops after its first token.

# %%
u, v = torch.tensor([1.0, 0, 2, 0]), torch.tensor([0, 3.0, 0, 1])
padded = torch.stack([torch.stack([u, v]), torch.stack([u, torch.zeros(4)])])
common = padded[:, :1]
rank_padded, rank_common = (matrix_rank(unfold(z, 1)) for z in (padded, common))
assert (rank_padded, rank_common) == (2, 1)

# %% [markdown]
# Padded, the two prompts count as two independent directions; on the token that both have,
# they are one. The zero has turned a difference in *length* into a difference in *rank*. A zero row
# is also a legitimate code: it says "no feature is active here", which is a finding about
# a token. And masking before the encoder is worse: an SAE maps the zero vector to whatever
# its biases say, $\mathrm{ReLU}(b)$, which is not zero.
#
# Therefore masks are boolean in this book, masked tokens are absent, and prompts are cut to
# common slots before a tensor is formed.
#
# ## Summary
#
# - A third-order tensor has three unfoldings, hence three SSPD matrices and three ranks.
# - $r_1 \le r_2 r_3$ and permutations; $r_3$ is at most the number of tokens and of active features.
# - The spectrum is taken from the unfolding. Its Gram matrix has the same rank on paper and half of the digits.
# - Masked is absent. Zero rows leave the singular values alone, and change mean, distances and
#   clusters; zero slots change mode ranks as well.
#
# What [noise does to a rank](noise_and_rank.ipynb) and what a rank says about
# [the cone of SSPD matrices](cone_of_sspd_matrices.ipynb) are told on the next pages.
#
# ## Exercises
#
# 1. Can a tensor of shape $3 \times 2 \times 4$ have mode ranks $(3, 1, 2)$?
# 2. What are the mode ranks of $Z_{p,t,f} = a_p b_t c_f$ with nonzero vectors $a, b, c$? And of a
#    sum of two such tensors?
# 3. With 12 prompts and a single slot, what is the largest feature rank, and what is $Z_{(2)}$?
#
# ```{dropdown} Solutions
# 1. No: $r_1 \le r_2 r_3$ would read $3 \le 2$.
# 2. All are 1, since each unfolding is an outer product such as $a\,(b \otimes c)^\top$. For a sum of two, every mode rank is at most 2.
# 3. 12, by Statement 4. $Z_{(2)}$ is a single row, so its rank is 1 unless $Z = 0$.
# ```

# %%
record.write()
