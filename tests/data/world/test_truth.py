"""Ground truth agrees with pictures, with the other view, and with the next time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from densedistill.data.world import LABELS, WANTS, render

SIZE = (96, 192)
SEEDS = (1, 2, 4, 9)


@pytest.fixture(scope="module", params=SEEDS)
def sample(request):
    return render(request.param, *SIZE, WANTS, max_disparity=48, sensor_difference=0)


def _pixels() -> tuple[Tensor, Tensor]:
    y, x = torch.meshgrid(*(torch.arange(side, dtype=torch.float32) for side in SIZE), indexing="ij")
    return x, y


def _sample_at(image: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Bilinear values of (C, H, W) at pixels (x, y)."""
    grid = torch.stack([(x + 0.5) / SIZE[1] * 2 - 1, (y + 0.5) / SIZE[0] * 2 - 1], -1)
    sampled = F.grid_sample(image[None].float(), grid[None], align_corners=False, padding_mode="border")
    return sampled[0]


def _smooth(values: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Where a (1, H, W) map has no jump around (x, y), so that it can be interpolated there."""
    spread = F.max_pool2d(values, 3, 1, 1) + F.max_pool2d(-values, 3, 1, 1)
    return _sample_at(spread, x, y)[0] < 1


def test_left_and_right_disparity_agree_where_both_see(sample):
    x, y = _pixels()
    x = x - sample["disparity"][0]
    back = _sample_at(sample["disparity_right"], x, y)[0]
    seen = sample["disparity_nonoccluded"][0] & _smooth(sample["disparity_right"], x, y)
    assert seen.float().mean() > 0.4
    off = (back - sample["disparity"][0])[seen].abs()
    assert off.quantile(0.98) < 0.1


def test_the_right_picture_warps_on_to_the_left_except_where_occluded(sample):
    x, y = _pixels()
    warped = _sample_at(sample["right"], x - sample["disparity"][0], y)
    error = (warped - sample["left"].float()).abs().mean(0)
    seen = sample["disparity_nonoccluded"][0]
    shifted = _sample_at(sample["right"], x - sample["disparity"][0] - 3, y)
    assert error[seen].median() < 8
    assert error[seen].mean() < 0.7 * (shifted - sample["left"].float()).abs().mean(0)[seen].mean()
    assert error[~seen].mean() > 3 * error[seen].mean()


def test_occluded_means_that_something_nearer_stands_in_the_way_or_out_of_the_picture(sample):
    x, y = _pixels()
    x = x - sample["disparity"][0]
    outside = (x < -0.5) | (x > SIZE[1] - 0.5)
    hidden = ~sample["disparity_nonoccluded"][0]
    assert hidden[outside].all()
    within = hidden & ~outside & _smooth(sample["disparity_right"], x, y)
    nearer = _sample_at(sample["disparity_right"], x, y)[0] > sample["disparity"][0]
    assert nearer[within].float().mean() > 0.99


def test_flow_leads_to_the_same_surface_at_the_next_time(sample):
    """The left view cast at the next time has, at the end of the flow, the disparity that was foretold."""
    seed = int(sample["meta"]["name"])
    later = render(seed, *SIZE, ("disparity",), max_disparity=48, sensor_difference=0, frames=2)
    x, y = _pixels()
    x, y = x + sample["flow"][0], y + sample["flow"][1]
    there = _sample_at(later["disparity"][1], x, y)[0]
    seen = sample["flow_nonoccluded"][0] & _smooth(later["disparity"][1], x, y)
    assert seen.float().mean() > 0.4
    assert (there - sample["disparity_next"][0])[seen].abs().quantile(0.98) < 0.1
    assert sample["flow"].norm(dim=0).max() > 1


def test_the_next_pictures_warp_back_along_the_flow(sample):
    x, y = _pixels()
    flow, seen = sample["flow"], sample["flow_nonoccluded"][0]
    error = (_sample_at(sample["left_next"], x + flow[0], y + flow[1]) - sample["left"].float()).abs().mean(0)
    still = (sample["left_next"].float() - sample["left"].float()).abs().mean(0)
    assert error[seen].mean() < 0.7 * still[seen].mean()


def test_depth_is_focal_length_times_baseline_over_disparity(sample):
    rig = sample["meta"]["calibration"]
    assert (rig.cx, rig.cy, rig.size) == ((SIZE[1] - 1) / 2, (SIZE[0] - 1) / 2, SIZE)
    torch.testing.assert_close(sample["depth"], rig.fx * rig.baseline_m / sample["disparity"])


def test_boxes_bound_what_is_seen_of_their_objects(sample):
    numbers = [n for n in sample["objects"].unique().tolist() if n and (sample["objects"] == n).sum() >= 12]
    assert len(numbers) == len(sample["boxes"]) == len(sample["classes"]) > 0
    for number, box, label in zip(numbers, sample["boxes"], sample["classes"], strict=True):
        y, x = (sample["objects"] == number).nonzero().unbind(1)
        assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
        assert label in sample["labels"][sample["objects"] == number]


def test_surroundings_and_things_have_classes_of_their_own(sample):
    around = {LABELS.index(name) for name in ("sky", "ground", "wall", "ceiling")}
    assert set(sample["labels"][sample["objects"] == 0].tolist()) <= around
    assert not set(sample["labels"][sample["objects"] > 0].tolist()) & around


def test_nothing_moves_without_motion():
    sample = render(2, *SIZE, ("flow", "disparity", "disparity_next"), max_disparity=48, motion=0)
    assert sample["flow"].abs().max() < 1e-4
    torch.testing.assert_close(sample["disparity_next"], sample["disparity"])


def test_what_goes_behind_the_camera_has_no_motion_that_could_be_known():
    want = ("flow", "flow_nonoccluded", "disparity_next")
    sample = render(1, *SIZE, want, max_disparity=48, motion=150)
    gone = ~sample["flow_valid"]
    assert gone.any()
    assert not sample["disparity_next_valid"][gone].any()
    assert not sample["flow_nonoccluded"][gone].any()
    assert (sample["flow"] * gone == 0).all()
    assert (sample["disparity_next"] >= 0).all()


def test_a_still_scene_has_new_noise_at_every_time():
    first, second = render(2, *SIZE, motion=0, frames=2)["left"].int()
    assert 0 < (first - second).abs().float().mean() < 8


def test_a_sequence_has_a_time_axis_and_starts_with_the_single_sample():
    one = render(5, 64, 128, ("disparity", "flow"), max_disparity=32)
    three = render(5, 64, 128, ("disparity", "flow"), max_disparity=32, frames=3)
    assert three["left"].shape == (3, 3, 64, 128)
    assert three["flow"].shape == (3, 2, 64, 128)
    for key in ("left", "right", "disparity", "flow"):
        assert torch.equal(three[key][0], one[key])
        assert not torch.equal(three[key][1], three[key][0])
