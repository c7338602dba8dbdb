"""What training for separability changes: against the baseline of the same seed, at the same L0."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from saerepgeo_lib.claims import Claim, Verdict, verdicts_in_words
from saerepgeo_lib.statistics import Estimate, mean_estimate

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
_CLAIMS = {  # claim: outcome, and the side of 0 that it is about
    "training-separability-moves": ("separability", 1),
    "training-separability-separates": ("AEDP", 1),
    "training-separability-fvu": ("FVU", -1),
    "training-separability-probing": ("probing", 1),
}


def runs_table(points: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A row a training: kind, coefficient, strength, seed, L0, every outcome, seconds.

    Outcomes by concept are averaged over concepts (NaN where one has none); their FVU is called
    "FVU content".
    """
    rows = []
    for one in points:
        by_concept = pd.DataFrame(one["result"]["concepts"]).T.rename(
            columns={"FVU": "FVU content"}
        )
        chosen = {name: one["point"][name] for name in ("kind", "coefficient", "strength", "seed")}
        means = by_concept.astype(float).mean(skipna=False).to_dict()
        rows.append(chosen | {k: v for k, v in one["result"].items() if k != "concepts"}
                    | means | {"seconds": one["seconds"]})  # fmt: skip
    return pd.DataFrame(rows)


def matched(runs: pd.DataFrame) -> pd.DataFrame:
    """Every regularised run beside the baselines of its kind and seed, at its own L0.

    Columns kind, strength, seed, outcome, value, baseline, change, outside. One baseline stands
    for itself (TopK, whose L0 is set). Between several (L1, at several weights) an outcome is
    interpolated in log L0; `outside` says that the run's L0 lies beyond theirs (for one: 1 % off),
    where the line through the nearest two is taken. What is undefined (NaN) in a run or its
    baselines is left out. `change` is the difference, or what it is in %
    of the baseline (see `OUTCOMES`).
    """
    rows = []
    for (kind, seed), part in runs.groupby(["kind", "seed"], sort=False):
        plain = part[part["strength"] == 0].sort_values("L0")
        ends = np.log([plain["L0"].iloc[0], plain["L0"].iloc[-1]])
        slack = 0.01 if len(plain) == 1 else 0.0
        for run in part[part["strength"] != 0].to_dict("records"):
            at = np.log(run["L0"])
            outside = not ends[0] - slack <= at <= ends[1] + slack
            for outcome, (_, relative) in OUTCOMES.items():
                base = _interpolated(at, np.log(plain["L0"]), plain[outcome])
                change = run[outcome] - base
                change = 100 * change / base if relative else change
                if np.isnan(change):
                    continue
                rows.append((kind, run["strength"], seed, outcome, run[outcome], base, change,
                             outside))  # fmt: skip
    columns = ["kind", "strength", "seed", "outcome", "value", "baseline", "change", "outside"]
    return pd.DataFrame(rows, columns=columns)


def own_loss(runs: pd.DataFrame) -> pd.DataFrame:
    """Regularised runs on the loss that they were trained on, against their baselines on the same.

    A row a kind and strength: change (in % of the baseline's loss without the objective, mean over
    seeds), low, high (Student's interval), n, and the "better" solution, beyond chance. The
    baseline has the same kind, weight and seed (not the same L0), and never saw the objective:
    where it is better, training did not reach what the objective has to offer.
    """
    keys = ["kind", "coefficient", "seed"]
    plain = runs[runs["strength"] == 0].set_index(keys)
    rows = []
    for run in runs[runs["strength"] != 0].to_dict("records"):
        base = plain.loc[tuple(run[name] for name in keys)]
        gained = run["strength"] * np.log(run["separability"] / base["separability"])
        change = 100 * (run["loss"] - base["loss"] - gained) / base["loss"]
        rows.append((run["kind"], run["strength"], change))
    table = pd.DataFrame(rows, columns=["kind", "strength", "change"])
    out = []
    for (kind, strength), part in table.groupby(["kind", "strength"]):
        found = seeds_estimate(part["change"].to_numpy())
        better = "baseline" if found.low > 0 else "regularised" if found.high < 0 else "undecided"
        out.append(
            (KINDS[str(kind)], strength, found.value, found.low, found.high, found.n, better)
        )
    columns = ["SAE", "strength", "change", "low", "high", "n", "better"]
    return pd.DataFrame(out, columns=columns)


def _interpolated(at: float, x: Any, y: Any) -> float:
    """Piecewise linear through ascending points, continued beyond the ends; constant for one."""
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if len(x) == 1:
        return float(y[0])
    i = int(np.clip(np.searchsorted(x, at), 1, len(x) - 1))
    return float(y[i - 1] + (y[i] - y[i - 1]) * (at - x[i - 1]) / (x[i] - x[i - 1]))


def seeds_estimate(sample: Float[np.ndarray, " n"]) -> Estimate:
    """Mean with Student's 95 % interval and the p of Student's t-test (few seeds, so no signs)."""
    found = mean_estimate(sample)
    if np.ptp(sample) == 0:
        return replace(found, p=float(found.value == 0))
    return replace(found, p=float(stats.ttest_1samp(sample, 0.0).pvalue))


def effects(changes: pd.DataFrame) -> pd.DataFrame:
    """Mean change by kind, strength and outcome over seeds: value, low, high, p, n, outside.

    An outcome that fewer than two seeds have is left out.
    `outside` counts the runs whose L0 no baseline brackets.
    """
    rows = []
    keys = ["kind", "strength", "outcome"]
    for (kind, strength, outcome), part in changes.groupby(keys, sort=False):
        if len(part) < 2:
            continue
        found = seeds_estimate(part["change"].to_numpy())
        rows.append((kind, strength, outcome, found.value, found.low, found.high, found.p, found.n,
                     int(part["outside"].sum())))  # fmt: skip
    return pd.DataFrame(rows, columns=[*keys, "value", "low", "high", "p", "n", "outside"])


def judge(found: pd.DataFrame) -> list[Claim]:
    """A finding a claim, kind and positive strength.

    Holds if the interval over seeds lies on the claimed side of 0. Cannot be tested where the L0 of
    a run lies outside its baselines'.
    """
    claims = []
    for id, (outcome, side) in _CLAIMS.items():
        rows = found[(found["outcome"] == outcome) & (found["strength"] > 0)]
        for row in rows.to_dict("records"):
            estimate = Estimate(row["value"], row["low"], row["high"], row["p"], row["n"])
            beyond = min(side * row["low"], side * row["high"]) > 0
            verdict: Verdict = "holds" if beyond else "does not hold"
            verdict = "cannot be tested here" if row["outside"] else verdict
            subject = f"strength {row['strength']:g}: {KINDS[row['kind']]}"
            statistic = f"change of {OUTCOMES[outcome][0]}".replace(", %", " (%)")
            claims.append(Claim.of(id, subject, statistic, estimate, verdict))
    return claims


def effects_shown(found: pd.DataFrame) -> pd.DataFrame:
    """To read: a row a kind and outcome, a column a strength: "change [low, high]".

    "outside" is added where a run's L0 lies outside its baselines'.
    """
    cells = found.assign(
        SAE=found["kind"].map(KINDS),
        outcome=found["outcome"].map({name: label for name, (label, _) in OUTCOMES.items()}),
        cell=[_cell(row) for row in found.to_dict("records")],
    )  # fmt: skip
    wide = cells.pivot(index=["SAE", "outcome"], columns="strength", values="cell")
    order = [(s, label) for s in cells["SAE"].unique() for label in cells["outcome"].unique()]
    return wide.loc[order].rename(columns=lambda s: f"strength {s:g}").rename_axis(
        columns=None
    ).reset_index()  # fmt: skip


def _cell(row: Mapping[Any, Any]) -> str:
    text = f"{row['value']:+.3g} [{row['low']:+.3g}, {row['high']:+.3g}]"
    return f"{text} outside" if row["outside"] else text


def answer_text(found: pd.DataFrame, claims: Sequence[Claim]) -> str:
    """The findings in words (Markdown): a line a claim and kind."""
    words = {
        "training-separability-moves": "separates groups of unseen text more",
        "training-separability-separates": "separates the entities more",
        "training-separability-fvu": "lowers the FVU at the same L0",
        "training-separability-probing": "raises the accuracy of sparse probes",
    }
    lines = []
    for id, (outcome, _) in _CLAIMS.items():
        for kind, label in KINDS.items():
            mine = [c for c in claims if c.id == id and c.subject.endswith(label)]
            rows = found[(found["outcome"] == outcome) & (found["kind"] == kind)]
            rows = rows[rows["strength"] > 0]
            tested = [c for c in mine if c.verdict != "cannot be tested here"]
            against = sum((c.low > 0) if _CLAIMS[id][1] < 0 else (c.high < 0) for c in tested)
            unit = " %" if OUTCOMES[outcome][1] else ""
            each = "; ".join(
                f"{row['strength']:g}: {_cell(row)}{unit}" for row in rows.to_dict("records")
            )
            lines.append(
                f"- **{label}: it {words[id]}**: {verdicts_in_words([c.verdict for c in mine])} "
                f"strengths (beyond chance the opposite: {against}). Change by strength: {each}."
            )
    return "\n".join(lines)
