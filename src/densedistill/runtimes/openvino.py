"""Files of OpenVINO, and ONNX, through OpenVINO on the CPU."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..networks.precision import fastest_dtype
from .card import Card


class OpenvinoSession:
    """A compiled OpenVINO model over torch tensors."""

    def __init__(self, compiled: Any, precision: str):
        self.precision = precision
        self.device = torch.device("cpu")
        self._request = compiled.create_infer_request()
        self._lock = threading.Lock()  # a request holds the images and outputs of one call
        self._outputs = [output.get_any_name() for output in compiled.outputs]

    def run(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        # Inputs are shared; outputs are copied, since the request writes over its own.
        with self._lock:
            found = self._request.infer(
                {key: image.numpy() for key, image in images.items()}, share_inputs=True, share_outputs=False
            )
        return {
            name: torch.from_numpy(value) for name, value in zip(self._outputs, found.values(), strict=True)
        }


def open_session(path: Path, card: Card, device: Any, precision: str, threads: int) -> OpenvinoSession:
    """Return a session for `path`; UserError when it is damaged."""
    import openvino

    core = openvino.Core()
    if precision == "auto":
        precision = str(fastest_dtype("cpu")).removeprefix("torch.")
    options = {
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    try:
        compiled = core.compile_model(core.read_model(path), "CPU", options)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"OpenVINO cannot load {path}, which may be damaged: {reason}") from None
    return OpenvinoSession(compiled, precision)
