"""Whether torch is exporting: some operators are written otherwise then."""

from __future__ import annotations

import torch


def is_exporting() -> bool:
    """Return whether torch is recording operators for `torch.export`, ONNX or TorchScript."""
    # Both ONNX exporters do one or the other; asking `torch.onnx` would import it, which takes seconds.
    return torch.compiler.is_exporting() or torch.jit.is_tracing()
