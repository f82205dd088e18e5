"""What KITTI's development kits do to a disparity map before they compare it, and the seven figures they
print."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .disparity import check


def as_kitti_png(disparity: Tensor) -> Tensor:
    """Return `disparity` (…, H, W) px as KITTI's 16-bit PNG holds it, in 256ths of a pixel; NaN = missing.

    What is not finite or not above 0 is missing; the rest is rounded, to 1/256 at least. Above 255.996 px the
    format holds no number: that value stands for all.
    """
    disparity = disparity.float()  # half precision holds neither the steps nor the largest value
    levels = (disparity * 256).round().clamp(1, 65535) / 256
    return levels.where(disparity.isfinite() & (disparity > 0), torch.nan)


def as_kitti_flow_png(flow: Tensor) -> Tensor:
    """Return `flow` px as KITTI's 16-bit PNG holds it, in 64ths of a pixel from -512 to 511.98; NaN stays."""
    return ((flow.float() * 64 + 2**15).round().clamp(0, 65535) - 2**15) / 64


def fill_unknown(values: Tensor, known: Tensor, mark: float = -1.0) -> Tensor:
    """Return `values` (…, H, W) with what is not `known` (…, H, W) filled as KITTI's kits do.

    In each row a gap takes the smaller of its two ends, of disparity the background; the left and right ends
    of a row take the nearest value. Then what lies above the first and below the last known row takes that
    row's values. A row without any value between others stays unknown and reads `mark`, as does a map without
    any; the kits write -1 for disparity, 0 for flow.
    """
    height, width = values.shape[-2:]
    columns = torch.arange(width, device=values.device).expand(values.shape)
    before = columns.where(known, -1).cummax(-1).values
    after = columns.where(known, width).flip(-1).cummin(-1).values.flip(-1)
    left = values.gather(-1, before.clamp(min=0))
    right = values.gather(-1, after.clamp(max=width - 1))
    # Beyond the ends of a row there is one neighbour, which stands for both.
    filled = torch.minimum(left.where(before >= 0, right), right.where(after < width, left))
    some = known.expand(values.shape).any(-1)
    rows = torch.arange(height, device=values.device).expand(some.shape)
    first = rows.where(some, height).amin(-1, keepdim=True).clamp(max=height - 1)
    last = rows.where(some, -1).amax(-1, keepdim=True).clamp(min=0)
    nearest = rows.maximum(first).minimum(last)
    return filled.where(some[..., None], mark).gather(-2, nearest[..., None].expand(values.shape))


def fill_missing(disparity: Tensor) -> Tensor:
    """Return `disparity` (…, H, W) with its missing values, NaN, filled as `fill_unknown` says."""
    return fill_unknown(disparity, ~disparity.isnan())


class DisparityErrors(NamedTuple):
    """What KITTI 2015's kit prints of disparity, as shares in [0, 1]: outliers of all pixels of a region and
    of those that were estimated, and the share that was."""

    background: float
    background_estimated: float
    foreground: float
    foreground_estimated: float
    all: float
    all_estimated: float
    density: float


def kitti_errors(prediction: Tensor, target: Tensor, valid: Tensor, objects: Tensor) -> DisparityErrors:
    """Return KITTI 2015's figures, pooled over images, of maps that may have missing values.

    An outlier is off by more than 3 px and more than 5 % of the ground truth. Regions without a pixel give 0,
    as the kit does.

    Args:
        prediction: (B, H, W) px, NaN where nothing was estimated, as `as_kitti_png` gives.
        target, valid: ground truth (B, H, W) px, and where there is some.
        objects: (B, H, W), 0 for background.
    """
    prediction, target, valid = check(prediction, target, valid)
    estimated = ~prediction.isnan()
    error = (fill_missing(prediction) - target).abs().double()
    outlier = (error > 3) & (error / target.abs().double() > 0.05)
    shares: list[float] = []
    for region in (valid & (objects == 0), valid & (objects > 0), valid):
        for counted in (region, region & estimated):
            shares.append(((outlier & counted).sum() / counted.sum().clamp(min=1)).item())
    density = ((valid & estimated).sum() / valid.sum().clamp(min=1)).item()
    return DisparityErrors._make([*shares, density])
