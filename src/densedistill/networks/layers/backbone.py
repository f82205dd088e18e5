"""The 2D backbone that GwcNet, ACVNet, Lac-GwcNet and DSNet share (GwcNet, CVPR 2019, section 3.1)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...errors import UserError
from .convolution import ConvNorm2d, dense_gradient

BB56 = (3, 16, 3, 3)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, without activation after the addition."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, dilation: int = 1):
        super().__init__()
        self.conv1 = ConvNorm2d(inputs, outputs, 3, stride, dilation)
        self.conv2 = ConvNorm2d(outputs, outputs, 3, 1, dilation, relu=False)
        changes = stride != 1 or inputs != outputs
        self.shortcut = ConvNorm2d(inputs, outputs, 1, stride, relu=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, H / stride, W / stride) for `x` (B, inputs, H, W)."""
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return self.conv2(self.conv1(x)) + shortcut


class Backbone(nn.Module):
    """Features of an image at a quarter of its size.

    Args:
        blocks: residual blocks in each of the four stages; the fourth stage may have none.
        channels: of the stem and the first stage; the later stages have 2, 4 and 4 times as many.

    Attributes:
        outputs: channels of the output, those of the second, third and fourth stage in this order; 320 for
            32 channels and four stages.
        groups: groups of 8 channels that each of these stages contributes.
    """

    def __init__(self, blocks: Sequence[int] = BB56, channels: int = 32):
        super().__init__()
        if channels % 4:
            raise UserError(f"channels of the backbone must be a multiple of 4, got {channels}")
        self.stem = nn.Sequential(
            ConvNorm2d(3, channels, stride=2), ConvNorm2d(channels, channels), ConvNorm2d(channels, channels)
        )
        self.stage1 = _stage(channels, channels, blocks[0])
        self.stage2 = _stage(channels, 2 * channels, blocks[1], stride=2)
        self.stage3 = _stage(2 * channels, 4 * channels, blocks[2])
        self.stage4 = _stage(4 * channels, 4 * channels, blocks[3], dilation=2) if blocks[3] else None
        stages = [2 * channels, 4 * channels] + [4 * channels] * (blocks[3] > 0)
        self.outputs = sum(stages)
        self.groups = tuple(stage // 8 for stage in stages)

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, outputs, H / 4, W / 4) for `images` (B, 3, H, W)."""
        outputs = [self.stage2(self.stage1(self.stem(images)))]
        outputs.append(self.stage3(outputs[-1]))
        if self.stage4 is not None:
            outputs.append(self.stage4(outputs[-1]))
        return torch.cat([dense_gradient(output) for output in outputs], 1)


def compression(inputs: int, inner: int, outputs: int) -> nn.Sequential:
    """Return the two convolutions that compress features (B, inputs, h, w) for a concatenation volume."""
    return nn.Sequential(
        OrderedDict(conv=ConvNorm2d(inputs, inner), project=nn.Conv2d(inner, outputs, 1, bias=False))
    )


def _stage(inputs: int, outputs: int, blocks: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    first = ResidualBlock(inputs, outputs, stride, dilation)
    return nn.Sequential(first, *(ResidualBlock(outputs, outputs, 1, dilation) for _ in range(blocks - 1)))
