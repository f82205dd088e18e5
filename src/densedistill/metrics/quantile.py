"""Error quantiles, the A50 … A99 of Middlebury v3 and ETH3D, and their average error under its own name."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from .disparity import EPE, _Mean, check, epe
from .registry import register_metric


def error_quantile(
    prediction: Tensor, target: Tensor, valid: Tensor | None = None, percent: float = 90.0
) -> Tensor:
    """Return the error that `percent` of an image's pixels do not exceed, px; the mean over images.

    It is the least error of which that holds (the nearest rank), so an error that occurs. Images without a
    valid pixel are left out; a prediction that is not finite is an infinite error.

    >>> error_quantile(torch.tensor([[1.0, 2.0, 3.0, 5.0]]), torch.ones(1, 4), percent=50)
    tensor(1.)
    """
    _check(percent)
    total, count = _update(prediction, target, valid, percent)
    return (total / count).float()


def _check(percent: float) -> None:
    if not 0 < percent <= 100:
        raise UserError(f"metric 'a{percent:g}': a share of the pixels is above 0 and at most 100 percent")


def _update(
    prediction: Tensor, target: Tensor, valid: Tensor | None, percent: float
) -> tuple[Tensor, Tensor]:
    prediction, target, valid = check(prediction, target, valid)
    errors = (prediction - target).abs()
    errors = errors.where(errors.isfinite(), math.inf)
    if errors.ndim == 2:
        errors, valid = errors[None], valid[None]
    found = []
    for image, counted in zip(errors, valid, strict=True):
        values = image[counted]
        if values.numel():
            rank = max(1, math.ceil(percent / 100 * values.numel() - 1e-9))
            found.append(values.kthvalue(rank).values.double())
    total = torch.stack(found).sum() if found else errors.new_zeros((), dtype=torch.float64)
    return total, torch.tensor(float(len(found)), dtype=torch.float64, device=errors.device)


@register_metric("a", of="disparity", unit="px", heading="A", function=error_quantile, parameter="percent")
class ErrorQuantile(_Mean):
    """`error_quantile` over batches and processes, averaged over images."""

    def __init__(self, percent: float = 90.0, **kwargs: Any):
        super().__init__(**kwargs)
        _check(percent)
        self.percent = percent

    def update(self, prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> None:
        self._add(*_update(prediction, target, valid, self.percent))


@register_metric("avgerr", of="disparity", unit="px", heading="avgerr", function=epe)
class AverageError(EPE):
    """`EPE` as Middlebury and ETH3D call it."""
