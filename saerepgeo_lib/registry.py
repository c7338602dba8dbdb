"""The SAEs that SAELens knows by name: listed and searched."""

import pandas as pd
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
from transformer_lens.supported_models import MODEL_ALIASES

from saerepgeo_lib.errors import UserError, nearest

_OFFICIAL = {alias: name for name, aliases in MODEL_ALIASES.items() for alias in aliases}


def search_saes(*, model: str = "", text: str = "") -> pd.DataFrame:
    """SAELens' registry, a row an SAE, as parameters take it ("RELEASE:ID").

    `model` is a name on the hub, or what the registry calls it; `text` a part of release or id,
    words in any order. Columns preset, model, repository, L0 (as published; missing where not).
    Raises UserError with the nearest models if none matches.
    """
    rows = [
        (f"{release}:{sae_id}", found.model, found.repo_id, found.expected_l0[sae_id] or None)
        for release, found in get_pretrained_saes_directory().items()
        for sae_id in found.saes_map
    ]
    table = pd.DataFrame(rows, columns=["preset", "model", "repository", "L0"])
    if model:
        names = {name: _official(name) for name in table["model"].unique()}
        wanted = [name for name, official in names.items() if _official(model) == official]
        if not wanted:
            raise UserError(f"SAELens knows no SAE of {model!r}; {nearest(model, names)}")
        table = table[table["model"].isin(wanted)]
    for word in text.split():
        table = table[table["preset"].str.contains(word, case=False, regex=False)]
    return table.reset_index(drop=True)


def _official(name: str) -> str:
    """A model's name on the hub, without its owner: registries write it in several ways."""
    return _OFFICIAL.get(name, name).rpartition("/")[2].lower()
