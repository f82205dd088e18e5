"""PSPNet with dilated residual encoders, as structured knowledge distillation trains it.

Pyramid Scene Parsing Network, Zhao et al., CVPR 2017 (https://arxiv.org/abs/1612.01105); teacher and student
of Structured Knowledge Distillation for Dense Prediction, Liu et al., CVPR 2019 and TPAMI
(https://arxiv.org/abs/1903.04197): a deep stem, output stride 8 by dilation, in-place activated
normalisation. `resnet18_cvpr19` is the student of the earlier version, without pyramid and with a 7x7 stem.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._layout import Layout
from .input_spec import InputSpec
from .layers.activated_norm import ActivatedNorm
from .layers.convolution import join
from .layers.exporting import is_exporting
from .layers.image import resize, segmentation_outputs
from .registry import register_model

# BGR levels of 255, less the mean of ImageNet, not divided by anything.
CAFFE_SPEC = InputSpec(
    mean=(104.00698793, 116.66876762, 122.67891434),
    std=(1.0, 1.0, 1.0),
    channels="bgr",
    range=255.0,
    multiple=1,
)

PUBLISHED = Layout(
    rules=(
        # The teacher's file holds pyramid and classifier in one sequence.
        ("head.0.stages", "pyramid.stages"),
        ("head.0.bottleneck", "pyramid.bottleneck"),
        ("head.1", "head"),
        ("pspmodule", "pyramid"),
        ("dsn", "auxiliary"),
    ),
    ignored=(r"fc(\.|$)",),  # the classifier of ImageNet
)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, both dilated, and a shortcut."""

    expansion = 1
    dilated_first = True

    def __init__(self, channels_in: int, planes: int, stride: int, dilation: int, norm: type[nn.Module]):
        super().__init__()
        first = dilation if self.dilated_first else 1
        self.conv1 = nn.Conv2d(channels_in, planes, 3, stride, first, first, bias=False)
        self.bn1 = norm(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, dilation, dilation, bias=False)
        self.bn2 = norm(planes)
        self.downsample = _projection(channels_in, planes, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output for `x` (B, C, H, W)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class HalfDilatedBlock(BasicBlock):
    """The basic block of the CVPR version, which dilates its second convolution alone."""

    dilated_first = False


class Bottleneck(nn.Module):
    """1x1, dilated 3x3 with the stride, 1x1 of four times the width, and a shortcut."""

    expansion = 4

    def __init__(self, channels_in: int, planes: int, stride: int, dilation: int, norm: type[nn.Module]):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, planes, 1, bias=False)
        self.bn1 = norm(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, dilation, dilation, bias=False)
        self.bn2 = norm(planes)
        self.conv3 = nn.Conv2d(planes, 4 * planes, 1, bias=False)
        self.bn3 = norm(4 * planes)
        self.downsample = _projection(channels_in, 4 * planes, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output for `x` (B, C, H, W)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class AdaptiveMean(nn.AdaptiveAvgPool2d):
    """`nn.AdaptiveAvgPool2d` of n x n regions that exports for every size.

    Exporters take regions to be as large as at the traced size; a product with the matrix of each region's
    weights they get right.
    """

    def __init__(self, regions: int):
        super().__init__(regions)
        self.regions = regions

    def forward(self, x: Tensor) -> Tensor:
        """Return the means (B, C, n, n) of `x` (B, C, H, W)."""
        if not is_exporting():
            return super().forward(x)
        rows, columns = (self._weights(x.shape[dim], x) for dim in (2, 3))
        return rows @ x @ columns.T

    def _weights(self, length: int, like: Tensor) -> Tensor:
        count = self.regions
        at = torch.arange(length, device=like.device)[None]
        region = torch.arange(count, device=like.device)[:, None]
        # Region i reaches from floor(i L / n) to ceil((i + 1) L / n).
        inside = ((at + 1) * count > region * length) & (at * count < (region + 1) * length)
        weights = inside.to(like.dtype)
        return weights / weights.sum(1, keepdim=True)


class Pyramid(nn.Module):
    """Means over 1, 4, 9 and 36 regions beside the feature itself, mixed by one convolution."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        sizes = (1, 2, 3, 6)
        self.stages = nn.ModuleList(
            nn.Sequential(
                AdaptiveMean(size),
                nn.Conv2d(channels, width, 1, bias=False),
                ActivatedNorm(width, slope=0.01),
            )
            for size in sizes
        )
        self.bottleneck = nn.Sequential(
            nn.Conv2d(channels + len(sizes) * width, width, 3, padding=1, bias=False),
            ActivatedNorm(width, slope=0.01),
            nn.Dropout2d(0.1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the pyramid's feature (B, width, H, W) for `x` (B, C, H, W)."""
        levels = [resize(stage(x), x.shape[-2:], align_corners=True) for stage in self.stages]
        return self.bottleneck(join(*levels, x))


class PSPNet(nn.Module):
    """A dilated residual encoder of stride 8, the pyramid, and an auxiliary head from layer 3.

    Args:
        block: of the encoder.
        layers: blocks of its four layers.
        classes: that are told apart.

    In training mode `intermediate` holds the auxiliary head's logits, then the final ones.
    """

    input_spec = CAFFE_SPEC
    published = PUBLISHED
    taps: ClassVar[dict[str, tuple[str, ...]]] = {
        **{f"features.layer{i}": (f"layer{i}",) for i in (1, 2, 3, 4)},
        "pyramid": ("pyramid",),
        "scores": ("head",),
        "scores.auxiliary": ("auxiliary",),
    }

    def __init__(self, block: type[BasicBlock | Bottleneck], layers: Sequence[int], classes: int = 19):
        super().__init__()
        self.classes = classes
        self.conv1 = nn.Conv2d(3, 64, 3, 2, 1, bias=False)
        self.bn1 = ActivatedNorm(64)
        self.conv2 = nn.Conv2d(64, 64, 3, 1, 1, bias=False)
        self.bn2 = ActivatedNorm(64)
        self.conv3 = nn.Conv2d(64, 128, 3, 1, 1, bias=False)
        self.bn3 = ActivatedNorm(128)
        self.pool = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
        widths = [128] + [planes * block.expansion for planes in (64, 128, 256, 512)]
        for i, (planes, stride, dilation) in enumerate(
            ((64, 1, 1), (128, 2, 1), (256, 1, 2), (512, 1, 4)), start=1
        ):
            layer = make_layer(block, widths[i - 1], planes, layers[i - 1], stride, dilation, ActivatedNorm)
            setattr(self, f"layer{i}", layer)
        width = widths[4] // 4
        self.pyramid = Pyramid(widths[4], width)
        self.head = nn.Conv2d(width, classes, 1)
        self.auxiliary = nn.Sequential(
            nn.Conv2d(widths[3], width, 3, 1, 1),
            ActivatedNorm(width, slope=0.01),
            nn.Dropout2d(0.1),
            nn.Conv2d(width, classes, 1),
        )
        initialise(self)

    def forward(self, image: Tensor) -> dict[str, Any]:
        """Return `logits` (B, classes, H, W) for a prepared `image` (B, 3, H, W)."""
        x = F.relu(self.bn1(self.conv1(image)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = self.pool(F.relu(self.bn3(self.conv3(x))))
        for i in (1, 2, 3):
            x = self.get_submodule(f"layer{i}")(x)
        scores = self.head(self.pyramid(self.get_submodule("layer4")(x)))
        heads = [self.auxiliary(x), scores] if self.training else [scores]
        return segmentation_outputs(heads, image.shape[-2:], self.training)


class PlainResNet(nn.Module):
    """ResNet-18 of stride 8 with a 7x7 stem and a 1x1 head, no pyramid (the student of the CVPR version)."""

    input_spec = CAFFE_SPEC
    published = Layout(rules=(("layer6", "head"),), ignored=(r"fc(\.|$)",))
    taps: ClassVar[dict[str, tuple[str, ...]]] = {
        **{f"features.layer{i}": (f"layer{i}",) for i in (1, 2, 3, 4)},
        "scores": ("head",),
    }

    def __init__(self, classes: int = 19):
        super().__init__()
        self.classes = classes
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.pool = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
        norm = nn.BatchNorm2d
        self.layer1 = make_layer(BasicBlock, 64, 64, 2, 1, 1, norm)
        self.layer2 = make_layer(BasicBlock, 64, 128, 2, 2, 1, norm)
        self.layer3 = make_layer(HalfDilatedBlock, 128, 256, 2, 1, 2, norm)
        self.layer4 = make_layer(HalfDilatedBlock, 256, 512, 2, 1, 4, norm)
        self.head = nn.Conv2d(512, classes, 1)
        initialise(self)

    def forward(self, image: Tensor) -> dict[str, Any]:
        """Return `logits` (B, classes, H, W) for a prepared `image` (B, 3, H, W)."""
        x = self.pool(F.relu(self.bn1(self.conv1(image))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return segmentation_outputs([self.head(x)], image.shape[-2:], self.training)


def make_layer(
    block: type[BasicBlock | Bottleneck],
    channels_in: int,
    planes: int,
    count: int,
    stride: int,
    dilation: int,
    norm: type[nn.Module],
) -> nn.Sequential:
    """Return `count` blocks, of which the first has the stride; all have the dilation."""
    width = planes * block.expansion
    first = block(channels_in, planes, stride, dilation, norm)
    return nn.Sequential(first, *(block(width, planes, 1, dilation, norm) for _ in range(count - 1)))


def initialise(network: nn.Module) -> None:
    """Draw convolutions from N(0, 2 / (k k channels out)), the rule of ResNet's authors."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels
            nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _projection(
    channels_in: int, channels_out: int, stride: int, norm: type[nn.Module]
) -> nn.Sequential | None:
    if stride == 1 and channels_in == channels_out:
        return None
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), norm(channels_out))


@register_model("segmentation")
def pspnet_r101(classes: int = 19) -> PSPNet:
    """PSPNet with ResNet-101, the teacher: 70.4 M parameters with the auxiliary head."""
    return PSPNet(Bottleneck, (3, 4, 23, 3), classes)


@register_model("segmentation")
def pspnet_r18(classes: int = 19) -> PSPNet:
    """PSPNet with ResNet-18, the student on Cityscapes: 13.1 M parameters with the auxiliary head."""
    return PSPNet(BasicBlock, (2, 2, 2, 2), classes)


@register_model("segmentation")
def resnet18_cvpr19(classes: int = 19) -> PlainResNet:
    """ResNet-18 without a pyramid, the student of the CVPR version: 11.2 M parameters."""
    return PlainResNet(classes)
