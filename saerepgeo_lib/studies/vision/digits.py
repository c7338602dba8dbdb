"""Images before the cases: digits as prompts, their patches as tokens, a small vision transformer.

An image of 8 x 8 pixels with 17 shades is written as 16 words, one per patch of 2 x 2 pixels: four
digits to the base 17, row by row. So an image is a prompt, a patch is a token whose id is the
number that its word writes, and nothing is lost on the way. The transformer is TransformerLens'
own, but for its embedding, which reads the pixels off the id.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from transformer_lens import HookedTransformer, HookedTransformerConfig

from saerepgeo_lib.activations.models import seeded
from saerepgeo_lib.activations.prompts import Concept, Prompt
from saerepgeo_lib.activations.tokens import Tokens
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.plots.panels import axes_grid
from saerepgeo_lib.plots.style import in_figure

SIDE, PATCH, SHADES = 8, 2, 17  # pixels per side of an image and of a patch, levels of grey
N_PATCHES = (SIDE // PATCH) ** 2
CLASS_TOKEN = SHADES ** (PATCH * PATCH)  # the first id that is no patch
BLANK = 0  # the id of a patch without ink
HOOK = "blocks.2.hook_resid_post"
N_TEST = 360
DIGITS = "0123456789abcdefg"
_TINT = (0.0, 0.447, 0.698, 0.28)  # blue, so that the ink shows through
_POWERS = SHADES ** np.arange(PATCH**2)[::-1]

Images = Int[np.ndarray, "n 8 8"]
Ids = Int[Tensor, "n 17"]


@dataclass(frozen=True)
class Split:
    """The digits of scikit-learn, split by class: images with shades 0 to 16, and their classes."""

    train: Images
    test: Int[np.ndarray, "m 8 8"]
    train_class: Int[np.ndarray, " n"]
    test_class: Int[np.ndarray, " m"]


@cache
def digits(random_state: int = 0) -> Split:
    """The 1,797 images that come with scikit-learn; `N_TEST` of them are held out."""
    images, classes = load_digits(return_X_y=True)
    images = images.astype(np.int64).reshape(-1, SIDE, SIDE)
    options = {"test_size": N_TEST, "stratify": classes, "random_state": random_state}
    return Split(*train_test_split(images, classes, **options))


def _patches(images: Images) -> Int[np.ndarray, "n 16 4"]:
    """The shades of each patch, patches and shades in reading order."""
    n, k = len(images), SIDE // PATCH
    cut = images.reshape(n, k, PATCH, k, PATCH).swapaxes(2, 3)
    return cut.reshape(n, N_PATCHES, PATCH**2)


def patch_ids(images: Images) -> Ids:
    """The class token, then the patches in reading order, each as the number that it writes."""
    ids = np.pad(_patches(images) @ _POWERS, ((0, 0), (1, 0)), constant_values=CLASS_TOKEN)
    return torch.from_numpy(ids)


def patch_word(id: int) -> str:
    """A patch in writing: its four shades as digits to the base 17."""
    if id == CLASS_TOKEN:
        return "[CLS]"
    return "".join(DIGITS[id // power % SHADES] for power in _POWERS)


def digits_concept(split: Split, *, n_per_class: int = 12) -> Concept:
    """The first `n_per_class` held-out images of each class as prompts; the class is the entity.

    The k-th images of all classes are a frame. They share nothing, so that an interval over frames
    is one over images. Raises UserError if a class has fewer images.
    """
    names, counts = np.unique(split.test_class, return_counts=True)
    if counts.min() < n_per_class:
        raise UserError(
            f"n_per_class is {n_per_class}, but class {names[counts.argmin()]} has {counts.min()} "
            f"images here; take at most that many"
        )
    written = [" ".join(map(patch_word, row[1:])) for row in patch_ids(split.test).tolist()]
    prompts = [
        Prompt(written[np.flatnonzero(split.test_class == name)[k]], str(name), f"group {k}")
        for k in range(n_per_class)
        for name in names
    ]
    return Concept("digits", tuple(prompts))


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


class PatchReader:
    """What stands in a tokenizer's place: it reads images in writing, and names their patches.

    The class token is the *entity* token; *content* are it and all patches with ink.
    """

    padding_side = "right"  # asked for by the model, which sets it; no image is padded

    def read_concept(self, concept: Concept) -> Tokens:
        """A concept's images as tokens. Raises UserError for a prompt that is no image."""
        ids = torch.tensor([read_image(prompt.text) for prompt in concept.prompts])
        return Tokens(ids, torch.ones_like(ids).bool(), ids != BLANK, ids == CLASS_TOKEN)

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """The patches in writing."""
        return [patch_word(id) for id in ids]


class PatchEmbed(nn.Module):
    """The embedding of ids: their digits to the base 17 times a matrix; the fifth is the class's.

    A shade of 16 counts as 1. So a patch is embedded linearly in its pixels.
    """

    def __init__(self, d_model: int):
        super().__init__()
        self.W_E = nn.Parameter(torch.empty(PATCH**2 + 1, d_model))

    def forward(self, ids: Int[Tensor, "n positions"]) -> Float[Tensor, "n positions d"]:
        """Embeddings of the ids."""
        powers = SHADES ** torch.arange(PATCH**2, -1, -1, device=ids.device)
        scale = torch.tensor([1.0] + [1 / (SHADES - 1)] * PATCH**2, device=ids.device)
        return (ids[..., None] // powers % SHADES * scale) @ self.W_E


def build_vit(*, random_state: int = 0, device: str = "cpu") -> Any:
    """A `HookedTransformer` with the weights that training starts from; see `classify`."""
    cfg = HookedTransformerConfig(
        n_layers=4, d_model=64, n_heads=4, d_head=16, d_mlp=256, act_fn="gelu",
        normalization_type="LN", attention_dir="bidirectional", n_ctx=N_PATCHES + 1,
        d_vocab=CLASS_TOKEN + 1, d_vocab_out=10, model_name="digits-vit", device=device,
        init_weights=False,
    )  # fmt: skip
    with warnings.catch_warnings(), seeded(random_state, device=device):
        warnings.simplefilter("ignore", DeprecationWarning)  # the constraints hold release 3
        model = HookedTransformer(cfg)
        model.embed = PatchEmbed(cfg.d_model).to(device)
        model.setup()
        model.init_weights()  # with a seed in `cfg` it would seed numpy and random for all
    model.tokenizer = PatchReader()
    return model.eval()


def classify(model: Any, ids: Ids) -> Float[Tensor, "n 10"]:
    """Logits of the ten classes."""
    logits: Tensor = model(ids.to(model.cfg.device))[:, 0]
    return logits


@torch.no_grad()
def accuracy(model: Any, images: Images, classes: Int[np.ndarray, " n"]) -> float:
    """Share of the images that the model puts into their class."""
    predicted = classify(model, patch_ids(images)).argmax(1).cpu().numpy()
    return float((predicted == classes).mean())


def plot_patches(images: Int[np.ndarray, "n 8 8"], names: Int[np.ndarray, " n"]) -> Figure:
    """Images in two rows with the grid of their patches; patches with ink are tinted."""
    figure, axes = axes_grid(len(images), columns=-(-len(images) // 2), height=1.4, extra=0.2)
    inked = [patches.any(1) for patches in _patches(images)]
    for ax, image, name, ink in zip(axes, images, names, inked, strict=True):
        ax.set_axis_off()
        ax.imshow(image, cmap="gray_r", vmin=0, vmax=16)
        for patch in np.flatnonzero(ink):
            row, column = divmod(patch, SIDE // PATCH)
            corner = (column * PATCH - 0.5, row * PATCH - 0.5)
            ax.add_patch(Rectangle(corner, PATCH, PATCH, fc=_TINT, ec="none"))
        for edge in np.arange(0, SIDE + 1, PATCH) - 0.5:
            ax.axhline(edge, color="0.6", lw=0.6)
            ax.axvline(edge, color="0.6", lw=0.6)
        ax.set_title(in_figure(name), fontsize=10)
    return figure
