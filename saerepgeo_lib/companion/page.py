"""What pages with a model do first: load what their parameters name, ask if it fits, and say which
words count.
"""

from collections.abc import Iterable

import pandas as pd
from pandas.io.formats.style import Styler

from saerepgeo_lib.activations.model_with_saes import ModelWithSAEs, load
from saerepgeo_lib.activations.prompts import names_in
from saerepgeo_lib.activations.token_activations import (
    Positions,
    TokenActivations,
    left_out_words,
)
from saerepgeo_lib.companion.records import Record
from saerepgeo_lib.studies.trust import Trust, trust_in


def page_model(record: Record) -> ModelWithSAEs:
    """The model and SAEs that a page's parameters name, loaded to the record's device.

    The record gets the stage "load", and a description among its numbers. Raises UserError as
    `load` does.
    """
    names = ("model_name", "hook", "dtype")
    given = {name: record.parameters[name] for name in names if name in record.parameters}
    with record.stage("load"):
        model = load(record.parameters["preset"], **given, device=record.device)
    record.numbers["model"] = model.describe()
    return model


def page_activations(
    record: Record, model: ModelWithSAEs, *, positions: Positions = "content"
) -> dict[str, TokenActivations]:
    """The activations of the concepts that a page's parameters name, by name.

    Of the parameters `prompts_file`, `function_words`, `max_prompts`, `seed` and `massive` those
    count that the page has.
    """
    names = ("prompts_file", "function_words", "max_prompts", "seed", "massive")
    given = {name: record.parameters[name] for name in names if name in record.parameters}
    return {
        name: model.activations(name, positions=positions, **given)
        for name in names_in(record.parameters["concept"])
    }


def left_out_table(record: Record, acts: Iterable[TokenActivations]) -> Styler:
    """The table of masked words as a page shows it; the record gets it as "left_out"."""
    record.tables["left_out"] = table = left_out_words(acts)
    return table.style.hide(axis="index").set_caption(
        "Words of the prompts that are masked, and why"
    )


def page_trust(record: Record, acts: Iterable[TokenActivations]) -> Trust:
    """Whether what a page finds on these tokens can be trusted, as `trust_in` says.

    The page's parameter `judge_anyway` names SAEs that are judged in spite of doubt. The record
    gets the fits as its table "fit", and tokens with massive activations, if any, as "massive".
    """
    acts = list(acts)
    found = trust_in(acts, judge_anyway=str(record.parameters.get("judge_anyway", "")))
    record.tables["fit"] = found.table
    if found.massive:
        tables = (
            a.massive_tokens.assign(concept=a.concept.name)
            for a in acts
            if a.concept and a.massive_tokens is not None
        )
        record.tables["massive"] = pd.concat(tables, ignore_index=True)
    return found
