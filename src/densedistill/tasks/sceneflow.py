"""Scene flow: disparity now and at the next time, seen from here, and optical flow between the two."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data import formats
from ..data.calibration import Calibration
from ..data.pointcloud import write_ply
from .colours import colour_map, error_map, flow_colours, flow_error_map
from .files import Predicted, Writer, array_writer, colour_writer
from .task import Task


def _disparity(key: str, path: Path, predicted: Predicted) -> None:
    disparity = predicted.outputs[key]
    formats.write_disparity_png(path, disparity, np.isfinite(disparity) & (disparity >= 0))


def _flow(path: Path, predicted: Predicted) -> None:
    formats.write_flow_png(path, predicted.outputs["flow"].transpose(1, 2, 0))


def _flo(path: Path, predicted: Predicted) -> None:
    formats.write_flo(path, predicted.outputs["flow"].transpose(1, 2, 0))


def motion_cloud(
    disparity: NDArray[np.floating],
    disparity_next: NDArray[np.floating],
    flow: NDArray[np.floating],
    calibration: Calibration,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the points (N, 3) at t0 and their motion (N, 3) to t1, metres in the camera's frame, of the
    pixels whose disparities are 1 px or more from infinity's, which is -`doffs`, and that lie in front of the
    camera.

    Args:
        disparity, disparity_next: (H, W) px, both on the grid of the left image at t0.
        flow: (2, H, W) px.
        calibration: of the rig, which does not change between the times.
    """
    depths = calibration.depth(np.stack((disparity, disparity_next)))
    apart = np.minimum(disparity, disparity_next) + calibration.doffs
    kept = (apart >= 1) & (depths > 0).all(0) & np.isfinite(flow).all(0)
    rows, columns = np.nonzero(kept)
    moved = flow[:, kept]
    now = _backproject(columns, rows, depths[0, kept], calibration)
    return now, _backproject(columns + moved[0], rows + moved[1], depths[1, kept], calibration) - now


def _backproject(x: Any, y: Any, z: Any, calibration: Calibration) -> NDArray[np.float32]:
    rays = (x - calibration.cx) / calibration.fx, (y - calibration.cy) / calibration.fy
    return np.stack((rays[0] * z, rays[1] * z, z), 1).astype(np.float32)


def _motion_ply(path: Path, predicted: Predicted) -> None:
    found = predicted.outputs
    points, motion = motion_cloud(
        found["disparity"], found["disparity_next"], found["flow"], predicted.geometry
    )
    # Sideways by the wheel's hue, towards and away by its vertical axis.
    colours = flow_colours(np.stack((motion[:, 0], motion[:, 2]))[:, None], high=predicted.colour_max)
    write_ply(path, points, colours[0])


def _change(path: Path, predicted: Predicted) -> None:
    change = predicted.outputs["disparity_next"] - predicted.outputs["disparity"]
    formats.write_image(path, change_colours(change, predicted.colour_max))


def change_colours(change: NDArray[np.floating], high: float | None = None) -> NDArray[np.uint8]:
    """Return the change of disparity (H, W) px as a picture (H, W, 3): red comes nearer, blue goes away,
    green stays.

    Args:
        change: disparity at t1 less that at t0.
        high: change drawn fully red; None for the 99th percentile of its size.
    """
    size = np.abs(change[np.isfinite(change)])
    limit = high or max(float(np.percentile(size, 99)) if size.size else 1.0, 1e-3)
    return colour_map(change, low=-limit, high=limit)


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
        "disp_0": Writer(
            "disp_0/{}.png", "disparity now, KITTI's 16-bit PNG", partial(_disparity, "disparity")
        ),
        "disp_1": Writer(
            "disp_1/{}.png", "disparity at the next time", partial(_disparity, "disparity_next")
        ),
        "flow": Writer("flow/{}.png", "flow, KITTI's 16-bit PNG", _flow),
        "flo": Writer("{}.flo", "flow, Middlebury's float32, px", _flo),
        "npy": array_writer("flow", "{}.flow.npy", "flow, float32 NumPy array (2, H, W), px"),
        "color": colour_writer("flow", flow_colours, "{}.flow.png", "flow by the colour wheel"),
        "color_change": Writer(
            "{}.change.png", "change of disparity, red comes nearer", _change, ranged=True
        ),
        "motion": Writer(
            "{}.motion.ply",
            "point cloud coloured by its 3D motion, metres",
            _motion_ply,
            metric=True,
            ranged=True,
        ),
        "color_disparity": colour_writer(
            "disparity", colour_map, "{}.disparity.png", "disparity, red is near"
        ),
    },
    writes=("disp_0", "disp_1", "flow", "color"),
    colours={"disparity": colour_map, "disparity_next": colour_map, "flow": flow_colours},
    error_colours={"disparity": error_map, "disparity_next": error_map, "flow": flow_error_map},
)
