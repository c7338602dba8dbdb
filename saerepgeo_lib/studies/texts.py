"""The text that each embedded model's autoencoders are trained on.

A causal language model wrote part of it itself, on its own distribution.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from saerepgeo_lib import files
from saerepgeo_lib.activations.bridges import unhooked
from saerepgeo_lib.activations.models import seeded
from saerepgeo_lib.activations.prompts import Concept, Prompt
from saerepgeo_lib.activations.tokens import encode_texts
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.files import data_dir
from saerepgeo_lib.studies.corpus import WORDNET_DIR, Passage, embedded_passages

N_FRAME_SENTENCES = 150_000
N_PASSAGES = 56_000  # of WordNet's and the frames', for SmolLM2, which reads them more slowly
N_SAMPLES = 768
_WORDNET: dict[str, Any] = {
    "name": "WordNet 3.0 glosses and examples, and sentences from frames over its lemmas",
    "licence": "WordNet 3.0 licence (permissive, with notice); frames: MIT, as this project",
}
CORPORA = {
    "minilm": _WORDNET,
    "smollm2": {
        "name": f"the model's own samples; {_WORDNET['name']}",
        "licence": "samples: written by SmolLM2 (Apache-2.0) after openings from WordNet, no "
                   f"rights claimed; {_WORDNET['licence']}",
    },
}  # fmt: skip
_BATCH = 64  # texts that are written together; a file of results each
_OPENING = 3  # tokens after BOS that are given


def corpus_of(
    name: str, model: Any, *, n_passages: int = N_PASSAGES, wordnet: Path = WORDNET_DIR
) -> list[Passage]:
    """The text for an embedded model; what it wrote itself is shipped (`data/samples`).

    Of WordNet's and the frames' a causal model takes `n_passages`.
    """
    passages = embedded_passages(n_frame_sentences=N_FRAME_SENTENCES, wordnet=wordnet)
    if CORPORA[name] is _WORDNET:
        return passages
    openings = [p.text for p in passages if p.source == "examples"][: 2 * N_SAMPLES]
    samples = sampled_passages(model, openings, n=N_SAMPLES, folder=data_dir() / "samples")
    return samples + passages[:n_passages]


def sampled_passages(
    model: Any, openings: Sequence[str], *, n: int, n_tokens: int = 64, random_state: int = 0,
    folder: Path,
) -> list[Passage]:  # fmt: skip
    """What the model writes after the first three tokens of `n` openings, at temperature 1.

    Shorter openings are passed over. A batch that is in `folder` is not written again: on another
    processor other texts would come out, since rounding decides between tokens. Raises UserError
    for too few openings, and for a batch of others.
    """
    given = [row for row in encode_texts(model.tokenizer, openings)[0]
             if len(row) > _OPENING]  # fmt: skip
    if len(given) < n:
        raise UserError(f"{n} texts need as many openings of {_OPENING} tokens, got {len(given)}")
    starts = torch.tensor([row[: 1 + _OPENING] for row in given[:n]])
    texts = []
    batches = tqdm(starts.split(_BATCH), desc="the model's own text", unit="batch")
    for number, ids in enumerate(batches):
        path = folder / f"{number:04d}.json"
        if not path.is_file():
            out = _continued(model, ids, n_tokens, random_state + number)
            files.write_json(path, model.tokenizer.batch_decode(out, skip_special_tokens=True))
        written, begun = files.read_json(path), model.tokenizer.batch_decode(ids[:, 1:])
        if [text[: len(start)] for text, start in zip(written, begun, strict=False)] != begun:
            raise UserError(f"{path} holds texts of other openings; remove it, and it is made anew")
        texts += [" ".join(text.split()) for text in written]
    return [Passage(text, "samples") for text in dict.fromkeys(texts)]


def running_text(n: int = N_SAMPLES) -> Concept:
    """The first `n` of the texts that come with the book (`data/samples`), each a prompt.

    They are SmolLM2's own; whitespace is made plain, and copies count once.
    """
    files_of_texts = sorted((data_dir() / "samples").glob("*.json"))
    texts = [" ".join(t.split()) for path in files_of_texts for t in files.read_json(path)]
    return Concept("running text", tuple(map(Prompt, dict.fromkeys(texts)))[:n])


@torch.no_grad()
def _continued(model: Any, ids: torch.Tensor, n_tokens: int, seed: int) -> torch.Tensor:
    """The ids with `n_tokens` more, drawn from the model's own distribution (nothing cut off)."""
    device = model.cfg.device
    ids = ids.to(device)
    with unhooked(model) as inner, seeded(seed, device=str(device)):
        out: torch.Tensor = inner.generate(  # type: ignore[operator]
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=n_tokens, do_sample=True,
            use_cache=True, temperature=1.0, top_k=0, top_p=1.0,
            pad_token_id=model.tokenizer.pad_token_id,
        )  # fmt: skip
    return out
