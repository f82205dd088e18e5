"""Convolutions that take a detour for speed compute what torch's own compute."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from densedistill.networks.layers.convolution import (
    Conv3d,
    DepthwiseConv2d,
    FewChannelsConv2d,
    TransposedConv3d,
    join,
    laid_out_like,
)

PLAIN = {
    Conv3d: nn.Conv3d,
    TransposedConv3d: nn.ConvTranspose3d,
    DepthwiseConv2d: nn.Conv2d,
    FewChannelsConv2d: nn.Conv2d,
}
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
    (lambda: DepthwiseConv2d(6), (2, 6, 8, 5)),
    (lambda: DepthwiseConv2d(6, dilation=2), (2, 6, 8, 6)),
    (lambda: DepthwiseConv2d(6, dilation=2), (2, 6, 8, 5)),
    (lambda: DepthwiseConv2d(6, dilation=3), (1, 6, 9, 12)),
    (lambda: DepthwiseConv2d(6, stride=2, dilation=2), (1, 6, 8, 12)),
    (lambda: DepthwiseConv2d(6, stride=2), (2, 6, 8, 12)),
    (lambda: DepthwiseConv2d(6, stride=2), (1, 6, 7, 9)),
    (lambda: FewChannelsConv2d(6, 1), (2, 6, 8, 5)),
    (lambda: FewChannelsConv2d(6, 2), (1, 6, 1, 3)),
]


def channels_last(shape):
    form = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    return torch.randn(shape).contiguous(memory_format=form)


def value_and_gradients(module, volume):
    volume = volume.clone().requires_grad_()
    value = module(volume)
    weight = torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
    return value, *torch.autograd.grad((value * weight).sum(), (volume, *module.parameters()))


@pytest.mark.parametrize(("make", "shape"), CASES)
def test_convolution_equals_that_of_torch_in_value_and_gradients(make, shape):
    torch.manual_seed(0)
    module, volume = make(), channels_last(shape)
    got = value_and_gradients(module, volume)
    module.__class__ = PLAIN[type(module)]
    for ours, theirs in zip(got, value_and_gradients(module, volume), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("make", "shape"), CASES)
def test_in_bfloat16_convolution_is_as_exact_as_that_of_torch(make, shape):
    torch.manual_seed(0)
    module, volume = make(), channels_last(shape)
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


@pytest.mark.parametrize("options", [{}, {"dilation": 2}, {"stride": 2}])
def test_a_folded_normalisation_gives_depthwise_convolutions_a_bias(options):
    module, image = DepthwiseConv2d(6, **options), channels_last((1, 6, 8, 6))
    without = module(image)
    module.bias = nn.Parameter(torch.arange(6.0))
    shift = torch.arange(6.0)[:, None, None].expand_as(without)
    torch.testing.assert_close(module(image) - without, shift)


def test_a_few_channels_have_the_number_format_of_their_network():
    module, image = FewChannelsConv2d(6, 1), channels_last((1, 6, 8, 6))
    with torch.autocast("cpu", torch.bfloat16):
        assert module(image).dtype is torch.float32  # the sum of the taps, not rounded
    assert module.to(torch.bfloat16)(image.to(torch.bfloat16)).dtype is torch.bfloat16


def test_maps_are_joined_channels_last_where_one_of_them_is():
    first, last, single = torch.randn(2, 3, 4, 5), channels_last((2, 6, 4, 5)), torch.randn(2, 1, 4, 5)
    joined = join(first, last, single)
    assert torch.equal(joined, torch.cat((first, last, single), 1))
    assert joined.is_contiguous(memory_format=torch.channels_last)
    assert join(first, single).is_contiguous()
    assert laid_out_like(last, first) is last
    assert laid_out_like(first, last).is_contiguous(memory_format=torch.channels_last)
