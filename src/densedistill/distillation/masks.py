"""Which pixels of an output, or positions of a tap, count in a loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..networks.input_spec import Placement


def measured(
    batch: Mapping[str, Any], target: str, like: Tensor, limit: float | None, ignore: int | None = None
) -> Tensor:
    """Return where the ground truth `target` of `batch` counts: bool (B, 1, H, W), of boxes (B, 1).

    It must be measured, and a disparity lies above 0 and below `limit`, where that is given.

    Args:
        like: an output (B, C, H, W), or boxes (B, N, 4), for the shape when the batch has no such ground
            truth: it counts nowhere.
        ignore: of ground truth (B, H, W) without a mask, the value that says that it is unknown.
    """
    truth = batch.get(target)
    if truth is None:
        return torch.zeros_like(_positions(like), dtype=torch.bool)
    valid = batch.get(f"{target}_valid")
    if valid is None and ignore is not None:
        return (truth != ignore)[:, None]
    if valid is None:
        valid = torch.ones_like(_positions(truth), dtype=torch.bool)
    if target.startswith("disparity"):
        valid = valid & (truth > 0)
        if limit is not None:
            valid = valid & (truth < limit)
    return valid


def _positions(values: Tensor) -> Tensor:
    """Return something of the shape of a mask of `values`: a map's pixels, or the samples that have boxes."""
    return values.new_zeros(len(values), 1) if values.ndim == 3 else values[:, :1]


def place_mask(mask: Tensor, placement: Placement) -> Tensor:
    """Return `mask` (B, 1, H, W) of the sample at the size of a network's input; padding does not count."""
    if placement.scaled_size != placement.size:
        mask = F.interpolate(mask.float(), placement.scaled_size, mode="nearest-exact") > 0
    return F.pad(mask, placement.padding)


def resize_mask(mask: Tensor, tensor: Tensor) -> Tensor:
    """Return `mask` (B, 1, H, W) of the left view at the size of a tap: True where it has any True pixel.

    A tap of both views (2B, …) counts in its left half only: the mask says nothing of the right view.
    """
    small = F.adaptive_max_pool2d(mask.float(), tensor.shape[-2:]) > 0
    if len(tensor) == 2 * len(small):
        small = torch.cat((small, torch.zeros_like(small)))
    return small
