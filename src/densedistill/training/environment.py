"""What a run was trained with."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any


def environment() -> dict[str, Any]:
    """Return versions, processor and accelerator as plain values."""
    import torch

    import densedistill

    packages = {}
    for package in (
        "torch",
        "torchvision",
        "lightning",
        "torchmetrics",
        "timm",
        "numpy",
        "opencv-python-headless",
    ):
        try:
            packages[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "densedistill": densedistill.__version__,
        "python": platform.python_version(),
        "platform": platform.system() + " " + platform.machine(),
        "packages": packages,
        "cpu": {
            "model": cpu_model(),
            "cores": os.cpu_count(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "flags": cpu_flags(),
        },
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


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


def _cpuinfo() -> list[str]:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return file.read().splitlines()
    except OSError:
        return []
