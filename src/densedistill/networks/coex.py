"""CoEx: real-time stereo by correlating and exciting (IROS 2021, arXiv 2108.05773), slim, for CPUs.

A narrow 3D hourglass over a correlation volume at a quarter of the size; at each of its sizes the left view's
features weigh the volume's channels (guided cost volume excitation). Disparity is read at that size, from the
likeliest levels alone, and every fine pixel is a weighted mean of the nine coarse ones around it. Here plain
residual blocks encode the images, in place of a MobileNetV2 that begins with ImageNet's weights, the
correlation is group-wise, and the hourglass ends at a sixteenth of the size. No published weights fit it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .input_spec import InputSpec
from .layers.aggregation import Head
from .layers.backbone import ResidualBlock
from .layers.convolution import (
    ConvNorm2d,
    ConvNorm3d,
    JoiningConv2d,
    TransposedConvNorm3d,
    initialise,
    part_views,
)
from .layers.pair import check_max_disparity, check_pair, check_window
from .layers.regression import regress_disparity
from .layers.volume import GroupwiseCorrelation
from .registry import register_model

CHANNELS = (16, 32, 48, 96)  # at strides 2, 4, 8 and 16


class Pyramid(nn.Module):
    """Features of an image at strides 2, 4, 8 and 16; those at 4 and 8 have seen the coarser ones."""

    def __init__(self, channels: Sequence[int] = CHANNELS):
        super().__init__()
        half, quarter, eighth, sixteenth = channels
        self.stem = nn.Sequential(ConvNorm2d(3, half, stride=2), ConvNorm2d(half, half))
        self.stage1, self.stage2 = _stage(half, quarter), _stage(quarter, eighth)
        self.stage3 = _stage(eighth, sixteenth)
        self.up2, self.up1 = Merge(sixteenth, eighth), Merge(eighth, quarter)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the features of `images` (B, 3, H, W), fine to coarse."""
        half = self.stem(images)
        quarter = self.stage1(half)
        eighth = self.stage2(quarter)
        sixteenth = self.stage3(eighth)
        eighth = self.up2(sixteenth, eighth)
        return half, self.up1(eighth, quarter), eighth, sixteenth


def _stage(inputs: int, outputs: int) -> nn.Sequential:
    """Return two residual blocks, the first of which halves the size."""
    return nn.Sequential(
        ResidualBlock(inputs, outputs, 2), nn.ReLU(), ResidualBlock(outputs, outputs), nn.ReLU()
    )


class Merge(nn.Module):
    """Coarse features, doubled in size, and fine ones made into fine ones."""

    def __init__(self, coarse: int, fine: int):
        super().__init__()
        self.project = ConvNorm2d(coarse, fine, 1, relu=False)
        self.conv = ConvNorm2d(fine, fine)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Return (B, fine, 2h, 2w) for (B, coarse, h, w) and (B, fine, 2h, 2w)."""
        return self.conv(F.relu(fine + F.interpolate(self.project(coarse), scale_factor=2.0, mode="nearest")))


class Excitation(nn.Module):
    """Guided cost volume excitation (section III-B): image features weigh the channels of a volume."""

    def __init__(self, features: int, channels: int):
        super().__init__()
        self.weigh = nn.Conv2d(features, channels, 1)

    def forward(self, volume: Tensor, features: Tensor) -> Tensor:
        """Return (B, N, D, h, w) for `volume` of that shape and `features` (B, C, h, w)."""
        return volume * self.weigh(features).sigmoid()[:, :, None]


class Hourglass(nn.Module):
    """Down to a quarter of D, h and w and back, excited by image features at each size on the way down."""

    def __init__(self, width: int, features: Sequence[int]):
        super().__init__()
        self.encode1 = nn.Sequential(ConvNorm3d(width, 2 * width, stride=2), ConvNorm3d(2 * width, 2 * width))
        self.excite1 = Excitation(features[0], 2 * width)
        self.encode2 = nn.Sequential(
            ConvNorm3d(2 * width, 4 * width, stride=2), ConvNorm3d(4 * width, 4 * width)
        )
        self.excite2 = Excitation(features[1], 4 * width)
        self.inner = nn.Sequential(ConvNorm3d(4 * width, 4 * width), ConvNorm3d(4 * width, 4 * width))
        self.decode2 = TransposedConvNorm3d(4 * width, 2 * width)
        self.join2 = ConvNorm3d(2 * width, 2 * width)
        self.decode1 = TransposedConvNorm3d(2 * width, width)

    def forward(self, volume: Tensor, eighth: Tensor, sixteenth: Tensor) -> Tensor:
        """Return (B, N, D, h, w) for `volume` of that shape; D, h and w are multiples of 4."""
        half = self.excite1(self.encode1(volume), eighth)
        quarter = self.inner(self.excite2(self.encode2(half), sixteenth))
        half = self.join2(F.relu(self.decode2(quarter) + half))
        return F.relu(self.decode1(half) + volume)


class Join(nn.Module):
    """Features at stride 4 and at stride 2, mixed by one convolution, normalised, with ReLU."""

    def __init__(self, half: int, quarter: int, outputs: int):
        super().__init__()
        self.conv = JoiningConv2d(half, quarter, outputs)
        self.norm = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, half: Tensor, quarter: Tensor) -> Tensor:
        """Return (B, outputs, h, w) for `half` (B, C, 2h, 2w) and `quarter` (B, C', h, w)."""
        return self.relu(self.norm(self.conv(half, quarter)))


class Upsampling(nn.Module):
    """Four times finer disparity: a mean of the nine coarse ones around, weighted by what the image shows."""

    def __init__(self, half: int, quarter: int, inner: int = 48):
        super().__init__()
        self.join = Join(half, quarter, inner)
        self.conv = ConvNorm2d(inner, inner)
        self.weigh = nn.Conv2d(inner, 9 * 16, 1)

    def forward(self, disparity: Tensor, half: Tensor, quarter: Tensor) -> Tensor:
        """Return (B, 1, 4h, 4w) for `disparity` (B, 1, h, w), features (B, C, 2h, 2w) and (B, C', h, w)."""
        weights = self.weigh(self.conv(self.join(half, quarter))).to(disparity.dtype).unflatten(1, (9, 16))
        # A softmax whose sum is divided by last: runtimes are slow at one over channels.
        weights = (weights - weights.detach().amax(1, keepdim=True)).exp()
        padded = F.pad(disparity, (1, 1, 1, 1), mode="replicate")
        height, width = disparity.shape[-2:]
        around = [padded[..., y : y + height, x : x + width] for y in range(3) for x in range(3)]
        fine = sum(weights[:, i] * one for i, one in enumerate(around)) / weights.sum(1)
        return F.pixel_shuffle(fine, 4)


class CoEx(nn.Module):
    """A slim CoEx.

    Level k of its logits stands for 4k px; in the networks of DSNet's family, which upsample logits before
    they read them, for 4k + 1.5. A term between the logits of the two teaches that difference, too: compare
    disparities.

    Args:
        channels: features at strides 2, 4, 8 and 16.
        width: channels N of the aggregated volume; 2N and 4N inside the hourglass.
        groups: of the correlation, 8 channels each.
        max_disparity: number M of disparities 0 … M-1 px, a multiple of 16.
        window: px on each side of the likeliest disparity that count for the expected one, in whole levels of
            4 px; None for all. The published network takes the two likeliest levels.

    Raises:
        UserError: an unfit `max_disparity` or `window`; views that differ or whose size is no multiple of 16.
    """

    input_spec = InputSpec(multiple=16, pad="top-right")

    def __init__(
        self,
        channels: Sequence[int] = CHANNELS,
        width: int = 8,
        groups: int = 8,
        max_disparity: int = 192,
        window: int | None = 4,
    ):
        super().__init__()
        check_max_disparity(max_disparity, 16)
        check_window(window)
        self.max_disparity, self.window = max_disparity, window
        half, quarter, eighth, sixteenth = channels
        self.features = Pyramid(channels)
        self.match = nn.ModuleList(
            [Join(half, quarter, 8 * groups), nn.Conv2d(8 * groups, 8 * groups, 1, bias=False)]
        )
        self.volume = GroupwiseCorrelation(max_disparity // 4, groups)
        self.reduce = ConvNorm3d(groups, width)
        self.excite = Excitation(quarter, width)
        self.hourglass = Hourglass(width, (eighth, sixteenth))
        self.head = Head(width)
        self.upsample = Upsampling(half, quarter)
        self.taps = {
            "features.early": ("features.stem", "features.stage1"),
            "features": ("features.up1",),
            "volume": ("volume",),
            "aggregation": ("head",),
            "encoders": ("hourglass",),
        }
        initialise(self)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Any]:
        """Return `{"disparity": (B, 1, H, W)}` in px; in training mode `"intermediate"`, too.

        `left` and `right` are (B, 3, H, W), normalised.
        """
        batch, size = check_pair(left, right)
        half, quarter, eighth, sixteenth = self.features(torch.cat((left, right)))
        join, project = self.match
        volume = self.volume(*part_views(project(join(half, quarter)), batch))
        half, quarter, eighth, sixteenth = (
            part_views(x, batch)[0] for x in (half, quarter, eighth, sixteenth)
        )
        volume = self.excite(self.reduce(volume), quarter)
        logits = self.head(self.hourglass(volume, eighth, sixteenth))
        window = None if self.window is None else -(-self.window // 4)
        fine = self.upsample(_read(logits, window), half, quarter)
        if not self.training:
            return {"disparity": fine}
        # All levels count here, so that those far from the likeliest learn, too.
        expected = F.interpolate(_read(logits, None), size, mode="bilinear", align_corners=False)
        return {"disparity": fine, "intermediate": [expected, fine]}


def _read(logits: Tensor, window: int | None) -> Tensor:
    """Return disparity (B, 1, h, w), px of the full size, for `logits` (B, 1, D, h, w); see `CoEx`."""
    levels, height, width = logits.shape[-3:]
    return 4 * regress_disparity(logits, levels, (height, width), window=window)


@register_model("stereo")
def coex_slim(max_disparity: int = 192, window: int | None = 4) -> CoEx:
    """A CoEx without pre-training, for CPUs: the fastest network that ships."""
    return CoEx(max_disparity=max_disparity, window=window)
