"""Every network computes where it was moved to: on a pretended GPU, whose tensors have no values.

torch refuses there, as on a real one, to mix devices: a constant that `to` does not move, or one that is made
on the CPU in the forward pass, is found without a GPU.
"""

import inspect
import math

import pytest
import torch
from architectures import one_of_each_architecture
from torch._subclasses.fake_tensor import FakeTensorMode

import densedistill as dd
from densedistill.networks.registry import MODELS, task_of
from densedistill.tasks import get_task

pytestmark = pytest.mark.skipif(
    torch.__version__ < "2.11", reason="older torch ends the process where there is no GPU"
)
GPU = torch.device("cuda", 0)


def without_values(name):
    """Return the network, of the least range, with parameters that have no values and cost nothing."""
    ranged = "max_disparity" in inspect.signature(MODELS[name]).parameters
    with torch.device("meta"):
        return dd.create_model(name, **({"max_disparity": 64} if ranged else {}))


def images(network, task):
    spec = network.input_spec
    size = (
        max(least, spec.multiple * math.ceil(side / spec.multiple))
        for least, side in zip(spec.min_size, (32, 64), strict=True)
    )
    shape = (2, 3, *size)
    return [torch.zeros(shape, device=GPU) for _ in task.inputs]


def tensors(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from tensors(part)


SHORT = one_of_each_architecture()


@pytest.mark.parametrize(
    "name", [n if n in SHORT else pytest.param(n, marks=pytest.mark.full) for n in dd.list_models()]
)
def test_every_network_computes_on_the_device_that_it_was_moved_to(name):
    task, network = get_task(task_of(name)), without_values(name)
    with FakeTensorMode(allow_non_fake_inputs=True):
        network.to_empty(device=GPU)  # what is no parameter or buffer stays behind, as with `to`
        for training in (True, False):
            if training or task.maps:  # how many boxes there are, only values tell
                outputs = network.train(training)(*images(network, task))
                assert {tensor.device for tensor in tensors(outputs)} == {GPU}
