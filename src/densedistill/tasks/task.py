"""What the rest of the house must know about a task."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import unknown
from .files import Writer


@dataclass(frozen=True)
class Task:
    """What is predicted.

    How a key of a sample is cropped, scaled and mirrored stands in `data.sample.KINDS`, once for all tasks
    that use the key.

    Args:
        name: as recipes and the registry say it.
        inputs: batch keys of the images, in the order of a network's `forward`.
        outputs: keys of a network's outputs, the main one first.
        raw: what a network gives before it has chosen how many things there are, which an exported file holds
            in place of `outputs`; such a network has `raw` and `decoding`.
        targets: output key to the batch key of its ground truth. `KEY_valid` is its mask; see `ignore`.
        ignore: ground truth without a mask to the value that says that nothing is known there.
        aside: further batch keys, which metrics alone read.
        pixels: outputs measured in pixels of the image, which scale with its size.
        restore: output key to how it comes back to the size of the source: a map by `bilinear` or `nearest`
            interpolation, or `boxes`. Other outputs are left as they are.
        metrics: names of what it is measured by, the one that picks a checkpoint first; each metric says
            itself in what unit it is and whether larger is better.
        average: how figures are averaged when no protocol says it: over all pixels or over images.
        units: a caption's words on units, where the metrics' own do not read well.
        samples: label to name of the data sets that ship, which `--data samples` means.
        sample_protocol: by which the samples that ship are measured on a page when nobody says it: networks
            have never seen these cameras.
        takes: what files `predict` makes an input of: a `pair`, a single `image`, or a `sequence` of pairs.
        writers: kinds of prediction files by name.
        writes: the kinds that are written when nobody says which.
        colours: output key to the function that makes an RGB picture (H, W, 3) of an output or its ground
            truth, `(values, valid=None, low=0.0, high=None)`; with `high` two pictures share one range.
        error_colours: output key to the one that makes a picture of prediction, ground truth and mask.
        draw: for what is no map: `(image, values)` to the image with outputs, or ground truth by their
            keys, drawn upon it.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    targets: Mapping[str, str]
    raw: tuple[str, ...] = ()
    ignore: Mapping[str, int] = field(default_factory=dict)
    aside: tuple[str, ...] = ()
    pixels: frozenset[str] = frozenset()
    restore: Mapping[str, str] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    average: Literal["pixels", "images"] = "pixels"
    units: str = ""
    samples: Mapping[str, str] = field(default_factory=dict)
    sample_protocol: str = "plain"
    takes: Literal["pair", "image", "sequence"] = "image"
    writers: Mapping[str, Writer] = field(default_factory=dict)
    writes: tuple[str, ...] = ("png", "color")
    colours: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    error_colours: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    draw: Callable[..., Any] | None = None

    @property
    def maps(self) -> tuple[str, ...]:
        """Outputs with a value, or several, at each pixel."""
        return tuple(key for key in self.outputs if self.restore.get(key) in ("bilinear", "nearest"))

    def measured(self, sample: Mapping[str, Any], target: str) -> Any:
        """Return where the ground truth `target` of a sample or batch is known: a mask of its shape."""
        if f"{target}_valid" in sample:
            return sample[f"{target}_valid"]
        if target in self.ignore:
            return sample[target] != self.ignore[target]
        return sample[target] == sample[target]

    def truth(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Return the ground truth that a sample or batch has, by the keys of the outputs."""
        return {key: sample[target] for key, target in self.targets.items() if target in sample}


_TASKS = ("stereo", "depth", "sceneflow", "segmentation", "detection")


def list_tasks() -> list[str]:
    """Return the names of the tasks."""
    return list(_TASKS)


def get_task(name: str) -> Task:
    """Return the task called `name`; UserError when there is none."""
    if name not in _TASKS:
        raise unknown("task", name, _TASKS)
    return importlib.import_module(f"densedistill.tasks.{name}").TASK


def task_of(thing: Any) -> Task:
    """Return the task of a network, a predictor or a data set; stereo for one that does not say."""
    task = getattr(thing, "task", None) or _TASKS[0]
    return task if isinstance(task, Task) else get_task(task)
