"""ESPNet and its encoder ESPNet-C: segmentation with a third of a million parameters.

ESPNet: Efficient Spatial Pyramid of Dilated Convolutions, Mehta et al., ECCV 2018
(https://arxiv.org/abs/1803.06815); students of structured knowledge distillation on CamVid and Cityscapes.
The published weights come in three layouts, which differ in what the decoder's last step reads; see `ESPNet`.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ._layout import Layout
from .input_spec import InputSpec
from .layers.convolution import join
from .layers.image import check_image, segmentation_outputs
from .pspnet import initialise
from .registry import register_model

_MEAN, _STD = (73.18188461, 82.93553322, 72.41519599), (45.3199, 46.1528, 44.9148)
SPEC = InputSpec(mean=_MEAN, std=_STD, channels="bgr", range=255.0, multiple=8)
# The authors of ESPNet divide by 255 once more.
UPSTREAM_SPEC = InputSpec(
    mean=_MEAN,
    std=(255 * _STD[0], 255 * _STD[1], 255 * _STD[2]),
    channels="bgr",
    range=255.0,
    multiple=8,
)

_ENCODER = tuple(
    (name, f"encoder.{name}")
    for name in ("level1", "b1", "level2_0", "level2", "b2", "level3_0", "level3", "b3")
)


def _conv(channels_in: int, channels_out: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Module:
    padding = (kernel - 1) // 2 * dilation
    conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding, dilation, bias=False)
    return nn.Sequential(OrderedDict(conv=conv))


def _norm_act(channels: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(bn=nn.BatchNorm2d(channels, eps=1e-3), act=nn.PReLU(channels)))


def _conv_norm_act(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False),
            bn=nn.BatchNorm2d(channels_out, eps=1e-3),
            act=nn.PReLU(channels_out),
        )
    )


class DilatedUnit(nn.Module):
    """Reduce, five parallel 3x3 convolutions of dilation 1 to 16, their hierarchical sums side by side.

    Args:
        channels_in, channels_out: numbers of channels.
        down: halve the resolution by a 3x3 reduction; else a 1x1 one keeps it.
        residual: add the input.
    """

    def __init__(self, channels_in: int, channels_out: int, down: bool = False, residual: bool = False):
        super().__init__()
        narrow = channels_out // 5
        first = channels_out - 4 * narrow
        self.residual, self.down = residual, down
        self.c1 = _conv(channels_in, narrow, 3, 2) if down else _conv(channels_in, narrow, 1)
        self.d1 = _conv(narrow, first, 3)
        for dilation in (2, 4, 8, 16):
            setattr(self, f"d{dilation}", _conv(narrow, narrow, 3, dilation=dilation))
        self.bn: nn.Module
        if down:
            self.bn = nn.BatchNorm2d(channels_out, eps=1e-3)
            self.act = nn.PReLU(channels_out)
        else:
            self.bn = _norm_act(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """Return the unit's output for `x` (B, C, H, W)."""
        reduced = self.c1(x)
        total, parts = None, [self.d1(reduced)]
        for dilation in (2, 4, 8, 16):
            part = getattr(self, f"d{dilation}")(reduced)
            total = part if total is None else total + part
            parts.append(total)
        y = torch.cat(parts, 1)
        if self.down:
            return self.act(self.bn(y))
        return self.bn(x + y if self.residual else y)


class Encoder(nn.Module):
    """ESPNet-C up to its scores at 1/8.

    Args:
        classes: that are told apart.
    """

    def __init__(self, classes: int):
        super().__init__()
        self.level1 = _conv_norm_act(3, 16, 2)
        self.b1 = _norm_act(19)
        self.level2_0 = DilatedUnit(19, 64, down=True)
        self.level2 = nn.ModuleList(DilatedUnit(64, 64, residual=True) for _ in range(2))
        self.b2 = _norm_act(131)
        self.level3_0 = DilatedUnit(131, 128, down=True)
        self.level3 = nn.ModuleList(DilatedUnit(128, 128, residual=True) for _ in range(8))
        self.b3 = _norm_act(256)
        self.classifier = _conv(256, classes, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return `level1` and `b1` at 1/2, `b2` at 1/4 and the scores at 1/8."""
        half = F.avg_pool2d(image, 3, 2, 1)
        quarter = F.avg_pool2d(half, 3, 2, 1)
        level1 = self.level1(image)
        first = self.b1(join(level1, half))
        start = self.level2_0(first)
        x = start
        for unit in self.level2:
            x = unit(x)
        second = self.b2(join(x, start, quarter))
        start = self.level3_0(second)
        x = start
        for unit in self.level3:
            x = unit(x)
        return level1, first, second, self.classifier(self.b3(join(start, x)))


class ESPNetC(nn.Module):
    """The encoder alone, its scores resized to the image.

    Args:
        classes: that are told apart.
        upstream: prepare images as the authors of ESPNet do.
    """

    taps: ClassVar[dict[str, tuple[str, ...]]] = {
        "features.encoder": ("encoder.b3",),
        "scores": ("encoder.classifier",),
    }
    published = Layout(rules=(*_ENCODER, ("classifier", "encoder.classifier")))

    def __init__(self, classes: int = 19, upstream: bool = False):
        super().__init__()
        self.classes, self.input_spec = classes, UPSTREAM_SPEC if upstream else SPEC
        self.encoder = Encoder(classes)
        initialise(self)

    def forward(self, image: Tensor) -> dict[str, Any]:
        """Return `logits` (B, classes, H, W) for a prepared `image` (B, 3, H, W), sides multiples of 8."""
        size = check_image(image, 8)
        return segmentation_outputs([self.encoder(image)[-1]], size, self.training)


class ESPNet(nn.Module):
    """The encoder, and a decoder of learned upsampling with skips at 1/4 and 1/2.

    Args:
        classes: that are told apart, 5 or more.
        skip: what the decoder reads at 1/2: `b1` (19 channels; this system's students and the ESPNet authors'
            CamVid weights) or `level1` (16; their Cityscapes weights).
        upstream: prepare images as the authors of ESPNet do.
    """

    taps: ClassVar[dict[str, tuple[str, ...]]] = {
        "features.encoder": ("encoder.b3",),
        "scores.encoder": ("encoder.classifier",),
        "scores": ("classifier",),
    }
    published = Layout(rules=(*_ENCODER, ("classifier_1", "encoder.classifier")))

    def __init__(self, classes: int = 19, skip: Literal["b1", "level1"] = "b1", upstream: bool = False):
        super().__init__()
        if skip not in ("b1", "level1"):
            raise UserError(f"skip is b1 or level1, got '{skip}'")
        if classes < 5:
            raise UserError(
                f"espnet splits its scores into five branches: classes is 5 or more, got {classes}; "
                "espnet_c, its encoder alone, takes any number"
            )
        self.classes, self.skip, self.input_spec = classes, skip, UPSTREAM_SPEC if upstream else SPEC
        self.encoder = Encoder(classes)
        self.level3_C = _conv(131, classes, 1)
        self.br = nn.BatchNorm2d(classes, eps=1e-3)
        self.conv = _conv_norm_act((19 if skip == "b1" else 16) + classes, classes)
        self.up_l3 = nn.Sequential(_up(classes))
        self.combine_l2_l3 = nn.Sequential(_norm_act(2 * classes), DilatedUnit(2 * classes, classes))
        self.up_l2 = nn.Sequential(_up(classes), _norm_act(classes))
        self.classifier = _up(classes)
        initialise(self)

    def forward(self, image: Tensor) -> dict[str, Any]:
        """Return `logits` (B, classes, H, W) for a prepared `image` (B, 3, H, W), sides multiples of 8."""
        size = check_image(image, 8)
        level1, first, second, scores = self.encoder(image)
        x = self.up_l3(self.br(scores))
        x = self.up_l2(self.combine_l2_l3(join(self.level3_C(second), x)))
        x = self.conv(join(x, first if self.skip == "b1" else level1))
        return segmentation_outputs([self.classifier(x)], size, self.training)


def _up(channels: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(channels, channels, 2, 2, bias=False)


@register_model("segmentation")
def espnet(classes: int = 11) -> ESPNet:
    """ESPNet as structured distillation trains it on CamVid: 0.35 M parameters."""
    return ESPNet(classes)


@register_model("segmentation")
def espnet_c(classes: int = 11) -> ESPNetC:
    """ESPNet-C as structured distillation trains it on CamVid: 0.35 M parameters."""
    return ESPNetC(classes)


@register_model("segmentation")
def espnet_upstream(classes: int = 12) -> ESPNet:
    """ESPNet in the layout of its authors' CamVid weights."""
    return ESPNet(classes, upstream=True)


@register_model("segmentation")
def espnet_upstream_city(classes: int = 20) -> ESPNet:
    """ESPNet in the layout of its authors' Cityscapes weights, whose skip is narrower."""
    return ESPNet(classes, skip="level1", upstream=True)


@register_model("segmentation")
def espnet_c_upstream(classes: int = 20) -> ESPNetC:
    """ESPNet-C in the layout of its authors' weights."""
    return ESPNetC(classes, upstream=True)
