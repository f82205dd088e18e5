"""Self-attention inside the windows of a volume (ACVNet, CVPR 2022, published code)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .convolution import Conv3d

WINDOW = 4
_MASKED = -1000.0


class WindowAttention(nn.Module):
    """Multi-head attention among the 64 voxels of each 4x4x4 window; the result replaces the input.

    Height and width are zero-padded at the bottom and on the right to multiples of 4. As in the published
    network, padded voxels are kept from the others only where both axes are padded; where one is, they take
    part with the bias as their query, key and value.

    Args:
        channels: of the volume, divisible by `heads`.
        heads: number of heads.
    """

    def __init__(self, channels: int, heads: int = 16):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = Conv3d(channels, channels, 1)

    def forward(self, volume: Tensor) -> Tensor:
        """Return (B, C, D, H, W) for `volume` of that shape; D is a multiple of 4."""
        batch, channels, depth, height, width = volume.shape
        bottom, right = -height % WINDOW, -width % WINDOW
        any_size = not (isinstance(height, int) and isinstance(width, int))
        mask = None
        if any_size:
            volume, mask = _pad_any(volume, height + bottom, width + right)
        elif bottom or right:
            volume = F.pad(volume, (0, right, 0, bottom))
            mask = _padding_mask(volume, height, width) if bottom and right else None
        counts = (depth // WINDOW, (height + bottom) // WINDOW, (width + right) // WINDOW)
        windows = volume.view(batch, channels, counts[0], WINDOW, counts[1], WINDOW, counts[2], WINDOW)
        tokens = windows.permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(-1, WINDOW**3, channels)
        qkv = self.qkv(tokens).view(-1, WINDOW**3, 3, self.heads, channels // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if mask is not None:
            mask = mask.repeat(batch * counts[0], 1, 1)[:, None].to(query.dtype)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        mixed = mixed.transpose(1, 2).reshape(batch, *counts, WINDOW, WINDOW, WINDOW, channels)
        merged = mixed.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(volume.shape)
        if any_size:
            # A slice would be traced for sizes that are padded, or for those that are not.
            row, column = (torch.arange(count, device=merged.device) for count in (height, width))
            return self.project(merged.index_select(3, row).index_select(4, column))
        return self.project(merged[..., :height, :width])


def _padding_mask(volume: Tensor, height: int, width: int) -> Tensor:
    """Return what is added to the attention of a slab: (windows, 64, 64), -1000 between padded and other."""
    padded = torch.ones(volume.shape[-2:], device=volume.device)
    padded[:height, :width] = 0
    return _between(padded)


def _pad_any(volume: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Return `volume` padded to `rows` x `columns`, and its mask, in a graph that holds for any size.

    Whether there is anything to pad, which decides about the mask, is computed and not traced.
    """
    height, width = volume.shape[-2:]
    row, column = (torch.arange(count, device=volume.device) for count in (rows, columns))
    volume = volume.index_select(3, row.clamp(max=height - 1)).index_select(4, column.clamp(max=width - 1))
    below, beyond = (row >= height).float()[:, None], (column >= width).float()
    padded = torch.maximum(below, beyond)
    # The last row and column are padded where any is.
    return volume * (1 - padded).to(volume.dtype), _between(padded) * (below[-1] * beyond[-1])


def _between(padded: Tensor) -> Tensor:
    rows, columns = padded.shape
    windows = (
        padded.view(rows // WINDOW, WINDOW, columns // WINDOW, WINDOW).transpose(1, 2).reshape(-1, WINDOW**2)
    )
    windows = windows.repeat(1, WINDOW)
    return (windows[:, :, None] != windows[:, None, :]).float() * _MASKED
