"""An exported file beside the network in torch, on real images."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..inference.predictor import Predictor
from ..tasks import Task, task_of

SIZES = ((192, 320), (251, 370), (375, 450))  # no multiples, so that padding and cropping are tried, too
LIMIT = 0.05  # px, or hundredths of an output's mean magnitude where it is not measured in pixels


@dataclass(frozen=True)
class Row:
    """How far one output was from torch's at one size; `mean` and `largest` are in `unit`."""

    size: tuple[int, int]
    output: str
    mean: float
    largest: float
    unit: str = "px"


class Difference(float):
    """The largest mean difference between a file and torch over outputs and sizes.

    In px for outputs measured in pixels; for others, in hundredths of the mean magnitude of torch's output;
    for classes, in percent of places that differ. `rows` has each output at each size.
    """

    rows: tuple[Row, ...]

    def __new__(cls, rows: Sequence[Row]) -> Difference:
        made = super().__new__(cls, max((row.mean for row in rows), default=0.0))
        made.rows = tuple(rows)
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        return (self.rows,)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {"mean": float(self), "rows": [vars(row) for row in self.rows]}

    def __str__(self) -> str:
        return "\n".join(
            f"{row.output} at {row.size[0]}x{row.size[1]}: mean {row.mean:.2g}, largest {row.largest:.2g} "
            f"{row.unit}"
            for row in self.rows
        )


def undecoded(network: nn.Module) -> nn.Module:
    """Return `network` giving what it chooses detections from; itself, where it chooses nothing."""
    if getattr(network, "decoding", None) is None:
        return network
    other = copy.copy(network)  # which shares the weights
    other.raw = True  # type: ignore[assignment]
    return other


def measure_difference(
    reference: nn.Module, other: nn.Module, inputs: Iterable[Sequence[Tensor]]
) -> Difference:
    """Return how far `other` is from `reference` in float32.

    Detectors are compared at every position, before detections are chosen, which rounding can turn.

    Args:
        reference, other: networks, or files loaded as such.
        inputs: the images (B, 3, H, W) of each call.
    """
    ours, theirs = (Predictor(undecoded(network)) for network in (reference, other))
    return compare(ours, theirs, task_of(reference), inputs)


def compare(
    reference: Callable[..., Mapping[str, Tensor]],
    other: Callable[..., Mapping[str, Tensor]],
    task: Task,
    inputs: Iterable[Sequence[Tensor]],
) -> Difference:
    """Return how far the outputs of `other` are from those of `reference` for each images in `inputs`."""
    rows = []
    for images in inputs:
        size = (images[0].shape[-2], images[0].shape[-1])
        wanted, found = reference(*images), other(*images)
        for key, value in wanted.items():
            rows.append(_compare(task, key, value.cpu(), found[key].cpu(), size))
    return Difference(rows)


def _compare(task: Task, key: str, wanted: Tensor, found: Tensor, size: tuple[int, int]) -> Row:
    if wanted.shape != found.shape:
        return Row(size, key, float("inf"), float("inf"))
    if not wanted.is_floating_point():
        differing = (wanted != found).float() * 100
        return Row(size, key, differing.mean().item(), differing.max().item(), "% of the places")
    gap = (wanted.double() - found.double()).abs()
    one, unit = 1.0, "px"
    if key not in task.pixels:
        one, unit = wanted.double().abs().mean().clamp(min=1e-12).item() / 100, "% of the mean magnitude"
    mean = gap.mean().item() / one if gap.numel() else 0.0
    # What is no number fails.
    mean = mean if mean == mean else float("inf")
    return Row(size, key, mean, gap.max().item() / one if gap.numel() else 0.0, unit)


def real_images(task: Task, size: tuple[int, int]) -> list[Tensor]:
    """Return the task's inputs (1, 3, H, W) in [0, 1] of `size`: photographs that ship with the package.

    A right view is that of a rectified pair; a next frame is the same view, moved by 3 and 2 px.
    """
    left, right = _photographs()
    views = []
    for name in task.inputs:
        view = right if "right" in name else left
        view = F.interpolate(view, size, mode="bilinear", align_corners=False, antialias=True)
        view = view.roll((2, 3), (2, 3)) if "next" in name else view
        views.append(view.clamp(0, 1))
    return views


@functools.cache
def _photographs() -> tuple[Tensor, Tensor]:
    from ..data.datasets import create_dataset

    sample = create_dataset("middlebury2003")[0]
    return tuple(sample[view].float()[None] / 255 for view in ("left", "right"))  # type: ignore[return-value]
