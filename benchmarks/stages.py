"""The stages of Cases 1 and 3 at one shape, each with the floor that its shapes give.

Every stage is a call of the library's public functions on true prompts of one concept.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any

import psutil
import torch
from torch import Tensor

from benchmarks import limits as floors
from benchmarks.limits import Limits, product_rate
from benchmarks.measure import Cost, measure
from benchmarks.shapes import LABEL, Shape, build
from saerepgeo_lib.activations.latents import Latents, encode
from saerepgeo_lib.activations.model_with_saes import ModelWithSAEs
from saerepgeo_lib.activations.residual_stream import draw_noise, is_causal, rms
from saerepgeo_lib.activations.token_activations import TokenActivations, read_activations
from saerepgeo_lib.activations.tokens import Tokens
from saerepgeo_lib.cores import workers
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.geometry.clusters import cluster_pca
from saerepgeo_lib.geometry.points import Points, as_points, principal_coordinates
from saerepgeo_lib.rank._noisy_latents import NoisyLatents
from saerepgeo_lib.rank.noise_sweep import PAPER_LEVELS, stream, sweep
from saerepgeo_lib.rank.profiles import rank_table
from saerepgeo_lib.rank.unfoldings import aligned_rows, merged, modal_spectra
from saerepgeo_lib.steering.dose_response import dose_response
from saerepgeo_lib.steering.latents import PAPER_SCALES, ClusteredLatents, Kind
from saerepgeo_lib.steering.optimise import N_STEPS, intervene
from saerepgeo_lib.studies import steering_experiment as separability

N_SLOTS, N_DRAWS, FEW_STEPS = 2, 2, 8
ROUNDS, WARMUP = 3, 1  # calls that count, and calls before them
_WORK_BYTES = 4 * 2**30  # interpreter, libraries and what the stages hold besides the weights
# steps that a dose response takes: reconstruct, then a search, two landings and a push a dose
_VALID_STEPS = N_STEPS + len(PAPER_SCALES) * (N_STEPS + 10 + 10)


@dataclass(frozen=True)
class Stage:
    """A call to measure, the floor of its time, and how the whole follows from what is built.

    `factor` is by how much the call is to be multiplied for the true model (1 but for residuals of
    a model that is built with fewer blocks).
    """

    name: str
    work: Callable[[], Any]
    floor: Callable[[Limits], float]
    factor: float = 1.0


@dataclass(frozen=True)
class Bench:
    """A shape with the model loaded, and one concept's tokens on their way through the library."""

    shape: Shape
    model: ModelWithSAEs
    device: str = "cpu"
    concept: str = "months"

    @cached_property
    def sae(self) -> Any:
        """The SAE."""
        return self.model.saes[LABEL]

    @cached_property
    def acts(self) -> TokenActivations:
        """The residual stream of the content tokens."""
        return self.model.activations(self.concept)

    @property
    def tokens(self) -> Tokens:
        """The concept's prompts."""
        return self.acts.tokens

    @cached_property
    def rows(self) -> Tensor:
        """The residual stream of the tokens that fill the tensor."""
        return self.acts.x[aligned_rows(self.acts, max_slots=N_SLOTS).flatten()]

    @cached_property
    def latents(self) -> Latents:
        """Their latents without noise."""
        return encode(self.sae, self.rows)

    @cached_property
    def points(self) -> Points:
        """The latents of all content tokens, as clustering takes them."""
        return as_points(self.sae, self.acts.x)

    @cached_property
    def clustered(self) -> ClusteredLatents:
        """The concept's latents in clusters, as Case 3 steers them."""
        return clustered(self.sae, self.acts)

    def read(self) -> TokenActivations:
        """A forward pass over the tokens."""
        return read_activations(self.model.model, self.tokens, self.shape.hook)

    def sweep_levels(self) -> list[Latents]:
        """Latents at the ten noise levels, one draw of noise."""
        with workers() as pool:
            noise = draw_noise(self.rows, stream(0, "noise"))
            latents_at = NoisyLatents(self.sae, self.rows, pool=pool).along(noise)
            scale = rms(self.acts.x)
            return list(pool.map(latents_at, [level * scale for level in PAPER_LEVELS]))

    def noise_alone(self) -> Any:
        """Case 1 of this concept without nulls: residuals, and the sweep over one draw of noise."""
        return sweep(self.read(), self.model.saes, sparse=(), seeds=(0,), max_slots=N_SLOTS)

    def case1(self) -> Any:
        """Case 1 of this concept: residuals, the sweep with its nulls over two draws, the ranks."""
        saes, sparse, seeds = self.model.saes, self.model.sparse, range(N_DRAWS)
        return rank_table(sweep(self.read(), saes, sparse=sparse, seeds=seeds, max_slots=N_SLOTS))

    def case3(self) -> Any:
        """Case 3's doses of this concept, from the prompts on, along all paths."""
        acts = self.model.activations(self.concept)
        latents = clustered(self.sae, acts)
        return dose_response(latents, acts.prompt.numpy(), acts.folds(12))


def clustered(sae: Any, acts: TokenActivations) -> ClusteredLatents:
    """The latents of one SAE in clusters, as Case 3 begins."""
    (case,) = separability.cases_of([acts], saes={"SAE": sae}).values()
    return case.latents


def needed_bytes(shape: Shape) -> int:
    """Memory that the stages take: the model, the SAE, and its random null while it is drawn."""
    return shape.model_bytes + 3 * shape.sae_bytes + _WORK_BYTES


def prepare(shape: Shape, *, device: str = "cpu") -> Bench:
    """Load the shape. Raises UserError if the machine's free memory would not do."""
    free = psutil.virtual_memory().available
    if device.startswith("cuda"):
        free = min(free, torch.cuda.mem_get_info()[0])
    if free < needed_bytes(shape):
        raise UserError(
            f"{shape.name} needs about {needed_bytes(shape) / 2**30:.0f} GiB, and "
            f"{free / 2**30:.0f} GiB are free"
        )
    return Bench(shape, build(shape, device=device), device)


def stages(b: Bench) -> dict[str, Stage]:
    """Every stage by its name, in the order of the data's flow.

    Whole cases only of a model that is built with all blocks.
    """
    found = [
        Stage(
            "residuals", b.read, lambda r: _residuals(b, r),
            b.shape.blocks_needed / b.shape.blocks_built,
        ),
        Stage("encode sweep", b.sweep_levels, lambda r: _encode(b, 2, r)),
        Stage(
            "spectra", lambda: modal_spectra(b.latents.values, N_SLOTS),
            lambda r: _spectra(b, merged(b.latents.values).shape[1], r),
        ),
        Stage(
            "clusters", lambda: cluster_pca(principal_coordinates(b.points)),
            lambda r: floors.cluster_floor(*b.points.shape, r),
        ),
        Stage("steps, free edit", lambda: _steps(b, "free"), lambda r: _step(b, False, r)),
        Stage("steps, valid edit", lambda: _steps(b, "valid"), lambda r: _step(b, True, r)),
        Stage("Case 1, no nulls", b.noise_alone, lambda r: _residuals(b, r) + _encode(b, 2, r)),
        Stage("Case 1", b.case1, lambda r: _case1(b, r)),
        Stage("Case 3 doses", b.case3, lambda r: _case3(b, r)),
    ]  # fmt: skip
    whole = b.shape.blocks_built == b.shape.blocks_needed
    return {stage.name: stage for stage in found if whole or not stage.name.startswith("Case")}


STAGES = (
    "residuals", "encode sweep", "spectra", "clusters", "steps, free edit", "steps, valid edit",
    "Case 1, no nulls", "Case 1", "Case 3 doses",
)  # fmt: skip


def _steps(b: Bench, kind: Kind) -> Any:
    return intervene(b.clustered, "separate", kind=kind, n_steps=FEW_STEPS)


def _residuals(b: Bench, rates: Limits) -> float:
    """Of the tokens that are read: in a causal model none after a prompt's last that counts."""
    needed = b.tokens.content if is_causal(b.model.model) else b.tokens.attention
    ahead = needed.flip(1).cumsum(1).flip(1) > 0
    return floors.residual_floor(b.shape, int((ahead & b.tokens.attention).sum()), rates)


def _encode(b: Bench, n_times: int, rates: Limits) -> float:
    return floors.encode_floor(b.shape, len(b.rows), n_times, rates)


def _spectra(b: Bench, n_active: int, rates: Limits) -> float:
    return floors.spectra_floor(len(b.rows) // N_SLOTS, N_SLOTS, n_active, rates)


def _step(b: Bench, valid: bool, rates: Limits, n_steps: int = FEW_STEPS) -> float:
    here = b.clustered
    one = floors.step_floor(
        b.shape, n_clusters=len(here.counts), n_active=here.z.shape[1],
        n_nonzero=int((here.z[here.labels >= 0] != 0).sum()), valid=valid, limits=rates,
    )  # fmt: skip
    return n_steps * one


def _case1(b: Bench, rates: Limits) -> float:
    """Residuals once; two products a random null, one a draw and one more for the SAE."""
    return _residuals(b, rates) + _encode(b, 1 + 3 * N_DRAWS, rates)


def _case3(b: Bench, rates: Limits) -> float:
    """Residuals, all content tokens encoded twice (to cluster, and to edit), steps of searches."""
    before = floors.encode_floor(b.shape, len(b.acts.x), 2, rates)
    before += _residuals(b, rates) + floors.cluster_floor(*b.points.shape, rates)
    return before + _step(b, True, rates, _VALID_STEPS) + _step(b, False, rates, 10)


def sweep_beside_product(b: Bench, *, n_pairs: int = 9) -> list[float]:
    """The encode sweep's two products over its time, at the rate of one timed just before it.

    A machine that is slower for a while is so for both.
    """
    out = []
    for _ in range(n_pairs):
        rate = product_rate(
            len(b.rows), b.shape.d_model, b.shape.n_features, device=b.device, repeats=1
        )
        (cost,) = measure(b.sweep_levels, rounds=1, warmup=0, device=b.device)
        out.append(2 * 2 * len(b.rows) * b.shape.d_model * b.shape.n_features / rate / cost.wall_s)
    return out


def row(
    b: Bench, stage: Stage, costs: Sequence[Cost], rates: Limits, rate: float
) -> dict[str, Any]:
    """What is kept of a stage; times in seconds, `gflop` is time x rate of the square product.

    `rate` is that of the square float32 product just before the stage (operations a second).
    `share` is floor over median time, `others_cores` how many cores other programs kept busy.
    """
    wall = [cost.wall_s for cost in costs]
    peaks = [cost.peak_mib for cost in costs if cost.peak_mib is not None]
    floor = stage.floor(rates)
    found = {
        "shape": b.shape.name, "stage": stage.name, "device": b.device,
        "precision": rates.precision, "wall_s": wall, "cpu_s": min(cost.cpu_s for cost in costs),
        "peak_mib": max(peaks, default=None), "matmul_gflops": rate / 1e9,
        "gflop": [seconds * rate / 1e9 for seconds in wall], "floor_s": floor,
        "share": floor / median(wall),
        "others_cores": sum(cost.others_s for cost in costs) / sum(wall),
    }  # fmt: skip
    if stage.factor != 1:
        found["blocks"] = f"{b.shape.blocks_built} of {b.shape.blocks_needed} built"
        found["computed_wall_s"] = stage.factor * median(wall)
    return found
