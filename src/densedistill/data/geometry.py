"""A window of a sample, scaled and mirrored, in which the ground truth stays true."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .sample import BOXES, KINDS, Sample

# Between two surfaces bilinear interpolation invents a depth that neither has: where it leaves the nearest
# measured value by more than this, the nearest is taken. Px of the source; of a measure such as depth, whose
# unit says nothing, the share of the nearest value.
_SAME_SURFACE = 0.25
_SAME_SHARE = 0.01

# A flip that swaps the views keeps what is known of both; `left_next` and all else belongs to one view only.
_SWAPS = {"left": "right", "disparity": "disparity_right", "disparity_valid": "disparity_right_valid"}


@dataclass(frozen=True)
class Window:
    """What part of the source a sample shows.

    Args:
        source: (height, width) of the source.
        scaled: (height, width) the source is scaled to.
        crop: (top, left, height, width) in the scaled and mirrored source.
        flip: "", "h", "v" or "hv".
    """

    source: tuple[int, int]
    scaled: tuple[int, int]
    crop: tuple[int, int, int, int]
    flip: str = ""

    @property
    def scale(self) -> tuple[float, float]:
        """Factor of height and of width."""
        return self.scaled[0] / self.source[0], self.scaled[1] / self.source[1]

    @property
    def resizes(self) -> bool:
        """Whether source pixels have to be interpolated."""
        return self.scaled != self.source

    def matrix(self) -> NDArray[np.float64]:
        """Return the 3x3 map of homogeneous source coordinates (x, y, 1) to the sample's."""
        axes = []
        for axis, mark in ((1, "h"), (0, "v")):
            scale, start = self.scale[axis], self.crop[axis]
            offset = 0.5 * scale - 0.5  # pixel centres lie at half, so both images' borders fall together
            if mark in self.flip:
                axes.append((-scale, self.scaled[axis] - 1 - offset - start))
            else:
                axes.append((scale, offset - start))
        (sx, tx), (sy, ty) = axes
        return np.array([[sx, 0, tx], [0, sy, ty], [0, 0, 1]])

    def columns_and_rows(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the source coordinate of each column and each row of the sample."""
        matrix = self.matrix()
        _, _, height, width = self.crop
        columns = (np.arange(width) - matrix[0, 2]) / matrix[0, 0]
        rows = (np.arange(height) - matrix[1, 2]) / matrix[1, 1]
        return columns.astype(np.float32), rows.astype(np.float32)


def swap_views(sample: Sample) -> Sample:
    """Return the sample as seen by a viewer who stands behind a mirror: right and left change places.

    Only true together with a horizontal flip. What is known of the left view alone (labels, flow, …) is left
    out.
    """
    swapped: Sample = {"meta": sample["meta"]}
    for left, right in _SWAPS.items():
        if left in sample and right in sample:  # a data set without holes may do without masks
            swapped[left], swapped[right] = sample[right], sample[left]
    return swapped


def apply(window: Window, sample: Sample, tilt: tuple[float, float] = (0.0, 0.0)) -> Sample:
    """Return what `window` shows of every tensor in the sample, each kind by its own rule.

    Images are interpolated. Disparity and flow are scaled with their axis; they and depth are interpolated
    where all four neighbours were measured on one surface, else the nearest is taken. Masks, labels and
    object maps take the nearest. Boxes are clipped, and dropped when less than a px is left of a
    side.

    Args:
        window: the part of the source.
        sample: any keys of a sample.
        tilt: what the right image is off by: a vertical shift, px of the source, and a slope, vertical px a
            column. Columns stay, and with them the truth of horizontal disparity.
    """
    result: Sample = {}
    for key, value in sample.items():
        kind = KINDS.get(key, "nearest")
        if key == "meta":
            view = {"scale": window.scale, "flip": window.flip, "crop": window.crop}
            result[key] = {**value, "view": view}
        elif kind == "image":
            result[key] = _images(window, value, tilt if key.startswith("right") else (0.0, 0.0))
        elif kind in ("disparity", "flow", "measure"):
            shown = _measured(window, value, sample.get(f"{key}_valid"), kind)
            result[key] = shown * _factor(window, kind)
        elif kind == "boxes":
            result[key], kept = _boxes(window, value)
            if BOXES[key] in sample:
                result[BOXES[key]] = sample[BOXES[key]][kept]
        elif kind == "nearest":
            result[key] = _nearest(window, value)
    return result


def _factor(window: Window, kind: str) -> Tensor:
    y, x = window.scale
    if kind == "flow":
        sign_x, sign_y = (-1 if mark in window.flip else 1 for mark in "hv")
        return torch.tensor([sign_x * x, sign_y * y], dtype=torch.float32).view(2, 1, 1)
    return torch.tensor(1.0 if kind == "measure" else x, dtype=torch.float32)


def _crop(window: Window, values: Tensor) -> Tensor:
    """Return the window of (…, H, W) values unscaled, without a copy where nothing is mirrored."""
    top, left, height, width = window.crop
    if "v" in window.flip:
        top = window.source[0] - top - height
    if "h" in window.flip:
        left = window.source[1] - left - width
    part = values[..., top : top + height, left : left + width]
    axes = [axis for axis, mark in ((-2, "v"), (-1, "h")) if mark in window.flip]
    return part.flip(axes) if axes else part


def _images(window: Window, images: Tensor, tilt: tuple[float, float]) -> Tensor:
    """Return the window of an image (3, H, W) or of each of a sequence (T, 3, H, W)."""
    if images.ndim == 3:
        return _image(window, images, tilt)
    return torch.stack([_image(window, image, tilt) for image in images])


def _image(window: Window, image: Tensor, tilt: tuple[float, float]) -> Tensor:
    if not window.resizes and tilt == (0.0, 0.0):
        return _crop(window, image)
    shift, slope = tilt
    centre = (window.source[1] - 1) / 2
    lean = np.array([[1, 0, 0], [slope, 1, shift - slope * centre], [0, 0, 1]])
    matrix = (window.matrix() @ lean)[:2]
    # Only what the window can reach is brought into OpenCV's order of channels.
    columns, rows = window.columns_and_rows()
    reach = 2 + int(np.ceil(abs(shift) + abs(slope) * centre))
    x, y = (max(0, int(at.min()) - reach) for at in (columns, rows))
    part = image[:, y : int(rows.max()) + reach + 1, x : int(columns.max()) + reach + 1]
    matrix[:, 2] += matrix[:, :2] @ (x, y)
    source = np.ascontiguousarray(part.permute(1, 2, 0).numpy())
    size = (window.crop[3], window.crop[2])
    warped = cv2.warpAffine(source, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return torch.from_numpy(warped).permute(2, 0, 1)


def _gather(values: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return values.take(rows, axis=-2).take(columns, axis=-1)


def _nearest(window: Window, values: Tensor) -> Tensor:
    if not window.resizes:
        return _crop(window, values)
    columns, rows = window.columns_and_rows()
    return torch.from_numpy(_gather(values.numpy(), _rounded(rows, window, 0), _rounded(columns, window, 1)))


def _rounded(at: np.ndarray, window: Window, axis: int) -> np.ndarray:
    return np.clip(np.rint(at), 0, window.source[axis] - 1).astype(np.intp)


def _measured(window: Window, values: Tensor, valid: Tensor | None, kind: str) -> Tensor:
    if not window.resizes:
        return _crop(window, values)
    columns, rows = window.columns_and_rows()
    x, y = (np.clip(at, 0, n - 1) for at, n in ((columns, window.source[1]), (rows, window.source[0])))
    first = int(x.min())
    part = slice(first, int(x.max()) + 2)  # gathering rows of the columns in use alone saves half the time
    source = values.numpy()[..., part]
    x0, y0 = (x - first).astype(np.intp), y.astype(np.intp)
    x1 = np.minimum(x0 + 1, source.shape[-1] - 1)
    y1 = np.minimum(y0 + 1, window.source[0] - 1)
    upper = source.take(y0, axis=-2)
    upper += (source.take(y1, axis=-2) - upper) * (y - y0)[:, None]
    smooth = upper.take(x0, axis=-1)
    smooth += (upper.take(x1, axis=-1) - smooth) * (x - first - x0)
    near = _gather(source, _rounded(y, window, 0), _rounded(x, window, 1) - first)
    apart = _SAME_SHARE * np.abs(near) if kind == "measure" else _SAME_SURFACE
    same = np.abs(smooth - near) <= apart
    if valid is not None:
        known = valid.numpy()[..., part]
        known = known.take(y0, axis=-2) & known.take(y1, axis=-2)
        same &= known.take(x0, axis=-1) & known.take(x1, axis=-1)
    return torch.from_numpy(np.where(same, smooth, near))


def _boxes(window: Window, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `window` shows of `boxes`, and which of them (N) it shows."""
    y, x = window.scale
    moved = boxes.float() * torch.tensor([x, y, x, y])
    if "h" in window.flip:
        moved[:, [0, 2]] = window.scaled[1] - moved[:, [2, 0]]
    if "v" in window.flip:
        moved[:, [1, 3]] = window.scaled[0] - moved[:, [3, 1]]
    top, left, height, width = window.crop
    moved = moved - torch.tensor([left, top, left, top])
    moved[:, 0::2].clamp_(0, width)
    moved[:, 1::2].clamp_(0, height)
    kept = ((moved[:, 2:] - moved[:, :2]) >= 1).all(dim=1)
    return moved[kept], kept
