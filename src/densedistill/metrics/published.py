"""The averaging that DSNet's published figures were made with, which differs from the devkits'."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .disparity import _Mean, check

LEAST_SHARE = 0.1


def dsnet_mean(
    metric: Callable[..., Tensor],
    prediction: Tensor,
    target: Tensor,
    valid: Tensor | None = None,
    max_disparity: float = 192.0,
) -> Tensor:
    """Return the mean of `metric` over the images of a batch (B, …, H, W) as the published code of DSNet
    takes it.

    A pixel counts where `0 < target < max_disparity`. An image is left out when that holds for less than a
    tenth of its pixels with ground truth; when no image is left the value is 0, and an image without any
    ground truth makes it NaN.
    """
    prediction, target, valid = check(prediction, target, valid)
    measured = valid & (target > 0)
    counted = measured & (target < max_disparity)
    values = []
    for image in range(len(target)):
        share = counted[image].float().mean() / measured[image].float().mean()
        if not share < LEAST_SHARE:  # NaN, without ground truth, is kept
            values.append(metric(prediction[image, None], target[image, None], counted[image, None]))
    return torch.stack(values).mean() if values else prediction.new_zeros(())


class DSNetMean(_Mean):
    """`dsnet_mean` of `metric`, averaged over batches whatever their size, as published."""

    def __init__(self, metric: Callable[..., Tensor], max_disparity: float = 192.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.metric, self.max_disparity = metric, max_disparity

    def update(self, prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> None:
        mean = dsnet_mean(self.metric, prediction, target, valid, self.max_disparity)
        self._add(mean, torch.ones_like(mean))
