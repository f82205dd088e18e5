"""VNL: monocular depth as a distribution over logarithmic bins (Yin et al., ICCV 2019, "virtual normal").

Structured knowledge distillation (TPAMI, arXiv 1903.04197) distils its depth students from it: the teacher is
`vnl_resnext101`, the student `vnl_mobilenetv2`. Depth is the power of ten of the mean bin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ._layout import Layout, Rule
from .input_spec import InputSpec
from .layers.convolution import join
from .layers.encoders import dilate, image_encoder, resnet_features, staged_mobilenet_rules
from .layers.image import at_least_float32, check_image, depth_outputs, resize
from .registry import register_model


class FeatureTransfer(nn.Module):
    """A 1x1 convolution and two dilated 3x3 ones beside it (published as FTB)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=2, dilation=2)
        self.bn1 = nn.BatchNorm2d(outputs, momentum=0.5)
        self.conv3 = nn.Conv2d(outputs, outputs, 3, padding=2, dilation=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, H, W) for `x` (B, inputs, H, W)."""
        x = self.conv1(x)
        return (x + self.conv3(self.bn1(self.conv2(x)).relu())).relu()


class AdaptiveMerge(nn.Module):
    """The path plus a lateral whose channels are weighed by what both hold (published as AFA)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(2 * channels, channels // 8, 1, bias=False)
        self.conv2 = nn.Conv2d(channels // 8, channels, 1, bias=False)

    def forward(self, lateral: Tensor, path: Tensor) -> Tensor:
        """Return their sum; both are (B, channels, H, W)."""
        pooled = torch.cat((lateral, path), 1).mean((2, 3), keepdim=True)
        return self.conv2(self.conv1(pooled).relu()).sigmoid() * lateral + path


class Stage(nn.Module):
    """One step of the decoder: the path takes a lateral in."""

    def __init__(self, channels: int, outputs: int):
        super().__init__()
        self.merge, self.transfer = AdaptiveMerge(channels), FeatureTransfer(channels, outputs)

    def forward(self, lateral: Tensor, path: Tensor) -> Tensor:
        """Return (B, outputs, h, w) at the size of `lateral`."""
        return self.transfer(self.merge(lateral, resize(path, lateral.shape[-2:], align_corners=True)))


class AtrousContext(nn.Module):
    """The teacher's context: dilated convolutions and the mean, side by side, without activation."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(inputs, outputs, 1, bias=False)])
        self.convs += [nn.Conv2d(inputs, outputs, 3, padding=d, dilation=d, bias=False) for d in (2, 4, 6)]
        self.norms = nn.ModuleList(nn.BatchNorm2d(outputs, momentum=0.5) for _ in self.convs)
        self.pooled = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.pooled_norm = nn.BatchNorm2d(outputs, momentum=0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 5 outputs, H, W) for `x` (B, inputs, H, W)."""
        branches = [norm(conv(x)) for conv, norm in zip(self.convs, self.norms, strict=True)]
        mean = self.pooled_norm(self.pooled(x.mean((2, 3), keepdim=True)))
        return join(*branches, mean.expand(-1, -1, *x.shape[-2:]))


class PooledContext(nn.Module):
    """The student's context: the mean of a 1x1 convolution, as a constant map of fixed size."""

    def __init__(self, inputs: int, outputs: int, size: tuple[int, int]):
        super().__init__()
        self.pooled = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.pooled_norm = nn.BatchNorm2d(outputs, momentum=0.9)
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, *size) for `x` (B, inputs, H, W)."""
        mean = self.pooled_norm(self.pooled(x)).mean((2, 3), keepdim=True)
        return mean.expand(-1, -1, *self.size)


class BinnedDepth(nn.Module):
    """Depth from logits over bins that are equally wide in the logarithm.

    Args:
        bins: number of them.
        low, high: their range, metres.
    """

    centres: Tensor

    def __init__(self, bins: int, low: float, high: float):
        super().__init__()
        width = (math.log10(high) - math.log10(low)) / bins
        centres = math.log10(low) + width * (torch.arange(bins, dtype=torch.float64) + 0.5)
        self.register_buffer("centres", centres.float(), persistent=False)

    def forward(self, logits: Tensor) -> Tensor:
        """Return depth (B, 1, H, W), metres, of `logits` (B, bins, H, W)."""
        logits = at_least_float32(logits)
        centres = self.centres.to(logits.dtype).view(1, -1, 1, 1)
        return 10 ** (logits.softmax(1) * centres).sum(1, keepdim=True)


class VNL(nn.Module):
    """A depth network of the VNL family.

    Args:
        encoder: of timm.
        channels: of the encoder's stages, coarse to fine.
        context: of the coarsest.
        widths: of the coarsest lateral and of the others.
        bins, low, high: the distribution over depth, metres.

    Raises:
        UserError: an image below 32 px.
    """

    input_spec = InputSpec(multiple=1, min_size=(32, 32), refuses_smaller=True)
    taps: ClassVar[dict[str, tuple[str, ...]]] = {
        "features": tuple(f"laterals.{i}" for i in range(4)),
        "decoder": tuple(f"stages.{i}" for i in range(4)),
        "bins": ("predict",),
    }

    def __init__(
        self,
        encoder: nn.Module,
        channels: Sequence[int],
        context: nn.Module,
        widths: tuple[int, int],
        bins: int,
        low: float,
        high: float,
        rules: Sequence[Rule],
    ):
        super().__init__()
        coarse, fine = widths
        laterals = (coarse, fine, fine, fine)
        self.bins, self.depth_range = bins, (low, high)
        self.encoder, self.context = encoder, context
        self.laterals = nn.ModuleList(FeatureTransfer(a, b) for a, b in zip(channels, laterals, strict=True))
        inputs = 5 * coarse if isinstance(context, AtrousContext) else coarse
        # The published code gives a momentum in the place of epsilon.
        self.top = nn.Sequential(nn.Conv2d(inputs, coarse, 1, bias=False), nn.BatchNorm2d(coarse, eps=0.5))
        self.stages = nn.ModuleList(Stage(width, fine) for width in laterals)
        self.finest = FeatureTransfer(fine, fine)
        self.predict = nn.Conv2d(fine, bins, 3, padding=2, dilation=2)
        self.regress = BinnedDepth(bins, low, high)
        self.published = Layout((*rules, *_rules()))

    def forward(self, image: Tensor) -> dict[str, Any]:
        """Return `{"depth": (B, 1, H, W)}`, metres, of `image` (B, 3, H, W), normalised."""
        height, width = check_image(image, least=(32, 32))
        stages = self._stages(image)
        path = self.top(self.context(stages[0]))
        for lateral, features, stage in zip(self.laterals, stages, self.stages, strict=True):
            path = stage(lateral(features), path)
        path = self.finest(resize(path, (-(-height // 2), -(-width // 2)), align_corners=True))
        logits = self.predict(resize(path, (height, width), align_corners=True))
        return depth_outputs(self.regress(logits), self.training)

    def _stages(self, image: Tensor) -> list[Tensor]:
        """Return the encoder's features, coarse to fine."""
        if hasattr(self.encoder, "layer4"):
            return resnet_features(self.encoder, image)[:0:-1]
        modules = dict(self.encoder.named_children())
        x, stages = modules["bn1"](modules["conv_stem"](image)), []
        for i, stage in enumerate(modules["blocks"].children()):
            x = stage(x)
            if i in (1, 2, 4, 6):
                stages.append(x)
        return stages[::-1]


def _rules() -> tuple[Rule, ...]:
    encoder, decoder = "encoder_modules", "decoder_modules"
    rules: list[Rule] = [
        (f"{encoder}.topdown_lateral_modules.{{a}}.lateral", "laterals.{a}"),
        (f"{encoder}.bottomup_top.globalpool_conv1x1", "context.pooled"),
        (f"{encoder}.bottomup_top.globalpool_bn", "context.pooled_norm"),
        (f"{decoder}.top", "top"),
        (f"{decoder}.topdown_fcn5.ftb", "finest"),
        (f"{decoder}.topdown_predict.conv1", "predict"),
    ]
    for i, name in enumerate(("1x1", "3_1", "3_2", "3_3")):
        rules.append((f"{encoder}.bottomup_top.aspp_conv{name}", f"context.convs.{i}"))
        rules.append((f"{encoder}.bottomup_top.aspp_bn{name}", f"context.norms.{i}"))
    for i in range(4):
        rules.append((f"{decoder}.topdown_fcn{i + 1}.afa_block", f"stages.{i}.merge"))
        rules.append((f"{decoder}.topdown_fcn{i + 1}.ftb_block", f"stages.{i}.transfer"))
    return tuple(rules)


def _resnet_rules() -> tuple[Rule, ...]:
    published = "encoder_modules.bottomup.res"
    rules: list[Rule] = [(f"{published}1", "encoder")]
    for i in range(1, 5):
        block, ours = f"{published}{i + 1}.{{a}}", f"encoder.layer{i}.{{a}}"
        rules.append((f"{block}.shortcut.conv", f"{ours}.downsample.0"))
        rules.append((f"{block}.shortcut.bn", f"{ours}.downsample.1"))
        rules.append((block, ours))
    return tuple(rules)


def _with_resnext(name: str, bins: int, low: float, high: float, pretrained: bool) -> VNL:
    encoder = image_encoder(name, pretrained, output_stride=16)
    dilate([encoder.layer4], 2)
    channels, context = (2048, 1024, 512, 256), AtrousContext(2048, 512)
    return VNL(encoder, channels, context, (512, 256), bins, low, high, _resnet_rules())


@register_model("depth")
def vnl_resnext101(bins: int = 150, low: float = 0.1, high: float = 17.0, pretrained: bool = False) -> VNL:
    """VNL with ResNeXt101-32x4d, stride 16: the published teacher for NYU."""
    return _with_resnext("resnext101_32x4d.gluon_in1k", bins, low, high, pretrained)


@register_model("depth")
def vnl_resnext50(bins: int = 150, low: float = 0.1, high: float = 17.0, pretrained: bool = False) -> VNL:
    """VNL with ResNeXt50-32x4d, stride 16."""
    return _with_resnext("resnext50_32x4d.tv_in1k", bins, low, high, pretrained)


@register_model("depth")
def vnl_mobilenetv2(
    bins: int = 60,
    low: float = 0.1,
    high: float = 17.0,
    crop: Sequence[int] = (384, 384),
    pretrained: bool = False,
) -> VNL:
    """VNL with MobileNetV2, stride 8: the published student for NYU, trained on crops of `crop`."""
    encoder = image_encoder("mobilenetv2_100.ra_in1k", pretrained, output_stride=8)
    blocks = encoder.blocks
    dilate([blocks[3], blocks[4]], 2)
    dilate([blocks[5], blocks[6]], 4)
    encoder.conv_head, encoder.bn2 = nn.Identity(), nn.Identity()
    context = PooledContext(320, 128, (crop[0] // 8, crop[1] // 8))
    rules = staged_mobilenet_rules("encoder_modules.bottomup.res", "encoder")
    return VNL(encoder, (320, 96, 32, 24), context, (128, 64), bins, low, high, rules)
