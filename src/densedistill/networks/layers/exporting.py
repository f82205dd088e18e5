"""Whether torch is recording what a network does: some of it is written otherwise then."""

from __future__ import annotations

import torch


def is_exporting() -> bool:
    """Return whether torch is recording operators for `torch.export`, ONNX or TorchScript."""
    # Both ONNX exporters do one or the other; asking `torch.onnx` would import it, which takes seconds.
    return torch.compiler.is_exporting() or torch.jit.is_tracing()


def is_recording() -> bool:
    """Return whether torch compiles or exports; it then chooses memory formats and implementations itself."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()
