"""Exported files that answer like networks: onnxruntime, OpenVINO, TensorRT and `torch.export` packages."""

from .card import Card, read_card
from .runtime import RUNTIMES, Runtime, is_exported, load_runtime

__all__ = ["RUNTIMES", "Card", "Runtime", "is_exported", "load_runtime", "read_card"]
