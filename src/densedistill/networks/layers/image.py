"""What every network of one image does at its two ends: refuse what it cannot take, give what is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import UserError


def check_image(image: Tensor, multiple: int = 1, least: tuple[int, int] = (1, 1)) -> tuple[int, int]:
    """Return (H, W) of an image batch (B, 3, H, W).

    Raises:
        UserError: it has another shape, H or W is no multiple of `multiple`, or it is smaller than `least`.
    """
    if image.ndim != 4 or image.shape[1] != 3:
        raise UserError(f"the network takes an image batch (B, 3, H, W), got {tuple(image.shape)}")
    height, width = image.shape[-2], image.shape[-1]
    if height % multiple or width % multiple or not height or not width:
        raise UserError(
            f"height and width must be multiples of {multiple}, got {height}x{width}; "
            "Predictor pads images of any size, input_spec.prepare pads a batch"
        )
    if height < least[0] or width < least[1]:
        raise UserError(
            f"the network sees nothing in less than {least[0]}x{least[1]} px, got {height}x{width}"
        )
    return height, width


def at_least_float32(x: Tensor) -> Tensor:
    """Return `x` in float32, or as it is when it is float64."""
    return x if x.dtype == torch.float64 else x.float()


def depth_outputs(depths: Sequence[Tensor], training: bool) -> dict[str, Any]:
    """Return a depth network's outputs from its depths (B, 1, H, W), metres, coarse to final."""
    if not training:
        return {"depth": depths[-1]}
    return {"depth": depths[-1], "intermediate": list(depths)}
