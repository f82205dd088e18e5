"""Other libraries' networks by name: timm's encoders, segmentation_models.pytorch, torchvision's detectors.

`timm_pyramid` puts PSPNet's head on any encoder of timm; `smp` is any architecture of
segmentation_models.pytorch with any of its encoders; `torchvision_detector` any of torchvision's, as a
teacher. All start from random weights; `weights` loads a file.
"""

from __future__ import annotations

import importlib.util
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import UserError, nearest
from .input_spec import IMAGENET_MEAN, IMAGENET_STD, InputSpec
from .layers.boxes import padded_detections
from .layers.encoders import feature_encoder
from .layers.image import check_image, segmentation_outputs
from .pspnet import Pyramid
from .registry import register_model

LABELS = 1000  # more than any detector of torchvision tells apart


class TimmPyramid(nn.Module):
    """An encoder of timm, PSPNet's pyramid on its last feature, and a 1x1 head.

    Args:
        encoder: its name in timm.
        classes: that are told apart.
        width: channels of the pyramid.
        stride: of the last feature: 8, 16 or 32; below 32 the encoder is dilated, which not all can be.
    """

    def __init__(self, encoder: str, classes: int = 19, width: int = 128, stride: int = 16):
        super().__init__()
        self.encoder = feature_encoder(encoder, **({} if stride == 32 else {"output_stride": stride}))
        info: Any = self.encoder.feature_info
        self.taps = {
            "pyramid": ("pyramid",),
            "scores": ("head",),
            "features.encoder": ("features",),
        }
        config: Any = getattr(self.encoder, "default_cfg", {})
        mean, std = config.get("mean") or IMAGENET_MEAN, config.get("std") or IMAGENET_STD
        self.input_spec = InputSpec(mean=tuple(mean), std=tuple(std), multiple=32)
        self.classes = classes
        self.features = nn.Identity()
        self.pyramid = Pyramid(info.channels()[-1], width)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, image: Tensor) -> dict[str, Any]:
        """Return `logits` (B, classes, H, W) for a prepared `image` (B, 3, H, W), sides multiples of 32."""
        size = check_image(image, 32)
        feature = self.features(self.encoder(image)[-1])
        return segmentation_outputs([self.head(self.pyramid(feature))], size, self.training)


class SegmentationModel(nn.Module):
    """A network of segmentation_models.pytorch.

    Args:
        architecture: `unet`, `fpn`, `deeplabv3plus`, `pspnet`, `segformer`, …
        encoder: its name there, or `tu-NAME` for timm's.
        classes: that are told apart.
        **options: of the architecture.
    """

    taps: ClassVar[dict[str, tuple[str, ...]]] = {
        "features.decoder": ("module.decoder",),
        "scores": ("module.segmentation_head",),
    }

    def __init__(self, architecture: str, encoder: str, classes: int = 19, **options: Any):
        super().__init__()
        try:
            import segmentation_models_pytorch as smp
        except ImportError:
            raise UserError(
                "segmentation_models.pytorch is not installed: pip install 'densedistill[zoo]'"
            ) from None
        try:
            self.module = smp.create_model(
                architecture, encoder_name=encoder, encoder_weights=None, classes=classes, **options
            )
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise UserError(
                f"segmentation_models.pytorch makes no '{architecture}' of '{encoder}': "
                f"{str(error).splitlines()[0]}"
            ) from None
        self.classes = classes
        self.input_spec = InputSpec(multiple=32)

    def forward(self, image: Tensor) -> dict[str, Any]:
        """Return `logits` (B, classes, H, W) for a prepared `image` (B, 3, H, W), sides multiples of 32."""
        size = check_image(image, 32)
        return segmentation_outputs([self.module(image)], size, self.training)


class TorchvisionDetector(nn.Module):
    """A detector of torchvision, its answers padded as the task has them; it does not train here.

    Its classes are its own: COCO's networks count from 1 with 91 numbers, of which `numbers` picks. It
    resizes images itself, most to a shorter side of 800 px (`min_size`), and gives boxes in px of what it was
    given; taps are of the resized image.

    Args:
        detector: its name in torchvision, for example `fcos_resnet50_fpn`.
        classes: its number of classes, background included where it has one.
        numbers: class numbers there, in the order of the classes here; what is not listed is dropped. None:
            all, as they are.
        **options: of the detector, for example `box_score_thresh`.
    """

    input_spec = InputSpec(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), multiple=1)

    def __init__(
        self,
        detector: str = "fcos_resnet50_fpn",
        classes: int = 91,
        numbers: list[int] | None = None,
        **options: Any,
    ):
        super().__init__()
        from torchvision.models import detection, get_model, list_models

        known = list_models(detection)
        if detector not in known:
            raise UserError(f"torchvision has no detector '{detector}'{nearest(detector, known)}")
        self.module = get_model(detector, weights=None, weights_backbone=None, num_classes=classes, **options)
        self.numbers, self.classes = numbers, classes if numbers is None else len(numbers)
        paths = dict(self.module.named_modules())
        wanted = {
            "pyramid": [
                p
                for p in paths
                if p.startswith(("backbone.fpn.layer_blocks.", "backbone.fpn.extra_blocks."))
                and p.count(".") == 3
            ],
            "classification": [p for p in paths if p.endswith(("head.cls_logits", "predictor.cls_score"))],
        }
        self.taps = {key: tuple(f"module.{p}" for p in found) for key, found in wanted.items() if found}
        self.eval()

    def train(self, mode: bool = True) -> TorchvisionDetector:
        """Stay in evaluation mode: torchvision's detectors compute their own losses in training."""
        return super().train(False)

    def forward(self, image: Tensor) -> dict[str, Any]:
        """Return `boxes` (B, N, 4) xyxy px, `scores` and `classes` (B, N) for images (B, 3, H, W) in [0,
        1]."""
        answers = self.module(list(image))
        found = []
        for answer in answers:
            boxes, scores, classes = answer["boxes"], answer["scores"], answer["labels"]
            if self.numbers is not None:
                table = classes.new_full((max(LABELS, *self.numbers) + 1,), -1)
                table[self.numbers] = torch.arange(len(self.numbers), device=classes.device)
                classes = table[classes]
                kept = classes >= 0
                boxes, scores, classes = boxes[kept], scores[kept], classes[kept]
            found.append((boxes, scores, classes))
        return padded_detections(found)


@register_model("segmentation")
def timm_pyramid(
    encoder: str = "resnet18", classes: int = 19, width: int = 128, stride: int = 16
) -> TimmPyramid:
    """PSPNet's head on any encoder of timm."""
    return TimmPyramid(encoder, classes, width, stride)


def smp(
    architecture: str = "unet", encoder: str = "resnet18", classes: int = 19, **options: Any
) -> SegmentationModel:
    """Any network of segmentation_models.pytorch."""
    return SegmentationModel(architecture, encoder, classes, **options)


if importlib.util.find_spec("segmentation_models_pytorch"):  # whoever has not, has no such network
    register_model("segmentation")(smp)


def torchvision_detector(
    detector: str = "fcos_resnet50_fpn", classes: int = 91, numbers: list[int] | None = None, **options: Any
) -> TorchvisionDetector:
    """Return any detector of torchvision as a teacher."""
    network = TorchvisionDetector(detector, classes, numbers, **options)
    network.task = "detection"  # type: ignore[assignment]
    network.name = detector  # type: ignore[assignment]
    return network
