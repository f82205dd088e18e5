"""What a matcher takes to store and to run: parameters, multiply-accumulates, latency."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from ..inference.predictor import Predictor
from ..networks.counting import count
from ..tasks import task_of
from .tables import Cost


def measure_cost(
    name: str, predict: Callable[..., Any], size: tuple[int, int], repeats: int = 7, warm_up: int = 2
) -> Cost:
    """Return the cost of `predict` on one input, for stereo a pair, of `size` (height, width).

    Args:
        name: by which the report calls it.
        predict: a `Predictor`, or anything called like one, of which parameters and MACs stay unknown.
        size: of the images, which are noise: neither networks nor OpenCV take longer for an easy one.
        repeats: timed calls, of which the median counts; the device is waited for.
        warm_up: calls before these.
    """
    generator = torch.Generator().manual_seed(0)
    images = [
        torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
        for _ in task_of(predict).inputs
    ]
    seconds = [_time(predict, images) for _ in range(warm_up + repeats)][warm_up:]
    counts = count(predict.net, size) if isinstance(predict, Predictor) else None
    return Cost(
        name,
        parameters=counts.parameters if counts else None,
        macs=counts.macs if counts else None,
        latency=statistics.median(seconds),
        size=size,
        network=getattr(predict, "name", ""),
    )


def _time(predict: Callable[..., Any], images: list[torch.Tensor]) -> float:
    start = time.perf_counter()
    next(iter(predict(*images).values())).cpu()  # the copy waits for an accelerator
    return time.perf_counter() - start
