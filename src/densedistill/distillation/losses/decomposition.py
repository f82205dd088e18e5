"""Features compared by frequency: the Laplacian decomposition of Spatial-KD (JVCIR 85, 103523, 2022).

The decomposition is linear: the difference of two features' bands is that band of their difference, which is
decomposed once, and no further than a band wants.
"""

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
    _check(features)
    half = F.avg_pool2d(features, 2)
    return Bands(_detail(features), _detail(half), F.avg_pool2d(half, 2))


@register_loss(dims=(4,))
def laplacian_fine(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean absolute difference of the fine details of two features (Spatial-KD).

    Args:
        student, teacher: features (B, C, H, W), at least 4x4.

    Returns:
        Scalar, at least 0; 0 for equal inputs.
    """
    return _detail(_difference(student, teacher)).abs().mean()


@register_loss(dims=(4,))
def laplacian_middle(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean absolute difference of the middle band of two features (Spatial-KD).

    Args:
        student, teacher: features (B, C, H, W), at least 4x4.

    Returns:
        Scalar, at least 0; 0 for equal inputs.
    """
    return _detail(F.avg_pool2d(_difference(student, teacher), 2)).abs().mean()


@register_loss(dims=(4,))
def laplacian_low(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference of the global context of two features, at a quarter of their size.

    Spatial-KD (JVCIR 85, 2022) compares the low band by squares and the others by absolute values.

    Args:
        student, teacher: features (B, C, H, W), at least 4x4.

    Returns:
        Scalar, at least 0; 0 for equal inputs.
    """
    return F.avg_pool2d(F.avg_pool2d(_difference(student, teacher), 2), 2).square().mean()


def _difference(student: Tensor, teacher: Tensor) -> Tensor:
    _check(student)
    return student - teacher


def _check(features: Tensor) -> None:
    if min(features.shape[-2:]) < 4:
        size = "x".join(map(str, features.shape[-2:]))
        raise UserError(f"a Laplacian decomposition wants features of at least 4x4, got {size}; crop larger")


def _detail(features: Tensor) -> Tensor:
    """Return what is lost of `features` at half their size."""
    half = F.avg_pool2d(features, 2)
    return features - F.interpolate(half, features.shape[-2:], mode="bilinear", align_corners=False)
