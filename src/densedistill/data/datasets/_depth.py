"""What the data sets of images with depth on disk have in common."""

from __future__ import annotations

import os
import warnings
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from ...errors import DataWarning, UserError, unknown
from .. import formats
from ..calibration import Calibration
from ..sample import Sample, image_tensor
from ._base import FilesOnDisk, Frame, measured


class DepthFiles(FilesOnDisk):
    """Images on disk, with depth or without.

    A data set says where its files lie (`list_frames`) and what is its own about reading them.

    Args:
        root: the folder of the files.
        split: one of `splits`; default the first.
        depth_scale: what a stored value is divided by for metres; default the data set's own.
        part: part of the image to read, see `FRAMES`; default the data set's own.
        limit: at most so many samples, evenly spread.
        strict: False keeps samples whose files are missing, as `data check` needs.

    Raises:
        UserError: nothing found, or a file without its counterpart.
    """

    task: ClassVar[str] = "depth"
    required: tuple[str, ...] = ("image", "depth")
    scale: ClassVar[float] = 1000.0
    default_part: ClassVar[str] = "whole"
    #: Metres between which the median of a depth map is expected: elsewhere its unit is doubted.
    expected: ClassVar[tuple[float, float]] = (0.1, 150.0)

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        split: str | None = None,
        depth_scale: float | None = None,
        part: str | None = None,
        limit: int | None = None,
        strict: bool = True,
    ):
        if depth_scale is not None and not depth_scale > 0:
            raise UserError(f"data set '{self.name}': depth_scale is above 0, got {depth_scale}")
        self.depth_scale = depth_scale or self.scale
        self.part = part or self.default_part
        if self.part not in FRAMES:
            raise unknown("part", self.part, FRAMES, of=f"data set '{self.name}'")
        self._doubted = False
        super().__init__(root, split, limit, strict)

    def __getitem__(self, index: int) -> Sample:
        """Return a sample; UserError for a damaged file, sizes that differ, or empty ground truth."""
        frame = self.frames[index]
        image = self.read_image(frame)
        top, left, height, width = FRAMES[self.part](*image.shape[:2])
        window = (slice(top, top + height), slice(left, left + width))
        sample: Sample = {"image": image_tensor(np.ascontiguousarray(image[window]))}
        depth = self.read_depth(frame)
        if depth is not None:
            sample["depth"], sample["depth_valid"] = self._checked(depth, frame, image.shape[:2], window)
        camera = self.read_calibration(frame, image.shape[:2])
        camera = camera and camera.cropped(top, left, height, width)
        sample["meta"] = self.meta_of(frame, (height, width), calibration=camera)
        return sample

    def _checked(
        self, depth: NDArray[np.float32], frame: Frame, size: tuple[int, ...], window: tuple[slice, slice]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        where = frame.files.get("depth", frame.name)
        formats.check_size(where, depth, size)
        values, valid = measured(depth[window], where)
        if not self._doubted:
            median = float(values[valid].median())
            low, high = self.expected
            if not low <= median <= high:
                self._doubted = True
                warnings.warn(
                    f"{where}: the median depth is {median:.3g} m, which is unlikely; is a stored value "
                    f"divided by {self.depth_scale:g} (depth_scale) really metres?",
                    DataWarning,
                    stacklevel=2,
                )
        return values, valid

    def read_image(self, frame: Frame) -> NDArray[np.uint8]:
        """Return the image (H, W, 3)."""
        return formats.read_image(frame.files["image"])

    def read_depth(self, frame: Frame) -> NDArray[np.float32] | None:
        """Return the depth (H, W), metres; 0, less, inf and nan are unknown; None where there is none."""
        path = frame.files.get("depth")
        if path is None:
            return None
        of_integers = path.suffix.lower() == ".png"
        return formats.read_disparity(path, self.depth_scale if of_integers else 1.0)

    def read_calibration(self, frame: Frame, size: tuple[int, ...]) -> Calibration | None:
        """Return the camera of the whole image, or None."""
        return None


def _whole(height: int, width: int) -> tuple[int, int, int, int]:
    return 0, 0, height, width


def _kitti(height: int, width: int) -> tuple[int, int, int, int]:
    """Return the 352x1216 px of a KITTI image that depth networks see: centred, at the bottom."""
    if height < 352 or width < 1216:
        raise UserError(f"KITTI's crop of 1216x352 px does not fit into an image of {width}x{height}")
    return height - 352, int((width - 1216) / 2), 352, 1216


def _nyu(height: int, width: int) -> tuple[int, int, int, int]:
    """Return the part of a 640x480 NYU image without its white border, (43, 45) to (608, 472)."""
    if (height, width) != (480, 640):
        raise UserError(f"NYU's crop is of images of 640x480 px, not {width}x{height}")
    return 45, 43, 427, 565


# Name to what gives the part (top, left, height, width) of an image of (height, width).
FRAMES: dict[str, Any] = {"whole": _whole, "kitti": _kitti, "nyu": _nyu}
