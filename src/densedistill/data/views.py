"""What two views themselves say of their order, and of whether they are rectified."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

CHECKED = 4  # pairs, spread over all; a rig does not change in between
LONGEST = 800  # px of the longer side, to which larger views are made smaller
FEATURES = 1000
LEAST = 30  # matches, below which nothing is told
SWAPPED = 0.7  # share of the matches with a disparity that must point the wrong way
LEVEL = 0.3  # share of the matches that lie within a pixel of each other's rows, at least


def doubt_views(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> str:
    """Return what is wrong with the views of a pair, as a clause, or nothing.

    Points that look alike (SIFT: Lowe, IJCV 2004, with his ratio test, both ways) are matched anywhere in the
    other view. What is seen at (x, y) in the left view of a rectified pair lies at (x - d, y), d > 0, in the
    right one.

    Args:
        left, right: RGB (H, W, 3) uint8 of one size.
    """
    motions = _motions(left, right)
    if len(motions) < LEAST:
        return ""
    across, down = motions.T
    scale = _scale(left)
    if (np.abs(down) * scale <= 1).mean() < LEVEL:
        apart = float(np.median(np.abs(down)))
        return f"the views are not rectified: what both see lies {apart:.1f} px apart in height"
    near = across[np.abs(across) > 0.5]
    return "left and right look swapped" if len(near) and (near < 0).mean() > SWAPPED else ""


class _Samples(Protocol):
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Mapping[str, Any]: ...


def find_doubtful(samples: _Samples) -> tuple[int, str] | None:
    """Return the number of a sample whose views are in doubt, and the doubt, of a few that are looked at."""
    count = min(CHECKED, len(samples))
    for index in (i * len(samples) // count for i in range(count)):
        sample = samples[index]
        if "right" not in sample:
            break
        doubt = doubt_views(
            *(sample[view].permute(1, 2, 0).contiguous().numpy() for view in ("left", "right"))
        )
        if doubt:
            return index, doubt
    return None


def _motions(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return by how many px points of `left` lie right of and below what they match in `right`, (N, 2)."""
    sift = cv2.SIFT.create(FEATURES)
    (points, features), (others, their_features) = (
        sift.detectAndCompute(_grey(image), None) for image in (left, right)
    )
    if min(len(points), len(others)) < 2:
        return np.zeros((0, 2))
    matcher = cv2.BFMatcher(cv2.NORM_L2)
    back = [match.trainIdx for (match,) in matcher.knnMatch(their_features, features, 1)]
    motions = [
        np.subtract(points[best.queryIdx].pt, others[best.trainIdx].pt)
        for best, second in matcher.knnMatch(features, their_features, 2)
        if best.distance < 0.75 * second.distance and back[best.trainIdx] == best.queryIdx
    ]
    return np.array(motions).reshape(-1, 2) / _scale(left)


def _grey(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    scale = _scale(image)
    grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
    if scale == 1:
        return grey
    size = [max(1, round(length * scale)) for length in grey.shape[::-1]]
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)


def _scale(image: NDArray[np.uint8]) -> float:
    return min(1.0, LONGEST / max(image.shape[:2]))
