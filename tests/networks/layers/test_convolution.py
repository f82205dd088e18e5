"""Convolutions that take a detour for speed compute what torch's own compute."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from densedistill.networks.layers.convolution import Conv3d, TransposedConv3d

PLAIN = {Conv3d: nn.Conv3d, TransposedConv3d: nn.ConvTranspose3d}
CASES = [
    (lambda: Conv3d(4, 6, 3, padding=1, bias=False), (1, 4, 8, 6, 5)),
    (lambda: Conv3d(4, 6, 3, padding=1), (1, 4, 6, 6, 5)),
    (lambda: Conv3d(4, 6, 3, stride=2, padding=1, bias=False), (1, 4, 8, 6, 5)),
    (lambda: Conv3d(4, 6, 3, stride=2, padding=1, bias=False), (1, 4, 7, 6, 5)),
    (lambda: Conv3d(4, 6, 3, padding=1, bias=False), (1, 4, 7, 6, 5)),
    (lambda: Conv3d(4, 6, 3, padding=1, bias=False), (2, 4, 8, 6, 5)),
    (lambda: Conv3d(4, 6, 1), (2, 4, 8, 6, 5)),
    (lambda: Conv3d(4, 6, 1, bias=False), (1, 4, 3, 6, 5)),
    (lambda: Conv3d(4, 4, (1, 3, 3), padding=(0, 2, 2), dilation=(1, 2, 2), groups=4), (1, 4, 8, 6, 7)),
    (lambda: Conv3d(4, 6, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)), (2, 4, 3, 6, 7)),
    (lambda: Conv3d(4, 1, 3, padding=1, bias=False), (2, 4, 8, 6, 5)),
    (lambda: TransposedConv3d(4, 6), (1, 4, 4, 6, 5)),
    (lambda: TransposedConv3d(4, 6), (1, 4, 3, 6, 5)),
    (lambda: TransposedConv3d(4, 6), (2, 4, 4, 6, 5)),
]


def value_and_gradients(module, volume):
    volume = volume.clone().requires_grad_()
    value = module(volume)
    weight = torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
    return value, *torch.autograd.grad((value * weight).sum(), (volume, *module.parameters()))


@pytest.mark.parametrize(("make", "shape"), CASES)
def test_convolution_equals_that_of_torch_in_value_and_gradients(make, shape):
    torch.manual_seed(0)
    module, volume = make(), torch.randn(shape).contiguous(memory_format=torch.channels_last_3d)
    got = value_and_gradients(module, volume)
    module.__class__ = PLAIN[type(module)]
    for ours, theirs in zip(got, value_and_gradients(module, volume), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("make", "shape"), CASES)
def test_in_bfloat16_convolution_is_as_exact_as_that_of_torch(make, shape):
    torch.manual_seed(0)
    module, volume = make(), torch.randn(shape).contiguous(memory_format=torch.channels_last_3d)
    truth = value_and_gradients(module, volume)
    with torch.autocast("cpu", torch.bfloat16):
        got = value_and_gradients(module, volume)
        module.__class__ = PLAIN[type(module)]
        theirs = value_and_gradients(module, volume)
    for exact, ours, other in zip(truth, got, theirs, strict=True):
        assert (ours - exact).norm() <= 1.2 * (other - exact).norm() + 1e-3 * exact.norm()


@pytest.mark.parametrize(
    "make", [lambda: Conv3d(4, 6, 3, padding=1), lambda: TransposedConv3d(4, 6), lambda: Conv3d(4, 6, 1)]
)
def test_one_small_volume_keeps_its_memory_format_forward_and_backward(make):
    volume = torch.randn(1, 4, 6, 6, 5).contiguous(memory_format=torch.channels_last_3d)
    value, gradient, *_ = value_and_gradients(make(), volume)
    assert value.is_contiguous(memory_format=torch.channels_last_3d)
    assert gradient.is_contiguous(memory_format=torch.channels_last_3d)
