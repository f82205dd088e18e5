"""Rendered samples on disk, one file each: made on first use, read ever after."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from ...errors import DataWarning
from ...files import atomic_write
from ..sample import Sample
from .render import describe

# Raised whenever the same seed gives other scenes, so that no old cache is taken for a new one.
VERSION = 2
_PER_FOLDER = 1000


class Cache:
    """Samples by seed in a folder of their own options and `VERSION`; an earlier version's is not read.

    Args:
        root: the cache's folder, shared by any number of data sets and processes.
        **options: everything but the seed that the samples depend on.
    """

    def __init__(self, root: str | os.PathLike[str], **options: Any):
        *earlier, self.folder = [
            Path(root).expanduser() / _key({"version": version, **options})
            for version in range(1, VERSION + 1)
        ]
        old = [str(folder) for folder in earlier if folder.is_dir()]
        if old and not self.folder.is_dir():
            warnings.warn(
                f"the scenes in {', '.join(old)} are of an earlier version; they are made anew, and that "
                "folder can be removed",
                DataWarning,
                stacklevel=2,
            )

    def path(self, seed: int) -> Path:
        """Return the file of a sample."""
        return self.folder / f"{seed // _PER_FOLDER:06d}" / f"{seed:06d}.npz"

    def read(self, seed: int) -> Sample | None:
        """Return a sample, or None where there is none that is whole."""
        try:
            with np.load(self.path(seed), allow_pickle=False) as stored:
                sample: Sample = {key: _unpack(stored[key]) for key in stored.files if key != "meta"}
                focal, baseline, style = json.loads(str(stored["meta"]))
        except Exception:  # NumPy, zip and JSON each have their own for a damaged file
            return None
        height, width = sample["left"].shape[-2:]
        sample["meta"] = describe(seed, height, width, focal, baseline, style)
        return sample

    def write(self, seed: int, sample: Sample) -> None:
        """Store a sample, atomically; pictures as PNG."""
        packed = {key: _pack(value) for key, value in sample.items() if isinstance(value, torch.Tensor)}
        rig = sample["meta"]["calibration"]
        packed["meta"] = np.array(json.dumps([rig.fx, rig.baseline_m, sample["meta"]["style"]]))
        with atomic_write(self.path(seed)) as part, open(part, "wb") as file:
            np.savez_compressed(file, **packed)  # type: ignore[arg-type]  # it has options, too, since NumPy 2.2


def _key(described: dict[str, Any]) -> str:
    text = json.dumps(described, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _pack(value: torch.Tensor) -> np.ndarray:
    if value.dtype == torch.uint8 and value.dim() == 3:
        image = cv2.cvtColor(value.permute(1, 2, 0).numpy(), cv2.COLOR_RGB2BGR)
        return cv2.imencode(".png", image)[1].reshape(-1)
    return value.numpy()


def _unpack(stored: np.ndarray) -> torch.Tensor:
    if stored.dtype == np.uint8 and stored.ndim == 1:
        image = cv2.imdecode(stored, cv2.IMREAD_COLOR_RGB)
        if image is None:
            raise ValueError("a damaged picture")
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    return torch.from_numpy(stored)
