"""Pictures of maps."""

import numpy as np
import pytest

from densedistill.errors import UserError
from densedistill.tasks import get_task
from densedistill.tasks.colours import KITTI_ERROR_COLOURS, colour_map, error_map


def test_far_is_blue_near_is_red_and_unknown_is_black():
    values = np.array([[1.0, 32.0, 64.0, np.nan, 9.0]], np.float32)
    valid = np.array([[True, True, True, True, False]])
    picture = colour_map(values, valid, high=64).astype(int)
    far, middle, near = picture[0, :3]
    assert far[2] > far[0]
    assert middle[1] == middle.max()
    assert near[0] > near[2] + 50
    assert (picture[0, 3:] == 0).all()
    assert picture.dtype == int
    assert colour_map(values, valid).dtype == np.uint8


def test_without_a_range_one_wild_value_does_not_flatten_the_rest():
    values = np.linspace(0, 50, 10_000, dtype=np.float32).reshape(100, 100)
    wild = values.copy()
    wild[0, 0] = 1e6
    assert np.abs(colour_map(values).astype(int) - colour_map(wild).astype(int))[1:].max() < 10


def test_a_map_without_a_valid_pixel_is_black():
    assert not colour_map(np.full((3, 4), np.nan, np.float32)).any()


@pytest.mark.parametrize(
    ("target", "error", "colour"),
    [
        (10.0, 0.0, 0),
        (10.0, 0.18, 0),  # 0.06 of 3 px
        (10.0, 2.9, 4),
        (10.0, 3.1, 5),
        (100.0, 4.9, 4),  # under 5 %
        (100.0, 5.1, 5),
        (10.0, 5.9, 5),
        (10.0, 6.1, 6),
        (10.0, 100.0, 9),
        (10.0, np.nan, 9),
    ],
)
def test_errors_have_the_colours_of_the_kitti_devkit(target, error, colour):
    truth = np.full((1, 1), target, np.float32)
    picture = error_map(truth + np.float32(error), truth, np.ones((1, 1), bool))
    assert tuple(picture[0, 0]) == KITTI_ERROR_COLOURS[colour][1]


def test_blue_ends_where_d1_begins():
    generator = np.random.default_rng(0)
    truth = generator.uniform(1, 200, (50, 50)).astype(np.float32)
    prediction = truth + generator.normal(0, 5, truth.shape).astype(np.float32)
    wrong = (np.abs(prediction - truth) > 3) & (np.abs(prediction - truth) > 0.05 * truth)
    picture = error_map(prediction, truth, np.ones(truth.shape, bool)).astype(int)
    assert np.array_equal(picture[..., 0] > picture[..., 2], wrong)


def test_errors_without_ground_truth_are_black():
    truth = np.array([[10.0, 0.0]], np.float32)
    assert not error_map(truth + 1, truth, truth > 0)[0, 1].any()


def test_the_task_names_its_pictures_and_metrics():
    task = get_task("stereo")
    assert task.colours["disparity"] is colour_map
    assert task.error_colours["disparity"] is error_map
    assert task.metrics[0] == "epe"


def test_what_is_no_map_is_refused():
    with pytest.raises(UserError, match=r"shape \(H, W\), got \(2, 3, 4\)"):
        colour_map(np.zeros((2, 3, 4)))
