"""Predictors of every task that answer at once, and images for them."""

import numpy as np
import pytest
import torch

from densedistill.data import formats
from densedistill.tasks import get_task

SIZE = (40, 64)


class Fake:
    """Answers for `task` with what `values` of the image's size says."""

    precision = "float32"
    classes = ("road", "car")

    def __init__(self, task, **values):
        self.task, self.values = get_task(task), values

    def __call__(self, *images):
        height, width = images[0].shape[:2]
        return {key: value(height, width)[None] for key, value in self.values.items()}


def plane(value, channels=1):
    return lambda height, width: torch.full((channels, height, width), float(value))


def halves(height, width):
    """Class 0 on the left and 1 on the right."""
    logits = torch.zeros(2, height, width)
    logits[1, :, width // 2 :] = 1
    logits[0, :, : width // 2] = 1
    return logits


FAKES = {
    "stereo": lambda value=8: Fake("stereo", disparity=plane(value)),
    "depth": lambda value=2: Fake("depth", depth=plane(value)),
    "sceneflow": lambda value=8: Fake(
        "sceneflow", disparity=plane(value), disparity_next=plane(value + 1), flow=plane(3, 2)
    ),
    "segmentation": lambda: Fake("segmentation", logits=halves),
    "detection": lambda: Fake(
        "detection",
        boxes=lambda h, w: torch.tensor([[4.0, 4.0, 20.0, 20.0]]),
        scores=lambda h, w: torch.tensor([0.9]),
        classes=lambda h, w: torch.tensor([1]),
    ),
}


@pytest.fixture
def fake():
    """`fake(task, value)`: a predictor that answers `value` everywhere."""
    return lambda task, *value: FAKES[task](*value)


@pytest.fixture
def images(tmp_path):
    """`images(task, size)`: files of the task's inputs."""

    def make(task, size=SIZE):
        paths = []
        for number, key in enumerate(get_task(task).inputs):
            path = tmp_path / f"{key}.png"
            pixels = np.random.default_rng(number).integers(0, 256, (*size, 3))
            formats.write_image(path, pixels.astype(np.uint8))
            paths.append(path)
        return paths

    return make
