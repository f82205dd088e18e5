"""DSNet: ACVNet (small) teaches by early features, volume, distributions over disparity, and disparity."""

from __future__ import annotations

import argparse
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densedistill.networks import create_model
from densedistill.networks.layers.regression import upsample_logits

from . import Batch, Images, System, settle, stereo_batch

LEVELS = (0.5, 0.7, 1.0)
TERMS = {
    "ground_truth": {
        "loss": "log_l1_published",
        "of": "disparity",
        "to": "ground_truth",
        "mask": "ground_truth",
        "levels": list(LEVELS),
    },
    "output": {
        "loss": "smooth_l1",
        "of": "disparity",
        "to": "teacher",
        "mask": "ground_truth",
        "weight": 0.1,
    },
    "features": {"loss": "cosine", "of": "features.early", "to": "teacher"},
    "volume": {"loss": "cosine", "of": "volume", "to": "teacher", "weight": 5.0},
    "aggregation": {"loss": "soft_kl", "of": "aggregation", "to": "teacher", "weight": 0.2},
}


def networks(options: argparse.Namespace) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    student = create_model("dsnet_bb21_ed2_n16", max_disparity=options.max_disparity).train()
    teacher = create_model("acvnet_small", max_disparity=options.max_disparity).eval()
    batch = stereo_batch(options)
    images, _ = student.input_spec.prepare(batch["left"], batch["right"])
    for network in (student, teacher):
        usual_logits(network, [image[..., :128, :256] for image in images])
    return student, teacher.requires_grad_(False)


def usual_logits(network: nn.Module, images: Images) -> None:
    """Bring the logits of all heads to a standard deviation of 5, where a trained network has them."""

    def scale(head: nn.Module, inputs: Any, logits: Tensor) -> None:
        head.logits.weight.data.mul_(5 / logits.std())

    heads = [network.get_submodule(path) for path in network.taps["aggregation"]]
    hooks = [head.register_forward_hook(scale) for head in heads]
    settle(network, images)
    for hook in hooks:
        hook.remove()


def correlation(left: Tensor, right: Tensor, levels: int, groups: int) -> Tensor:
    """Fill a group-wise correlation volume disparity by disparity."""
    batch, channels, height, width = left.shape
    volume = left.new_zeros(batch, groups, levels, height, width)
    for d in range(min(levels, width)):
        product = left[..., d:] * right[..., : width - d]
        volume[:, :, d, :, d:] = product.view(batch, groups, channels // groups, height, width - d).mean(2)
    return volume.contiguous()


def concatenation(left: Tensor, right: Tensor, levels: int) -> Tensor:
    """Fill ACVNet's concatenation volume disparity by disparity."""
    batch, channels, height, width = left.shape
    volume = left.new_zeros(batch, 2 * channels, levels, height, width)
    for d in range(levels):
        volume[:, :channels, d] = left
        volume[:, channels:, d, :, d:] = right[..., : max(width - d, 0)]
    return volume.contiguous()


def features(network: Any, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the stem, the first stage, and the features of one view."""
    stem = network.features.stem(image)
    first = network.features.stage1(stem)
    outputs = [network.features.stage2(first)]
    outputs.append(network.features.stage3(outputs[-1]))
    outputs.append(network.features.stage4(outputs[-1]))
    return stem, first, torch.cat(outputs, 1)


def run_student(network: Any, left: Tensor, right: Tensor) -> dict[str, Any]:
    lefts, rights = features(network, left), features(network, right)
    volume = correlation(lefts[2], rights[2], network.max_disparity // 4, network.volume.groups)
    return outputs(network, lefts, rights, volume, network.aggregation(volume, True), left)


def run_teacher(network: Any, left: Tensor, right: Tensor) -> dict[str, Any]:
    lefts, rights = features(network, left), features(network, right)
    levels = network.max_disparity // 4
    volume = correlation(lefts[2], rights[2], levels, network.volume.groups)
    attention = network.attention_branch(volume).softmax(2)
    joined = concatenation(network.compress(lefts[2]), network.compress(rights[2]), levels)
    return outputs(network, lefts, rights, volume, network.aggregation(attention * joined, True), left)


def outputs(network: Any, lefts: Any, rights: Any, volume: Tensor, logits: Any, image: Tensor) -> Any:
    full = [upsample_logits(one, network.max_disparity, image.shape[-2:]) for one in logits]
    early = [view[i] for i in range(2) for view in (lefts, rights)]
    return {
        "early": early,
        "volume": volume,
        "logits": full,
        "disparities": [expectation(one) for one in full],
    }


def expectation(logits: Tensor) -> Tensor:
    """Return the disparity (B, 1, H, W) of logits (B, M, H, W) of full size."""
    levels = torch.arange(logits.shape[1], dtype=torch.float32).view(1, -1, 1, 1)
    return (logits.softmax(1) * levels).sum(1, keepdim=True)


def loss(student: Any, teacher: Any, images: Images, batch: Batch, options: argparse.Namespace) -> Tensor:
    ours = run_student(student, *images)
    with torch.no_grad():
        theirs = run_teacher(teacher, *images)
    truth = batch["disparity"]
    mask = batch["disparity_valid"] & (truth > 0) & (truth < options.max_disparity)
    total = torch.zeros(())
    for weight, disparity in zip(LEVELS, ours["disparities"], strict=True):
        total = total + weight * ((disparity[mask] - truth[mask]).abs() + 0.5).log().mean()
    target = theirs["disparities"][-1]
    total = total + 0.1 * F.smooth_l1_loss(ours["disparities"][-1][mask], target[mask])
    for own, other in zip(ours["early"], theirs["early"], strict=True):
        total = total + (1 - F.cosine_similarity(own, other)).mean() / 2
    total = total + 5 * (1 - F.cosine_similarity(ours["volume"], theirs["volume"])).mean()
    for own, other in zip(ours["logits"], theirs["logits"], strict=True):
        cross = -(other.softmax(1) * own.log_softmax(1)).sum()
        total = total + 0.2 * cross / (own.shape[-1] * own.shape[-2])
    return total


def infer(student: Any, images: Images, options: argparse.Namespace) -> Tensor:
    left, right = (features(student, image)[2] for image in images)
    volume = correlation(left, right, student.max_disparity // 4, student.volume.groups)
    logits = student.aggregation(volume, False)[-1]
    return expectation(upsample_logits(logits, student.max_disparity, images[0].shape[-2:]))


SYSTEM = System("ACVNet (small) to DSNet", TERMS, networks, stereo_batch, loss, infer)
