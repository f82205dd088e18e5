"""What each task declares, held together: keys, colours, files; and the procedural world for each."""

import json
import pickle

import numpy as np
import pytest
import torch
from torchvision.utils import flow_to_image

import densedistill as dd
from densedistill.data.augment import build_augmentation
from densedistill.data.sample import collate
from densedistill.errors import UserError
from densedistill.inference import Predictor
from densedistill.inference.evaluate import evaluate
from densedistill.inference.protocols import Protocol, get_protocol
from densedistill.inference.protocols.procedures import flip_average, median_scaling, scale_and_shift
from densedistill.metrics import metric_info
from densedistill.networks import InputSpec
from densedistill.tasks import get_task, list_tasks
from densedistill.tasks.colours import flow_colours, label_colours
from densedistill.tasks.files import Predicted, unbatch


@pytest.mark.parametrize("name", list_tasks())
def test_the_world_gives_what_the_task_declares_and_augmentation_keeps_it_together(name):
    task = get_task(name)
    augment = build_augmentation({"augment": "strong", "crop": [24, 32], "flip_horizontal": 1.0}, name)
    world = dd.create_dataset("world", size=[32, 48], length=2, task=name)
    batch = collate([augment(world[index], np.random.default_rng(index)) for index in range(2)])
    assert all(batch[key].shape == (2, 3, 24, 32) for key in task.inputs)
    for key, target in task.targets.items():
        assert len(batch[target]) == 2
        if key in task.maps:
            assert batch[target].shape[-2:] == (24, 32)
            assert task.measured(batch, target).shape[-2:] == (24, 32)


@pytest.mark.parametrize("name", list_tasks())
def test_every_kind_of_file_is_written(name, tmp_path):
    task = pickle.loads(pickle.dumps(get_task(name)))  # as a predictor takes it to another process
    world = dd.create_dataset("world", size=[32, 48], length=1, task=name)
    sample = world[0]
    truth = {key: value.float()[None] for key, value in task.truth(sample).items()}
    if "logits" in truth:
        truth["logits"] = torch.nn.functional.one_hot(truth["logits"].long()).movedim(-1, 1).float()
    if "boxes" in truth:
        truth = {
            "boxes": truth["boxes"],
            "scores": torch.ones(1, len(sample["boxes"])),
            "classes": truth["classes"],
        }
    image = sample[task.inputs[0]].permute(1, 2, 0).numpy()
    predicted = Predicted(unbatch(truth), image, sample["meta"]["calibration"], classes=world.classes)
    for writer in task.writers.values():
        path = tmp_path / writer.file.format("a")
        writer.write(path, predicted)
        assert path.stat().st_size > 0
    if "json" in task.writers:
        found = json.loads((tmp_path / "a.json").read_text())["boxes"]
        assert len(found) == len(sample["boxes"])
        assert {box["name"] for box in found} <= set(world.classes)


def test_flow_has_the_colours_of_the_published_wheel():
    flow = np.random.default_rng(0).normal(size=(2, 9, 11)).astype(np.float32)
    expected = flow_to_image(torch.from_numpy(flow)).permute(1, 2, 0).numpy().astype(int)
    assert np.abs(flow_colours(flow).astype(int) - expected).max() <= 1


def test_unknown_labels_are_black_and_no_class_is():
    picture = label_colours(np.arange(256)[None])
    assert not picture[0, 255].any()
    assert picture[0, :255].any(-1).all()


class Boxes(torch.nn.Module):
    task, input_spec = "detection", InputSpec(scale=0.5, multiple=32, pad="centre")

    def forward(self, image):
        corners = torch.tensor([[[10.0, 12.0, 20.0, 22.0], [-9.0, -9.0, 900.0, 900.0]]])
        return {"boxes": corners, "scores": torch.ones(1, 2), "classes": torch.tensor([[3, -1]])}


def test_boxes_come_back_in_the_pixels_of_the_source():
    found = Predictor(Boxes())(torch.zeros(3, 40, 60, dtype=torch.uint8))
    # 40x60 halved is 20x30; padded in the middle to 32x32 by 6 rows and 1 column.
    assert found["boxes"][0].tolist() == [[18, 12, 38, 32], [0, 0, 60, 40]]
    assert found["classes"].dtype == torch.int64
    assert len(unbatch(found)["boxes"]) == 1


class Constant:
    def __init__(self, task, **outputs):
        self.task, self.outputs = task, outputs

    def __call__(self, *images):
        return self.outputs


def depth_sample(depth):
    valid = torch.ones_like(depth, dtype=torch.bool)
    return {
        "image": torch.zeros(3, *depth.shape[-2:], dtype=torch.uint8),
        "depth": depth,
        "depth_valid": valid,
    }


def test_limits_region_and_alignment_of_a_protocol_say_what_is_measured():
    depth = torch.tensor([[[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 90.0, 90.0]]])
    predict = Constant("depth", depth=torch.where(depth < 80, depth / 2, 1.0)[None])
    row = evaluate(predict, [depth_sample(depth)], Protocol("a", "b", limits={"depth": (0, 80)})).rows[0]
    assert row["abs_rel"] == pytest.approx(0.5)
    aligned = Protocol("a", "b", limits={"depth": (0, 80)}, alignments=(median_scaling,))
    assert evaluate(predict, [depth_sample(depth)], aligned).rows[0]["abs_rel"] == pytest.approx(0, abs=1e-6)

    def upper(size):
        return torch.arange(size[0])[:, None].expand(size) == 0

    shifted = Constant("depth", depth=(depth * 3 + 7)[None])
    both = Protocol("a", "b", region=upper, alignments=(scale_and_shift,))
    assert evaluate(shifted, [depth_sample(depth)], both).rows[0]["abs_rel"] == pytest.approx(0, abs=1e-5)


def test_flip_averaging_asks_for_the_mirrored_image_too():
    image = torch.arange(12, dtype=torch.uint8).view(1, 3, 1, 4)
    seen = []

    def predict(given):
        seen.append(given)
        return {"depth": torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]]])}

    averaged = flip_average(predict)(image)["depth"]
    assert torch.equal(seen[1], image.flip(-1))
    assert averaged.flatten().tolist() == [2.5, 2.5, 2.5, 2.5]


def test_larger_is_better_is_drawn_bold_and_mixed_tasks_are_refused():
    labels = torch.tensor([[0, 0, 1, 255]])
    given = {"image": torch.zeros(3, 1, 4, dtype=torch.uint8), "labels": labels}
    right = Constant("segmentation", logits=torch.eye(2)[[0, 0, 1, 0]].T[None, :, None])
    wrong = Constant("segmentation", logits=torch.eye(2)[[1, 0, 1, 0]].T[None, :, None])
    found = evaluate({"right": right, "wrong": wrong}, [given])
    assert [row["miou"] for row in found.rows] == [1.0, 0.5]
    assert "[bold]100.00" in str(list(found.table().columns[3].cells))
    assert "mIoU and accuracy in %" in found.caption
    assert metric_info("miou").larger_is_better
    with pytest.raises(UserError, match="networks of one task are compared"):
        evaluate({"a": right, "b": Constant("depth")}, [given])
    with pytest.raises(
        UserError, match="metric 'epe' reads disparity, which task segmentation does not predict"
    ):
        evaluate(right, [given], metrics=["epe"])
    with pytest.raises(
        UserError, match="protocol 'kitti2012' is for stereo; for segmentation there is plain"
    ):
        get_protocol("kitti2012", get_task("segmentation"))
