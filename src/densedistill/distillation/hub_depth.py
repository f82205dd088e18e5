"""Depth networks of the Hugging Face hub as teachers: Depth Anything of any size, and its like.

Depth Anything (CVPR 2024, NeurIPS 2024) and MiDaS tell inverse depth up to scale and shift. Such a teacher is
aligned to the ground truth of each image by least squares, or compared by a loss that scale and shift do not
matter to. Its metric variants, and other networks that tell metres, are taken as they are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError, nearest
from ..metrics.depth import fit_scale_and_shift
from ..networks.input_spec import IMAGENET_MEAN, IMAGENET_STD, InputSpec
from ..networks.layers.image import resize
from .teachers import TEACHERS, NetworkTeacher

KINDS = ("auto", "metric", "inverse")
ALIGNMENTS = ("ground_truth", "none")
_METRIC = ("zoedepth", "glpn", "depth_pro", "prompt_depth_anything")
_NEAREST, _FARTHEST = 1e-2, 1e3  # metres that an aligned prediction is believed between


class HubDepth(nn.Module):
    """A depth network of the hub that answers like ours: `depth` in metres, or one over what it tells.

    Args:
        model: folder of a model that was saved with its configuration, or hub id `owner/name`.
        kind: whether it tells `metric` depth or `inverse` depth up to scale and shift; `auto`: by its
            configuration.

    Raises:
        UserError: transformers is not installed, there is no such model, or it is no depth network.
    """

    task = "depth"

    def __init__(self, model: str | os.PathLike[str], kind: str = "auto"):
        super().__init__()
        if kind not in KINDS:
            raise UserError(f"kind of a hub model is one of {', '.join(KINDS)}{nearest(kind, KINDS)}")
        self.module, processor = _load(os.fspath(model))
        config = self.module.config
        self.name = os.path.basename(os.fspath(model).rstrip("/"))
        self.metric = kind == "metric" or (kind == "auto" and _tells_metres(config))
        self.input_spec = _input_spec(config, processor)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return `{"depth": (B, 1, H, W)}` of a prepared `image` (B, 3, H, W)."""
        told = self.module(pixel_values=image).predicted_depth[:, None].float()
        told = resize(told, (image.shape[-2], image.shape[-1]))
        if self.metric:
            return {"depth": told}
        # Only up to a factor, so the largest may be taken for 1; what is at infinity is very far.
        largest = told.amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
        return {"depth": 1 / (told / largest).clamp(min=1 / _FARTHEST)}


class HubDepthTeacher(NetworkTeacher):
    """A `HubDepth` as a teacher.

    Args:
        network: which tells depth.
        align: `ground_truth` fits scale and shift of its inverse depth to each image's ground truth, and
            vouches for nothing where an image has none; `none` gives it as it is, for losses that scale and
            shift do not matter to. A metric network is never aligned.
    """

    def __init__(self, network: HubDepth, align: str = "ground_truth"):
        super().__init__(network)
        if align not in ALIGNMENTS:
            raise UserError(
                f"align is one of {', '.join(ALIGNMENTS)}, got '{align}'{nearest(align, ALIGNMENTS)}"
            )
        self.align = align == "ground_truth" and not network.metric

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        answer = super().forward(batch)
        depth = answer["depth"]
        if self.align:
            depth, valid = align_inverse(depth, batch.get("depth"), batch.get("depth_valid"))
        else:
            valid = depth.isfinite() & (depth > 0) & (depth < _FARTHEST)
        return {**answer, "depth": depth, "depth_valid": valid}


def align_inverse(depth: Tensor, truth: Tensor | None, known: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return `depth` (B, 1, H, W) with scale and shift of its inverse fitted to that of `truth`, and where it
    is to be believed.

    The fit is by least squares over the pixels that are `known`, image by image. An image with fewer than
    two, and pixels that come to lie behind the camera or beyond 1000 m, are not believed.
    """
    aligned, valid = depth.clone(), torch.zeros_like(depth, dtype=torch.bool)
    if truth is None:
        return aligned, valid
    known = truth > 0 if known is None else known & (truth > 0)
    for index, mask in enumerate(known):
        if mask.sum() < 2:
            continue
        scale, shift = fit_scale_and_shift(1 / depth[index][mask].double(), 1 / truth[index][mask].double())
        inverse = (scale / depth[index].double() + shift).to(depth)
        valid[index] = (inverse > 1 / _FARTHEST) & (inverse < 1 / _NEAREST)
        aligned[index] = 1 / inverse.clamp(1 / _FARTHEST, 1 / _NEAREST)
    return aligned, valid


@TEACHERS.register("depth_anything")
def _depth_anything(model: str, kind: str = "auto", align: str = "ground_truth") -> HubDepthTeacher:
    return HubDepthTeacher(HubDepth(model, kind), align)


def _load(model: str) -> tuple[Any, Mapping[str, Any]]:
    """Return the model, and what its folder says about the preparation of images."""
    try:
        from transformers import AutoConfig, AutoModelForDepthEstimation, ImageProcessingMixin
        from transformers.utils import logging
    except ImportError:
        raise UserError(
            "depth networks of the hub need transformers: pip install 'densedistill[zoo]'"
        ) from None
    logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(model)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"there is no model '{model}', neither a folder nor on the hub: {_short(error)}"
        ) from None
    try:
        # Weights as pickles could run code; safetensors cannot.
        found = AutoModelForDepthEstimation.from_pretrained(model, config=config, use_safetensors=True)
    except ValueError:
        kind = getattr(config, "model_type", type(config).__name__)
        raise UserError(f"'{model}' is no depth network: it is of type {kind}") from None
    except (OSError, RuntimeError) as error:
        raise UserError(f"cannot load the weights of '{model}' as safetensors: {_short(error)}") from None
    try:
        processor, _ = ImageProcessingMixin.get_image_processor_dict(model)
    except (OSError, ValueError):
        processor = {}
    return found, processor


def _tells_metres(config: Any) -> bool:
    told = getattr(config, "depth_estimation_type", None)
    return told == "metric" if told else getattr(config, "model_type", "") in _METRIC


def _input_spec(config: Any, processor: Mapping[str, Any]) -> InputSpec:
    backbone = getattr(config, "backbone_config", None)
    patch = getattr(config, "patch_size", None) or getattr(backbone, "patch_size", None) or 32
    patch = int(processor.get("ensure_multiple_of") or patch)
    size = processor.get("size") or {}
    shorter = size.get("shortest_edge") or size.get("height") or 37 * patch
    mean: Any = tuple(processor.get("image_mean") or IMAGENET_MEAN)
    std: Any = tuple(processor.get("image_std") or IMAGENET_STD)
    return InputSpec(
        mean=mean,
        std=std,
        shorter_side=int(shorter),
        multiple=patch,
        pad_mode="replicate",
    )


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
