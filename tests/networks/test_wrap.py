"""A third party's network answers like ours, or says in one line what is wrong."""

import pytest
import torch
from torch import nn

import densedistill as dd


class Theirs(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1))

    def forward(self, left, right):
        return [self.trunk(left - right)]


class OneArgument(nn.Module):
    def forward(self, pair):
        return {"disparity": pair[:, :1] - pair[:, 3:4]}


def pair(height=12, width=20):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, height, width, generator=generator), torch.rand(
        2, 3, height, width, generator=generator
    )


def test_outputs_are_those_of_the_network():
    theirs = Theirs()
    network = dd.wrap(theirs, outputs=lambda y: {"disparity": y[-1]}, taps={"trunk": "trunk.0"})
    assert torch.equal(network(*pair())["disparity"], theirs(*pair())[0])
    assert (network.task, network.name) == ("stereo", "Theirs")
    assert network.get_submodule(network.taps["trunk"][0]) is theirs.trunk[0]
    assert network.input_spec.multiple == 1


def test_inputs_are_joined_as_the_network_wants_them():
    network = dd.wrap(OneArgument(), inputs=lambda left, right: torch.cat((left, right), 1))
    left, right = pair()
    assert torch.equal(network(left, right)["disparity"], left[:, :1] - right[:, :1])


def test_a_missing_channel_axis_is_added():
    network = dd.wrap(Theirs(), outputs=lambda y: {"disparity": y[0][:, 0]})
    assert network(*pair())["disparity"].shape == (2, 1, 12, 20)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (None, "gave list, a mapping is wanted"),
        (lambda y: {"depth": y[0]}, "gave depth, but not 'disparity'"),
        (lambda y: {"disparity": y[0][..., ::2]}, r"is \(2, 1, 12, 10\), wanted \(B, C, 12, 20\)"),
        (lambda y: {"disparity": y}, "'disparity' of the wrapped Theirs is list"),
    ],
)
def test_outputs_that_do_not_fit_are_named(outputs, message):
    with pytest.raises(dd.UserError, match=message):
        dd.wrap(Theirs(), outputs=outputs)(*pair())


def test_an_unknown_tap_is_refused_with_the_nearest():
    with pytest.raises(dd.UserError, match=r"did you mean 'trunk\.0'"):
        dd.wrap(Theirs(), taps={"early": "trunc.0"})


def test_an_unknown_task_is_refused():
    with pytest.raises(dd.UserError, match="there is no task 'stero'"):
        dd.wrap(Theirs(), task="stero")
