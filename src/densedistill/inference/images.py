"""Images as callers have them, to the batch (B, 3, H, W) that predictors work on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError


def to_batch(image: Any) -> Tensor:
    """Return `image` as (B, 3, H, W), uint8 or float in [0, 1].

    Args:
        image: a tensor or array, (3, H, W), (B, 3, H, W), (H, W, 3), (H, W) or (1, H, W) for grey; uint8, or
            float in [0, 1]. PIL images are arrays of (H, W, 3); so is an array that could be (3, H, W), too.

    Raises:
        UserError: another shape, another type of number, or floats that do not lie in [0, 1].
    """
    is_array = not isinstance(image, Tensor)
    if is_array:
        array = np.asarray(image)
        if array.dtype not in (np.uint8, np.float16, np.float32, np.float64):
            raise UserError(f"an image is uint8, or float in [0, 1]; this array is {array.dtype}")
        array = np.ascontiguousarray(array)
        image = torch.from_numpy(array if array.flags.writeable else array.copy())
    given = tuple(image.shape)
    if image.ndim == 2:
        image = image[None]
    # What a file holds is (H, W, 3), of 1 or 3 rows, too.
    if image.ndim == 3 and image.shape[-1] == 3 and (is_array or image.shape[0] not in (1, 3)):
        image = image.permute(2, 0, 1)
    if image.ndim == 3:
        image = image[None]
    if image.ndim != 4 or image.shape[1] not in (1, 3) or 0 in image.shape:
        raise UserError(f"an image has shape (3, H, W), (B, 3, H, W), (H, W, 3) or (H, W), got {given}")
    image = image.expand(-1, 3, -1, -1)
    if image.dtype == torch.uint8:
        return image
    if not image.is_floating_point():
        raise UserError(f"an image is uint8, or float in [0, 1]; this tensor is {image.dtype}")
    image = image if image.dtype == torch.float64 else image.float()
    low, high = (value.item() for value in image.aminmax())
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # resampling may overshoot by rounding
        raise UserError(
            f"a float image lies in [0, 1], this one in [{low:g}, {high:g}]; pass uint8 or divide by 255"
        )
    return image


def to_batches(*images: Any) -> list[Tensor]:
    """Return the views of one scene as batches of one size; UserError when their sizes differ."""
    batches = [to_batch(image) for image in images]
    if len({batch.shape for batch in batches}) > 1:
        sizes = " and ".join(f"{b.shape[-1]}x{b.shape[-2]}" for b in batches)
        if len({b.shape[-2:] for b in batches}) == 1:
            counts = " and ".join(str(len(b)) for b in batches)
            raise UserError(f"the views differ in number: {counts}")
        raise UserError(f"the views differ in size ({sizes} px); rectified views have one size")
    return batches
