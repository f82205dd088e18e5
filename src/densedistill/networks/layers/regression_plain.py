"""Regression and losses over disparity distributions written out plainly, with the full volumes in memory.

They define what the fused formulations compute, and the tests compare with them.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .image import at_least_float32

Reduction = Literal["mean", "published", "sum"]


def upsample_logits(
    logits: Tensor, max_disparity: int, size: tuple[int, int], align_corners: bool = False
) -> Tensor:
    """Return `logits` (B, 1, D, h, w) or (B, D, h, w) upsampled to (B, M, H, W), at least float32."""
    if logits.ndim == 4:
        logits = logits[:, None]
    full = (max_disparity, *size)
    return F.interpolate(at_least_float32(logits), full, mode="trilinear", align_corners=align_corners)[:, 0]


def regress_disparity_reference(
    logits: Tensor,
    max_disparity: int,
    size: tuple[int, int],
    align_corners: bool = False,
    window: int | None = None,
) -> Tensor:
    """`regress_disparity` written out plainly."""
    fine = upsample_logits(logits, max_disparity, size, align_corners)
    levels = torch.arange(max_disparity, dtype=fine.dtype, device=fine.device).view(1, -1, 1, 1)
    if window is not None:
        fine = fine.where((levels - fine.argmax(1, keepdim=True)).abs() <= window, float("-inf"))
    return (fine.softmax(1) * levels).sum(1, keepdim=True)


def disparity_kl_reference(
    student: Tensor,
    teacher: Tensor,
    max_disparity: int,
    size: tuple[int, int],
    mask: Tensor | None = None,
    *,
    temperature: float = 1.0,
    reduction: Reduction = "mean",
    align_corners: bool = False,
    teacher_align_corners: bool | None = None,
) -> Tensor:
    """`disparity_kl` written out plainly."""
    if teacher_align_corners is None:
        teacher_align_corners = align_corners
    log_s = (upsample_logits(student, max_disparity, size, align_corners) / temperature).log_softmax(1)
    log_t = (
        upsample_logits(teacher.detach(), max_disparity, size, teacher_align_corners) / temperature
    ).log_softmax(1)
    loss = (log_t.exp() * (log_t - log_s)).sum(1, keepdim=True)
    total = loss.sum() if mask is None else loss.where(mask, 0).sum()
    return reduce_over_pixels(total, loss.shape, mask, reduction)


def disparity_cross_entropy_reference(
    student: Tensor,
    teacher: Tensor,
    max_disparity: int,
    size: tuple[int, int],
    mask: Tensor | None = None,
    *,
    temperature: float = 1.0,
    reduction: Reduction = "mean",
    align_corners: bool = False,
    teacher_align_corners: bool | None = None,
) -> Tensor:
    """`disparity_cross_entropy` written out plainly."""
    if teacher_align_corners is None:
        teacher_align_corners = align_corners
    log_s = (upsample_logits(student, max_disparity, size, align_corners) / temperature).log_softmax(1)
    log_t = (
        upsample_logits(teacher.detach(), max_disparity, size, teacher_align_corners) / temperature
    ).log_softmax(1)
    loss = -(log_t.exp() * log_s).sum(1, keepdim=True)
    total = loss.sum() if mask is None else loss.where(mask, 0).sum()
    return reduce_over_pixels(total, loss.shape, mask, reduction)


def reduce_over_pixels(
    total: Tensor, shape: tuple[int, ...], mask: Tensor | None, reduction: Reduction
) -> Tensor:
    """Return `total`, a sum over the pixels of `mask` or else of `shape` (B, 1, H, W), in `reduction`."""
    if reduction == "sum":
        return total
    batch, _, height, width = shape
    count = batch * height * width if mask is None else mask.expand(shape).sum().clamp(min=1)
    return total * batch / count if reduction == "published" else total / count
