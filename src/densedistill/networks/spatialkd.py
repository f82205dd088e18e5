"""Spatial-KD: monocular depth by decomposition and replacement (Song and Kim, JVCIR 85, 103523, 2022).

An image encoder, five adaptation blocks to common widths, and a small decoder that teacher and students
share: a student is put in front of its teacher's trained, frozen decoder. Images are halved before the
network and depth is doubled after it (`input_spec.scale`).

`spatialkd_resnext101` is the teacher of the published runs, `spatialkd_mobilenetv2` (KITTI) and
`spatialkd_resnet18` (NYU) are their students. A network comes in two files, `encoder.pkl` and `decoder.pkl`:
load them with `weights="encoder.pkl+decoder.pkl"`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ._layout import Layout, Rule
from .input_spec import InputSpec
from .layers.encoders import (
    efficientnet_features,
    image_encoder,
    load_torchvision_mobilenet,
    mobilenet_features,
    mobilenet_rules,
    resnet_features,
)
from .layers.image import at_least_float32, check_image, depth_outputs, resize
from .registry import register_model

# What the adaptation blocks turn the five features of any encoder into.
WIDTHS = (64, 128, 256, 512, 1024)
_RESNET = (64, 256, 512, 1024, 2048)

Features = Callable[[nn.Module, Tensor], list[Tensor]]


def group_norm(channels: int) -> nn.GroupNorm:
    """Return a normalisation over groups of 16 channels."""
    return nn.GroupNorm(max(1, channels // 16), channels)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Return a batch normalisation that follows slowly, as published."""
    return nn.BatchNorm2d(channels, momentum=0.01)


class PreConv(nn.Sequential):
    """Normalisation, ReLU, convolution without bias, in this order."""

    def __init__(self, inputs: int, outputs: int, kernel: int, norm: Callable[[int], nn.Module] = group_norm):
        conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        super().__init__(norm(inputs), nn.ReLU(), conv)


class UpConv(nn.Module):
    """Normalisation, ReLU, bilinear resizing, 3x3 convolution without bias."""

    def __init__(self, inputs: int, outputs: int, norm: Callable[[int], nn.Module] = group_norm):
        super().__init__()
        self.norm = norm(inputs)
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Return (B, outputs, *size) for `x` (B, inputs, h, w)."""
        return self.conv(resize(self.norm(x).relu(), size))


class AdaptedEncoder(nn.Module):
    """An image encoder whose five features are adapted to `WIDTHS`.

    Args:
        backbone: of timm.
        features: from backbone and image to its features at strides 2, 4, 8, 16 and 32.
        channels: of these features.
        widths: what they are adapted to.
    """

    def __init__(
        self, backbone: nn.Module, features: Features, channels: Sequence[int], widths: Sequence[int] = WIDTHS
    ):
        super().__init__()
        self.backbone = backbone
        self.features = features
        self.adapters = nn.ModuleList(
            PreConv(c, width, 1, batch_norm) for c, width in zip(channels, widths, strict=True)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the five adapted features of `image` (B, 3, H, W)."""
        features = self.features(self.backbone, image)
        return [adapter(x) for adapter, x in zip(self.adapters, features, strict=True)]


class Decoder(nn.Module):
    """From five features to depth, from coarse to fine, with skips (published as decoder_0 to decoder_5).

    Args:
        max_depth: metres; depth lies between 0 and this.
        widths: of the features.
        outputs: channels of the five stages.
    """

    def __init__(
        self,
        max_depth: float,
        widths: Sequence[int] = WIDTHS,
        outputs: Sequence[int] = (512, 128, 64, 32, 16),
    ):
        super().__init__()
        self.max_depth = max_depth
        skips = [*reversed(widths[:4])]
        self.up = nn.ModuleList([UpConv(widths[4], outputs[0])])
        self.reduce = nn.ModuleList()
        for i in range(4):
            inner = outputs[i + 1] * 2
            self.reduce.append(PreConv(outputs[i] + skips[i], inner, 1))
            self.up.append(UpConv(inner, outputs[i + 1]))
        self.head = PreConv(outputs[4], 1, 3)

    def forward(self, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Return the depth (B, 1, *size), metres, of five features, fine to coarse."""
        skips = [*reversed(features[:4])]
        sizes = [*((x.shape[-2], x.shape[-1]) for x in skips), size]
        x = self.up[0](features[4], sizes[0])
        for i, (reduce, skip) in enumerate(zip(self.reduce, skips, strict=True)):
            height, width = sizes[i]
            x = self.up[i + 1](reduce(torch.cat((x, skip), 1)), (2 * height, 2 * width))
        return at_least_float32(self.head(x)).sigmoid() * self.max_depth


class SpatialKD(nn.Module):
    """A depth network of the Spatial-KD family.

    Args:
        encoder: from an image to five features, of `WIDTHS` for the published decoder.
        max_depth: metres; 80 for KITTI, 10 for NYU.
        rules: names of the published backbone's entries to ours; the same by default.
        decoder: another decoder than the published one.

    Raises:
        UserError: an image whose size is no multiple of 16, or below 32 px.
    """

    input_spec = InputSpec(scale=0.5, antialias=False, multiple=16, min_size=(64, 64), refuses_smaller=True)
    taps: ClassVar[dict[str, tuple[str, ...]]] = {
        "features": tuple(f"encoder.adapters.{i}" for i in range(5)),
        "decoder": tuple(f"decoder.up.{i}" for i in range(5)),
        "replaceable": ("encoder.adapters.4", "decoder.up.0", "decoder.up.1", "decoder.up.2"),
    }

    def __init__(
        self,
        encoder: nn.Module,
        max_depth: float,
        rules: Sequence[Rule] = (),
        decoder: nn.Module | None = None,
    ):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder or Decoder(max_depth)
        self.max_depth = max_depth
        self.published = _layout(rules)

    def forward(self, image: Tensor) -> dict[str, Any]:
        """Return `{"depth": (B, 1, H, W)}`, metres, of `image` (B, 3, H, W), halved and normalised."""
        size = check_image(image, 16, (32, 32))
        return depth_outputs(self.decoder(self.encoder(image), size), self.training)


def _layout(backbone: Sequence[Rule]) -> Layout:
    rules: list[Rule] = [*backbone, ("encoder.encoder", "encoder.backbone")]
    rules += [
        ("encoder.conv_convert_list.{a}.module.{b}", "encoder.adapters.{a}.{b}"),
        ("decoder_{a}_up", "decoder.up.{a}"),
        *((f"decoder_{i + 1}_reduc.module.{{a}}", f"decoder.reduce.{i}.{{a}}") for i in range(4)),
        ("decoder_5.module.{a}", "decoder.head.{a}"),
    ]
    return Layout(tuple(rules), parts=("encoder", "decoder"))


@register_model("depth")
def spatialkd_resnext101(max_depth: float = 80.0, pretrained: bool = False) -> SpatialKD:
    """The published teacher: ResNeXt101-32x8d."""
    backbone = image_encoder("resnext101_32x8d.tv_in1k", pretrained)
    return SpatialKD(AdaptedEncoder(backbone, resnet_features, _RESNET), max_depth)


@register_model("depth")
def spatialkd_resnet50(max_depth: float = 80.0, pretrained: bool = False) -> SpatialKD:
    """The student with ResNet50."""
    backbone = image_encoder("resnet50.tv_in1k", pretrained)
    return SpatialKD(AdaptedEncoder(backbone, resnet_features, _RESNET), max_depth)


@register_model("depth")
def spatialkd_resnet18(max_depth: float = 80.0, pretrained: bool = False) -> SpatialKD:
    """The published student for NYU: ResNet18."""
    backbone = image_encoder("resnet18.tv_in1k", pretrained)
    return SpatialKD(AdaptedEncoder(backbone, resnet_features, (64, 64, 128, 256, 512)), max_depth)


@register_model("depth")
def spatialkd_mobilenetv2(max_depth: float = 80.0, pretrained: bool = False) -> SpatialKD:
    """The published student for KITTI: MobileNetV2, tapped inside its blocks, three residuals left out."""
    backbone = image_encoder("mobilenetv2_100")
    if pretrained:
        load_torchvision_mobilenet(backbone)
    encoder = AdaptedEncoder(backbone, mobilenet_features, (32, 144, 192, 576, 1280))
    return SpatialKD(encoder, max_depth, mobilenet_rules("encoder.encoder.features", "encoder.backbone"))


@register_model("depth")
def spatialkd_efficientnet_b0(max_depth: float = 80.0, pretrained: bool = False) -> SpatialKD:
    """The student with EfficientNet-B0 (TensorFlow's padding, noisy-student weights)."""
    return _efficientnet("tf_efficientnet_b0.ns_jft_in1k", max_depth, pretrained)


@register_model("depth")
def spatialkd_efficientnet_b1(max_depth: float = 80.0, pretrained: bool = False) -> SpatialKD:
    """The student with EfficientNet-B1 (TensorFlow's padding, noisy-student weights)."""
    return _efficientnet("tf_efficientnet_b1.ns_jft_in1k", max_depth, pretrained)


def _efficientnet(name: str, max_depth: float, pretrained: bool) -> SpatialKD:
    backbone = image_encoder(name, pretrained)
    return SpatialKD(AdaptedEncoder(backbone, efficientnet_features, (16, 24, 40, 112, 1280)), max_depth)
