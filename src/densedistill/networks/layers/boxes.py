"""From the predictions of an anchor-free detector to boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

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


@dataclass(frozen=True)
class Decoding:
    """How FCOS's detections come from what it says at every position.

    Class probabilities above `threshold` are kept, multiplied by centerness; the 1000 best of a level go
    through class-wise non-maximum suppression. A score is the root of the product.

    Args:
        strides: of the levels, px; fine levels come first.
        detections: most for an image.
        threshold: of the class probability.
        overlap: largest intersection over union of two boxes of a class.
    """

    strides: tuple[int, ...]
    detections: int = 100
    threshold: float = 0.05
    overlap: float = 0.6

    def sizes(self, image: tuple[int, int]) -> list[tuple[int, int]]:
        """Return (height, width) of the levels for an input `image` of (height, width) px."""
        return [(-(-image[0] // stride), -(-image[1] // stride)) for stride in self.strides]

    def __call__(self, raw: Mapping[str, Tensor], image: tuple[int, int]) -> dict[str, Tensor]:
        """Return the detections.

        Args:
            raw: `class_logits` (B, positions, classes), `distances` (B, positions, 4) to left, top, right and
                bottom in px, and `centerness` (B, positions, 1), a logit.
            image: (height, width) px, which boxes are clipped to.

        Returns:
            `boxes` (B, N, 4) xyxy px, `scores` and `classes` (B, N), best first, padded with 0, 0 and -1.
        """
        from torchvision.ops import batched_nms  # takes seconds, which no other task needs

        sizes = self.sizes(image)
        counts = [height * width for height, width in sizes]
        logits, distances, centerness = (raw[key] for key in ("class_logits", "distances", "centerness"))
        places = locations(sizes, self.strides, distances.device).to(distances)
        corners = torch.cat((places - distances[..., :2], places + distances[..., 2:]), -1)
        probabilities = logits.sigmoid()
        products = torch.where(probabilities > self.threshold, probabilities * centerness.sigmoid(), 0.0)
        height, width = image
        found = []
        for sample in range(len(logits)):
            candidates = [
                _candidates(*level)
                for level in zip(corners[sample].split(counts), products[sample].split(counts), strict=True)
            ]
            boxes, scores, classes = (torch.cat(values) for values in zip(*candidates, strict=True))
            boxes = torch.stack([boxes[:, i].clamp(0, (width, height)[i % 2]) for i in range(4)], 1)
            kept = batched_nms(boxes.float(), scores.float(), classes, self.overlap)[: self.detections]
            found.append((boxes[kept], scores[kept], classes[kept]))
        return padded_detections(found)


def padded_detections(found: Sequence[tuple[Tensor, Tensor, Tensor]]) -> dict[str, Tensor]:
    """Return each image's `boxes` (B, N, 4), `scores` and `classes` (B, N), padded with 0, 0 and -1."""
    boxes, scores, classes = (list(values) for values in zip(*found, strict=True))
    return {
        "boxes": pad_sequence(boxes, batch_first=True),
        "scores": pad_sequence(scores, batch_first=True),
        "classes": pad_sequence(classes, batch_first=True, padding_value=-1),
    }


def _candidates(corners: Tensor, products: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    count = products.shape[1]
    products = products.flatten()
    best = products.topk(min(CANDIDATES, len(products))).indices
    best = best[products[best] > 0]
    return corners[best // count], products[best].sqrt(), best % count
