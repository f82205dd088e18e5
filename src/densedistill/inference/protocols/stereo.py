"""The protocols of the stereo benchmarks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F

from ...metrics import as_kitti_png, fill_missing
from ...networks.input_spec import InputSpec
from .protocol import Outputs, Protocol


def _kitti_padding(spec: InputSpec, size: tuple[int, int]) -> InputSpec:
    """KITTI images are padded with zeros at the top and right to 384 x 1248, after normalising."""
    if not (352 < size[0] <= 384 and 1216 < size[1] <= 1248):
        return spec
    return dataclasses.replace(
        spec, min_size=(384, 1248), pad="top-right", pad_mode="zeros-after-normalising"
    )


def _as_kitti_reads(outputs: Outputs, truth: Mapping[str, Any]) -> Outputs:
    """The kits read 16-bit PNGs, and fill what is missing in them."""
    return {**outputs, "disparity": fill_missing(as_kitti_png(outputs["disparity"]))}


def _as_middlebury_reads(outputs: Outputs, truth: Mapping[str, Any]) -> Outputs:
    """Middlebury's kit brings maps of half or a quarter of the ground truth's size to it by repeating values
    and scaling them, then cuts them to the scene's range of disparities where calib.txt tells it."""
    disparity = outputs["disparity"]
    height, width = truth["disparity"].shape[-2:]
    factor = round(width / disparity.shape[-1])
    if factor > 1:
        disparity = disparity.repeat_interleave(factor, -1).repeat_interleave(factor, -2) * factor
        # Odd sizes lose a row or a column by halving: the last one is repeated.
        missing = (max(0, width - disparity.shape[-1]), max(0, height - disparity.shape[-2]))
        disparity = F.pad(disparity, (0, missing[0], 0, missing[1]), mode="replicate")
        disparity = disparity[..., :height, :width]
    reach = (truth.get("meta") or [{}])[0].get("ndisp")
    if reach is not None:
        disparity = disparity.clamp(0, reach).where(disparity.isfinite(), disparity)
    return {**outputs, "disparity": disparity}


_MIDDLEBURY = ("bad0.5", "bad1", "bad2", "bad4", "avgerr", "rms", "a50", "a90", "a95", "a99")
# The scenes that count half in the online table's mean.
_HALF = ("PianoL", "Playroom", "Playtable", "Shelves", "Vintage")

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
    Protocol(
        "kitti2015",
        "KITTI 2015 stereo, predictions as 16-bit PNG with missing values filled",
        metrics=("d1", "epe"),
        masks=("all", "bg", "fg", "noc", "noc-bg", "noc-fg"),
        alignments=(_as_kitti_reads,),
    ),
    Protocol(
        "kitti2012",
        "KITTI 2012 stereo, predictions as 16-bit PNG with missing values filled",
        metrics=("bad2", "bad3", "bad4", "bad5", "epe"),
        average="images",
        alignments=(_as_kitti_reads,),
    ),
    Protocol(
        "middlebury",
        "Middlebury v3, thresholds in px of the ground truth's size, the five hard scenes at half weight",
        metrics=_MIDDLEBURY,
        masks=("noc", "all"),
        average="images",
        alignments=(_as_middlebury_reads,),
        weights=dict.fromkeys(_HALF, 0.5),
    ),
    Protocol("eth3d", "ETH3D two-view", metrics=_MIDDLEBURY, masks=("noc", "all"), average="images"),
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
