"""Cost volumes in chunks of rows that stay in the processor's cache.

Pixels of a row are counted by n = x - d, the column of the right view that matches the left's column x. In
these coordinates a volume stored as (D, rows, W, G) is a plain strided view, `skewed` below: a step in d is
also one pixel along. So one product over (D, rows, W * G), with long contiguous runs, serves all disparities.
Where n + d runs over the end of a row, the view falls on the columns x < d of the next. Operands are padded
with zeros there, so that what is written is the 0 these columns have by definition.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

# Numbers of a chunk for each thread: 0.5 MB, a quarter of a usual second-level cache.
_CHUNK_NUMBERS = 125_000


class _Chunk:
    """A piece of a volume, (D, rows, W, G), and its skewed view (D, rows, W * G)."""

    def __init__(self, like: Tensor, levels: int, rows: int, width: int, groups: int):
        count = levels * rows * width * groups
        # The skewed view's last rows end up to D - 1 pixels later.
        memory = like.new_zeros(count + levels * groups)
        row = width * groups
        self.volume = memory[:count].view(levels, rows, width, groups)
        self.skewed = memory.as_strided((levels, rows, row), (rows * row + groups, row, 1))


def _row_chunks(height: int, numbers: int, device: torch.device) -> Iterator[tuple[int, int]]:
    threads = max(2, torch.get_num_threads()) if device.type == "cpu" else 1024
    rows = min(height, max(1, threads * _CHUNK_NUMBERS // numbers))
    for begin in range(0, height, rows):
        yield begin, min(begin + rows, height)


def _by_channel(features: Tensor, groups: int) -> Tensor:
    """Return features (B, C, H, W) as (B, C / G, H, W, G), at least float32 and contiguous."""
    batch, channels, height, width = features.shape
    dtype = torch.promote_types(features.dtype, torch.float32)
    features = features.view(batch, groups, channels // groups, height, width)
    return features.permute(0, 2, 3, 4, 1).to(dtype).contiguous()


def _windows(padded: Tensor, levels: int, width: int, groups: int) -> Tensor:
    """View rows (rows, W + D - 1, G), zero from W on, as what the skewed view reads: (D, rows, W * G)."""
    rows = padded.shape[0]
    strides = (groups, padded.shape[1] * groups, 1)
    return padded.as_strided((levels, rows, width * groups), strides, padded.storage_offset())


def correlation(left: Tensor, right: Tensor, levels: int, groups: int) -> Tensor:
    """Return the group-wise correlation volume (B, G, D, H, W), G innermost in memory."""
    batch, channels, height, width = left.shape
    out = left.new_empty(batch, levels, height, width, groups)
    lefts = F.pad(_by_channel(left, groups) * (groups / channels), (0, 0, 0, levels - 1))
    rights = _by_channel(right, groups).flatten(3)
    chunk = None
    for image in range(batch):
        for begin, end in _row_chunks(height, levels * width * groups, left.device):
            rows = end - begin
            if chunk is None or chunk.volume.shape[1] != rows:
                chunk = _Chunk(lefts, levels, rows, width, groups)
            for channel in range(channels // groups):
                a = _windows(lefts[image, channel, begin:end], levels, width, groups)
                b = rights[image, channel, begin:end]
                if channel == 0:
                    torch.mul(a, b, out=chunk.skewed)
                else:
                    chunk.skewed.addcmul_(a, b)
            out[image, :, begin:end] = chunk.volume
    return out.permute(0, 4, 1, 2, 3)


def correlation_backward(
    gradient: Tensor, left: Tensor, right: Tensor, levels: int, groups: int
) -> tuple[Tensor, Tensor]:
    """Return the gradients of `left` and `right` (B, C, H, W), given the volume's (B, G, D, H, W)."""
    batch, channels, height, width = left.shape
    lefts, rights = (_by_channel(x, groups).flatten(3) for x in (left, right))
    left_gradients, right_gradients = torch.zeros_like(rights), torch.zeros_like(rights)
    for image in range(batch):
        # Features and their gradients, of all channels, stay in the cache while disparities pass by.
        for begin, end in _row_chunks(height, 3 * channels * width, left.device):
            volume = gradient[image, :, :, begin:end].permute(1, 2, 3, 0).to(lefts.dtype)
            volume = volume.flatten(2)  # (D, rows, W * G)
            one, other, one_gradient, other_gradient = (
                x[image, :, begin:end] for x in (lefts, rights, left_gradients, right_gradients)
            )
            for d in range(min(levels, width)):
                shift, run = d * groups, (width - d) * groups
                one_gradient[..., shift:].addcmul_(volume[d, :, shift:], other[..., :run])
                other_gradient[..., :run].addcmul_(volume[d, :, shift:], one[..., shift:])
    for gradients in (left_gradients, right_gradients):
        gradients.mul_(groups / channels)
    return _to_features(left_gradients, left), _to_features(right_gradients, right)


def _to_features(rows: Tensor, like: Tensor) -> Tensor:
    """Return (B, C / G, H, W * G) as (B, C, H, W), channels innermost in memory, in the type of `like`."""
    batch, channels, height, width = like.shape
    by_pixel = rows.view(batch, rows.shape[1], height, width, -1).permute(0, 2, 3, 4, 1)
    return by_pixel.to(like.dtype).reshape(batch, height, width, channels).permute(0, 3, 1, 2)


def concatenation(left: Tensor, right: Tensor, levels: int, mask_left: bool) -> Tensor:
    """Return the concatenation volume (B, 2C, D, H, W), channels innermost in memory."""
    batch, channels, height, width = left.shape
    out = left.new_empty(batch, levels, height, width, 2 * channels)
    columns, shown = _columns(levels, width, left.device)
    lefts = left.permute(0, 2, 3, 1).contiguous()
    # One more column than the image has, all zero, which stands for what lies left of it.
    rights = F.pad(right.permute(0, 2, 3, 1), (0, 0, 0, 1))
    for image in range(batch):
        for begin, end in _row_chunks(height, levels * width * channels, left.device):
            rows = torch.arange(end - begin, device=left.device)[:, None] * (width + 1)
            picked = rights[image, begin:end].flatten(0, 1)[(columns[:, None] + rows).flatten()]
            out[image, :, begin:end, :, channels:] = picked.view(levels, end - begin, width, channels)
            if mask_left:
                weight = shown[:, None, :, None].to(left.dtype)
                torch.mul(lefts[image, begin:end], weight, out=out[image, :, begin:end, :, :channels])
            else:
                out[image, :, begin:end, :, :channels] = lefts[image, begin:end]
    return out.permute(0, 4, 1, 2, 3)


def concatenation_backward(gradient: Tensor, levels: int, mask_left: bool) -> tuple[Tensor, Tensor]:
    """Return the gradients of `left` and `right` (B, C, H, W), given the volume's (B, 2C, D, H, W)."""
    batch, channels, _, height, width = gradient.shape
    channels //= 2
    dtype = torch.promote_types(gradient.dtype, torch.float32)
    out = gradient.new_empty(2, batch, height, width, channels)
    _, shown = _columns(levels, width, gradient.device)
    weight = shown[:, None, :, None].to(dtype)
    chunk = None
    for image in range(batch):
        volume = gradient[image].permute(1, 2, 3, 0)
        for begin, end in _row_chunks(height, levels * width * channels, gradient.device):
            if chunk is None or chunk.volume.shape[1] != end - begin:
                chunk = _Chunk(weight, levels, end - begin, width, channels)
            part = volume[:, begin:end, :, :channels]
            if mask_left:
                part = torch.mul(part, weight, out=chunk.volume)
            out[0, image, begin:end] = part.sum(0, dtype=dtype)
            torch.mul(volume[:, begin:end, :, channels:], weight, out=chunk.volume)
            out[1, image, begin:end] = chunk.skewed.sum(0).view(-1, width, channels)
    return out[0].permute(0, 3, 1, 2), out[1].permute(0, 3, 1, 2)


def _columns(levels: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the right view's column for each disparity and column (D, W), `width` where it has none, and
    whether it has one."""
    columns = torch.arange(width, device=device) - torch.arange(levels, device=device)[:, None]
    return columns.where(columns >= 0, width), columns >= 0
