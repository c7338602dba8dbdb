"""One side of a head-to-head on one concept, alone in its process; prints one JSON object.

`peers` starts it. CPU and wall seconds are told by part; loading is a part of its own.
"""

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import plain, plain_edits
from benchmarks.measure import Parts, peak_mib, reset_peak
from benchmarks.shapes import LABEL, SHAPES, Shape, build
from saerepgeo_lib.activations import prompts
from saerepgeo_lib.activations.latents import encode
from saerepgeo_lib.activations.model_with_saes import ModelWithSAEs
from saerepgeo_lib.activations.models import best_device
from saerepgeo_lib.activations.residual_stream import add_noise, rms
from saerepgeo_lib.geometry.clusters import cluster_pca
from saerepgeo_lib.geometry.points import as_points, principal_coordinates
from saerepgeo_lib.rank.noise_sweep import PAPER_LEVELS, stream, sweep
from saerepgeo_lib.rank.unfoldings import aligned_rows, modal_spectra
from saerepgeo_lib.steering.dose_response import LEAST, dose_response
from saerepgeo_lib.steering.latents import Kind
from saerepgeo_lib.steering.optimise import intervene, least_mse_at
from saerepgeo_lib.studies import steering_experiment as separability

ONE_LEVEL = (0.1,)
_SLOTS = 2
Work = Callable[[ModelWithSAEs, str, Parts], dict[str, Any]]


def case1_library(
    model: ModelWithSAEs, concept: str, parts: Parts, *, n_levels: int
) -> dict[str, Any]:
    """The library's Case 1 without nulls.

    One level by its functions one by one; several by `sweep`. One draw of noise, as the plain side.
    """
    sae = model.saes[LABEL]
    with parts("model"):
        acts = model.activations(concept)
    if n_levels > 1:
        with parts("encode and spectra"):
            sweep(
                acts, {LABEL: sae}, sparse=(), levels=PAPER_LEVELS[:n_levels],
                seeds=(0,), max_slots=_SLOTS,
            )  # fmt: skip
        return {}
    with parts("encode"):
        x = acts.x[aligned_rows(acts, max_slots=_SLOTS).flatten()]
        generator = stream(0, "noise")
        noisy = add_noise(x, ONE_LEVEL[0], scaling="relative", generator=generator)
        latents = encode(sae, noisy)
    with parts("spectra"):
        modal_spectra(latents.values, _SLOTS)
    return {}


def case1_plain(
    model: ModelWithSAEs, concept: str, parts: Parts, *, variant: plain.Variant, n_levels: int
) -> dict[str, Any]:
    """The plain Case 1, one draw of noise; its scale is given."""
    acts = model.activations(concept)
    rows = aligned_rows(acts, max_slots=_SLOTS)
    device, shape = acts.x.device, (*acts.tokens.ids.shape, acts.x.shape[1])
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    plain.spectra(
        model.model, model.saes[LABEL], acts.tokens, model.hook, rms(acts.x) * drawn.to(device),
        levels=PAPER_LEVELS[:n_levels] if n_levels > 1 else ONE_LEVEL, variant=variant,
        at=(acts.prompt[rows].to(device), acts.position[rows].to(device)), parts=parts,
    )  # fmt: skip
    return {"tensor": [*acts.tokens.ids.shape, model.saes[LABEL].cfg.d_sae]}


def case3_library(
    model: ModelWithSAEs,
    concept: str,
    parts: Parts,
    *,
    kind: Kind,
    doses: list[float],
    searched: bool,
) -> dict[str, Any]:
    """The least error at each dose as the notebook has it, or each dose `searched` for.

    `dose_response` knows by theorem the free edits from some dose on, and adds intervals, d_GW, and
    more; a search at every dose is what the plain side does.
    """
    sae = model.saes[LABEL]
    with parts("model"):
        acts = model.activations(concept)
    with parts("encode and cluster"):
        (case,) = separability.cases_of([acts], saes={LABEL: sae}).values()
        latents = case.latents
    with parts("doses"):
        if not searched:
            dose_response(
                latents, acts.prompt.numpy(), acts.folds(12), doses=doses, paths=[LEAST[kind]]
            )
        else:
            valid = kind == "valid"
            start = intervene(latents, "reconstruct", kind="valid").vectors if valid else None
            for dose in doses:
                least_mse_at(latents, dose, kind=kind, start=start)
    return {"clusters": len(latents.counts), "tokens": len(latents.z)}


def case3_plain(
    model: ModelWithSAEs, concept: str, parts: Parts, *, kind: Kind, doses: list[float]
) -> dict[str, Any]:
    """The same searches on dense latents; the clusters are found as the library finds them."""
    sae = model.saes[LABEL]
    with parts("model"):
        x = model.activations(concept).x
    with parts("encode and cluster"):
        space = principal_coordinates(as_points(sae, x))
        labels = torch.from_numpy(cluster_pca(space)).to(x.device)
        with torch.no_grad():
            here = plain_edits.Dense(sae, x, sae.encode(x), labels)
    with parts("doses"):
        start = plain_edits.reconstruct(here, kind) if kind == "valid" else here.unmoved
        for dose in doses:
            plain_edits.least_mse_at(here, dose, kind, start)
    return {"clusters": len(here.members), "tokens": len(x)}


def work_of(args: argparse.Namespace) -> Work:
    """What the arguments ask for."""
    if args.case == 1:
        if args.side == "library":
            return lambda *given: case1_library(*given, n_levels=args.levels)
        return lambda *given: case1_plain(*given, variant=args.side, n_levels=args.levels)
    if args.side == "plain":
        return lambda *given: case3_plain(*given, kind=args.kind, doses=args.doses)
    searched = args.side == "searched"
    return lambda *given: case3_library(*given, kind=args.kind, doses=args.doses, searched=searched)


def run(shape: Shape, concept: str, work: Work, *, device: str) -> dict[str, Any]:
    """Load, work, and tell what each part cost; weights are read from disk when first used."""
    parts = Parts(device)
    with parts("load"):
        model = build(shape, device=device)
        first = prompts.load_concept(concept).prompts[:1]
        model.activations(prompts.Concept("first prompt", first))
    before = reset_peak(device)
    found = work(model, concept, parts)
    found["parts"] = parts.seconds
    if before is not None:
        found["peak_mib"] = peak_mib(device)
        found["loaded_mib"] = before
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", type=int, choices=(1, 3), required=True)
    parser.add_argument("--side", required=True)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--concept", required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--levels", type=int, default=1)
    parser.add_argument("--kind", choices=("free", "valid"), default="valid")
    parser.add_argument("--doses", type=json.loads, default=[1.0])
    args = parser.parse_args()
    device = best_device(args.device)
    found = run(SHAPES[args.shape], args.concept, work_of(args), device=device)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
