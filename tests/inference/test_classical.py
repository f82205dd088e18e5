"""OpenCV's matcher as the baseline: as strong as it can be set up, called like a network."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from densedistill.errors import UserError
from densedistill.inference import SGBM, Predictor
from densedistill.inference.classical import fill_from_background


def shifted(shift=6, height=40, width=160):
    """A textured plane, left[x] = right[x - shift], (H, W, 3) each."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width + shift, 3), dtype=np.uint8)
    return noise[:, :width], noise[:, shift:]


def test_disparity_of_a_plane_up_to_the_left_border():
    disparity = SGBM(16)(*shifted())["disparity"]
    assert disparity.shape == (1, 1, 40, 160)
    assert (disparity - 6).abs().mean() < 0.1
    assert (disparity[..., :6] - 6).abs().max() < 1.5


def test_it_is_called_like_a_predictor():
    class Zero(torch.nn.Module):
        def forward(self, left, right):
            return {"disparity": left[:, :1] * 0}

    left, right = shifted()
    for views in (
        [left, right],
        [torch.from_numpy(np.ascontiguousarray(v)).permute(2, 0, 1) for v in (left, right)],
    ):
        one, other = Predictor(Zero())(*views), SGBM(16)(*views)
        assert one.keys() == other.keys()
        assert one["disparity"].shape == other["disparity"].shape
        assert one["disparity"].dtype == other["disparity"].dtype
    batch = torch.from_numpy(np.stack([left, right])).permute(0, 3, 1, 2)
    assert SGBM(16)(batch, batch.flip(0))["disparity"].shape == (2, 1, 40, 160)


def test_floats_are_matched_as_the_bytes_they_stand_for():
    left, right = shifted()
    expected = SGBM(16)(left, right)["disparity"]
    assert torch.equal(SGBM(16)(left / 255.0, right / 255.0)["disparity"], expected)


@given(seed=st.integers(0, 1000), share=st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_holes_get_the_smaller_of_their_neighbours_in_the_row(seed, share):
    generator = np.random.default_rng(seed)
    disparity = generator.uniform(0, 50, (4, 9)).astype(np.float32)
    valid = generator.random((4, 9)) < share
    filled = fill_from_background(np.where(valid, disparity, -1), valid)
    for y, x in np.ndindex(4, 9):
        before = [disparity[y, i] for i in range(x) if valid[y, i]]
        after = [disparity[y, i] for i in range(x + 1, 9) if valid[y, i]]
        sides = before[-1:] + after[:1]
        expected = disparity[y, x] if valid[y, x] else min(sides, default=0)
        assert filled[y, x] == np.float32(expected)


def test_holes_stay_zero_when_asked():
    left, right = shifted()
    right = right.copy()
    right[10:30, 40:80] = 0
    assert (SGBM(16, fill=False)(left, right)["disparity"] == 0).sum() > (
        SGBM(16)(left, right)["disparity"] == 0
    ).sum()


def test_the_search_range_is_a_multiple_of_sixteen():
    assert [SGBM(reach).max_disparity for reach in (1, 16, 17, 192)] == [16, 16, 32, 192]
    with pytest.raises(UserError, match="at least 1 px"):
        SGBM(0)


def test_views_of_different_size_are_refused():
    with pytest.raises(UserError, match=r"the views differ in size .160x40 and 150x40 px."):
        SGBM(16)(shifted()[0], shifted()[1][:, :150])
