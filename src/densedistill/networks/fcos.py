"""FCOS: boxes from every position of a feature pyramid, without anchors.

FCOS: Fully Convolutional One-Stage Object Detection, Tian et al., ICCV 2019
(https://arxiv.org/abs/1904.01355), and its later, improved form (TPAMI 2020); `fcos_mnv2_c128` is the student
of Structured Knowledge Distillation for Dense Prediction (https://arxiv.org/abs/1903.04197), section 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ._layout import Layout
from .input_spec import InputSpec
from .layers.boxes import Decoding
from .layers.encoders import feature_encoder
from .layers.image import check_image
from .registry import register_model

STRIDES = (8, 16, 32, 64, 128)
PRIOR = 0.01  # share of positions that see an object when training starts

_BODY = "backbone.body.features"
MOBILENET = (
    (f"{_BODY}.0", "body.features.0"),
    (f"{_BODY}.1.conv.0", "body.features.1.conv.0.0"),
    (f"{_BODY}.1.conv.1", "body.features.1.conv.0.1"),
    (f"{_BODY}.1.conv.3", "body.features.1.conv.1"),
    (f"{_BODY}.1.conv.4", "body.features.1.conv.2"),
    (f"{_BODY}.{{a}}.conv.0", "body.features.{a}.conv.0.0"),
    (f"{_BODY}.{{a}}.conv.1", "body.features.{a}.conv.0.1"),
    (f"{_BODY}.{{a}}.conv.3", "body.features.{a}.conv.1.0"),
    (f"{_BODY}.{{a}}.conv.4", "body.features.{a}.conv.1.1"),
    (f"{_BODY}.{{a}}.conv.6", "body.features.{a}.conv.2"),
    (f"{_BODY}.{{a}}.conv.7", "body.features.{a}.conv.3"),
)
PUBLISHED = Layout(
    rules=(
        *MOBILENET,
        ("backbone.fpn.fpn_inner2", "pyramid.inner.0"),
        ("backbone.fpn.fpn_inner3", "pyramid.inner.1"),
        ("backbone.fpn.fpn_inner4", "pyramid.inner.2"),
        ("backbone.fpn.fpn_layer2", "pyramid.outer.0"),
        ("backbone.fpn.fpn_layer3", "pyramid.outer.1"),
        ("backbone.fpn.fpn_layer4", "pyramid.outer.2"),
        ("backbone.fpn.top_blocks.p6", "pyramid.outer.3"),
        ("backbone.fpn.top_blocks.p7", "pyramid.outer.4"),
        ("rpn.head.cls_tower", "head.class_tower"),
        ("rpn.head.bbox_tower", "head.box_tower"),
        ("rpn.head.cls_logits", "head.classification"),
        ("rpn.head.bbox_pred", "head.regression"),
        ("rpn.head.centerness", "head.centerness"),
        ("rpn.head.scales.{a}.scale", "head.distances.{a}.scale"),
    )
)


class MobileNet(nn.Module):
    """MobileNetV2 without its last convolution; features at strides 8, 16 and 32."""

    widths = (32, 96, 320)

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import mobilenet_v2

        self.features = mobilenet_v2().features[:18]

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the features of blocks 6, 13 and 17."""
        levels = []
        for i, block in enumerate(self.features):
            image = block(image)
            if i in (6, 13, 17):
                levels.append(image)
        return levels


class Encoder(nn.Module):
    """Any convolutional encoder of timm by name, from random weights; features at strides 8, 16 and 32."""

    def __init__(self, name: str):
        super().__init__()
        self.features = feature_encoder(name)
        info: Any = self.features.feature_info
        at = {stride: i for i, stride in enumerate(info.reduction())}
        missing = [stride for stride in STRIDES[:3] if stride not in at]
        if missing:
            raise UserError(
                f"encoder '{name}' has no feature at stride {missing[0]}, only {info.reduction()}"
            )
        self.levels = [at[stride] for stride in STRIDES[:3]]
        self.widths = [info.channels()[i] for i in self.levels]

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the three features."""
        features = self.features(image)
        return [features[i] for i in self.levels]


class FeaturePyramid(nn.Module):
    """P3 to P7: laterals added from coarse to fine; P6 and P7 by strided convolutions from P5."""

    def __init__(self, widths: Sequence[int], channels: int):
        super().__init__()
        self.inner = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in widths)
        self.outer = nn.ModuleList(nn.Conv2d(channels, channels, 3, 2 if i > 2 else 1, 1) for i in range(5))
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d) and conv.bias is not None:
                nn.init.kaiming_uniform_(conv.weight, a=1)
                nn.init.zeros_(conv.bias)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return five levels (B, channels, h, w) of the encoder's three `features`."""
        running = self.inner[2](features[2])
        fine = [running]
        for i in (1, 0):
            lateral = self.inner[i](features[i])
            running = lateral + F.interpolate(running, lateral.shape[-2:], mode="nearest")
            fine.insert(0, running)
        levels = [outer(level) for outer, level in zip(self.outer, fine, strict=False)]
        levels.append(self.outer[3](levels[2]))
        levels.append(self.outer[4](F.relu(levels[3])))
        return levels


class Distance(nn.Module):
    """Distances from raw ones by a level's own learned scale: exponential, or rectified (improved)."""

    def __init__(self, improved: bool):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.improved = improved

    def forward(self, raw: Tensor) -> Tensor:
        """Return distances (B, 4, h, w) to left, top, right and bottom; px, or strides when improved."""
        scaled = self.scale * raw
        return F.relu(scaled) if self.improved else scaled.exp()


class Head(nn.Module):
    """Two towers shared by all levels; class logits, distances and centerness from them."""

    def __init__(self, channels: int, classes: int, improved: bool):
        super().__init__()
        self.improved = improved
        self.class_tower, self.box_tower = _tower(channels), _tower(channels)
        self.classification = nn.Conv2d(channels, classes, 3, padding=1)
        self.regression = nn.Conv2d(channels, 4, 3, padding=1)
        self.centerness = nn.Conv2d(channels, 1, 3, padding=1)
        self.distances = nn.ModuleList(Distance(improved) for _ in STRIDES)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)
        assert self.classification.bias is not None
        self.classification.bias.data.fill_(-math.log((1 - PRIOR) / PRIOR))

    def forward(self, level: Tensor, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return class logits (B, classes, h, w), distances (B, 4, h, w) and centerness (B, 1, h, w)."""
        of_class, of_box = self.class_tower(level), self.box_tower(level)
        centerness = self.centerness(of_box if self.improved else of_class)
        return self.classification(of_class), self.distances[number](self.regression(of_box)), centerness


class Predictions(nn.Module):
    """All levels' predictions in one tensor, which a loss reads at the tap `predictions`."""

    def forward(self, levels: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        """Return (B, positions, classes + 5): class logits, distances, centerness; fine levels first."""
        return torch.cat([torch.cat(level, 1).flatten(2) for level in levels], 2).transpose(1, 2).float()


class FCOS(nn.Module):
    """Encoder, feature pyramid and head.

    In training mode `intermediate` holds the five levels, each with `class_logits`, `distances` and
    `centerness`, and `boxes`, `scores` and `classes` have no entries. In evaluation mode these are the
    detections, the best first, padded with boxes of zero size, score 0 and class -1.

    Attributes:
        decoding: which detections are chosen.
        raw: in evaluation mode give what `decoding` chooses from; an exported file holds that.

    Args:
        body: the encoder.
        classes: that are told apart.
        channels: of the pyramid and the head.
        improved: centerness from the box tower, rectified distances in strides (the later form).
    """

    published = PUBLISHED
    taps: ClassVar[dict[str, tuple[str, ...]]] = {
        "pyramid": tuple(f"pyramid.outer.{i}" for i in range(5)),
        "classification": ("head.classification",),
        "regression": ("head.regression",),
        "centerness": ("head.centerness",),
        "predictions": ("predictions",),
    }
    input_spec = InputSpec(
        mean=(102.9801, 115.9465, 122.7717),
        std=(1.0, 1.0, 1.0),
        channels="bgr",
        range=255.0,
        multiple=32,
    )

    def __init__(
        self,
        body: MobileNet | Encoder,
        classes: int = 80,
        channels: int = 128,
        improved: bool = False,
    ):
        super().__init__()
        self.classes, self.improved = classes, improved
        self.decoding = Decoding(STRIDES)
        self.raw = False
        self.body = body
        self.pyramid = FeaturePyramid(body.widths, channels)
        self.head = Head(channels, classes, improved)
        self.predictions = Predictions()

    def forward(self, image: Tensor) -> dict[str, Any]:
        """Return `boxes` (B, N, 4) xyxy px, `scores` and `classes` (B, N) for a prepared `image`."""
        size = check_image(image, 32)
        levels = [self.head(level, i) for i, level in enumerate(self.pyramid(self.body(image)))]
        together = self.predictions(levels)
        if not self.training and not together.is_meta:  # where costs are counted there are no detections
            raw = self._raw(together, [level[0].shape[-2] * level[0].shape[-1] for level in levels])
            return raw if self.raw else self.decoding(raw, size)
        names = ("class_logits", "distances", "centerness")
        nothing = together.new_zeros(len(image), 0)
        return {
            "boxes": nothing[..., None].expand(-1, -1, 4),
            "scores": nothing,
            "classes": nothing.long(),
            "intermediate": [dict(zip(names, level, strict=True)) for level in levels],
        }

    def _raw(self, predictions: Tensor, counts: Sequence[int]) -> dict[str, Tensor]:
        logits, distances, centerness = predictions.split((self.classes, 4, 1), 2)
        if self.improved:
            parts = zip(distances.split(list(counts), 1), STRIDES, strict=True)
            distances = torch.cat([part * stride for part, stride in parts], 1)
        return {"class_logits": logits, "distances": distances, "centerness": centerness}


def _tower(channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(4):
        layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.GroupNorm(32, channels), nn.ReLU()]
    return nn.Sequential(*layers)


@register_model("detection")
def fcos_mnv2_c128(classes: int = 80, improved: bool = False) -> FCOS:
    """FCOS with MobileNetV2 and 128 channels, the student: 3.9 M parameters."""
    return FCOS(MobileNet(), classes, 128, improved)


@register_model("detection")
def fcos_mnv2(classes: int = 80, improved: bool = False) -> FCOS:
    """FCOS with MobileNetV2 and 256 channels: 9.8 M parameters."""
    return FCOS(MobileNet(), classes, 256, improved)


@register_model("detection")
def fcos(encoder: str = "resnet18", classes: int = 80, channels: int = 128, improved: bool = True) -> FCOS:
    """FCOS on any convolutional encoder of timm."""
    return FCOS(Encoder(encoder), classes, channels, improved)
