"""TSNnet's compared volume: only pairs that exist, and the gradient of picking them."""

import pytest
import torch
from torch import nn

from densedistill.networks.layers.volume_compared import ComparedVolume, PairConvolution


def direct(volume, features, batch):
    """Compare every pair by the joint convolution, one at a time."""
    left, right = volume.reduce(features).split(batch)
    first, *rest = volume.compare
    cost = left.new_zeros(batch, 1, volume.levels, *left.shape[2:])
    norm_input, where = [], []
    for level in range(volume.levels):
        for column in range(level, left.shape[3]):
            pair = torch.stack((left[..., column], right[..., column - level]), 2).flatten(1, 2)
            norm_input.append(pair)
            where.append((level, column))
    pairs = torch.relu(first.norm(nn.functional.conv2d(torch.stack(norm_input, 3), first.conv.weight)))
    for layer in rest:
        pairs = torch.relu(layer(pairs))
    for i, (level, column) in enumerate(where):
        cost[:, :, level, :, column] = pairs[..., i]
    return cost


@pytest.mark.parametrize(("levels", "width"), [(4, 7), (5, 5), (6, 3)])
def test_pairs_and_all_gradients_are_those_of_the_joint_convolution(levels, width):
    torch.manual_seed(0)
    volume = ComparedVolume(nn.Conv2d(6, 5, 1), (5, 4, 3, 1), levels).train()
    answers = []
    for compute in (volume, lambda features, batch: direct(volume, features, batch)):
        features = torch.randn(4, 6, 3, width, generator=torch.Generator().manual_seed(1)).requires_grad_()
        cost = compute(features, 2)
        weights = torch.randn(cost.shape, generator=torch.Generator().manual_seed(2))
        wanted = [features, *volume.parameters()]
        answers.append([cost, *torch.autograd.grad((cost * weights).sum(), wanted)])
    for ours, theirs in zip(*answers, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("levels", "width"), [(4, 7), (5, 5), (6, 3)])
def test_exported_formulation_equals_the_joint_convolution(levels, width):
    torch.manual_seed(0)
    volume = ComparedVolume(nn.Conv2d(6, 5, 1), (5, 4, 3, 1), levels).eval()
    for layer in volume.compare:  # let something pass the activations, as in a trained network
        layer.conv.weight.data.abs_()
        layer.norm.bias.data.uniform_(0.5, 1)
    features = torch.randn(4, 6, 3, width)
    left, right = volume.compare[0].conv(*volume.reduce(features).split(2))
    expected = direct(volume, features, 2)
    assert expected.any()
    torch.testing.assert_close(volume._all_columns(left, right, width), expected)


def test_a_pair_costs_one_convolution_of_each_view():
    views = torch.zeros(2, 5, 3, 7), torch.zeros(2, 5, 3, 7)
    assert PairConvolution(5, 4).macs(views) == 2 * (2 * 3 * 7) * 5 * 4
