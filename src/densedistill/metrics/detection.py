"""How well objects are found: COCO's mean average precision, computed by torchmetrics over pycocotools."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

from ..data.sample import BOXES
from ..errors import UserError
from .registry import register_metric

OUTPUTS = ("boxes", "scores", "classes")


def mean_average_precision(
    outputs: Mapping[str, Tensor], truth: Mapping[str, Tensor], overlap: float | None = None
) -> Tensor:
    """Return COCO's mean average precision of a batch, in [0, 1]; NaN without a true box.

    Args:
        outputs: `boxes` (B, N, 4) xyxy px, `scores` and `classes` (B, N), -1 for padding.
        truth: `boxes` (B, M, 4) and `classes` (B, M), -1 for padding; `ignored_boxes` (B, K, 4) and
            `ignored_classes` (B, K), if any, count as COCO's crowds: an answer of that class that hits no
            true box, and of which at least the overlap's share lies in an ignored one, is overlooked.
        overlap: least intersection over union of a hit; None: the mean over 0.5, 0.55, … 0.95.
    """
    if overlap not in (None, 0.5):
        raise UserError(f"average precision is at an overlap of 0.5 or over all (None), got {overlap}")
    metric = AveragePrecision() if overlap is None else AveragePrecision50()
    metric.update(outputs, truth)
    return metric.compute()


class _Precision(MeanAveragePrecision):
    """torchmetrics' class, fed with a batch as networks and data sets give it, and giving one figure."""

    higher_is_better = True
    full_state_update = False
    figure: str

    def __init__(self, **kwargs: Any):
        # As pycocotools has them; torchmetrics' are of float32, which moves recalls across a threshold.
        thresholds = {
            "iou_thresholds": np.linspace(0.5, 0.95, 10).tolist(),
            "rec_thresholds": np.linspace(0.0, 1.0, 101).tolist(),
        }
        try:
            super().__init__(box_format="xyxy", iou_type="bbox", **thresholds, **kwargs)
        except ModuleNotFoundError as error:
            raise UserError(
                f"average precision needs pycocotools: pip install 'densedistill[data]' ({error})"
            ) from None

    def update(self, outputs: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> None:  # type: ignore[override]
        found, known = [], []
        for index in range(len(outputs["boxes"])):
            kept = outputs["classes"][index] >= 0
            boxes, scores, labels = (outputs[key][index][kept].detach().cpu() for key in OUTPUTS)
            found.append({"boxes": boxes.float(), "scores": scores.float(), "labels": labels.long()})
            known.append(_true_boxes(truth, index))
        super().update(found, known)

    def _sync_dist(self, dist_sync_fn: Any = None, process_group: Any = None) -> None:
        """Take in the images of all processes, in turns as they were shared out.

        torchmetrics waits for ever where one process has an image more, and NCCL knows no tensors on a CPU.
        """
        own = {name: getattr(self, name) for name in self._reductions}
        everywhere: list[Any] = [None] * dist.get_world_size(process_group)
        dist.all_gather_object(everywhere, own, group=process_group)
        for name in own:
            turns = itertools.zip_longest(*(theirs[name] for theirs in everywhere))
            setattr(self, name, [one for turn in turns for one in turn if one is not None])

    def compute(self) -> Tensor:  # type: ignore[override]
        value = super().compute()[self.figure]
        return torch.where(value < 0, torch.nan, value)  # -1 stands for no true box there


def _true_boxes(truth: Mapping[str, Tensor], index: int) -> dict[str, Tensor]:
    """Return the true boxes of one image as torchmetrics takes them."""
    boxes, labels, crowds = [], [], []
    for key, of_classes in BOXES.items():
        if key in truth:
            there = truth[of_classes][index] >= 0
            boxes.append(truth[key][index][there].cpu().float())
            labels.append(truth[of_classes][index][there].cpu().long())
            crowds.append(torch.full_like(labels[-1], key != "boxes"))
    return {"boxes": torch.cat(boxes), "labels": torch.cat(labels), "iscrowd": torch.cat(crowds)}


@register_metric("map", of=OUTPUTS, unit="%", heading="mAP")
class AveragePrecision(_Precision):
    """COCO's mean average precision: over overlaps of 0.5 to 0.95, classes and images."""

    figure = "map"


@register_metric("map50", of=OUTPUTS, unit="%", heading="AP50")
class AveragePrecision50(_Precision):
    """Mean average precision at an overlap of 0.5, that of Pascal VOC; recalls and crowds are COCO's."""

    figure = "map_50"
