"""Correlation of two feature maps over a window of displacements, without a loop over the displacements.

The direct formulation multiplies and averages once a displacement, 81 times for a window of 9 x 9. Here a row
of the first map is cut into blocks of 8 columns, each of which meets all the columns that it can reach in one
matrix product a row of the window. Of a product only a diagonal band is wanted, so half of the arithmetic
counts, but all of it runs at the speed of matrix products; the band is read in place (see `_band`). Large
maps of few channels, without gradients and on a CPU, are quicker the direct way, and go it.
`benchmarks/correlation.py` measures both.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import UserError
from .exporting import is_exporting

_BLOCK = 8
_LARGE = 4096  # px of a map from which few channels are quicker compared a displacement at a time


def correlation_1d(fixed: Tensor, searched: Tensor, displacement: int = 4) -> Tensor:
    """Return (B, 2d + 1, H, W): the mean over channels of `fixed(x) searched(x + i)` for i = -d … d.

    Both are (B, C, H, W); beyond its border `searched` is zero.

    Raises:
        UserError: maps that differ in shape.
    """
    _check(fixed, searched)
    return _correlate(fixed, searched, displacement, rows=0)


def correlation_2d(fixed: Tensor, searched: Tensor, displacement: int = 4) -> Tensor:
    """Return (B, (2d + 1)², H, W): the mean over channels of `fixed(p) searched(p + (dx, dy))`, dy outermost.

    Both are (B, C, H, W); beyond its border `searched` is zero.

    Raises:
        UserError: maps that differ in shape.
    """
    _check(fixed, searched)
    return _correlate(fixed, searched, displacement, rows=displacement)


def correlation_3d(fixed: Tensor, searched: Tensor, displacement: int = 4, depth: int = 0) -> Tensor:
    """Return (B, (2m + 1)(2d + 1)², H, W): as `correlation_2d`, with channels k = -m … m further, outermost.

    For cost volumes whose channels are hypotheses of disparity: c of `fixed` meets c + k of `searched`, zero
    beyond the last. The mean is over all C channels, however many met.

    Raises:
        UserError: maps that differ in shape.
    """
    _check(fixed, searched)
    channels = searched.shape[1]
    padded = F.pad(searched, (0, 0, 0, 0, depth, depth))
    shifted = [padded[:, k : k + channels] for k in range(2 * depth + 1)]
    return torch.cat([_correlate(fixed, maps, displacement, rows=displacement) for maps in shifted], 1)


def _check(fixed: Tensor, searched: Tensor) -> None:
    if fixed.ndim != 4 or fixed.shape != searched.shape:
        raise UserError(
            "a correlation takes two maps of one shape (B, C, H, W), "
            f"got {tuple(fixed.shape)} and {tuple(searched.shape)}"
        )


def _correlate(fixed: Tensor, searched: Tensor, reach: int, rows: int) -> Tensor:
    """Return (B, (2 rows + 1)(2 reach + 1), H, W)."""
    batch, channels, height, width = fixed.shape
    learns = torch.is_grad_enabled() and (fixed.requires_grad or searched.requires_grad)
    few = channels <= (16 if rows else 32) and fixed.device.type == "cpu"
    if few and not learns and not is_exporting() and height * width >= _LARGE:
        return _one_by_one(fixed, searched, reach, rows)
    # Tracers take one block to be one at any width: exported graphs have one more than they need, or two.
    blocks = width // _BLOCK + 2 if is_exporting() else (width + _BLOCK - 1) // _BLOCK
    full = blocks * _BLOCK
    margin = 2 * rows
    left = F.pad(fixed / channels, (0, full - width)).permute(0, 2, 3, 1)
    left = F.pad(left, (0, 0, 0, 0, 0, margin)).reshape(-1, _BLOCK, channels)
    # What a block can reach: itself and the 2 reach columns behind it, of the map padded on the left.
    padded = F.pad(searched, (reach, full + reach + _BLOCK - width, rows, rows)).transpose(1, 2)
    spans = [padded[..., i * _BLOCK : i * _BLOCK + full] for i in range(-(-2 * reach // _BLOCK) + 1)]
    reached = torch.cat([span.unflatten(-1, (blocks, _BLOCK)) for span in spans], -1)
    reached = reached[..., : _BLOCK + 2 * reach].transpose(2, 3).flatten(0, 2)
    # In the flat list of blocks a row of the image further is `blocks` further. The last `margin` rows of an
    # image then meet the next image: they are padding and are cut off.
    count = left.shape[0] - margin * blocks
    starts = [row * blocks for row in range(margin + 1)]
    products = torch.stack([torch.bmm(left[:count], reached[at : at + count]) for at in starts])
    band = _band(products, reach).permute(0, 3, 1, 2).flatten(2)
    band = F.pad(band, (0, margin * full)).unflatten(2, (batch, height + margin, full))
    return band[..., :height, :width].permute(2, 0, 1, 3, 4).flatten(1, 2)


def _one_by_one(fixed: Tensor, searched: Tensor, reach: int, rows: int) -> Tensor:
    """Return what `_correlate` does, a displacement at a time."""
    height, width = fixed.shape[-2:]
    padded = F.pad(searched, (reach, reach, rows, rows))
    shifts = [(y, x) for y in range(2 * rows + 1) for x in range(2 * reach + 1)]
    return torch.stack([(fixed * padded[..., y : y + height, x : x + width]).mean(1) for y, x in shifts], 1)


def _band(products: Tensor, reach: int) -> Tensor:
    """Return entries (i, i + j), j = 0 … 2 reach, of matrices (…, n, n + 2 reach): (…, n, 2 reach + 1).

    Entry (i, i + j) of the flat matrix stands at i (n + 2 reach + 1) + j.
    """
    rows, pitch = products.shape[-2:]
    flat, size = products.flatten(-2), 2 * reach + 1
    if is_exporting():  # exporters know padding better than windows
        return F.pad(flat, (0, rows)).unflatten(-1, (rows, pitch + 1))[..., :size]
    return flat.unfold(-1, size, pitch + 1)
