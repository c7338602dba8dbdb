"""Sparse against dense: the study's results as tables, effect sizes, findings and figures."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.plots import panels
from saerepgeo_lib.plots.profiles import plot_variability
from saerepgeo_lib.plots.style import looks_of
from saerepgeo_lib.rank.noise_sweep import RESIDUAL, randomized
from saerepgeo_lib.rank.unfoldings import MODES
from saerepgeo_lib.stats import effect_sizes
from saerepgeo_lib.stats.claims import UNTESTED, Claim
from saerepgeo_lib.stats.estimates import Estimate
from saerepgeo_lib.studies.trust import Trust
from saerepgeo_lib.text import plain

LABELS = {"topk": "TopK SAE", "l1": "L1-ReLU SAE", "dense": "dense AE"}
*SPARSE, DENSE = LABELS.values()
RANDOM = {label: randomized(label) for label in LABELS.values()}
COMPARISONS = [*((label, DENSE) for label in SPARSE), *RANDOM.items()]
RULES = ("relative", "effective")  # the book's rule, and one without a threshold
SHOWN_MODES = (1, 3)  # with two slots the rank of mode 2 is two
MIN_CONCEPTS = 6  # with 5 the exact p cannot reach 0.05
FULL = 0.99  # share of its ceiling from which a clean rank has no room to vary, as in Case 1
EFFECTS: dict[str, effect_sizes.Effect] = {
    "Cliff's delta": effect_sizes.delta_in_layers,
    "mean difference": effect_sizes.mean_difference,
}
LOOKS = {RESIDUAL: looks_of([RESIDUAL])[RESIDUAL]}  # in the order of figures and tables
for _label, _look in looks_of(LABELS.values()).items():
    LOOKS |= {_label: _look, RANDOM[_label]: _look | {"mfc": "white"}}


@dataclass(frozen=True)
class SparseDense:
    """What the study found, under one rank rule and in one mode.

    `points` are those of the file of results (`read_study`); "range" is the relative range of a
    rank profile. `random_state` is the seed of the resampling.
    """

    points: Sequence[Mapping[str, Any]] = field(repr=False)
    rule: str = "relative"
    mode: int = 3
    random_state: int = 0
    labels: ClassVar = tuple(LOOKS)  # the representations, in the order of tables and figures

    @cached_property
    def table(self) -> pd.DataFrame:
        """Every profile: a row per layer, seed, concept, label, mode and rule.

        Further columns variability (the range) and share (of its ceiling that the clean rank has).
        The residual stream, which every kind's point has, stands once. Raises UserError if the
        points are no full grid.
        """
        rows = [
            {"layer": entry["point"]["block"], "seed": entry["point"]["recipe"]["seed"],
             "concept": concept, "label": label, "mode": mode, "rule": rule,
             "variability": values["range"][rule][i],
             "share": values["clean"][rule][i] / values["ceiling"][i]}
            for entry in self.points
            for concept, representations in entry["result"]["concepts"].items()
            for label, values in representations.items()
            if label != RESIDUAL or DENSE in representations
            for rule in RULES
            for i, mode in enumerate(MODES)
        ]  # fmt: skip
        table = pd.DataFrame(rows)
        keys = table.drop(columns=["variability", "share"])
        full = int(np.prod(keys.nunique()))
        if len(table) != full or keys.duplicated().any():
            raise UserError(
                f"the results have {len(table)} profiles, a full grid {full}; let the study "
                "finish: 'saerepgeo study sparse-dense'"
            )
        return table

    @cached_property
    def shown(self) -> pd.DataFrame:
        """The profiles under the rule and in the mode."""
        return self.table.query("rule == @self.rule and mode == @self.mode")

    @property
    def fit(self) -> pd.DataFrame:
        """How well each kind fits at each layer, means over seeds.

        Columns layer, autoencoder, FVU and L0 on held-out text, dead share, FVU content (mean over
        the concepts' content tokens), n (seeds).
        """
        rows = [
            {"layer": point["block"], "autoencoder": LABELS[point["recipe"]["name"]],
             **result["fit"], "FVU content": np.mean([*result["FVU content"].values()])}
            for point, result in ((entry["point"], entry["result"]) for entry in self.points)
        ]  # fmt: skip
        groups = pd.DataFrame(rows).groupby(["layer", "autoencoder"], sort=False)
        return groups.mean().assign(n=groups.size()).reset_index()

    @property
    def trust(self) -> Trust:
        """Whether the sparse autoencoders fit the concepts' content tokens, in every training."""
        rows = [
            {"concept": concept, "tokens": "content", "FVU": fvu,
             "autoencoder": LABELS[entry["point"]["recipe"]["name"]]}
            for entry in self.points
            for concept, fvu in entry["result"]["FVU content"].items()
        ]  # fmt: skip
        return Trust.of(rows, SPARSE)

    def values(
        self, label: str, column: str = "variability", *, rule: str = "", mode: int = 0
    ) -> Float[np.ndarray, "concepts layers seeds"]:
        """One column for one representation, by default under the rule and in the mode."""
        rule, mode = rule or self.rule, mode or self.mode
        cells = self.table.query("label == @label and rule == @rule and mode == @mode")
        wide = cells.pivot(index=["layer", "seed"], columns="concept", values=column)
        ordered = np.ascontiguousarray(wide[cells["concept"].unique()].to_numpy().T)
        return ordered.reshape(len(ordered), cells["layer"].nunique(), -1)

    @cached_property
    def effects(self) -> pd.DataFrame:
        """The effect sizes in the mode, as of `effects_in`."""
        return self.effects_in(self.mode)

    def effects_in(self, mode: int) -> pd.DataFrame:
        """Effect sizes of the range, over concepts that leave the other side room to vary.

        A row for each of `COMPARISONS`, each effect of `EFFECTS` and rule: columns of, against,
        rule, effect, value, low, high, p, n (concepts), least and greatest (the effect by seed),
        verdict. Too few concepts leave all but n and verdict empty.
        """
        rows = []
        for rule in RULES:
            for label, other in COMPARISONS:
                x, y = (self.values(side, rule=rule, mode=mode) for side in (label, other))
                share = self.values(other, "share", rule=rule, mode=mode)
                room = share.mean(axis=(1, 2)) < FULL
                for effect, function in EFFECTS.items():
                    row = {"of": label, "against": other, "rule": rule, "effect": effect}
                    rows.append(row | _tested(x[room], y[room], function, self.random_state))
        return pd.DataFrame(rows)

    @property
    def claims(self) -> list[Claim]:
        """The findings on the sparse autoencoders: more variable than dense, and than random."""
        claims = [
            Claim.of(
                "dense-sparse-" + ("more-variable" if r["against"] == DENSE else "beyond-random"),
                Estimate(r["value"], r["low"], r["high"], r["p"], r["n"]), r["verdict"],
                statistic=f"{r['effect']} of the relative range, {r['rule']} rank, "
                f"mode {self.mode}", autoencoder=r["of"], against=r["against"],
            )
            for r in self.effects[self.effects["of"].isin(SPARSE)].to_dict("records")
        ]  # fmt: skip
        return self.trust.withheld(claims)

    @property
    def starts(self) -> pd.DataFrame:
        """How far the clean rank alone decides the range, a row per representation.

        Columns representation, clean (mean share of the ceiling), range (mean), from the start
        (mean of ceiling / clean - 1, the range of a profile that climbs from its start to its
        ceiling), Spearman (of range and clean share over all cells; NaN if one is constant).
        """
        names = {"label": "representation", "share": "clean", "variability": "range"}
        cells = self.shown.rename(columns=names)
        cells["from the start"] = 1 / cells["clean"] - 1
        groups = cells.groupby("representation")[["clean", "range", "from the start"]]
        rho = groups.apply(lambda cell: cell["range"].corr(cell["clean"], method="spearman"))
        return groups.mean().assign(Spearman=rho).loc[[*self.labels]].reset_index()

    @property
    def text(self) -> str:
        """The effect sizes under the rule in words (Markdown)."""
        lines = []
        chosen = self.effects[self.effects["rule"] == self.rule]
        for (label, other), rows in chosen.groupby(["of", "against"], sort=False):
            delta, mean = (rows.set_index("effect").loc[effect] for effect in EFFECTS)
            words = (
                f"cannot be tested; only {delta['n']} concepts leave the other side room to vary."
            )
            if why := self.trust.reason(autoencoder=label) if label in SPARSE else "":
                words = f"withheld. {why}"
            elif delta["verdict"] != UNTESTED:
                side = "more" if mean["low"] > 0 else "less"
                side = "neither more nor less" if mean["low"] <= 0 <= mean["high"] else side
                words = (
                    f"varies **{side}**. Relative range {mean['value']:+.2f} (95 % interval "
                    f"{mean['low']:+.2f} to {mean['high']:+.2f}; by seed {mean['least']:+.2f} to "
                    f"{mean['greatest']:+.2f}), Cliff's delta {delta['value']:+.2f} "
                    f"({delta['low']:+.2f} to {delta['high']:+.2f}), p = {mean['p']:.3f}, "
                    f"n = {mean['n']} concepts."
                )
            lines.append(f"- **{plain(f'{label} against {other}')}**: {words}")
        return "\n".join(lines)

    def plot_distributions(self) -> Figure:
        """Range by representation, a panel per layer: a dot per concept and seed, bar at median."""
        by_layer = {f"block {layer}": cells for layer, cells in self.shown.groupby("layer")}
        return plot_variability(by_layer, mode=self.mode, medians=True, looks=LOOKS)

    def plot_effects(self) -> Figure:
        """Effects with intervals, a row per comparison and rule, a colour per mode.

        Broad bars span the effect by seed.
        """
        tables = {mode: self.effects_in(mode) for mode in SHOWN_MODES if mode != self.mode}
        tables[self.mode] = self.effects
        by_mode = {f"mode {mode}": tables[mode] for mode in sorted(tables)}
        looks = looks_of(by_mode)
        names = [
            f"{label} − {'dense AE' if other == DENSE else 'its random'}, {rule}"
            for rule in RULES
            for label, other in COMPARISONS
        ]
        figure, axes = panels.axes_grid(len(EFFECTS), height=1.4 + 0.4 * len(names), extra=0)
        for ax, effect in zip(axes, EFFECTS, strict=True):
            for offset, (mode, table) in zip((-0.15, 0.15), by_mode.items(), strict=True):
                rows = table[table["effect"] == effect].reset_index(drop=True)
                rows.insert(0, "place", rows.index + offset)
                bars = {"color": looks[mode]["color"], "lw": 5, "alpha": 0.3}
                ax.hlines(rows["place"], rows["least"], rows["greatest"], **bars)
                intervals = rows[["place", "value", "low", "high"]].to_numpy()
                panels.forest(ax, [*map(tuple, intervals)], look=looks[mode], line=0)
            panels.named_rows(ax, names if ax is axes[0] else [""] * len(names))
            ax.set_xlabel(effect)
        panels.legend_below(figure, looks)
        return figure

    def plot_starts(self, ax: Axes | None = None) -> Axes:
        """Range against the clean rank's share of its ceiling, a dot per cell.

        The line is the range of a profile that climbs from its start to its ceiling.
        """
        ax = panels.own_axes(ax, height=4.1)
        for label, look in LOOKS.items():
            cells = self.shown[self.shown["label"] == label]
            dots = {"ls": "none", "ms": 4, "alpha": 0.7, "label": label, **look}
            ax.plot(cells["share"], cells["variability"], **dots)
        x = np.geomspace(max(0.02, self.shown["share"].min()), 1, 200)
        ax.plot(x, 1 / x - 1, color="black", lw=1, label="from start to ceiling")
        ax.set(xlim=(0, 1.02), xlabel="clean rank / ceiling", ylabel="relative range")
        ax.set_ylim(-0.1, 1.05 * self.shown["variability"].max())
        ax.legend(loc="upper right", fontsize=9)
        return ax


def _tested(x: Any, y: Any, effect: effect_sizes.Effect, random_state: int) -> dict[str, Any]:
    """An effect with its verdict, or without a value for too few concepts."""
    if len(x) < MIN_CONCEPTS:
        nothing = dict.fromkeys(("value", "low", "high", "p", "least", "greatest"), np.nan)
        return nothing | {"n": len(x), "verdict": UNTESTED}
    estimate = effect_sizes.paired_effect(x, y, effect=effect, random_state=random_state)
    by_seed = [float(effect(x[..., [s]], y[..., [s]])) for s in range(x.shape[2])]
    verdict = "holds" if estimate.is_positive else "does not hold"
    return asdict(estimate) | {"least": min(by_seed), "greatest": max(by_seed), "verdict": verdict}
