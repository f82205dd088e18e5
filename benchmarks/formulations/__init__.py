"""Distillation steps as they are published, written out plainly, for `distillation_step.py` to measure.

A module a system. The networks are this toolkit's, so that weights are the same; what is done with them is
written as the published code does it: loops over disparities and displacements, maps of full size, a view at
a time.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from densedistill.networks.layers import convolution

NAMES = ("dsnet", "tsnnet", "dwarf", "spatialkd", "pspnet")
Images = Sequence[Tensor]
Batch = Mapping[str, Any]


def plain_convolutions(student: nn.Module, teacher: nn.Module | None) -> None:
    """Take away what this toolkit's convolutions do to be fast on a CPU."""
    plain = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose3d)
    for network in (student, teacher):
        for module in network.modules() if network is not None else ():
            if type(module).__module__ == convolution.__name__:
                module.__class__ = next((one for one in plain if isinstance(module, one)), type(module))


@dataclass(frozen=True)
class System:
    """A teacher and a student, and their published step.

    Args:
        title: of the table.
        terms: the same objective as a recipe has it.
        networks: from options to student and teacher, with random weights, the same in every process; no
            teacher where the published code learns from stored answers.
        batch: from options to noise of the wanted size, with ground truth.
        loss: the published step's loss from student, teacher, the images as the networks want them, batch
            and options.
        infer: the published inference, from student, images and options.
        undo: what this toolkit's layers do of their own accord that the published code does not.
    """

    title: str
    terms: Mapping[str, Any]
    networks: Callable[[argparse.Namespace], tuple[nn.Module, nn.Module | None]]
    batch: Callable[[argparse.Namespace], dict[str, Any]]
    loss: Callable[[Any, Any, Images, Batch, argparse.Namespace], Tensor]
    infer: Callable[[Any, Images, argparse.Namespace], Tensor]
    undo: Callable[[nn.Module, nn.Module | None], None] = plain_convolutions


def get_system(name: str) -> System:
    """Return the system `name` of `NAMES`."""
    return importlib.import_module(f"formulations.{name}").SYSTEM


def noise(options: argparse.Namespace, inputs: Sequence[str]) -> tuple[dict[str, Any], torch.Generator]:
    """Return a batch of images, uint8 (B, 3, H, W), and the generator of further noise."""
    generator = torch.Generator().manual_seed(0)
    shape = (options.batch, 3, options.height, options.width)
    images = {
        key: torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8) for key in sorted(inputs)
    }
    return images, generator


def stereo_batch(options: argparse.Namespace) -> dict[str, Any]:
    """Return two views and the ground truth between them."""
    batch, generator = noise(options, ("left", "right"))
    shape = (options.batch, 1, options.height, options.width)
    batch["disparity"] = torch.rand(shape, generator=generator) * (options.max_disparity - 2) + 1
    batch["disparity_valid"] = torch.ones(shape, dtype=torch.bool)
    return batch


def settle(network: nn.Module, images: Images) -> None:
    """Give the batch normalisation of random weights the statistics of `images`: a deep network's values
    would else grow beyond bounds in evaluation mode."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm3d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    was_training = network.training
    network.train()
    with torch.no_grad():
        network(*images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.train(was_training)
