"""Pair-wise distillation: the similarities between all positions of a feature map.

Structured Knowledge Distillation (https://arxiv.org/abs/1903.04197), section 3.2. `pairwise` is the published
code's form and DSNet's "mf_main"; `pairwise_cvpr19` the CVPR version's, which detection uses, too.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ...errors import UserError
from ._shared import fill_masked, fit_mask, register_loss


@register_loss("mf_main", same_shape=False, dims=(4,))
def pairwise(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    scale: float = 0.5,
    pool: Literal["max", "mean"] = "max",
    connection_range: int | None = None,
    block: int | None = None,
) -> Tensor:
    """Return the squared difference of the similarities of all pairs of nodes, as the published code has it.

    Features are pooled to nodes, normalised over channels, and multiplied into a similarity matrix. As
    published, the norm carries no gradient. Teacher and student may differ in channels; a teacher of another
    resolution is resized to the student's.

    Args:
        student, teacher: features (B, C, H, W).
        mask: bool (B, 1, H, W), True where a position counts; a window pools what counts in it, and one
            without any is left out.
        scale: side of the pooling window, the node, as a fraction of height and width, above 0 and at most 1;
            rounded down, but not below one position.
        pool: `max` as coded, or `mean` as in the paper.
        connection_range: nodes are compared with those at most so many rows and columns away (the paper's
            connection range); None: with all.
        block: compare so many nodes with all at a time and compute the similarities once more for the
            gradient; memory then grows with the number of nodes, not with its square.

    Returns:
        Scalar, the mean over pairs and samples, at least 0; 0 for equal inputs.

    Raises:
        UserError: `scale`, `connection_range` or `block` outside its range.
    """
    if not 0 < scale <= 1:
        raise UserError(f"pair-wise loss: scale is a fraction of height and width in (0, 1], got {scale:g}")
    for what, number, least in (("connection_range", connection_range, 0), ("block", block, 1)):
        if number is not None and number < least:
            raise UserError(f"pair-wise loss: {what} must be at least {least}, got {number}")
    height, width = student.shape[-2:]
    window = (max(1, int(height * scale)), max(1, int(width * scale)))
    teacher = _to_size(student, teacher)
    mask = None if mask is None else fit_mask("pairwise", mask, student)
    if mask is None:
        kept = None
        pooled = [_pool(x, window, pool) for x in (student, teacher)]
    else:
        pooled, kept = _pool_masked(student, teacher, mask, window, pool)
    grid = (pooled[0].shape[-2], pooled[0].shape[-1])
    vectors = [_unit(x.flatten(2)) for x in pooled]
    return _compare(vectors[0], vectors[1], kept, grid, connection_range, block)


@register_loss("mf_4d", same_shape=False, dims=(5,))
def pairwise_4d(student: Tensor, teacher: Tensor, mask: Tensor | None = None, scale: float = 0.1) -> Tensor:
    """Return `pairwise` of every disparity of a volume, averaged over disparities (DSNet's "mf_4D").

    Args:
        student, teacher: volumes (B, C, D, H, W), of one number of disparities.
        mask: bool (B, 1, H, W) or broadcastable to (B, 1, D, H, W), True where a position counts.
        scale: side of the pooling window, as `pairwise` takes it.

    Returns:
        Scalar, at least 0; 0 for equal inputs.

    Raises:
        UserError: volumes of different numbers of disparities, or `scale` outside its range.
    """
    if student.shape[2] != teacher.shape[2]:
        raise UserError(
            f"loss 'pairwise_4d' wants volumes of as many disparities, got {student.shape[2]} and "
            f"{teacher.shape[2]}"
        )
    if mask is not None:
        mask = fit_mask("pairwise_4d", mask, student)
        mask = _slices(mask[:, :1].expand(-1, -1, student.shape[2], *student.shape[-2:]))
    return pairwise(_slices(student), _slices(teacher), mask, scale=scale)


@register_loss(same_shape=False, dims=(4,))
def pairwise_cvpr19(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    function: Literal["softmax", "sigmoid", "plain"] = "plain",
    pool: int = 1,
) -> Tensor:
    """Return the mean squared difference of a function of the cosines of all positions (the CVPR version).

    Here the gradient flows through the norms, too. `plain` is the form for detection.

    Args:
        student, teacher: features (B, C, H, W); channels may differ, a teacher of another resolution is
            resized.
        mask: bool (B, 1, H, W), True where a position counts.
        function: of a row of cosines: `softmax`, `sigmoid`, or none.
        pool: side of a window of mean pooling before, px (2 in the authors' detection toolbox).

    Returns:
        Scalar, at least 0; 0 for equal inputs.
    """
    teacher = _to_size(student, teacher)
    kept = None
    if mask is not None:
        mask = fit_mask("pairwise_cvpr19", mask, student)[:, :1].expand(-1, 1, *student.shape[-2:])
        student, teacher = fill_masked(mask, student, teacher)
        kept = F.max_pool2d(mask.to(student.dtype), pool, pool, ceil_mode=True).flatten(1) > 0
    if pool > 1:
        student, teacher = (F.avg_pool2d(x, pool, pool, ceil_mode=True) for x in (student, teacher))
    matrices = []
    for features in (student, teacher):
        vectors = F.normalize(features.flatten(2), dim=1, eps=1e-8)
        cosines = vectors.transpose(1, 2) @ vectors
        if function == "softmax":
            if kept is not None:
                cosines = cosines.masked_fill(~kept[:, None], torch.finfo(cosines.dtype).min)
            cosines = cosines.softmax(-1)
        elif function == "sigmoid":
            cosines = cosines.sigmoid()
        elif function != "plain":
            raise UserError(f"function is softmax, sigmoid or plain, got '{function}'")
        matrices.append(cosines)
    squared = (matrices[0] - matrices[1]).square()
    if kept is None:
        return squared.mean()
    both = kept[:, :, None] & kept[:, None, :]
    return torch.where(both, squared, 0.0).sum() / both.sum().clamp(min=1)


def _compare(
    student: Tensor,
    teacher: Tensor,
    kept: Tensor | None,
    grid: tuple[int, int],
    reach: int | None,
    block: int | None,
) -> Tensor:
    """Return the mean squared difference of similarities of unit vectors (B, C, M) over the pairs that
    count."""
    count = student.shape[-1]
    total, pairs = student.new_zeros(()), student.new_zeros(())
    for start in range(0, count, block or count):
        rows = slice(start, min(start + (block or count), count))
        counted = _counted(kept, grid, reach, rows, student)
        if block is None or not student.requires_grad:
            part = _part(student, teacher, counted, rows)
        else:
            part = checkpoint(_part, student, teacher, counted, rows, use_reentrant=False)
        total = total + part
        number = (rows.stop - rows.start) * count * len(student)
        pairs = pairs + (number if counted is None else counted.expand(len(student), -1, -1).sum())
    return total / pairs.clamp(min=1)


def _part(student: Tensor, teacher: Tensor, counted: Tensor | None, rows: slice) -> Tensor:
    of_teacher, of_student = (x[..., rows].transpose(1, 2) @ x for x in (teacher, student))
    squared = (of_teacher - of_student).square()
    return (squared if counted is None else torch.where(counted, squared, 0.0)).sum()


def _counted(
    kept: Tensor | None, grid: tuple[int, int], reach: int | None, rows: slice, like: Tensor
) -> Tensor | None:
    """Return which pairs of the nodes `rows` with all nodes count, (B or 1, rows, M); None for all."""
    counted = None
    if reach is not None:
        nodes = torch.arange(grid[0] * grid[1], device=like.device)
        y, x = nodes // grid[1], nodes % grid[1]
        apart = torch.maximum((y[rows, None] - y[None]).abs(), (x[rows, None] - x[None]).abs())
        counted = (apart <= reach)[None]
    if kept is not None:
        both = kept[:, rows, None] & kept[:, None, :]
        counted = both if counted is None else counted & both
    return counted


def _pool(features: Tensor, window: tuple[int, int], kind: str) -> Tensor:
    if kind == "max":
        return F.max_pool2d(features, window, stride=window, ceil_mode=True)
    if kind == "mean":
        return F.avg_pool2d(features, window, stride=window, ceil_mode=True, count_include_pad=False)
    raise UserError(f"pool is max or mean, got '{kind}'")


def _pool_masked(
    student: Tensor, teacher: Tensor, mask: Tensor, window: tuple[int, int], kind: str
) -> tuple[list[Tensor], Tensor]:
    """Return both features pooled over what counts, and which nodes hold any of it, (B, M)."""
    height, width = student.shape[-2:]
    mask = mask[:, :1].expand(-1, -1, height, width)
    share = _pool(mask.to(student.dtype), window, kind)
    if kind == "max":
        lowest = torch.finfo(student.dtype).min
        pooled = [_pool(x, window, kind) for x in fill_masked(mask, student, teacher, value=lowest)]
    else:
        divisor = share.clamp(min=torch.finfo(student.dtype).tiny)
        pooled = [_pool(x, window, kind) / divisor for x in fill_masked(mask, student, teacher)]
    return [torch.where(share > 0, x, 0) for x in pooled], share.flatten(1) > 0


def _to_size(student: Tensor, teacher: Tensor) -> Tensor:
    if len(student) != len(teacher):
        raise UserError(f"pair-wise loss: the student has {len(student)} samples, the teacher {len(teacher)}")
    if student.shape[-2:] == teacher.shape[-2:]:
        return teacher
    return F.interpolate(teacher, student.shape[-2:], mode="bilinear", align_corners=True)


def _unit(vectors: Tensor) -> Tensor:
    """Return `vectors` (B, C, M) of length 1; no gradient flows through the norms."""
    return vectors / (vectors.detach().norm(dim=1, keepdim=True) + 1e-8)


def _slices(volume: Tensor) -> Tensor:
    """Return a volume (B, C, D, H, W) as B * D images (B D, C, H, W)."""
    return volume.transpose(1, 2).flatten(0, 1)
