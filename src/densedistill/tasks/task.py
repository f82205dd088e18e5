"""What the rest of the house must know about a task."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import unknown


@dataclass(frozen=True)
class Task:
    """What is predicted.

    Args:
        name: as recipes and the registry say it.
        inputs: batch keys of the images, in the order of a network's `forward`.
        outputs: keys of a network's outputs, the main one first.
        targets: output key to the batch key of its ground truth; `KEY_valid` is its mask.
        pixels: outputs measured in pixels of the image, which scale with its size.
        restore: output key to the interpolation that resizes it.
        metrics: names of what it is measured by, the one that picks a checkpoint first; smaller is better.
        colours: output key to the function that makes an RGB picture (H, W, 3) of its map (H, W).
        error_colours: output key to the one that makes a picture of prediction, ground truth and mask.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    targets: Mapping[str, str]
    pixels: frozenset[str] = frozenset()
    restore: Mapping[str, str] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    colours: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    error_colours: Mapping[str, Callable[..., Any]] = field(default_factory=dict)


_TASKS = ("stereo", "depth")


def list_tasks() -> list[str]:
    """Return the names of the tasks."""
    return list(_TASKS)


def get_task(name: str) -> Task:
    """Return the task called `name`; UserError when there is none."""
    if name not in _TASKS:
        raise unknown("task", name, _TASKS)
    return importlib.import_module(f"densedistill.tasks.{name}").TASK
