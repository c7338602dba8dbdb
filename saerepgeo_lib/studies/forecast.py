"""What a case will take, from its sizes, before it begins; refused if the memory is not there.

A forecast is a sum of operations over rates, which are those of one core of an Intel Xeon of
2.1 GHz in double precision. It is meant to tell minutes from hours: latents are taken for dense.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.rank.unfoldings import GRAM_TOKENS

logger = logging.getLogger(__name__)
PRODUCTS, SPECTRA, DISTANCES = 4e10, 7e9, 2.5e9  # operations per second of one core
STEPS, SEARCHES = 2.5e8, 25  # latents per second that a step of a search handles; searches per SAE
REDUCED = 200  # leading principal coordinates, about
LONG = 1_200  # seconds of one core from which a forecast is logged as a warning
_UNITS = (("hours", 5_400, 3_600), ("minutes", 90, 60), ("seconds", 0, 1))


@dataclass(frozen=True)
class Forecast:
    """Seconds of work of one core, and bytes of memory that are needed at once."""

    seconds: float
    memory: float

    def __str__(self) -> str:
        unit, _, length = next(unit for unit in _UNITS if self.seconds >= unit[1])
        time = float(f"{self.seconds / length:.2g}")
        words = f"about {time:g} {unit}" if time > 1 else "about a second"
        return f"{words} of one core and {max(0.1, self.memory / 2**30):.1f} GiB"


def forecast_text(forecasts: Iterable[Forecast]) -> str:
    """One line for several concepts, done one after the other."""
    known = list(forecasts)
    whole = Forecast(sum(one.seconds for one in known), max(one.memory for one in known))
    return f"Forecast from the sizes, before anything is computed: {whole}."


def forecast_ranks(
    n_prompts: int, n_slots: int, widths: Sequence[int], *, n_levels: int, n_seeds: int
) -> Forecast:
    """Case 1: a QR and singular values of each unfolding, and the norms of its changes.

    `widths` are the features of every representation, nulls among them.
    """
    n, each, held = n_prompts * n_slots, 0.0, 0.0
    for width in widths:
        k = min(n, width)
        p = min(n_prompts, n_slots * k)
        products, spectra = 2 * n * width * k + 2 * n_slots * k * p**2, 8 / 3 * (k**3 + p**3)
        if n <= GRAM_TOKENS:
            products, spectra = products + 2 * n**2 * width, spectra + 2 / 3 * (n**3 + p**3)
        else:
            spectra += 4 * n * width * 400  # Lanczos waits for the memory
        each += products / PRODUCTS + spectra / SPECTRA
        held = max(held, 8 * n * width)
    at_once = min(torch.get_num_threads(), n_levels)
    return Forecast(n_levels * n_seeds * each, (4 + 8 * at_once) * held)


def forecast_geometry(n_tokens: int, widths: Sequence[int], *, n_groups: int) -> Forecast:
    """Case 2: principal coordinates of each space, clusters and distances with each group left out.

    `widths` are the features of every space, draws of random encoders among them.
    """
    n, seconds, held = n_tokens, 0.0, 0.0
    for width in widths:
        k = min(n, width)
        seconds += 4 * n * width * k / PRODUCTS + 9 * k**3 / SPECTRA
        seconds += n**2 * (3 * k + (1 + n_groups) * min(k, REDUCED)) / DISTANCES
        held += 8 * n * (width + 2 * k)
    return Forecast(seconds, held + 8 * n * max(widths) * torch.get_num_threads())


def forecast_steering(n_tokens: int, widths: Sequence[int], *, n_steps: int) -> Forecast:
    """Case 3: clusters as in Case 2, then searches, whose steps read all latents a few times.

    `widths` are the features of every SAE that is steered; the latents of all are held.
    """
    clustered = forecast_geometry(n_tokens, widths, n_groups=0)
    numbers = n_tokens * sum(widths)
    at_once = min(torch.get_num_threads(), len(widths)) * n_tokens * max(widths)
    seconds = clustered.seconds + SEARCHES * n_steps * numbers / STEPS
    return Forecast(seconds, 24 * numbers + 32 * at_once)


def free_memory(device: str = "cpu") -> float:
    """Bytes that this process may still take there; infinite where the system does not tell."""
    if device == "cuda":
        return float(torch.cuda.mem_get_info()[0])
    free = 1024 * _value("/proc/meminfo", "MemAvailable:", float("inf"))
    limits = [_lines(f"/sys/fs/cgroup/memory.{name}")[:1] for name in ("max", "current")]
    if all(limits) and limits[0][0].isdecimal():  # of a container; else "max"
        kept = float(limits[1][0]) - _value("/sys/fs/cgroup/memory.stat", "inactive_file", 0)
        free = min(free, float(limits[0][0]) - kept)  # files read before give way
    return free


def _value(path: str, name: str, default: float) -> float:
    """The number that stands behind a name in a file of the system."""
    found = (line.split() for line in _lines(path))
    return next((float(words[1]) for words in found if words[:1] == [name]), default)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def affordable(
    what: str, n_prompts: int, forecast: Callable[[int], Forecast], *,
    devices: Iterable[str] = ("cpu",),
) -> None:  # fmt: skip
    """Refuse what does not fit in the free memory, with how many prompts do; log what is long.

    The memory is that of each of the `devices` that hold what is computed.
    """
    needed, free = forecast(n_prompts), min(map(free_memory, devices))
    if needed.memory > free:
        fit = next((n for n in _fewer(n_prompts) if forecast(n).memory <= free), 0)
        raise UserError(
            f"{what} with {n_prompts} prompts needs {needed}, but {free / 2**30:.1f} GiB are free: "
            + (
                f"set max_prompts to {fit} or less, or on a page without it take a concept of as "
                "few"
                if fit
                else "no number of prompts fits"
            )
        )
    if needed.seconds > LONG:
        advice = "fewer prompts take less (max_prompts, where a page has it)"
        logger.warning("%s with %d prompts: %s; %s", what, n_prompts, needed, advice)


def _fewer(n: int) -> list[int]:
    """Round numbers below n, descending."""
    return [m for e in range(7, 0, -1) for d in (5, 2, 1) if 10 <= (m := d * 10**e) < n]
