"""Engines of TensorRT (10 or newer), on the GPU model and with the version that built them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from .card import Card, part_engine


class TensorrtSession:
    """A TensorRT execution context over torch tensors."""

    def __init__(self, engine: Any, device: torch.device):
        import tensorrt

        self._engine, self.device = engine, device
        self.precision = "as built"
        self._context = engine.create_execution_context()
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        output = tensorrt.TensorIOMode.OUTPUT
        self._outputs = [name for name in names if engine.get_tensor_mode(name) == output]
        self._stream = torch.cuda.Stream(device)
        self._lock = threading.Lock()  # a context holds the shapes and addresses of one call

    def run(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with self._lock:
            return self._enqueue(images)

    def _enqueue(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        for name, image in images.items():
            if not self._context.set_input_shape(name, tuple(image.shape)):
                low, _, high = self._engine.get_tensor_profile_shape(name, 0)
                raise UserError(
                    f"the engine takes {name} from {tuple(low)} to {tuple(high)}, got {tuple(image.shape)}"
                )
            self._context.set_tensor_address(name, image.data_ptr())
        found = {}
        for name in self._outputs:
            shape = tuple(self._context.get_tensor_shape(name))
            found[name] = torch.empty(shape, dtype=_dtype(self._engine, name), device=self.device)
            self._context.set_tensor_address(name, found[name].data_ptr())
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise RuntimeError("TensorRT did not run the engine")
        torch.cuda.current_stream(self.device).wait_stream(self._stream)
        for tensor in (*images.values(), *found.values()):
            tensor.record_stream(self._stream)
        return found


def _dtype(engine: Any, name: str) -> torch.dtype:
    import tensorrt

    kinds = {
        tensorrt.DataType.FLOAT: torch.float32,
        tensorrt.DataType.HALF: torch.float16,
        tensorrt.DataType.INT32: torch.int32,
        tensorrt.DataType.INT64: torch.int64,
        tensorrt.DataType.BOOL: torch.bool,
    }
    return kinds[engine.get_tensor_dtype(name)]


def open_session(path: Path, card: Card, device: Any, precision: str, threads: int) -> TensorrtSession:
    """Return a session for `path`; UserError without a GPU, or when the engine does not fit this machine."""
    import tensorrt

    if not torch.cuda.is_available():
        raise UserError("TensorRT needs an NVIDIA GPU, and torch sees none")
    content, _ = part_engine(path.read_bytes())
    where = torch.device(device or "cuda")
    where = where if where.type == "cuda" else torch.device("cuda")
    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    with torch.cuda.device(where):
        engine = tensorrt.Runtime(logger).deserialize_cuda_engine(content)
        if engine is None:
            raise UserError(
                f"TensorRT cannot load {path}: it is damaged, or was built for another GPU or version; "
                "export it again on this machine"
            )
        return TensorrtSession(engine, where)
