"""The protocols of semantic segmentation: at several scales, mirrored, in tiles, and averaged as published.

A name may go on with `+flip`, the mean of the logits for the image and its mirror image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..images import to_batches
from .procedures import flip_average
from .protocol import Outputs, Predicts, Protocol

SCALES = (0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
OVERLAP = 1 / 3


def multi_scale(scales: Sequence[float] = SCALES) -> Any:
    """Return the procedure that averages logits over images at several `scales`, resized back."""

    def procedure(predict: Predicts) -> Predicts:
        def averaged(*images: Any) -> Outputs:
            batches = to_batches(*images)
            size = batches[0].shape[-2:]
            total: Any = 0
            for scale in scales:
                scaled = [_scaled(batch, scale) for batch in batches]
                total = total + _resized(predict(*scaled)["logits"], size)
            return {"logits": total / len(scales)}

        return averaged

    return procedure


def sliding(height: int, width: int, overlap: float = OVERLAP) -> Any:
    """Return the procedure that shows the network tiles of `height` x `width` and averages logits where they
    overlap by the share `overlap`; smaller images are shown whole."""

    def procedure(predict: Predicts) -> Predicts:
        def tiled(*images: Any) -> Outputs:
            batches = to_batches(*images)
            full = batches[0].shape[-2:]
            tile = (min(height, full[0]), min(width, full[1]))
            total: Tensor | None = None
            counts = torch.zeros(1, 1, *full)
            for top in _starts(full[0], tile[0], overlap):
                for left in _starts(full[1], tile[1], overlap):
                    window = (..., slice(top, top + tile[0]), slice(left, left + tile[1]))
                    logits = predict(*(batch[window] for batch in batches))["logits"]
                    if total is None:
                        total = logits.new_zeros(*logits.shape[:2], *full)
                    total[window] += logits
                    counts[window] += 1
            assert total is not None
            return {"logits": total / counts.to(total)}

        return tiled

    return procedure


def _starts(length: int, tile: int, overlap: float) -> list[int]:
    """Return where tiles begin: evenly, overlapping by at least the share `overlap`, the last at the end."""
    if tile >= length:
        return [0]
    stride = max(1, int(tile * (1 - overlap)))
    count = -(-(length - tile) // stride) + 1
    return [min(i * stride, length - tile) for i in range(count)]


def _scaled(image: Tensor, scale: float) -> Tensor:
    if scale == 1.0:
        return image
    image = image.float() / 255 if image.dtype == torch.uint8 else image
    size = [max(1, round(side * scale)) for side in image.shape[-2:]]
    return F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)


def _resized(logits: Tensor, size: Sequence[int]) -> Tensor:
    if logits.shape[-2:] == tuple(size):
        return logits
    return F.interpolate(logits, tuple(size), mode="bilinear", align_corners=True)


_PLAIN = (
    Protocol("images", "whole images", "segmentation"),
    Protocol(
        "multiscale",
        f"mean of the logits at {', '.join(f'{scale:g}' for scale in SCALES)} times the size",
        "segmentation",
        procedures=(multi_scale(),),
    ),
    Protocol(
        "sliding",
        "tiles of 713x713 px that overlap by a third, mean of their logits",
        "segmentation",
        procedures=(sliding(713, 713),),
    ),
    Protocol(
        "sliding512",
        "tiles of 512x512 px that overlap by a third, mean of their logits",
        "segmentation",
        procedures=(sliding(512, 512),),
    ),
)

PROTOCOLS = tuple(
    variant
    for plain in _PLAIN
    for variant in (
        plain,
        dataclasses.replace(
            plain,
            name=f"{plain.name}+flip",
            says=f"{plain.says}; mean with the mirrored image's",
            procedures=(*plain.procedures, flip_average),
        ),
    )
)
