"""What monocular depth networks are trained with beside crops and flips: rotation, and light by channel.

The published augmentations of LapDepth and Spatial-KD (JVCIR 85, 2022).
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from ..errors import UserError
from . import geometry
from .datasets._depth import FRAMES
from .sample import IGNORE_LABEL, KINDS, Sample

# What a roll of the camera changes otherwise than by moving it.
_TURNED = ("disparity", "flow", "boxes")

# The full reversal is never drawn, as published.
_ORDERS = ((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1))


def rotate(sample: Sample, degrees: float) -> Sample:
    """Return the sample with the camera rolled by `degrees` about its axis: depth keeps its values.

    Images are interpolated; depth, labels and masks take the nearest pixel; corners that come from outside
    are black, not valid, and of no class. The size stays.

    Raises:
        UserError: ground truth that a roll changes: disparity, flow or boxes.
    """
    for key in sample:
        if KINDS.get(key) in _TURNED:
            raise UserError(
                f"augmentation: rotate is for images with depth or labels, not for samples with {key}"
            )
    return {key: value if key == "meta" else _rotated(value, degrees, key) for key, value in sample.items()}


def _rotated(values: Tensor, degrees: float, key: str) -> Tensor:
    height, width = values.shape[-2:]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    flat = values.reshape(-1, height, width).numpy()
    plain = flat.astype(np.uint8) if flat.dtype == np.bool_ else flat
    plain = plain.astype(np.int32) if flat.dtype == np.int64 else plain
    flags = cv2.INTER_LINEAR if KINDS.get(key) == "image" else cv2.INTER_NEAREST
    outside = IGNORE_LABEL if key == "labels" else 0
    turned = np.stack(
        [cv2.warpAffine(one, matrix, (width, height), flags=flags, borderValue=outside) for one in plain]
    )
    return torch.from_numpy(turned.astype(flat.dtype)).view(values.shape)


def cut(sample: Sample, frame: str) -> Sample:
    """Return the part `frame` (see `FRAMES`) of a sample, with its calibration and size.

    Raises:
        UserError: a sample that is too small.
    """
    image = next(value for key, value in sample.items() if KINDS.get(key) == "image")
    size = (image.shape[-2], image.shape[-1])
    top, left, height, width = FRAMES[frame](*size)
    part = geometry.apply(geometry.Window(size, size, (top, left, height, width)), sample)
    meta: dict[str, Any] = dict(sample.get("meta", {}))
    if meta.get("calibration") is not None:
        meta["calibration"] = meta["calibration"].cropped(top, left, height, width)
    return {**part, "meta": {**meta, "size": (height, width)}}


def relight(
    image: np.ndarray,
    rng: Generator,
    gamma: tuple[float, float] | None,
    brightness: tuple[float, float] | None,
    tint: tuple[float, float] | None,
    permute: float,
) -> np.ndarray:
    """Return a uint8 image (H, W, 3) with gamma, brightness and a factor a channel drawn from these ranges,
    and with its channels in another order by the chance `permute`."""
    exponent = rng.uniform(*gamma) if gamma else 1.0
    factor = rng.uniform(*brightness) if brightness else 1.0
    factors = rng.uniform(*tint, 3) if tint else np.ones(3)
    order = _ORDERS[rng.integers(len(_ORDERS))] if rng.random() < permute else (0, 1, 2)
    levels = (np.arange(256) / 255) ** exponent * factor
    table = np.rint(255 * np.clip(levels[:, None] * factors, 0, 1)).astype(np.uint8)
    return np.ascontiguousarray(cv2.LUT(image, table[:, None])[..., order])
