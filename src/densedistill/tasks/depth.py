"""Monocular depth: the distance along the optical axis, in metres, of each pixel of a single image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..data import formats
from ..data.pointcloud import points_of_depth, write_ply
from .colours import colour_map, share_error_map
from .files import Predicted, Writer, array_writer, colour_writer, pfm_writer
from .task import Task


def colour_depth(
    depth: NDArray[np.floating],
    valid: NDArray[np.bool_] | None = None,
    low: float = 0.0,
    high: float | None = None,
) -> NDArray[np.uint8]:
    """Return depth (H, W) in metres as an RGB picture (H, W, 3): near is red, far is blue, as for disparity.

    The colours follow 1 / depth, between `low` and `high` metres; unknown or 0 is black.
    """
    depth = np.asarray(depth)
    depth = depth[0] if depth.ndim == 3 else depth
    known = np.isfinite(depth) & (depth > 0) if valid is None else np.squeeze(valid) & (depth > 0)
    inverse = 1 / np.where(known, depth, 1)
    return colour_map(inverse, known, low=1 / high if high else 0.0, high=1 / low if low else None)


def _png(path: Path, predicted: Predicted) -> None:
    depth = predicted.outputs["depth"]
    known = np.isfinite(depth) & (depth > 0)
    # KITTI's PNG ends at 256 m; what is farther is written as that.
    formats.write_disparity_png(path, np.where(known, np.minimum(depth, 255.99), 0), known)


def _ply(path: Path, predicted: Predicted) -> None:
    xyz, kept = points_of_depth(predicted.outputs["depth"], predicted.geometry)
    write_ply(path, xyz, predicted.image[kept])


TASK = Task(
    name="depth",
    inputs=("image",),
    outputs=("depth",),
    targets={"depth": "depth"},
    restore={"depth": "bilinear"},
    metrics=("abs_rel", "rmse", "silog", "a1", "a2", "a3"),
    average="images",
    samples={"ICL-NUIM living room": "icl_nuim"},
    sample_protocol="images+aligned_inverse",
    takes="image",
    writers={
        "png": Writer("{}.png", "16-bit PNG, 256 times the depth in metres, 0 = unknown (KITTI)", _png),
        "pfm": pfm_writer("depth", says="float32 PFM, metres"),
        "npy": array_writer("depth", says="float32 NumPy array, metres"),
        "color": colour_writer("depth", colour_depth, says="picture, blue is far and red is near"),
        "ply": Writer("{}.ply", "coloured point cloud, metres; needs a calibration", _ply, metric=True),
    },
    colours={"depth": colour_depth},
    error_colours={"depth": share_error_map},
)
