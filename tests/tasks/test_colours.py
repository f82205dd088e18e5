"""Pictures of maps."""

import numpy as np
import pytest

from densedistill.errors import UserError
from densedistill.tasks import get_task
from densedistill.tasks.colours import (
    KITTI_ERROR_COLOURS,
    colour_map,
    draw_boxes,
    error_map,
    flow_colours,
    flow_error_map,
    lay_over,
    share_error_map,
)
from densedistill.tasks.depth import colour_depth
from densedistill.tasks.pictures import compare, value_range


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
    known = np.ones((1, 1), bool)
    flow, across = np.array([0.6, 0.8]).reshape(2, 1, 1), np.array([-0.8, 0.6]).reshape(2, 1, 1)
    for picture in (
        error_map(truth + np.float32(error), truth, known),
        flow_error_map(target * flow + error * across, target * flow, known),
    ):
        assert tuple(picture[0, 0]) == KITTI_ERROR_COLOURS[colour][1]


def test_errors_of_depth_are_judged_by_their_share_alone():
    truth, known = np.array([[10.0, 10.0, 100.0, 10.0]]), np.array([[True, True, True, False]])
    picture = share_error_map(truth + np.array([[0.49, 0.51, 4.9, 0.0]]), truth, known).astype(int)
    assert (picture[0, :, 2] > picture[0, :, 0]).tolist() == [True, False, True, False]
    assert not picture[0, 3].any()


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


def test_a_flow_beyond_the_range_is_darker_than_one_at_its_end():
    flow = np.array([[[1.0, 2.0]], [[0.0, 0.0]]])
    end, beyond = flow_colours(flow, high=1.0)[0].astype(int)
    np.testing.assert_allclose(beyond, 0.75 * end, atol=1)


def test_depths_of_one_range_have_one_colour_in_two_pictures():
    whole = colour_depth(np.array([[1.0, 2.0, 4.0]]), low=1, high=4)
    assert (colour_depth(np.array([[2.0]]), low=1, high=4) == whole[:, 1:2]).all()
    assert whole[0, 0, 0] > whole[0, 0, 2]
    assert whole[0, 2, 2] > whole[0, 2, 0]


def test_the_range_of_two_pictures_leaves_out_the_outermost_per_cent():
    values = np.arange(101.0)[None]
    assert value_range(values, np.ones((1, 101), bool)) == (1, 99)
    assert value_range(values, values < 51) == (0.5, 49.5)
    assert value_range(np.stack((0.6 * values, 0.8 * values)), np.ones((1, 101), bool)) == pytest.approx(
        (1, 99)
    )


def test_colours_are_laid_over_an_image_by_their_share():
    image, colours = np.full((1, 1, 3), 200, np.uint8), np.full((1, 1, 3), 100, np.uint8)
    assert (lay_over(image, colours, 0.25) == 175).all()


def test_boxes_of_a_low_score_are_not_drawn_and_true_ones_always():
    image, box = np.full((40, 40, 3), 9, np.uint8), np.array([[5.0, 15.0, 30.0, 35.0]])
    for score, drawn in ((0.29, False), (0.31, True), (None, True)):
        scores = None if score is None else np.array([score])
        assert (draw_boxes(image, box, np.array([0]), scores) != image).any() == drawn
    assert (draw_boxes(image, box, np.array([-1])) == image).all()
    assert (image == 9).all()


def test_what_is_compared_has_one_range_of_colours_and_what_is_right_is_blue():
    image, values = np.zeros((2, 50, 3), np.uint8), np.arange(100.0).reshape(2, 50)
    known = np.ones((2, 50), bool)
    truth, found, error = compare(
        get_task("stereo"), image, {"disparity": values}, known, {"disparity": values / 2}
    )
    assert (found[0, 40] == truth[0, 20]).all()
    assert error[0, 0, 2] > error[0, 0, 0]
    labels = np.repeat([[1], [2]], 50, 1)
    logits = np.stack([labels != 1, labels == 1, labels < 0]).astype(
        np.float32
    )  # class 1 where it is, else 0
    _, _, error = compare(get_task("segmentation"), image, {"logits": labels}, known, {"logits": logits})
    assert (error[0, :, 2] > error[0, :, 0]).all()
    assert (error[1, :, 0] > error[1, :, 2]).all()
