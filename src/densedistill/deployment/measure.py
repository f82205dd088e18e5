"""Time and memory of calls, measured so that figures of one machine can be compared."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ..networks.precision import without_tf32


@dataclass(frozen=True)
class Latency:
    """Seconds of one call: percentiles and mean over `calls`."""

    p50: float
    p90: float
    p99: float
    mean: float
    calls: int


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest of `values` that `share` of them do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def synchronise(device: torch.device | str | None = None) -> None:
    """Wait until what was asked of `device` is done; None for the present one of CUDA's, where one is in
    use."""
    if device is not None:
        if torch.device(device).type != "cpu":
            torch.accelerator.synchronize(device)
    elif torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def measure_latency(
    calls: Mapping[str, Callable[[], Any]], rounds: int = 30, warm_up: int = 3, seconds: float = math.inf
) -> dict[str, Latency]:
    """Return the latency of each of `calls`, which take turns, so that what else the machine does slows all.

    Args:
        calls: by name; one that runs elsewhere than on the present CUDA device waits for that itself.
        rounds: timed calls of each.
        warm_up: calls of each before these.
        seconds: begin no further round after these, but at least three.
    """
    for call in calls.values():
        for _ in range(warm_up):
            call()
    synchronise()
    found: dict[str, list[float]] = {name: [] for name in calls}
    begun = time.perf_counter()
    for done in range(rounds):
        if done >= 3 and time.perf_counter() - begun > seconds:
            break
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            synchronise()
            found[name].append(time.perf_counter() - start)
    return {
        name: Latency(
            percentile(times, 0.5),
            percentile(times, 0.9),
            percentile(times, 0.99),
            sum(times) / len(times),
            len(times),
        )
        for name, times in found.items()
    }


def peak_rates(device: torch.device | str = "cpu", rounds: int = 20) -> dict[str, float]:
    """Return the measured rates of a 3x3 convolution, channels-last, in FLOP/s (a MAC is two) by number
    format; as a `Predictor`'s, float32 is not TF32.

    The formats take turns, and the best of `rounds` counts, so that other work on the machine spoils none.
    It is what a network of nothing but large convolutions would reach.
    """
    where = torch.device(device)
    large = where.type == "cuda"
    channels, height, width, batch = (256, 256, 256, 8) if large else (64, 96, 128, 1)
    image = torch.randn(batch, channels, height, width, device=where)
    image = image.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 3, 3, device=where).contiguous(memory_format=torch.channels_last)
    work = 2 * channels * channels * 9 * height * width * batch
    best = {torch.float32: math.inf, torch.bfloat16: math.inf}
    with torch.inference_mode(), without_tf32():
        for dtype in list(best) * rounds:
            one, other = image.to(dtype), weight.to(dtype)
            synchronise(where)
            start = time.perf_counter()
            F.conv2d(one, other, padding=1)
            synchronise(where)
            best[dtype] = min(best[dtype], time.perf_counter() - start)
    return {str(dtype).removeprefix("torch."): work / least for dtype, least in best.items()}


class MemoryMeter:
    """Peak memory of this process from its making on, in bytes: of the GPU where there is one in use, else
    of the process (Linux)."""

    def __init__(self, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            self._before = torch.cuda.mem_get_info(self.device)[0]
        else:
            # 5 resets the peak to what is resident now.
            Path("/proc/self/clear_refs").write_text("5")
            self._before = _status("VmRSS")

    def peak(self) -> int:
        """Return the bytes by which the most exceeds what was held at first."""
        if self.device.type == "cuda":
            # Not torch's own count: other runtimes allocate, too. Their pools keep what they had at most.
            return self._before - torch.cuda.mem_get_info(self.device)[0]
        return max(0, _status("VmHWM") - self._before)


def can_measure_memory() -> bool:
    """Return whether the system tells a process's peak memory and lets it be reset."""
    return os.access("/proc/self/clear_refs", os.W_OK)


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)
