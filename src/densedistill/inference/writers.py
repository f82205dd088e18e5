"""The files a prediction can become, by the name the command line gives them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..data import formats
from ..data.calibration import Calibration
from ..errors import UserError
from ..tasks import get_task
from .pointcloud import points, write_ply


@dataclass(frozen=True)
class Predicted:
    """A disparity map (H, W) px, and what some writers need: the left image (H, W, 3) and a calibration."""

    disparity: NDArray[np.float32]
    image: NDArray[np.uint8]
    calibration: Calibration | None = None
    colour_max: float | None = None

    @property
    def geometry(self) -> Calibration:
        """The calibration; UserError when there is none."""
        if self.calibration is None:
            raise UserError("metric depth and point clouds need a calibration file")
        return self.calibration


@dataclass(frozen=True)
class Writer:
    """A kind of output: what is put behind the pair's name, what it is, and the function that writes it."""

    suffix: str
    says: str
    write: Callable[[Path, Predicted], None]
    metric: bool = False


def _png(path: Path, predicted: Predicted) -> None:
    disparity = predicted.disparity
    formats.write_disparity_png(path, disparity, np.isfinite(disparity) & (disparity >= 0))


def _colour(path: Path, predicted: Predicted) -> None:
    colour = get_task("stereo").colours["disparity"]
    formats.write_image(path, colour(predicted.disparity, high=predicted.colour_max))


def _ply(path: Path, predicted: Predicted) -> None:
    xyz, kept = points(predicted.disparity, predicted.geometry)
    write_ply(path, xyz, predicted.image[kept])


WRITERS: dict[str, Writer] = {
    "png": Writer(".png", "16-bit PNG, 256 times the disparity in px (KITTI)", _png),
    "pfm": Writer(".pfm", "float32 PFM, px", lambda path, p: formats.write_pfm(path, p.disparity)),
    "npy": Writer(".npy", "float32 NumPy array, px", lambda path, p: formats.write_npy(path, p.disparity)),
    "color": Writer(".color.png", "picture, blue is far and red is near", _colour),
    "depth": Writer(
        ".depth.npy",
        "float32 NumPy array, metres, 0 where unknown",
        lambda path, p: formats.write_npy(path, p.geometry.depth(p.disparity)),
        metric=True,
    ),
    "ply": Writer(".ply", "coloured point cloud, metres", _ply, metric=True),
}
