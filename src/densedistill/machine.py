"""What processor this is, as the system says it, and how its memory is kept."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
from collections.abc import Iterator


def cpu_model() -> str:
    """Return the processor's name as the system says it."""
    for line in _cpuinfo():
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
    for line in _cpuinfo():
        if line.startswith(("flags", "Features")):
            present = line.partition(":")[2].split()
            return [flag for flag in wanted if flag in present]
    return []


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
def _cpuinfo() -> list[str]:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return file.read().splitlines()
    except OSError:
        return []
