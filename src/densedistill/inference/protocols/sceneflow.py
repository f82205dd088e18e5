"""The protocols of the scene-flow benchmarks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ...metrics import as_kitti_flow_png, as_kitti_png
from .protocol import Outputs, Protocol


def _as_kitti_reads(outputs: Outputs, truth: Mapping[str, Any]) -> Outputs:
    """The kit reads 16-bit PNGs; a submission gives every pixel, so that none has to be filled."""
    read = dict(outputs)
    for key in ("disparity", "disparity_next"):
        if key in outputs:
            read[key] = as_kitti_png(outputs[key].nan_to_num().clamp(min=1 / 256))
    if "flow" in outputs:
        read["flow"] = as_kitti_flow_png(outputs["flow"])
    return read


_PROTOCOLS = (
    Protocol(
        "kitti2015_sceneflow",
        "KITTI 2015 scene flow: outliers beyond 3 px and 5 %, predictions as 16-bit PNG",
        metrics=("sf", "d1", "d2", "fl"),
        masks=("all", "noc", "bg", "fg"),
        alignments=(_as_kitti_reads,),
    ),
    Protocol(
        "flyingthings3d",
        "FlyingThings3D as DWARF was measured: mean end-point errors of the images, no limit",
        metrics=("epe", "epe_next", "epe_flow"),
        masks=("all",),
        average="images",
    ),
    Protocol("sintel", "MPI-Sintel flow", metrics=("epe_flow",), masks=("all", "noc")),
)

PROTOCOLS = tuple(dataclasses.replace(protocol, task="sceneflow") for protocol in _PROTOCOLS)
