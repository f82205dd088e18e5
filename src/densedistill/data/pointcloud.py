"""Disparity or depth, a calibration and an image to a coloured point cloud."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..files import write_bytes
from .calibration import Calibration

_VERTEX = np.dtype([("xyz", "<f4", 3), ("rgb", "u1", 3)])
_HEADER = """ply
format binary_little_endian 1.0
comment metres; x right, y down, z forward from the left camera
element vertex {count}
property float x
property float y
property float z
property uchar red
property uchar green
property uchar blue
end_header
"""


def points(
    disparity: NDArray[np.floating], calibration: Calibration, least: float = 1.0
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return where each pixel of the left image lies, (N, 3) metres, and which pixels (H, W) these N are.

    Camera frame: x right, y down, z forward. Pixels whose disparity from infinity, which is seen at
    -`doffs`, is below `least` px are left out: an error of a pixel there is an error of the whole depth.
    """
    kept = np.isfinite(disparity) & (disparity + calibration.doffs >= least)
    depth = calibration.depth(disparity)
    return points_of_depth(np.where(kept, depth, 0), calibration)


def points_of_depth(
    depth: NDArray[np.floating], calibration: Calibration
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return where each pixel lies, (N, 3) metres in the camera's frame as `points` has it, and which pixels
    (H, W) these N are: those with a depth above 0."""
    kept = np.isfinite(depth) & (depth > 0)
    rows, columns = np.nonzero(kept)
    z = depth[kept]
    x = (columns - calibration.cx) * z / calibration.fx
    y = (rows - calibration.cy) * z / calibration.fy
    return np.stack((x, y, z), 1).astype(np.float32), kept


def write_ply(path: str | os.PathLike[str], xyz: NDArray[np.floating], rgb: NDArray[np.uint8]) -> None:
    """Write points (N, 3) in metres with their colours (N, 3) as binary PLY, atomically."""
    if xyz.ndim != 2 or xyz.shape[1] != 3 or xyz.shape != rgb.shape:
        raise UserError(
            f"a point cloud has points and colours of one shape (N, 3), got {xyz.shape} and {rgb.shape}"
        )
    vertices = np.empty(len(xyz), _VERTEX)
    vertices["xyz"], vertices["rgb"] = xyz, rgb
    write_bytes(path, _HEADER.format(count=len(xyz)).encode() + vertices.tobytes())
