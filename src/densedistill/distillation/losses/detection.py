"""The losses of FCOS, original and improved, and what its positions should predict.

FCOS, Tian et al., ICCV 2019 (https://arxiv.org/abs/1904.01355), section 3; the improved form is that of TPAMI
2020: centre sampling, GIoU, distances in strides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from ...errors import UserError
from ...networks.layers.boxes import locations
from ._shared import fill_masked, masked_mean, register_loss

STRIDES = (8, 16, 32, 64, 128)
RANGES = ((-1, 64), (64, 128), (128, 256), (256, 512), (512, 1e8))
RADIUS = 1.5  # of centre sampling, in strides
_FAR = 1e8


class Targets(NamedTuple):
    """What positions should predict: `classes` (positions) with -1 for background, `distances` (positions,
    4)."""

    classes: Tensor
    distances: Tensor


@register_loss(same_shape=False, dims=(3,), takes_truth=True, sums=True)
def fcos(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    *,
    box_classes: Tensor,
    size: tuple[int, int],
    processes: int = 1,
    improved: bool = False,
    classification: float = 1.0,
    regression: float = 1.0,
    centerness: float = 1.0,
) -> Tensor:
    """Return the sum of FCOS's three losses.

    Args:
        student: the tap `predictions`, (B, positions, C + 5).
        teacher: true boxes (B, N, 4) xyxy px, padded.
        mask: bool (B, 1), True for samples whose boxes are known, though there be none; None: all.
        box_classes: their classes (B, N), -1 for padding.
        size: (H, W) of the network's input px.
        processes: that train together; each part is divided by the mean of their counts, as published.
        improved: of the network.
        classification, regression, centerness: weights.

    Returns:
        Scalar, at least 0.
    """
    parts = fcos_parts(student, teacher, box_classes, size, improved, mask, processes)
    weights = (classification, regression, centerness)
    return torch.stack([weight * part for weight, part in zip(weights, parts, strict=True)]).sum()


def fcos_parts(
    predictions: Tensor,
    boxes: Tensor,
    classes: Tensor,
    size: tuple[int, int],
    improved: bool,
    mask: Tensor | None = None,
    processes: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the losses of class, distances and centerness; `classes` are of the boxes, the rest as in
    `fcos`."""
    from torchvision.ops import sigmoid_focal_loss  # takes seconds, which no other task needs

    sizes = level_sizes(size)
    if predictions.shape[1] != sum(h * w for h, w in sizes):
        raise UserError(
            f"loss 'fcos': {predictions.shape[1]} positions are not those of an input of {size[1]}x{size[0]}"
        )
    number = predictions.shape[-1] - 5
    if classes.numel() and int(classes.max()) >= number:
        raise UserError(
            f"the boxes hold class {int(classes.max())}, the network tells {number} apart; set the student's "
            "`classes`"
        )
    targets = [
        fcos_targets(box[label >= 0], label[label >= 0], sizes, improved)
        for box, label in zip(boxes, classes, strict=True)
    ]
    wanted = torch.stack([target.classes for target in targets])
    distances = torch.stack([target.distances for target in targets])
    positive = wanted >= 0
    truth = F.one_hot(wanted.clamp(min=0), number) * positive[..., None]
    of_class = sigmoid_focal_loss(
        predictions[..., :-5], truth.to(predictions), alpha=0.25, gamma=2, reduction="none"
    )
    if mask is not None:  # no object is known there, which is not to say that there is none
        of_class = torch.where(mask[..., None], of_class, 0.0)
    found, meant = predictions[..., -5:-1][positive], distances[positive]
    centre = _centerness(meant)
    overlaps = _overlap_loss(found, meant, improved)
    of_centre = F.binary_cross_entropy_with_logits(predictions[..., -1][positive], centre, reduction="sum")
    counts = torch.stack((positive.sum().to(centre), centre.sum()))
    if processes > 1:
        dist.all_reduce(counts)
        counts = counts / processes
    count, weight = counts[0].clamp(min=1), counts[1].clamp(min=1e-6)
    return of_class.sum() / count, (overlaps * centre).sum() / weight, of_centre / count


def fcos_targets(boxes: Tensor, classes: Tensor, sizes: Sequence[tuple[int, int]], improved: bool) -> Targets:
    """Return what the positions of all levels should predict for one image.

    Args:
        boxes: (N, 4) xyxy px.
        classes: (N) from 0.
        sizes: (height, width) of the levels.
        improved: sample positions near a box's centre only; distances in strides.
    """
    places = locations(sizes, STRIDES, boxes.device).to(boxes.dtype)
    counts = [height * width for height, width in sizes]
    per_place = torch.tensor(counts, device=boxes.device)
    strides = torch.tensor(STRIDES, device=boxes.device).repeat_interleave(per_place)
    if not len(boxes):
        nothing = torch.full((len(places),), -1, device=boxes.device)
        return Targets(nothing, boxes.new_zeros(len(places), 4))
    reach = torch.tensor(RANGES, device=boxes.device).repeat_interleave(per_place, 0)
    x, y = places[:, None, 0], places[:, None, 1]
    distances = torch.stack((x - boxes[:, 0], y - boxes[:, 1], boxes[:, 2] - x, boxes[:, 3] - y), -1)
    inside = distances.amin(-1) > 0
    if improved:
        radius = (RADIUS * strides)[:, None]
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        left, top = (torch.maximum(centre[:, i] - radius, boxes[:, i]) for i in (0, 1))
        right, bottom = (torch.minimum(centre[:, i] + radius, boxes[:, i + 2]) for i in (0, 1))
        near = torch.stack((x - left, y - top, right - x, bottom - y), -1)
        inside = near.amin(-1) > 0
    longest = distances.amax(-1)
    fits = (longest >= reach[:, :1]) & (longest <= reach[:, 1:])
    # Published sizes count the last pixel.
    areas = (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
    candidates = torch.where(inside & fits, areas.to(distances), _FAR)
    least, chosen = candidates.min(1)
    wanted = torch.where(least < _FAR, classes.long()[chosen], -1)
    meant = distances[torch.arange(len(places), device=boxes.device), chosen]
    return Targets(wanted, meant / strides[:, None] if improved else meant)


def level_sizes(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Return (height, width) of FCOS's five levels for an input of `size` px, multiples of 32."""
    return [(-(-size[0] // stride), -(-size[1] // stride)) for stride in STRIDES]


@register_loss(dims=(4,))
def class_kl(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mean KL of the binary distributions of independent class logits (detection heads).

    Args:
        student, teacher: logits (B, C, H, W), each a class's own sigmoid.
        mask: bool (B, 1, H, W), True where a position counts.

    Returns:
        Scalar, at least 0; 0 for equal inputs.
    """
    student, teacher = fill_masked(mask, student, teacher)
    probability = teacher.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(teacher, probability, reduction="none")
    cross = F.binary_cross_entropy_with_logits(student, probability, reduction="none")
    return masked_mean(cross - entropy, mask)


def _centerness(distances: Tensor) -> Tensor:
    across, down = distances[:, (0, 2)], distances[:, (1, 3)]
    least, most = (f(across, 1) * f(down, 1) for f in (torch.amin, torch.amax))
    return (least / most.clamp(min=1e-9)).clamp(min=0).sqrt()


def _overlap_loss(found: Tensor, meant: Tensor, improved: bool) -> Tensor:
    """Return -ln IoU, or 1 - GIoU when improved, of boxes given by their distances (M, 4) from one place."""
    areas = [(d[:, 0] + d[:, 2]) * (d[:, 1] + d[:, 3]) for d in (found, meant)]
    least, most = torch.minimum(found, meant), torch.maximum(found, meant)
    shared = (least[:, 0] + least[:, 2]) * (least[:, 1] + least[:, 3])
    union = areas[0] + areas[1] - shared
    overlap = (shared + 1) / (union + 1)
    if not improved:
        return -overlap.log()
    hull = (most[:, 0] + most[:, 2]) * (most[:, 1] + most[:, 3]) + 1e-7
    return 1 - (overlap - (hull - union) / hull)
