"""The subject of an experiment: a model, and autoencoders that read its residual stream."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from saerepgeo_lib.errors import UserError, choose, nearest
from saerepgeo_lib.models import DTYPES, best_device, load_model
from saerepgeo_lib.presets import PRESETS, SaeSource
from saerepgeo_lib.prompts import Concept
from saerepgeo_lib.residuals import Residuals, compute_residuals
from saerepgeo_lib.saes import (
    check_fit,
    common_hook,
    hook_of,
    kind_of,
    load_sae,
    trained_model,
    trained_processing,
    wants_bos,
)
from saerepgeo_lib.tokens import Tokens, tokenize

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Subject:
    """A model and its autoencoders by label, all at one hook; your own objects go straight in.

    The hook is that of the SAEs' metadata unless `at` names another. `not_sparse` are labels of
    autoencoders that are no SAEs proper (nulls, such as a dense one). `load` loads the model again,
    and with `random_state` its random counterpart. Raises UserError for SAEs of several hooks, of
    another width than the model, or that disagree on the BOS token. (With `at`, of any hook.)
    """

    model: Any
    autoencoders: Mapping[str, Any]
    not_sparse: tuple[str, ...] = ()
    at: str = field(default="", kw_only=True)
    load: Callable[..., Any] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not self.autoencoders:
            raise UserError("a subject needs at least one autoencoder")
        for label, sae in self.autoencoders.items():
            check_fit(sae, self.model.cfg.d_model, label)
        _ = self.hook, self.prepend_bos

    @cached_property
    def hook(self) -> str:
        """Where the autoencoders read."""
        return self.at or common_hook(self.autoencoders)

    @cached_property
    def prepend_bos(self) -> bool:
        """Whether prompts get a BOS token in front."""
        return wants_bos(self.autoencoders)

    @property
    def sparse(self) -> list[str]:
        """Labels of the SAEs proper."""
        return [label for label in self.autoencoders if label not in self.not_sparse]

    def describe(self) -> dict[str, Any]:
        """What a record says of it: model, hook, BOS, and each autoencoder's kind and own hook."""
        return {
            "model": str(self.model.cfg.model_name),
            "hook": self.hook,
            "prepend_bos": self.prepend_bos,
            "autoencoders": {
                label: {
                    "kind": str(sae.cfg.architecture()), "trained at": sae.cfg.metadata.hook_name,
                    "width": sae.cfg.d_sae,
                }
                for label, sae in self.autoencoders.items()
            },
        }  # fmt: skip

    def tokens(self, concept: Concept) -> Tokens:
        """A concept's prompts as this model reads them.

        A model that reads no text has in the tokenizer's place an object with `read_concept`.
        """
        if read := getattr(self.model.tokenizer, "read_concept", None):
            coded: Tokens = read(concept)
            return coded
        cfg = self.model.cfg
        return tokenize(
            self.model.tokenizer, concept, n_ctx=cfg.n_ctx, prepend_bos=self.prepend_bos
        )

    def residuals(self, tokens: Tokens) -> Residuals:
        """One forward pass: the residual stream of the content tokens at the hook."""
        return compute_residuals(self.model, tokens, self.hook)

    def random_model(self, random_state: int) -> Any:
        """A control: the same architecture with the weights that training would start from."""
        if self.load is None:
            raise UserError(
                "the random counterpart of your own model is not known: give Subject a `load` "
                "that takes random_state, such as functools.partial(models.load_model, NAME)"
            )
        return self.load(random_state=random_state)


def load_subject(
    preset: str = "minilm",
    *,
    model_name: str = "",
    hook: str = "",
    dtype: str = "float32",
    device: str = "auto",
) -> Subject:
    """A preset, or an SAE of your own on the model that it was trained on.

    `preset` is a preset's name; "RELEASE:ID" of any SAE that SAELens can load (its registry, or
    "USER/REPOSITORY:PATH" on the Hugging Face hub); or a folder in SAELens' format. The SAE's
    metadata names model, hook, BOS and the processing of weights; `model_name` (a name on the hub,
    or a folder) and `hook` replace the first two. `dtype` is that of the model's weights;
    autoencoders stay in float32. Raises UserError if anything is unknown or does not fit.
    """
    device = best_device(device)
    choose("dtype", dtype, DTYPES)
    if preset in PRESETS:
        chosen = PRESETS[preset]
        saes = {label: load_sae(s, device=device) for label, s in chosen.saes.items()}
        nulls = tuple(label for label, source in chosen.saes.items() if not source.sparse)
        name = model_name or chosen.model
    else:
        own = load_sae(_source(preset), device=device)
        saes, nulls = {kind_of(own): own}, ()
        name = model_name or trained_model(own)
    for label, sae in saes.items():
        if hook and hook != hook_of(sae):
            logger.warning("%s was trained at %s, but reads at %s", label, hook_of(sae), hook)
    processing = trained_processing(saes)
    load = partial(load_model, name, device=device, dtype=dtype, processing=processing)
    return Subject(load(), saes, nulls, at=hook, load=load)


def _source(given: str) -> SaeSource | Path:
    if Path(given).is_dir():
        return Path(given)
    release, _, sae_id = given.partition(":")
    if not release or not sae_id:
        raise UserError(
            f"unknown preset {given!r}; {nearest(given, PRESETS)}; or name your own SAE as "
            "RELEASE:ID ('saerepgeo saes' lists them), or a folder that holds one"
        )
    return SaeSource(release=release, sae_id=sae_id)
