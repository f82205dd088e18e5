"""Maps as pictures: numbers by the turbo colour map, errors in the colours of the KITTI devkit."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import UserError

# Upper bound of the error, as a multiple of what D1 allows, and the colour up to it (KITTI 2012 and 2015
# devkits; the colours are ColorBrewer's RdYlBu, blue for right and red for wrong).
KITTI_ERROR_COLOURS: tuple[tuple[float, tuple[int, int, int]], ...] = (
    (0.0625, (49, 54, 149)),
    (0.125, (69, 117, 180)),
    (0.25, (116, 173, 209)),
    (0.5, (171, 217, 233)),
    (1.0, (224, 243, 248)),
    (2.0, (254, 224, 144)),
    (4.0, (253, 174, 97)),
    (8.0, (244, 109, 67)),
    (16.0, (215, 48, 39)),
    (np.inf, (165, 0, 38)),
)


def colour_map(
    values: NDArray[np.floating],
    valid: NDArray[np.bool_] | None = None,
    low: float = 0.0,
    high: float | None = None,
) -> NDArray[np.uint8]:
    """Return `values` (H, W) as an RGB picture (H, W, 3) uint8: blue for `low`, through green, to red for
    `high`.

    Args:
        values: for example disparity in px.
        valid: bool (H, W); the rest, and what is not finite, is black.
        low, high: range of the colours; `high` None for the 99.5th percentile of the valid values.
    """
    values = _plane(values)
    known = np.isfinite(values) if valid is None else np.isfinite(values) & _plane(valid)
    if high is None:
        high = float(np.percentile(values[known], 99.5)) if known.any() else low + 1.0
    scaled = (np.where(known, values, low) - low) / max(high - low, 1e-6)
    levels = np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)
    picture = np.ascontiguousarray(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO)[..., ::-1], np.uint8)
    picture[~known] = 0
    return picture


def error_map(
    prediction: NDArray[np.floating],
    target: NDArray[np.floating],
    valid: NDArray[np.bool_],
    pixels: float = 3.0,
    share: float = 0.05,
) -> NDArray[np.uint8]:
    """Return the errors of a disparity map (H, W) as the KITTI devkit draws them, RGB (H, W, 3) uint8.

    The error is measured in units of what D1 allows, `min(|e| / 3 px, |e| / (5 % of the truth))`: up to 1 is
    blue, from there on yellow to red. Pixels without ground truth are black.
    """
    prediction, target, valid = _plane(prediction), _plane(target), _plane(valid)
    error = np.abs(prediction - target)
    known = np.where(valid, np.abs(target), 1.0)
    units = np.minimum(error / pixels, error / np.maximum(share * known, 1e-6))
    units = np.where(np.isfinite(units), units, np.inf)
    bounds = [bound for bound, _ in KITTI_ERROR_COLOURS[:-1]]
    colours = np.array([colour for _, colour in KITTI_ERROR_COLOURS], np.uint8)
    picture = colours[np.digitize(units, bounds)]
    picture[~valid] = 0
    return picture


def _plane(values: NDArray[Any]) -> NDArray[Any]:
    values = np.asarray(values)
    if values.ndim == 3 and values.shape[0] == 1:
        values = values[0]
    if values.ndim != 2:
        raise UserError(f"a map to colour has shape (H, W), got {values.shape}")
    return values
