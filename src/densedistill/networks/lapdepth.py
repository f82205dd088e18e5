"""LapDepth: monocular depth by Laplacian pyramid residuals (Song, Lim and Kim, TCSVT 31(11), 2021; "LDRN").

A stronger teacher than Spatial-KD's own. It works at full resolution: a ResNeXt101-32x8d without its last
stage, a dense ASPP, and five levels, each of which gives a residual of depth and is guided by the same level
of the image's Laplacian pyramid. All convolutions of the decoder are weight-standardised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ._layout import Layout, Rule
from .input_spec import InputSpec
from .layers.convolution import join
from .layers.encoders import image_encoder, resnet_features
from .layers.image import at_least_float32, check_image, depth_outputs, resize
from .registry import register_model
from .spatialkd import group_norm

_DILATIONS = (3, 6, 12, 18)
# Channels of the path, of the reduced skip, and of the convolutions after it, at strides 8, 4, 2, 1.
_LEVELS = (
    (512, 512, 256, 252, (256, 256, 128, 64, 1)),
    (256, 256, 128, 124, (128, 128, 64, 1)),
    (128, 64, 64, 60, (64, 64, 1)),
    (64, None, 60, 60, (64, 64, 32, 1)),
)

Norm = Callable[[int], nn.Module]


class StandardisedConv(nn.Conv2d):
    """A convolution without bias whose filters have mean 0 and standard deviation 1."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int = 1):
        padding = kernel // 2 * dilation
        super().__init__(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of `x` (B, inputs, H, W)."""
        flat = self.weight.flatten(1)
        centred = flat - flat.mean(1, keepdim=True)
        weight = centred / (centred.std(1, keepdim=True) + 1e-5)
        return F.conv2d(x, weight.view_as(self.weight), None, 1, self.padding, self.dilation)


class PreConv(nn.Sequential):
    """Normalisation, ReLU, weight-standardised convolution."""

    def __init__(self, norm: Norm, inputs: int, outputs: int, kernel: int = 3, dilation: int = 1):
        super().__init__(norm(inputs), nn.ReLU(), StandardisedConv(inputs, outputs, kernel, dilation))


class UpConv(nn.Module):
    """Normalisation, ReLU, doubling of the size, weight-standardised 3x3 convolution."""

    def __init__(self, norm: Norm, inputs: int, outputs: int):
        super().__init__()
        self.norm, self.conv = norm(inputs), StandardisedConv(inputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, 2 H, 2 W) for `x` (B, inputs, H, W)."""
        return self.conv(twice(self.norm(x).relu()))


class DenseASPP(nn.Module):
    """Dilated convolutions, each of which sees what all earlier ones gave."""

    def __init__(self, norm: Norm):
        super().__init__()
        self.reduce = StandardisedConv(1024, 512, 1)
        self.branches = nn.ModuleList(
            nn.Sequential(PreConv(norm, 512 + 256 * i, 256, 1), PreConv(norm, 256, 256, 3, dilation))
            for i, dilation in enumerate(_DILATIONS)
        )
        self.merge = PreConv(norm, 1536, 512)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 512, H, W) for `x` (B, 1024, H, W)."""
        x = self.reduce(x)
        for branch in self.branches:
            x = torch.cat((x, branch(x)), 1)
        return self.merge(x)


class Level(nn.Module):
    """One level of the pyramid: from the path, a skip, the coarser residual and the image's own residual."""

    def __init__(self, norm: Norm, path: int, skip: int | None, up: int, reduced: int, widths: Sequence[int]):
        super().__init__()
        self.up = UpConv(norm, path, up)
        self.reduce = PreConv(norm, up + skip, reduced, 1) if skip else None
        self.convs = nn.ModuleList(PreConv(norm, a, b) for a, b in pairwise(widths))

    def forward(
        self, path: Tensor, skip: Tensor | None, residual: Tensor, guidance: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the path for the next level and this level's residual, both at the size of `guidance`."""
        x = self.up(path)
        if self.reduce is not None and skip is not None:
            x = self.reduce(join(x, skip))
        x = path = self.convs[0](join(x, twice(residual), guidance))
        for conv in list(self.convs)[1:]:
            x = conv(x)
        return path, (x + 0.1 * guidance.mean(1, keepdim=True)).tanh()


class LapDepth(nn.Module):
    """LapDepth with ResNeXt101-32x8d.

    Args:
        norm: of the decoder, `batch` or `group` (16 channels a group).
        max_depth: metres; 80 for KITTI, 10 for NYU.
        freeze: train as published: the stem's convolution, the first two blocks and the affine parameters
            of the encoder's other blocks are frozen, and its batch norms keep their statistics.
        pretrained: start from ImageNet weights.

    Raises:
        UserError: an image whose size is no multiple of 16.
    """

    input_spec = InputSpec(multiple=16, min_size=(32, 32), refuses_smaller=True)
    taps: ClassVar[dict[str, tuple[str, ...]]] = {
        "features": ("encoder.act1", "encoder.layer1", "encoder.layer2", "encoder.layer3"),
        "context": ("context",),
        "decoder": (*(f"levels.{i}.convs.0" for i in range(4)),),
        "residuals": (*(f"levels.{i}" for i in range(4)),),
    }

    def __init__(
        self,
        norm: Literal["batch", "group"] = "batch",
        max_depth: float = 80.0,
        freeze: bool = False,
        pretrained: bool = False,
    ):
        super().__init__()
        if norm not in ("batch", "group"):
            raise UserError(f"the norm of LapDepth is 'batch' or 'group', got '{norm}'")
        make: Norm = group_norm if norm == "group" else _batch_norm
        self.max_depth, self.frozen = max_depth, freeze
        self.encoder = image_encoder("resnext101_32x8d.tv_in1k", pretrained)
        del self.encoder.layer4
        self.context = DenseASPP(make)
        widths = (512, 256, 128, 64, 32, 1)
        self.coarsest = nn.Sequential(*(PreConv(make, a, b) for a, b in pairwise(widths)))
        self.levels = nn.ModuleList(Level(make, *level) for level in _LEVELS)
        self.published = _layout()
        if freeze:
            self._freeze()

    def forward(self, image: Tensor) -> dict[str, Any]:
        """Return `{"depth": (B, 1, H, W)}`, metres, of `image` (B, 3, H, W), normalised."""
        check_image(image, 16)
        skips = resnet_features(self.encoder, image)
        guidance = _laplacians(image)
        path = self.context(skips.pop())
        residual = at_least_float32(self.coarsest(path)).sigmoid()
        restored = residual
        for i, (level, guide) in enumerate(zip(self.levels, reversed(guidance), strict=True)):
            path, residual = level(path, skips.pop() if skips else None, residual, guide)
            residual = at_least_float32(residual)
            restored = residual + twice(restored)
            if i == 3:
                restored = restored.sigmoid()
        return depth_outputs(restored * self.max_depth, self.training)

    def train(self, mode: bool = True) -> LapDepth:
        """Set the mode; a frozen encoder's batch norms keep their statistics."""
        super().train(mode)
        if self.frozen:
            for module in self.encoder.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def _freeze(self) -> None:
        frozen = [self.encoder.conv1, self.encoder.layer1[0], self.encoder.layer1[1]]
        for layer in (self.encoder.layer1, self.encoder.layer2, self.encoder.layer3):
            frozen += [m for name, m in layer.named_modules() if name.endswith((".bn1", ".bn2", ".bn3"))]
        for module in frozen:
            module.requires_grad_(False)


def twice(x: Tensor) -> Tensor:
    """Return `x` (B, C, H, W) at twice its size, bilinearly."""
    return resize(x, (2 * x.shape[-2], 2 * x.shape[-1]))


def _laplacians(image: Tensor) -> list[Tensor]:
    """Return the residuals of the image's Laplacian pyramid at strides 1, 2, 4 and 8."""
    residuals = []
    for _ in range(4):
        smaller = F.avg_pool2d(image, 2)
        residuals.append(image - twice(smaller))
        image = smaller
    return residuals


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


def _layout() -> Layout:
    rules: list[Rule] = [
        ("encoder.encoder", "encoder"),
        ("decoder.ASPP.reduction1", "context.reduce"),
        ("decoder.ASPP.reduction2.module.{a}", "context.merge.{a}"),
        *(
            (f"decoder.ASPP.aspp_d{d}.{{a}}.module.{{b}}", f"context.branches.{i}.{{a}}.{{b}}")
            for i, d in enumerate(_DILATIONS)
        ),
        ("decoder.decoder1.{a}.module.{b}", "coarsest.{a}.{b}"),
    ]
    for i, level in enumerate(_LEVELS):
        name = "decoder.decoder2" + "_1" * i
        rules.append((f"{name}_up{i + 1}", f"levels.{i}.up"))
        rules.append((f"{name}_reduc{i + 1}.module.{{a}}", f"levels.{i}.reduce.{{a}}"))
        for j in range(len(level[4]) - 1):
            rules.append((f"{name}_{j + 1}.module.{{a}}", f"levels.{i}.convs.{j}.{{a}}"))
    return Layout(tuple(rules))


@register_model("depth")
def lapdepth_resnext101(max_depth: float = 80.0, freeze: bool = False, pretrained: bool = False) -> LapDepth:
    """LapDepth as published, with batch normalisation in the decoder."""
    return LapDepth("batch", max_depth, freeze, pretrained)


@register_model("depth")
def lapdepth_resnext101_gn(
    max_depth: float = 80.0, freeze: bool = False, pretrained: bool = False
) -> LapDepth:
    """LapDepth with group normalisation in the decoder."""
    return LapDepth("group", max_depth, freeze, pretrained)
