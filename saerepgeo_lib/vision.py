"""Images before the cases: digits as prompts, their patches as tokens, a small vision transformer.

An image of 8 x 8 pixels with 17 shades is written as 16 words, one a patch of 2 x 2 pixels: four
digits to the base 17, row by row. So an image is a prompt, a patch is a token whose id is the
number that its word writes, and nothing is lost on the way. The transformer is TransformerLens'
own, but for its embedding, which reads the pixels off the id.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from transformer_lens import HookedTransformer, HookedTransformerConfig

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.prompts import Concept, Prompt
from saerepgeo_lib.subject import Subject
from saerepgeo_lib.tokens import Tokens

SIDE, PATCH, SHADES = 8, 2, 17  # pixels a side of an image and of a patch, levels of grey
N_PATCHES = (SIDE // PATCH) ** 2
CLASS_TOKEN = SHADES ** (PATCH * PATCH)  # the first id that is no patch
BLANK = 0  # the id of a patch without ink
HOOK = "blocks.2.hook_resid_post"
N_TEST = 360
DIGITS = "0123456789abcdefg"

Images = Int[np.ndarray, "n 8 8"]
Ids = Int[Tensor, "n 17"]


@dataclass(frozen=True)
class Split:
    """The digits of scikit-learn, split by class: images with shades 0 to 16, and their classes."""

    train: Images
    train_class: Int[np.ndarray, " n"]
    test: Int[np.ndarray, "m 8 8"]
    test_class: Int[np.ndarray, " m"]


@cache
def digits(random_state: int = 0) -> Split:
    """The 1,797 images that come with scikit-learn; `N_TEST` of them are held out."""
    found = load_digits()
    images = found.images.astype(np.int64)
    parts = train_test_split(
        images, found.target, test_size=N_TEST, stratify=found.target, random_state=random_state
    )
    return Split(parts[0], parts[2], parts[1], parts[3])


def patch_ids(images: Images) -> Ids:
    """The class token, then the patches in reading order, each as the number that it writes."""
    n, k = len(images), SIDE // PATCH
    cut = images.reshape(n, k, PATCH, k, PATCH).swapaxes(2, 3).reshape(n, N_PATCHES, PATCH**2)
    powers = SHADES ** np.arange(PATCH**2)[::-1]
    first = np.full((n, 1), CLASS_TOKEN)
    return torch.from_numpy(np.concatenate([first, cut @ powers], axis=1))


def patch_word(id: int) -> str:
    """A patch in writing: its four shades as digits to the base 17."""
    if id == CLASS_TOKEN:
        return "[CLS]"
    return "".join(DIGITS[id // SHADES**i % SHADES] for i in reversed(range(PATCH**2)))


def concept_of(
    images: Images, classes: Int[np.ndarray, " n"], *, n_per_class: int = 12, name: str = "digits"
) -> Concept:
    """The first `n_per_class` images of each class as prompts; the class is the entity.

    Group k holds the k-th image of every class, and stands where a sentence frame stands in
    language. But images of a group share nothing, as the sentences of a frame do: an interval over
    groups is one over images. Raises UserError if a class has fewer images.
    """
    names, counts = np.unique(classes, return_counts=True)
    if counts.min() < n_per_class:
        raise UserError(
            f"n_per_class is {n_per_class}, but class {names[counts.argmin()]} has {counts.min()} "
            f"images here; take at most that many"
        )
    written = [" ".join(map(patch_word, row[1:])) for row in patch_ids(images).tolist()]
    prompts = [
        Prompt(written[np.flatnonzero(classes == label)[k]], str(label), f"group {k}")
        for k in range(n_per_class)
        for label in names
    ]
    return Concept(name, tuple(prompts))


def read_image(text: str) -> list[int]:
    """The ids of a written image, the class token in front. Raises UserError if it is none."""
    words = text.split()
    bad = [w for w in words if len(w) != PATCH**2 or set(w) - set(DIGITS)]
    if bad or len(words) != N_PATCHES:
        raise UserError(
            f"expected an image as {N_PATCHES} patches of {PATCH**2} digits to the base {SHADES} "
            f"({DIGITS}), got {len(words)} words" + (f", among them {bad[0]!r}" if bad else "")
        )
    return [CLASS_TOKEN, *(int(word, SHADES) for word in words)]


class PatchEmbed(nn.Module):
    """The embedding of ids: their digits to the base 17 times a matrix; the fifth is the class's.

    A shade of 16 counts as 1. So a patch is embedded linearly in its pixels.
    """

    powers: Tensor
    scale: Tensor

    def __init__(self, d_model: int):
        super().__init__()
        self.W_E = nn.Parameter(torch.empty(PATCH**2 + 1, d_model))
        powers = SHADES ** torch.arange(PATCH**2, -1, -1)
        scale = torch.tensor([1.0] + [1 / (SHADES - 1)] * PATCH**2)
        self.register_buffer("powers", powers, persistent=False)
        self.register_buffer("scale", scale, persistent=False)

    def forward(self, ids: Int[Tensor, "n positions"]) -> Float[Tensor, "n positions d"]:
        """Embeddings of the ids."""
        out: Tensor = (ids[..., None] // self.powers % SHADES * self.scale) @ self.W_E
        return out


class PatchReader:
    """What stands in a tokenizer's place: it reads images in writing, and names their patches.

    The class token is the *entity* token, since the task ties no other position to the class;
    *content* are the class token and all patches with ink: blank patches are left out, as function
    words are.
    """

    padding_side = "right"  # asked for by the model, which sets it; no image is padded

    def read_concept(self, concept: Concept) -> Tokens:
        """A concept's images as tokens. Raises UserError for a prompt that is no image."""
        ids = torch.tensor([read_image(prompt.text) for prompt in concept.prompts])
        return Tokens(ids, torch.ones_like(ids).bool(), ids != BLANK, ids == CLASS_TOKEN)

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """The patches in writing."""
        return [patch_word(id) for id in ids]


def build_vit(*, random_state: int = 0, device: str = "cpu") -> Any:
    """The transformer with the weights that training starts from: 4 blocks, d_model 64, pre-norm.

    A `HookedTransformer`, so hooks, caches and `stop_at_layer` are TransformerLens' own. The class
    is read off the first position.
    """
    cfg = HookedTransformerConfig(
        n_layers=4, d_model=64, n_heads=4, d_head=16, d_mlp=256, act_fn="gelu",
        normalization_type="LN", attention_dir="bidirectional", n_ctx=N_PATCHES + 1,
        d_vocab=CLASS_TOKEN + 1, d_vocab_out=10, model_name="digits-vit", device=device,
    )  # fmt: skip
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore", DeprecationWarning)  # the constraints hold release 3
        model = HookedTransformer(cfg)
        model.embed = PatchEmbed(cfg.d_model).to(device)
        model.setup()
        torch.manual_seed(random_state)  # a seed in `cfg` would seed numpy and random for all
        model.init_weights()
    model.tokenizer = PatchReader()
    return model.eval()


def classify(model: Any, ids: Ids) -> Float[Tensor, "n 10"]:
    """Logits of the ten classes."""
    logits: Tensor = model(ids.to(model.cfg.device))[:, 0]
    return logits


@torch.no_grad()
def accuracy(model: Any, images: Images, classes: Int[np.ndarray, " n"]) -> float:
    """Share of the images that the model puts into their class."""
    found = classify(model, patch_ids(images)).argmax(1).cpu().numpy()
    return float((found == classes).mean())


def subject_of(model: Any, autoencoders: dict[str, Any], not_sparse: Sequence[str]) -> Subject:
    """A subject of a model and its autoencoders, with the random weights of other seeds beside."""
    load = partial(build_vit, device=str(model.cfg.device))
    return Subject(model, autoencoders, tuple(not_sparse), load=load)
