"""Metrics by name: `create_metric("bad2")`, and what each one says of itself."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torchmetrics import Metric

from ..errors import UserError, unknown
from ..registry import Registry, discover

METRICS = Registry("metric", discover(__package__, __file__))

# What a unit means for a table: factor and decimals.
_UNITS = {"%": (100.0, 2), "px": (1.0, 3), "m": (1.0, 3), "": (1.0, 3)}


@dataclass(frozen=True)
class MetricInfo:
    """What a metric declares.

    Args:
        name: as rows, tables and flags say it, with its number: `bad2`.
        of: the outputs that it reads; none for the task's main one. A metric of a single output is updated
            with `(prediction, target, valid)`, one of several with `(outputs, batch)`, in which the masks
            `KEY_valid` say what counts.
        unit: `%` (it is a share in [0, 1]), `px`, `m` or none.
        heading: of its column.
        title: in a report, where there is more room.
        larger_is_better: which way it points; a class says it as torchmetrics does, by `higher_is_better`.
        function: the pure function behind the class, `(prediction, target, valid)`.
        parameter: the argument that a number after the name stands for, as in `bad2`.
    """

    name: str
    of: tuple[str, ...] = ()
    unit: str = ""
    heading: str = ""
    title: str = ""
    larger_is_better: bool = False
    function: Callable[..., Tensor] | None = None
    parameter: str | None = None

    @property
    def factor(self) -> float:
        """From the figure to the unit."""
        return _UNITS[self.unit][0]

    @property
    def digits(self) -> int:
        """Decimals in a table."""
        return _UNITS[self.unit][1]

    def arguments(self, outputs: Mapping[str, Any], batch: Mapping[str, Any], task: Any) -> tuple[Any, ...]:
        """Return what the metric is updated with, for outputs and ground truth of a batch."""
        if len(self.of) > 1:
            return outputs, batch
        key = self.of[0] if self.of else task.outputs[0]
        target = task.targets[key]
        return outputs[key], batch[target], batch[f"{target}_valid"]

    def targets(self, task: Any) -> tuple[str, ...]:
        """Return the ground truth it needs."""
        return tuple(task.targets[key] for key in self.of or task.outputs[:1] if key in task.targets)

    def write(self, value: float) -> str:
        """Return `value` as a table has it."""
        return f"{value * self.factor:.{self.digits}f}"


_DECLARED: dict[str, MetricInfo] = {}


def register_metric(
    name: str,
    of: str | tuple[str, ...] = (),
    unit: str = "",
    heading: str = "",
    function: Callable[..., Tensor] | None = None,
    parameter: str | None = None,
) -> Callable[[type[Metric]], type[Metric]]:
    """Decorate a torchmetrics class to register it under `name`, with what `MetricInfo` says.

    Its `compute` returns a scalar, or a mapping of several registered names to scalars.
    """

    def add(metric: type[Metric]) -> type[Metric]:
        _DECLARED[name] = MetricInfo(
            name,
            (of,) if isinstance(of, str) else of,
            unit,
            heading or name,
            heading or name,
            bool(metric.higher_is_better),
            function,
            parameter,
        )
        METRICS.register(name)(metric)
        return metric

    return add


def metric_info(name: str) -> MetricInfo:
    """Return what the metric `name` declares; "bad-2.0", "bad_2" and "bad 2" are all "bad2".

    Raises:
        UserError: there is no such metric.
    """
    return _find(name)[0]


def metric_name(name: str) -> str:
    """Return how a table calls the metric `name`; UserError when there is none."""
    return metric_info(name).name


def create_metric(
    name: str, per_image: bool = False, published: bool = False, max_disparity: float = 192.0, **options: Any
) -> Metric:
    """Return the torchmetrics class for `name`: one that is registered, as epe, d1, rms, miou or badK for any
    K in px, or `package.module:Name`.

    Args:
        name: of the metric.
        per_image: average within each image first, where the metric knows the difference.
        published: average as DSNet's published code does, over pixels below `max_disparity`.
        **options: of the class, for example `dist_sync_on_step`.

    Raises:
        UserError: there is no such metric.
    """
    info, kind, chosen = _find(name)
    if published:
        if info.function is None:
            raise UserError(f"metric '{info.name}' has no average as DSNet was published with")
        from .published import DSNetMean

        return DSNetMean(functools.partial(info.function, **chosen), max_disparity, **options)
    metric = METRICS[kind]
    if "per_image" in inspect.signature(metric).parameters:
        options["per_image"] = per_image
    return metric(**chosen, **options)


def _find(name: str) -> tuple[MetricInfo, str, dict[str, float]]:
    """Return a metric's declaration, its registered name, and the argument that its name holds."""
    if ":" in name:
        return _declared_by(name, METRICS[name]), name, {}
    cleaned = name.strip().lower()
    if cleaned in METRICS and _DECLARED[cleaned].parameter is None:
        return _DECLARED[cleaned], cleaned, {}
    for kind, info in _DECLARED.items():
        number = re.fullmatch(rf"{kind}[-_ ]?(\d+(?:\.\d+)?)(?:px)?", cleaned)
        if info.parameter and number:
            value = float(number[1])
            named = replace(info, name=f"{kind}{value:g}", heading=f"{info.heading}{value:g}")
            return replace(named, title=f"{info.heading}-{value:g}"), kind, {info.parameter: value}
    numbers = [f"{kind}{n}" for kind, info in _DECLARED.items() if info.parameter for n in (1, 2, 3)]
    raise unknown("metric", name, [*(k for k, i in _DECLARED.items() if not i.parameter), *numbers])


def _declared_by(name: str, metric: Any) -> MetricInfo:
    """Return what a class that nobody registered says of itself: `of`, `unit`, `heading`, if it does."""
    of = getattr(metric, "of", ())
    heading = getattr(metric, "heading", name.partition(":")[2])
    return MetricInfo(
        name,
        (of,) if isinstance(of, str) else of,
        getattr(metric, "unit", ""),
        heading,
        heading,
        bool(getattr(metric, "higher_is_better", False)),
    )
