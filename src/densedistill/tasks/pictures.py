"""Ground truth, prediction and error of one sample as pictures that can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .files import unbatch
from .task import Task

Picture = NDArray[np.uint8]


def value_range(values: NDArray[Any], valid: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the lowest and highest measured value, or length of a vector (2, H, W), but for the outermost
    per cent: the range of colours that compare."""
    lengths = np.linalg.norm(values, axis=0) if values.ndim == 3 else values
    measured = lengths[valid]
    if measured.size == 0:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(measured, (1, 99)))
    return low, max(high, low + 1.0)


def parts(
    task: Task, sample: Mapping[str, Any]
) -> tuple[Picture, dict[str, NDArray[Any]], NDArray[np.bool_] | None]:
    """Return the first input (H, W, 3) of a sample, its ground truth by the keys of the outputs, and where
    that of the main one is known (H, W); None where it is no map."""
    from ..data.sample import as_bytes  # imports torch, which the report of a finished run does without

    image = np.ascontiguousarray(as_bytes(sample[task.inputs[0]]).permute(1, 2, 0).numpy())
    truth = unbatch({key: value[None] for key, value in task.truth(sample).items()})
    key = task.outputs[0]
    if key not in task.maps:
        return image, truth, None
    return image, truth, unbatch({key: task.measured(sample, task.targets[key])[None]})[key]


def compare(
    task: Task,
    image: Picture,
    truth: Mapping[str, NDArray[Any]],
    valid: NDArray[np.bool_] | None,
    found: Mapping[str, NDArray[Any]],
    key: str | None = None,
) -> tuple[Picture, Picture, Picture | None]:
    """Return pictures (H, W, 3) of ground truth and prediction in one range of colours, and of the error
    where the task has a picture for it.

    Args:
        image: the first input, (H, W, 3).
        truth, found: by the keys of the outputs, as `Predicted.outputs` has them.
        valid: (H, W), where the ground truth of the map is known.
        key: which output; None for the main one.
    """
    key = key or task.outputs[0]
    if task.draw is not None:
        return task.draw(image, truth), task.draw(image, found), None
    known = np.ones(image.shape[:2], bool) if valid is None else valid
    low, high = value_range(truth[key], known)
    colour, error = task.colours[key], task.error_colours.get(key)
    pictures = colour(truth[key], known, low, high), colour(found[key], None, low, high)
    return *pictures, None if error is None else error(found[key], truth[key], known)
