# %% [markdown]
# # What it costs · How far from the machine's limits?
#
# A study of geometry is thousands of encodes, spectra and clusterings. This page says what each stage costs, how far
# that is from what the machine could do, how it grows, and what doing it plainly would cost.
#
# On this page you will see
#
# - each stage's time beside a *floor*, the time of its products (or bytes) at the machine's rates;
# - the library beside a plain implementation that runs the model again at every noise level;
# - which costs grow in proportion to the data, and which faster;
# - the least that a laptop or a GPU could take.
#
# **Preset**: none. Models and SAEs have the shapes of known ones and **random weights**; prompts are the concepts' own.
# Products cost the same whatever the weights; the number of clusters and how tokens share features do depend on them, so
# a trained SAE's spectra, clusters and searches cost somewhat else. Nothing is measured while this page runs: it reads the
# tables that the benchmarks left. `make bench` measures again and says what got slower.
#
# **Whose is what?** All `[ours]`.

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

from saerepgeo_lib.companion import Record, read_costs
from saerepgeo_lib.plots import house_style, looks_of, profile
from saerepgeo_lib.plots.panels import axes_grid, legend_below, named_rows, stacked_bars
from saerepgeo_lib.plots.style import COLOURS

# %matplotlib inline
house_style()

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
measured: str = ""  # tables made by `python -m benchmarks.page`; empty: those of the book

# %% tags=["hide-input"]
record = Record.start("what_it_costs", globals())
with record.stage("read"):
    about, tables = read_costs(measured)
machine = about["machine"]
MISSING = "*Not in this record.*"
display(
    Markdown(
        f"Measured on {', '.join(about['dates'])} (each part in a call of its own) with {machine.get('gpu', machine['cpu'])}, {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB, torch {machine['torch']}.\n\nNot in this record: "
        + ("; ".join(f"{part['what']} ({part['why']})" for part in about["left out"]) or "nothing")
        + "."
    )
)

# %% [markdown]
# ## What was aimed at
#
# The aims were set before anything was measured, for the shape of GPT-2 small with its SAE; how they are judged was settled
# later. Of Case 1 the aim can be read in two ways, and both are judged. Growth and memory were measured on synthetic tokens
# at the smaller width of MiniLM. What stands behind each number is told below.

# %%
record.tables["aims"] = tables["aims"]
record.tables["aims"].style.hide(axis="index")

# %% [markdown]
# ## The machine's limits
#
# Seconds compare badly between machines. So the stages' benchmark first measures how fast this one multiplies matrices and
# copies memory; stages are read against these rates.

# %%
record.tables["limits"] = tables["limits"]
record.tables["limits"].style.format(precision=0).hide(axis="index")

# %% [markdown]
# ## Each stage beside its floor
#
# The floor of the residuals is one forward pass up to the hook, counted by the weights that every attended token meets. The
# floor of a sweep over noise levels is *two* products, not one a level: what an encoder multiplies is affine in its
# input, so $(x + s\,e)\,W = xW + s\,(eW)$, and the second part serves every level $s$ (where the SAE normalises
# its input there is one factor a token besides). The rate is that of one product of the encoder's shape. That the latents are those of the SAE's own `encode` is tested for SAELens'
# standard, TopK, JumpReLU and gated SAEs; any other kind, and products too large to hold, are encoded level by level.
# Case 1's floor is the forward pass and these products; its spectra are not in it. For the others the mark is no limit but the
# work of the way that is taken: of clusters a Gram matrix and its reduction, of valid edits the bytes of the decoder's rows, of
# Case 3 its number of steps.

# %% mystnb={"image": {"alt": "Horizontal bars of seconds by stage on a logarithmic axis, one panel a shape, each with a mark for its floor.", "classes": "dark-light"}, "figure": {"caption": "Time of each stage on one concept (months), and its floor.", "name": "stages"}} tags=["hide-input"]
record.tables["stages"] = stages = tables["stages"]
names, shapes = list(stages["stage"].unique()), stages.groupby("shape", sort=False)
figure, axes = axes_grid(len(shapes), columns=3, height=3.4, sharey=True)
for ax, (shape, rows) in zip(axes, shapes, strict=True):
    place = rows["stage"].map(names.index)
    named_rows(ax, names).barh(place, rows["seconds"], height=0.6, color=COLOURS[0], label="time")
    ax.plot(rows["floor"], place, "D", color=COLOURS[1], ms=5, label="floor")
    ax.set(xscale="log", xlabel="seconds")
    ax.set_title(shape, fontsize=10)
legend_below(figure)
figure if axes else Markdown(MISSING)

# %%
stages.style.format(precision=2, na_rep="–", subset=["seconds", "CPU s", "floor", "share"]).format(
    precision=0, na_rep="–", subset=["peak MiB"]
).hide(axis="index")

# %% [markdown]
# *share* is floor over time. A small share means that the stage is made of something else than the products counted.

# %% tags=["hide-input"]
record.tables["near the limit"] = near = tables["near the limit"]


def near_in_words(row: dict) -> str:
    beside = (
        f", {100 * row['paired share']:.0f} % of the rate of one timed just before it (median of {row['pairs']} pairs)"
        if row["pairs"]
        else ""
    )
    return (
        f"- {row['shape']}: the encode sweep reaches {100 * row['encode share']:.0f} % of the best rate of a product of its "
        f"shape ({100 * row['square share']:.0f} % of the square product's) with the two products it takes{beside}; with "
        f"the ten that these stand for, {row['encode effective']:.1f} times the best rate. Case 1 without nulls takes "
        f"{row['Case 1 / floor']:.1f} times its floor, and {row['Case 1 / own pass']:.2f} times the library's own forward "
        "pass, as measured, and the two products."
    )


display(Markdown("\n".join(map(near_in_words, near.to_dict("records"))) or MISSING))

# %% [markdown]
# Where the last number told is about one, what lies between Case 1 and its floor is the forward pass itself (a pass varies from
# call to call, so it may fall below one too); where it is well above, there is other work too.
#
# ## Beside the plain way
#
# The plain side is what one writes first: run the whole model with noise added at the hook, for every level, with
# `run_with_cache` as it is (logits and all, on the model as the library loads it); encode every token, padding too; keep the dense latents of all levels; decompose their
# unfoldings as they are, which are those of a larger tensor than the library's. *Lean* is the same but decomposes the library's tokens only; tests show that it gives the
# library's spectra. Most of the ratio is the spectra of the larger tensor, then the repeated forward pass. *Careful*
# saves both: one pass up to the hook, noise added after it, and the library's tokens alone encoded and decomposed level by
# level. What is between it and the library is what this library does otherwise.
#
# For Case 3 the plain side moves dense copies of all latents at every step. *Library* is the call of Case 3's page, which
# adds intervals and distances; *searched* is the library's search alone, the plain side's counterpart.

# %% mystnb={"image": {"alt": "Stacked bars of CPU seconds of Case 1, for the library and the plain sides. In the shipped record, at one noise level the forward pass is most of the library's time; over ten levels the plain side pays for spectra most, then for the model at each level, and the careful side for the model once.", "classes": "dark-light"}, "figure": {"caption": "CPU seconds of Case 1 by part, over the same concepts, one draw of noise. *: computed from one level.", "name": "peers"}} tags=["hide-input"]
record.tables["peers"] = peers = tables["peers"]
case1 = peers[peers["case"] == 1]
# sums over fewer concepts would look cheap
case1 = case1[case1["concepts"] == case1.groupby("task")["concepts"].transform("max")]
PARTS = [
    part
    for part in ("model", "encode", "spectra", "encode and spectra")
    if part in case1 and case1[part].any()
]
looks = {
    part: {"color": COLOURS[i], "hatch": ("", "//", "..", "xx")[i]} for i, part in enumerate(PARTS)
}
sides = [side for side in ("library", "careful", "lean", "plain") if side in set(case1["side"])]
tasks = case1.groupby("task", sort=False)
figure, axes = axes_grid(len(tasks), height=2.4, sharey=True)
for ax, (task, rows) in zip(axes, tasks, strict=True):
    rows = rows.set_index("side").reindex(sides)
    stacked_bars(ax, sides, {part: rows[part] for part in PARTS}, looks)
    total = rows[PARTS].sum(axis=1)
    for place, (seconds, how) in enumerate(zip(total, rows["how"].fillna(""), strict=True)):
        mark = "*" if how.startswith("computed") else ""
        ax.text(seconds, place, f" {seconds:,.0f} s{mark}", va="center", fontsize=9)
    ax.set(xlim=(0, 1.4 * total.max()), xlabel="CPU seconds")
    ax.set_title(task, fontsize=10)
legend_below(figure)
figure if axes else Markdown(MISSING)

# %%
peers.dropna(axis=1, how="all").style.format(precision=1, na_rep="–").hide(axis="index")

# %% tags=["hide-input"]
display(
    Markdown(
        "\n".join(
            f"- Case {row['case']}, {row['task']}: the {row['side']} side takes {row['ratio']:.1f} times the library's CPU time "
            f"on {row['concepts']} concept{'s' if row['concepts'] > 1 else ''} ({row['how']})."
            for row in peers.sort_values(["case", "task", "ratio"]).to_dict("records")
            if row["side"] != "library"
        )
        + f"\n\nThe plain side keeps the latents of all levels: at ten levels, of the largest concept, "
        f"{about['dense GB'] or float('nan'):.1f} GB by their shape (computed)."
    )
)

# %% [markdown]
# ## How cost grows
#
# One size changed at a time, on synthetic tokens; a cost of $a + b\,n^p$ is fitted. The intervals count repeats of a call
# one by one.

# %% mystnb={"image": {"alt": "Cost over the smallest size's cost against size, logarithmic axes, one panel for prompts, tokens, features, levels and seeds, with a dashed line of exponent one. In the shipped record spectra, clusters and the sweep rise above the line with prompts and tokens; with levels and seeds the sweep keeps close to it.", "classes": "dark-light"}, "figure": {"caption": "Growth of each stage's CPU time along each axis.", "name": "growth"}} tags=["hide-input"]
points = tables["growth points"]
looks = looks_of(points["stage"].unique())
figure, axes = axes_grid(points["axis"].nunique(), height=2.3, extra=1.1)
for ax, (axis, rows) in zip(axes, points.groupby("axis", sort=False), strict=True):
    for stage, costs in rows.groupby("stage", sort=False):
        first = costs.iloc[0]
        size = costs["size"].to_numpy() / first["size"]
        profile(ax, size, costs["seconds"] / first["seconds"], look=looks[stage], lw=1.2, ms=4)
    ends = [1, rows["size"].max() / rows["size"].min()]
    ax.plot(ends, ends, color="0.5", lw=1, ls="--")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    ax.set_title(f"{axis}: times more", fontsize=10)
    ax.set_ylabel("times the cost", fontsize=9)
legend_below(figure, looks | {"exponent 1": {"color": "0.5", "ls": "--"}})
figure if axes else Markdown(MISSING)

# %%
record.tables["growth"] = growth = tables["growth"]
growth.style.format(precision=2, subset=["exponent", "low", "high"]).format(
    precision=0, na_rep="–", subset=["MiB first", "MiB last"]
).hide(axis="index")

# %% tags=["hide-input"]
WORDS = {
    "faster": "Faster than in proportion (the 95 % interval lies above",
    "no faster": "No faster (it ends at or below",
    "not told apart": "Not told apart (it contains",
}
display(
    Markdown(
        "\n".join(
            f"- {WORDS[verdict]} {about['linear']}): {'; '.join(names) or 'none'}."
            for verdict, names in about["verdicts on growth"].items()
        )
    )
)

# %% [markdown]
# **Why spectra and clusters grow faster.** All singular values of $n$ tokens on $m \ge n$ columns take about $2 m n^2$ operations: linear in
# the columns, quadratic in the tokens, and the columns in use grow with the tokens too. What bounds it: features in use
# at a single token are parallel columns and are merged first, without any change to the spectra; the rest is rotated into
# $n$ columns by one QR that serves all three modes. (The growth of spectra above was measured on dense columns, which nothing
# merges.) **Clusters** need all distances, $n^2 m$ operations, and the principal components that go before them
# $n^3$, so many tokens cost them more than in proportion.
#
# **Memory.** A sweep keeps spectra, not latents: a core works on one level at a time. The last two columns show it for the axes
# levels and seeds; they are one measurement each of what the process holds, room that the allocator keeps included, and scatter
# by tens of MiB.
#
# ## What to expect elsewhere
#
# One concept's Case 1 without nulls, measured here; for others only a bound, computed from the operations of the floor and the
# rate on paper: of eight cores at 3 GHz with AVX2, as in a laptop (a faster clock takes less), and the vendor's for float32 without tensor cores (for the
# larger card that of the SXM module). No laptop was measured: what stands
# under *here* is the machine told at the top.

# %%
record.tables["expected"] = tables["expected"]
record.tables["expected"].style.format(precision=3, na_rep="–").hide(axis="index")

# %% [markdown]
# A GPU takes longer than its bound: spectra come on top, many small decompositions in double precision. Within a sweep everything
# stays on the device, the permuted null's orders too, and no level waits until its spectra and norms have been read; what it does
# wait for are sizes (how many features are in use) and the solvers' own checks.
# **For the record that comes with the book no GPU was measured**;
# `python -m benchmarks.everything --device cuda --out benchmarks/results/gpu.json` leaves the record and its tables beside it,
# `gpu.tables.json`, and this page reads these with the parameter `measured`.
#
# ## Summary
#
# - The residual stream is computed once; noise enters after the model.
# - For the usual SAEs a further noise level costs an addition, a search and spectra, but no product.
# - What is left is the forward pass, and spectra that grow with the square of the tokens.
#
# ## Exercises
#
# 1. Which stage would gain most from a GPU, and which least?
# 2. Run `make bench`, then make `merged` in `rank/unfoldings.py` return its input in double precision. What does the guard say?
#
# ```{dropdown} Solutions
# 1. Most: the residuals, nearly all products. Least: clustering, which runs on the CPU.
# 2. Whatever uses spectra may get slower, most at the wide SAE; the guard names a stage from 1.3 times on.
# ```

# %%
pd.DataFrame(record.stages).T.style.format(precision=1)

# %%
record.write()
