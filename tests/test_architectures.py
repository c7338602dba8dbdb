"""Each architecture that TransformerLens knows: the stream is transformers', or refused."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import transformers
from refusals import refused
from tiny_models import put_tiny
from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
from transformer_lens.model_bridge.sources.transformers import get_hf_model_class_for_architecture

from saerepgeo_lib.activations.models import load_model
from saerepgeo_lib.activations.token_activations import read_activations
from saerepgeo_lib.activations.tokens import Tokens, pad

PAGE = Path(__file__).parents[1] / "book" / "how_to_read.md"
QUICK = ("GPT2LMHeadModel", "LlamaForCausalLM", "CohereForCausalLM", "BertLMHeadModel")
REFUSED = {  # by what the message says; the page lists them in this order
    "is not the model's": {"Cohere2ForCausalLM", "CohereForCausalLM", "HunYuanDenseV1ForCausalLM"},
    "has no one residual stream": {"DeepseekV4ForCausalLM"},
    "computes no blocks.0.hook_out": {"OpenAIGPTLMHeadModel"},
    "has no one stack of blocks": {
        "ASTForAudioClassification", "BartForConditionalGeneration",
        "BlenderbotForConditionalGeneration", "DeiTForImageClassification", "DeiTModel",
        "HrmTextForCausalLM", "HubertForCTC", "HubertModel", "LEDForConditionalGeneration",
        "LongT5ForConditionalGeneration", "M2M100ForConditionalGeneration",
        "MBartForConditionalGeneration", "MT5ForConditionalGeneration", "MarianMTModel",
        "PegasusForConditionalGeneration", "T5ForConditionalGeneration",
        "T5Gemma2ForConditionalGeneration", "T5GemmaForConditionalGeneration",
        "ViTForImageClassification", "ViTModel",
    },
    "torchvision": {
        "Glm4vForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration",
        "Qwen3VLForConditionalGeneration", "Qwen3VLMoeForConditionalGeneration",
        "Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration",
    },
}  # fmt: skip
NOT_TRIED = {
    "Emu3ForConditionalGeneration", "Florence2ForConditionalGeneration",
    "Gemma3nForConditionalGeneration", "Gemma4UnifiedForConditionalGeneration",
    "SwitchTransformersForConditionalGeneration", "Zamba2ForCausalLM",
} | {name for name in SUPPORTED_ARCHITECTURES if not hasattr(transformers, name)}  # fmt: skip
TRIED = sorted(set(SUPPORTED_ARCHITECTURES) - NOT_TRIED)
WHY = {name: why for why, names in REFUSED.items() for name in names}
ROWS = [[7, 4, 11, 12], [5, 6, 13, 21, 34, 9, 40, 15, 6, 28, 9]]
IDS, REAL = pad(ROWS, 0)
TOKENS = Tokens(IDS, REAL, REAL & (IDS != 9), torch.zeros_like(REAL))  # 9 does not count


def transformers_own(folder, architecture, path):
    """After each block at `path`: what transformers gives for each row alone, unpadded."""
    model = get_hf_model_class_for_architecture(architecture).from_pretrained(folder).eval()
    streams = []
    for layer in model.get_submodule(path):
        streams.append([])

        def note(_, given, x, stream=streams[-1]):
            stream.append((x if isinstance(x, torch.Tensor) else x[0])[0])

        layer.register_forward_hook(note)
    with torch.no_grad():
        for row in ROWS:
            model(input_ids=torch.tensor([row]))
    return [torch.cat(stream) for stream in streams]


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in TRIED
])  # fmt: skip
def test_the_residual_stream_is_that_of_transformers(name, tmp_path, unchecked):
    """For rows of two lengths in one padded batch, at the tokens that count."""
    if WHY.get(name) == "torchvision" and find_spec("torchvision"):
        pytest.skip("torchvision is installed")
    folder = put_tiny(tmp_path, name)
    if name in WHY:
        return refused(WHY[name], load_model, str(folder))
    model = load_model(str(folder))
    blocks = model.adapter.component_mapping["blocks"]
    own = transformers_own(folder, model.cfg.architecture, blocks.name)
    for i, stream in enumerate(own):
        acts = read_activations(model, TOKENS, f"blocks.{i}.hook_out")
        kept = TOKENS.content[REAL]
        assert len(acts) == 13
        off = (acts.x - stream[kept]).norm(dim=1) / stream[kept].norm(dim=1)
        assert off.max() < 1e-5, (i, off)


def test_the_page_lists_what_is_refused_and_what_was_not_tried():
    section = PAGE.read_text().partition("## Which models\n")[2].partition("\n## ")[0]
    listed = [set(re.findall(r"`(\w+)`", part)) for part in section.split("\n- ")[1:]]
    assert listed == [*REFUSED.values(), NOT_TRIED]
    counts = f"{len(TRIED) - len(WHY)} of the {len(SUPPORTED_ARCHITECTURES)} architectures"
    assert counts in " ".join(section.split())
