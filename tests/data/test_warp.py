import numpy as np
import pytest
import torch

from densedistill import UserError
from densedistill.data.augment import build_augmentation
from densedistill.data.occlusion import seen_in_both
from densedistill.data.warp import warp_right

HEIGHT, WIDTH = 40, 120
NEAR = slice(60, 80)  # columns of the nearer of two surfaces


def sample_of(disparity, valid=None):
    noise = np.random.default_rng(1).integers(0, 256, (3, HEIGHT, WIDTH), np.uint8)
    sample = {"left": torch.from_numpy(noise), "right": torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)}
    sample["disparity"] = torch.from_numpy(np.broadcast_to(disparity, (1, HEIGHT, WIDTH)).astype(np.float32))
    if valid is not None:
        sample["disparity_valid"] = torch.from_numpy(np.broadcast_to(valid, (1, HEIGHT, WIDTH)).copy())
    return sample | {"meta": {"name": "two surfaces"}}


@pytest.fixture
def steps():
    """The disparity of a surface of 4 px before which one of 8 px stands."""
    disparity = np.full(WIDTH, 4.0)
    disparity[NEAR] = 8.0
    return disparity


def drawn(sample, largest=8.0):
    return warp_right(sample, (largest, largest), np.random.default_rng(0))


def test_every_pixel_goes_to_its_place_and_the_nearer_hides_the_farther(steps):
    pair = drawn(sample_of(steps))
    left, right = pair["left"], pair["right"]
    torch.testing.assert_close(pair["disparity"][0, 0].double(), torch.from_numpy(steps))
    assert (right[..., 52:72] == left[..., NEAR]).all()  # the nearer surface, whole
    assert (right[..., 0:51] == left[..., 4:55]).all()  # the farther on the left of it, but for what it hides
    assert (right[..., 76:116] == left[..., 80:120]).all()
    seen = pair["disparity_right"][0, 0]
    assert (seen[52:72] == 8).all()
    assert (seen[:52] == 4).all()
    assert not pair["disparity_right_valid"][..., 72:76].any()  # behind it: nobody knows
    assert not (right[..., 72:76] == 0).any(dim=0).all()  # and yet it is not black


def test_surfaces_between_pixels_are_interpolated():
    pair = drawn(sample_of(5 + np.arange(WIDTH) / 20))
    values = pair["disparity"][0, 0].numpy()
    x, slope = np.arange(WIDTH - 12), values[1] - values[0]
    expected = (x + values[0]) / (1 - slope) - x  # where x' - d(x') = x
    np.testing.assert_allclose(pair["disparity_right"][0, 0, : len(x)], expected, atol=1e-3)


def test_both_views_agree_but_where_one_is_hidden(steps):
    pair = drawn(sample_of(steps))
    seen = seen_in_both(pair["disparity"][0].numpy(), pair["disparity_right"][0].numpy())
    hidden = [*range(4), *range(56, 60)]  # out of the image, behind the nearer surface
    np.testing.assert_array_equal(np.flatnonzero(~seen[HEIGHT // 2]), hidden)


def test_holes_are_filled_from_the_farther_side_and_edges_sharpened(steps):
    valid = np.ones(WIDTH, bool)
    valid[54:60] = valid[100:] = False
    blurred = steps.copy()
    blurred[79:82] = 8, 6.5, 5  # a ramp between the surfaces, where there is nothing
    blurred[~valid] = np.inf
    pair = drawn(sample_of(blurred, valid))
    values = pair["disparity"][0, HEIGHT // 2]
    assert set(values.tolist()) == {4.0, 8.0}
    assert (values[54:60] == 4).all()
    assert (values[100:] == 4).all()
    assert (values[60:79] == 8).all()
    assert (values[83:] == 4).all()
    unknown = ~pair["disparity_valid"][0, HEIGHT // 2]
    assert unknown.nonzero().flatten().tolist() == [56, 57, 58, 59]  # filled in, and hidden by what is nearer


def test_the_baseline_is_drawn(steps):
    rng = np.random.default_rng(2)
    largest = [float(warp_right(sample_of(steps), (4, 64), rng)["disparity"].max()) for _ in range(40)]
    assert 4 <= min(largest) < 8
    assert 32 < max(largest) <= 64.001
    assert sum(value < 16 for value in largest) in range(12, 29)  # evenly in the logarithm


def test_what_belongs_to_the_photographed_pair_is_left_out(steps):
    sample = sample_of(steps) | {"disparity_nonoccluded": torch.ones(1, HEIGHT, WIDTH, dtype=torch.bool)}
    assert set(drawn(sample)) == {
        "left", "right", "disparity", "disparity_valid", "disparity_right", "disparity_right_valid", "meta",
    }  # fmt: skip


def test_rows_without_any_disparity_and_noise_everywhere_do_no_harm():
    valid = np.ones((HEIGHT, WIDTH), bool)
    valid[:3] = False
    noisy = np.random.default_rng(3).uniform(1, 60, (HEIGHT, WIDTH))
    for values in (np.full((HEIGHT, WIDTH), 6.0), noisy):
        pair = drawn(sample_of(values, valid), largest=6.0)
        assert pair["disparity_valid"][:, 3:].all()
        assert torch.isfinite(pair["disparity"]).all()


def test_without_a_disparity_it_is_one_line(steps):
    unlabelled = {key: value for key, value in sample_of(steps).items() if key != "disparity"}
    augment = build_augmentation({"warp_right": [8, 8]})
    with pytest.raises(
        UserError, match="warp_right draws by the disparity, and sample two surfaces has none"
    ):
        augment(unlabelled, np.random.default_rng(0))


def test_only_pairs_are_drawn():
    with pytest.raises(UserError, match="warp_right draws stereo pairs, not samples of depth"):
        build_augmentation({"warp_right": [8, 8]}, "depth")
