"""The 3D encoder-decoder (hourglass) that aggregates a cost volume (GwcNet, CVPR 2019, section 3.3)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .convolution import ConvNorm3d, TransposedConvNorm3d
from .window_attention import WindowAttention


class EncoderDecoder(nn.Module):
    """Down to a quarter in D, H and W and back, with a 1x1x1 convolution on both skips.

    Args:
        width: channels N of input and output; 2N and 4N inside.
        window_attention: attend within windows at the coarsest level (ACVNet); D / 4 is then a multiple of 4.
    """

    def __init__(self, width: int, window_attention: bool = False):
        super().__init__()
        self.encode1 = ConvNorm3d(width, 2 * width, stride=2)
        self.encode2 = ConvNorm3d(2 * width, 2 * width)
        self.encode3 = ConvNorm3d(2 * width, 4 * width, stride=2)
        self.encode4 = ConvNorm3d(4 * width, 4 * width)
        self.attention = WindowAttention(4 * width) if window_attention else None
        self.decode1 = TransposedConvNorm3d(4 * width, 2 * width)
        self.decode2 = TransposedConvNorm3d(2 * width, width)
        self.skip1 = ConvNorm3d(width, width, 1, relu=False)
        self.skip2 = ConvNorm3d(2 * width, 2 * width, 1, relu=False)

    def forward(self, volume: Tensor) -> Tensor:
        """Return (B, N, D, H, W) for `volume` of that shape; D, H and W are multiples of 4."""
        half = self.encode2(self.encode1(volume))
        quarter = self.encode4(self.encode3(half))
        if self.attention is not None:
            quarter = self.attention(quarter)
        half = F.relu(self.decode1(quarter) + self.skip2(half), inplace=True)
        return F.relu(self.decode2(half) + self.skip1(volume), inplace=True)
