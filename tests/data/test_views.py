"""Left and right mixed up, or not rectified, told by the images of real pairs."""

import cv2
import numpy as np
import pytest

import densedistill as dd
from densedistill.data.views import doubt_views


@pytest.fixture(scope="module", params=["middlebury2014", "middlebury2003"])
def views(request):
    sample = dd.create_dataset(request.param)[0]
    return [sample[side].permute(1, 2, 0).contiguous().numpy() for side in ("left", "right")]


@pytest.mark.parametrize("exposure", [1, 0.5])
def test_real_pairs_tell_their_order(views, exposure):
    left, right = views[0], (views[1] * exposure).astype(np.uint8)
    assert doubt_views(left, right) == ""
    assert doubt_views(right, left) == "left and right look swapped"


@pytest.mark.parametrize("size", [1, 3])
def test_real_pairs_tell_whether_they_are_rectified(views, size):
    def moved(image, turn, shift):
        height, width = image.shape[:2]
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), turn, size)
        matrix[:, 2] *= size
        matrix = np.float32([[size, 0, 0], [0, size, size * shift]]) if not turn else matrix
        return cv2.warpAffine(image, matrix, (size * width, size * height))

    left = moved(views[0], 0, 0)
    assert doubt_views(left, moved(views[1], 0, 0)) == ""
    found = doubt_views(left, moved(views[1], 0, 5))
    assert found.startswith("the views are not rectified: what both see lies ")
    assert float(found.split()[-5]) == pytest.approx(5 * size, abs=0.5 * size)
    assert size > 1 or "not rectified" in doubt_views(left, moved(views[1], 2, 0))


def test_procedural_scenes_are_not_doubted():
    scenes = dd.create_dataset("world", length=2, size=(256, 512), max_disparity=64)
    for scene in scenes:
        assert (
            doubt_views(*(scene[side].permute(1, 2, 0).contiguous().numpy() for side in ("left", "right")))
            == ""
        )


@pytest.mark.parametrize("size", [(40, 60), (4, 4), (1, 1)])
def test_nothing_is_said_of_a_pair_that_tells_nothing(size):
    flat = np.full((*size, 3), 128, np.uint8)
    assert doubt_views(flat, flat) == ""


def test_nothing_is_said_of_unrelated_images():
    one, other = (
        np.random.default_rng(seed).integers(0, 256, (200, 300, 3), dtype=np.uint8) for seed in (1, 2)
    )
    assert doubt_views(one, other) == ""
