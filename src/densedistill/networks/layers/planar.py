"""2D blocks of networks that aggregate a cost volume with its disparities as channels (TSNnet)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .convolution import DepthwiseConv2d


def conv_norm(inputs: int, outputs: int, kernel: int = 1) -> nn.Sequential:
    """Return a convolution that keeps the size and a batch normalisation, without activation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs)
    )


class InvertedResidual(nn.Module):
    """Widen `factor` times, convolve each channel, narrow again; added to the input where shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, factor: int):
        super().__init__()
        hidden = inputs * factor
        self.adds = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            *(nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6(inplace=True)),
            *(DepthwiseConv2d(hidden, stride), nn.BatchNorm2d(hidden), nn.ReLU6(inplace=True)),
            *(nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, H / stride, W / stride) for `x` (B, inputs, H, W)."""
        return x + self.conv(x) if self.adds else self.conv(x)


class ResidualPair(nn.Module):
    """Two depthwise separable convolutions and a shortcut, without activation after the addition."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, dilation: int = 1):
        super().__init__()
        self.conv1 = nn.Sequential(
            *(DepthwiseConv2d(inputs, stride, dilation), nn.BatchNorm2d(inputs), nn.ReLU6(inplace=True)),
            *(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU6(inplace=True)),
        )
        self.conv2 = nn.Sequential(
            *(DepthwiseConv2d(outputs, dilation=dilation), nn.BatchNorm2d(outputs), nn.ReLU6(inplace=True)),
            *(nn.Conv2d(outputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)),
        )
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, H / stride, W / stride) for `x` (B, inputs, H, W)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.conv2(self.conv1(x)) + shortcut


class Bottleneck(nn.Module):
    """ResNet's bottleneck (CVPR 2016) without expansion, whose shortcut is a convolution."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        self.conv3, self.bn3 = nn.Conv2d(outputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.downsample = conv_norm(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, H, W), at least 0, for `x` (B, inputs, H, W)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class Hourglass(nn.Module):
    """Down to a quarter of the size and back by 2D convolutions, with a shortcut at each size."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = InvertedResidual(channels, 2 * channels, 2, 2)
        self.conv2 = InvertedResidual(2 * channels, 2 * channels, 1, 2)
        self.conv3 = InvertedResidual(2 * channels, 4 * channels, 2, 2)
        self.conv4 = InvertedResidual(4 * channels, 4 * channels, 1, 2)
        self.conv5 = _doubling(4 * channels, 2 * channels)
        self.conv6 = _doubling(2 * channels, channels)
        self.redir1 = InvertedResidual(channels, channels, 1, 2)
        self.redir2 = InvertedResidual(2 * channels, 2 * channels, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, channels, H, W) for `x` of that shape; H and W are multiples of 4."""
        half = self.conv2(self.conv1(x))
        quarter = self.conv4(self.conv3(half))
        up = F.relu(self.conv5(quarter) + self.redir2(half))
        return F.relu(self.conv6(up) + self.redir1(x))


class ChannelSlice(nn.Module):
    """Channels `begin` to `end` of a map as a module, so that a tap can name them."""

    def __init__(self, begin: int, end: int):
        super().__init__()
        self.begin, self.end = begin, end

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, end - begin, H, W) for `x` (B, C, H, W)."""
        return x[:, self.begin : self.end]


class Weighting(nn.Module):
    """An aggregated cost (B, D, H, W) times an attention (B, 1, D, H, W), as a module that a tap can name."""

    def forward(self, cost: Tensor, attention: Tensor) -> Tensor:
        """Return (B, 1, D, H, W) in the type of `cost`."""
        return cost[:, None] * attention.to(cost.dtype)


def _doubling(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, 3, 2, padding=1, output_padding=1, bias=False),
        nn.BatchNorm2d(outputs),
    )
