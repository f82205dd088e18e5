"""From the predictions of an anchor-free detector to boxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import batched_nms

CANDIDATES = 1000  # of each level, before overlaps are dropped


def locations(
    sizes: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device | None = None
) -> Tensor:
    """Return the places (x, y) in px that the positions of all levels stand for, (positions, 2).

    Args:
        sizes: (height, width) of each level.
        strides: of each level, px; a position lies at its index times the stride and half a stride.
    """
    places = []
    for (height, width), stride in zip(sizes, strides, strict=True):
        y = torch.arange(height, device=device) * stride + stride // 2
        x = torch.arange(width, device=device) * stride + stride // 2
        places.append(torch.cartesian_prod(y, x).flip(1))
    return torch.cat(places).float()


def decode(
    predictions: Tensor,
    sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    image: tuple[int, int],
    in_strides: bool,
    detections: int = 100,
    threshold: float = 0.05,
    overlap: float = 0.6,
) -> dict[str, Tensor]:
    """Return the detections that FCOS's `predictions` (B, positions, classes + 5) stand for.

    Class probabilities above `threshold` are kept, multiplied by centerness; the 1000 best of a level go
    through class-wise non-maximum suppression. A score is the root of the product.

    Args:
        predictions: class logits, distances (left, top, right, bottom) and the centerness logit.
        sizes, strides: of the levels.
        image: (height, width) px, which boxes are clipped to.
        in_strides: distances are in strides of their level, not in px.
        detections: most for an image.
        threshold: of the class probability.
        overlap: largest intersection over union of two boxes of a class.

    Returns:
        `boxes` (B, N, 4) xyxy px, `scores` and `classes` (B, N), best first, padded with 0, 0 and -1.
    """
    predictions = predictions if predictions.dtype == torch.float64 else predictions.float()
    counts = [height * width for height, width in sizes]
    places = locations(sizes, strides, predictions.device).split(counts)
    parts = predictions.split(counts, 1)
    found = []
    for number in range(len(predictions)):
        candidates = [
            _candidates(part[number], place, stride if in_strides else 1, threshold)
            for part, place, stride in zip(parts, places, strides, strict=True)
        ]
        boxes, scores, classes = (torch.cat(values) for values in zip(*candidates, strict=True))
        height, width = image
        boxes = torch.stack([boxes[:, i].clamp(0, (width, height)[i % 2]) for i in range(4)], 1)
        kept = batched_nms(boxes.float(), scores.float(), classes, overlap)[:detections]
        found.append((boxes[kept], scores[kept], classes[kept]))
    longest = max(len(boxes) for boxes, _, _ in found)
    padded: list[list[Tensor]] = [[], [], []]
    for answer in found:
        more = longest - len(answer[0])
        padded[0].append(F.pad(answer[0], (0, 0, 0, more)))
        padded[1].append(F.pad(answer[1], (0, more)))
        padded[2].append(F.pad(answer[2], (0, more), value=-1))
    return {
        key: torch.stack(values) for key, values in zip(("boxes", "scores", "classes"), padded, strict=True)
    }


def _candidates(
    predictions: Tensor, places: Tensor, stride: int, threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    probabilities = predictions[:, :-5].sigmoid()
    products = probabilities * predictions[:, -1:].sigmoid()
    products = torch.where(probabilities > threshold, products, 0.0).flatten()
    best = products.topk(min(CANDIDATES, len(products))).indices
    best = best[products[best] > 0]
    positions, classes = best // probabilities.shape[1], best % probabilities.shape[1]
    distances = predictions[positions, -5:-1] * stride
    centre = places[positions].to(distances)
    boxes = torch.cat((centre - distances[:, :2], centre + distances[:, 2:]), 1)
    return boxes, products[best].sqrt(), classes
