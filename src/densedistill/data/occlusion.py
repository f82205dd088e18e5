"""Occlusion from the disparity of both views."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def seen_in_both(
    disparity: NDArray[np.float32], disparity_right: NDArray[np.float32], tolerance: float = 1.0
) -> NDArray[np.bool_]:
    """Return where a pixel of the left view is seen in the right one, (H, W), by the left-right check.

    A pixel is seen when the right view's disparity at its counterpart differs by at most `tolerance` px.
    Where the counterpart lies outside the image it is not seen; where the right disparity is unknown it
    counts as not seen.

    Args:
        disparity, disparity_right: (H, W) px; 0, inf and nan are unknown.
        tolerance: px; Middlebury cross-checks with 1.
    """
    width = disparity.shape[1]
    known = np.isfinite(disparity) & (disparity > 0)
    at = np.arange(width, dtype=np.float32) - np.where(known, disparity, 0)
    column = np.clip(np.rint(at), 0, width - 1).astype(np.intp)
    with np.errstate(invalid="ignore"):
        differs = np.abs(np.take_along_axis(disparity_right, column, axis=1) - disparity)
        return known & (at >= -0.5) & (differs <= tolerance)
