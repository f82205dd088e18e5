"""What processor this is, as the system says it, how much of it may be used, and how its memory is kept."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import os
import platform
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")


def cpu_model() -> str:
    """Return the processor's name as the system says it."""
    for line in _lines(_PROC / "cpuinfo"):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cpu_flags() -> list[str]:
    """Return those of the processor's flags that decide how fast networks run."""
    wanted = (
        "avx2",
        "fma",
        "avx512f",
        "avx512_vnni",
        "avx512_bf16",
        "amx_tile",
        "amx_bf16",
        "amx_int8",
        "asimd",
        "bf16",
    )
    for line in _lines(_PROC / "cpuinfo"):
        if line.startswith(("flags", "Features")):
            present = line.partition(":")[2].split()
            return [flag for flag in wanted if flag in present]
    return []


def usable_cores() -> int:
    """Return how many processors this process may keep busy: of those that it may run on (`taskset`, a job's
    share of a machine) no more than a container is given time of (Docker's `--cpus`)."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([count, *map(math.ceil, _quotas())]))


def _quotas() -> Iterator[float]:
    """Give the processors' time, in processors, of the control groups that this process is in (Linux)."""
    for line in _lines(_PROC / "self/cgroup"):
        _, controllers, path = line.split(":", 2)
        # The second version has one hierarchy, which names no controllers; the first one for some of them.
        files = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
        if controllers and "cpu" not in controllers.split(","):
            continue
        group = _CGROUPS / ("cpu" if controllers else "") / path.lstrip("/")
        for folder in (group, *group.parents):
            given = " ".join(line for file in files for line in _lines(folder / file)).split()
            if len(given) == 2 and given[0] not in ("max", "-1"):
                yield int(given[0]) / int(given[1])


@contextlib.contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Let torch compute on `count` threads for the length of a `with` block; None: as now."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> bool:
    """Let this process keep the memory of freed tensors of up to 32 MB; return whether it does.

    glibc gives large blocks back to the system and asks anew for each: a step of DSNet on a CPU then takes
    4 % longer, in a tenth more memory (docs/log.md, "A step in bfloat16"). Nothing changes with another C
    library, or where the environment says how glibc allocates.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        mmap_threshold, trim_threshold = -3, -1  # malloc.h
        return bool(libc.mallopt(mmap_threshold, 32 << 20) and libc.mallopt(trim_threshold, 2**31 - 1))
    return False


@functools.cache
def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
