"""Slim depth networks of ours for CPUs: Spatial-KD's layout with a narrow decoder.

The published decoder does 78 % of the MobileNetV2 student's work. Here encoder and decoder are of one size,
and an image is seen at 120 px on its shorter side, whatever its own size.
"""

from __future__ import annotations

from torch import Tensor, nn

from .input_spec import InputSpec
from .layers.encoders import image_encoder
from .registry import register_model
from .spatialkd import AdaptedEncoder, Decoder, SpatialKD

_WIDTHS = (16, 32, 64, 96, 128)
_OUTPUTS = (96, 64, 48, 32, 16)


def _staged(backbone: nn.Module, image: Tensor) -> list[Tensor]:
    return backbone(image)


def _slim(encoder: str, max_depth: float, shorter_side: int, pretrained: bool) -> SpatialKD:
    backbone = image_encoder(encoder, pretrained, features_only=True)
    adapted = AdaptedEncoder(backbone, _staged, backbone.feature_info.channels(), _WIDTHS)
    network = SpatialKD(adapted, max_depth, decoder=Decoder(max_depth, _WIDTHS, _OUTPUTS))
    network.input_spec = InputSpec(
        shorter_side=shorter_side, multiple=16, min_size=(64, 64), pad_mode="replicate"
    )
    return network


@register_model("depth")
def depth_slim(
    max_depth: float = 80.0,
    shorter_side: int = 120,
    encoder: str = "regnetx_002",
    pretrained: bool = False,
) -> SpatialKD:
    """The student that ships: RegNetX-200MF, or another `encoder` of timm with five features, and a narrow
    decoder."""
    return _slim(encoder, max_depth, shorter_side, pretrained)
