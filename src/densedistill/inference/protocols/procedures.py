"""What protocols do around a network: how it is asked, and what becomes of its answer before it is
measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...metrics.depth import fit_scale_and_shift
from ..images import to_batches
from .protocol import Outputs, Predicts


def flip_average(predict: Predicts) -> Predicts:
    """Return a predictor that answers with the mean of its maps for single images and for these mirrored."""

    def averaged(*images: Any) -> Outputs:
        batches = to_batches(*images)
        plain, mirrored = predict(*batches), predict(*(batch.flip(-1) for batch in batches))
        return {key: (value + mirrored[key].flip(-1)) / 2 for key, value in plain.items()}

    return averaged


def median_scaling(outputs: Outputs, batch: Mapping[str, Any]) -> Outputs:
    """Return depth (B, 1, H, W) with each image's median made that of its ground truth (Zhou et al., CVPR
    2017)."""
    depth = outputs["depth"].clone()
    for index, valid in enumerate(batch["depth_valid"]):
        if valid.any():
            depth[index] *= _median(batch["depth"][index][valid]) / _median(depth[index][valid])
    return {**outputs, "depth": depth}


def _median(values: Tensor) -> Tensor:
    """Return the median as NumPy, and so published evaluations, take it; torch's is the lower of two."""
    ordered = values.sort().values
    return (ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]) / 2


def scale_and_shift(outputs: Outputs, batch: Mapping[str, Any]) -> Outputs:
    """Return depth (B, 1, H, W) with the scale and shift of least squared error, image by image, as relative
    depth is compared (Ranftl et al., TPAMI 2022); what is not finite stays so and has no say in them."""
    depth = outputs["depth"].clone()
    for index, valid in enumerate(batch["depth_valid"] & depth.isfinite()):
        if valid.sum() > 1:
            scale, shift = fit_scale_and_shift(depth[index][valid], batch["depth"][index][valid])
            depth[index] = (depth[index].double() * scale + shift).to(depth)
    return {**outputs, "depth": depth}


def clamped(low: float, high: float) -> Any:
    """Return the alignment that keeps depth between `low` and `high` metres, as devkits with caps do."""

    def clamp(outputs: dict[str, Tensor], batch: Mapping[str, Any]) -> Outputs:
        return {**outputs, "depth": outputs["depth"].clamp(low, high)}

    return clamp
