"""Spatial-KD: ResNeXt-101 teaches ResNet-18 by features, their Laplacian bands, and replacement (NYU)."""

from __future__ import annotations

import argparse
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densedistill.networks import create_model

from . import Batch, Images, System, noise, plain_convolutions, settle

FEATURE_WEIGHTS, BAND_WEIGHTS, BLOCKS = (1, 2, 2, 5, 5), (2, 2, 2, 5, 5), (2, 2, 7, 7)
PROBABILITY = 0.2
_BAND = {"of": "decoder", "to": "teacher", "weight": 0.1, "levels": list(BAND_WEIGHTS)}
TERMS = {
    "ground_truth": {
        "loss": "silog",
        "of": "depth",
        "to": "ground_truth",
        "mask": "ground_truth",
        "minimum": 0.1,
    },
    # The first two steps replace nothing, as published; afterwards the ramp is over.
    "replaced": {
        "loss": "replace_block",
        "of": "replaceable",
        "to": "teacher",
        "weight": 0.2,
        "probability": PROBABILITY,
        "ramp_steps": 1,
    },
    "feature": {
        "loss": "mse",
        "of": "decoder",
        "to": "teacher",
        "weight": 0.3,
        "levels": list(FEATURE_WEIGHTS),
    },
    "fine": {"loss": "laplacian_fine", **_BAND},
    "middle": {"loss": "laplacian_middle", **_BAND},
    "low": {"loss": "laplacian_low", **_BAND},
}


def networks(options: argparse.Namespace) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    student = create_model("spatialkd_resnet18", max_depth=10)
    teacher = create_model("spatialkd_resnext101", max_depth=10)
    student.decoder.load_state_dict(teacher.decoder.state_dict())
    image = batch(options)["image"]
    for network in (student, teacher):
        settle(network, network.input_spec.prepare(image)[0])
    student.train().decoder.requires_grad_(False)
    return student, teacher.eval().requires_grad_(False)


def undo(student: nn.Module, teacher: nn.Module | None) -> None:
    """Let the decoder take gradients, too: they are computed and never used."""
    plain_convolutions(student, teacher)
    student.get_submodule("decoder").requires_grad_(True)


def batch(options: argparse.Namespace) -> dict[str, Any]:
    found, generator = noise(options, ("image",))
    shape = (options.batch, 1, options.height, options.width)
    found["depth"] = torch.rand(shape, generator=generator) * 9 + 0.5
    found["depth_valid"] = torch.ones(shape, dtype=torch.bool)
    return found


def halved(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=0.5, mode="bilinear")


def bands(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return fine and middle detail and the context of features."""
    half = halved(x)
    low = halved(half)
    fine = x - F.interpolate(half, x.shape[-2:], mode="bilinear")
    return fine, half - F.interpolate(low, half.shape[-2:], mode="bilinear"), low


def replace(student: Tensor, teacher: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Return the student's features with the teacher's in random blocks, and the difference there."""
    field = torch.rand(len(student), *student.shape[2:])
    seeds = (field < PROBABILITY / block**2).float()
    region = F.max_pool2d(seeds[:, None], block, stride=1, padding=block // 2)
    if block % 2 == 0:
        region = region[..., :-1, :-1]
    region = (region > 0).expand_as(student)
    if not region.any():
        return student, student.new_zeros(())
    difference = (student[region] - teacher[region]).abs().mean()
    both = region & (student > 0)
    mixed = student.clone()
    mixed[both] = student[both] * (teacher[both] / student[both])
    return mixed, difference


def decode(network: Any, maps: list[Tensor], size: Any, teachers: list[Tensor] | None = None) -> Any:
    """Return depth, the decoder's features, and the sum of the differences in replaced blocks."""
    decoder, differences = network.decoder, []

    def give(x: Tensor, place: int) -> Tensor:
        if teachers is None or place >= len(BLOCKS):
            return x
        mixed, difference = replace(x, teachers[place], BLOCKS[place])
        differences.append(difference)
        return mixed

    x = give(maps[4], 0)
    skips = maps[3::-1]
    sizes = [skip.shape[-2:] for skip in skips] + [size]
    x = give(decoder.up[0](x, sizes[0]), 1)
    features = [x]
    for i, (reduce, skip) in enumerate(zip(decoder.reduce, skips, strict=True)):
        joined = torch.cat((x, skip), 1)
        x = give(decoder.up[i + 1](reduce(joined), tuple(2 * side for side in sizes[i])), i + 2)
        features.append(x)
    return decoder.head(x).sigmoid() * decoder.max_depth, features, sum(differences)


def full_size(depth: Tensor) -> Tensor:
    return F.interpolate(depth, scale_factor=2, mode="bilinear")


def loss(student: Any, teacher: Any, images: Images, batch: Batch, options: argparse.Namespace) -> Tensor:
    size = images[0].shape[-2:]
    with torch.no_grad():
        theirs = teacher.encoder(images[0])
        _, their_features, _ = decode(teacher, theirs, size)
    targets = [theirs[4], *their_features[:3]]
    depth, features, replaced = decode(student, student.encoder(images[0]), size, targets)
    truth = batch["depth"]
    mask = truth > 0.1
    difference = full_size(depth)[mask].log() - truth[mask].log()
    total = 10 * (difference.square().mean() - 0.85 * difference.mean() ** 2).sqrt() + 0.2 * replaced
    for i, (own, other) in enumerate(zip(features, their_features, strict=True)):
        total = total + 0.3 * FEATURE_WEIGHTS[i] * F.mse_loss(own, other)
        (fine, middle, low), (fine_t, middle_t, low_t) = bands(own), bands(other)
        apart = F.l1_loss(fine, fine_t) + F.l1_loss(middle, middle_t) + F.mse_loss(low, low_t)
        total = total + 0.1 * BAND_WEIGHTS[i] * apart
    return total


def infer(student: Any, images: Images, options: argparse.Namespace) -> Tensor:
    depth, _, _ = decode(student, student.encoder(images[0]), images[0].shape[-2:])
    return full_size(depth)


SYSTEM = System("Spatial-KD, ResNeXt-101 to ResNet-18", TERMS, networks, batch, loss, infer, undo)
