"""How far a disparity map is from the ground truth: end-point error, D1, bad-k, RMS.

Every metric is a mean over valid pixels. `prediction` and `target` are (…, H, W) in px, of one shape; `valid`
is a bool mask of that shape, None for all. Pixels are pooled over the whole batch (and over batches and
processes, in the classes), as the KITTI 2015 devkit does; with `per_image=True` the mean is taken in each
image first, and images without a valid pixel are left out, as Middlebury, ETH3D and KITTI 2012 do. Shares are
in [0, 1]. A prediction that is not finite is counted as wrong, not skipped.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from ..errors import UserError
from .registry import register_metric


def epe(
    prediction: Tensor, target: Tensor, valid: Tensor | None = None, *, per_image: bool = False
) -> Tensor:
    """Return the end-point error, the mean of `|prediction - target|`, in px (scalar; NaN when nothing is
    valid).

    >>> epe(torch.tensor([[1.0, 4.0]]), torch.tensor([[2.0, 4.0]]))
    tensor(0.5000)
    """
    return _compute(*_epe_update(prediction, target, valid, per_image)).float()


def d1(
    prediction: Tensor,
    target: Tensor,
    valid: Tensor | None = None,
    *,
    pixels: float = 3.0,
    share: float = 0.05,
    per_image: bool = False,
) -> Tensor:
    """Return the share of pixels off by more than 3 px and more than 5 % of the ground truth (KITTI 2015).

    >>> d1(torch.tensor([[100.0, 14.0]]), torch.tensor([[104.0, 10.0]]))
    tensor(0.5000)
    """
    return _compute(*_d1_update(prediction, target, valid, pixels, share, per_image)).float()


def bad(
    prediction: Tensor,
    target: Tensor,
    valid: Tensor | None = None,
    threshold: float = 2.0,
    *,
    per_image: bool = False,
) -> Tensor:
    """Return the share of pixels off by more than `threshold` px (Middlebury's and ETH3D's bad-k).

    >>> bad(torch.tensor([[1.0, 4.0]]), torch.tensor([[3.5, 4.0]]), threshold=2.0)
    tensor(0.5000)
    """
    return _compute(*_bad_update(prediction, target, valid, threshold, per_image)).float()


def rms(
    prediction: Tensor, target: Tensor, valid: Tensor | None = None, *, per_image: bool = False
) -> Tensor:
    """Return the root of the mean squared error in px; with `per_image`, the mean of the images' roots
    (Middlebury).

    >>> rms(torch.tensor([[1.0, 4.0]]), torch.tensor([[2.0, 5.0]]))
    tensor(1.)
    """
    return _rms_compute(*_rms_update(prediction, target, valid, per_image), per_image).float()


def _epe_update(
    prediction: Tensor, target: Tensor, valid: Tensor | None, per_image: bool = False
) -> tuple[Tensor, Tensor]:
    prediction, target, valid = check(prediction, target, valid)
    return _reduce((prediction - target).abs(), valid, per_image)


def _d1_update(
    prediction: Tensor,
    target: Tensor,
    valid: Tensor | None,
    pixels: float = 3.0,
    share: float = 0.05,
    per_image: bool = False,
) -> tuple[Tensor, Tensor]:
    prediction, target, valid = check(prediction, target, valid)
    error = (prediction - target).abs()
    right = (error <= pixels) | (error / target.abs() <= share)  # so that a NaN is never right
    return _reduce(~right, valid, per_image)


def _bad_update(
    prediction: Tensor, target: Tensor, valid: Tensor | None, threshold: float = 2.0, per_image: bool = False
) -> tuple[Tensor, Tensor]:
    prediction, target, valid = check(prediction, target, valid)
    return _reduce(~((prediction - target).abs() <= threshold), valid, per_image)


def _rms_update(
    prediction: Tensor, target: Tensor, valid: Tensor | None, per_image: bool = False
) -> tuple[Tensor, Tensor]:
    prediction, target, valid = check(prediction, target, valid)
    squares = (prediction - target).square()
    if not per_image:
        return _reduce(squares, valid, per_image)
    sums, counts = _per_image(squares, valid)
    kept = counts > 0
    return (sums[kept] / counts[kept]).sqrt().sum(), kept.sum().double()


def _compute(total: Tensor, count: Tensor) -> Tensor:
    return total / count


def _rms_compute(total: Tensor, count: Tensor, per_image: bool) -> Tensor:
    return total / count if per_image else (total / count).sqrt()


def check(prediction: Tensor, target: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the three as float and bool tensors of one shape (…, H, W); UserError when the shapes differ."""
    if valid is None:
        valid = torch.ones_like(target, dtype=torch.bool)
    if prediction.shape != target.shape or valid.shape != target.shape or target.ndim < 2:
        raise UserError(
            "prediction, target and valid must have one shape (…, H, W), "
            f"got {tuple(prediction.shape)}, {tuple(target.shape)} and {tuple(valid.shape)}"
        )
    if prediction.dtype != torch.float64:
        prediction = prediction.float()
    return prediction, target.to(prediction), valid.to(prediction.device, torch.bool)


def _reduce(values: Tensor, valid: Tensor, per_image: bool) -> tuple[Tensor, Tensor]:
    """Return (sum, count) of values (B, …) over the valid pixels, or over the images' means, in float64."""
    sums, counts = _per_image(values, valid)
    if not per_image:
        return sums.sum(), counts.sum()
    kept = counts > 0
    return (sums[kept] / counts[kept]).sum(), kept.sum().double()


def _per_image(values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums and counts (N,) over the valid pixels of each image; the first axis counts them."""
    values = torch.where(valid, values.double(), 0.0)
    if values.ndim == 2:
        values, valid = values[None], valid[None]
    return values.flatten(1).sum(1), valid.flatten(1).sum(1).double()


class _Mean(Metric):
    """A total and a count that are summed over batches and processes."""

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, per_image: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.per_image = per_image
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def _add(self, total: Tensor, count: Tensor) -> None:
        self.total += total
        self.count += count

    def compute(self) -> Tensor:
        return _compute(self.total, self.count).float()


@register_metric("epe", of="disparity", unit="px", heading="EPE", function=epe)
class EPE(_Mean):
    """`epe` over batches and processes.

    >>> metric = EPE()
    >>> metric.update(torch.tensor([[1.0, 4.0]]), torch.tensor([[2.0, 4.0]]))
    >>> metric.compute()
    tensor(0.5000)
    """

    def update(self, prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> None:
        self._add(*_epe_update(prediction, target, valid, self.per_image))


@register_metric("d1", of="disparity", unit="%", heading="D1", function=d1)
class D1(_Mean):
    """`d1` over batches and processes."""

    def __init__(self, pixels: float = 3.0, share: float = 0.05, per_image: bool = False, **kwargs: Any):
        super().__init__(per_image, **kwargs)
        self.pixels, self.share = pixels, share

    def update(self, prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> None:
        self._add(*_d1_update(prediction, target, valid, self.pixels, self.share, self.per_image))


@register_metric("bad", of="disparity", unit="%", function=bad, parameter="threshold")
class Bad(_Mean):
    """`bad` over batches and processes."""

    def __init__(self, threshold: float = 2.0, per_image: bool = False, **kwargs: Any):
        super().__init__(per_image, **kwargs)
        self.threshold = threshold

    def update(self, prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> None:
        self._add(*_bad_update(prediction, target, valid, self.threshold, self.per_image))


@register_metric("rms", of="disparity", unit="px", heading="RMS", function=rms)
class RMS(_Mean):
    """`rms` over batches and processes."""

    def update(self, prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> None:
        self._add(*_rms_update(prediction, target, valid, self.per_image))

    def compute(self) -> Tensor:
        return _rms_compute(self.total, self.count, self.per_image).float()
