"""What a user would otherwise take: OpenCV's semi-global matcher, set up well."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from ..data.sample import as_bytes
from ..errors import UserError
from ..tasks import get_task
from .images import to_batches


class SGBM:
    """Semi-global matching (Hirschmüller, PAMI 2008) by OpenCV, called like a `Predictor`.

    All eight directions (MODE_HH), so that it is the best OpenCV offers. The left border, where the right
    view shows nothing, is padded by the search range and cropped again, and what the left-right, uniqueness
    and speckle checks reject is filled from the background side: with the smaller of the nearest disparities
    in the row.

    Args:
        max_disparity: search range in px, rounded up to a multiple of 16.
        block_size, p1, p2: window and smoothness penalties.
        uniqueness, speckle_window, speckle_range, left_right: limits of OpenCV's checks.
        fill: fill the holes; else they are 0.
    """

    name = "sgbm"
    precision = "16-bit fixed point"
    device = torch.device("cpu")

    def __init__(
        self,
        max_disparity: int = 192,
        block_size: int = 5,
        p1: int = 600,
        p2: int = 2400,
        uniqueness: int = 15,
        speckle_window: int = 100,
        speckle_range: int = 1,
        left_right: int = 1,
        fill: bool = True,
    ):
        if max_disparity < 1:
            raise UserError(f"the search range of sgbm is at least 1 px, got max_disparity={max_disparity}")
        self.task = get_task("stereo")
        self.max_disparity = -(-int(max_disparity) // 16) * 16
        self.fill = fill
        self.options = {
            "minDisparity": 0,
            "numDisparities": self.max_disparity,
            "blockSize": block_size,
            "P1": p1,
            "P2": p2,
            "uniquenessRatio": uniqueness,
            "speckleWindowSize": speckle_window,
            "speckleRange": speckle_range,
            "disp12MaxDiff": left_right,
            "mode": cv2.STEREO_SGBM_MODE_HH,
        }

    def __call__(self, *images: Any) -> dict[str, Tensor]:
        """Return `{"disparity": (B, 1, H, W)}`, float32 px, for a left and a right image (see `to_batch`)."""
        if len(images) != 2:
            raise UserError(f"stereo takes 2 images (left, right), got {len(images)}")
        left, right = (_to_uint8(batch) for batch in to_batches(*images))
        disparity = [self._match(one, other) for one, other in zip(left, right, strict=True)]
        return {"disparity": torch.from_numpy(np.stack(disparity)[:, None])}

    def _match(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        border = self.max_disparity
        left, right = (
            cv2.copyMakeBorder(image, 0, 0, border, 0, cv2.BORDER_REPLICATE) for image in (left, right)
        )
        # one matcher a call: OpenCV's keeps buffers and is not safe to share between threads
        disparity = cv2.StereoSGBM.create(**self.options).compute(left, right)[:, border:]
        valid = disparity >= 0
        disparity = np.where(valid, disparity, 0).astype(np.float32) / 16
        return fill_from_background(disparity, valid) if self.fill else disparity


def fill_from_background(disparity: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Return `disparity` (H, W) with each hole given the smaller of its nearest valid neighbours in the row.

    What is hidden in the other view belongs to the farther surface. Rows without any valid pixel become 0.
    """
    columns = np.arange(disparity.shape[1])
    before = np.maximum.accumulate(np.where(valid, columns, -1), axis=1)
    after = np.minimum.accumulate(np.where(valid, columns, columns.size)[:, ::-1], axis=1)[:, ::-1]
    left = np.take_along_axis(disparity, np.maximum(before, 0), 1)
    right = np.take_along_axis(disparity, np.minimum(after, columns.size - 1), 1)
    left = np.where(before >= 0, left, np.inf)
    right = np.where(after < columns.size, right, np.inf)
    nearest = np.minimum(left, right)
    return np.where(np.isfinite(nearest), nearest, 0).astype(disparity.dtype)


def _to_uint8(batch: Tensor) -> np.ndarray:
    """Return (B, 3, H, W) as (B, H, W, 3) uint8, in RGB, for the matcher adds its channels' costs up."""
    return np.ascontiguousarray(as_bytes(batch).cpu().permute(0, 2, 3, 1).numpy())
