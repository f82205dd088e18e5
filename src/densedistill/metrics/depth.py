"""How far a depth map is from the ground truth: the measures of Eigen et al. (NIPS 2014) and KITTI.

`prediction` and `target` are (…, H, W) in metres, of one shape; `valid` is a bool mask of that shape, None
for all; the target is above 0 where it counts. As the published evaluations do, a measure is taken in each
image and averaged over the images that have a valid pixel; with `per_image=False` pixels are pooled over the
whole batch (and over batches and processes, in the classes). A prediction below 1 mm counts as 1 mm; one that
is not finite makes a mean not finite and is never within a threshold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from .disparity import check
from .registry import register_metric

LEAST = 1e-3  # metres


class Measure(NamedTuple):
    """A measure: of each pixel the values whose means it needs, and what it makes of the means."""

    values: Callable[[Tensor, Tensor], tuple[Tensor, ...]]
    finish: Callable[..., Tensor]


def _mean(mean: Tensor) -> Tensor:
    return mean


def _root(mean: Tensor) -> Tensor:
    return mean.sqrt()


def _within(power: int) -> Measure:
    def values(p: Tensor, g: Tensor) -> tuple[Tensor, ...]:
        return ((torch.maximum(p / g, g / p) < 1.25**power).double(),)

    return Measure(values, _mean)


def _scale_free(squares: Tensor, mean: Tensor) -> Tensor:
    return 100 * (squares - mean.square()).clamp(min=0).sqrt()


MEASURES = {
    "abs_rel": Measure(lambda p, g: ((p - g).abs() / g,), _mean),
    "sq_rel": Measure(lambda p, g: ((p - g).square() / g,), _mean),
    "abs_diff": Measure(lambda p, g: ((p - g).abs(),), _mean),
    "rmse": Measure(lambda p, g: ((p - g).square(),), _root),
    "rmse_log": Measure(lambda p, g: ((p.log() - g.log()).square(),), _root),
    "log10": Measure(lambda p, g: ((p.log10() - g.log10()).abs(),), _mean),
    "silog": Measure(lambda p, g: ((p.log() - g.log()).square(), p.log() - g.log()), _scale_free),
    "a1": _within(1),
    "a2": _within(2),
    "a3": _within(3),
}


def depth_measure(
    name: str,
    prediction: Tensor,
    target: Tensor,
    valid: Tensor | None = None,
    *,
    per_image: bool = True,
) -> Tensor:
    """Return the measure `name` of `MEASURES`, a scalar; NaN when nothing is valid.

    >>> depth_measure("abs_rel", torch.tensor([[1.0, 4.0]]), torch.tensor([[2.0, 4.0]]))
    tensor(0.2500)
    """
    return _compute(*_update(MEASURES[name], prediction, target, valid, per_image), MEASURES[name], per_image)


def abs_rel(
    prediction: Tensor, target: Tensor, valid: Tensor | None = None, *, per_image: bool = True
) -> Tensor:
    """Return the mean of `|prediction - target| / target`."""
    return depth_measure("abs_rel", prediction, target, valid, per_image=per_image)


def sq_rel(
    prediction: Tensor, target: Tensor, valid: Tensor | None = None, *, per_image: bool = True
) -> Tensor:
    """Return the mean of `(prediction - target)² / target`, metres."""
    return depth_measure("sq_rel", prediction, target, valid, per_image=per_image)


def abs_diff(
    prediction: Tensor, target: Tensor, valid: Tensor | None = None, *, per_image: bool = True
) -> Tensor:
    """Return the mean of `|prediction - target|`, metres."""
    return depth_measure("abs_diff", prediction, target, valid, per_image=per_image)


def rmse(
    prediction: Tensor, target: Tensor, valid: Tensor | None = None, *, per_image: bool = True
) -> Tensor:
    """Return the root of the mean squared error, metres."""
    return depth_measure("rmse", prediction, target, valid, per_image=per_image)


def rmse_log(
    prediction: Tensor, target: Tensor, valid: Tensor | None = None, *, per_image: bool = True
) -> Tensor:
    """Return the root of the mean of `(ln prediction - ln target)²`."""
    return depth_measure("rmse_log", prediction, target, valid, per_image=per_image)


def log10(
    prediction: Tensor, target: Tensor, valid: Tensor | None = None, *, per_image: bool = True
) -> Tensor:
    """Return the mean of `|log10 prediction - log10 target|`."""
    return depth_measure("log10", prediction, target, valid, per_image=per_image)


def silog(
    prediction: Tensor, target: Tensor, valid: Tensor | None = None, *, per_image: bool = True
) -> Tensor:
    """Return 100 times the standard deviation of `ln prediction - ln target` (KITTI's SILog)."""
    return depth_measure("silog", prediction, target, valid, per_image=per_image)


def within(
    prediction: Tensor,
    target: Tensor,
    valid: Tensor | None = None,
    power: int = 1,
    *,
    per_image: bool = True,
) -> Tensor:
    """Return the share of pixels whose ratio to the target, either way, is below 1.25 to `power` (1, 2, 3).

    >>> within(torch.tensor([[1.0, 4.0]]), torch.tensor([[2.0, 4.0]]))
    tensor(0.5000)
    """
    return depth_measure(f"a{power}", prediction, target, valid, per_image=per_image)


def fit_scale_and_shift(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return scale and shift, float64, that bring `prediction` nearest to `target`, both of one shape, by
    least squares; 0 and the target's mean for a constant prediction, NaN for one that is not finite.

    >>> fit_scale_and_shift(torch.tensor([1.0, 2.0]), torch.tensor([5.0, 7.0]))
    (tensor(2., dtype=torch.float64), tensor(3., dtype=torch.float64))
    """
    prediction, target = prediction.double(), target.double()
    centred = prediction - prediction.mean()
    variance = centred.square().sum()
    scale = (centred * (target - target.mean())).sum() / torch.where(variance == 0, 1.0, variance)
    return scale, target.mean() - scale * prediction.mean()


def _update(
    measure: Measure, prediction: Tensor, target: Tensor, valid: Tensor | None, per_image: bool
) -> tuple[Tensor, Tensor]:
    """Return sums (of a measure's values, or of the images' measures) and their count, in float64."""
    prediction, target, valid = check(prediction, target, valid)
    if target.ndim == 2:
        prediction, target, valid = prediction[None], target[None], valid[None]
    p = torch.where(valid, prediction, 1.0).double().clamp(min=LEAST).flatten(1)
    g = torch.where(valid, target, 1.0).double().flatten(1)
    counts = valid.flatten(1).sum(1).double()
    sums = torch.stack([torch.where(valid.flatten(1), value, 0.0).sum(1) for value in measure.values(p, g)])
    if not per_image:
        return sums.sum(1), counts.sum()
    kept = counts > 0
    return measure.finish(*(sums[:, kept] / counts[kept])).sum()[None], kept.sum().double()


def _compute(sums: Tensor, count: Tensor, measure: Measure, per_image: bool) -> Tensor:
    means = sums / count
    return (means[0] if per_image else measure.finish(*means)).float()


class DepthMetric(Metric):
    """A measure of depth over batches and processes; see the functions of this module.

    Args:
        per_image: average over images, as published evaluations do, instead of pooling pixels.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    kind: ClassVar[str]
    total: Tensor
    count: Tensor

    def __init__(self, per_image: bool = True, **kwargs: Any):
        super().__init__(**kwargs)
        self.per_image, self.measure = per_image, MEASURES[self.kind]
        values = 1 if per_image else len(self.measure.values(torch.ones(1), torch.ones(1)))
        self.add_state("total", torch.zeros(values, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> None:
        total, count = _update(self.measure, prediction, target, valid, self.per_image)
        self.total += total
        self.count += count

    def compute(self) -> Tensor:
        return _compute(self.total, self.count, self.measure, self.per_image)


@register_metric("abs_rel", of="depth", heading="AbsRel", function=abs_rel)
class AbsRel(DepthMetric):
    """`abs_rel` over batches and processes."""

    kind = "abs_rel"


@register_metric("sq_rel", of="depth", heading="SqRel", function=sq_rel)
class SqRel(DepthMetric):
    """`sq_rel` over batches and processes."""

    kind = "sq_rel"


@register_metric("abs_diff", of="depth", unit="m", heading="AbsDiff", function=abs_diff)
class AbsDiff(DepthMetric):
    """`abs_diff` over batches and processes."""

    kind = "abs_diff"


@register_metric("rmse", of="depth", unit="m", heading="RMSE", function=rmse)
class RMSE(DepthMetric):
    """`rmse` over batches and processes."""

    kind = "rmse"


@register_metric("rmse_log", of="depth", heading="RMSElog", function=rmse_log)
class RMSELog(DepthMetric):
    """`rmse_log` over batches and processes."""

    kind = "rmse_log"


@register_metric("log10", of="depth", heading="log10", function=log10)
class Log10(DepthMetric):
    """`log10` over batches and processes."""

    kind = "log10"


@register_metric("silog", of="depth", heading="SILog", function=silog)
class SILog(DepthMetric):
    """`silog` over batches and processes."""

    kind = "silog"


@register_metric("a1", of="depth", heading="a1", function=within)
class A1(DepthMetric):
    """Share of pixels within a factor of 1.25, over batches and processes."""

    higher_is_better = True
    kind = "a1"


@register_metric("a2", of="depth", heading="a2")
class A2(DepthMetric):
    """Share of pixels within a factor of 1.25², over batches and processes."""

    higher_is_better = True
    kind = "a2"


@register_metric("a3", of="depth", heading="a3")
class A3(DepthMetric):
    """Share of pixels within a factor of 1.25³, over batches and processes."""

    higher_is_better = True
    kind = "a3"
