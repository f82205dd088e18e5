"""Stereo matching: the disparity of a rectified pair's left view."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..data import formats
from ..data.pointcloud import points, write_ply
from .colours import colour_map, error_map
from .files import Predicted, Writer, array_writer, colour_writer, pfm_writer
from .task import Task


def _png(path: Path, predicted: Predicted) -> None:
    # What is not above 0 is missing, as protocol kitti2015 takes it, too.
    disparity = predicted.outputs["disparity"]
    formats.write_disparity_png(path, disparity, np.isfinite(disparity) & (disparity > 0))


def _depth(path: Path, predicted: Predicted) -> None:
    formats.write_npy(path, predicted.geometry.depth(predicted.outputs["disparity"]))


def _ply(path: Path, predicted: Predicted) -> None:
    xyz, kept = points(predicted.outputs["disparity"], predicted.geometry)
    write_ply(path, xyz, predicted.image[kept])


WRITERS = {
    "png": Writer("{}.png", "16-bit PNG, 256 times the disparity in px (KITTI)", _png),
    "pfm": pfm_writer("disparity", says="float32 PFM, px"),
    "npy": array_writer("disparity", says="float32 NumPy array, px"),
    "color": colour_writer("disparity", colour_map, says="picture, blue is far and red is near"),
    "depth": Writer("{}.depth.npy", "float32 NumPy array, metres, 0 where unknown", _depth, metric=True),
    "ply": Writer("{}.ply", "coloured point cloud, metres", _ply, metric=True),
}

TASK = Task(
    name="stereo",
    inputs=("left", "right"),
    outputs=("disparity",),
    targets={"disparity": "disparity"},
    pixels=frozenset({"disparity"}),
    restore={"disparity": "bilinear"},
    metrics=("epe", "d1", "bad1", "bad2", "bad3"),
    units="D1 and bad-k in %, EPE and RMS in px",
    samples={"motorcycle": "middlebury2014", "cones": "middlebury2003"},
    takes="pair",
    writers=WRITERS,
    colours={"disparity": colour_map},
    error_colours={"disparity": error_map},
)
