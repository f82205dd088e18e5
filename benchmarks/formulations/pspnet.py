"""Structured distillation: PSPNet-R101 teaches PSPNet-R18 pixel by pixel and pair by pair."""

from __future__ import annotations

import argparse
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densedistill.networks import create_model

from . import Batch, Images, System, noise, settle

CLASSES, SCALE = 19, 0.5
TERMS = {
    "labels": {
        "loss": "cross_entropy",
        "of": "logits",
        "to": "ground_truth",
        "mask": "ground_truth",
        "levels": [0.4, 1.0],
    },
    "pixel": {"loss": "pixel_wise_published", "of": "scores", "to": "teacher", "weight": 10.0},
    "pair": {"loss": "pairwise", "of": "pyramid", "to": "teacher", "scale": SCALE, "weight": 0.5},
}


def networks(options: argparse.Namespace) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    student = create_model("pspnet_r18", classes=CLASSES)
    teacher = create_model("pspnet_r101", classes=CLASSES)
    image = batch(options)["image"]
    for network in (student, teacher):
        settle(network, network.input_spec.prepare(image)[0])
    return student.train(), teacher.eval().requires_grad_(False)


def batch(options: argparse.Namespace) -> dict[str, Any]:
    found, generator = noise(options, ("image",))
    shape = (options.batch, options.height, options.width)
    found["labels"] = torch.randint(0, CLASSES, shape, generator=generator)
    return found


def run(network: Any, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores, the auxiliary head's and the pyramid's output."""
    x = F.relu(network.bn1(network.conv1(image)))
    x = F.relu(network.bn2(network.conv2(x)))
    x = network.pool(F.relu(network.bn3(network.conv3(x))))
    third = network.layer3(network.layer2(network.layer1(x)))
    pyramid = network.pyramid(network.layer4(third))
    return network.head(pyramid), network.auxiliary(third), pyramid


def resized(scores: Tensor, size: Any) -> Tensor:
    return F.interpolate(scores, size, mode="bilinear", align_corners=True)


def similarities(features: Tensor) -> Tensor:
    """Return the cosines of all pairs of nodes (B, N, N)."""
    window = tuple(int(side * SCALE) for side in features.shape[-2:])
    nodes = F.max_pool2d(features, window, window, ceil_mode=True).flatten(2)
    nodes = nodes / (nodes.detach().square().sum(1, keepdim=True).sqrt() + 1e-8)
    return torch.einsum("bcm,bcn->bmn", nodes, nodes)


def loss(student: Any, teacher: Any, images: Images, batch: Batch, options: argparse.Namespace) -> Tensor:
    scores, auxiliary, pyramid = run(student, images[0])
    with torch.no_grad():
        scores_t, _, pyramid_t = run(teacher, images[0])
    labels = batch["labels"]
    total = F.cross_entropy(resized(scores, labels.shape[-2:]), labels, ignore_index=255)
    total = total + 0.4 * F.cross_entropy(resized(auxiliary, labels.shape[-2:]), labels, ignore_index=255)
    _, classes, height, width = scores.shape
    flat, flat_t = (x.permute(0, 2, 3, 1).reshape(-1, classes) for x in (scores, scores_t))
    pixel = -(flat_t.softmax(1) * flat.log_softmax(1)).sum() / height / width
    apart = (similarities(pyramid_t) - similarities(pyramid)).square()
    return total + 10 * pixel + 0.5 * apart.sum() / apart.shape[-1] ** 2 / len(apart)


def infer(student: Any, images: Images, options: argparse.Namespace) -> Tensor:
    return resized(run(student, images[0])[0], images[0].shape[-2:])


SYSTEM = System("PSPNet-R101 to PSPNet-R18", TERMS, networks, batch, loss, infer)
