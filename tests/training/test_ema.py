import torch
from torch import nn

from densedistill.training.ema import WeightAverage


def test_the_average_is_where_its_network_went():
    network = nn.Linear(2, 2)
    average = WeightAverage(network, 0.9)
    network.to(torch.device("meta"))  # as to a GPU, after the average was begun
    average.update(1)
    assert {value.device.type for value in average.state.values()} == {"meta"}
