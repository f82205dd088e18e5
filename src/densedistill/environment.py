"""What a run was trained with."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

from .machine import cpu_flags, cpu_model, usable_cores


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
        "onnxruntime",
        "onnxruntime-gpu",
        "openvino",
        "tensorrt",
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
            "cores": usable_cores(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "flags": cpu_flags(),
        },
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }
