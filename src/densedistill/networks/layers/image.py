"""What networks do at their two ends: refuse what they cannot take, give what is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import UserError


def check_multiple(size: Sequence[int], multiple: int) -> tuple[int, int]:
    """Return `size`, (H, W); UserError when one of both is 0 or no multiple of `multiple`."""
    height, width = size
    if height % multiple or width % multiple or not height or not width:
        raise UserError(
            f"height and width must be multiples of {multiple}, got {height}x{width}; "
            "Predictor pads images of any size, input_spec.prepare pads a batch"
        )
    return height, width


def check_image(image: Tensor, multiple: int = 1, least: tuple[int, int] = (1, 1)) -> tuple[int, int]:
    """Return (H, W) of an image batch (B, 3, H, W).

    Raises:
        UserError: it has another shape, H or W is no multiple of `multiple`, or it is smaller than `least`.
    """
    if image.ndim != 4 or image.shape[1] != 3:
        raise UserError(f"the network takes an image batch (B, 3, H, W), got {tuple(image.shape)}")
    height, width = check_multiple(image.shape[-2:], multiple)
    if height < least[0] or width < least[1]:
        raise UserError(
            f"the network sees nothing in less than {least[0]}x{least[1]} px, got {height}x{width}"
        )
    return height, width


def resize(x: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    """Return `x` (B, C, H, W) resized to `size` bilinearly."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=align_corners)


def at_least_float32(x: Tensor) -> Tensor:
    """Return `x` in float32, or as it is when it is float64."""
    return x if x.dtype == torch.float64 else x.float()


def depth_outputs(depth: Tensor, training: bool) -> dict[str, Any]:
    """Return a depth network's outputs from its depth (B, 1, H, W), metres."""
    return {"depth": depth, "intermediate": [depth]} if training else {"depth": depth}


def segmentation_outputs(scores: Sequence[Tensor], size: Sequence[int], training: bool) -> dict[str, Any]:
    """Return a segmentation network's outputs from its heads' scores (B, classes, h, w), the final ones last.

    Scores are resized to `size`, (H, W), with aligned corners, in float32 at least: half precision loses
    classes.
    """
    levels = [{"logits": resize(at_least_float32(one), size, align_corners=True)} for one in scores]
    return {**levels[-1], "intermediate": levels} if training else levels[-1]
