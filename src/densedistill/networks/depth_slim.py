"""A slim depth network of ours for CPUs, in Spatial-KD's layout: an encoder, five features, a decoder.

The published decoder does 78 % of the MobileNetV2 student's work, and published encoders begin with
ImageNet's weights. Here both are plain residual blocks of one size, which learn from nothing in fewer
samples, and an image is seen at 96 px on its shorter side, whatever its own size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .input_spec import InputSpec
from .layers.encoders import image_encoder
from .layers.image import at_least_float32, resize
from .registry import register_model
from .spatialkd import AdaptedEncoder, PreConv, SpatialKD, group_norm

WIDTHS = (24, 40, 64, 96, 128)
_FIRST_GUESS = 0.1  # of the largest depth, what an untrained network says about everywhere


class Block(nn.Module):
    """ResNet's basic block: two 3x3 convolutions beside a shortcut, which is all that it is untrained."""

    def __init__(
        self, inputs: int, outputs: int, stride: int = 1, norm: Callable[[int], nn.Module] = nn.BatchNorm2d
    ):
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), norm(outputs), nn.ReLU()
        )
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), norm(outputs))
        nn.init.zeros_(self.second[1].weight)  # type: ignore[arg-type]
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, H / stride, W / stride)."""
        return F.relu(self.shortcut(x) + self.second(self.first(x)))


class ResidualEncoder(nn.Module):
    """Features of `WIDTHS` at strides 2, 4, 8, 16 and 32."""

    def __init__(self) -> None:
        super().__init__()
        first = nn.Sequential(nn.Conv2d(3, WIDTHS[0], 5, 2, 2), nn.ReLU(), Block(WIDTHS[0], WIDTHS[0]))
        later = (nn.Sequential(Block(a, b, 2), Block(b, b)) for a, b in pairwise(WIDTHS))
        self.stages = nn.ModuleList([first, *later])

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the features of `image` (B, 3, H, W), fine to coarse."""
        features = []
        for stage in self.stages:
            image = stage(image)
            features.append(image)
        return features


class SlimDecoder(nn.Module):
    """From five features of `WIDTHS` to depth: a block after each joining, depth read at half the size.

    Args:
        max_depth: metres; depth lies between 0 and this.
    """

    def __init__(self, max_depth: float):
        super().__init__()
        self.max_depth = max_depth
        pairs = [*pairwise(WIDTHS)][::-1]
        self.up = nn.ModuleList(Block(fine + coarse, fine, norm=group_norm) for fine, coarse in pairs)
        self.head = PreConv(WIDTHS[0], 1, 3)
        self.bias = nn.Parameter(torch.tensor(math.log(_FIRST_GUESS / (1 - _FIRST_GUESS))))

    def forward(self, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Return the depth (B, 1, *size), metres, of five features, fine to coarse."""
        x = features[4]
        for block, skip in zip(self.up, features[3::-1], strict=True):
            x = block(torch.cat((resize(x, (skip.shape[-2], skip.shape[-1])), skip), 1))
        logit = at_least_float32(resize(self.head(x), size))
        return (logit + self.bias).sigmoid() * self.max_depth


def _staged(backbone: nn.Module, image: Tensor) -> list[Tensor]:
    return backbone(image)


@register_model("depth")
def depth_slim(
    max_depth: float = 80.0,
    shorter_side: int = 96,
    encoder: str | None = None,
    pretrained: bool = False,
) -> SpatialKD:
    """The student that ships: plain residual blocks, or an `encoder` of timm with five features, adapted."""
    if encoder is None:
        adapted: nn.Module = ResidualEncoder()
        features = tuple(f"encoder.stages.{i}" for i in range(5))
    else:
        backbone = image_encoder(encoder, pretrained, features_only=True)
        adapted = AdaptedEncoder(backbone, _staged, backbone.feature_info.channels(), WIDTHS)
        features = SpatialKD.taps["features"]
    network = SpatialKD(adapted, max_depth, decoder=SlimDecoder(max_depth))
    stages = tuple(f"decoder.up.{i}" for i in range(4))
    network.taps = {"features": features, "decoder": stages, "replaceable": (features[4], *stages[:3])}  # type: ignore[misc]
    network.input_spec = InputSpec(
        shorter_side=shorter_side, multiple=16, min_size=(64, 64), pad_mode="replicate"
    )
    return network
