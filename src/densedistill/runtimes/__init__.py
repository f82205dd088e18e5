"""Exported files that answer like networks: onnxruntime, OpenVINO, TensorRT and `torch.export` packages."""

import os

from .card import Card, read_card
from .runtime import RUNTIMES, Runtime, is_exported, load_runtime

# Before it is imported: it would give the machine a lasting number and report to its makers.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = ["RUNTIMES", "Card", "Runtime", "is_exported", "load_runtime", "read_card"]
