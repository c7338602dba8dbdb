"""Stages at each shape with pytest-benchmark; `extra_info` has what the guard compares.

    python -m pytest benchmarks/bench_stages.py -k "not gemma" --benchmark-json=stages.json

Collected only when named. `-k minilm`, `-k gpt2`, `-k gemma` choose the shape, and `--device` is
the environment variable BENCH_DEVICE (auto, cpu, cuda).
"""

import os

import pytest

from benchmarks.limits import measure_limits, product_rate
from benchmarks.measure import Meter, machine
from benchmarks.shapes import SHAPES
from benchmarks.stages import ROUNDS, STAGES, WARMUP, prepare, row, stages
from saerepgeo_lib.activations.models import best_device
from saerepgeo_lib.errors import UserError


@pytest.fixture(scope="module", params=list(SHAPES))
def bench(request):
    """A shape, loaded; skipped where the memory would not do."""
    try:
        return prepare(
            SHAPES[request.param], device=best_device(os.environ.get("BENCH_DEVICE", "auto"))
        )
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def rates(bench):
    """What the machine can do at this shape."""
    return measure_limits(bench.shape, rows=len(bench.rows), device=bench.device)


@pytest.mark.parametrize("name", STAGES)
def test_stage(bench, rates, name, benchmark):
    stage = stages(bench).get(name)
    if stage is None:
        pytest.skip("whole cases need a model with all blocks")
    rate = product_rate(2_048, 2_048, 2_048, device=bench.device)
    meter = Meter(stage.work, bench.device)
    benchmark.pedantic(meter, rounds=ROUNDS, warmup_rounds=WARMUP)
    benchmark.extra_info |= row(bench, stage, meter.costs[WARMUP:], rates, rate)
    benchmark.extra_info["machine"] = machine(bench.device)
    assert min(benchmark.extra_info["wall_s"]) > 0
