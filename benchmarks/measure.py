"""What a call costs: wall seconds, CPU seconds of all threads, and the memory that it adds."""

import ctypes
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch

MIB = 2**20
DISTURBED = 0.25  # cores that other programs may keep busy during a measurement
_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


@dataclass(frozen=True)
class Cost:
    """One round: wall seconds, CPU seconds of all threads, peak memory above the start (MiB).

    The memory is the device's; `peak_mib` is None where the system does not tell (not Linux).
    `others_s` are the CPU seconds that all other processes took meanwhile.
    """

    wall_s: float
    cpu_s: float
    peak_mib: float | None
    others_s: float = 0.0


def synchronize(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


@dataclass
class Meter:
    """Calls `work` and notes what each call cost; the device has finished when a call returns."""

    work: Callable[[], Any]
    device: str = "cpu"
    costs: list[Cost] = field(default_factory=list)

    def __call__(self) -> Any:
        synchronize(self.device)
        before, busy = reset_peak(self.device), busy_s()
        wall, cpu = time.perf_counter(), time.process_time()
        out = self.work()
        synchronize(self.device)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        peak = None if before is None else peak_mib(self.device) - before
        self.costs.append(Cost(wall, cpu, peak, max(0.0, busy_s() - busy - cpu)))
        return out


def measure(
    work: Callable[[], Any], *, rounds: int = 3, warmup: int = 1, device: str = "cpu"
) -> list[Cost]:
    """The cost of each of `rounds` calls, after `warmup` calls that are not counted."""
    meter = Meter(work, device)
    for _ in range(warmup):
        work()
    for _ in range(rounds):
        meter()
    return meter.costs


def busy_s() -> float:
    """CPU seconds that all processes have taken since the machine started."""
    times = psutil.cpu_times()
    return times.user + times.system


def reset_peak(device: str) -> float | None:
    """Forget the peak so far; the memory now in use in MiB, None if the system does not tell."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / MIB
    if not _CLEAR.exists():
        return None
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # the GNU C library's
    if trim is not None:
        trim(0)  # else a call would find room that an earlier one has left, and seem to need none
    _CLEAR.write_text("5")  # resets VmHWM to VmRSS
    return _resident("VmRSS")


def peak_mib(device: str) -> float:
    """The peak since `reset_peak`, in MiB."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / MIB
    return _resident("VmHWM")


def _resident(name: str) -> float:
    lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    return int(lines[name].split()[0]) / 1024


@dataclass
class Parts:
    """Wall and CPU seconds of the named parts of one piece of work, added up by name."""

    device: str = "cpu"
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count what runs inside towards this part."""
        synchronize(self.device)
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        synchronize(self.device)
        part = self.seconds.setdefault(name, {"wall_s": 0.0, "cpu_s": 0.0})
        part["wall_s"] += time.perf_counter() - wall
        part["cpu_s"] += time.process_time() - cpu


def machine(device: str) -> dict[str, Any]:
    """What the numbers were measured on."""
    info = Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip()
        for line in (info.read_text().splitlines() if info.is_file() else [])
        if line.startswith("model name")
    ]
    found = {
        "cpu": names[0] if names else platform.processor(), "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30), "torch": torch.__version__,
        "threads": torch.get_num_threads(), "python": platform.python_version(), "device": device,
    }  # fmt: skip
    if device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name()
    return found
