"""Files in ONNX through onnxruntime, on the CPU or on CUDA."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from .card import Card

# What stands before the reason in an error: its number, the file, and where in onnxruntime it was raised.
_PLACE = re.compile(r"^\[ONNXRuntimeError\][^:]*: (?:.*? failed:\s*)?(?:/\S+:\d+ [^()]*\([^()]*\) )?")


class OnnxSession:
    """An `onnxruntime.InferenceSession` over torch tensors."""

    def __init__(self, session: Any, device: torch.device):
        self._session, self.device = session, device
        self.precision = "float32"
        self._outputs = [output.name for output in session.get_outputs()]

    def run(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.device.type == "cpu":
            found = self._session.run(None, {key: image.numpy() for key, image in images.items()})
            return dict(zip(self._outputs, map(torch.from_numpy, found), strict=True))
        binding = self._session.io_binding()
        index = self.device.index or 0
        for key, image in images.items():
            binding.bind_input(key, "cuda", index, np.float32, tuple(image.shape), image.data_ptr())
        for name in self._outputs:
            binding.bind_output(name, "cuda", index)
        torch.cuda.synchronize(self.device)  # onnxruntime reads in a stream of its own
        self._session.run_with_iobinding(binding)
        # The copies outlive the binding.
        found = [torch.from_dlpack(value._ortvalue).clone() for value in binding.get_outputs()]
        return dict(zip(self._outputs, found, strict=True))


def open_session(path: Path, card: Card, device: Any, precision: str, threads: int) -> OnnxSession:
    """Return a session for `path`; UserError when it is damaged or cannot run so."""
    import onnxruntime

    if precision == "bfloat16":
        raise UserError("onnxruntime computes in what the file holds; OpenVINO runs a file in bfloat16")
    where = torch.device(device or "cpu")
    if where.type != "cuda" or "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        where = torch.device("cpu")
    provider = "CUDAExecutionProvider" if where.type == "cuda" else "CPUExecutionProvider"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors are raised; they need not be printed, too
    providers = [(provider, {"device_id": where.index or 0}) if where.type == "cuda" else provider]
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
    except Exception as error:  # its classes share no other ancestor
        reason = _PLACE.sub("", str(error).strip().splitlines()[0])
        raise UserError(
            f"onnxruntime {onnxruntime.__version__} cannot load {path}: {reason}; the file may be damaged, "
            "or made for a newer onnxruntime"
        ) from None
    if provider not in session.get_providers():  # CUDA's libraries are missing or of another version
        where = torch.device("cpu")
    return OnnxSession(session, where)
