"""Maps as pictures: numbers by the turbo colour map, errors in the colours of the KITTI devkit."""

from __future__ import annotations

from collections.abc import Sequence
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


def share_error_map(
    prediction: NDArray[np.floating], target: NDArray[np.floating], valid: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Return the errors of a depth map (H, W) as shares of the truth, RGB (H, W, 3): up to 5 % is blue, from
    there on yellow to red; black where nothing was measured."""
    return error_map(prediction, target, valid, pixels=1e-9)


# Flow: the colour wheel of Baker et al., A Database and Evaluation Methodology for Optical Flow, IJCV 2011.

_CORNERS = np.array([(1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1), (1, 0, 0)], float)
_STEPS = (15, 6, 4, 11, 13, 6)  # colours from each corner to the next, as many as the eye tells apart
_WHEEL = np.concatenate(
    [
        start + (end - start) * (np.floor(255 * np.arange(steps) / steps) / 255)[:, None]
        for start, end, steps in zip(_CORNERS[:-1], _CORNERS[1:], _STEPS, strict=True)
    ]
)


def flow_colours(
    flow: NDArray[np.floating],
    valid: NDArray[np.bool_] | None = None,
    low: float = 0.0,
    high: float | None = None,
) -> NDArray[np.uint8]:
    """Return flow (2, H, W) px as RGB (H, W, 3): its direction is the hue, its length the saturation.

    `high` px, by default the longest flow, has full colour, what is longer is darker; white is no motion,
    black unknown. `low` is there because other colour functions have it.
    """
    flow = np.asarray(flow, np.float64)
    if flow.ndim != 3 or flow.shape[0] != 2:
        raise UserError(f"flow to colour has shape (2, H, W), got {flow.shape}")
    known = np.isfinite(flow).all(0) & (True if valid is None else _plane(valid))
    x, y = np.where(known, flow, 0.0)
    length = np.hypot(x, y)
    length = length / max(length.max() if high is None else high, 1e-9)
    place = (np.arctan2(-y, -x) / np.pi + 1) / 2 * (len(_WHEEL) - 1)
    first = np.floor(place).astype(int)
    share = (place - first)[..., None]
    colour = (1 - share) * _WHEEL[first] + share * _WHEEL[(first + 1) % len(_WHEEL)]
    length = length[..., None]
    colour = np.where(length <= 1, 1 - length * (1 - colour), 0.75 * colour)
    picture = np.floor(255 * colour).astype(np.uint8)
    picture[~known] = 0
    return picture


def flow_error_map(
    prediction: NDArray[np.floating], target: NDArray[np.floating], valid: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Return the end-point errors of flow (2, H, W) px as the KITTI devkit draws them (see `error_map`)."""
    error = np.linalg.norm(np.asarray(prediction) - np.asarray(target), axis=0)
    length = np.linalg.norm(np.asarray(target), axis=0)
    return error_map(length + error, length, valid)


# Classes: the palette of PASCAL VOC, which has 256 colours that neighbours do not share.


def _palette() -> NDArray[np.uint8]:
    numbers = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((numbers >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colours


PALETTE = _palette()


def labels_of(values: NDArray[Any]) -> NDArray[Any]:
    """Return the classes' numbers (H, W) of labels (H, W) or of logits (C, H, W)."""
    values = np.asarray(values)
    if values.ndim not in (2, 3):
        raise UserError(f"labels have shape (H, W), logits (C, H, W), got {values.shape}")
    return values if values.ndim == 2 else values.argmax(0)


def label_colours(
    values: NDArray[Any],
    valid: NDArray[np.bool_] | None = None,
    low: float = 0.0,
    high: float | None = None,
) -> NDArray[np.uint8]:
    """Return labels (H, W) or logits (C, H, W) as RGB (H, W, 3), a colour a class; unknown (255) is black.

    `low` and `high` are there because other colour functions have them.
    """
    labels = labels_of(values)
    picture = PALETTE[(labels + 1) % 256]  # the palette begins with black, which is for the unknown
    picture[(labels == 255) if valid is None else ~np.asarray(valid)] = 0
    return picture


def label_error_map(
    prediction: NDArray[Any], target: NDArray[Any], valid: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Return where the class is right, blue, and wrong, red, as RGB (H, W, 3); black where it is unknown."""
    wrong = labels_of(prediction) != labels_of(target)
    colours = np.array([KITTI_ERROR_COLOURS[2][1], KITTI_ERROR_COLOURS[-2][1]], np.uint8)
    picture = colours[wrong.astype(int)]
    picture[~np.asarray(valid)] = 0
    return picture


def lay_over(image: NDArray[np.uint8], colours: NDArray[np.uint8], share: float = 0.55) -> NDArray[np.uint8]:
    """Return `colours` (H, W, 3) laid over `image` of that size, with this `share` in the mixture."""
    return np.rint(share * colours + (1 - share) * image).astype(np.uint8)


def draw_boxes(
    image: NDArray[np.uint8],
    boxes: NDArray[np.floating],
    classes: NDArray[np.integer] | None = None,
    scores: NDArray[np.floating] | None = None,
    names: Sequence[str] = (),
    least: float = 0.3,
) -> NDArray[np.uint8]:
    """Return a copy of `image` (H, W, 3) with boxes (N, 4) xyxy px drawn, the class and score at the corner.

    Args:
        classes: (N,) numbers, which give the colours; None for one colour.
        scores: (N,) in [0, 1]; None for ground truth, of which all is drawn.
        names: of the classes.
        least: boxes of a lower score are left out.
    """
    drawn = np.ascontiguousarray(image).copy()
    width = max(1, round(min(drawn.shape[:2]) / 240))
    for index, box in enumerate(np.asarray(boxes)):
        number = 0 if classes is None else int(classes[index])
        if number < 0 or (scores is not None and scores[index] < least):
            continue
        colour = tuple(int(part) for part in PALETTE[(number + 1) % 256])
        left, top, right, bottom = (round(float(side)) for side in box)
        cv2.rectangle(drawn, (left, top), (right - 1, bottom - 1), colour, width)
        words = names[number] if number < len(names) else str(number)
        words += "" if scores is None else f" {scores[index]:.2f}"
        size = 0.4 * width
        cv2.putText(
            drawn, words, (left, max(top - 2, 8)), cv2.FONT_HERSHEY_SIMPLEX, size, colour, 1, cv2.LINE_AA
        )
    return drawn
