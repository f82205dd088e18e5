"""Cost volumes without a loop over disparities equal those built by one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from densedistill.networks.layers import volume as volumes
from densedistill.networks.layers import volume_chunked
from densedistill.networks.layers.volume import concatenation_volume, groupwise_correlation_volume


def looped_correlation(left, right, levels, groups):
    batch, channels, height, width = left.shape
    slices = []
    for d in range(levels):
        product = left[..., d:] * right[..., : max(width - d, 0)]
        product = product.reshape(batch, groups, channels // groups, height, max(width - d, 0)).mean(2)
        slices.append(nn.functional.pad(product, (min(d, width), 0)))
    return torch.stack(slices, 2)


def looped_concatenation(left, right, levels, mask_left=True):
    width = left.shape[-1]
    slices = []
    for d in range(levels):
        shifted = nn.functional.pad(right[..., : max(width - d, 0)], (min(d, width), 0))
        kept = nn.functional.pad(left[..., d:], (min(d, width), 0)) if mask_left else left
        slices.append(torch.cat((kept, shifted), 1))
    return torch.stack(slices, 2)


KINDS = {
    "correlation": (
        lambda a, b, d: groupwise_correlation_volume(a, b, d, 3),
        lambda a, b, d: looped_correlation(a, b, d, 3),
    ),
    "concatenation": (concatenation_volume, looped_concatenation),
    "concatenation, left kept": (
        lambda a, b, d: concatenation_volume(a, b, d, mask_left=False),
        lambda a, b, d: looped_concatenation(a, b, d, mask_left=False),
    ),
}
STANDARD = {
    "correlation": lambda a, b, d: volumes._correlate_by_standard_operators(a, b, d, 3),
    "concatenation": lambda a, b, d: volumes._concatenate_by_standard_operators(a, b, d, True),
    "concatenation, left kept": lambda a, b, d: volumes._concatenate_by_standard_operators(a, b, d, False),
}
# (batch, channels, height, width), levels; the second is narrower than its disparities, twice over
SHAPES = [((2, 12, 5, 17), 8), ((2, 6, 7, 3), 8), ((1, 3, 4, 8), 8), ((1, 6, 3, 9), 1), ((2, 24, 300, 20), 6)]


def draw(shape, dtype=torch.float32, memory_format=torch.contiguous_format):
    generator = torch.Generator().manual_seed(0)
    both = torch.randn(2, *shape, generator=generator, dtype=torch.float64).to(dtype)
    return [x.contiguous(memory_format=memory_format).requires_grad_() for x in both.unbind()]


def value_and_gradients(function, left, right, levels):
    volume = function(left, right, levels)
    weight = torch.randn(volume.shape, generator=torch.Generator().manual_seed(1)).to(volume.dtype)
    return volume, *torch.autograd.grad((volume * weight).sum(), (left, right))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("shape", "levels"), SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_volume_equals_the_loop_in_value_and_gradients(kind, shape, levels, memory_format):
    fast, plain = KINDS[kind]
    left, right = draw(shape, memory_format=memory_format)
    for got, wanted in zip(
        value_and_gradients(fast, left, right, levels),
        value_and_gradients(plain, left, right, levels),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_volumes_are_computed_in_pieces_of_any_height(kind, monkeypatch):
    monkeypatch.setattr(volume_chunked, "_CHUNK_NUMBERS", 200)  # one to five of seven rows
    left, right = draw((2, 6, 7, 5))
    got, wanted = (value_and_gradients(function, left, right, 4) for function in KINDS[kind])
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("shape", "levels"), SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_exported_formulation_equals_the_loop(kind, shape, levels):
    left, right = draw(shape)
    got = value_and_gradients(STANDARD[kind], left, right, levels)
    wanted = value_and_gradients(KINDS[kind][1], left, right, levels)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_volume_passes_gradcheck_in_double_precision(kind):
    left, right = draw((1, 6, 2, 5), torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: KINDS[kind][0](a, b, 3), (left, right))


@pytest.mark.parametrize("kind", KINDS)
def test_volume_lies_in_memory_as_convolutions_want_it(kind):
    left, right = draw((1, 12, 4, 16))
    assert KINDS[kind][0](left, right, 4).is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("kind", KINDS)
def test_volume_keeps_half_precision_under_autocast_and_sums_in_single(kind):
    left, right = draw((1, 12, 4, 16), torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        volume, left_gradient, _ = value_and_gradients(KINDS[kind][0], left, right, 4)
    truth = KINDS[kind][1](left.float(), right.float(), 4)
    assert volume.dtype == left_gradient.dtype == torch.bfloat16
    torch.testing.assert_close(volume.float(), truth, rtol=2**-8, atol=1e-6)


def test_volume_names_what_does_not_fit():
    left, right = draw((1, 10, 4, 8))
    with pytest.raises(ValueError, match="10 channels cannot be split into 4 groups"):
        groupwise_correlation_volume(left, right, 4, 4)
    with pytest.raises(ValueError, match=r"\(1, 10, 4, 8\) and \(1, 10, 4, 7\)"):
        concatenation_volume(left, right[..., :7], 4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_of_the_gradient_is_refused(kind):
    left, right = draw((1, 6, 2, 5))
    loss = KINDS[kind][0](left, right, 3).square().sum()
    (gradient,) = torch.autograd.grad(loss, left, create_graph=True)
    with pytest.raises(RuntimeError, match="twice"):
        gradient.sum().backward()
