"""What a page shows is what `predict` writes and `evaluate` measures."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import densedistill as dd
from densedistill.app.panel import DRAWN, Panel
from densedistill.app.words import table
from densedistill.data import formats
from densedistill.errors import UserError
from densedistill.tasks import get_task, list_tasks
from densedistill.tasks.colours import KITTI_ERROR_COLOURS


def example(panel, name):
    return next(one for one in panel.examples if one.name == name)


@pytest.mark.parametrize("task", list_tasks())
def test_every_task_has_its_pictures_and_its_files(task, fake, images, tmp_path):
    panel = Panel({"one": fake(task), "other": fake(task)})
    files = images(task)
    found = panel.answer(files, get_task(task).writes, tmp_path / "out")
    assert list(found.answers) == ["one", "other"]
    for label, answer in found.answers.items():
        assert set(answer.pictures) == set(get_task(task).maps or [DRAWN])
        for picture in answer.pictures.values():
            assert (picture.dtype, picture.shape) == (np.uint8, (40, 64, 3))
        assert answer.seconds > 0
        assert len(answer.files) == len(get_task(task).writes)
        assert all(path.is_file() and label in path.name for path in answer.files)
    assert not found.example
    assert not any(answer.figures or answer.errors for answer in found.answers.values())


def test_files_hold_the_answer(fake, images, tmp_path):
    found = Panel({"net": fake("stereo", 8.25)}).answer(images("stereo"), ["pfm"], tmp_path)
    (path,) = found.answers["net"].files
    np.testing.assert_array_equal(formats.read_pfm(path), np.full((40, 64), 8.25))


def test_classes_are_laid_over_the_image_and_boxes_bear_their_names(fake, images, tmp_path):
    files = images("segmentation")
    picture = Panel({"net": fake("segmentation")}).answer(files).answers["net"].pictures["logits"]
    image = formats.read_image(files[0])
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 2  # not the colours alone
    assert not np.array_equal(picture, image)
    found = Panel({"net": fake("detection")}).answer(files, ["json"], tmp_path)
    (path,) = found.answers["net"].files
    assert json.loads(path.read_text())["boxes"][0]["name"] == "car"


def test_networks_share_one_range_of_colours(fake, images):
    panel = Panel({"near": fake("stereo", 16), "far": fake("stereo", 8)})
    found = panel.answer(images("stereo"))
    assert found.ranges["disparity"] == (8, 16)
    near, far = (found.answers[label].pictures["disparity"][0, 0] for label in ("near", "far"))
    assert near[0] > near[2]  # red
    assert far[2] > far[0]  # blue


@pytest.mark.parametrize(
    ("network", "scene", "data", "index", "protocol", "limit"),
    [
        ("sgbm", "Cones", "middlebury2003", 0, None, 64),
        ("depth_slim", "ICL-NUIM living room 2", "icl_nuim", 1, "images+aligned_inverse", None),
    ],
)
def test_figures_of_a_shipped_scene_are_those_of_evaluate(network, scene, data, index, protocol, limit):
    panel = Panel([network], max_disparity=limit)
    found = panel.answer(example(panel, scene).files)
    sample = dd.evaluate(network, data, protocol, max_disparity=limit).samples[index]
    figures = found.answers[network].figures
    assert found.example == scene
    assert figures
    assert figures == pytest.approx({name: sample[name] for name in figures}, rel=1e-6)


def test_a_perfect_answer_is_blue_wherever_the_truth_is_known(fake):
    panel = Panel({"net": fake("stereo")})
    cones = example(panel, "Cones")
    panel.predictors["net"].values["disparity"] = lambda height, width: cones.sample["disparity"]
    answer = panel.answer(cones.files).answers["net"]
    assert answer.figures["epe"] == 0
    colours = {tuple(colour) for colour in np.unique(answer.errors["disparity"].reshape(-1, 3), axis=0)}
    assert colours == {(0, 0, 0), KITTI_ERROR_COLOURS[0][1]}


def test_depth_is_focal_length_times_baseline_over_disparity(fake, images, tmp_path):
    panel = Panel({"net": fake("stereo", 8)})
    found = panel.answer(images("stereo"), ["depth", "ply"], tmp_path, focal=100, baseline=0.5, offset=2)
    depth, cloud = found.answers["net"].files
    np.testing.assert_allclose(np.load(depth), 100 * 0.5 / (8 + 2))
    assert b"element vertex 2560\n" in cloud.read_bytes()[:400]
    assert (found.calibration.cx, found.calibration.cy) == (31.5, 19.5)


def test_a_scene_that_ships_has_the_colours_of_what_was_measured_and_its_own_calibration(fake):
    panel = Panel({"net": fake("stereo", 8)})
    scene = example(panel, "Cones")
    measured = scene.sample["disparity"][scene.sample["disparity_valid"]]
    low, high = panel.answer(scene.files).ranges["disparity"]
    assert measured.min() <= low < high <= measured.max()
    panel = Panel({"net": fake("depth")})
    assert panel.answer(panel.examples[0].files).calibration.fx == 481.2


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({}, "the file 'ply' is in metres: fill in the calibration, or leave it out"),
        ({"focal": 100}, "takes both the focal length and the baseline"),
        ({"baseline": 0.1}, "takes both the focal length and the baseline"),
        ({"focal": -1, "baseline": 0.1}, "the focal length must be above 0, not -1"),
        ({"focal": "wide", "baseline": 0.1}, "focal length: a number is wanted, not 'wide'"),
        ({"focal": 100, "baseline": 0.1, "offset": "a"}, "principal points: a number is wanted, not 'a'"),
    ],
)
def test_a_wanting_calibration_is_told(numbers, message, fake, images, tmp_path):
    with pytest.raises(UserError, match=message):
        Panel({"net": fake("stereo")}).answer(images("stereo"), ["ply"], tmp_path, **numbers)


def test_a_single_camera_needs_no_baseline(fake, images, tmp_path):
    found = Panel({"net": fake("depth")}).answer(images("depth"), ["ply"], tmp_path, focal=50)
    assert found.answers["net"].files[0].stat().st_size > 1000


def test_images_that_cannot_be_used_are_told_by_name(fake, images, tmp_path):
    panel = Panel({"net": fake("stereo")})
    left, right = images("stereo")
    with pytest.raises(UserError, match=r"an image is missing: right$"):
        panel.answer([left, None])
    (tmp_path / "notes.png").write_text("no image")
    with pytest.raises(UserError, match=r"^notes\.png is not an image, or not a whole one"):
        panel.answer([left, tmp_path / "notes.png"])
    right.write_bytes(right.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"^right\.png is cut off"):
        panel.answer([left, right])
    formats.write_image(right, np.zeros((40, 60, 3), np.uint8))
    with pytest.raises(UserError, match="the views differ in size"):
        panel.answer([left, right])
    with pytest.raises(UserError, match="no kind of output 'pgn'; did you mean 'png'"):
        panel.answer(images("stereo"), ["pgn"])


def test_an_image_smaller_than_the_network_takes_is_told(images):
    net = dd.create_model("dsnet_slim", max_disparity=16)
    spec = dd.InputSpec(min_size=(64, 64), refuses_smaller=True)
    with pytest.raises(UserError, match="40 px is smaller than the network's least size of 64x64 px"):
        Panel({"net": dd.Predictor(net, input_spec=spec)}).answer(images("stereo"))


def test_a_network_that_refuses_a_scene_says_so_in_its_place(fake, images):
    def refuses(*_):
        raise UserError("only 8x8")

    refuses.task = get_task("stereo")
    panel = Panel({"one": refuses, "other": fake("stereo")})
    found = panel.answer(images("stereo"))
    assert list(found.answers) == ["other"]
    assert '<td>one</td><td colspan="3">only 8x8</td>' in table(panel, found)
    with pytest.raises(UserError, match=r"^only 8x8$"):
        Panel({"one": refuses}).answer(images("stereo"))


def test_swapped_views_are_noticed(fake):
    panel = Panel({"net": fake("stereo")})
    cones = example(panel, "Cones")
    assert panel.answer(cones.files).warnings == []
    assert panel.answer(cones.files[::-1]).warnings == ["left and right look swapped"]


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (MemoryError(), UserError),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), UserError),
        (RuntimeError("a fault of ours"), RuntimeError),
    ],
)
def test_want_of_memory_is_told_and_no_other_fault_hidden(error, raised, fake, images, monkeypatch):
    def fail(height, width):
        raise error

    panel = Panel({"net": fake("stereo")})
    panel.predictors["net"].values["disparity"] = fail
    message = "net needs more memory than there is for 64x40 px" if raised is UserError else "a fault of ours"
    with pytest.raises(raised, match=message):
        panel.answer(images("stereo"))


def test_networks_of_several_tasks_and_protocols_that_ask_twice_are_refused(fake):
    with pytest.raises(UserError, match="networks of one task are compared, these are of depth and stereo"):
        Panel(["depth_slim", "sgbm"])
    with pytest.raises(UserError, match="protocol 'kitti\\+flip' asks or crops in a way of its own"):
        Panel({"net": fake("depth")}, protocol="kitti+flip")


def test_parameters_are_counted_where_there_are_some(images):
    net = dd.create_model("dsnet_slim", max_disparity=16)
    found = Panel({"net": dd.Predictor(net), "sgbm": "sgbm"}, max_disparity=16).answer(images("stereo"))
    assert found.answers["net"].parameters == sum(p.numel() for p in net.parameters())
    assert found.answers["sgbm"].parameters is None
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(("task", "size"), [("depth", (64, 40)), ("stereo", (40, 64))])
def test_a_photograph_stands_upright_and_a_rectified_view_as_it_is_stored(task, size, fake, tmp_path):
    files = []
    for key in get_task(task).inputs:
        image = Image.fromarray(np.zeros((40, 64, 3), np.uint8))
        exif = image.getexif()
        exif[0x0112] = 6
        files.append(tmp_path / f"{key}.jpg")
        image.save(files[-1], exif=exif)
    assert Panel({"net": fake(task)}).answer(files).size == size
