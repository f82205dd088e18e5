"""Sampling a map where a motion leads, and resizing as TensorFlow 1 did."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .image import at_least_float32


def warp(image: Tensor, motion: Tensor) -> Tensor:
    """Return `image` (B, C, H, W) sampled bilinearly at p + `motion` (B, 2, H, W; px, x before y).

    Beyond the border the nearest pixel counts. Positions are computed in float32 at least.
    """
    image = at_least_float32(image)
    height, width = image.shape[-2:]
    position = _positions(motion.to(image.dtype), height, width)
    # Divided one by one: a tensor of both sizes would hold those of the tracing in an exported graph.
    x, y = position.unbind(-1)
    grid = torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), -1)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)


def inside(motion: Tensor) -> Tensor:
    """Return where p + `motion` (B, 2, H, W; px) lies in the image, borders included: bool (B, 1, H, W)."""
    height, width = motion.shape[-2:]
    x, y = _positions(motion.float(), height, width).unbind(-1)
    return ((x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1))[:, None]


def _positions(motion: Tensor, height: int, width: int) -> Tensor:
    columns = torch.arange(width, device=motion.device, dtype=motion.dtype)
    rows = torch.arange(height, device=motion.device, dtype=motion.dtype)[:, None]
    return torch.stack((motion[:, 0] + columns, motion[:, 1] + rows), -1)


def resize_legacy(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Return `image` (B, C, H, W) at `size` as TensorFlow 1's `resize_bilinear` without aligned corners does.

    Output cell i lies at i * in / out, without the shift of half a pixel that PyTorch knows; the neighbour
    beyond the last pixel is the last.
    """
    for axis, length in ((-2, size[0]), (-1, size[1])):
        source = image.shape[axis]
        position = torch.arange(length, device=image.device, dtype=torch.float32) * (source / length)
        first = position.floor()
        share = (position - first).to(image.dtype)
        share = share[:, None] if axis == -2 else share
        low = first.long().clamp(max=source - 1)
        near, far = image.index_select(axis, low), image.index_select(axis, (low + 1).clamp(max=source - 1))
        image = near + (far - near) * share
    return image


def resize_area(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Return `image` (B, C, H, W) at `size`, each cell the mean over its area in the source (TensorFlow's
    AREA).

    Enlarging blends at most two pixels an axis.
    """
    rows, columns = (
        _overlaps(source, length).to(image) for source, length in zip(image.shape[-2:], size, strict=True)
    )
    return rows @ image @ columns.T


def _overlaps(source: int, length: int) -> Tensor:
    """Return the share of source pixel j in output cell i, (length, source), float64."""
    edges = torch.arange(length + 1, dtype=torch.float64) * source / length
    pixel = torch.arange(source, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], pixel + 1) - torch.maximum(edges[:-1, None], pixel)
    return overlap.clamp(min=0) * length / source
