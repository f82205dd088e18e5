"""Images, disparity and error maps as small pictures inside the page. Needs numpy, OpenCV and Pillow only."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..tasks import Task
from ..tasks.pictures import compare

ERROR_LIMITS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Upper limits in px of the error classes; blue up to 2 px, the threshold of bad-2, then yellow to red."""

ERROR_COLOURS = np.array(  # ColorBrewer RdYlBu, as the KITTI devkit colours its error images
    [
        [49, 54, 149],
        [69, 117, 180],
        [116, 173, 209],
        [171, 217, 233],
        [224, 243, 248],
        [254, 224, 144],
        [253, 174, 97],
        [244, 109, 67],
        [165, 0, 38],
    ],
    np.uint8,
)
UNKNOWN_COLOUR = (127, 127, 127)


@dataclass(frozen=True)
class Scene:
    """One scene of any task, coloured: all RGB (H, W, 3) uint8.

    Args:
        name: what the scene is called.
        image: the first input.
        truth: a picture of the ground truth.
        predictions, errors: name of a network to pictures of its answer and, where there is one, its error.
        captions: name of a network to a line beneath.
        facts: a few words after the name.
    """

    name: str
    image: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    predictions: Mapping[str, NDArray[np.uint8]]
    errors: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    captions: Mapping[str, str] = field(default_factory=dict)
    facts: str = ""


def scene_of(
    task: Task,
    name: str,
    image: NDArray[np.uint8],
    truth: Mapping[str, NDArray[Any]],
    valid: NDArray[np.bool_] | None,
    predictions: Mapping[str, Mapping[str, NDArray[Any]]],
    captions: Mapping[str, str] | None = None,
) -> Scene:
    """Return the scene of a task's main output, coloured as the task says (see `tasks.pictures.compare`)."""
    compared = {label: compare(task, image, truth, valid, found) for label, found in predictions.items()}
    true = next((pictures[0] for pictures in compared.values()), image)
    errors = {label: error for label, (_, _, error) in compared.items() if error is not None}
    return Scene(
        name, image, true, {label: found for label, (_, found, _) in compared.items()}, errors, captions or {}
    )


@dataclass(frozen=True)
class Picture:
    """One scene, and what several matchers made of it.

    Args:
        name: what the scene is called.
        left: the left view (H, W, 3) uint8 RGB.
        truth: disparity (H, W) in px.
        valid: (H, W) bool, where `truth` was measured.
        predictions: name of a matcher to its disparity (H, W) in px.
        captions: name of a matcher to a line beneath its maps, for example "EPE 1.20 px".
    """

    name: str
    left: NDArray[np.uint8]
    truth: NDArray[np.float32]
    valid: NDArray[np.bool_]
    predictions: Mapping[str, NDArray[np.float32]]
    captions: Mapping[str, str] = field(default_factory=dict)

    @property
    def range(self) -> tuple[float, float]:
        """Lowest and highest measured disparity but for the outermost per cent: the colours' range in px."""
        measured = self.truth[self.valid]
        if measured.size == 0:
            return 0.0, 1.0
        low, high = (float(v) for v in np.percentile(measured, (1, 99)))
        return low, max(high, low + 1.0)

    @property
    def scene(self) -> Scene:
        """The scene with disparity and error coloured, in one range."""
        low, high = self.range
        height, width = self.truth.shape
        return Scene(
            self.name,
            self.left,
            colour_disparity(self.truth, low, high, self.valid),
            {name: colour_disparity(found, low, high) for name, found in self.predictions.items()},
            {name: colour_error(found, self.truth, self.valid) for name, found in self.predictions.items()},
            self.captions,
            f"{width}×{height} px, colours from {low:.0f} to {high:.0f} px of disparity",
        )


def colour_disparity(
    disparity: NDArray[np.float32], low: float, high: float, valid: NDArray[np.bool_] | None = None
) -> NDArray[np.uint8]:
    """Return (H, W, 3) RGB: `low` px blue to `high` px red (Turbo), grey where not `valid`."""
    scaled = np.clip((np.nan_to_num(disparity) - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    coloured = np.ascontiguousarray(cv2.applyColorMap(scaled, cv2.COLORMAP_TURBO)[..., ::-1])
    if valid is not None:
        coloured[~valid] = UNKNOWN_COLOUR
    return coloured


def colour_error(
    disparity: NDArray[np.float32], truth: NDArray[np.float32], valid: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Return (H, W, 3) RGB of the absolute error in the classes of `ERROR_LIMITS`, grey where not `valid`."""
    error = np.abs(np.nan_to_num(disparity, nan=np.inf) - truth)
    coloured = ERROR_COLOURS[np.digitize(error, ERROR_LIMITS, right=True)]
    coloured[~valid] = UNKNOWN_COLOUR
    return coloured


def shrink(image: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """Return `image` at most `width` px wide."""
    if image.shape[1] <= width:
        return image
    size = (width, max(1, round(image.shape[0] * width / image.shape[1])))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def data_uri(image: NDArray[np.uint8], quality: int = 82) -> str:
    """Return `image` (H, W, 3) uint8 RGB as a WebP data URI."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
