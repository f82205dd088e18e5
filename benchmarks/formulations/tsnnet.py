"""TSNnet: the Teacher teaches the Student by volume, detector and weighted aggregation."""

from __future__ import annotations

import argparse
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densedistill.networks import create_model
from densedistill.networks.layers.regression import upsample_logits

from . import Batch, Images, System, settle, stereo_batch
from .dsnet import expectation

TERMS = {
    "ground_truth": {"loss": "smooth_l1", "of": "disparity", "to": "ground_truth", "mask": "ground_truth"},
    "volume": {"loss": "mse", "of": "volume", "to": "teacher"},
    "detector": {"loss": "mse", "of": "detector", "to": "teacher"},
    "weighted": {"loss": "mse", "of": "weighted", "to": "teacher"},
}


def networks(options: argparse.Namespace) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    student = create_model("tsnnet_student", max_disparity=options.max_disparity)
    teacher = create_model("tsnnet_teacher", max_disparity=options.max_disparity)
    batch = stereo_batch(options)
    for network in (student, teacher):
        settle(network, network.input_spec.prepare(batch["left"], batch["right"])[0])
    return student.train(), teacher.eval().requires_grad_(False)


def features(network: Any, image: Tensor) -> Tensor:
    """Return the maps at a quarter of the size, side by side."""
    maps = [network.features.stage2(network.features.stage1(network.features.stem(image)))]
    maps.append(network.features.stage3(maps[-1]))
    maps.append(network.features.stage4(maps[-1]))
    return torch.cat(maps, 1)


def compared_volume(module: Any, left: Tensor, right: Tensor) -> Tensor:
    """Compare both views by the learned 1x1 convolutions, a disparity at a time."""
    left, right = module.reduce(left), module.reduce(right)
    batch, _, height, width = left.shape
    volume = left.new_zeros(batch, module.levels, height, width)
    for d in range(module.levels):
        pair = torch.stack((left[..., d:], right[..., : width - d]), 2).flatten(1, 2)
        for layer in module.compare:
            pair = F.relu(layer.norm(F.conv2d(pair, layer.conv.weight)))
        volume[:, d : d + 1, :, d:] = pair
    return volume


def run(network: Any, images: Images) -> dict[str, Tensor]:
    left, right = (features(network, image) for image in images)
    volume = compared_volume(network.volume, left, right)
    classes = network.detector(volume)
    levels = (torch.arange(volume.shape[1]) + 1) // 3
    weights = classes[:, levels.clamp(max=classes.shape[1] - 1)].softmax(1)
    part = network.aggregation
    cost = part.reduce(volume)
    costs = [part.residual(cost) + cost]
    for encoder in part.encoders:
        costs.append(encoder(costs[-1]))
    heads = list(zip(part.heads, costs[-len(part.heads) :], strict=True))
    if not network.training:
        heads = heads[-1:]
    for head, one in heads:
        weighted = one * weights
        logits = head.classify(weighted)[:, None]
        disparity = expectation(upsample_logits(logits, network.max_disparity, images[0].shape[-2:]))
    return {"volume": volume, "detector": classes, "weighted": weighted, "disparity": disparity}


def loss(student: Any, teacher: Any, images: Images, batch: Batch, options: argparse.Namespace) -> Tensor:
    ours = run(student, images)
    with torch.no_grad():
        theirs = run(teacher, images)
    truth = batch["disparity"]
    mask = batch["disparity_valid"] & (truth > 0) & (truth < options.max_disparity)
    total = F.smooth_l1_loss(ours["disparity"][mask], truth[mask])
    for key in ("volume", "detector", "weighted"):
        total = total + F.mse_loss(ours[key], theirs[key])
    return total


def infer(student: Any, images: Images, options: argparse.Namespace) -> Tensor:
    return run(student, images)["disparity"]


SYSTEM = System("TSNnet's Teacher to its Student", TERMS, networks, stereo_batch, loss, infer)
