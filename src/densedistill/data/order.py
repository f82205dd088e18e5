"""Left and right mixed up: what the images themselves say about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

CHECKED = 4  # pairs, spread over all; a rig does not change sides
WIDTH = 384  # px; enough to tell the sign of the small disparities of driving scenes
REACH = 0.25  # of the width
SURE = 0.7  # share of the matches that must point the wrong way

_SET_BITS = np.array([number.bit_count() for number in range(4096)], np.float32)


def swapped_share(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> float:
    """Return the share of textured pixels of `left` whose best match in `right` says that the views are
    swapped.

    What is seen at x in the left view of a rectified pair lies at x - d, d > 0, in the right one. Each pixel
    is looked for in both directions at low resolution (census transform, windows of 9 px); pixels that match
    best in place, for they are far away, say nothing.

    Args:
        left, right: RGB (H, W, 3) uint8 of one size.

    Returns:
        In [0, 1]: near 0 for a pair in order, near 1 for a swapped one; 0.5 when nothing can be told.
    """
    one, other = (_small(image) for image in (left, right))
    reach = int(one.shape[1] * REACH)
    texture = cv2.boxFilter(np.abs(cv2.Sobel(one, cv2.CV_32F, 1, 0)), -1, (9, 9))
    codes, others = _census(one), _census(other)
    forward, backward = (_best_cost(codes, others, direction, reach) for direction in (1, -1))
    here = _cost(codes, others, 0)
    told = (np.minimum(forward, backward) < here) & (forward != backward) & (texture >= np.median(texture))
    told[:, :reach] = told[:, -reach:] = False  # there one direction leads out of the image
    if told.sum() < 100:
        return 0.5
    return float((backward < forward)[told].mean())


def looks_swapped(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> bool:
    """Return whether two views, RGB (H, W, 3) uint8, look as if the left were the right (`swapped_share`)."""
    return swapped_share(left, right) > SURE


class _Samples(Protocol):
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Mapping[str, Any]: ...


def find_swapped(samples: _Samples) -> int | None:
    """Return the number of a sample whose views look swapped, of a few that are looked at; None without."""
    count = min(CHECKED, len(samples))
    for index in (i * len(samples) // count for i in range(count)):
        sample = samples[index]
        if "right" not in sample:
            break
        left, right = (sample[view].permute(1, 2, 0).contiguous().numpy() for view in ("left", "right"))
        if looks_swapped(left, right):
            return index
    return None


def _small(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    height, width = grey.shape
    scale = min(1.0, WIDTH / width)
    size = (max(8, round(width * scale)), max(8, round(height * scale)))
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA).astype(np.float32)


def _census(image: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Return which of 24 neighbours are brighter, as bits; it does not change with the exposure."""
    padded = np.pad(image, 2, mode="edge")
    height, width = image.shape
    codes = np.zeros((height, width), np.uint32)
    for y in range(5):
        for x in range(5):
            if (y, x) != (2, 2):
                brighter = padded[y : y + height, x : x + width] > image
                codes = (codes << np.uint32(1)) | brighter.astype(np.uint32)
    return codes


def _best_cost(
    one: NDArray[np.uint32], other: NDArray[np.uint32], direction: int, reach: int
) -> NDArray[np.float32]:
    best = np.full(one.shape, np.inf, np.float32)
    for shift in range(1, reach):
        np.minimum(best, _cost(one, other, direction * shift), out=best)
    return best


def _cost(one: NDArray[np.uint32], other: NDArray[np.uint32], shift: int) -> NDArray[np.float32]:
    """Return how unlike `one` at x and `other` at x - shift are, (H, W); infinite where that is outside."""
    height, width = one.shape
    inside = slice(max(shift, 0), width + min(shift, 0))
    source = slice(max(-shift, 0), width - max(shift, 0))
    differing = one[:, inside] ^ other[:, source]
    unlike = _SET_BITS[differing & 0xFFF] + _SET_BITS[differing >> 12]
    cost = np.full((height, width), np.inf, np.float32)
    cost[:, inside] = cv2.boxFilter(unlike, -1, (9, 9))
    return cost
