"""Every loss, and an objective, compute where their tensors are: on a pretended GPU.

Its tensors have no values. torch refuses to mix devices there as on a real one, so that what is made on the
CPU is found without a GPU.
"""

import inspect

import pytest
import torch
from tiny_stereo import TinyStereo, stereo_batch
from torch._subclasses.fake_tensor import FakeTensorMode

import densedistill as dd
from densedistill.distillation.losses import LOSSES

pytestmark = pytest.mark.skipif(
    torch.__version__ < "2.11", reason="older torch ends the process where there is no GPU"
)
GPU = torch.device("cuda", 0)
# What they compute depends on values: how many distances are above 0, which triples are wide enough.
BY_VALUES = ("rkd", "virtual_normal")
NAMES = [
    n for n in LOSSES if n not in BY_VALUES and not inspect.isclass(LOSSES[n]) and not LOSSES[n].takes_truth
]
TERMS = {
    "truth": {"loss": "smooth_l1", "of": "disparity", "to": "ground_truth", "levels": [0.5, 1.0]},
    "output": {"loss": "log_l1", "of": "disparity", "to": "teacher", "mask": "both"},
    "volume": {"loss": "cosine", "of": "volume", "to": "teacher", "mask": "ground_truth", "adapter": "dsnet"},
    "aggregation": {"loss": "kl", "of": "aggregation", "to": "teacher", "mask": "ground_truth"},
    "features": {"loss": "mgd", "of": "features", "to": "teacher", "channels": 8, "adapter": "conv_bn"},
    "scores": {"loss": "holistic", "of": "features", "to": "teacher", "classes": 8, "adapter": "conv1x1"},
}


@pytest.mark.parametrize("name", NAMES)
def test_every_loss_is_on_the_device_of_what_it_compares(name):
    shape = (3, 4, 5, 10, 12) if LOSSES[name].dims == (5,) else (3, 4, 10, 12)
    masks = [{}]
    with FakeTensorMode():
        student, teacher = torch.rand(2, *shape, device=GPU)
        student.requires_grad_()
        if "mask" in inspect.signature(LOSSES[name]).parameters:
            masks.append({"mask": torch.ones(3, 1, 10, 12, dtype=torch.bool, device=GPU)})
        for mask in masks:
            loss = LOSSES[name](student, teacher, **mask)
            assert loss.device == GPU
            assert loss.requires_grad


def test_an_objective_follows_to_another_device_with_all_that_its_terms_own():
    student, teacher = TinyStereo(), TinyStereo(channels=8)
    objective = dd.Objective(TERMS, student, {"teacher": teacher})
    batch = stereo_batch()
    with FakeTensorMode(allow_non_fake_inputs=True):
        student.to(GPU)
        objective.to(GPU)
        total, parts = objective({key: value.to(GPU) for key, value in batch.items()})
        assert {value.device for value in (total, *parts.values())} == {GPU}
        assert objective.adversaries["scores"].adversary_loss().device == GPU
