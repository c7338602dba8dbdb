"""How the cost of each stage grows with prompts, tokens, features, noise levels and seeds.

    python -m benchmarks.scaling [--shape minilm] [--stages sweep,spectra] [--repeats 3] [--out X]

Prompts, tokens and clusters are synthetic, so that each size can be set alone; the width d and the
model are the shape's. Costs are CPU seconds of all threads; `growth` fits the exponents.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.growth import growth
from benchmarks.measure import measure
from benchmarks.shapes import SHAPES, Shape, build, random_topk
from saerepgeo_lib.activations.latents import encode
from saerepgeo_lib.activations.models import best_device
from saerepgeo_lib.activations.residual_stream import content_residuals
from saerepgeo_lib.activations.token_activations import TokenActivations
from saerepgeo_lib.activations.tokens import Tokens
from saerepgeo_lib.files import write_json
from saerepgeo_lib.geometry.clusters import cluster_pca
from saerepgeo_lib.geometry.points import as_points, principal_coordinates
from saerepgeo_lib.rank.noise_sweep import PAPER_LEVELS, sweep
from saerepgeo_lib.rank.unfoldings import modal_spectra
from saerepgeo_lib.steering.latents import ClusteredLatents
from saerepgeo_lib.steering.optimise import intervene

_ENTITIES, _STEPS = 12, 8
PEAKS_OF = ("levels", "seeds")


@dataclass(frozen=True)
class Size:
    """Sizes of one piece of work; `tokens` are those of a prompt that count."""

    prompts: int = 64
    tokens: int = 2
    features: int = 2_048
    levels: int = 4
    seeds: int = 2


SIZES = {
    "prompts": (16, 32, 64, 128, 256), "tokens": (1, 2, 4, 8, 16),
    "features": (1_024, 2_048, 4_096, 8_192, 16_384), "levels": (2, 4, 8, 16, 32),
    "seeds": (2, 4, 8, 16, 32),
}  # fmt: skip
# a stage, and what its cost depends on
AXES = {
    "residuals": ("prompts", "tokens"),
    "encode": ("prompts", "tokens", "features"),
    "spectra": ("prompts", "tokens", "features"),
    "sweep": ("prompts", "tokens", "features", "levels", "seeds"),
    "clusters": ("prompts", "tokens", "features"),
    "steps, free edit": ("prompts", "tokens", "features"),
    "steps, valid edit": ("prompts", "tokens", "features"),
}
LARGER = {"residuals": Size(tokens=8), "encode": Size(prompts=256), "clusters": Size(tokens=8),
          "steps, free edit": Size(tokens=8), "steps, valid edit": Size(tokens=8)}  # fmt: skip


def synthetic(size: Size, d: int, *, seed: int = 0, device: str = "cpu") -> TokenActivations:
    """Tokens of prompts in turn about 12 entities; a cluster per entity and place."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(_ENTITIES, size.tokens, d, generator=generator)
    prompt = torch.arange(size.prompts).repeat_interleave(size.tokens)
    position = torch.arange(size.tokens).repeat(size.prompts)
    noise = 0.3 * torch.randn(len(prompt), d, generator=generator)
    x = centres[prompt % _ENTITIES, position] + noise
    return TokenActivations(x.to(device), prompt, position, position == 0)


def random_tokens(size: Size, vocabulary: int, *, seed: int = 0) -> Tokens:
    """Prompts of random tokens, all of which count."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, vocabulary, (size.prompts, size.tokens), generator=generator)
    every = torch.ones_like(ids, dtype=torch.bool)
    return Tokens(ids, every, every, every & (torch.arange(size.tokens) == 0))


def levels(n: int) -> list[float]:
    """As many noise levels from 0 to the paper's largest."""
    return torch.linspace(0, PAPER_LEVELS[-1], n).tolist()


def work(stage: str, size: Size, shape: Shape, model: Any, device: str) -> Callable[[], Any]:
    """The stage at this size, everything before it done."""
    if stage == "residuals":
        return partial(content_residuals, model, random_tokens(size, shape.vocabulary), shape.hook)
    here = synthetic(size, shape.d_model, device=device)
    wide = replace(shape, n_features=size.features, k=min(shape.k, size.features))
    sae = random_topk(wide, device=device)
    if stage == "encode":
        return partial(encode, sae, here.x)
    if stage == "spectra":
        values = torch.randn(len(here.x), size.features, device=device)
        return partial(modal_spectra, values, size.tokens)
    if stage == "sweep":
        return partial(
            sweep, here, {"SAE": sae}, sparse=["SAE"], levels=levels(size.levels),
            seeds=range(size.seeds), max_slots=None,
        )  # fmt: skip
    if stage == "clusters":
        points = as_points(sae, here.x)
        return lambda: cluster_pca(principal_coordinates(points))
    labels = (here.prompt % _ENTITIES) * size.tokens + here.position
    setting = ClusteredLatents.of(sae, here.x, labels.numpy())
    kind: Any = "free" if "free" in stage else "valid"
    return partial(intervene, setting, "separate", kind=kind, n_steps=_STEPS)


def grow(
    shape: Shape, stage: str, axis: str, *, model: Any, repeats: int = 3, device: str = "cpu"
) -> dict[str, Any]:
    """Costs of a stage along one axis and the fitted exponent; peak memory for levels and seeds."""
    base = LARGER.get(stage, Size())
    points = []
    for n in SIZES[axis]:
        call = work(stage, replace(base, **{axis: n}), shape, model, device)
        costs = measure(call, rounds=repeats, device=device)
        points.append({"size": n, "cpu_s": [c.cpu_s for c in costs],
                       "wall_s": [c.wall_s for c in costs],
                       "peak_mib": costs[0].peak_mib})  # fmt: skip
    seconds = "wall_s" if device.startswith("cuda") else "cpu_s"
    repeated = [(p["size"], cost) for p in points for cost in p[seconds]]
    found = asdict(growth(*zip(*repeated, strict=True)))
    return {"shape": shape.name, "stage": stage, "axis": axis, "of": seconds, "points": points,
            "base": asdict(base), **found}  # fmt: skip


def grow_all(
    shape: Shape, *, stages: list[str], repeats: int, device: str
) -> Iterator[dict[str, Any]]:
    """Every stage along every axis that its cost depends on."""
    model = build(shape, device=device).model
    for stage in stages:
        for axis in AXES[stage]:
            yield grow(shape, stage, axis, model=model, repeats=repeats, device=device)


def line(found: dict[str, Any]) -> str:
    """A result to read."""
    text = (
        f"{found['stage']:<18} {found['axis']:<9} size^{found['exponent']:.2f} "
        f"[{found['low']:.2f}, {found['high']:.2f}]"
    )
    peaks = [point["peak_mib"] for point in found["points"]]
    if found["axis"] in PEAKS_OF and None not in peaks:
        text += f"  peak {peaks[0]:.0f} to {peaks[-1]:.0f} MiB"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="minilm")
    parser.add_argument("--stages", default=",".join(AXES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    results = []
    for found in grow_all(
        SHAPES[args.shape], stages=args.stages.split(","), repeats=args.repeats,
        device=best_device(args.device),
    ):  # fmt: skip
        results.append(found)
        print(line(found), file=sys.stderr, flush=True)
        if args.out:
            write_json(args.out, results)
    if not args.out:
        json.dump(results, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
