"""How a loading process passes its batches on: in shared memory, or through a pipe where there is too little
of it."""

from __future__ import annotations

import errno
import math
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from .sample import Sample, collate

AHEAD = 2  # batches that a loading process prepares before they are asked for, as torch has it
SHARED = "/dev/shm"  # where Linux keeps shared memory; a container has 64 MB of it unless told otherwise
_FILES = 64  # that a training has open for other things


class Collate:
    """Make a batch of samples in a loading process, in a form that reaches the training whatever the machine.

    torch passes tensors in shared memory, with an open file for each. Where that ends, the batch never
    arrives, or the process dies of a bus error. Batches that it might not suffice for are copied instead.

    Args:
        workers: loading processes of this training process.
        processes: training processes, which share the memory.
    """

    def __init__(self, workers: int, processes: int = 1):
        self.batches, self.processes = workers * AHEAD, processes

    def __call__(self, samples: Sequence[Any]) -> Sample:
        """Return the batch; its tensors are such again once they have come through the pipe."""
        batch = collate(samples)
        tensors = [value for value in batch.values() if isinstance(value, Tensor)]
        if self._fit(tensors):
            return batch
        return {k: _Copied(v) if isinstance(v, Tensor) else v for k, v in batch.items()}

    def _fit(self, tensors: Sequence[Tensor]) -> bool:
        try:
            tempfile.gettempdir()  # where the files that are handed over are asked for
        except OSError:
            return False
        if self.batches * len(tensors) + _FILES > _most_files():
            return False
        size = sum(tensor.nbytes for tensor in tensors)
        try:
            # Of free memory, what is under way taken off already; all may come at the same time.
            return self.batches * self.processes * size <= shutil.disk_usage(SHARED).free
        except OSError:
            return True  # no Linux, whose shared memory is as large as any


def _most_files() -> float:
    """Return how many files this process may have open."""
    try:
        import resource
    except ImportError:  # Windows, which passes memory by its name
        return math.inf
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return math.inf if limit == resource.RLIM_INFINITY else limit


class _Copied:
    """A tensor that arrives in another process as a copy."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor

    def __reduce__(self) -> tuple[Any, ...]:
        flat = self.tensor.contiguous().reshape(-1)
        return _restored, (flat.view(torch.uint8).numpy(), self.tensor.dtype, self.tensor.shape)


def _restored(raw: np.ndarray, dtype: torch.dtype, shape: torch.Size) -> Tensor:
    return torch.from_numpy(raw).view(dtype).view(shape)


def require_processes() -> None:
    """Raise UserError where this machine cannot start loading processes."""
    try:
        multiprocessing.Lock()
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        raise UserError(
            f"data.workers: loading processes need shared memory ({SHARED}), and here there is none "
            f"({os.strerror(error.errno or 0)}); take data.workers 0"
        ) from None
