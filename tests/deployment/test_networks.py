"""Every registered network is exported: one of each architecture, in every format."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from densedistill.deployment.check import real_images
from densedistill.deployment.export import export
from densedistill.networks.registry import MODELS, create_model, list_models
from densedistill.tasks import task_of

# Nodes of the graph for any size; the published TSNnet Naive exports to 9,199.
NODES = 1000

SMALL = ("slim", "naive", "mobilenetv2", "r18", "resnet18", "small")


def one_of_each_architecture():
    """Return a network from each file in `networks`, one with a small size in its name first."""
    found = {}
    for name in sorted(list_models(), key=lambda name: not any(word in name for word in SMALL)):
        found.setdefault(MODELS[name].__module__, name)
    return sorted(found.values())


def settled(name):
    """Return the network in evaluation mode, its normalisation fitted to a photograph, as training does."""
    torch.manual_seed(0)
    network = create_model(name)
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
    height, width = (max(128, side) for side in network.input_spec.min_size)
    images = [torch.cat((i, i.flip(3))) for i in real_images(task_of(network), (height, width))]
    with torch.no_grad():
        network.train()(*network.input_spec.prepare(*images)[0])
    return network.eval()


@pytest.mark.full
@pytest.mark.parametrize("name", one_of_each_architecture())
def test_one_network_of_each_architecture_is_exported(name, tmp_path):
    import onnx

    network = settled(name)
    for suffix, size in ((".onnx", None), (".onnx", (150, 140)), (".xml", None), (".pt2", None)):
        file = tmp_path / f"{name}{suffix}"
        # Random weights give logits a hundred times the usual; a tenth of a pixel is rounding then.
        export(network, file, size, check_sizes=((128, 192), (150, 140), (130, 190)), limit=0.1)
        if suffix == ".onnx":
            assert len(onnx.load(file).graph.node) < NODES
