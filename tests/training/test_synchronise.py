"""Normalisation over processes: a network stays what it is."""

import pytest
import torch
from torch import nn

import densedistill as dd
from densedistill.networks.layers.activated_norm import ActivatedNorm
from densedistill.training.synchronise import SynchronisedNorms


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pspnet_r18", {}),
        ("timm_pyramid", {"encoder": "mobilenetv2_050", "stride": 32}),
        ("resnet18_cvpr19", {}),
    ],
)
def test_a_network_computes_the_same_when_its_norms_are_synchronised(name, options):
    torch.manual_seed(0)
    net = dd.create_model(name, classes=3, **options).eval()
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.weight)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = net(image)["logits"]
        names = list(net.state_dict())
        net = SynchronisedNorms().apply(nn.ModuleDict({"student": net}))["student"]
        torch.testing.assert_close(net(image)["logits"], expected)
    assert list(net.state_dict()) == names
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(
        isinstance(m, nn.SyncBatchNorm) or (isinstance(m, ActivatedNorm) and m.synchronised) for m in norms
    )


def test_a_tap_at_a_norm_still_fires_when_it_is_synchronised():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    with dd.Taps(net, ["1"]) as taps:
        SynchronisedNorms().apply(nn.ModuleDict({"student": net}))
        net(torch.randn(1, 3, 8, 8))
        assert isinstance(net[1], nn.SyncBatchNorm)
        assert len(taps["1"]) == 1
