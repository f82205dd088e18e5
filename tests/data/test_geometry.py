"""Windows of a sample: relations that hold for every kind of ground truth at once."""

import cv2
import numpy as np
import pytest
import torch

from densedistill.data.geometry import Window, apply
from densedistill.data.world import render

SIZE = (40, 75)
HOLED = ("disparity", "disparity_right", "disparity_next", "depth", "flow")
GREYS = 1 if cv2.__version__ >= "5" else 2  # OpenCV 4 interpolates at whole 32nds of a pixel
WANT = (
    *HOLED,
    *("disparity_nonoccluded", "flow_nonoccluded", "labels", "objects", "boxes", "left_next", "right_next"),
)


@pytest.fixture(scope="module")
def sample():
    """A scene with all that there is, and rubbish where nothing was measured."""
    found = render(2, *SIZE, want=WANT, max_disparity=24)
    generator = torch.Generator().manual_seed(0)
    for number, key in enumerate(HOLED):
        found[f"{key}_valid"] &= torch.rand(1, *SIZE, generator=generator) > 0.15
        rubbish = (torch.nan, 1e6)[number % 2]
        found[key] = found[key].where(found[f"{key}_valid"], rubbish)
    return found


def same(found, expected, tolerance=0.0, but=("meta",)):
    assert found.keys() == expected.keys()
    for key in found.keys() - set(but):
        kwargs = {
            "rtol": 0,
            "atol": GREYS if found[key].dtype == torch.uint8 else tolerance,
            "equal_nan": True,
        }
        torch.testing.assert_close(found[key], expected[key], **kwargs, msg=key)


def whole(scaled=SIZE, flip=""):
    return Window(SIZE, scaled, (0, 0, *scaled), flip)


FLIPS = ["", "h", "v", "hv"]
SCALED = [SIZE, (80, 150), (52, 60), (20, 37), (41, 75), (40, 76)]


@pytest.mark.parametrize("flip", FLIPS)
def test_twice_mirrored_is_not_mirrored(sample, flip):
    same(apply(whole(flip=flip), apply(whole(flip=flip), sample)), sample)


@pytest.mark.parametrize("flip", FLIPS)
@pytest.mark.parametrize("scaled", SCALED)
def test_a_crop_is_what_the_whole_shows_there_and_the_order_of_keys_does_not_matter(sample, scaled, flip):
    everything = apply(whole(scaled, flip), sample)
    same(apply(whole(scaled, flip), {key: sample[key] for key in reversed(sample)}), everything)
    rng = np.random.default_rng(0)
    for _ in range(4):
        height, width = (int(rng.integers(8, side + 1)) for side in scaled)
        top, left = int(rng.integers(0, scaled[0] - height + 1)), int(rng.integers(0, scaled[1] - width + 1))
        crop = (top, left, height, width)
        cut = apply(Window(scaled, scaled, crop), everything)
        same(apply(Window(SIZE, scaled, crop, flip), sample), cut, tolerance=1e-4)


@pytest.mark.parametrize("flip", FLIPS)
@pytest.mark.parametrize("scaled", SCALED)
def test_what_was_not_measured_never_reaches_what_was(sample, scaled, flip):
    shown = apply(whole(scaled, flip), sample)
    for key in HOLED:
        values = shown[key][shown[f"{key}_valid"].expand_as(shown[key])]
        assert values.abs().max() < 1e3, key
