import base64
import io

import numpy as np
import pytest
from PIL import Image

from densedistill.report.montage import write_montage, write_scenes
from densedistill.report.pictures import (
    ERROR_COLOURS,
    UNKNOWN_COLOUR,
    Picture,
    Scene,
    colour_disparity,
    colour_error,
    data_uri,
    scene_of,
    shrink,
)
from densedistill.report.sections import picture_map, pictures_of
from densedistill.tasks import get_task


def test_errors_are_blue_up_to_two_pixels_then_yellow_to_red_and_grey_where_unknown():
    truth = np.full((1, 5), 10, np.float32)
    found = np.array([[10, 12, 12.5, 99, 10]], np.float32)
    coloured = colour_error(found, truth, np.array([[1, 1, 1, 1, 0]], bool))[0]
    assert coloured[0].tolist() == ERROR_COLOURS[0].tolist()
    assert coloured[1, 2] > coloured[1, 0]  # more blue than red
    assert coloured[2, 0] > coloured[2, 2]
    assert coloured[3].tolist() == ERROR_COLOURS[-1].tolist()
    assert tuple(coloured[4]) == UNKNOWN_COLOUR


def test_a_prediction_that_is_no_number_is_the_worst_error():
    truth = np.ones((1, 1), np.float32)
    assert colour_error(truth * np.nan, truth, truth > 0)[0, 0].tolist() == ERROR_COLOURS[-1].tolist()


def test_near_is_red_far_is_blue_and_unmeasured_is_grey():
    disparity = np.array([[1, 5, 9]], np.float32)
    far, unknown, near = colour_disparity(disparity, 1, 8, np.array([[True, False, True]]))[0].astype(int)
    assert near[0] > near[2]
    assert far[2] > far[0]
    assert tuple(unknown) == UNKNOWN_COLOUR
    undefined, far = colour_disparity(np.array([[np.nan, 0]], np.float32), 1, 8)[0]
    assert undefined.tolist() == far.tolist()


def test_the_range_of_a_picture_ignores_what_was_not_measured_and_the_outermost_per_cent():
    many = np.full((20, 20), 10, np.float32)
    many[0, :2], many[0, 2] = 99, 40
    assert Picture("a", np.zeros((20, 20, 3), np.uint8), many, many > 0, {}).range == (10, 11)
    truth = np.array([[0, 10, 20, 30]], np.float32)
    picture = Picture("a", np.zeros((1, 4, 3), np.uint8), truth, truth > 0, {})
    low, high = picture.range
    assert 10 <= low < 11
    assert 29 < high <= 30
    nothing = Picture("a", np.zeros((1, 4, 3), np.uint8), truth, truth < 0, {})
    assert nothing.range == (0.0, 1.0)


def test_a_data_uri_holds_the_image_itself():
    image = np.zeros((20, 30, 3), np.uint8)
    image[:, 15:] = (200, 30, 30)
    head, _, body = data_uri(image).partition(",")
    assert head == "data:image/webp;base64"
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(body))).convert("RGB")).astype(int)
    assert decoded.shape == image.shape
    assert np.abs(decoded[10, [2, 27]] - image[10, [2, 27]]).max() < 12


def test_only_wide_images_are_shrunk():
    image = np.zeros((100, 200, 3), np.uint8)
    assert shrink(image, 200) is image
    assert shrink(image, 50).shape == (25, 50, 3)


def test_a_montage_has_a_column_for_the_scene_and_for_each_matcher(tmp_path):
    truth = np.tile(np.linspace(4, 40, 60, dtype=np.float32), (40, 1))
    left = np.full((40, 60, 3), (200, 30, 30), np.uint8)
    picture = Picture("a", left, truth, truth > 0, {"right": truth, "wrong": truth + 20}, {"wrong": "EPE 20"})
    written = write_montage(picture, tmp_path / "a.png", width=90)
    image = np.asarray(Image.open(written).convert("RGB")).astype(int)
    assert image.shape == (2 * (60 + 24) + 3 * 8, 3 * (90 + 8) + 8, 3)
    row_of_errors = image[8 + 24 + 60 + 8 + 30]
    assert np.abs(image[8 + 24 + 30, 8 + 45] - (200, 30, 30)).max() < 10
    assert row_of_errors[8 + 98 + 45].tolist() == ERROR_COLOURS[0].tolist()
    assert row_of_errors[8 + 2 * 98 + 45].tolist() == ERROR_COLOURS[-1].tolist()


@pytest.mark.parametrize("given", [True, False])
def test_scenes_stand_in_rows_and_networks_in_columns(tmp_path, given):
    colours = [np.full((40, 60, 3), c, np.uint8) for c in ((200, 30, 30), (30, 200, 30), (30, 30, 200))]
    scenes = [
        Scene(name, *colours[:2], {"net": colours[2]}, captions={"net": "IoU 50 %"}) for name in ("a", "b")
    ]
    image = np.asarray(
        Image.open(write_scenes(scenes, tmp_path / "a.png", width=90, given=given)).convert("RGB")
    )
    shown = colours if given else colours[2:]
    assert image.shape == (8 + 24 + 2 * (60 + 24 + 8), len(shown) * (90 + 8) + 8, 3)
    for top in (8 + 24, 8 + 24 + 92):
        seen = [image[top + 30, 8 + number * 98 + 45] for number in range(len(shown))]
        assert np.abs(np.array(seen).astype(int) - [colour[0, 0] for colour in shown]).max() < 10


def test_a_scene_of_another_task_stands_in_the_report_with_its_own_colours():
    task = get_task("segmentation")
    truth = np.array([[0, 0, 1, 255]])
    right, wrong = (np.eye(3)[row].T[:, None] for row in ([0, 0, 1, 1], [0, 2, 1, 1]))
    image = np.zeros((1, 4, 3), np.uint8)
    answers = {"right": {"logits": right}, "wrong": {"logits": wrong}}
    scene = scene_of(task, "street", image, {"logits": truth}, truth != 255, answers)
    assert (scene.truth[:, :3] == scene.predictions["right"][:, :3]).all()
    assert not scene.truth[0, 3].any()
    different = (scene.errors["right"] != scene.errors["wrong"]).any(-1)
    assert different.tolist() == [[False, True, False, False]]
    page = str(pictures_of([scene], {"right": 0, "wrong": 1}))
    assert page.count("<img") == 6
    assert "disparity" not in page


def test_a_caption_does_not_break_before_its_unit():
    found = picture_map(np.zeros((4, 6, 3), np.uint8), "alt", "EPE 1.20 px, bad-2 9.0 %")
    assert "<figcaption>EPE 1.20 px, bad-2 9.0\u00a0%</figcaption>" in found
