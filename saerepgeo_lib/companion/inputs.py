"""What a run's parameters name in files, checked from the files before anything heavy is loaded."""

import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from saerepgeo_lib.activations.prompts import load_concept, names_in
from saerepgeo_lib.activations.sae_config import CONFIG_FILE
from saerepgeo_lib.activations.sae_files import (
    CARD_FILE,
    PRESETS,
    check_folder,
    check_preset,
    is_release,
)
from saerepgeo_lib.companion.notebooks import NOTEBOOK_DIR
from saerepgeo_lib.companion.parameters import check_limits
from saerepgeo_lib.errors import UserError, choose
from saerepgeo_lib.files import read_json

# Parameters whose values are checked together; all others have only their limits.
TOGETHER = frozenset((
    "preset", "model_name", "hook", "concept", "prompts_file", "positions", "table", "by",
    "claim", "measured", "results", "weights",
))  # fmt: skip


def check_inputs(page: str, values: Mapping[str, Any]) -> None:
    """Refuse what a page of the book could not use, as its kernel would after its imports.

    Paths are relative to the folder that the process is in. Raises UserError.
    """
    check_limits(page, values)
    if not (NOTEBOOK_DIR / f"{page}.py").is_file():
        return  # names of another notebook may mean other things
    if "preset" in values:
        _check_model(values.get("model_name", ""))
        check_preset(values["preset"], model_name=values.get("model_name", ""),
                     hook=values.get("hook", ""))  # fmt: skip
        _check_release(values["preset"])
    for name in names_in(values.get("concept", "")):
        concept = load_concept(name, values.get("prompts_file") or None)
        if values.get("positions") == "entity" and not concept.entities:
            raise UserError(
                f"positions 'entity' needs prompts that carry an entity, and those of {name!r} "
                "carry none (the plain form of a concept file): use positions 'content'"
            )
    if "table" in values:
        from saerepgeo_lib.companion.compare import (
            compared_by,
            findings,
            read_claims,
            shipped_claims,
        )

        table = compared_by(read_claims(values["table"] or shipped_claims()), values["by"])
        findings(table, values["claim"])
    if values.get("measured"):
        from saerepgeo_lib.companion.compare import read_costs

        read_costs(values["measured"])
    if values.get("weights"):
        read_json(Path(values["weights"], CARD_FILE))
        for config in Path(values["weights"]).glob(f"*/{CONFIG_FILE}"):
            check_folder(config.parent)
    if values.get("results"):
        from saerepgeo_lib.studies.study import read_study

        read_study(Path(values["results"]))


def _check_model(name: str) -> None:
    """Refuse a folder that holds no model, and a path where no folder is."""
    folder = Path(name)
    if not name or not folder.is_dir():
        if name.startswith((".", "/", "~")) or name.count("/") > 1:
            raise UserError(f"model_name: no folder {name!r}; a name on the hub is OWNER/NAME")
        return
    config = folder / "config.json"
    if not (config.is_file() and isinstance(read_json(config), dict)):
        raise UserError(f"no config.json in {folder}: not a folder that save_pretrained has made")
    if not any(path.suffix in (".safetensors", ".bin") for path in folder.iterdir()):
        raise UserError(f"no weights (*.safetensors) in {folder}: only a part of a model")


def _check_release(preset: str) -> None:
    """Refuse a release or id that SAELens' registry does not have (repositories need the hub)."""
    release, _, sae_id = preset.partition(":")
    if preset not in PRESETS and is_release(preset) and "/" not in release:
        registry = _registry()
        choose(
            f"SAE of {release}", sae_id, registry[choose("release of SAELens", release, registry)]
        )


@functools.cache
def _registry() -> dict[str, list[str]]:
    """The ids of each release, from SAELens' file: importing SAELens takes long."""
    (place,) = importlib.util.find_spec("sae_lens").submodule_search_locations  # type: ignore[union-attr, misc]
    text = Path(place, "pretrained_saes.yaml").read_text(encoding="utf-8")
    content = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return {name: [sae["id"] for sae in release["saes"]] for name, release in content.items()}
