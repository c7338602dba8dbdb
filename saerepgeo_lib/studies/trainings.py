"""The study "smollm2" as tables: which autoencoders shrink, and what only training brings."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.stats.estimates import crossed_mean
from saerepgeo_lib.stats.words import span

KINDS = {
    "l1": "L1-ReLU SAE", "gated": "gated SAE", "topk": "TopK SAE", "batchtopk": "BatchTopK SAE",
    "jumprelu": "JumpReLU SAE", "matryoshka": "Matryoshka SAE",
}  # fmt: skip
NULLS = {
    "dense": "dense AE", "bottleneck": "dense bottleneck", "frozen soft decoder":
    "decoder nearly frozen", "frozen encoder": "encoder frozen", "frozen decoder": "decoder frozen",
    "random model": "on a random model",
}  # fmt: skip
SAE, NULL = "sparse autoencoders", "nulls"
MATCHED = "dense bottleneck, width d / 4"  # which loses about as much as the SAEs


def trainings_table(points: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A row per training (points of `read_study("smollm2")`).

    Columns name (of the recipe), label (as pages say), group (SAE, NULL or "" for grid and curve),
    kind, block, coefficient, width (over the residual stream's), seed, samples, passages, FVU, L0,
    recovered (all on held-out text), dead (on training text), content (FVU on the concepts' tokens,
    mean over concepts); value, low, high: rho* - 1 on held-out text, with its interval;
    cases (`smollm2.cases`). Raises UserError for points of another study.
    """
    if any("cases" not in point["result"] for point in points):
        raise UserError("these results are of another study; 'saerepgeo study smollm2' makes them")
    rows = []
    for point in points:
        recipe, found = point["point"]["recipe"], point["result"]
        name = recipe["name"]
        label = (KINDS | NULLS).get(name, name)
        if name == "bottleneck":
            label += f", width d / {1 / recipe['expansion']:.0f}"
        rows.append({
            "name": name, "label": label, "kind": recipe["kind"],
            "group": SAE if name in KINDS else NULL if name in NULLS else "",
            "block": int(recipe["hook"].split(".")[1]), "coefficient": recipe["coefficient"],
            "width": recipe["expansion"], "seed": recipe["seed"], "samples": recipe["n_samples"],
            "passages": point["point"]["n_passages"], "FVU": found["fvu_held_out"],
            "L0": found["l0_held_out"], "dead": found["dead_share"],
            "recovered": found.get("next_token", {}).get("recovered", np.nan),
            "content": float(np.mean(list(found["fvu_content"].values()))),
            **{k: found["rho* - 1 held out"][k] for k in ("value", "low", "high")},
            "cases": found["cases"],
        })  # fmt: skip
    return pd.DataFrame(rows)


def by_concept(trainings: pd.DataFrame) -> pd.DataFrame:
    """What is asked on the entities' own tokens: a row per training and concept.

    Columns label, group, seed, concept; shrinkage (rho* outward - 1); gain (share of the error that
    the best push saves); distinction (AEDP of entities, latents over residual stream, minus 1).
    """
    rows = [
        {
            "label": training["label"], "group": training["group"], "seed": training["seed"],
            "concept": concept, "shrinkage": case["rho* outward"] - 1, "gain": case["gain"],
            "distinction": case["AEDP latents"] / case["AEDP residual"] - 1,
        }
        for _, training in trainings[trainings["group"] != ""].iterrows()
        for concept, case in training["cases"].items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


def pooled(concepts: pd.DataFrame, measure: str, *, minus: str = "") -> pd.DataFrame:
    """A measure's mean by label, with the interval over concepts and trainings (`crossed_mean`).

    Columns label, group, value, low, high, p, concepts, trainings. With `minus` the differences to
    that label, concept by concept and seed by seed.
    """
    cells = concepts.pivot(index=["label", "concept"], columns="seed", values=measure)
    rows = []
    for label, group in concepts[["label", "group"]].drop_duplicates().itertuples(index=False):
        if label == minus:
            continue
        values = cells.loc[label] - cells.loc[minus] if minus else cells.loc[label]
        found = crossed_mean(values.to_numpy())
        ends = {name: getattr(found, name) for name in ("value", "low", "high", "p")}
        counts = dict(zip(("concepts", "trainings"), values.shape, strict=True))
        rows.append({"label": label, "group": group} | ends | counts)
    return pd.DataFrame(rows)


def pooled_gain(concepts: pd.DataFrame) -> pd.DataFrame:
    """`pooled` of the gain, which cannot be negative: without p, and bounds from 0 on."""
    table = pooled(concepts, "gain").drop(columns="p")
    return table.assign(low=table["low"].clip(lower=0))


def trainings_answer(trainings: pd.DataFrame, concepts: pd.DataFrame) -> str:
    """Which kinds shrink, what a push saves, and whether training makes entities more distinct."""
    l1, others = KINDS["l1"], [label for label in KINDS.values() if label != KINDS["l1"]]

    def text(labels: Sequence[str]) -> str:
        return span(100 * trainings.loc[trainings["label"].isin(labels), "value"], ".1f")

    saved, shrinks, apart = (
        table.set_index("label")
        for table in (pooled_gain(concepts), pooled(concepts, "shrinkage"),
                      pooled(concepts, "distinction"))
    )  # fmt: skip
    n, too = int(saved["trainings"].iloc[0]), shrinks.loc[others].query("low > 0")["value"]
    sae, null = (apart[apart["group"] == group] for group in (SAE, NULL))
    against = pooled(concepts, "distinction", minus=MATCHED).query("group == @SAE")
    return (
        f"**Which autoencoders shrink?** On held-out text, clearly only L1-ReLU SAEs: their codes "
        f"should be {text([l1])} % longer ({n} trainings); those of all other SAEs, "
        f"{text(others)} %. If a concept's entities are moved outward, {len(too)} of the "
        f"{len(others)} other kinds turn out to shrink beyond chance as well, by at most "
        f"{100 * too.max():.1f} %.\n\n"
        f"**What does separability save?** Moving the entities outward saves at best "
        f"{_percent(saved.loc[l1])} of the L1-ReLU SAEs' error on these tokens, and of all other "
        f"SAEs' at most {100 * saved.loc[others, 'value'].max():.1f} %.\n\n"
        f"**Are distinctions learned?** Entities lie further apart than in the residual stream, "
        f"beyond chance, in {_beyond(sae)} of {len(sae)} kinds of SAE, and closer together in "
        f"{_beyond(sae, above=False)}; of the {len(null)} nulls, further apart in {_beyond(null)} "
        f"and closer in {_beyond(null, above=False)}. Against a dense bottleneck that loses about "
        f"as much, they are further apart in {_beyond(against)} of the {len(against)} kinds, and "
        f"closer in {_beyond(against, above=False)}. So more distinction is no mark of sparsity."
    )


def _percent(row: Any) -> str:
    value, low, high = (100 * row[name] for name in ("value", "low", "high"))
    return f"{value:.1f} % [{low:.1f}, {high:.1f}]"


def _beyond(table: pd.DataFrame, *, above: bool = True) -> int:
    return int((table["low"] > 0).sum() if above else (table["high"] < 0).sum())


def savings(concepts: pd.DataFrame) -> pd.DataFrame:
    """How far each kind of SAE shrinks along the outward motion, and what that saves, as texts."""
    tables = {"rho* outward - 1": pooled(concepts, "shrinkage"),
              "share of the error saved at best": pooled_gain(concepts)}  # fmt: skip
    tables = {name: table.query("group == @SAE") for name, table in tables.items()}
    texts = {name: [_percent(row) for _, row in t.iterrows()] for name, t in tables.items()}
    return pd.DataFrame({"autoencoder": next(iter(tables.values()))["label"], **texts})


def fits(trainings: pd.DataFrame) -> pd.DataFrame:
    """FVU, L0, share of dead latents and loss recovered by label, over its trainings."""
    means = trainings.groupby("label", sort=False)[["FVU", "L0", "dead", "recovered"]].mean()
    return means.rename(columns={"recovered": "loss recovered"}).reset_index()
