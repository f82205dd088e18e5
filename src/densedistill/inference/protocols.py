"""What is measured, over which pixels, and how it is averaged: the protocols of the benchmarks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from ..errors import unknown
from ..networks.input_spec import InputSpec

Average = Literal["pixels", "images", "published"]

# Each mask says which pixels with ground truth count; None when the sample cannot tell.
MASKS: dict[str, Callable[[Mapping[str, Any]], Tensor | None]] = {
    "all": lambda sample: sample["disparity_valid"],
    "noc": lambda sample: _both(sample, sample.get("disparity_nonoccluded")),
    "bg": lambda sample: _both(sample, None if "objects" not in sample else sample["objects"][None] == 0),
    "fg": lambda sample: _both(sample, None if "objects" not in sample else sample["objects"][None] > 0),
}
MASK_WORDS = {
    "all": "all: every pixel with ground truth",
    "noc": "noc: seen in both views",
    "bg": "bg: background",
    "fg": "fg: on vehicles",
}


def _both(sample: Mapping[str, Any], mask: Tensor | None) -> Tensor | None:
    return None if mask is None else sample["disparity_valid"] & mask


@dataclass(frozen=True)
class Protocol:
    """A way to evaluate.

    Args:
        name: by which `evaluate` finds it.
        says: one phrase for the table's caption.
        metrics: what is measured by default.
        masks: over which pixels, of `MASKS`.
        average: over pixels of the whole set, over images, or as DSNet's published code does.
        max_disparity: ground truth at or beyond it does not count; None for no limit.
        crops: source size (H, W) to the (h, w) that is cut from its bottom right corner.
        prepare_spec: what it changes in a network's input specification, given the image's size.
        parts: the data sets it stands for, with the metrics of each (`generalisation`).
    """

    name: str
    says: str
    metrics: tuple[str, ...] = ("epe", "d1", "bad1", "bad2", "bad3")
    masks: tuple[str, ...] = ("all", "noc")
    average: Average = "pixels"
    max_disparity: float | None = None
    crops: Mapping[tuple[int, int], tuple[int, int]] = dataclasses.field(default_factory=dict)
    prepare_spec: Callable[[InputSpec, tuple[int, int]], InputSpec] | None = None
    parts: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    def crop(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Return `sample` with its images and maps cut as the protocol says."""
        wanted = self.crops.get(tuple(sample["left"].shape[-2:]))
        if wanted is None:
            return dict(sample)
        height, width = wanted
        size = sample["left"].shape[-2:]
        return {
            key: value[..., -height:, -width:]
            if isinstance(value, Tensor) and value.shape[-2:] == size
            else value
            for key, value in sample.items()
        }


def _kitti_padding(spec: InputSpec, size: tuple[int, int]) -> InputSpec:
    """KITTI images are padded with zeros at the top and right to 384 x 1248, after normalising."""
    if not (352 < size[0] <= 384 and 1216 < size[1] <= 1248):
        return spec
    return dataclasses.replace(
        spec, min_size=(384, 1248), pad="top-right", pad_mode="zeros-after-normalising"
    )


_MIDDLEBURY = ("bad0.5", "bad1", "bad2", "bad4", "epe", "rms")

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol("plain", "whole images"),
        Protocol(
            "sceneflow",
            "bottom right 512x960 of each image",
            metrics=("epe", "d1", "bad1", "bad2", "bad3"),
            masks=("all",),
            max_disparity=192,
            crops={(540, 960): (512, 960)},
        ),
        Protocol(
            "dsnet",
            "as DSNet was published; images with nine tenths of their ground truth beyond the limit count 0",
            metrics=("epe", "d1", "bad1", "bad2", "bad3"),
            masks=("all",),
            average="published",
            max_disparity=192,
            crops={(540, 960): (512, 960), (400, 881): (400, 878)},
            prepare_spec=_kitti_padding,
        ),
        Protocol("kitti2015", "KITTI 2015 stereo", metrics=("d1", "epe"), masks=("all", "noc", "bg", "fg")),
        Protocol(
            "kitti2012",
            "KITTI 2012 stereo",
            metrics=("bad2", "bad3", "bad4", "bad5", "epe"),
            average="images",
        ),
        Protocol(
            "middlebury",
            "Middlebury v3, thresholds in px of the given size",
            metrics=_MIDDLEBURY,
            average="images",
        ),
        Protocol("eth3d", "ETH3D two-view", metrics=_MIDDLEBURY, average="images"),
        Protocol(
            "generalisation",
            "trained on SceneFlow only: D1 on KITTI, bad2 on Middlebury at half size, bad1 on ETH3D",
            metrics=(),
            max_disparity=192,
            parts={
                "kitti2012": ("d1",),
                "kitti2015": ("d1",),
                "middlebury": ("bad2",),
                "eth3d": ("bad1",),
            },
        ),
    )
}


def get_protocol(name: str | Protocol | None) -> Protocol:
    """Return the protocol called `name`, `plain` for None; UserError when there is none."""
    if isinstance(name, Protocol):
        return name
    if name is not None and name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS)
    return PROTOCOLS[name or "plain"]
