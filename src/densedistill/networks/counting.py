"""Parameters and multiply-accumulates (MACs) of a network: true ones, and by the rule of the DSNet paper."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..tasks import get_task
from ._layout import Layout
from .input_spec import InputSpec
from .registry import create_model

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
_ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.ReLU6, nn.PReLU, nn.ELU)
_PER_OUTPUT = (*_ACTIVATIONS, nn.Upsample)


class Counts(NamedTuple):
    """What a network costs, in evaluation mode, for one sample.

    Attributes:
        parameters: that it has.
        parameters_paper: these, and those of published entries that reach no output and are not kept.
        macs: of convolutions, transposed convolutions (at the resolution of their input) and linear layers,
            with their biases.
        macs_paper: by the rule of the DSNet paper, see `count`.
        size: (height, width) of the image.
    """

    parameters: int
    parameters_paper: int
    macs: int
    macs_paper: int
    size: tuple[int, int]


def count(network: nn.Module, size: tuple[int, int] = (256, 512)) -> Counts:
    """Return what `network` costs for images of `size` (height, width), padded by its spec.

    The rule of the DSNet paper (its tables, an early ptflops) counts transposed convolutions at the size of
    their output, twice the elements of a batch normalisation, the elements of activations, upsamplings and of
    what is pooled where these are modules, and published parts that run and reach no output. Neither rule
    counts functional operations: correlation, softmax, interpolation, additions.

    Networks on the meta device are counted without computing.
    """
    parameters = sum(parameter.numel() for parameter in network.parameters())
    layout = getattr(network, "published", Layout())
    counter = _Counter()
    handles = [module.register_forward_hook(counter) for module in network.modules()]
    if layout.unused_reads:
        unused = _UnusedCounter(layout, counter)
        handles.append(network.get_submodule(layout.unused_reads).register_forward_hook(unused))
    training = [(module, module.training) for module in network.modules()]
    try:
        with torch.no_grad():
            network.eval()(*_images(network, size))
    finally:
        for module, mode in training:
            module.training = mode
        for handle in handles:
            handle.remove()
    return Counts(parameters, parameters + layout.unused_parameters, counter.macs, counter.macs_paper, size)


def count_model(name: str, size: tuple[int, int] = (256, 512)) -> Counts:
    """Return `count` of the registered network `name` without options, computing nothing."""
    with torch.device("meta"):
        network = create_model(name)
    for module in network.modules():
        if type(module) in (*_NORMS, *_ACTIVATIONS):  # on the meta device they take half of the time
            module.forward = _unchanged
    return count(network, size)


def _unchanged(x: Tensor) -> Tensor:
    return x


class _Counter:
    """A forward hook that adds up what one module does."""

    def __init__(self) -> None:
        self.macs = self.macs_paper = 0

    def __call__(self, module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if hasattr(module, "macs"):  # a module of ours that computes otherwise than its class says
            self.macs += module.macs(inputs)
            self.macs_paper += module.macs(inputs)
        elif isinstance(module, (*_CONVOLUTIONS, *_TRANSPOSED)):
            kernel = math.prod(module.kernel_size)
            bias = 0 if module.bias is None else output.numel()
            dense = output.numel() * kernel * module.in_channels // module.groups
            self.macs_paper += dense + bias
            if isinstance(module, _TRANSPOSED):
                dense = inputs[0].numel() * kernel * module.out_channels // module.groups
            self.macs += dense + bias
        elif isinstance(module, nn.Linear):
            products = output.numel() * (module.in_features + (module.bias is not None))
            self.macs += products
            self.macs_paper += products
        elif isinstance(module, _NORMS):
            self.macs_paper += 2 * output.numel()
        elif isinstance(module, _PER_OUTPUT):
            self.macs_paper += output.numel()
        elif isinstance(module, _POOLS):
            self.macs_paper += inputs[0].numel()


class _UnusedCounter:
    """A forward hook that adds published convolutions that read this module's output and reach none."""

    def __init__(self, layout: Layout, counter: _Counter) -> None:
        self.layout, self.counter = layout, counter

    def __call__(self, module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        positions = output.numel() // output.shape[1]
        for key, shape in self.layout.unused.items():
            if len(shape) == 4:
                self.counter.macs_paper += positions * math.prod(shape)
            elif key.endswith("running_mean"):  # a normalisation and its ReLU
                self.counter.macs_paper += 3 * positions * shape[0]


def _images(network: nn.Module, size: tuple[int, int]) -> list[Tensor]:
    spec = getattr(network, "input_spec", InputSpec())
    like = next(network.parameters())
    inputs = get_task(getattr(network, "task", "stereo")).inputs
    return [like.new_zeros(1, 3, *spec.place(*size).input_size) for _ in inputs]
