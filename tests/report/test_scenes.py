import numpy as np
import torch

from densedistill.inference.evaluate import evaluate
from densedistill.report.scenes import NETWORKS, scenes_of
from densedistill.tasks import get_task


class Constant:
    task = get_task("stereo")

    def __init__(self, value):
        self.value = value

    def __call__(self, left, right):
        return {"disparity": torch.full((1, 1, *left.shape[-2:]), self.value)}


def sample(name):
    view = torch.zeros(3, 4, 6, dtype=torch.uint8)
    return {
        "left": view,
        "right": view,
        "disparity": torch.arange(24.0).view(1, 4, 6),
        "disparity_valid": torch.ones(1, 4, 6, dtype=torch.bool),
        "meta": {"name": name},
    }


def test_scenes_take_turns_among_data_sets_and_bear_their_figures():
    datasets = {"a": [sample("a0"), sample("a1"), sample("a2")], "b": [sample("b0")]}
    figures = [
        {"name": "right", "data": "a", "sample": "a0", "epe": 1.25, "bad2": 0.5, "d1": 0.25},
        {"name": "right", "data": "a", "sample": "b0", "epe": 9.0},
        {"name": "right", "data": "b", "sample": "a0", "epe": 9.0},
    ]
    scenes = scenes_of({"right": Constant(3.0), "wrong": Constant(9.0)}, datasets, figures)
    assert [scene.name for scene in scenes] == ["a, sample 1", "b, sample 1", "a, sample 2"]
    assert scenes[0].captions == {"right": "EPE 1.250 px, bad-2 50.00 %"}
    assert not scenes[1].captions
    assert list(scenes[0].predictions) == list(scenes[0].errors) == ["right", "wrong"]
    assert not np.array_equal(scenes[0].predictions["right"], scenes[0].predictions["wrong"])


def test_samples_of_somebodys_own_data_set_need_no_name():
    bare = {key: value for key, value in sample("a").items() if key != "meta"}
    figures = evaluate({"right": Constant(3.0)}, {"a": [bare]}, metrics=["epe"]).samples
    (scene,) = scenes_of({"right": Constant(3.0)}, {"a": [bare]}, figures)
    assert scene.captions["right"].startswith("EPE ")


def test_no_more_networks_are_shown_than_fit():
    predictors = {str(number): Constant(1.0) for number in range(NETWORKS + 2)}
    assert len(scenes_of(predictors, {"a": [sample("a")]})[0].predictions) == NETWORKS


def test_boxes_bear_the_names_of_the_classes_that_the_data_set_knows():
    class Boxes:
        task = get_task("detection")

        def __call__(self, image):
            return {"boxes": boxes[None], "scores": torch.ones(1, 1), "classes": torch.zeros(1, 1).long()}

    boxes = torch.tensor([[20.0, 30.0, 60.0, 70.0]])
    meta = {"name": "0"}
    image = {
        "image": torch.zeros(3, 96, 128, dtype=torch.uint8),
        "boxes": boxes,
        "classes": torch.zeros(1).long(),
    }
    named = {**image, "meta": {**meta, "classes": ("platelet",)}}
    plain, found = (scenes_of({"n": Boxes()}, {"a": [one]})[0] for one in ({**image, "meta": meta}, named))
    assert not np.array_equal(plain.predictions["n"], found.predictions["n"])
    assert not np.array_equal(plain.truth, found.truth)
