"""The protocols of the stereo benchmarks."""

from __future__ import annotations

import dataclasses

from ...networks.input_spec import InputSpec
from .protocol import Protocol


def _kitti_padding(spec: InputSpec, size: tuple[int, int]) -> InputSpec:
    """KITTI images are padded with zeros at the top and right to 384 x 1248, after normalising."""
    if not (352 < size[0] <= 384 and 1216 < size[1] <= 1248):
        return spec
    return dataclasses.replace(
        spec, min_size=(384, 1248), pad="top-right", pad_mode="zeros-after-normalising"
    )


_MIDDLEBURY = ("bad0.5", "bad1", "bad2", "bad4", "epe", "rms")

_PROTOCOLS = (
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

PROTOCOLS = tuple(dataclasses.replace(protocol, task="stereo") for protocol in _PROTOCOLS)
