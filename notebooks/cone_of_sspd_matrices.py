# %% [markdown]
# # The cone of SSPD matrices
#
# Case 1 of this book watches the rank of symmetric positive semidefinite (SSPD) matrices. This
# page is about the space in which such matrices live: a cone, cut by rank into smooth pieces. You will see
#
# - the cone of $2 \times 2$ matrices, and a matrix that moves through it;
# - its pieces (*strata*): how large they are, how they fit together, and how far away the next
#   one is, each as a statement with a proof and a computed example;
# - what a change of rank does **not** show: a smooth family whose rank drops, and a family of
#   constant rank whose data are no manifold.
#
# **Whose is what?** That the rank of an SSPD matrix is observed is the paper's `[abstract]`. That
# a varying rank is read as stratification is `[ours]`, after {cite}`shrivastava2024`. The
# mathematics here is known; the sources stand beside it. The choice of examples is `[ours]`.

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
from IPython.display import Markdown, display
from numpy.linalg import eigh, eigvalsh, matrix_rank, norm, svdvals

from saerepgeo_lib import plots
from saerepgeo_lib.companion import Record
from saerepgeo_lib.plots.frames import frames, recompute
from saerepgeo_lib.rank import weyl_bounds
from saerepgeo_lib.synthetic import cone_coordinates, cone_path, factor_jacobian

# %matplotlib inline
plots.house_style()

# %% tags=["parameters"]
seed: int = 0  # seed of every random draw
n: int = 5  # rows of the matrices in the numerical checks, at least 3
n_draws: int = 200  # random matrices a check, at least 20

# %%
record = Record.start("cone_of_sspd_matrices", globals())
rng = np.random.default_rng(seed)

# %% [markdown]
# ## A cone that can be seen
#
# A symmetric matrix $A$ is *positive semidefinite* if $v^\top A v \ge 0$ for every vector $v$;
# equivalently, if no eigenvalue is negative; equivalently, if $A = M M^\top$ for some $M$. A
# symmetric $2 \times 2$ matrix has three free entries,
#
# $$A = \begin{pmatrix} a & b \\ b & c \end{pmatrix},$$
#
# and we draw it at the point
#
# $$\Big( \tfrac{a-c}{\sqrt 2},\; \sqrt 2\, b,\; \tfrac{a+c}{\sqrt 2} \Big) \in \mathbb R^3.$$
#
# In these coordinates the distance between two points is the Frobenius distance between the two matrices. Write
# $h$ for the third coordinate and $\rho$ for the length of the first two. The eigenvalues are
# $(h \pm \rho)/\sqrt 2$, so $A$ is positive semidefinite exactly when $h \ge \rho$: an upright circular cone. Its
# inside has rank 2, its surface rank 1, its tip rank 0. We send a matrix on a tour through all three. The formula
# for the eigenvalues is checked on the way. Then we look.

# %%
t = np.linspace(0, 4, 401)
path = cone_path(t)
points, eigenvalues, path_ranks = cone_coordinates(path), eigvalsh(path)[:, ::-1], matrix_rank(path)
h, rho = points[:, 2], norm(points[:, :2], axis=1)
assert np.allclose(eigenvalues, np.stack([h + rho, h - rho], axis=1) / np.sqrt(2))
assert set(path_ranks) == {0, 1, 2}

# %% mystnb={"image": {"alt": "A cone of revolution, tip down. A path starts inside it, reaches the surface, runs along the surface down to the tip, and leaves the tip into the inside. Below: the smaller eigenvalue reaches zero at t = 1, both are zero at t = 3 only; the rank is 2, then 1, is 0 at the single point t = 3, then 2 again.", "classes": "dark-light"}, "figure": {"caption": "The cone of symmetric positive semidefinite 2 x 2 matrices in the coordinates above (third one upwards), and a path through its three strata. Eigenvalues move continuously; rank jumps.", "name": "cone-path"}}
plots.plot_cone_path(t, points, eigenvalues, path_ranks)

# %% [markdown]
# Walk it yourself. With a kernel the last lines take any matrix $M M^\top$ with $M$ lower triangular, which is every
# matrix of the cone.


# %% mystnb={"figure": {"caption": "One place on the path at a time: the matrix as a point of the cone, its eigenvalues and its rank.", "name": "cone-walk"}}
def product(m11, m21, m22):
    m = np.array([[m11, 0], [m21, m22]])
    return plots.cone_frame(m @ m.T, points, label="your matrix")


walk = [plots.cone_frame(path[i], points, label=f"t = {t[i]:.1f}") for i in range(0, 401, 20)]
recompute(product, m11=(0.0, 1.0, 0.05), m21=(-1.0, 1.0, 0.05), m22=(0.0, 1.0, 0.05))
frames(
    walk, control="Place on the path", start=5,
    shows="A cone, tip down, with the path and the matrix as a dot; beside it two bars, the eigenvalues.",
)  # fmt: skip

# %% [markdown]
# Two things to keep in mind. The eigenvalues change continuously while the rank jumps: a rank
# throws away how close a singular value is to zero. And at the tip the rank is low *at one
# point* and higher right beside it, never the other way round. Statement 5 says that this is a law.
#
# ## Statement 1: a convex cone
#
# > **Statement 1.** If $A$ and $B$ are SSPD and $\alpha, \beta \ge 0$, then $\alpha A + \beta B$ is SSPD. For
# > $\alpha, \beta > 0$ its kernel is $\ker A \cap \ker B$, so its rank is at least the larger of the two ranks.
#
# *Proof.* $v^\top(\alpha A + \beta B)v = \alpha\, v^\top A v + \beta\, v^\top B v \ge 0$. For positive $\alpha, \beta$
# it is zero only if both terms are, and for an SSPD matrix $v^\top A v = |A^{1/2} v|^2 = 0$ means $A v = 0$. $\square$
#
# We mix random matrices of rank 1 and 2, and look at the smallest eigenvalue and the rank.


# %%
def random_sspd(size: int, rank: int) -> np.ndarray:
    m = rng.standard_normal((size, rank))
    return m @ m.T


mixtures = [
    rng.uniform(0.1, 2) * random_sspd(n, 1) + rng.uniform(0.1, 2) * random_sspd(n, 2)
    for _ in range(n_draws)
]
assert eigvalsh(mixtures).min() > -1e-12 and matrix_rank(mixtures).min() >= 2

# %% [markdown]
# So **pooling does not lower the rank**. The matrix $X^\top X$ of a pooled set of tokens is the sum of
# the matrices of its parts: its rank is at least that of each part. A low-dimensional part of
# a representation can be invisible in the rank of the whole.
#
# ## Statement 2: each stratum is smooth
#
# Let $S(n, r)$ be the set of $n \times n$ SSPD matrices of rank exactly $r$. The cone is the
# disjoint union of $S(n, 0), \dots, S(n, n)$.
#
# > **Statement 2.** $S(n, r)$ is a smooth embedded submanifold of the symmetric matrices, of dimension $nr - r(r-1)/2$.
#
# *Proof.* Let $A \in S(n, r)$. Some $r$ rows and the same columns form an invertible block (take $A = M M^\top$ with
# $M$ of size $n \times r$, and $r$ independent rows of $M$); number them first. Near $A$ every symmetric matrix is
#
# $$\begin{pmatrix} B & C \\ C^\top & D \end{pmatrix}$$
#
# with $B$ positive definite of size $r$, and its rank is $r + \operatorname{rank}(D - C^\top B^{-1} C)$, by elimination. So it lies in
# $S(n, r)$ exactly when $D = C^\top B^{-1} C$ (it is then SSPD, as
# $\begin{pmatrix} B & C \end{pmatrix}^\top B^{-1} \begin{pmatrix} B & C \end{pmatrix}$): near $A$, $S(n, r)$ is the graph of a smooth
# function of $(B, C)$. Counting entries, $r(r+1)/2 + r(n-r) = nr - r(r-1)/2$. $\square$
# (See {cite}`vandereycken2009,helmke1995`.)
#
# The same count appears in a second way. The tangent space at $M M^\top$ consists of the matrices
# $H M^\top + M H^\top$. This map sends $H$ to zero exactly when $H = M K$ with skew-symmetric $K$, a space of
# dimension $r(r-1)/2$; and $nr - r(r-1)/2$ is left. We compute the rank of this derivative at a random $M$, for
# every size and rank. Every entry of this table was measured, and each agrees with the formula.

# %%
measured = {}
for size in range(1, n + 1):
    ranks = range(1, size + 1)
    jacobians = [factor_jacobian(rng.standard_normal((size, r))) for r in ranks]
    measured[size] = {
        f"rank {r}": int(matrix_rank(j)) for r, j in zip(ranks, jacobians, strict=True)
    }
    assert [*measured[size].values()] == [size * r - r * (r - 1) // 2 for r in ranks]
record.tables["dimensions"] = dimensions = pd.DataFrame(measured).T
dimensions.style.format(precision=0, na_rep="").format_index("{0} x {0}", axis=0)

# %% [markdown]
# ## Statement 3: how the strata fit together
#
# > **Statement 3.** The closure of $S(n, r)$ is $S(n, 0) \cup S(n, 1) \cup \dots \cup S(n, r)$.
#
# *Proof.* Limits of SSPD matrices are SSPD, and the rank of a limit is at most $r$ (Statement 5). Conversely, let
# $A = \sum_{i \le q} \lambda_i v_i v_i^\top$ have rank $q \le r$, with orthonormal $v_i$. Then
# $A + \delta \sum_{q < i \le r} v_i v_i^\top$ has rank $r$ for every $\delta > 0$, and tends to $A$. $\square$
#
# We approach a matrix of rank 1 from within $S(n, 3)$, and print rank and distance.

# %%
vectors = np.linalg.qr(rng.standard_normal((n, n))).Q
low = np.outer(vectors[:, 0], vectors[:, 0])
more = vectors[:, 1:3] @ vectors[:, 1:3].T
deltas = np.array([1.0, 1e-2, 1e-4, 1e-8])
approach = pd.DataFrame({"delta": deltas, "rank": [matrix_rank(low + d * more) for d in deltas]})
approach["distance"] = [norm(delta * more) for delta in deltas]
assert matrix_rank(low) == 1 and (approach["rank"] == 3).all()
assert np.allclose(approach["distance"], np.sqrt(2) * approach["delta"])
approach.style.format({"delta": "{:.0e}", "distance": "{:.1e}"}).hide(axis="index")

# %% [markdown]
# > **Statement 4.** The strata $S(n, 0), \dots, S(n, n)$ form a *Whitney stratification* of the
# > cone: where a stratum meets a higher one, tangent spaces (condition a) and secants
# > (condition b) of the higher one have limits that fit the lower one.
#
# *Reference and idea.* $S(n, r)$ is one orbit of the invertible matrices $g$ acting by $A \mapsto g A g^\top$.
# There are finitely many orbits. Whitney's conditions hold at almost every point of a semialgebraic stratum, and
# a group that moves every point of a stratum to every other carries them to all its points ({cite}`gibson1976`,
# chapter I). We do not prove the general theorem here.
#
# In the picture above, condition (b) at the tip can be read off: the secant from the tip to a point of the surface lies
# in the surface, hence in its tangent plane. For condition (a) we compute. Take $A_\delta = M_\delta M_\delta^\top$ of
# rank 2 that tends to $u u^\top$ of rank 1, and ask for the largest angle between a tangent vector of $S(n, 1)$ at
# $u u^\top$ and the tangent space of $S(n, 2)$ at $A_\delta$. It must tend to zero.


# %%
def tangent_basis(*columns: np.ndarray) -> np.ndarray:
    jacobian = factor_jacobian(np.stack(columns, axis=1))
    return np.linalg.svd(jacobian)[0][:, : matrix_rank(jacobian)]


u, v, w = rng.standard_normal((3, n))
below, sines = tangent_basis(u), []
for delta in deltas:
    above = tangent_basis(u + delta * w, np.sqrt(delta) * v)
    sines.append(norm(below - above @ (above.T @ below), 2))
assert np.all(np.diff(sines) < 0) and sines[-1] < 1e-6
listed = ", ".join(f"{s:.1e} ({d:.0e})" for s, d in zip(sines, deltas, strict=True))
display(Markdown(f"Sine of the largest angle, by delta: {listed}."))

# %% [markdown]
# ## Statement 5: distance to the lower strata
#
# Write $s_1 \ge s_2 \ge \dots$ for singular values (for an SSPD matrix these are its
# eigenvalues), $\|\cdot\|_2$ for the largest one and $\|\cdot\|_F$ for the Frobenius norm.
#
# > **Statement 5.** (Eckart and Young; Mirsky.) For every matrix $A$,
# > $\min_{\operatorname{rank} B \le r} \|A - B\|_2 = s_{r+1}$ and
# > $\min_{\operatorname{rank} B \le r} \|A - B\|_F = (s_{r+1}^2 + s_{r+2}^2 + \dots)^{1/2}$. The truncated
# > decomposition $A_r = \sum_{i \le r} s_i u_i v_i^\top$ attains both; if $A$ is SSPD, so is $A_r$. Hence rank is
# > *lower semicontinuous*: if $A$ has rank $r$ and $\|E\|_2 < s_r$, then $A + E$ has rank at least $r$.
#
# *Proof.* $\|A - A_r\|$ has the stated values. Let $B$ have rank at most $r$. Its kernel has codimension at most
# $r$, so it meets the span of the first $r + 1$ right singular vectors of $A$ in some unit vector $x$, and
# $\|A - B\|_2 \ge |(A - B)x| = |Ax| \ge s_{r+1}$. (For the Frobenius norm, apply Weyl's
# $s_{i+r}(A) \le s_i(A - B) + s_{r+1}(B) = s_i(A-B)$ for each $i$.) The last sentence: a matrix $A+E$ of rank at
# most $r-1$ would have $\|E\|_2 \ge s_r$. $\square$ (See {cite}`eckart1936,golub2013`.)
#
# In the $2 \times 2$ cone the Frobenius distance to the surface is the smaller eigenvalue, so we
# can draw it: balls of radius $s_2$ touch the surface.

# %%
diagonals = np.array([np.diag(pair) for pair in ([0.9, 0.35], [0.15, 0.8], [0.2, 0.16])])
to_rank_one, at = svdvals(diagonals)[:, 1], cone_coordinates(diagonals)
assert np.allclose(to_rank_one, (at[:, 2] - np.abs(at[:, 0])) / np.sqrt(2))

# %% mystnb={"image": {"alt": "A vertical slice through the cone: a right angle with its tip down. Three matrices of rank 2 lie inside; a circle around each, with its smaller singular value as radius, touches the sides of the cone.", "classes": "dark-light"}, "figure": {"caption": "The second singular value is the distance to the matrices of rank 1.", "name": "cone-distance"}}
display(plots.plot_cone_distance(at, to_rank_one).figure)

# %% [markdown]
# The same in $n$ dimensions: the truncation reaches the bound, and none of many random
# matrices of rank 2, each scaled to come as close as it can, does better.

# %%
a = random_sspd(n, n)
s, (values, basis) = svdvals(a), eigh(a)
truncated = basis[:, -2:] * values[-2:] @ basis[:, -2:].T
assert np.isclose(norm(a - truncated, 2), s[2])
assert np.isclose(norm(a - truncated), np.sqrt((s[2:] ** 2).sum()))
others = [rng.standard_normal((n, 2)) @ rng.standard_normal((2, n)) for _ in range(n_draws)]
others = [b * (a * b).sum() / (b * b).sum() for b in others]
others.append(truncated + 1e-3 * random_sspd(n, 1) @ truncated)
assert min(norm(a - b, 2) for b in others) >= s[2] - 1e-12
assert matrix_rank(others[-1]) == 2 and matrix_rank(truncated) == 2

# %% [markdown]
# And lower semicontinuity: no random change of a matrix of rank 3 by less than $s_3$ lowers its rank (such
# changes raise it), and the change of size exactly $s_3$ that removes the last direction does lower it.

# %%
b = random_sspd(n, 3)
s, (values, basis) = svdvals(b), eigh(b)
changes = (rng.standard_normal((n, n)) for _ in range(n_draws))
after = [int(matrix_rank(b + 0.99 * s[2] * e / norm(e, 2))) for e in changes]
removed = b - values[-3] * np.outer(basis[:, -3], basis[:, -3])
assert min(after) >= 3 and max(after) == n and matrix_rank(removed) == 2
assert np.isclose(norm(b - removed, 2), s[2])
record.numbers["ranks_after_small_change"] = {str(r): after.count(r) for r in sorted(set(after))}

# %% [markdown]
# ## Statement 6: the cone itself is no more than a half-space
#
# > **Statement 6.** As a topological space the cone is a manifold with boundary: it is
# > homeomorphic to a closed half-space, and its boundary is the set of singular matrices.
#
# *Proof.* Send a symmetric matrix $A$ to its traceless part and its least eigenvalue,
# $A \mapsto (A - \tfrac{\operatorname{tr} A}{n} I,\; \lambda_{\min}(A))$. This is continuous, and so
# is its inverse $(T, \lambda) \mapsto T + (\lambda - \lambda_{\min}(T)) I$. The cone is
# exactly the part with $\lambda_{\min} \ge 0$. $\square$

# %%
symmetric = rng.standard_normal((n_draws, n, n))
symmetric = symmetric + symmetric.transpose(0, 2, 1)
trace = np.trace(symmetric, axis1=1, axis2=2)[:, None, None]
traceless, least = symmetric - trace / n * np.eye(n), eigvalsh(symmetric)[:, 0]
lift = least - eigvalsh(traceless)[:, 0]
assert np.allclose(traceless + lift[:, None, None] * np.eye(n), symmetric)

# %% [markdown]
# So "stratified" is not opposed to "manifold" here. The strata describe *how rank cuts the cone*, as it sits
# among the symmetric matrices; the space underneath has no singularity but an edge. (It is not a *smooth*
# manifold with boundary inside the symmetric matrices: the tip of the $2 \times 2$ cone is a conical point.)
#
# ## The caveat: what a change of rank does not show
#
# > **Statement 7.** (i) A smooth family can change its rank: $t \mapsto \mathrm{diag}(1, t^2)$ is a smooth curve of
# > SSPD matrices with rank 2 for $t \ne 0$ and rank 1 at $t = 0$. (ii) The *data* behind it can be one smooth manifold
# > all the time. (iii) Constant rank does not make the data a manifold.
#
# *Proof.* (i) Its entries are polynomials in $t$. If the curve's turning back at $t = 0$ seems to matter:
# $\begin{pmatrix} 1 & t \\ t & 2t^2 \end{pmatrix}$ has nonzero velocity everywhere, determinant $t^2$, and the
# same ranks. (ii) Put $N \ge 3$ equally spaced points on the circle $(\cos\theta, \sin\theta, t)$ at height $t$
# as rows of $X_t$. Then $X_t^\top X_t = \mathrm{diag}(N/2, N/2, N t^2)$: rank 3 for $t \ne 0$, rank 2 at $t = 0$,
# yet for every $t$ the data lie on a round circle, and together on a cylinder. (iii) Put points on two lines that
# cross in the plane, symmetrically. Their matrix has rank 2, and by Weyl's inequality it keeps rank 2 under every
# noise in the plane with $\|E\|_2 < s_2$. But the cross is no manifold: without the crossing point it falls into
# four pieces, where a curve would fall into at most two. $\square$
#
# We build the three families and compute every rank. The circle's rank is that of $X_t$, which is the rank of its
# SSPD matrix $X_t X_t^\top$ too. The noise on the cross stays below its $s_2$, so its rank is certified.

# %%
t = np.linspace(-1, 1, 201)
curve = [np.diag([1, height**2]) for height in t]
theta = np.linspace(0, 2 * np.pi, 60, endpoint=False)
circle = np.stack([np.cos(theta), np.sin(theta), np.zeros_like(theta)], axis=1)
lifted = np.array([circle + np.array([0, 0, height]) for height in t])
arm = np.linspace(-1, 1, 41)[:, None]
cross = np.vstack([arm * [1, 1], arm * [1, -1]])
noise = rng.standard_normal(cross.shape)
noise *= 0.2 * svdvals(cross)[1] / svdvals(noise)[0]
noisy = [cross + x * noise for x in t]

# %%
data = {"t": curve, "height t": lifted, "noise, from -E to +E": noisy}
families = {name: matrix_rank(family) for name, family in data.items()}
assert (families["t"] == np.where(t == 0, 1, 2)).all()
assert (families["height t"] == np.where(t == 0, 2, 3)).all()
assert (families["noise, from -E to +E"] == 2).all()
assert weyl_bounds(svdvals(cross), svdvals(noise)[0], threshold=(1e-9, 1e-9)) == (2, 2)

# %% mystnb={"image": {"alt": "Three rows, a family on the left and its rank on the right. A smooth curve of matrices: rank 2, but 1 at t = 0. A round circle lifted through the origin's height: rank 3, but 2 at height 0. Two crossing lines with noise in the plane: rank 2 throughout, although a cross is no manifold.", "classes": "dark-light"}, "figure": {"caption": "Rank and shape of the data are different questions. Above and middle: the rank drops, all is smooth. Below: the rank is constant, the data are no manifold.", "name": "caveat"}}
plots.plot_caveat(t, families, lifted[::50], cross + 0.5 * noise)

# %% [markdown]
# ```{admonition} What follows for reading Case 1
# :class: important
# A rank that changes over noise levels shows that the *family of matrices* meets several strata
# of the cone. It does not show that the *data* lie on a stratified space: rows one and two. A rank that stays
# constant does not show a manifold: row three. So the profile in
# [Case 1](stratified_manifold.ipynb) is evidence only in comparison with representations in
# which nothing sparse was learned, and even then it is evidence about spectra, not a proof about shape.
# ```
#
# What noise itself does to a rank, with and without an encoder, is the subject of [Noise and rank](noise_and_rank.ipynb).
# How a tensor of latents becomes a matrix is shown in [Unfolding a tensor](unfolding_a_tensor.ipynb).
#
# ## Summary
#
# - The SSPD matrices form a convex cone. Rank cuts it into smooth strata; the closure of each adds all lower ones.
# - $s_{r+1}$ is the distance to rank at most $r$; so small changes never lower the exact rank.
# - As a space, the cone is a half-space. Strata are about rank, not about singular shape.
# - A change of rank does not prove stratified data, and a constant rank proves no manifold.
#
# ## Exercises
#
# 1. What is the dimension of the set of singular $n \times n$ SSPD matrices, and what does it
#    say about a generic smooth path in the cone?
# 2. Find a curve of SSPD matrices with rank 1 throughout whose data, as $t$ varies, change from two points to one.
# 3. Centre the lifted circle's data before you compute its rank. What happens, and what does it
#    say about centring in Case 1?
#
# ```{dropdown} Solutions
# 1. The singular ones are the closure of $S(n, n-1)$, of dimension
#    $n(n-1) - (n-1)(n-2)/2 = n(n+1)/2 - 1$: one less than the cone. A generic path of *symmetric* matrices
#    crosses such a set at single points. A path that stays *in the cone* cannot cross it: the least eigenvalue
#    would have to be zero at a minimum, which a generic path avoids. So a generic smooth path in the cone has
#    full rank throughout. (The matrices of Case 1 are not generic in the cone: with fewer tokens than features $G_3$
#    never has full rank. The same argument applies within the closure of the stratum that its shape allows.)
# 2. Take the points $1$ and $1 + t$ on a line, as the two rows of $X_t$. Then $X_t X_t^\top$ has rank 1 for
#    every $t$, and at $t = 0$ the two points coincide.
# 3. Centred, the third column vanishes and the rank is 2 at every height. The drop was due to the mean
#    alone: a rank of uncentred data mixes where the cloud is with what shape it has.
# ```

# %%
record.numbers["angles_to_higher_stratum"] = dict(zip(map(str, deltas), sines, strict=True))
record.write()
