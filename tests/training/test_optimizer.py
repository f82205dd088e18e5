import pytest
import torch
from torch import nn

from densedistill.recipes import Optimizer
from densedistill.training.optimizer import build_optimizer, continue_from, freeze


def network():
    return nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))


def test_adamw_decays_weights_and_spares_biases_and_normalisation():
    parameters = list(network().parameters())
    groups = build_optimizer(Optimizer(name="adamw", weight_decay=0.1), parameters).param_groups
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert [decays[id(p)] for p in parameters] == [0.1, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("name", "options"),
    [("adam", {"betas": (0.5, 0.9), "eps": 1e-4}), ("sgd", {"momentum": 0.7, "nesterov": True})],
)
def test_the_others_decay_everything_and_take_what_the_recipe_says(name, options):
    given = {key: list(value) if key == "betas" else value for key, value in options.items()}
    config = Optimizer(name=name, lr=0.2, weight_decay=0.1, **given)
    (group,) = build_optimizer(config, list(network().parameters())).param_groups
    assert len(group["params"]) == 4
    for key, value in {"lr": 0.2, "weight_decay": 0.1, **options}.items():
        assert group[key] == value


def test_what_goes_on_keeps_its_moments_and_takes_the_recipes_present_options():
    before, after = (
        build_optimizer(Optimizer(lr=lr, weight_decay=lr), [nn.Parameter(torch.ones(2))]) for lr in (0.1, 0.2)
    )
    before.param_groups[0]["params"][0].grad = torch.ones(2)
    before.step()
    continue_from(after, before.state_dict())
    assert after.param_groups[0]["weight_decay"] == 0.2
    (moments,) = after.state.values()
    assert moments["step"] == 1
    assert moments["exp_avg"].abs().min() > 0


def test_what_is_frozen_is_what_lies_below_the_path():
    net = nn.ModuleDict({"head": nn.Linear(1, 1), "head2": nn.Linear(1, 1)})
    freeze(net, ["head", "head2.bias"])
    assert [name for name, p in net.named_parameters() if p.requires_grad] == ["head2.weight"]
