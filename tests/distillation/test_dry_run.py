import pytest
import torch

from densedistill.data.sample import KINDS
from densedistill.distillation.dry_run import tiny_batch
from densedistill.networks import InputSpec
from densedistill.tasks import get_task


@pytest.mark.parametrize("task", ["stereo", "depth", "sceneflow", "segmentation", "detection"])
def test_a_tiny_batch_has_all_that_the_task_has(task):
    task = get_task(task)
    batch = tiny_batch(task, [InputSpec(multiple=16)], torch.device("cpu"))
    height, width = batch[task.inputs[0]].shape[-2:]
    maps = {"flow": (2, 2, height, width), "boxes": (2, 1, 4), "classes": (2, 1), None: (2, height, width)}
    for target in task.targets.values():
        assert batch[target].shape == maps.get(KINDS.get(target), (2, 1, height, width)), target


@pytest.mark.parametrize(
    "specs",
    [
        [InputSpec(multiple=32, scale=0.5)],
        [InputSpec(multiple=16), InputSpec(multiple=24, min_size=(96, 192), scale=0.5)],
    ],
)
def test_its_images_are_such_as_every_network_takes_at_the_scale_it_sees_them(specs):
    left = tiny_batch(get_task("stereo"), specs, torch.device("cpu"))["left"]
    assert not any(padding for spec in specs for padding in spec.place(*left.shape[-2:]).padding)
