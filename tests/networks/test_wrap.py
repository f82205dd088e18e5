"""A third party's network answers like ours, or says in one line what is wrong."""

import argparse

import pytest
import torch
from torch import nn

import densedistill as dd
from densedistill.networks.published import save_weights, stored_options


class Theirs(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1))

    def forward(self, left, right):
        return [self.trunk(left - right)]


class Named(Theirs):
    """Whose `name` and `options` are its own, and mean something else."""

    task = "stereo"
    input_spec = dd.InputSpec(multiple=1)

    def __init__(self, width=3):
        super().__init__()
        self.options = argparse.Namespace(width=width)

    @property
    def name(self):
        return "somebody's"

    def forward(self, left, right):
        return {"disparity": self.trunk(left - right)[:, : self.options.width]}


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


def test_a_network_of_its_own_name_and_options_keeps_them_and_is_called_by_what_made_it(tmp_path):
    made_by = f"{__name__}:Named"
    network = dd.create_model(made_by, width=1, scale=0.5)
    assert network.name == "somebody's"
    assert network.options == argparse.Namespace(width=1)
    assert dd.Predictor(network).name == made_by
    path = save_weights(network, tmp_path / "named.safetensors")
    assert stored_options(made_by, path) == {"width": 1, "scale": 0.5}
    again = dd.create_model(made_by, weights=str(path))
    assert again.options.width == 1
    assert again.input_spec.scale == 0.5
    with pytest.raises(dd.UserError, match=f"no weights ship for network '{made_by}'"):
        dd.create_model(made_by, weights="shipped")


def test_a_network_that_nobody_made_by_name_has_its_own_name_and_no_options_of_ours(tmp_path):
    path = save_weights(Named(), tmp_path / "named.safetensors")
    assert stored_options("somebody's", path) == {}
    path = save_weights(dd.create_model("dsnet_slim", width=8), tmp_path / "ours.safetensors")
    assert stored_options("dsnet_slim", path) == {"width": 8}
    assert stored_options("gwcnet_slim", path) == {}
    assert dd.Predictor(Named()).name == "somebody's"


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
