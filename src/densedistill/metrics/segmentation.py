"""How well classes are told apart: intersection over union, from a confusion matrix pooled over pixels.

`prediction` is (B, C, H, W) logits or (B, H, W) labels, `target` (B, H, W) labels; `valid` is a bool mask of
the target, None for all but 255. Values are in [0, 1].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from ..data.sample import IGNORE_LABEL
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
    """Return how often (row) a class was (column) predicted, (256, 256) int64.

    Raises:
        UserError: shapes that differ, or labels that count and are not from 0 to 255.
    """
    if prediction.ndim == target.ndim + 1:
        prediction = prediction.argmax(1)
    if prediction.shape != target.shape:
        raise UserError(
            "predicted and true labels must have one shape (B, H, W), "
            f"got {tuple(prediction.shape)} and {tuple(target.shape)}"
        )
    counted = (target != 255) if valid is None else valid
    if counted.shape != target.shape:
        raise UserError(
            f"valid has the shape of the labels {tuple(target.shape)}, got {tuple(counted.shape)}"
        )
    true, found = target[counted].long(), prediction[counted].long()
    for what, labels in (("true", true), ("predicted", found)):
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < CLASSES:
            raise UserError(
                f"{what} labels are from 0 to {CLASSES - 1}, got {int(labels.min())} to {int(labels.max())}; "
                "255 is what does not count"
            )
    pairs = true * CLASSES + found
    return torch.bincount(pairs, minlength=CLASSES**2).view(CLASSES, CLASSES)


def class_iou(confusion: Tensor) -> Tensor:
    """Return each class's intersection over union (256,); NaN where it occurs in neither, and for void, the
    last."""
    hits = confusion.diagonal().double()
    union = confusion.sum(0) + confusion.sum(1) - hits
    iou = (hits / union).float()
    iou[IGNORE_LABEL] = torch.nan
    return iou


def published_mean_iou(confusion: Tensor, classes: int) -> Tensor:
    """Return the mean of the first `classes` as structured distillation's code takes it: absent ones are
    0."""
    return class_iou(confusion)[:classes].nan_to_num(0.0).mean()


def _mean_iou_compute(confusion: Tensor) -> Tensor:
    return class_iou(confusion).nanmean()


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


@register_metric("iou", of="logits", unit="%", heading="IoU", parameter="number")
class ClassIoU(MeanIoU):
    """The intersection over union of one class; `iou3` is that of class 3. NaN where it never occurs.

    Args:
        number: of the class, from 0.
    """

    def __init__(self, number: float, **kwargs: Any):
        super().__init__(**kwargs)
        if number not in range(CLASSES):
            raise UserError(f"metric 'iou{number:g}': a class is a number from 0 to {CLASSES - 1}")
        self.number = int(number)

    def compute(self) -> Tensor:
        return class_iou(self.confusion)[self.number]


@register_metric("accuracy", of="logits", unit="%", heading="accuracy")
class PixelAccuracy(MeanIoU):
    """The share of pixels whose class is right."""

    def compute(self) -> Tensor:
        return (self.confusion.diagonal().sum() / self.confusion.sum()).float()
