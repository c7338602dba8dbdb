"""A model with its SAEs: what every case starts from."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from transformer_lens.model_bridge import TransformerBridge

from saerepgeo_lib.activations.bridges import check_middle
from saerepgeo_lib.activations.models import DTYPES, best_device, check_model, load_model
from saerepgeo_lib.activations.prompts import Concept, load_concept
from saerepgeo_lib.activations.residual_stream import Massive
from saerepgeo_lib.activations.sae_config import is_outside, same_place
from saerepgeo_lib.activations.sae_files import PRESETS, Preset, check_preset
from saerepgeo_lib.activations.saes import check_sae, load_sae, named
from saerepgeo_lib.activations.token_activations import Positions, TokenActivations, read_concept
from saerepgeo_lib.errors import UserError, choose

logger = logging.getLogger(__name__)
_KINDS = {"standard": "L1-ReLU", "topk": "TopK", "jumprelu": "JumpReLU"}


@dataclass(frozen=True, repr=False, eq=False)
class ModelWithSAEs:
    """A model and its autoencoders by label, all at one hook; your own objects go straight in.

    `not_sparse` are labels of nulls, such as a dense autoencoder. The hook is that of the SAEs'
    metadata unless `hook` names another. `load` loads the model again, and with `random_state` its
    random counterpart. Raises UserError for SAEs of several hooks (unless one is named), of another
    width than the model, or that disagree on the BOS token.
    """

    model: Any
    saes: Mapping[str, Any]
    not_sparse: tuple[str, ...] = ()
    hook: str = field(default="", kw_only=True)
    load: Callable[..., Any] | None = field(default=None, kw_only=True)
    prepend_bos: bool = field(init=False)  # SAELens' default: yes

    def __post_init__(self) -> None:
        if not self.saes:
            raise UserError("give at least one autoencoder: {label: SAE}")
        if numbered := [label for label in self.saes if " #" in label]:
            raise UserError(f"' #' numbers draws of random SAEs; give other labels for {numbered}")
        check_model(self.model)
        width = self.model.cfg.d_model
        for label, sae in self.saes.items():
            check_sae(sae, label)
            if sae.cfg.d_in != width:
                raise UserError(
                    f"{label} reads {sae.cfg.d_in} dimensions, but the model's residual stream has "
                    f"{width}: it was trained on another model"
                )
        hook = self.hook or _shared(self.saes, "hook", lambda sae: named(sae, "hook_name"))
        if is_outside(hook):
            raise UserError(f"{hook!r} lies inside a layer; name a hook of the residual stream")
        if isinstance(self.model, TransformerBridge):
            check_middle(self.model, hook)
        object.__setattr__(self, "hook", hook)
        reads_bos = _shared(
            self.saes, "use of a BOS token", lambda sae: sae.cfg.metadata.prepend_bos is not False
        )
        object.__setattr__(self, "prepend_bos", reads_bos)
        for label, sae in self.saes.items():
            if sae.cfg.metadata.prepend_bos is None:
                logger.warning(
                    "%s does not say whether texts began with a BOS token in its training; here "
                    "they do, as SAELens takes it (else set cfg.metadata.prepend_bos = False)",
                    label,
                )

    def __repr__(self) -> str:
        name = self.model.cfg.model_name
        return f"ModelWithSAEs: {name} at {self.hook} with {', '.join(self.saes)}"

    @property
    def sparse(self) -> list[str]:
        """Labels of the SAEs proper."""
        return [label for label in self.saes if label not in self.not_sparse]

    def describe(self) -> dict[str, Any]:
        """What a record says of it: model, hook, BOS, and each autoencoder's kind and hook."""
        autoencoders = {
            label: {"kind": str(sae.cfg.architecture()), "trained at": sae.cfg.metadata.hook_name,
                    "width": sae.cfg.d_sae} for label, sae in self.saes.items()
        }  # fmt: skip
        return {"model": str(self.model.cfg.model_name), "hook": self.hook,
                "prepend_bos": self.prepend_bos, "autoencoders": autoencoders}  # fmt: skip

    def activations(
        self, concept: Concept | str, *, positions: Positions = "content",
        prompts_file: Path | str | None = None, function_words: str = "english",
        max_prompts: int = 0, seed: int = 0, massive: Massive = "leave out",
    ) -> TokenActivations:  # fmt: skip
        """One forward pass: the residual stream at the hook for a concept's tokens.

        `concept` is a name in the shipped file (or in `prompts_file`) or a Concept of your own; of
        more than `max_prompts` prompts (0: all are taken) that many are drawn, balanced over the
        entities. `function_words` is the list of those that are masked: a language, or "none".
        Tokens with massive activations are left out, and named, unless they are to "keep" (see
        `TokenActivations`).
        """
        if isinstance(concept, str):
            concept = load_concept(concept, prompts_file or None)
        acts = read_concept(
            self.model, concept.drawn(max_prompts, seed=seed), self.hook, source=self,
            prepend_bos=self.prepend_bos, function_words=function_words, massive=massive,
        )  # fmt: skip
        return acts.at(positions)

    def random_model(self, random_state: int) -> Any:
        """A control: the same architecture with the weights that training would start from."""
        if self.load is None:
            raise UserError(
                "the random counterpart of your own model is not known: give ModelWithSAEs a "
                "`load` that takes random_state, such as functools.partial(load_model, NAME)"
            )
        return self.load(random_state=random_state)


def load(
    preset: str = "minilm", *, model_name: str = "", hook: str = "", dtype: str = "float32",
    device: str = "auto",
) -> ModelWithSAEs:  # fmt: skip
    """A preset, or an SAE of your own on the model that it was trained on.

    `preset` is a preset's name, or the SAE (see `load_sae`), whose metadata names model, hook, BOS
    and the processing of weights; `model_name` (a name on the hub, or a folder) and `hook` replace
    the first two. `dtype` is that of the model's weights; autoencoders stay in float32. Raises
    UserError if anything is unknown or does not fit.
    """
    device = best_device(device)
    choose("dtype", dtype, DTYPES)
    check_preset(preset, model_name=model_name, hook=hook)
    if preset in PRESETS:
        chosen = PRESETS[preset]
        saes = {label: load_sae(name, device=device) for label, name in chosen.saes.items()}
    else:
        sae = load_sae(preset, device=device)
        kind = str(sae.cfg.architecture())
        saes = {f"{_KINDS.get(kind, kind)} SAE": sae}
        chosen = Preset(model_name or named(sae, "model_name", "give model_name"), {})
    for label, sae in saes.items():
        if hook and not same_place(hook, trained_at := sae.cfg.metadata.hook_name or hook):
            logger.warning("%s was trained at %s, but reads at %s", label, trained_at, hook)
    processing = _shared(
        saes, "processing of the model's weights",
        lambda sae: dict(sae.cfg.metadata.model_from_pretrained_kwargs or {}),
    )  # fmt: skip
    name = model_name or chosen.model
    load_again = partial(load_model, name, device=device, dtype=dtype, processing=processing)
    return ModelWithSAEs(load_again(), saes, chosen.not_sparse, hook=hook, load=load_again)


def _shared(saes: Mapping[str, Any], what: str, read: Callable[[Any], Any]) -> Any:
    """What `read` gives for each SAE, if that is the same for all. Raises UserError else."""
    values = {label: read(sae) for label, sae in saes.items()}
    if any(value != next(iter(values.values())) for value in values.values()):
        raise UserError(f"the SAEs must share one {what}, but were trained with {values}")
    return next(iter(values.values()))
