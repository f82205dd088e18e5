"""Every registered network is exported: one of each architecture."""

from __future__ import annotations

import pytest
import torch
from architectures import one_of_each_architecture, small
from torch import nn

from densedistill.deployment.check import measure_difference, real_images
from densedistill.deployment.export import export
from densedistill.inference.predictor import Predictor
from densedistill.networks.folding import fold_batch_norm
from densedistill.networks.registry import task_of
from densedistill.runtimes import load_runtime
from densedistill.tasks import get_task

# Nodes of the graph for any size; the published TSNnet Naive exports to 9,199.
NODES = 1000


def settled(name):
    """Return the network in evaluation mode, its normalisation fitted to a photograph, as training does."""
    torch.manual_seed(0)
    network = small(name)
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
    height, width = (max(128, side) for side in network.input_spec.min_size)
    images = [torch.cat((i, i.flip(3))) for i in real_images(get_task(task_of(name)), (height, width))]
    with torch.no_grad():
        network.train()(*network.input_spec.prepare(*images)[0])
    return network.eval()


def results_within(network, paths, images):
    """Return what comes out of the modules at `paths`."""
    found = {}
    for path in paths:
        module = network.get_submodule(path)
        module.register_forward_hook(lambda _, given, out, path=path: found.setdefault(path, out))
    Predictor(network)(*images)
    return found


@pytest.mark.parametrize("name", one_of_each_architecture())
def test_folding_changes_no_result_within_a_network(name):
    network = settled(name)
    norm = nn.modules.batchnorm._BatchNorm
    paths = [p for p, m in network.named_modules() if any(isinstance(child, norm) for child in m.children())]
    images = real_images(get_task(task_of(name)), (128, 192))
    folded = results_within(fold_batch_norm(network), paths, images)
    plain = results_within(network, paths, images)
    assert plain.keys() == folded.keys()
    for path in {path for path, result in plain.items() if isinstance(result, torch.Tensor)}:
        rounding = 1e-3 * plain[path].abs().max().item() + 1e-6
        torch.testing.assert_close(folded[path], plain[path], atol=rounding, rtol=0, msg=path)


@pytest.mark.full
@pytest.mark.parametrize("name", one_of_each_architecture())
def test_one_network_of_each_architecture_is_exported(name, tmp_path):
    import onnx

    network = settled(name)
    sizes = ((128, 192), (150, 140), (130, 190))
    for suffix, size in ((".onnx", (150, 140)), (".pt2", None), (".onnx", None)):
        # Random weights give logits a hundred times the usual; a tenth of a pixel is rounding then.
        export(network, tmp_path / f"{name}{suffix}", size, check_sizes=sizes, limit=0.1)
    assert len(onnx.load(tmp_path / f"{name}.onnx").graph.node) < NODES
    # An .xml is this file as OpenVINO reads it.
    runtime = load_runtime(tmp_path / f"{name}.onnx", "openvino")
    task = get_task(task_of(name))
    assert measure_difference(network, runtime, [real_images(task, one) for one in sizes]) < 0.1
