"""Metrics by name: `create_metric("bad2")`."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torchmetrics import Metric

from ..errors import unknown
from ..registry import Registry
from .disparity import D1, EPE, RMS, Bad, bad, d1, epe, rms
from .published import DSNetMean

METRICS = Registry("metric")
METRICS.register("epe")(EPE)
METRICS.register("d1")(D1)
METRICS.register("rms")(RMS)
METRICS.register("bad")(Bad)

_FUNCTIONS: dict[str, Callable[..., Tensor]] = {"epe": epe, "d1": d1, "rms": rms, "bad": bad}
_BAD = re.compile(r"bad[-_ ]?(\d+(?:\.\d+)?)(?:px)?")


def metric_name(name: str) -> str:
    """Return how a table calls the metric `name`: "bad-2.0", "bad_2" and "bad 2" are all "bad2".

    Raises:
        UserError: there is no such metric.
    """
    kind, threshold = _parse(name)
    return kind if threshold is None else f"bad{threshold:g}"


def create_metric(
    name: str, per_image: bool = False, published: bool = False, max_disparity: float = 192.0, **options: Any
) -> Metric:
    """Return the torchmetrics class for `name`: epe, d1, rms, badK for any K in px, or `package.module:Name`.

    Args:
        name: of the metric.
        per_image: average within each image first.
        published: average as DSNet's published code does, over pixels below `max_disparity`.
        **options: of the class, for example `dist_sync_on_step`.

    Raises:
        UserError: there is no such metric.
    """
    if ":" in name:
        return METRICS[name](per_image=per_image, **options)
    kind, threshold = _parse(name)
    chosen = {} if threshold is None else {"threshold": threshold}
    if published:
        return DSNetMean(functools.partial(_FUNCTIONS[kind], **chosen), max_disparity, **options)
    return METRICS[kind](per_image=per_image, **chosen, **options)


def _parse(name: str) -> tuple[str, float | None]:
    cleaned = name.strip().lower()
    if match := _BAD.fullmatch(cleaned):
        return "bad", float(match[1])
    if cleaned not in ("epe", "d1", "rms"):
        raise unknown("metric", name, ["epe", "d1", "rms", "bad1", "bad2", "bad3"])
    return cleaned, None
