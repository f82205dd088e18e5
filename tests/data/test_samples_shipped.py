"""The pairs that ship are right: values, scale and sign, by warping the right image on to the left."""

import numpy as np
import pytest

from densedistill.data import create_dataset
from densedistill.data.occlusion import seen_in_both

SHIPPED = ("middlebury2014", "middlebury2003")
WANT = ("disparity", "disparity_right", "disparity_nonoccluded")


@pytest.mark.parametrize("name", SHIPPED)
def test_the_right_image_warped_by_the_disparity_is_the_left(name, warp_error):
    sample = create_dataset(name)[0]
    right = warp_error(sample)
    assert right < 8
    for factor in (-1, 0, 0.5, 0.9, 1.1, 2):
        assert warp_error(sample, factor) > 1.5 * right


@pytest.mark.parametrize("name", SHIPPED)
def test_right_disparity_mirrors_the_left_one(name):
    sample = create_dataset(name, want=WANT)[0]
    left, right = sample["disparity"][0].numpy(), sample["disparity_right"][0].numpy()
    seen = seen_in_both(left, right)
    assert seen.mean() > 0.8
    assert seen_in_both(left, -right).mean() < 0.01


def test_motorcycle_is_quarter_size_with_at_most_62_9_px_and_unknown_masked():
    sample = create_dataset("middlebury2014")[0]
    assert sample["left"].shape == (3, 497, 741)
    assert float(sample["disparity"].max()) == pytest.approx(62.88, abs=0.01)
    assert float(sample["disparity_valid"].float().mean()) == pytest.approx(1 - 0.020864729, abs=1e-6)
    assert (sample["disparity"][~sample["disparity_valid"]] == 0).all()


def test_the_benchmarks_mask_of_motorcycle_agrees_with_the_left_right_check():
    sample = create_dataset("middlebury2014", want=WANT)[0]
    mask = sample["disparity_nonoccluded"][0].numpy()
    seen = seen_in_both(sample["disparity"][0].numpy(), sample["disparity_right"][0].numpy())
    assert np.mean(mask == seen) > 0.97


def test_cones_is_in_quarter_pixels_of_at_most_55_px():
    sample = create_dataset("middlebury2003", want=WANT)[0]
    assert sample["left"].shape == (3, 375, 450)
    assert float(sample["disparity"].max()) == 55
    assert float(sample["disparity_right"].max()) == 54
    known = sample["disparity"][sample["disparity_valid"]]
    assert (known * 4 == (known * 4).round()).all()
    assert not (known * 2 == (known * 2).round()).all()
