"""Losses between depths, and between a distribution over depth and the truth."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import unknown
from ._shared import fill_masked, masked_mean, register_loss


@register_loss()
def silog(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    minimum: float = 0.0,
    variance: float = 0.85,
    factor: float = 10.0,
) -> Tensor:
    """Return the scale-invariant logarithmic error (Eigen et al., NIPS 2014; form of BTS and Spatial-KD).

    With d = ln student - ln teacher over the pixels that count in the batch, of each process by itself:
    `factor * sqrt(mean(d²) - variance * mean(d)²)`. At a perfect fit its gradient is 0, where the published
    form gives NaN.

    Args:
        student, teacher: depths above 0, any one shape, metres.
        mask: bool, broadcastable to the shape, True where a pixel counts.
        minimum: metres; a pixel counts where the teacher is above it. Spatial-KD trains with 1.0 on KITTI
            and 0.1 on NYU, LapDepth with 0.001 on both.
        variance, factor: see above.

    Returns:
        Scalar, at least 0; 0 for equal inputs, and where no pixel counts.
    """
    counted = teacher > minimum
    mask = counted if mask is None else counted & mask
    student, teacher = fill_masked(mask, student, teacher, value=1.0)
    difference = student.log() - teacher.log()
    value = masked_mean(difference.square(), mask) - variance * masked_mean(difference, mask).square()
    positive = value > 0
    root = torch.where(positive, value, 1.0).sqrt()
    return factor * torch.where(positive, root, value * 0.0)


@register_loss()
def depth_gradient(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, outside: float = 0.1
) -> Tensor:
    """Return the mean absolute difference of Sobel responses, along x plus along y (LapDepth's code).

    LapDepth weighs it by 0.1, late in training, against inpainted ground truth.

    Args:
        student, teacher: depths (B, 1, H, W), metres.
        mask: bool (B, 1, H, W); what is not in it weighs `outside`.
        outside: see `mask`; 0 leaves these pixels out of the sum.

    Returns:
        Scalar, at least 0; 0 for equal inputs.
    """
    if mask is not None and not outside:
        student, teacher = fill_masked(mask, student, teacher)
    kernel = student.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    kernels = torch.stack((kernel, kernel.T))[:, None]
    flat = (student - teacher).flatten(0, 1)[:, None]
    change = F.conv2d(flat, kernels, padding=1).abs().sum(1).view_as(student)
    if mask is not None:
        change = torch.where(mask, change, outside * change)
    return change.mean()


@register_loss(same_shape=False, dims=(4,), takes_truth=True)
def bin_cross_entropy(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    low: float = 0.1,
    high: float = 17.0,
    sharpness: float = 0.2,
) -> Tensor:
    """Return the cross-entropy to a distribution about the true depth's bin (VNL, ICCV 2019, weighted CE).

    Bins are equally wide in the logarithm. The target weighs bin j by exp(-sharpness * (j - true bin)²),
    normalised over the bins.

    Args:
        student: logits (B, K, H, W) over K bins.
        teacher: the true depth (B, 1, H, W), metres; clipped to the range.
        mask: bool (B, 1, H, W), True where a pixel counts.
        low, high: range of the bins, metres.
        sharpness: see above.
    """
    bins = student.shape[1]
    index = depth_bins(teacher, bins, low, high)
    distance = torch.arange(bins, device=student.device, dtype=student.dtype)
    weights = torch.exp(-sharpness * (distance[:, None] - distance[None]).square())
    weights = weights / weights.sum(1, keepdim=True)
    target = weights[index[:, 0]].movedim(-1, 1)
    entropy = -(target * student.log_softmax(1)).sum(1, keepdim=True)
    return masked_mean(entropy, mask)


def depth_bins(depth: Tensor, bins: int, low: float, high: float) -> Tensor:
    """Return the index (int64) of the logarithmic bin that each of `depth`, metres, lies in."""
    start = math.log10(low)
    width = (math.log10(high) - start) / bins
    logarithm = depth.nan_to_num(low).clamp(low, high).log10()
    return ((logarithm - start) / width).floor().long().clamp(0, bins - 1)


@register_loss(dims=(4,), above_zero=("focal", "scale"))
def virtual_normal(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    focal: float = 519.0,
    scale: float = 1.0,
    ratio: float = 0.15,
    trim: float = 0.25,
    points: Tensor | None = None,
) -> Tensor:
    """Return the difference of the normals of planes through random triples of pixels (VNL, eq. 3).

    Yin et al., ICCV 2019. Triples are kept by the teacher's geometry: measured, not all close together, not
    on one line. The lowest part of the differences is dropped, as in the published code. Without any triple
    the loss is 0, where the published form is NaN.

    Args:
        student, teacher: depths (B, 1, H, W), metres.
        mask: bool (B, 1, H, W), True where a pixel may be drawn.
        focal: px, of the image as it is given to the loss.
        scale: metres that count as one: the thresholds are of the published, scaled depth (10 for NYU, 80
            for KITTI).
        ratio: triples for each pixel.
        trim: share of the smallest differences that is dropped.
        points: int64 (3, N), indices of pixels instead of random ones.

    Returns:
        Scalar, at least 0; 0 for equal inputs.
    """
    height, width = student.shape[-2:]
    if points is None:
        count = int(ratio * height * width)
        points = torch.randint(height * width, (3, count), device=student.device)
    if mask is not None:
        student, teacher = fill_masked(mask, student, teacher, value=-scale)
    truth, predicted = (_triples(depth / scale, points, focal) for depth in (teacher, student))
    kept = _spread(truth)
    if not kept.any():
        return student.sum() * 0.0
    difference = (_normals(truth[kept]) - _normals(predicted[kept])).abs().sum(1)
    return difference.sort().values[int(trim * len(difference)) :].mean()


def _triples(depth: Tensor, points: Tensor, focal: float) -> Tensor:
    """Return the points in space of triples of pixels, (B C, N, xyz, three points)."""
    height, width = depth.shape[-2:]
    z = depth.flatten(0, 1).flatten(1)[:, points]
    # The published code counts x and y by the absolute depth, so that a hole does not turn them around.
    x = (points % width - width // 2) * z.abs() / focal
    y = (points // width - height // 2) * z.abs() / focal
    return torch.stack((x, y, z)).permute(1, 3, 0, 2)


def _spread(triples: Tensor, cosine: float = 0.867, near: float = 0.005, least: float = 1e-4) -> Tensor:
    """Return which triples are measured, wide enough and not on one line (VNL's code)."""
    first, second, third = triples.unbind(3)
    edges = torch.stack((second - first, third - first, third - second), 3)
    measured = (triples[:, :, 2] > least).all(2)
    close = (edges.abs() < near).any(3).all(2)
    lengths = edges.norm(dim=2)
    products = edges.transpose(2, 3) @ edges
    cosines = products / (lengths[..., :, None] * lengths[..., None, :] + 1e-8)
    in_line = (cosines.abs() > cosine).flatten(2).sum(2) > 3
    return measured & ~close & ~in_line


def _normals(triples: Tensor) -> Tensor:
    """Return the unit normals (N, 3) of planes through `triples` (N, xyz, three points)."""
    first, second, third = triples.unbind(2)
    normal = torch.linalg.cross(second - first, third - first)
    squared = normal.square().sum(1, keepdim=True)
    flat = squared == 0
    length = torch.where(flat, 1.0, squared).sqrt()
    return normal / torch.where(flat, 0.01, length)


@register_loss(dims=(4,))
def scale_and_shift_invariant(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    inverse: bool = True,
    gradient: float = 0.5,
    scales: int = 4,
    align: str = "robust",
) -> Tensor:
    """Return the difference of two depths, known up to scale and shift (MiDaS, TPAMI 2022).

    Compared are the aligned values of each image, by their mean absolute difference, and, at several scales,
    their gradients.

    Args:
        student, teacher: depths (B, 1, H, W), above 0 where `inverse`.
        mask: bool (B, 1, H, W), True where a pixel counts.
        inverse: compare inverse depths, as MiDaS and Depth Anything predict them.
        gradient: weight of the gradients' part.
        scales: of the gradients' part; each halves the last.
        align: `robust`: both are centred on their median and divided by their mean absolute deviation;
            `least_squares`: the student is fitted to the teacher, so the loss is in the teacher's unit.

    Returns:
        Scalar, at least 0; 0 for equal inputs, also up to scale and shift (of the inverse, where `inverse`).

    Raises:
        UserError: another `align`.
    """
    if align not in ("robust", "least_squares"):
        raise unknown("alignment", align, ("robust", "least_squares"))
    student, teacher = (x.flatten(0, 1)[:, None] for x in (student, teacher))
    if mask is None:
        mask = torch.ones_like(student, dtype=torch.bool)
    elif len(mask) != len(student):
        mask = mask.expand(-1, len(student) // len(mask), -1, -1).flatten(0, 1)[:, None]
    if inverse:
        student, teacher = fill_masked(mask, student, teacher, value=1.0)
        student, teacher = 1 / student.clamp(min=1e-6), 1 / teacher.clamp(min=1e-6)
    if align == "robust":
        student, teacher = (_standardised(x, mask) for x in (student, teacher))
    else:
        student = _fitted(student, teacher, mask)
    difference = torch.where(mask, student - teacher, 0.0)
    loss = masked_mean(difference.abs(), mask)
    for level in range(scales if gradient else 0):
        small, inside = difference[..., :: 2**level, :: 2**level], mask[..., :: 2**level, :: 2**level]
        for axis in (-1, -2):
            if small.shape[axis] > 1:
                both = inside.narrow(axis, 1, small.shape[axis] - 1)
                both = both & inside.narrow(axis, 0, small.shape[axis] - 1)
                loss = loss + gradient * masked_mean(small.diff(dim=axis).abs(), both)
    return loss


def _standardised(x: Tensor, mask: Tensor) -> Tensor:
    """Return each image of `x` (N, 1, H, W) less its median, over its mean absolute deviation."""
    holes = torch.where(mask, x, torch.nan).flatten(1)
    median = holes.nanmedian(1).values.nan_to_num(0.0).view(-1, 1, 1, 1)
    centred = torch.where(mask, x - median, 0.0)
    count = mask.flatten(1).sum(1).clamp(min=1).view(-1, 1, 1, 1)
    deviation = centred.abs().sum((1, 2, 3), keepdim=True) / count
    return centred / deviation.clamp(min=1e-6)


def _fitted(x: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Return each image of `x` (N, 1, H, W) with the scale and shift that bring it nearest to `target`."""
    count = mask.sum((1, 2, 3), keepdim=True).clamp(min=1)
    x_mean, target_mean = (
        torch.where(mask, y, 0.0).sum((1, 2, 3), keepdim=True) / count for y in (x, target)
    )
    centred = torch.where(mask, x - x_mean, 0.0)
    variance = centred.square().sum((1, 2, 3), keepdim=True)
    covariance = (centred * torch.where(mask, target - target_mean, 0.0)).sum((1, 2, 3), keepdim=True)
    return covariance / torch.where(variance > 0, variance, 1.0) * (x - x_mean) + target_mean
