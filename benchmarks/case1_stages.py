"""Time of each stage of Case 1 on one concept, and the matrix-product rate in the same run.

    python benchmarks/case1_stages.py [--device auto] [--concept days] [--seeds 2]

Prints one JSON object; compare ratios to `matmul_gflops` between machines, never raw times.
"""

import argparse
import json
import sys
import time

import torch

from saerepgeo_lib import models, prompts
from saerepgeo_lib.noise_sweep import sweep
from saerepgeo_lib.stratification import certified_table, rank_table
from saerepgeo_lib.subject import load_subject


def matmul_gflops(device: str, n: int = 2048, repeats: int = 5) -> float:
    """Rate of a float32 matrix product, best of `repeats`."""
    a = torch.randn(n, n, device=device)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        (a @ a)[0, 0].item()
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--concept", default="days")
    parser.add_argument("--seeds", type=int, default=2)
    args = parser.parse_args()
    device = models.best_device(args.device)
    seconds = {}

    def timed(name, work):
        start = time.perf_counter()
        out = work()
        seconds[name] = round(time.perf_counter() - start, 3)
        return out

    subject = timed("load", lambda: load_subject("minilm", device=device))
    coded = subject.tokens(prompts.load_concept(args.concept))
    vectors = timed("residuals", lambda: subject.residuals(coded))
    result = timed(
        "sweep",
        lambda: sweep(
            vectors, subject.autoencoders, sparse=subject.sparse, seeds=range(args.seeds)
        ),
    )
    timed("ranks", lambda: (rank_table(result), certified_table(result)))
    json.dump(
        {"device": device, "concept": args.concept, "seeds": args.seeds, "seconds": seconds,
         "matmul_gflops": round(matmul_gflops(device), 1)},
        sys.stdout, indent=1,
    )  # fmt: skip


if __name__ == "__main__":
    main()
