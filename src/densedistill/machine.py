"""What processor this is, as the system says it."""

from __future__ import annotations

import functools
import platform


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


@functools.cache
def _cpuinfo() -> list[str]:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return file.read().splitlines()
    except OSError:
        return []
