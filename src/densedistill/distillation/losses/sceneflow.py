"""The losses of DWARF (AAAI 2020): absolute differences summed over pixels, in units of 20 px."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import UserError
from ._shared import fill_masked, register_loss


@register_loss(sums=True, above_zero=("unit",))
def summed_l1(student: Tensor, teacher: Tensor, mask: Tensor | None = None, unit: float = 20.0) -> Tensor:
    """Return the absolute difference summed over pixels and channels, averaged over the batch.

    DWARF's KITTI stage, on the level-2 motion at full size: the more labels an image has, the more it weighs.

    Args:
        student, teacher: (B, C, H, W), px.
        mask: bool (B, 1, H, W), True where a pixel counts.
        unit: px of one unit of the loss.
    """
    student, teacher = fill_masked(mask, student, teacher)
    return (student - teacher).abs().sum() / (unit * len(student))


@register_loss(same_shape=False, dims=(4,), sums=True, above_zero=("unit",))
def pooled_l1(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    unit: float = 20.0,
    unknown: Literal["zero", "skip"] = "zero",
) -> Tensor:
    """Return `summed_l1` on a coarser grid, to which the target is averaged.

    DWARF's synthetic stage, on every level; values keep the unit of the full size.

    Args:
        student: (B, C, h, w), px of the full size.
        teacher: (B, C, H, W), px; H and W are multiples of h and w.
        mask: bool (B, 1, H, W), True where the target is known.
        unit: px of one unit of the loss.
        unknown: what a cell is in which the target is not known everywhere: `zero`, as published, teaches
            it to be 0; `skip` takes the mean of what is known, and leaves out a cell without any.

    Raises:
        UserError: the sizes are no multiples, or `unknown` is neither.
    """
    if unknown not in ("zero", "skip"):
        raise UserError(f"loss 'pooled_l1': unknown is 'zero' or 'skip', got '{unknown}'")
    (height, width), (h, w) = teacher.shape[-2:], student.shape[-2:]
    if height % h or width % w or height // h != width // w:
        raise UserError(
            f"loss 'pooled_l1' wants a target of a multiple of the student's size, got {width}x{height} px "
            f"and {w}x{h}"
        )
    factor = height // h
    if mask is None:
        return summed_l1(student, F.avg_pool2d(teacher, factor), unit=unit)
    known = F.avg_pool2d(mask.to(teacher.dtype), factor)
    target = F.avg_pool2d(torch.where(mask, teacher, 0.0), factor)
    if unknown == "zero":
        return summed_l1(student, torch.where(known == 1, target, 0.0), unit=unit)
    return summed_l1(student, target / known.clamp(min=0.5 / factor**2), known > 0, unit=unit)
