"""Features compared by frequency: the Laplacian decomposition of Spatial-KD (JVCIR 85, 103523, 2022)."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from ...errors import UserError
from ._shared import register_loss


class Bands(NamedTuple):
    """Features (B, C, H, W) in three bands, at full size, half and quarter."""

    fine: Tensor
    middle: Tensor
    low: Tensor


def decompose(features: Tensor) -> Bands:
    """Return the Laplacian decomposition of `features` (B, C, H, W).

    Halving averages 2x2 positions and leaves an odd last row or column out; the way back is bilinear.

    Raises:
        UserError: features below 4x4.
    """
    if min(features.shape[-2:]) < 4:
        size = "x".join(map(str, features.shape[-2:]))
        raise UserError(f"a Laplacian decomposition wants features of at least 4x4, got {size}; crop larger")
    half = F.avg_pool2d(features, 2)
    low = F.avg_pool2d(half, 2)
    return Bands(features - _resized(half, features), half - _resized(low, half), low)


@register_loss(dims=(4,))
def laplacian_fine(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean absolute difference of the fine details of two features (Spatial-KD).

    Args:
        student, teacher: features (B, C, H, W), at least 4x4.

    Returns:
        Scalar, at least 0; 0 for equal inputs.
    """
    return F.l1_loss(decompose(student).fine, decompose(teacher).fine)


@register_loss(dims=(4,))
def laplacian_middle(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean absolute difference of the middle band of two features (Spatial-KD).

    Args:
        student, teacher: features (B, C, H, W), at least 4x4.

    Returns:
        Scalar, at least 0; 0 for equal inputs.
    """
    return F.l1_loss(decompose(student).middle, decompose(teacher).middle)


@register_loss(dims=(4,))
def laplacian_low(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference of the global context of two features, at a quarter of their size.

    Spatial-KD (JVCIR 85, 2022) compares the low band by squares and the others by absolute values.

    Args:
        student, teacher: features (B, C, H, W), at least 4x4.

    Returns:
        Scalar, at least 0; 0 for equal inputs.
    """
    return F.mse_loss(decompose(student).low, decompose(teacher).low)


def _resized(smaller: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(smaller, like.shape[-2:], mode="bilinear", align_corners=False)
