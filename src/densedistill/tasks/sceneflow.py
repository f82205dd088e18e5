"""Scene flow: disparity now and at the next time, seen from here, and optical flow between the two."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..data import formats
from .colours import colour_map, error_map, flow_colours, flow_error_map
from .files import Predicted, Writer, array_writer, colour_writer
from .task import Task


def _disparity(key: str) -> Callable[[Path, Predicted], None]:
    def write(path: Path, predicted: Predicted) -> None:
        disparity = predicted.outputs[key]
        formats.write_disparity_png(path, disparity, np.isfinite(disparity) & (disparity >= 0))

    return write


def _flow(path: Path, predicted: Predicted) -> None:
    formats.write_flow_png(path, predicted.outputs["flow"].transpose(1, 2, 0))


def _flo(path: Path, predicted: Predicted) -> None:
    formats.write_flo(path, predicted.outputs["flow"].transpose(1, 2, 0))


TASK = Task(
    name="sceneflow",
    inputs=("left", "right", "left_next", "right_next"),
    outputs=("disparity", "disparity_next", "flow"),
    targets={"disparity": "disparity", "disparity_next": "disparity_next", "flow": "flow"},
    pixels=frozenset({"disparity", "disparity_next", "flow"}),
    restore={"disparity": "bilinear", "disparity_next": "bilinear", "flow": "bilinear"},
    metrics=("sf", "d1", "d2", "fl", "epe", "epe_next", "epe_flow"),
    takes="sequence",
    writers={
        "disp_0": Writer("disp_0/{}.png", "disparity now, KITTI's 16-bit PNG", _disparity("disparity")),
        "disp_1": Writer("disp_1/{}.png", "disparity at the next time", _disparity("disparity_next")),
        "flow": Writer("flow/{}.png", "flow, KITTI's 16-bit PNG", _flow),
        "flo": Writer("{}.flo", "flow, Middlebury's float32, px", _flo),
        "npy": array_writer("flow", "{}.flow.npy", "flow, float32 NumPy array (2, H, W), px"),
        "color": colour_writer("flow", flow_colours, "{}.flow.png", "flow by the colour wheel"),
        "color_disparity": colour_writer(
            "disparity", colour_map, "{}.disparity.png", "disparity, red is near"
        ),
    },
    writes=("disp_0", "disp_1", "flow", "color"),
    colours={"disparity": colour_map, "disparity_next": colour_map, "flow": flow_colours},
    error_colours={"disparity": error_map, "disparity_next": error_map, "flow": flow_error_map},
)
