"""How well classes are told apart: intersection over union, from a confusion matrix pooled over pixels.

`prediction` is (B, C, H, W) logits or (B, H, W) labels, `target` (B, H, W) labels; `valid` is a bool mask of
the target, None for all but 255. Values are in [0, 1].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from ..errors import UserError
from .registry import register_metric

CLASSES = 256  # of 8-bit labels, so that a matrix has one size whatever the network knows


def mean_iou(prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return the mean intersection over union of the classes that occur in the prediction or the target.

    >>> mean_iou(torch.tensor([[[0, 0, 1, 1]]]), torch.tensor([[[0, 0, 0, 1]]]))
    tensor(0.5833)
    """
    return _mean_iou_compute(confusion_matrix(prediction, target, valid))


def confusion_matrix(prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return how often (row) a class was (column) predicted, (256, 256) int64."""
    if prediction.ndim == target.ndim + 1:
        prediction = prediction.argmax(1)
    if prediction.shape != target.shape:
        raise UserError(
            "predicted and true labels must have one shape (B, H, W), "
            f"got {tuple(prediction.shape)} and {tuple(target.shape)}"
        )
    counted = (target != 255) if valid is None else valid
    pairs = target[counted].long() * CLASSES + prediction[counted].long()
    return torch.bincount(pairs, minlength=CLASSES**2).view(CLASSES, CLASSES)


def _mean_iou_compute(confusion: Tensor) -> Tensor:
    hits = confusion.diagonal().double()
    union = confusion.sum(0) + confusion.sum(1) - hits
    return (hits / union)[union > 0].mean().float()


@register_metric("miou", of="logits", unit="%", heading="mIoU", function=mean_iou)
class MeanIoU(Metric):
    """`mean_iou` over batches and processes; every pixel counts alike, whatever image it is in."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    confusion: Tensor

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.add_state("confusion", torch.zeros(CLASSES, CLASSES, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> None:
        self.confusion += confusion_matrix(prediction, target, valid)

    def compute(self) -> Tensor:
        return _mean_iou_compute(self.confusion)
