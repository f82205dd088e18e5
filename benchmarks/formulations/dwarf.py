"""DWARF: scene flow from stored proxy labels, which its KITTI stage sums over pixels."""

from __future__ import annotations

import argparse
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densedistill.networks import create_model
from densedistill.networks.dwarf import MOTIONS, UNIT, act
from densedistill.networks.layers.warp import resize_legacy

from . import Batch, Images, System, noise

VIEWS = ("left", "right", "left_next", "right_next")
WEIGHTS = {"disparity": 0.001, "disparity_next": 0.001, "flow": 0.0005}
TERMS = {
    key: {"loss": "summed_l1", "of": key, "to": "ground_truth", "mask": "ground_truth", "weight": weight}
    for key, weight in WEIGHTS.items()
}


def networks(options: argparse.Namespace) -> tuple[nn.Module, None]:
    torch.manual_seed(0)
    return create_model("dwarf").train(), None


def batch(options: argparse.Namespace) -> dict[str, Any]:
    found, generator = noise(options, VIEWS)
    for key, channels in MOTIONS.items():
        shape = (options.batch, channels, options.height, options.width)
        found[key] = torch.rand(shape, generator=generator) * 40 + 1
        found[f"{key}_valid"] = torch.ones(options.batch, 1, *shape[2:], dtype=torch.bool)
    return found


def correlate(fixed: Tensor, searched: Tensor, rows: int, reach: int = 4) -> Tensor:
    """Multiply and average once a displacement."""
    height, width = fixed.shape[-2:]
    padded = F.pad(searched, (reach, reach, rows, rows))
    shifts = [(dy, dx) for dy in range(2 * rows + 1) for dx in range(2 * reach + 1)]
    return torch.stack([(fixed * padded[..., y : y + height, x : x + width]).mean(1) for y, x in shifts], 1)


def sample(image: Tensor, x: Tensor, y: Tensor, zero: bool = False) -> Tensor:
    """Gather the four neighbours of positions (B, H, W) and weigh them.

    With `zero` weights are taken from clamped neighbours, as the published sampler along rows does: zero
    outside, in the last column and in the last row; else the border continues.
    """
    _, channels, height, width = image.shape
    x0, y0 = x.floor(), y.floor()
    x1, y1 = x0 + 1, y0 + 1
    clamped = [x0.clamp(0, width - 1), x1.clamp(0, width - 1), y0.clamp(0, height - 1)]
    clamped.append(y1.clamp(0, height - 1))
    right, below = (x - clamped[0], y - clamped[2]) if zero else (x - x0, y - y0)
    left, above = (clamped[1] - x, clamped[3] - y) if zero else (1 - right, 1 - below)
    flat = image.flatten(2)

    def at(column: Tensor, row: Tensor) -> Tensor:
        index = (row * width + column).long().flatten(1)[:, None].expand(-1, channels, -1)
        return flat.gather(2, index).view_as(image)

    corners = [
        at(clamped[0], clamped[2]) * (left * above)[:, None],
        at(clamped[1], clamped[2]) * (right * above)[:, None],
        at(clamped[0], clamped[3]) * (left * below)[:, None],
        at(clamped[1], clamped[3]) * (right * below)[:, None],
    ]
    return corners[0] + corners[1] + corners[2] + corners[3]


def warped(views: list[Tensor], estimate: Tensor) -> list[Tensor]:
    """Return the four maps at the places of the left view's points at t0."""
    left, right, left_next, right_next = views
    height, width = left.shape[-2:]
    x, y = torch.arange(width, dtype=left.dtype), torch.arange(height, dtype=left.dtype)[:, None]
    now, after, u, v = estimate.unbind(1)
    still = y.expand_as(now)
    return [
        left,
        sample(right, x + now, still, zero=True),
        sample(left_next, x + u, y + v),
        sample(right_next, x + u + after, y + v),
    ]


def run(network: Any, images: Images) -> dict[str, Tensor]:
    maps = [network.features(image) for image in images]
    estimate = features = None
    for name, estimator in network.estimators.items():
        level = int(name)
        views = [view[level - 1] for view in maps]
        if estimate is not None:
            views = warped(views, estimate * (UNIT / 2**level))
        left, right, left_next, right_next = views
        now = act(correlate(left, right, rows=0))
        after = act(correlate(left_next, right_next, rows=0))
        over_time = act(correlate(left, left_next, rows=4))
        both = act(correlate(now, after, rows=4))
        found = torch.cat((now, after, both, over_time), 1)
        if estimate is not None:
            found = torch.cat((found, left, estimate, features), 1)
        motions, head_features = estimator(found)
        if level > 2:
            estimate, features = estimator.upsample(motions, head_features)
    size = images[0].shape[-2:]
    signs = {"disparity": -UNIT, "disparity_next": -UNIT, "flow": UNIT}
    return {
        key: resize_legacy((motions[key] + network.context[key](head_features[key])) * signs[key], size)
        for key in MOTIONS
    }


def loss(student: Any, teacher: Any, images: Images, batch: Batch, options: argparse.Namespace) -> Tensor:
    answer, total = run(student, images), torch.zeros(())
    for key, weight in WEIGHTS.items():
        difference = (answer[key] - batch[key]).abs() * batch[f"{key}_valid"]
        total = total + weight * difference.sum() / UNIT / len(difference)
    return total


def infer(student: Any, images: Images, options: argparse.Namespace) -> Tensor:
    return run(student, images)["disparity"]


SYSTEM = System("DWARF from proxy labels", TERMS, networks, batch, loss, infer)
