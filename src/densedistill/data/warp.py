"""Pairs drawn from one view and its disparity, so that an estimate of the disparity is exact in them."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from ..errors import UserError
from .occlusion import seen_in_both
from .sample import Sample, disparity_tensors, image_tensor

# Neighbours whose disparities differ by less, px, lie on one surface.
_STEP = 1.0

Map = NDArray[np.float32]
Image = NDArray[np.uint8]


def warp_right(sample: Sample, largest: tuple[float, float], rng: Generator) -> Sample:
    """Return the pair that a camera beside the left one would see of the left view's surfaces.

    Of the photographed pair an estimated disparity is wrong in places, and silent about others; of the drawn
    pair it is true everywhere, at edges, too, with the textures and the light of a photograph
    (Watson et al., Learning Stereo from Single Images, ECCV 2020). Unknown disparities are filled from the
    row's farther side, blurred edges sharpened, and all multiplied by one factor, as by another baseline.
    Every left pixel is brought to its place in the right view, the nearest last; where none comes to, another
    part of the left view is shown.

    Args:
        sample: `left`, `disparity` and, where it has holes, `disparity_valid`.
        largest: (least, most) px; the largest disparity, but for one pixel in a hundred, is drawn between
            them, evenly in its logarithm.
        rng: what is drawn comes from it.

    Returns:
        `left`, the drawn `right`, `disparity`, `disparity_right` and their masks, `meta`. A disparity that
        was filled in counts where both views see it; where one does not, it would teach the filling.

    Raises:
        UserError: the sample has no disparity.
    """
    if "disparity" not in sample:
        name = sample.get("meta", {}).get("name", "?")
        raise UserError(f"augmentation warp_right draws by the disparity, and sample {name} has none")
    left = np.ascontiguousarray(sample["left"].permute(1, 2, 0).numpy())
    values = sample["disparity"][0].numpy()
    valid = sample["disparity_valid"][0].numpy() if "disparity_valid" in sample else np.isfinite(values)
    dense = _sharpen(_fill(values, valid))
    low, high = np.log(largest)
    disparity = dense * np.float32(np.exp(rng.uniform(low, high)) / max(np.quantile(dense, 0.99), 1e-6))
    disparity_right = _seen_from_the_right(disparity, np.abs(np.diff(dense, axis=1)) < _STEP)
    drawn: Sample = {"left": sample["left"], "right": image_tensor(_draw(left, disparity_right, rng))}
    for key, known in (("disparity", disparity), ("disparity_right", disparity_right)):
        drawn[key], drawn[f"{key}_valid"] = disparity_tensors(known)
    drawn["disparity_valid"] &= torch.from_numpy(valid | seen_in_both(disparity, disparity_right))
    return drawn | {"meta": sample["meta"]}


def _fill(values: Map, valid: NDArray[np.bool_]) -> Map:
    """Return `values` where they are valid, and the lesser of the nearest valid ones of the row elsewhere: of
    two surfaces, the farther is the one that may be hidden."""
    width = values.shape[1]
    columns = np.arange(width)
    before = np.maximum.accumulate(np.where(valid, columns, -1), axis=1)
    after = np.minimum.accumulate(np.where(valid, columns, width)[:, ::-1], axis=1)[:, ::-1]
    sides = [
        np.where((at >= 0) & (at < width), np.take_along_axis(values, at.clip(0, width - 1), axis=1), np.inf)
        for at in (before, after)
    ]
    farther = np.minimum(*sides)
    empty = float(np.median(values[valid])) if valid.any() else 1.0  # rows without any
    return np.where(np.isfinite(farther), farther, empty).astype(np.float32)


def _sharpen(disparity: Map) -> Map:
    """Return `disparity` with the pixels beside a step replaced by the nearest one that lies beside none: an
    estimate runs through values between two surfaces, where nothing is."""
    beside = np.zeros(disparity.shape, np.uint8)
    steps = np.abs(np.diff(disparity, axis=1)) >= _STEP
    beside[:, 1:] |= steps
    beside[:, :-1] |= steps
    steps = np.abs(np.diff(disparity, axis=0)) >= _STEP
    beside[1:] |= steps
    beside[:-1] |= steps
    if beside.all():
        return disparity
    _, nearest = cv2.distanceTransformWithLabels(
        beside, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    flat = np.zeros(nearest.max() + 1, np.float32)
    flat[nearest[beside == 0]] = disparity[beside == 0]
    return cv2.medianBlur(flat[nearest], 3)  # single pixels that stand out are noise


def _seen_from_the_right(disparity: Map, joined: NDArray[np.bool_]) -> Map:
    """Return the disparity of the right view, (H, W) px, 0 where no left pixel comes to.

    Two `joined` neighbours (H, W - 1) span the columns between their places in the right view.
    """
    height, width = disparity.shape
    places = np.arange(width, dtype=np.float32) - disparity
    start, end = places[:, :-1], places[:, 1:]
    row, segment = np.nonzero(joined & (end > start) & (end >= 0))
    start, end = start[row, segment], end[row, segment]
    near, far = disparity[row, segment], disparity[row, segment + 1]
    seen = np.zeros((height, width), np.float32)
    column = np.maximum(np.ceil(start), 0)
    while True:
        inside = column <= end
        row, start, end, near, far, column = (value[inside] for value in (row, start, end, near, far, column))
        if not len(row):
            return seen
        between = near + (column - start) / (end - start) * (far - near)
        np.maximum.at(seen, (row, column.astype(np.intp)), between)
        column = column + 1


def _draw(left: Image, disparity_right: Map, rng: Generator) -> Image:
    """Return the right view (H, W, 3) of `left`, interpolated at what `disparity_right` points to."""
    height, width = disparity_right.shape
    columns = np.arange(width, dtype=np.float32) + disparity_right
    rows = np.repeat(np.arange(height, dtype=np.float32)[:, None], width, axis=1)
    right = cv2.remap(left, columns, rows, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    elsewhere = np.roll(left, int(rng.integers(1, width)), axis=1)
    return np.where(disparity_right[..., None] > 0, right, elsewhere)
