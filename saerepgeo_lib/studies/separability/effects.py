"""What training for separability changes: against the baseline of the same seed, at the same L0."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure
from scipy import stats
from scipy.interpolate import interp1d

from saerepgeo_lib.plots.panels import axes_grid, legend_below
from saerepgeo_lib.plots.style import looks_of
from saerepgeo_lib.stats.claims import UNTESTED, Claim, Verdict
from saerepgeo_lib.stats.estimates import Estimate, mean_estimate
from saerepgeo_lib.studies.paper_claims import verdicts_in_words
from saerepgeo_lib.studies.trust import Trust

KINDS = {"topk": "TopK SAE", "standard": "L1-ReLU SAE"}
# What is measured: its name to read, and whether its change counts in % of the baseline's.
OUTCOMES = {
    "separability": ("separability of groups, %", True),
    "AEDP clusters": ("separability of clusters, %", True),
    "AEDP": ("separability of entities, %", True),
    "FVU": ("FVU, held-out text, %", True),
    "FVU content": ("FVU, concept prompts, %", True),
    "probing": ("probing accuracy", False),
    "dead": ("dead share", False),
    "rank range": ("Case 1: rank range", False),
    "dimension": ("Case 2: dimension of clusters", False),
    "rho*": ("Case 3: rho*", False),
    "slope": ("Case 3: slope", False),
}
_CLAIMS = {  # claim: outcome, the side of 0 that it is about, and what it says
    "training-separability-moves": ("separability", 1, "separates groups of unseen text more"),
    "training-separability-separates": ("AEDP", 1, "separates the entities more"),
    "training-separability-fvu": ("FVU", -1, "lowers the FVU at the same L0"),
    "training-separability-probing": ("probing", 1, "raises the accuracy of sparse probes"),
}


def runs_table(points: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A row per training: kind, coefficient, strength, seed, L0, every outcome, seconds.

    Outcomes by concept are averaged (NaN where one has none); their FVU is "FVU content".
    """
    rows = []
    for point in points:
        result = dict(point["result"])
        by_concept = pd.DataFrame(result.pop("concepts")).T.rename(columns={"FVU": "FVU content"})
        named = {name: point["point"][name] for name in ("kind", "coefficient", "strength", "seed")}
        means = by_concept.astype(float).mean(skipna=False).to_dict()
        rows.append({**named, **result, **means, "seconds": point["seconds"]})
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class SeparabilityEffects:
    """Trainings (a `runs_table`) and what the objective changed in them."""

    runs: pd.DataFrame

    @cached_property
    def changes(self) -> pd.DataFrame:
        """Every regularised run beside the baselines of its kind and seed, at its own L0.

        Columns kind, strength, seed, outcome, value, baseline, change (in % of the baseline where
        `OUTCOMES` says so), outside. One baseline stands for itself (TopK, whose L0 is set).
        Between several (L1, at several weights) an outcome is interpolated in log L0; `outside`
        says that the run's L0 lies beyond theirs (for one: 1 % off), where the line through the
        nearest two is taken. What is undefined in a run or its baselines is left out.
        """
        rows = []
        for (kind, seed), group in self.runs.groupby(["kind", "seed"], sort=False):
            plain = group[group["strength"] == 0].sort_values("L0")
            x, y = np.log(plain["L0"].to_numpy()), plain[[*OUTCOMES]].to_numpy(dtype=float)
            alone = len(plain) == 1
            slack = 0.01 if alone else 0.0
            for run in group[group["strength"] != 0].to_dict("records"):
                at = np.log(run["L0"])
                outside = not x[0] - slack <= at <= x[-1] + slack
                bases = y[0] if alone else interp1d(x, y, axis=0, fill_value="extrapolate")(at)
                for (outcome, (_, relative)), base in zip(OUTCOMES.items(), bases, strict=True):
                    change = (run[outcome] - base) * (100 / base if relative else 1)
                    rows.append(
                        {"kind": kind, "strength": run["strength"], "seed": seed,
                         "outcome": outcome, "value": run[outcome], "baseline": base,
                         "change": change, "outside": outside}
                    )  # fmt: skip
        return pd.DataFrame(rows).dropna(subset="change").reset_index(drop=True)

    @cached_property
    def effects(self) -> pd.DataFrame:
        """Mean change over at least two seeds.

        Columns kind, strength, outcome, value, low, high, p, n, outside (how many runs).
        """
        keys = ["kind", "strength", "outcome"]
        return pd.DataFrame(
            {**dict(zip(keys, case, strict=True)),
             **asdict(seeds_estimate(group["change"].to_numpy())),
             "outside": int(group["outside"].sum())}
            for case, group in self.changes.groupby(keys, sort=False)
            if len(group) >= 2
        )  # fmt: skip

    @cached_property
    def own_loss(self) -> pd.DataFrame:
        """Regularised runs on the loss that they were trained on, against their baselines on it.

        A row per kind and strength: change (in % of the baseline's loss without the objective, mean
        over seeds), low, high (Student's interval), n, and the "better" solution, beyond chance.
        The baseline has the same kind, weight and seed (not the same L0), and never saw the
        objective: where it is better, training did not reach what the objective has to offer.
        """
        keys = ["kind", "coefficient", "seed"]
        trained = self.runs["strength"] != 0
        both = self.runs[trained].merge(self.runs[~trained], on=keys, suffixes=("", " plain"))
        gained = both["strength"] * np.log(both["separability"] / both["separability plain"])
        both["change"] = 100 * (both["loss"] - both["loss plain"] - gained) / both["loss plain"]
        rows = []
        for (kind, strength), group in both.groupby(["kind", "strength"]):
            mean = seeds_estimate(group["change"].to_numpy())
            better = "baseline" if mean.low > 0 else "regularised" if mean.high < 0 else "undecided"
            rows.append({"SAE": KINDS[str(kind)], "strength": strength, "change": mean.value,
                         "low": mean.low, "high": mean.high, "n": mean.n,
                         "better": better})  # fmt: skip
        return pd.DataFrame(rows)

    @property
    def trust(self) -> Trust:
        """Whether the trained SAEs fit held-out text, in every training."""
        text = {"concept": "held-out text", "tokens": "content"}
        rows = self.runs.assign(autoencoder=self.runs["kind"].map(KINDS), **text)
        return Trust.of(rows.to_dict("records"), KINDS.values())

    @cached_property
    def claims(self) -> list[Claim]:
        """A finding per claim, kind and positive strength.

        Holds if the interval lies on the claimed side of 0; untested if an L0 is outside.
        """
        claims = []
        for id, (outcome, side, _) in _CLAIMS.items():
            statistic = f"change of {OUTCOMES[outcome][0]}".replace(", %", " (%)")
            for row in self._positive(outcome):
                estimate = Estimate(*(row[name] for name in ("value", "low", "high", "p", "n")))
                beyond = min(side * row["low"], side * row["high"]) > 0
                verdict: Verdict = "holds" if beyond else "does not hold"
                verdict = UNTESTED if row["outside"] else verdict
                strength = f"strength {row['strength']:g}"
                case = {"autoencoder": KINDS[row["kind"]], "condition": strength}
                claims.append(Claim.of(id, estimate, verdict, statistic=statistic, **case))
        return self.trust.withheld(claims)

    @property
    def table(self) -> pd.DataFrame:
        """To read: a row per kind and outcome, a column per strength: "change [low, high]"."""
        cells = pd.DataFrame(
            {"SAE": KINDS[row["kind"]], "outcome": OUTCOMES[row["outcome"]][0],
             "strength": f"strength {row['strength']:g}", "cell": _cell(row)}
            for row in self.effects.to_dict("records")
        )  # fmt: skip
        rows = ["SAE", "outcome"]
        wide = cells.pivot_table("cell", rows, "strength", aggfunc="first", sort=False)
        return wide.rename_axis(columns=None).reset_index()

    @property
    def answer(self) -> str:
        """The findings in words (Markdown): a line per claim and kind."""
        lines = []
        for id, (outcome, side, words) in _CLAIMS.items():
            unit = " %" if OUTCOMES[outcome][1] else ""
            for kind, label in KINDS.items():
                mine = [c for c in self.claims if c.id == id and c.autoencoder == label]
                tested = [c for c in mine if c.verdict != UNTESTED]
                against = sum((c.low > 0) if side < 0 else (c.high < 0) for c in tested)
                each = "; ".join(
                    f"{row['strength']:g}: {_cell(row)}{unit}"
                    for row in self._positive(outcome)
                    if row["kind"] == kind
                )
                lines.append(
                    f"- **{label}: it {words}**: {verdicts_in_words([c.verdict for c in mine])} "
                    f"strengths (beyond chance the opposite: {against}). Change by strength: "
                    f"{each}."
                )
        return "\n".join(lines)

    def _positive(self, outcome: str) -> list[dict[Any, Any]]:
        """The effects on an outcome of the strengths above 0; the others are controls."""
        chosen = self.effects["outcome"].eq(outcome) & self.effects["strength"].gt(0)
        return self.effects[chosen].to_dict("records")

    def plot_pareto(self) -> Figure:
        """FVU against separability of groups (above) and entities (below), as changes at equal L0.

        Small: seeds. Large: means with intervals, joined from the baseline in order of strength.
        """
        figure, axes = axes_grid(2 * len(KINDS), columns=len(KINDS), height=2.8, sharey="col")
        strengths = sorted(s for s in self.effects["strength"].unique() if s > 0)
        looks = looks_of([f"strength {s:g}" for s in strengths])
        panels = [(x, kind) for x in ("separability", "AEDP") for kind in KINDS]
        for ax, (x, kind) in zip(axes, panels, strict=True):
            means, seeds = (t[t["kind"] == kind] for t in (self.effects, self.changes))
            wide = means.pivot(index="strength", columns="outcome", values=["value", "low", "high"])
            dots = seeds.pivot(index=["strength", "seed"], columns="outcome", values="change")
            path = np.vstack([[0, 0], wide["value"].loc[strengths, [x, "FVU"]]])
            ax.plot(*path.T, color="0.6", lw=1, zorder=0)
            for strength, look in zip(strengths, looks.values(), strict=True):
                ax.plot(*dots.loc[strength, [x, "FVU"]].T.values, ls="none", ms=3.5, alpha=0.6,
                        **look)  # fmt: skip
                (at, fvu), low, high = (
                    wide.loc[strength, side][[x, "FVU"]] for side in ("value", "low", "high")
                )
                ax.errorbar(at, fvu, yerr=[[fvu - low["FVU"]], [high["FVU"] - fvu]],
                            xerr=[[at - low[x]], [high[x] - at]], ms=8, lw=1.2, **look)  # fmt: skip
            ax.axhline(0, color="k", lw=0.8, zorder=0)
            ax.axvline(0, color="k", lw=0.8, zorder=0)
            ax.plot(0, 0, "k+", ms=10)
            ax.set(xlabel=OUTCOMES[x][0].replace(", %", ": change, %"))
        for ax, label in zip(axes, KINDS.values(), strict=False):
            ax.set_title(label, fontsize=10)
        for ax in axes[:: len(KINDS)]:
            ax.set_ylabel("FVU: change, %")
        legend_below(figure, {k: {**v, "ls": "none"} for k, v in looks.items()}, columns=4)
        return figure

    def plot_outcomes(self) -> Figure:
        """Every outcome's change by strength with intervals over seeds, a panel per outcome."""
        figure, axes = axes_grid(len(OUTCOMES), height=1.75, sharex=True)
        strengths = sorted(self.effects["strength"].unique())
        looks = looks_of(KINDS.values())
        for ax, (outcome, (title, _)) in zip(axes, OUTCOMES.items(), strict=True):
            for aside, (kind, label) in zip((-0.12, 0.12), KINDS.items(), strict=True):
                means, seeds = (
                    table[(table["outcome"] == outcome) & (table["kind"] == kind)]
                    for table in (self.effects, self.changes)
                )
                place = np.array([strengths.index(s) for s in means["strength"]]) + aside
                dots = np.array([strengths.index(s) for s in seeds["strength"]]) + aside + 0.07
                colour = looks[label]["color"]
                ax.vlines(place, means["low"], means["high"], color=colour, lw=1.5)
                ax.plot(place, means["value"], ls="none", ms=6, **looks[label])
                ax.plot(dots, seeds["change"], ls="none", marker=".", ms=3, color=colour)
            ax.axhline(0, color="k", lw=0.8)
            ax.set_title(title, fontsize=10, loc="left")
            ax.set_xticks(range(len(strengths)), [f"{s:g}" for s in strengths])
        for ax in axes[-2:]:
            ax.set_xlabel("strength")
            ax.tick_params(labelbottom=True)
        legend_below(figure, {k: {**v, "ls": "none"} for k, v in looks.items()})
        return figure


def seeds_estimate(sample: Float[np.ndarray, " n"]) -> Estimate:
    """Mean with Student's 95 % interval and the p of Student's t-test (few seeds, so no signs)."""
    mean = mean_estimate(sample)
    equal = np.ptp(sample) == 0
    return replace(mean, p=float(mean.value == 0 if equal else stats.ttest_1samp(sample, 0).pvalue))


def _cell(row: Mapping[Any, Any]) -> str:
    text = f"{row['value']:+.3g} [{row['low']:+.3g}, {row['high']:+.3g}]"
    return f"{text} outside" if row["outside"] else text
