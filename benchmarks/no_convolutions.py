"""Convolutions that give numbers of the right shape at no cost, to measure everything else of a step.

Where a processor has units for matrices, convolutions are a small part of a step; what is left is then the
limit. It is measured here on any processor: every convolution, forward and backward, is replaced by filling
its result, in the type and memory format that it would have.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from densedistill.networks.layers.packed import PackedConv2d

_NAMES = ("conv2d", "conv3d", "conv_transpose2d", "conv_transpose3d")


@contextlib.contextmanager
def no_convolutions() -> Iterator[None]:
    """Within it, `F.conv2d`, `F.conv3d`, their transposes and packed convolutions compute nothing."""
    real, packed = {name: getattr(F, name) for name in _NAMES}, PackedConv2d.forward
    try:
        for name, function in real.items():
            setattr(F, name, _shaped_like(function))
        PackedConv2d.forward = _packed  # type: ignore[method-assign]
        yield
    finally:
        for name, function in real.items():
            setattr(F, name, function)
        PackedConv2d.forward = packed  # type: ignore[method-assign]


def _shaped_like(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    sizes: dict[Any, torch.Size] = {}

    def convolve(image: Tensor, weight: Tensor, bias: Tensor | None = None, *options: Any) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            image, weight = image.to(dtype), weight.to(dtype)
        key = (image.shape, weight.shape, *map(str, options))
        if key not in sizes:
            shapes = (torch.empty_like(x, device="meta", dtype=torch.float32) for x in (image, weight))
            with torch.autocast("cpu", enabled=False):
                sizes[key] = function(*shapes, None, *options).shape
        return _Nothing.apply(image, weight, bias, sizes[key])

    return convolve


def _packed(conv: PackedConv2d, image: Tensor) -> Tensor:
    weight = torch.empty(conv.weight.shape, memory_format=torch.channels_last)
    return F.conv2d(image, weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)


class _Nothing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor, bias: Tensor | None, size: torch.Size) -> Tensor:
        ctx.save_for_backward(image, weight, bias)
        return _filled(image, size, _memory_format(image, weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        image, weight, bias = ctx.saved_tensors
        image_format = _memory_format(image, weight)
        gradient.contiguous(memory_format=image_format)  # as a convolution would have it
        of_image = _filled(image, image.shape, image_format) if ctx.needs_input_grad[0] else None
        return of_image, torch.full_like(weight, 1e-3), None if bias is None else torch.zeros_like(bias), None


def _filled(like: Tensor, size: torch.Size, memory_format: torch.memory_format) -> Tensor:
    return torch.empty(size, dtype=like.dtype, memory_format=memory_format).fill_(1e-3)


def _memory_format(image: Tensor, weight: Tensor) -> torch.memory_format:
    """Return the format of a convolution's result: channels-last if one of its operands is."""
    last = torch.channels_last if image.ndim == 4 else torch.channels_last_3d
    if any(x.is_contiguous(memory_format=last) and not x.is_contiguous() for x in (image, weight)):
        return last
    return torch.contiguous_format
