"""Frames to label: four small scenes as files and in a folder of pairs."""

import pytest

import densedistill as dd
from densedistill.data.formats import write_image

FRAMES = 5


@pytest.fixture(scope="session")
def scenes():
    world = dd.create_dataset("world", length=FRAMES, size=[64, 96], max_disparity=24, task="sceneflow")
    return [world[i] for i in range(FRAMES)]


@pytest.fixture(scope="session")
def pairs(scenes, tmp_path_factory):
    """A folder of stereo pairs."""
    folder = tmp_path_factory.mktemp("pairs")
    for i, scene in enumerate(scenes):
        for view in ("left", "right"):
            (folder / view).mkdir(exist_ok=True)
            write_image(folder / view / f"{i:06d}.png", scene[view].permute(1, 2, 0).numpy())
    return folder
