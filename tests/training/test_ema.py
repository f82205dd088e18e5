import pytest
import torch
from torch import nn

from densedistill.training.ema import WeightAverage


def test_the_average_follows_by_a_decay_that_rises_to_its_limit():
    network = nn.BatchNorm1d(1)
    average = WeightAverage(network, 0.5)
    nn.init.constant_(network.bias, 8.0)
    network.running_mean.fill_(8.0)
    network.num_batches_tracked.fill_(5)
    expected = 0.0
    for step, decay in ((1, 2 / 11), (2, 3 / 12), (100, 0.5)):
        average.update(step)
        expected = decay * expected + (1 - decay) * 8
        assert average.state["bias"].item() == pytest.approx(expected)
        assert average.state["running_mean"].item() == pytest.approx(expected)
    assert average.state["num_batches_tracked"] == 5


def test_the_network_has_the_average_within_the_block_alone():
    network = nn.Linear(1, 1)
    average = WeightAverage(network, 0.9)
    average.load({key: torch.full_like(value, 3.0) for key, value in average.state.items()})
    own = network.weight.item()
    with average.applied():
        assert network.weight.item() == network.bias.item() == 3
    assert network.weight.item() == own


def test_the_average_is_where_its_network_went():
    network = nn.Linear(2, 2)
    average = WeightAverage(network, 0.9)
    network.to(torch.device("meta"))  # as to a GPU, after the average was begun
    average.update(1)
    assert {value.device.type for value in average.state.values()} == {"meta"}
