"""Presets: a model, a hook and the SAEs trained there, under one name."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class SaeSource:
    """Where an SAE comes from: a shipped name, or a SAELens release and id.

    `sparse` says whether it is an SAE proper (a null such as a dense autoencoder is not).
    """

    shipped: str | None = None
    release: str | None = None
    sae_id: str | None = None
    sparse: bool = True


@dataclass(frozen=True)
class Preset:
    """A model (see `models.load_model`) and its SAEs by label, all at one hook."""

    name: str
    model: str
    saes: dict[str, SaeSource] = field(default_factory=dict)


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            "minilm",
            "minilm",
            {
                "TopK SAE": SaeSource("minilm-l4-topk"),
                "L1-ReLU SAE": SaeSource("minilm-l4-l1"),
                "dense AE": SaeSource("minilm-l4-dense", sparse=False),
            },
        ),
        Preset(
            "gpt2-small",
            "openai-community/gpt2",
            {
                "TopK SAE": SaeSource(
                    release="gpt2-small-resid-post-v5-32k", sae_id="blocks.11.hook_resid_post"
                )
            },
        ),
        Preset(
            "pythia-70m",
            "EleutherAI/pythia-70m-deduped",
            {
                "L1-ReLU SAE": SaeSource(
                    release="pythia-70m-deduped-res-sm", sae_id="blocks.5.hook_resid_post"
                )
            },
        ),
        Preset(
            "gemma-2-2b",
            "google/gemma-2-2b",
            {
                "TopK SAE": SaeSource(
                    release="sae_bench_gemma-2-2b_topk_width-2pow16_date-1109",
                    sae_id="blocks.19.hook_resid_post__trainer_0",
                )
            },
        ),
    )
}
