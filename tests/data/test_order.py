"""Left and right mixed up, told by the images of real pairs."""

import numpy as np
import pytest

import densedistill as dd
from densedistill.data.order import looks_swapped, swapped_share


@pytest.mark.parametrize("data", ["middlebury2014", "middlebury2003"])
def test_real_pairs_tell_their_order(data):
    sample = dd.create_dataset(data)[0]
    left, right = (sample[side].permute(1, 2, 0).numpy() for side in ("left", "right"))
    assert swapped_share(left, right) < 0.1
    assert swapped_share(right, left) > 0.9


def test_exposure_does_not_matter():
    sample = dd.create_dataset("middlebury2003")[0]
    left, right = (sample[side].permute(1, 2, 0).numpy() for side in ("left", "right"))
    darker = (right * 0.5).astype(np.uint8)
    assert not looks_swapped(left, darker)
    assert looks_swapped(darker, left)


@pytest.mark.parametrize("size", [(40, 60), (4, 4), (1, 1)])
def test_nothing_is_said_of_a_pair_that_tells_nothing(size):
    flat = np.full((*size, 3), 128, np.uint8)
    assert swapped_share(flat, flat) == 0.5
    assert not looks_swapped(flat, flat)


def test_nothing_is_said_by_a_border_beyond_which_one_direction_leads():
    noise = np.random.default_rng(0).integers(0, 256, (120, 350, 3), dtype=np.uint8)
    noise[:, 40:] = 128
    left, right = noise[:, :300], noise[:, 50:]
    assert swapped_share(left, right) == swapped_share(right, left) == 0.5


def test_unrelated_images_are_not_called_swapped():
    one, other = (
        np.random.default_rng(seed).integers(0, 256, (200, 300, 3), dtype=np.uint8) for seed in (1, 2)
    )
    assert 0.3 < swapped_share(one, other) < 0.7
